#include "client/statistics.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace hga {
namespace {

using gpu_worker::v1::Finished;
using gpu_worker::v1::TierHits;

uint64_t Blocks(const TierHits& t) { return t.device() + t.held() + t.keys() + t.ram() + t.disk() + t.recomputed(); }

double Percent(uint64_t part, uint64_t whole) { return whole == 0 ? 0 : 100.0 * part / whole; }

uint32_t ComputedTokens(const Finished& f) {
  return f.prompt_tokens() > f.reused_tokens() ? f.prompt_tokens() - f.reused_tokens() : 0;
}

// Tiers that this backend or this call does not know are left out, except the three of every stack.
std::string TierText(const TierHits& t) {
  const uint64_t all = Blocks(t);
  if (all == 0) return "no block was asked for";
  std::string text = absl::StrFormat("held %.1f%%, RAM %.1f%%, disk %.1f%%", Percent(t.held(), all),
                                     Percent(t.ram(), all), Percent(t.disk(), all));
  if (t.keys() > 0) text = absl::StrFormat("key cache %.1f%%, ", Percent(t.keys(), all)) + text;
  if (t.device() > 0) text = absl::StrFormat("device %.1f%%, ", Percent(t.device(), all)) + text;
  if (t.recomputed() > 0) absl::StrAppendFormat(&text, ", recomputed %.1f%%", Percent(t.recomputed(), all));
  return absl::StrFormat("%s (of %d blocks)", text, all);
}

std::string ReasonText(const Finished& f) {
  switch (f.reason()) {
    case Finished::REASON_STOP:
      return "stop";
    case Finished::REASON_LENGTH:
      return "length";
    case Finished::REASON_PREFILL_ONLY:
      return "prefill";
    default:
      return "unknown";
  }
}

std::string Row(const char* name, const std::string& value) {
  return absl::StrFormat("  %-18s %s\n", name, value);
}

double BytesPerToken(const gpu_worker::v1::RouterStats& router) {
  return router.tokens() == 0 ? 0 : static_cast<double>(router.index_bytes()) / router.tokens();
}

nlohmann::json TiersJson(const TierHits& t) {
  return {{"device", t.device()},
          {"held", t.held()},
          {"keys", t.keys()},
          {"ram", t.ram()},
          {"disk", t.disk()},
          {"recomputed", t.recomputed()}};
}

}  // namespace

double PrefillRate(const Finished& f) { return f.prefill_s() > 0 ? ComputedTokens(f) / f.prefill_s() : 0; }

double DecodeRate(const Finished& f) {
  // The first token comes out of the prefill.
  const uint64_t steps = f.decode_steps() > 0        ? f.decode_steps()
                         : f.completion_tokens() > 1 ? f.completion_tokens() - 1
                                                     : 0;
  return f.decode_s() > 0 ? steps / f.decode_s() : 0;
}

std::string StatisticsTable(const Finished& f) {
  std::string text =
      Row("prompt", absl::StrFormat("%d tokens, %d of them from the store (%.1f%%)", f.prompt_tokens(),
                                    f.reused_tokens(), Percent(f.reused_tokens(), f.prompt_tokens())));
  if (PrefillRate(f) > 0) {
    text += Row("prefill", absl::StrFormat("%.1f tokens/s (%d tokens in %.2f s)", PrefillRate(f),
                                           ComputedTokens(f), f.prefill_s()));
  }
  if (f.reason() != Finished::REASON_PREFILL_ONLY) {
    text += Row("first token", absl::StrFormat("after %.3f s", f.ttft_s()));
    text += Row("decode", absl::StrFormat("%.1f tokens/s (%d tokens in %.2f s)", DecodeRate(f),
                                          f.completion_tokens(), f.decode_s()));
    text += Row("history attended",
                absl::StrFormat("%.1f%% of the keys a dense model reads", 100 * f.attended_fraction()));
    text += Row("blocks found", TierText(f.tiers()));
  }
  if (f.dense_fallback_steps() > 0) {
    text +=
        Row("without router", absl::StrFormat("%d steps attended to everything", f.dense_fallback_steps()));
  }
  if (f.reason() == Finished::REASON_LENGTH)
    text += Row("ended", "at the length limit (--max-tokens, or the model's context)");
  for (const std::string& warning : f.warnings()) text += Row("warning", warning);
  return text;
}

