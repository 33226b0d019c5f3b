// Command-line arguments for CLI11.
#ifndef HGA_COMMON_BASE_ARGUMENTS_H_
#define HGA_COMMON_BASE_ARGUMENTS_H_

#include <string>
#include <vector>

namespace hga {

// What App::parse(vector) takes: last argument first, without the program's name. CLI11 takes the argument after
// "--flag=" for the flag's value; here the empty value is made an argument of its own.
std::vector<std::string> LastArgumentFirst(int argc, const char* const* argv);

}  // namespace hga

#endif  // HGA_COMMON_BASE_ARGUMENTS_H_
