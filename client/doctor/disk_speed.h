// A short look at a disk, past the page cache where the file system allows.
#ifndef HGA_CLIENT_DOCTOR_DISK_SPEED_H_
#define HGA_CLIENT_DOCTOR_DISK_SPEED_H_

#include <cstdint>
#include <string>

#include "client/doctor/facts.h"

namespace hga {

// Writes `bytes` (a multiple of 1 MiB) to an unnamed file in `folder`, or in the nearest folder above it that exists,
// and reads it again. Leaves nothing. Whatever goes wrong is in `error`.
DiskFacts MeasureDisk(const std::string& folder, uint64_t bytes);

}  // namespace hga

#endif  // HGA_CLIENT_DOCTOR_DISK_SPEED_H_
