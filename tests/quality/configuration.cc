#include "tests/quality/configuration.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/status.h"

namespace hga {

std::string Configuration::Name() const { return absl::StrCat(method, "/", budget.total, "/", PathName(path)); }

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
  HGA_RETURN_IF_ERROR(CreateSelector(c, KvGeometry{1, 1, 1, 64}).status());
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

namespace {

// A,B of METHOD@A,B.
bool ParseLevels(const std::string& text, SelectOptions* options) {
  const std::vector<std::string> numbers = absl::StrSplit(text, ',');
  return numbers.size() == 2 && absl::SimpleAtoi(numbers[0], &options->overprovision) &&
         absl::SimpleAtoi(numbers[1], &options->scan_chunks) && options->overprovision >= 1;
}

bool ParsePooling(const std::string& name, Pooling* pooling) {
  if (name != "max" && name != "sum") return false;
  *pooling = name == "max" ? Pooling::kMaxSoftmax : Pooling::kSumLogits;
  return true;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Chooser>> CreateChooser(const std::string& method, const KvGeometry& g) {
  if (method == "oracle_tokens") return NewOracleChooser(g, 1);
  if (method == "oracle_groups") return NewOracleChooser(g, g.group_tokens);
  std::vector<std::string> parts = absl::StrSplit(method, '+');
  const std::string pooling = parts.size() > 1 ? parts[1] : "";
  const bool one_pooling = parts.size() <= 2;
  parts = absl::StrSplit(std::string(parts[0]), '@');
  const bool hga = parts[0] == "mean_hga";
  SelectOptions options = hga ? kHgaSelect : SelectOptions();
  if (!one_pooling || parts.size() > 2 || (parts.size() == 2 && !ParseLevels(parts[1], &options)) ||
      (!pooling.empty() && !ParsePooling(pooling, &options.pooling))) {
    return absl::InvalidArgumentError(absl::StrCat("'", method, "' is not METHOD@OVERPROVISION,SCAN_CHUNKS+POOLING"));
  }
  HGA_ASSIGN_OR_RETURN(const SummaryMethod* summary, FindSummaryMethod(hga ? "mean" : parts[0]));
  return NewIndexChooser(g, summary, options);
}

absl::StatusOr<std::unique_ptr<Selector>> CreateSelector(const Configuration& c, const KvGeometry& g) {
  if (c.method == "dense") return NewDenseSelector(g);
  if (c.method == "window") return NewWindowSelector(g, c.budget);
  HGA_ASSIGN_OR_RETURN(std::unique_ptr<Chooser> chooser, CreateChooser(c.method, g));
  return NewRoutedSelector(g, c.budget, std::move(chooser));
}

}  // namespace hga
