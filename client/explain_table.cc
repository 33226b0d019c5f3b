// What `hga explain` shows.
#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/statistics.h"

namespace hga {
namespace {

using gpu_worker::v1::ExplainedChunk;
using gpu_worker::v1::ExplainedHead;
using gpu_worker::v1::ExplainResponse;

double Percent(double share) { return 100 * share; }

std::string HeadTable(const ExplainedHead& head, int number) {
  std::string text = absl::StrFormat(
      "\nKV head %d: %.1f%% of the attention always, %.1f%% by %d selected keys (estimated %.1f%%), %.1f%% missed; "
      "%.1f%% of the layer's keys\n",
      number, Percent(head.always()), Percent(head.selected()), head.keys(), Percent(head.estimated()),
      Percent(head.missed()), Percent(head.keys_share()));
  if (head.chunks().empty()) return text;
  absl::StrAppendFormat(&text, "  %8s %9s %6s %8s %8s %8s %9s %9s %9s\n", "TOKENS", "", "KEYS", "COARSE", "FINE",
                        "EXACT", "AT", "ESTIMATED", "TRUE");
  for (const ExplainedChunk& c : head.chunks()) {
    absl::StrAppendFormat(&text, "  %8d+ %8s %6d %8.2f %8.2f %8.2f %9d %8.2f%% %8.2f%%\n", c.first_position(),
                          absl::StrCat("#", c.coarse_rank()), c.keys(), c.coarse(), c.fine(), c.exact(),
                          c.best_position(), Percent(c.estimated()), Percent(c.mass()));
  }
  return text;
}

std::string BudgetText(const ExplainResponse& e) {
  if (!e.by_router()) return "everything (no routing)";
  std::string text = absl::StrFormat("at most %d per KV head by routing", e.budget_keys());
  if (!e.shared()) return text;
  absl::StrAppendFormat(&text, ", shared by the KV heads\n(%d on average over the layers; a key needs %.4f%% of the "
                        "attention)", e.mean_budget_keys(), Percent(e.least_share()));
  return text;
}

}  // namespace

std::string ExplainTable(const ExplainResponse& e, uint32_t layer) {
  std::string text = absl::StrFormat("position %d (token %d), layer %d, summaries: %s\n", e.position(), e.token(),
                                     layer, e.method());
  if (e.window_start() <= e.sink_tokens()) {
    text += "everything is attended: the sequence is no longer than sinks and window\n";
  } else {
    absl::StrAppendFormat(&text, "attended always: keys before %d and from %d on; between them %s\n", e.sink_tokens(),
                          e.window_start(), BudgetText(e));
  }
  for (int h = 0; h < e.heads_size(); ++h) text += HeadTable(e.heads(h), h);
  if (e.window_start() > e.sink_tokens()) {
    text += "\nTOKENS: a chunk's first, and its rank at the coarse level. KEYS: selected of it. COARSE, FINE, EXACT:\n"
            "highest logits of its summary, of the units inside it, of its keys (AT: where). Shares are of the whole\n"
            "attention.\n";
  }
  for (const std::string& warning : e.warnings()) absl::StrAppend(&text, "warning: ", warning, "\n");
  return text;
}

nlohmann::json ExplainJson(const ExplainResponse& e, uint32_t layer) {
  nlohmann::json heads = nlohmann::json::array();
  for (const ExplainedHead& head : e.heads()) {
    nlohmann::json chunks = nlohmann::json::array();
    for (const ExplainedChunk& c : head.chunks()) {
      chunks.push_back({{"chunk", c.chunk()},
                        {"first_position", c.first_position()},
                        {"keys", c.keys()},
                        {"coarse", c.coarse()},
                        {"coarse_rank", c.coarse_rank()},
                        {"fine", c.fine()},
                        {"exact", c.exact()},
                        {"best_position", c.best_position()},
                        {"estimated", c.estimated()},
                        {"mass", c.mass()}});
    }
    heads.push_back({{"always", head.always()},
                     {"selected", head.selected()},
                     {"missed", head.missed()},
                     {"estimated", head.estimated()},
                     {"keys", head.keys()},
                     {"keys_share", head.keys_share()},
                     {"chunks", chunks}});
  }
  return {{"position", e.position()},
          {"token", e.token()},
          {"layer", layer},
          {"method", e.method()},
          {"by_router", e.by_router()},
          {"budget_keys", e.budget_keys()},
          {"mean_budget_keys", e.mean_budget_keys()},
          {"shared", e.shared()},
          {"least_share", e.least_share()},
          {"sink_tokens", e.sink_tokens()},
          {"window_start", e.window_start()},
          {"heads", heads},
          {"warnings", std::vector<std::string>(e.warnings().begin(), e.warnings().end())}};
}

}  // namespace hga
