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

bool Interrupt::Trigger() {
  std::lock_guard<std::mutex> lock(mu_);
  const bool cancels = call_ != nullptr && !triggered_;
  triggered_ = true;
  if (cancels) call_->TryCancel();
  return cancels;
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
