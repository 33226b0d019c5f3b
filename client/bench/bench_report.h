// From what the worker says of a call to the figures of `hga bench`: arithmetic and text.
#ifndef HGA_CLIENT_BENCH_BENCH_REPORT_H_
#define HGA_CLIENT_BENCH_BENCH_REPORT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "proto/gpu_worker/v1/gpu_worker.pb.h"

namespace hga {

// Of the client's machine; 0: not measured.
struct MachineLimits {
  std::string name;
  double read_gbps = 0;
  double fma_gflops = 0;  // f32
};

// Of one prompt and its answer.
struct BenchFigures {
  double prefill_tps = 0;
  double prefill_gflops = 0;  // 2 a parameter used, 4 * head_dim a query head and key attended
  double ttft_s = 0;
  double decode_tps = 0;   // 0: nothing was decoded
  double decode_gbps = 0;  // weights that a step reads, and K/V that it attends
  double attended = 0;     // of the keys a dense model reads, decode
  double prefill_attended = 0;
  // Of the blocks attention asked for, by where they were.
  double held = 0, ram = 0, disk = 0;
};

struct BenchRow {
  uint32_t depth = 0;
  std::string mode;
  BenchFigures figures;
};

// A prompt whose K/V the store has, asked again.
struct ResumeRow {
  uint32_t depth = 0;
  double ttft_s = 0;
  double full_ttft_s = 0;  // when it was computed
  uint32_t reused_tokens = 0;
};

struct BenchReport {
  gpu_worker::v1::GetModelResponse model;
  MachineLimits limits;
  std::vector<BenchRow> rows;
  std::vector<ResumeRow> resumes;
};

BenchFigures FiguresOf(const gpu_worker::v1::GetModelResponse& model, const gpu_worker::v1::Finished& finished);
// Each figure's median; `runs` is not empty.
BenchFigures MedianOf(const std::vector<BenchFigures>& runs);
double Median(std::vector<double> values);

// Lines ending in a line feed: what stands above the table, a row of it, a resume.
std::string BenchHeader(const gpu_worker::v1::GetModelResponse& model, const MachineLimits& limits);
std::string BenchLine(const BenchRow& row, const MachineLimits& limits);
std::string ResumeLine(const ResumeRow& row);

// Flat. Keys end in mode and depth: prefill_tps_routed_16384.
nlohmann::json BenchJson(const BenchReport& report);

}  // namespace hga

#endif  // HGA_CLIENT_BENCH_BENCH_REPORT_H_
