#include "tests/bench/bench_main.h"

#include <errno.h>

#include <cstdio>
#include <string>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage_config.h"
#include "absl/strings/match.h"
#include "absl/strings/string_view.h"

ABSL_FLAG(std::string, json, "", "file for the numbers");
ABSL_FLAG(std::string, commit, "", "commit that is measured");
ABSL_FLAG(std::string, command, "", "command that was given");

namespace hga {

void ParseFlags(int argc, char** argv) {
  absl::FlagsUsageConfig usage;
  usage.contains_help_flags = [](absl::string_view file) { return absl::StrContains(file, "tests/bench/"); };
  absl::SetFlagsUsageConfig(usage);
  absl::ParseCommandLine(argc, argv);
}

absl::Status WriteNumbers(const Report& report) {
  const std::string json = absl::GetFlag(FLAGS_json);
  if (json.empty()) return absl::OkStatus();
  return report.WriteJson(json, absl::GetFlag(FLAGS_commit), absl::GetFlag(FLAGS_command));
}

int ExitCode(const absl::Status& status) {
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s: %s\n", program_invocation_short_name, status.ToString().c_str());
  return 1;
}

}  // namespace hga
