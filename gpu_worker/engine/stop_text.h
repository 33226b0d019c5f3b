// Turns the bytes of tokens into text that may be shown: whole UTF-8 characters, nothing of a stop string.
#ifndef HGA_GPU_WORKER_ENGINE_STOP_TEXT_H_
#define HGA_GPU_WORKER_ENGINE_STOP_TEXT_H_

#include <string>
#include <utility>
#include <vector>

namespace hga {

// One per sequence; not thread-safe. Holds back bytes that may be the beginning of a stop string or of a character.
class StopText {
 public:
  explicit StopText(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  // Takes the bytes of one more token; returns the text that is certain now. After a stop string was found: nothing.
  std::string Add(const std::string& bytes);
  // What is still held back, once no more tokens come. Bytes that are no character become U+FFFD.
  std::string Flush();
  bool stopped() const { return stopped_; }

 private:
  size_t HeldForStop() const;
  std::string TakeText(size_t bytes, bool final);

  const std::vector<std::string> stops_;
  std::string pending_;
  bool stopped_ = false;
};

// Bytes of a UTF-8 character that begins with `lead`; 0 if none does.
int Utf8Length(unsigned char lead);
bool IsUtf8(const std::string& text);

}  // namespace hga

#endif  // HGA_GPU_WORKER_ENGINE_STOP_TEXT_H_
