#include "common/base/arguments.h"

#include <algorithm>

namespace hga {

std::vector<std::string> LastArgumentFirst(int argc, const char* const* argv) {
  std::vector<std::string> arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const bool empty_value = argument.size() > 3 && argument.compare(0, 2, "--") == 0 && argument.back() == '=';
    arguments.push_back(empty_value ? argument.substr(0, argument.size() - 1) : argument);
    if (empty_value) arguments.emplace_back();
  }
  std::reverse(arguments.begin(), arguments.end());
  return arguments;
}

}  // namespace hga
