#include "gpu_worker/model/white_space.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/match.h"

namespace hga {
namespace {

// Unicode's white space, in UTF-8.
constexpr const char* kSpaces[] = {" ",        "\t",       "\n",       "\v",       "\f",       "\r",       "\u0085",
                                   "\u00a0",   "\u1680",   "\u2000",   "\u2001",   "\u2002",   "\u2003",   "\u2004",
                                   "\u2005",   "\u2006",   "\u2007",   "\u2008",   "\u2009",   "\u200a",   "\u2028",
                                   "\u2029",   "\u202f",   "\u205f",   "\u3000"};

}  // namespace

size_t SpaceAtStart(absl::string_view text) {
  size_t bytes = 0;
  const auto starts = [&](absl::string_view space) { return absl::StartsWith(text.substr(bytes), space); };
  for (const char* const* space = kSpaces; space != std::end(kSpaces);) {
    space = std::find_if(std::begin(kSpaces), std::end(kSpaces), starts);
    if (space != std::end(kSpaces)) bytes += absl::string_view(*space).size();
  }
  return bytes;
}

size_t SpaceAtEnd(absl::string_view text) {
  const size_t all = text.size();
  const auto ends = [&](absl::string_view space) { return absl::EndsWith(text, space); };
  for (const char* const* space = kSpaces; space != std::end(kSpaces);) {
    space = std::find_if(std::begin(kSpaces), std::end(kSpaces), ends);
    if (space != std::end(kSpaces)) text.remove_suffix(absl::string_view(*space).size());
  }
  return all - text.size();
}

}  // namespace hga
