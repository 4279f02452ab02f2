// engine.h: one simulated launch. Every CUDA thread is a fiber; all CTAs are resident; one OS thread runs them. Lanes
// that meet (collectives, sync_cta), wait for an mbarrier or poll a counter are parked, not spun: a launch in which
// nothing is runnable and no copy is in flight is a deadlock, and the engine knows who waits for what.
//
// The scheduler is random and seeded: which warp runs and for how long, which of its lanes goes next, when a bulk copy
// lands, whether an atomic yields first. Equal seeds give equal runs.
//
// Counted: event_arrivals are calls of arrive_release and add_acq_rel; event_waits are waits of one thread for one
// counter, however often it polls; stream_copies, stream_waits and mma count once per warp.
#pragma once

#include "phasec/status.h"
#include "runtime/device.h"
#include "runtime/sim/fiber.h"
#include "runtime/sim/memory.h"
#define PHASEC_SIM_HOST
#include "runtime/sim/shim.h"

#include <cstdint>
#include <string>
#include <vector>

namespace phasec::sim {

using phasec_sim::Api;
using phasec_sim::Self;

inline constexpr int kThreadsMax = 1024; ///< per CTA, CUDA's limit
inline constexpr int kCtasMax = 1024;    ///< resident at once
inline constexpr int64_t kSharedBytesMax = 227 * 1024;

/// Fiber stacks in one mapping, kept between launches.
class StackPool {
public:
  StackPool() = default;
  ~StackPool();
  StackPool(const StackPool &) = delete;
  StackPool &operator=(const StackPool &) = delete;

  /// At least `count` stacks. Those of the first few thousand have a guard page.
  Status reserve(int count);
  unsigned char *low(int i) const { return base_ + int64_t(i) * stride_ + page_; }
  /// Bytes above low(i). Stacks of the lanes of a warp begin on different cache lines of a page.
  size_t bytes(int i) const { return size_t(stride_ - page_ - (i % 32) * 128); }
  /// Gives pages back to the host when the last launch was large.
  void trim();

private:
  void unmap();
  unsigned char *base_ = nullptr;
  int64_t stride_ = 0, page_ = 0;
  int count_ = 0;
};

constexpr int kMeetingsMax = 64; ///< more than a loop that polls has between two pauses

enum class Wait : uint8_t { Start, Cta, Collective, Barrier, Counter, Spin, Exited };

struct Warp;
struct Fiber {
  Self self;
  void *sp = nullptr;
  Warp *warp = nullptr;
  Fiber *next = nullptr; ///< of the watchers in the same bucket
  unsigned char *stack_low = nullptr;
  const void *address = nullptr; ///< of the counter or mbarrier it watches
  const void *polled = nullptr;  ///< counter it is polling, across spin_pause
  const void *loaded = nullptr;  ///< counter it loaded since the last spin_pause
  uint32_t value = 0;            ///< counter: what it saw; mbarrier: the parity it waits for
  uint32_t loaded_value = 0;
  int loads = 0;            ///< load_acquire calls since the last spin_pause
  Wait wait = Wait::Start;  ///< why it stopped last
  unsigned long long *stage = nullptr; ///< mbarrier of the open stream stage
  uint32_t stage_left = 0;             ///< bytes that stream_expect announced and no copy brought yet
};

struct Cta;
struct Warp {
  Cta *cta = nullptr;
  Fiber *fibers = nullptr;                                          ///< of its 32 lanes
  uint32_t runnable = ~0u, live = ~0u, arrived = 0, at_barrier = 0; ///< lane masks
  bool queued = false;
  int met = kMeetingsMax; ///< times since it last paused, up to there: what a loop meets in while it polls gets the launch no further
  int kind = 0; ///< of the collective that gathers
  const char *what = nullptr;
  uint32_t values[32];
  int arguments[32];
  void *mine[32];
};

struct Cta {
  unsigned char *shared = nullptr;
  Warp *warps = nullptr;
  int live = 0, arrived = 0, awaited = 0, copies = 0; ///< threads; in the barrier, and how many it takes; copies in flight
};

/// The state of an mbarrier, packed into the 64-bit word in shared memory. `magic` tells it from overwritten memory.
struct Barrier {
  int32_t tx = 0; ///< bytes announced and not landed; negative while copies are ahead of their announcement
  uint32_t pending = 0, arrivals = 0, phase = 0;
  bool valid = false;

