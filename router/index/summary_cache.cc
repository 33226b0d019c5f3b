#include "router/index/summary_cache.h"

namespace hga {

SummaryCache::Data SummaryCache::Get(const ChunkHash& chunk, const SummaryMethod* method) {
  std::lock_guard<std::mutex> lock(mu_);
  const auto found = entries_.find(Key{chunk, method});
  if (found == entries_.end()) return nullptr;
  recent_.splice(recent_.begin(), recent_, found->second);
  return found->second->data;
}

void SummaryCache::Put(const ChunkHash& chunk, const SummaryMethod* method, const std::string& data) {
  if (data.size() > max_bytes_) return;
  auto copy = std::make_shared<const std::string>(data);
  std::lock_guard<std::mutex> lock(mu_);
  if (entries_.contains(Key{chunk, method})) return;
  recent_.push_front({Key{chunk, method}, std::move(copy)});
  entries_[recent_.front().key] = recent_.begin();
  bytes_ += data.size();
  while (bytes_ > max_bytes_) {
    bytes_ -= recent_.back().data->size();
    entries_.erase(recent_.back().key);
    recent_.pop_back();
  }
}

uint64_t SummaryCache::bytes() const {
  std::lock_guard<std::mutex> lock(mu_);
  return bytes_;
}

}  // namespace hga
