// Bounds that both ends of a connection share.
#ifndef HGA_COMMON_RPC_LIMITS_H_
#define HGA_COMMON_RPC_LIMITS_H_

namespace hga {

// A Commit of an 8B-class model carries 0.4 MB; a manifest of a million tokens 0.5 MB; prompts the rest.
inline constexpr int kMaxMessageBytes = 64 << 20;

}  // namespace hga

#endif  // HGA_COMMON_RPC_LIMITS_H_
