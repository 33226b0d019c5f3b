#include "kv_store/tier/packed_cache.h"

#include <iterator>
#include <utility>

namespace hga {

void PackedCache::Put(const BlockName& name, Value value) {
  std::lock_guard<std::mutex> lock(mu_);
  bool is_protected = false;
  if (const auto found = index_.find(name); found != index_.end()) {
    is_protected = found->second->is_protected;
    Remove(found->second);
  }
  Entry entry{name, std::move(value), false};
  const uint64_t charge = Charge(entry);
  if (charge > budget_) return;
  while (bytes_ + charge > budget_) {
    Remove(std::prev(probation_.empty() ? protected_.end() : probation_.end()));
    ++evictions_;
  }
  bytes_ += charge;
  probation_.push_front(std::move(entry));
  index_[name] = probation_.begin();
  if (is_protected) Protect(probation_.begin());
}

PackedCache::Value PackedCache::Get(const BlockName& name) {
  std::lock_guard<std::mutex> lock(mu_);
  const auto found = index_.find(name);
  if (found == index_.end()) return nullptr;
  Value value = found->second->value;
  Protect(found->second);
  return value;
}

bool PackedCache::Has(const BlockName& name) const {
  std::lock_guard<std::mutex> lock(mu_);
  return index_.contains(name);
}

void PackedCache::Erase(const BlockName& name) {
  std::lock_guard<std::mutex> lock(mu_);
  if (const auto found = index_.find(name); found != index_.end()) Remove(found->second);
}

PackedCache::Stats PackedCache::stats() const {
  std::lock_guard<std::mutex> lock(mu_);
  return {bytes_, index_.size(), evictions_};
}

void PackedCache::Remove(List::iterator entry) {
  bytes_ -= Charge(*entry);
  if (entry->is_protected) protected_bytes_ -= Charge(*entry);
  index_.erase(entry->name);
  (entry->is_protected ? protected_ : probation_).erase(entry);
}

// To the front; what has been protected for longest goes back on probation.
void PackedCache::Protect(List::iterator entry) {
  if (!entry->is_protected) protected_bytes_ += Charge(*entry);
  protected_.splice(protected_.begin(), entry->is_protected ? protected_ : probation_, entry);
  entry->is_protected = true;
  while (protected_bytes_ > budget_ / 4 * 3) {
    const auto oldest = std::prev(protected_.end());
    oldest->is_protected = false;
    protected_bytes_ -= Charge(*oldest);
    probation_.splice(probation_.begin(), protected_, oldest);
  }
}

}  // namespace hga
