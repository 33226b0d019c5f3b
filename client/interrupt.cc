#include "client/interrupt.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <thread>

#include "client/exit_code.h"

namespace hga {

Interrupt::Scope::Scope(Interrupt* interrupt, grpc::ClientContext* call) : interrupt_(interrupt) {
  std::lock_guard<std::mutex> lock(interrupt_->mu_);
  interrupt_->call_ = call;
}

Interrupt::Scope::~Scope() {
  std::lock_guard<std::mutex> lock(interrupt_->mu_);
  interrupt_->call_ = nullptr;
}

Interrupt::Deferred::Deferred(Interrupt* interrupt) : interrupt_(interrupt) {
  std::lock_guard<std::mutex> lock(interrupt_->mu_);
  interrupt_->deferred_ = true;
}

Interrupt::Deferred::~Deferred() {
  std::lock_guard<std::mutex> lock(interrupt_->mu_);
  interrupt_->deferred_ = false;
}

bool Interrupt::Trigger() {
  std::lock_guard<std::mutex> lock(mu_);
  const bool first = !triggered_;
  triggered_ = true;
  if (first && call_ != nullptr) call_->TryCancel();
  return first && (call_ != nullptr || deferred_);
}

bool Interrupt::triggered() const {
  std::lock_guard<std::mutex> lock(mu_);
  return triggered_;
}

void CancelOnSigint(Interrupt* interrupt) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::thread([set, interrupt] {
    int signal = 0;
    while (sigwait(&set, &signal) == 0) {
      if (!interrupt->Trigger()) _exit(kExitInterrupted);
    }
  }).detach();
}

}  // namespace hga
