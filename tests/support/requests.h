// Requests that several whole-stack tests make.
#ifndef HGA_TESTS_SUPPORT_REQUESTS_H_
#define HGA_TESTS_SUPPORT_REQUESTS_H_

#include <random>
#include <string>

#include "proto/gpu_worker/v1/gpu_worker.pb.h"

namespace hga {

// Greedy, never ends before `max_tokens`, dense or routed at `budget` of the history (0: the worker's default).
inline gpu_worker::v1::GenerateRequest GreedyRequest(uint32_t max_tokens) {
  gpu_worker::v1::GenerateRequest request;
  request.set_max_tokens(max_tokens);
  request.set_ignore_eos(true);
  return request;
}

// `count` token ids below 256, which every vocabulary has; the same for the same seed.
inline gpu_worker::v1::GenerateRequest TokenRequest(uint32_t count, uint32_t seed, uint32_t max_tokens) {
  gpu_worker::v1::GenerateRequest request = GreedyRequest(max_tokens);
  std::mt19937 random(seed);
  for (uint32_t i = 0; i < count; ++i) request.mutable_tokens()->add_ids(3 + random() % 250);
  return request;
}

inline gpu_worker::v1::GenerateRequest Dense(gpu_worker::v1::GenerateRequest request) {
  request.mutable_attention()->set_mode(gpu_worker::v1::Attention::MODE_DENSE);
  return request;
}

inline gpu_worker::v1::GenerateRequest Routed(gpu_worker::v1::GenerateRequest request, float fraction,
                                              uint32_t min_tokens = 16) {
  request.mutable_attention()->set_mode(gpu_worker::v1::Attention::MODE_ROUTED);
  request.mutable_attention()->set_budget_fraction(fraction);
  request.mutable_attention()->set_budget_min_tokens(min_tokens);
  return request;
}

inline gpu_worker::v1::GenerateRequest InSession(gpu_worker::v1::GenerateRequest request, const std::string& name) {
  request.set_session(name);
  return request;
}

}  // namespace hga

#endif  // HGA_TESTS_SUPPORT_REQUESTS_H_