std::string StatisticsLine(const Finished& f) {
  return absl::StrFormat(
      "[%d tokens, %.1f tokens/s, first after %.2f s; prompt %d tokens, %d from the store]",
      f.completion_tokens(), DecodeRate(f), f.ttft_s(), f.prompt_tokens(), f.reused_tokens());
}

nlohmann::json StatisticsJson(const Finished& f, const std::string& session) {
  const uint64_t all = Blocks(f.tiers());
  nlohmann::json json = {
      {"session", session},
      {"request_id", f.request_id()},
      {"reason", ReasonText(f)},
      {"prompt_tokens", f.prompt_tokens()},
      {"reused_tokens", f.reused_tokens()},
      {"completion_tokens", f.completion_tokens()},
      {"ttft_s", f.ttft_s()},
      {"prefill_s", f.prefill_s()},
      {"decode_s", f.decode_s()},
      {"prefill_tokens_per_s", PrefillRate(f)},
      {"decode_tokens_per_s", DecodeRate(f)},
      {"attended_fraction", f.attended_fraction()},
      {"prefill_attended_fraction", f.prefill_attended_fraction()},
      {"blocks", TiersJson(f.tiers())},
      {"hit_percent",
       {{"device", Percent(f.tiers().device(), all)},
        {"held", Percent(f.tiers().held(), all)},
        {"keys", Percent(f.tiers().keys(), all)},
        {"ram", Percent(f.tiers().ram(), all)},
        {"disk", Percent(f.tiers().disk(), all)}}},
      {"dense_fallback_steps", f.dense_fallback_steps()},
      {"decode_steps", f.decode_steps()},
      {"ring_exchanges", f.ring_exchanges()},
      {"kv_rpcs_decode", f.kv_rpcs_decode()},
      {"warnings", nlohmann::json::array()},
  };
  for (const std::string& warning : f.warnings()) json["warnings"].push_back(warning);
  return json;
}

nlohmann::json StatsJson(const gpu_worker::v1::GetStatsResponse& s) {
  const auto& kv = s.kv_store();
  const auto& router = s.router();
  return {
      {"requests_total", s.requests_total()},
      {"requests_active", s.requests_active()},
      {"prefill_tokens_total", s.prefill_tokens_total()},
      {"decode_tokens_total", s.decode_tokens_total()},
      {"blocks", TiersJson(s.tiers())},
      {"router_attached", s.router_attached()},
      {"kv_store_attached", s.kv_store_attached()},
      {"dense_fallback_steps_total", s.dense_fallback_steps_total()},
      {"kv_store",
       {{"slots_total", kv.slots_total()},
        {"slots_free", kv.slots_free()},
        {"slots_held", kv.slots_held()},
        {"slots_dirty", kv.slots_dirty()},
        {"sessions", kv.sessions()},
        {"chunks", kv.chunks()},
        {"chunks_durable", kv.chunks_durable()},
        {"disk_bytes", kv.disk_bytes()},
        {"evictions", kv.evictions()}}},
      {"router",
       {{"sequences", router.sequences()},
        {"chunks", router.chunks()},
        {"index_bytes", router.index_bytes()},
        {"index_bytes_per_token", BytesPerToken(router)},
        {"selections", router.selections()}}},
  };
}

