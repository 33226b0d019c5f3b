// The whole command, apart from the process around it.
#ifndef HGA_CLIENT_RUN_H_
#define HGA_CLIENT_RUN_H_

#include "client/console.h"
#include "client/interrupt.h"

namespace hga {

// Returns the exit code.
int RunClient(int argc, const char* const* argv, Console* console, Interrupt* interrupt);

}  // namespace hga

#endif  // HGA_CLIENT_RUN_H_
