#include "gpu_worker/service/convert.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace hga {
namespace {

using gpu_worker::v1::Attention;
using gpu_worker::v1::Finished;
using gpu_worker::v1::GenerateRequest;

constexpr int kMaxMessages = 4096;
constexpr uint32_t kExplainedChunks = 8;
constexpr size_t kMaxPromptBytes = size_t{32} << 20;

// Bounded; what the messages say is for the template to check.
absl::StatusOr<std::vector<ChatMessage>> MessagesOf(const gpu_worker::v1::Messages& chat) {
  if (chat.messages().empty()) return absl::InvalidArgumentError("the chat has no message");
  if (chat.messages_size() > kMaxMessages) {
    return absl::InvalidArgumentError(absl::StrCat(chat.messages_size(), " messages; at most ", kMaxMessages));
  }
  size_t bytes = 0;
  std::vector<ChatMessage> messages;
  for (const auto& message : chat.messages()) {
    bytes += message.content().size();
    messages.push_back({message.role(), message.content()});
  }
  if (bytes > kMaxPromptBytes) return absl::InvalidArgumentError(absl::StrCat("the chat has ", bytes, " bytes"));
  return messages;
}

absl::Status ConvertChat(const LoadedModel& model, const GenerateRequest& in, EngineRequest* out) {
  HGA_RETURN_IF_ERROR(model.chat_template.status());
  HGA_ASSIGN_OR_RETURN(auto messages, MessagesOf(in.chat()));
  const ChatTemplate* chat = &*model.chat_template;
  ChatOptions options;
  options.thinking = !in.no_thinking();
  if (!in.append()) {
    HGA_ASSIGN_OR_RETURN(out->tokens, chat->RenderChat(messages, options));
    return absl::OkStatus();
  }
  HGA_RETURN_IF_ERROR(chat->RenderTurn(messages, 0).status());  // refuses bad messages before the session is touched
  out->continuation = [chat, options, messages = std::move(messages)](absl::Span<const uint32_t> session) {
    return chat->RenderTurn(messages, session.empty() ? 0 : session.back(), options);
  };
  return absl::OkStatus();
}

absl::Status ConvertInput(const LoadedModel& model, const GenerateRequest& in, EngineRequest* out) {
  switch (in.input_case()) {
    case GenerateRequest::kChat:
      return ConvertChat(model, in, out);
    case GenerateRequest::kText: {
      if (in.text().size() > kMaxPromptBytes) {
        return absl::InvalidArgumentError(absl::StrCat("the text has ", in.text().size(), " bytes"));
      }
      const auto& tokenizer = *model.tokenizer;
      HGA_ASSIGN_OR_RETURN(out->tokens, tokenizer.Encode(in.text(), /*parse_special=*/false));
      if (!in.append() && tokenizer.add_bos()) out->tokens.insert(out->tokens.begin(), tokenizer.bos());
      return absl::OkStatus();
    }
    case GenerateRequest::kTokens:
      out->tokens.assign(in.tokens().ids().begin(), in.tokens().ids().end());
      return absl::OkStatus();
    case GenerateRequest::INPUT_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("the request has no input: set chat, text or tokens");
}

void ConvertAttention(const Attention& in, EngineRequest* out) {
  out->routed = in.mode() != Attention::MODE_DENSE;
  const bool named = in.budget_fraction() != 0 || in.budget_min_tokens() != 0 || in.budget_max_tokens() != 0;
  if (named) out->budget.KeepAsNamed();
  if (in.has_dense_decode_tokens()) out->budget.dense_decode_tokens = in.dense_decode_tokens();
  if (in.has_budget_linear_tokens()) out->budget.linear_tokens = in.budget_linear_tokens();
  if (in.budget_fraction() != 0) out->budget.fraction = in.budget_fraction();
  // A floor or cap given alone moves the other with it.
  if (in.budget_min_tokens() != 0) {
    out->budget.min_tokens = in.budget_min_tokens();
    if (in.budget_max_tokens() == 0) out->budget.max_tokens = std::max(out->budget.max_tokens, in.budget_min_tokens());
  }
  if (in.budget_max_tokens() != 0) {
    out->budget.max_tokens = in.budget_max_tokens();
    if (in.budget_min_tokens() == 0) out->budget.min_tokens = std::min(out->budget.min_tokens, in.budget_max_tokens());
  }
  if (in.budget_sharing() != Attention::SHARING_UNSPECIFIED) {
    out->budget.shared = in.budget_sharing() == Attention::SHARING_SHARED;
  }
  if (in.budget_layer_cap() != 0) out->budget.layer_cap = in.budget_layer_cap();
  if (in.budget_step_cap() != 0) out->budget.step_cap = in.budget_step_cap();
  if (in.has_budget_layer_floor()) out->budget.layer_floor = in.budget_layer_floor();
  if (in.has_budget_least_share()) out->budget.least_share = in.budget_least_share();
  if (in.budget_top_p() != 0) out->budget.top_p = in.budget_top_p();
  if (in.has_residual()) out->budget.residual = in.residual();
}

void FillFinished(const EngineEvent& event, Finished* out) {
  const RequestStats& s = event.stats;
  switch (event.reason) {
    case FinishReason::kStop: out->set_reason(Finished::REASON_STOP); break;
    case FinishReason::kLength: out->set_reason(Finished::REASON_LENGTH); break;
    case FinishReason::kPrefillOnly: out->set_reason(Finished::REASON_PREFILL_ONLY); break;
  }
  out->set_prompt_tokens(s.prompt_tokens);
  out->set_reused_tokens(s.reused_tokens);
  out->set_completion_tokens(s.completion_tokens);
  out->set_ttft_s(s.ttft_s);
  out->set_prefill_s(s.prefill_s);
  out->set_decode_s(s.decode_s);
  ToProto(s.tiers, out->mutable_tiers());
  out->set_attended_fraction(s.attended_fraction(true));
  out->set_prefill_attended_fraction(s.attended_fraction(false));
  out->set_dense_fallback_steps(s.dense_fallback_steps);
  for (const std::string& warning : s.warnings) out->add_warnings(warning);
  out->set_ring_exchanges(s.ring_exchanges);
  out->set_kv_rpcs_decode(s.kv_rpcs_decode);
  out->set_decode_steps(s.decode_steps);
}

}  // namespace

absl::StatusOr<EngineRequest> ToEngineRequest(const LoadedModel& model, const BudgetOptions& default_budget,
                                              const GenerateRequest& in) {
  EngineRequest out;
  if (!in.session().empty()) HGA_RETURN_IF_ERROR(ValidateSessionName(in.session()));
  if (in.pin() && in.session().empty()) return absl::InvalidArgumentError("pin needs a session");
  HGA_RETURN_IF_ERROR(ConvertInput(model, in, &out));
  out.session = in.session();
  out.append = in.append();
  out.pin = in.pin();
  if (in.has_max_tokens()) out.max_tokens = in.max_tokens();
  out.sampling.temperature = in.sampling().temperature();
  out.sampling.top_k = in.sampling().top_k();
  out.sampling.top_p = in.sampling().top_p();
  out.sampling.min_p = in.sampling().min_p();
  if (in.sampling().repetition_penalty() != 0) out.sampling.repetition_penalty = in.sampling().repetition_penalty();
  out.sampling.seed = in.sampling().seed();
  out.stop.assign(in.stop().begin(), in.stop().end());
  out.budget = default_budget;
  ConvertAttention(in.attention(), &out);
  out.ignore_eos = in.ignore_eos();
  return out;
}

gpu_worker::v1::GenerateEvent ToProto(const EngineEvent& event) {
  gpu_worker::v1::GenerateEvent out;
  switch (event.kind) {
    case EngineEvent::Kind::kStarted:
      out.mutable_started()->set_prompt_tokens(event.stats.prompt_tokens);
      out.mutable_started()->set_reused_tokens(event.stats.reused_tokens);
      break;
    case EngineEvent::Kind::kProgress:
      out.mutable_progress()->set_prefilled_tokens(event.done);
      out.mutable_progress()->set_to_prefill_tokens(event.total);
      break;
    case EngineEvent::Kind::kToken:
      out.mutable_token()->set_id(event.token);
      out.mutable_token()->set_text(event.text);
      break;
    case EngineEvent::Kind::kFinished:
      FillFinished(event, out.mutable_finished());
      break;
    case EngineEvent::Kind::kFailed:
      break;
  }
  return out;
}

void ToProto(const TierCounts& tiers, gpu_worker::v1::TierHits* out) {
  out->set_held(tiers.held);
  out->set_keys(tiers.keys);
  out->set_ram(tiers.ram);
  out->set_disk(tiers.disk);
  out->set_recomputed(tiers.recomputed);
}

void ToProto(const Explanation& in, uint32_t max_chunks, gpu_worker::v1::ExplainResponse* out) {
  out->set_position(in.position);
  out->set_method(in.method);
  out->set_by_router(in.by_router);
  out->set_budget_keys(in.budget_keys);
  out->set_mean_budget_keys(in.mean_budget_keys);
  out->set_shared(in.shared);
  out->set_least_share(in.least_share);
  out->set_sink_tokens(in.sink_tokens);
  out->set_window_start(in.window_start);
  for (const ExplainedHead& head : in.heads) {
    auto* h = out->add_heads();
    h->set_always(head.always);
    h->set_selected(head.selected);
    h->set_missed(head.missed);
    h->set_estimated(head.estimated);
    h->set_keys(head.keys);
    h->set_keys_share(head.keys_share);
    std::vector<ExplainedChunk> chunks = head.chunks;
    std::stable_sort(chunks.begin(), chunks.end(), [](const ExplainedChunk& a, const ExplainedChunk& b) {
      return std::max(a.mass, a.estimated) > std::max(b.mass, b.estimated);
    });
    chunks.resize(std::min<size_t>(chunks.size(), max_chunks == 0 ? kExplainedChunks : max_chunks));
    for (const ExplainedChunk& chunk : chunks) {
      auto* c = h->add_chunks();
      c->set_chunk(chunk.chunk);
      c->set_first_position(chunk.first_position);
      c->set_keys(chunk.keys);
      c->set_coarse(chunk.coarse);
      c->set_coarse_rank(chunk.coarse_rank);
      c->set_fine(chunk.fine);
      c->set_exact(chunk.exact);
      c->set_best_position(chunk.best_key);
      c->set_estimated(chunk.estimated);
      c->set_mass(chunk.mass);
    }
  }
}

}  // namespace hga
