// Ctrl-C: cancels the call that runs, or ends the process where none does.
#ifndef HGA_CLIENT_INTERRUPT_H_
#define HGA_CLIENT_INTERRUPT_H_

#include <mutex>

#include "grpcpp/client_context.h"

namespace hga {

class Interrupt {
 public:
  // A call that Trigger() cancels for as long as this lives.
  class Scope {
   public:
    Scope(Interrupt* interrupt, grpc::ClientContext* call);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Interrupt* const interrupt_;
  };

  // While this lives the first Trigger() does not end the process where there is no call either: whoever made this
  // looks at triggered() between calls, and has something to put away.
  class Deferred {
   public:
    explicit Deferred(Interrupt* interrupt);
    ~Deferred();
    Deferred(const Deferred&) = delete;
    Deferred& operator=(const Deferred&) = delete;

   private:
    Interrupt* const interrupt_;
  };

  // Any thread. False: there is no call to cancel and nothing is deferred, or it was triggered before.
  bool Trigger();
  bool triggered() const;

 private:
  mutable std::mutex mu_;
  // Guarded by mu_.
  grpc::ClientContext* call_ = nullptr;
  bool deferred_ = false;
  bool triggered_ = false;
};

// Before the process starts threads: from now on SIGINT triggers `interrupt`, which must live as long as the
// process. Where that cancels nothing, the process ends with code 130.
void CancelOnSigint(Interrupt* interrupt);

}  // namespace hga

#endif  // HGA_CLIENT_INTERRUPT_H_
