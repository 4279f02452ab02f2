// stream.cpp: mbarriers and the byte stream. A copy overwrites its destination with 0xff when it is issued and brings
// its bytes at a random later moment, so that whoever reads without waiting reads NaN.
#include "runtime/sim/engine.h"

#include <cstring>

namespace phasec::sim {
namespace {

// tx: bits 0..23, two's complement; pending 24..35; arrivals 36..47; phase 48; magic 49..63.
constexpr uint64_t kMagic = 0x5ba3;
constexpr uint32_t kArrivalsMax = 0xfff;
constexpr int32_t kTxMax = (1 << 20) - 1; ///< the hardware's limit

bool complete(const Barrier &b) { return b.pending == 0 && b.tx == 0; }

/// Enters the next phase when this one is complete. True when it did.
bool advance(Barrier &b, unsigned long long *word) {
  bool done = complete(b);
  if (done) b.phase ^= 1u, b.pending = b.arrivals;
  b.store(word);
  return done;
}

} // namespace

Barrier Barrier::load(const unsigned long long *word) {
  uint64_t v = *static_cast<const volatile unsigned long long *>(word);
  Barrier b;
  b.tx = int32_t(uint32_t(v) << 8) >> 8;
  b.pending = uint32_t(v >> 24) & 0xfffu;
  b.arrivals = uint32_t(v >> 36) & 0xfffu;
  b.phase = uint32_t(v >> 48) & 1u;
  b.valid = v >> 49 == kMagic;
  return b;
}

void Barrier::store(unsigned long long *word) const {
  *word = (uint64_t(uint32_t(tx)) & 0xffffffu) | uint64_t(pending) << 24 | uint64_t(arrivals) << 36 |
          uint64_t(phase) << 48 | kMagic << 49;
}

void Engine::checkShared(const void *p, uint64_t bytes, uint64_t align, const char *what) {
  int64_t offset = static_cast<const unsigned char *>(p) - self_->shared;
  if (offset >= 0 && offset + int64_t(bytes) <= request_.shape.shared_bytes && offset % int64_t(align) == 0) return;
  bool inside = offset >= 0 && offset + int64_t(bytes) <= request_.shape.shared_bytes;
  fail(where(running()) + what + " of " + std::to_string(bytes) + " bytes at shared memory + " +
       std::to_string(offset) +
       (inside ? " is not aligned to " + std::to_string(align) + " bytes"
               : " leaves the CTA's " + std::to_string(request_.shape.shared_bytes) + " bytes"));
}

Barrier Engine::barrierAt(unsigned long long *bar, const char *what) {
  checkShared(bar, 8, 8, what);
  Barrier b = Barrier::load(bar);
  if (!b.valid)
    fail(where(running()) + what + " uses an mbarrier at shared memory + " +
         std::to_string(reinterpret_cast<unsigned char *>(bar) - self_->shared) +
         " that was not initialised or was overwritten");
  return b;
}

void Engine::barInit(unsigned long long *bar, int arrivals) {
  checkShared(bar, 8, 8, "mbar_init");
  if (arrivals < 1 || uint32_t(arrivals) > kArrivalsMax)
    fail(where(running()) + "mbar_init with " + std::to_string(arrivals) + " arrivals");
  Barrier b;
  b.pending = b.arrivals = uint32_t(arrivals);
  b.store(bar);
  progress();
}

void Engine::barArrive(unsigned long long *bar) {
  maybeYield();
  Barrier b = barrierAt(bar, "mbar_arrive");
  if (b.pending == 0) fail(where(running()) + "mbar_arrive: more arrivals than the mbarrier was initialised with");
  b.pending--;
  progress();
  if (advance(b, bar)) wakeWatchers(bar);
}

void Engine::barWait(unsigned long long *bar, uint32_t parity, bool stream) {
  Fiber &fiber = running();
  if (stream && (fiber.self.thread & 31) == 0) counters_.stream_waits++;
  while (barrierAt(bar, "mbar_wait").phase == (parity & 1u)) watch(fiber, Wait::Barrier, bar, parity & 1u);
}

bool Engine::barTest(unsigned long long *bar, uint32_t parity) {
  maybeYield();
  return barrierAt(bar, "mbar_test").phase != (parity & 1u);
}

void Engine::streamExpect(unsigned long long *bar, uint32_t bytes) {
  Fiber &fiber = running();
  Barrier b = barrierAt(bar, "stream_expect");
  if (fiber.stage) fail(where(fiber) + "stream_expect while the lane's last stage is open: stream_commit is missing");
  if (b.pending == 0 || b.tx + int64_t(bytes) > kTxMax)
    fail(where(fiber) + "stream_expect of " + std::to_string(bytes) + " bytes on an mbarrier with " +
         std::to_string(b.pending) + " arrivals and " + std::to_string(b.tx) +
         " bytes pending: the stage was opened before its last fill was consumed");
  fiber.stage = bar;
  fiber.stage_left = bytes;
  b.pending--;
  b.tx += int32_t(bytes);
  progress();
  if (advance(b, bar)) wakeWatchers(bar); // a stage of no bytes
}

/// What bulk copies and prefetches ask of their source.
void Engine::checkSource(const char *what, const void *from, uint32_t bytes) {
  auto source = reinterpret_cast<uint64_t>(from);
  auto text = [&] { return where(running()) + what + " of " + std::to_string(bytes) + " bytes from " + memory_.describe(source); };
  if (bytes == 0 || bytes % 16 != 0 || source % 16 != 0) fail(text() + ": size and source must be multiples of 16 bytes");
  if (!memory_.contains(source, bytes)) fail(text() + " leaves the memory that was allocated");
}

void Engine::streamPrefetch(const void *from, uint32_t bytes) {
  checkSource("stream_prefetch", from, bytes);
  counters_.stream_prefetches++;
}

void Engine::streamCopy(void *to, const void *from, uint32_t bytes, unsigned long long *bar) {
  Fiber &fiber = running();
  Warp &warp = *fiber.warp;
  barrierAt(bar, "stream_copy");
  checkShared(to, bytes, 16, "stream_copy");
  checkSource("stream_copy", from, bytes);
  if (fiber.stage != bar || fiber.stage_left < bytes)
    fail(where(fiber) + "stream_copy of " + std::to_string(bytes) + " bytes into a stage that " +
         (fiber.stage != bar ? std::string("stream_expect did not open")
                            : "expects only " + std::to_string(fiber.stage_left) + " more"));
  fiber.stage_left -= bytes;
  memset(to, 0xff, bytes);
  copies_.push_back(Copy{warp.cta, static_cast<unsigned char *>(to), from, bytes, bar});
  warp.cta->copies++;
  counters_.stream_under_way = std::max(counters_.stream_under_way, uint64_t(warp.cta->copies));
  counters_.stream_copies++;
  counters_.stream_bytes += bytes;
  progress();
  maybeYield();
}

void Engine::streamCommit(unsigned long long *bar) {
  Fiber &fiber = running();
  if (fiber.stage != bar || fiber.stage_left != 0)
    fail(where(fiber) + "stream_commit of a stage " +
         (fiber.stage != bar ? std::string("that stream_expect did not open")
                            : "that still expects " + std::to_string(fiber.stage_left) + " bytes"));
  fiber.stage = nullptr;
}

void Engine::landCopy() {
  size_t i = size_t((random() >> 32) % copies_.size());
  Copy copy = copies_[i];
  copies_[i] = copies_.back();
  copies_.pop_back();
  memcpy(copy.to, copy.from, copy.bytes);
  copy.cta->copies--;
  progress();
  Barrier b = Barrier::load(copy.bar);
  if (!b.valid) return; // its waiters will say so
  b.tx -= int32_t(copy.bytes);
  if (advance(b, copy.bar)) wakeWatchers(copy.bar);
}

} // namespace phasec::sim
