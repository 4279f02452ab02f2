// memory.h: the sim's global memory: zero-filled blocks with known bounds and canaries at both ends.
#pragma once

#include "phasec/status.h"

#include <cstdint>
#include <map>
#include <string>

namespace phasec::sim {

/// Not thread-safe; SimDevice holds its lock around every call.
class Memory {
public:
  Memory() = default;
  ~Memory();
  Memory(const Memory &) = delete;
  Memory &operator=(const Memory &) = delete;

  Result<uint64_t> allocate(int64_t bytes);
  void release(uint64_t address);
  /// True when [address, address + bytes) lies inside one block.
  bool contains(uint64_t address, uint64_t bytes) const;
  /// OK, or what is wrong with that range: "128 bytes at block of 4096 bytes + 4000 ...".
  Status check(uint64_t address, int64_t bytes, const char *what) const;
  /// "0x7f.. (block of 4096 bytes + 16)".
  std::string describe(uint64_t address) const;
  /// ErrorKind::Device when something wrote next to a block.
  Status checkCanaries() const;

private:
  struct Block {
    void *mapping;
    uint64_t mapped, bytes;
  };
  const std::pair<const uint64_t, Block> *find(uint64_t address) const;
  std::map<uint64_t, Block> blocks_; ///< by address
};

} // namespace phasec::sim
