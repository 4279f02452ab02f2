// random.h: seeded data, fast enough for a full-size layer: 64-bit words, filled by all processors, the same bytes whatever
// their number.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <thread>
#include <vector>

namespace phasec::cli {

class Random {
public:
  explicit Random(uint64_t seed) : state_(mix(seed)) {}
  /// A generator of its own for each name.
  Random(uint64_t seed, std::string_view name) : Random(seed ^ hash(name)) {}

  uint64_t word() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return state_ * 0x2545f4914f6cdd1dull;
  }
  double uniform() { return double(word() >> 11) * 0x1p-53; }
  int below(int n) { return int(word() >> 33) % n; }
  /// Near a standard normal: the sum of four uniforms.
  double normal() { return (uniform() + uniform() + uniform() + uniform() - 2) * 1.7320508; }

  static uint64_t hash(std::string_view text) {
    uint64_t h = 0xcbf29ce484222325ull;
    for (char c : text) h = (h ^ uint8_t(c)) * 0x100000001b3ull;
    return h;
  }

private:
  static uint64_t mix(uint64_t x) { // splitmix64; never 0
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return (x ^ (x >> 31)) | 1;
  }
  uint64_t state_;
};

/// Round to nearest even.
inline uint16_t toBf16(float value) {
  uint32_t bits = std::bit_cast<uint32_t>(value);
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/// work(0) .. work(count - 1) on all processors.
template <class Work> void inParallel(size_t count, Work work) {
  std::atomic<size_t> next{0};
  auto some = [&] {
    for (size_t i; (i = next++) < count;) work(i);
  };
  size_t threads = std::min<size_t>(count, std::max(1u, std::thread::hardware_concurrency()));
  std::vector<std::thread> pool;
  for (size_t t = 1; t < threads; t++) pool.emplace_back(some);
  some();
  for (std::thread &t : pool) t.join();
}

/// Fills `bytes` from words; `make(random)` gives eight bytes. Every 1 MiB has a generator of its own.
template <class Make> void fillWords(std::vector<uint8_t> &bytes, uint64_t seed, Make make) {
  constexpr size_t kChunk = size_t(1) << 20;
  inParallel((bytes.size() + kChunk - 1) / kChunk, [&](size_t chunk) {
    Random random(seed + chunk * 0x9e3779b97f4a7c15ull);
    size_t end = std::min(bytes.size(), (chunk + 1) * kChunk);
    for (size_t at = chunk * kChunk; at < end; at += 8) {
      uint64_t word = make(random);
      std::memcpy(bytes.data() + at, &word, std::min<size_t>(8, end - at));
    }
  });
}

} // namespace phasec::cli