nlohmann::json ModelJson(const gpu_worker::v1::GetModelResponse& m) {
  return {{"name", m.name()},
          {"architecture", m.architecture()},
          {"context_tokens", m.context_tokens()},
          {"vocab_size", m.vocab_size()},
          {"parameters", m.parameters()},
          {"kv_bytes_per_token", m.kv_bytes_per_token()},
          {"backend", m.backend()},
          {"threads", m.threads()},
          {"layers", m.layers()},
          {"query_heads", m.query_heads()},
          {"kv_heads", m.kv_heads()},
          {"head_dim", m.head_dim()},
          {"active_parameters", m.active_parameters()},
          {"output_parameters", m.output_parameters()},
          {"decode_weight_bytes", m.decode_weight_bytes()}};
}

nlohmann::json SessionsJson(const gpu_worker::v1::ListSessionsResponse& sessions) {
  nlohmann::json list = nlohmann::json::array();
  for (const auto& s : sessions.sessions()) {
    list.push_back({{"name", s.name()},
                    {"tokens", s.tokens()},
                    {"bytes", s.bytes()},
                    {"last_used_unix_s", s.last_used_unix_s()},
                    {"open", s.open()},
                    {"pinned", s.pinned()},
                    {"chunks", s.chunks()},
                    {"chunks_durable", s.chunks_durable()}});
  }
  return {{"sessions", list}};
}

std::string StatsTable(const gpu_worker::v1::GetStatsResponse& s) {
  const auto& kv = s.kv_store();
  const auto& router = s.router();
  const auto attached = [](bool yes) { return yes ? "attached" : "NOT attached"; };
  return absl::StrCat(
      Row("requests", absl::StrFormat("%d, %d active", s.requests_total(), s.requests_active())),
      Row("tokens",
          absl::StrFormat("%d prefilled, %d decoded", s.prefill_tokens_total(), s.decode_tokens_total())),
      Row("blocks found", TierText(s.tiers())), Row("kv_store", attached(s.kv_store_attached())),
      Row("  arena", absl::StrFormat("%d slots: %d free, %d held, %d not on disk yet", kv.slots_total(),
                                     kv.slots_free(), kv.slots_held(), kv.slots_dirty())),
      Row("  kept", absl::StrFormat("%d sessions, %d chunks (%d durable), %s on disk", kv.sessions(),
                                    kv.chunks(), kv.chunks_durable(), HumanBytes(kv.disk_bytes()))),
      Row("  evictions", absl::StrCat(kv.evictions())), Row("router", attached(s.router_attached())),
      Row("  index", absl::StrFormat("%d sequences, %d chunks, %s (%.0f bytes per token)", router.sequences(),
                                     router.chunks(), HumanBytes(router.index_bytes()), BytesPerToken(router))),
      Row("  selections", absl::StrCat(router.selections())),
      Row("  fallback", absl::StrFormat("%d steps without the router", s.dense_fallback_steps_total())));
}

std::string ModelTable(const gpu_worker::v1::GetModelResponse& m) {
  return absl::StrCat(Row("model", m.name()), Row("architecture", m.architecture()),
                      Row("parameters", absl::StrFormat("%.1f million", m.parameters() / 1e6)),
                      Row("context", absl::StrFormat("%d tokens", m.context_tokens())),
                      Row("vocabulary", absl::StrFormat("%d tokens", m.vocab_size())),
                      Row("layers", absl::StrFormat("%d, %d query heads and %d KV heads of %d", m.layers(),
                                                    m.query_heads(), m.kv_heads(), m.head_dim())),
                      Row("K/V per token", HumanBytes(m.kv_bytes_per_token())),
                      Row("weights per step", HumanBytes(m.decode_weight_bytes())),
                      Row("backend", absl::StrFormat("%s, %d threads", m.backend(), m.threads())));
}

std::string Dump(const nlohmann::json& json) {
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string HumanBytes(uint64_t bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = bytes;
  int unit = 0;
  for (; value >= 1024 && unit < 4; ++unit) value /= 1024;
  return unit == 0 ? absl::StrCat(bytes, " B") : absl::StrFormat("%.1f %s", value, kUnits[unit]);
}

}  // namespace hga
