#include "gpu_worker/engine/early_fetch.h"

#include <memory>
#include <utility>

#include "common/base/check.h"
#include "common/base/request_id.h"

namespace hga {

void EarlyFetch::Start(std::vector<Wanted> wanted, std::string request_ids) {
  HGA_CHECK(!under_way_.valid());
  if (wanted.empty()) return;
  wanted_ = std::move(wanted);
  std::vector<BlockName> names;
  for (const Wanted& w : wanted_) names.push_back(w.name);
  auto answer = std::make_shared<std::promise<absl::StatusOr<std::vector<FetchedBlock>>>>();
  under_way_ = answer->get_future();
  thread_.Post([store = store_, names = std::move(names), ids = std::move(request_ids), answer]() mutable {
    const RequestScope scope(std::move(ids));
    answer->set_value(store->Fetch(names));
  });
}

std::vector<EarlyFetch::Got> EarlyFetch::Take() {
  std::vector<Got> got;
  if (!under_way_.valid()) return got;
  absl::StatusOr<std::vector<FetchedBlock>> fetched = under_way_.get();
  if (!fetched.ok() || fetched->size() != wanted_.size()) return got;
  for (size_t i = 0; i < wanted_.size(); ++i) {
    FetchedBlock& block = (*fetched)[i];
    if (block.status.ok()) got.push_back({wanted_[i], std::move(block.block), block.found_in});
  }
  return got;
}

}  // namespace hga
