// Where a command reads and writes. Answers and JSON go to `out`, everything for the eye only to `err`.
#ifndef HGA_CLIENT_CONSOLE_H_
#define HGA_CLIENT_CONSOLE_H_

#include <istream>
#include <ostream>

namespace hga {

struct Console {
  std::istream& in;
  std::ostream& out;
  std::ostream& err;
  bool in_is_terminal = false;
  bool err_is_terminal = false;
};

}  // namespace hga

#endif  // HGA_CLIENT_CONSOLE_H_
