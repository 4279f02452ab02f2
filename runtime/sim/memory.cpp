// memory.cpp: blocks are anonymous mappings, so a block of gigabytes costs nothing until it is written.
#include "runtime/sim/memory.h"

#include <cstdio>
#include <cstring>
#include <sys/mman.h>

namespace phasec::sim {
namespace {

constexpr uint64_t kAlign = 256; ///< of addresses, and the bytes of a canary
constexpr unsigned char kCanary = 0xc5;

bool intact(const unsigned char *p, uint64_t bytes) {
  for (uint64_t i = 0; i < bytes; i++)
    if (p[i] != kCanary) return false;
  return true;
}

} // namespace

Memory::~Memory() {
  for (auto &[address, block] : blocks_) munmap(block.mapping, block.mapped);
}

Result<uint64_t> Memory::allocate(int64_t bytes) {
  if (bytes < 0) return Status::input("sim: cannot allocate " + std::to_string(bytes) + " bytes");
  uint64_t mapped = uint64_t(bytes) + 2 * kAlign;
  void *mapping = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED)
    return Status::device("sim: cannot map " + std::to_string(bytes) +
                          " bytes of host memory; the host is out of memory");
  auto *base = static_cast<unsigned char *>(mapping) + kAlign;
  memset(mapping, kCanary, kAlign);
  memset(base + bytes, kCanary, kAlign);
  auto address = reinterpret_cast<uint64_t>(base);
  blocks_[address] = Block{mapping, mapped, uint64_t(bytes)};
  return address;
}

void Memory::release(uint64_t address) {
  auto it = blocks_.find(address);
  if (it == blocks_.end()) return;
  munmap(it->second.mapping, it->second.mapped);
  blocks_.erase(it);
}

const std::pair<const uint64_t, Memory::Block> *Memory::find(uint64_t address) const {
  auto it = blocks_.upper_bound(address);
  if (it == blocks_.begin()) return nullptr;
  --it;
  return address <= it->first + it->second.bytes ? &*it : nullptr;
}

bool Memory::contains(uint64_t address, uint64_t bytes) const {
  auto *block = find(address);
  return block && bytes <= block->second.bytes && address - block->first <= block->second.bytes - bytes;
}

std::string Memory::describe(uint64_t address) const {
  char text[32];
  snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(address));
  auto *block = find(address);
  if (!block) return text;
  return std::string(text) + " (block of " + std::to_string(block->second.bytes) + " bytes + " +
         std::to_string(address - block->first) + ")";
}

Status Memory::check(uint64_t address, int64_t bytes, const char *what) const {
  if (bytes >= 0 && contains(address, uint64_t(bytes))) return {};
  return Status::input(std::string("sim: ") + what + " of " + std::to_string(bytes) + " bytes at " + describe(address) +
                       " leaves the memory that was allocated");
}

Status Memory::checkCanaries() const {
  for (auto &[address, block] : blocks_) {
    auto *base = reinterpret_cast<const unsigned char *>(address);
    bool before = intact(base - kAlign, kAlign), after = intact(base + block.bytes, kAlign);
    if (before && after) continue;
    return Status::device(std::string("sim: the kernel wrote ") + (before ? "past the end" : "before the start") +
                          " of the block of " + std::to_string(block.bytes) + " bytes at " + describe(address));
  }
  return {};
}

} // namespace phasec::sim