  static Barrier load(const unsigned long long *word);
  void store(unsigned long long *word) const;
};

struct LaunchRequest {
  LaunchShape shape;
  phasec_sim::EntryFunction *entry = nullptr;
  phasec_sim::BindFunction *bind = nullptr;
  const void *args = nullptr;
  uint64_t seed = 1;
};

/// "shfl", "sync_warp", ...
std::string collectiveName(int kind, const char *what);

class Engine;
/// Fills the table that the compiled object calls through; `self` always points at the running fiber.
void fillApi(Api &api, Engine *engine, Self *const *self);

class Engine {
public:
  Engine(const LaunchRequest &request, StackPool &stacks, const Memory &memory);
  ~Engine();
  Engine(const Engine &) = delete;
  Engine &operator=(const Engine &) = delete;

  /// Runs the grid to its end. ErrorKind::Device: deadlock, or the kernel broke a contract; the text says who and
  /// where.
  Status run();
  const LaunchCounters &counters() const { return counters_; }

private:
  struct Copy {
    Cta *cta;
    unsigned char *to;
    const void *from;
    uint32_t bytes;
    unsigned long long *bar;
  };
  friend struct ApiTable;

  // engine.cpp: the scheduler.
  Status prepare();
  static void fiberMain(void *engine);
  Fiber &running() { return *reinterpret_cast<Fiber *>(self_); }
  uint64_t random() {
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    return random_ ^= random_ << 17;
  }
  Fiber *pick();
  bool refill();
  void switchAway();
  void park(Fiber &fiber, Wait wait);
  void watch(Fiber &fiber, Wait wait, const void *address, uint32_t value);
  void wake(Fiber &fiber);
  void wakeLanes(Warp &warp, uint32_t lanes);
  void wakeWatchers(const void *address);
  bool satisfied(const Fiber &fiber) const;
  bool rescan();
  void yield();
  void maybeYield() {
    if ((random() & 7) == 0) yield();
  }
  void progress() { spins_ = 0; }
  void exitFiber();
  void releaseCta(Cta &cta);
  Status finish();

  // sync.cpp: collectives, CTA barriers and counters.
  void syncThreads(int threads);
  uint32_t collective(int kind, uint32_t value, int argument);
  void together(const char *what, void (*compute)(void *const *), void *mine);
  bool gather(Fiber &fiber, int kind, const char *what);
  void completeCollective(Warp &warp);
  uint32_t addCounter(uint32_t *counter, uint32_t n);
  uint32_t loadAcquire(const uint32_t *counter);
  uint32_t loadSharedAcquire(const uint32_t *counter);
  uint32_t poll(Fiber &fiber, const uint32_t *counter);
  void storeRelaxed(uint32_t *counter, uint32_t n);
  uint32_t addShared(uint32_t *counter, uint32_t n);
  void spinPause();
  void feederPause();
  void spin(Fiber &fiber);
  void checkCounter(const void *counter);

  // stream.cpp: mbarriers and bulk copies.
  void checkShared(const void *p, uint64_t bytes, uint64_t align, const char *what);
  void checkSource(const char *what, const void *from, uint32_t bytes);
  Barrier barrierAt(unsigned long long *bar, const char *what);
  void barInit(unsigned long long *bar, int arrivals);
  void barArrive(unsigned long long *bar);
  void barWait(unsigned long long *bar, uint32_t parity, bool stream);
  bool barTest(unsigned long long *bar, uint32_t parity);
  void streamExpect(unsigned long long *bar, uint32_t bytes);
  void streamCopy(void *to, const void *from, uint32_t bytes, unsigned long long *bar);
  void streamPrefetch(const void *from, uint32_t bytes);
  void streamCommit(unsigned long long *bar);
  void landCopy();

  // report.cpp: texts.
  std::string where(const Fiber &fiber) const;
  std::string waitText(const Fiber &fiber) const;
  Status deadlock() const;
  void fail(std::string text); ///< from a fiber: ends the launch; does not come back

  Self *self_ = nullptr; ///< of the running fiber; first member of its Fiber
  Warp *warp_ = nullptr; ///< that runs
  int budget_ = 0;       ///< switches left before another warp gets its turn
  uint64_t random_;
  void *main_sp_ = nullptr;
  LaunchRequest request_;
  StackPool &stacks_;
  const Memory &memory_;
  Api api_{};
  std::vector<Fiber> fibers_;
  std::vector<Warp> warps_;
  std::vector<Cta> ctas_;
  std::vector<Warp *> ready_;     ///< warps with a runnable lane (and some without: removed when met)
  std::vector<Copy> copies_;      ///< in flight
  std::vector<Fiber *> watchers_; ///< buckets by address
  unsigned char *shared_ = nullptr;
  int64_t shared_stride_ = 0, shared_mapped_ = 0;
  int live_ = 0;
  uint64_t spins_ = 0; ///< idle spins since the launch last advanced
  bool stuck_ = false;
  std::string fault_;
  LaunchCounters counters_;
};

} // namespace phasec::sim
