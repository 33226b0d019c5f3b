#include "tests/quality/configuration.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/status.h"

namespace hga {

std::string Configuration::Name() const { return absl::StrCat(method, "/", budget.total, "/", PathName(path)); }

namespace {

bool ParseNumber(absl::string_view part, absl::string_view name, float* value) {
  return absl::ConsumePrefix(&part, name) && absl::SimpleAtof(part, value);
}

// A,B of METHOD@A,B.
bool ParseLevels(const std::string& text, SelectOptions* options) {
  const std::vector<std::string> numbers = absl::StrSplit(text, ',');
  return numbers.size() == 2 && absl::SimpleAtoi(numbers[0], &options->overprovision) &&
         absl::SimpleAtoi(numbers[1], &options->scan_chunks) && options->overprovision >= 1;
}

bool IsOracle(const std::string& base) { return base == "oracle_tokens" || base == "oracle_groups"; }
std::string SummaryName(const std::string& base) { return base == "mean_hga" ? "mean" : base; }

// A method as it is written, taken apart.
struct Method {
  std::string base;
  SelectOptions select;
  BudgetOptions share;
  uint32_t prefill_block = 0;  // 0: the shape's
};

bool ParseOption(const std::string& option, Method* m) {
  if (option == "max" || option == "sum") {
    m->select.pooling = option == "max" ? Pooling::kMaxSoftmax : Pooling::kSumLogits;
    return true;
  }
  if (option == "fixed" || option == "shared") {
    m->share.shared = option == "shared";
    return true;
  }
  if (option == "residual" || option == "exact") {
    m->share.residual = option == "residual";
    return true;
  }
  absl::string_view block = option;
  if (absl::ConsumePrefix(&block, "block")) {
    return absl::SimpleAtoi(block, &m->prefill_block) && (m->prefill_block == 16 || m->prefill_block == 32 ||
                                                          m->prefill_block == 64);
  }
  return ParseNumber(option, "cap", &m->share.layer_cap) || ParseNumber(option, "floor", &m->share.layer_floor) ||
         ParseNumber(option, "step", &m->share.step_cap) ||
         ParseNumber(option, "least", &m->share.least_share) || ParseNumber(option, "top_p", &m->share.top_p);
}

absl::StatusOr<Method> ParseMethod(const std::string& text) {
  const std::vector<std::string> options = absl::StrSplit(text, '+');
  const std::vector<std::string> levels = absl::StrSplit(options[0], '@');
  Method m;
  m.base = levels[0];
  if (m.base == "mean_hga") m.select = kHgaSelect;
  m.share.shared = levels.size() == 1 && FindSummaryMethod(m.base).ok();
  if (levels.size() > 2 || (levels.size() == 2 && !ParseLevels(levels[1], &m.select))) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not METHOD@OVERPROVISION,SCAN_CHUNKS"));
  }
  for (size_t i = 1; i < options.size(); ++i) {
    if (ParseOption(options[i], &m)) continue;
    return absl::InvalidArgumentError(absl::StrCat("'", text, "': +", options[i], " is none of +max, +sum, +fixed, "
                                                   "+shared, +residual, +exact, +capX, +stepX, +floorX, +leastX, "
                                                   "+top_pX, +block16, 32 or 64"));
  }
  HGA_RETURN_IF_ERROR(ValidateBudget(m.share));
  return m;
}

}  // namespace

absl::StatusOr<Configuration> ParseConfiguration(absl::string_view name, const KeyBudget& shape) {
  const std::vector<std::string> parts = absl::StrSplit(name, '/');
  Configuration c;
  c.budget = shape;
  if (parts.size() != 3 || !absl::SimpleAtoi(parts[1], &c.budget.total)) {
    return absl::InvalidArgumentError(absl::StrCat("configuration '", name, "' is not METHOD/KEYS/PATH"));
  }
  if (parts[2] != "decode" && parts[2] != "prefill") {
    return absl::InvalidArgumentError(absl::StrCat("'", name, "': the path is decode or prefill"));
  }
  c.method = parts[0];
  c.path = parts[2] == "decode" ? Path::kDecode : Path::kPrefill;
  HGA_ASSIGN_OR_RETURN(const Method method, ParseMethod(c.method));
  c.budget.share = method.share;
  if (method.prefill_block != 0) c.budget.prefill_block = method.prefill_block;
  if (method.base != "dense" && method.base != "window" && !IsOracle(method.base)) {
    HGA_RETURN_IF_ERROR(FindSummaryMethod(SummaryName(method.base)).status());
  }
  return c;
}

absl::StatusOr<std::vector<Configuration>> ParseConfigurations(absl::string_view names, const KeyBudget& shape) {
  std::vector<Configuration> configurations;
  std::string open;
  for (absl::string_view part : absl::StrSplit(names, ',', absl::SkipEmpty())) {
    absl::StrAppend(&open, open.empty() ? "" : ",", part);
    if (open.find('/') == std::string::npos) continue;  // the first half of METHOD@A,B/...
    HGA_ASSIGN_OR_RETURN(Configuration c, ParseConfiguration(open, shape));
    configurations.push_back(std::move(c));
    open.clear();
  }
  if (!open.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("configuration '", open, "' is not METHOD/KEYS/PATH"));
  }
  return configurations;
}

absl::StatusOr<std::unique_ptr<Chooser>> CreateChooser(const std::string& method, const KvGeometry& g,
                                                       const std::string& channel_energies) {
  HGA_ASSIGN_OR_RETURN(const Method m, ParseMethod(method));
  if (m.base == "oracle_tokens") return NewOracleChooser(g, 1);
  if (m.base == "oracle_groups") return NewOracleChooser(g, g.group_tokens);
  HGA_ASSIGN_OR_RETURN(const SummaryMethod* base, FindSummaryMethod(SummaryName(m.base)));
  if (!base->dealt) return NewIndexChooser(g, std::vector<const SummaryMethod*>(g.layers, base), m.select);
  std::vector<const SummaryMethod*> methods;
  KvGeometry one_layer = g;
  one_layer.layers = 1;
  const size_t bytes = channel_energies.size() / g.layers;
  for (uint32_t layer = 0; layer < g.layers; ++layer) {
    HGA_ASSIGN_OR_RETURN(const SummaryMethod* method,
                         FindSummaryMethod(m.base, one_layer,
                                           absl::string_view(channel_energies).substr(layer * bytes, bytes)));
    methods.push_back(method);
  }
  return NewIndexChooser(g, std::move(methods), m.select);
}

absl::StatusOr<std::unique_ptr<Selector>> CreateSelector(const Configuration& c, const KvGeometry& g) {
  if (c.method == "dense") return NewDenseSelector(g);
  if (c.method == "window") return NewWindowSelector(g, c.budget);
  HGA_ASSIGN_OR_RETURN(std::unique_ptr<Chooser> chooser, CreateChooser(c.method, g, c.budget.channel_energies));
  return NewRoutedSelector(g, c.budget, std::move(chooser));
}

}  // namespace hga
