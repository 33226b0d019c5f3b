// Figures of a finished call and of the stack, as a table for people and as JSON for programs.
#ifndef HGA_CLIENT_STATISTICS_H_
#define HGA_CLIENT_STATISTICS_H_

#include <cstdint>
#include <string>

#include "nlohmann/json.hpp"
#include "proto/gpu_worker/v1/gpu_worker.pb.h"

namespace hga {

// Tokens per second; 0 where nothing was computed.
double PrefillRate(const gpu_worker::v1::Finished& finished);
double DecodeRate(const gpu_worker::v1::Finished& finished);

// Several lines, each ending in a line feed; warnings last.
std::string StatisticsTable(const gpu_worker::v1::Finished& finished);
// One line without an end, for a talk.
std::string StatisticsLine(const gpu_worker::v1::Finished& finished);
nlohmann::json StatisticsJson(const gpu_worker::v1::Finished& finished, const std::string& session);

std::string StatsTable(const gpu_worker::v1::GetStatsResponse& stats);
nlohmann::json StatsJson(const gpu_worker::v1::GetStatsResponse& stats);
std::string ModelTable(const gpu_worker::v1::GetModelResponse& model);
nlohmann::json ModelJson(const gpu_worker::v1::GetModelResponse& model);
// Newest first, ages counted from `now_unix_s`.
std::string SessionsTable(const gpu_worker::v1::ListSessionsResponse& sessions, int64_t now_unix_s);
nlohmann::json SessionsJson(const gpu_worker::v1::ListSessionsResponse& sessions);

// explain_table.cc
std::string ExplainTable(const gpu_worker::v1::ExplainResponse& explained, uint32_t layer);
nlohmann::json ExplainJson(const gpu_worker::v1::ExplainResponse& explained, uint32_t layer);

// One line; bytes that are no UTF-8 are replaced.
std::string Dump(const nlohmann::json& json);
// "1.5 MiB"
std::string HumanBytes(uint64_t bytes);

}  // namespace hga

#endif  // HGA_CLIENT_STATISTICS_H_
