// sync.cpp: where fibers meet: collectives of a warp, the CTA barrier, grid-scope counters; and the table that hands
// all of the engine to the compiled object.
#include "runtime/sim/engine.h"

#include <algorithm>

#include <cstring>

namespace phasec::sim {
namespace {

/// v = v + v[lane ^ mask] for masks 16, 8, 4, 2, 1. Both lanes of a pair compute the same sum, so one of them is
/// enough.
void butterflySum(uint32_t *values) {
  float v[32];
  memcpy(v, values, sizeof v);
  for (int mask = 16; mask >= 1; mask >>= 1)
    for (int lane = 0; lane < mask; lane++) v[lane] = v[lane] + v[lane + mask];
  for (int lane = 0; lane < 32; lane++) memcpy(values + lane, v, sizeof v[0]);
}

/// v = max(v, v[lane ^ mask]): lanes can differ, in the sign of a zero or where there are NaNs, as they do on the
/// device.
void butterflyMax(uint32_t *values) {
  float v[32], next[32];
  memcpy(v, values, sizeof v);
  for (int mask = 16; mask >= 1; mask >>= 1) {
    for (int lane = 0; lane < 32; lane++) next[lane] = v[lane] < v[lane ^ mask] ? v[lane ^ mask] : v[lane];
    memcpy(v, next, sizeof v);
  }
  memcpy(values, v, sizeof v);
}

} // namespace

std::string collectiveName(int kind, const char *what) {
  const char *names[] = {"sync_warp", "shfl", "shfl_xor", "butterfly_sum", "butterfly_max"};
  return kind == phasec_sim::kTogether ? what : names[kind];
}

void Engine::syncThreads(int threads) {
  Fiber &fiber = running();
  Warp &warp = *fiber.warp;
  Cta &cta = *warp.cta;
  if (fiber.self.thread >= threads)
    fail(where(fiber) + "meets the CTA's first " + std::to_string(threads) + " threads, to which it does not belong");
  if (cta.arrived > 0 && cta.awaited != threads)
    fail(where(fiber) + "waits for " + std::to_string(threads) + " threads while others wait for " + std::to_string(cta.awaited));
  cta.awaited = threads;
  if (++cta.arrived == std::min(cta.live, threads)) {
    progress();
    return releaseCta(cta);
  }
  warp.at_barrier |= 1u << (fiber.self.thread & 31);
  park(fiber, Wait::Cta);
}

/// True for the lane that completes the warp; the others come back when it has computed.
bool Engine::gather(Fiber &fiber, int kind, const char *what) {
  Warp &warp = *fiber.warp;
  if (warp.arrived == 0) {
    warp.kind = kind;
    warp.what = what;
  } else if (warp.kind != kind || warp.what != what) {
    fail(where(fiber) + "calls " + collectiveName(kind, what) + " while other lanes of its warp wait in " +
         collectiveName(warp.kind, warp.what));
  }
  warp.arrived |= 1u << (fiber.self.thread & 31);
  if (warp.arrived == ~0u) return true;
  park(fiber, Wait::Collective);
  return false;
}

void Engine::completeCollective(Warp &warp) {
  warp.arrived = 0;
  warp.runnable = ~0u; // the running lane's bit is set, so the warp is queued
  if (warp.met < kMeetingsMax) warp.met++;
  else progress();
  uint32_t source[32];
  switch (warp.kind) {
  case phasec_sim::kShfl:
  case phasec_sim::kShflXor:
    memcpy(source, warp.values, sizeof source);
    for (int lane = 0; lane < 32; lane++)
      warp.values[lane] = source[(warp.kind == phasec_sim::kShfl ? 0 : lane) ^ (warp.arguments[lane] & 31)];
    break;
  case phasec_sim::kButterflySum:
    butterflySum(warp.values);
    break;
  case phasec_sim::kButterflyMax:
    butterflyMax(warp.values);
    break;
  }
}

uint32_t Engine::collective(int kind, uint32_t value, int argument) {
  Fiber &fiber = running();
  Warp &warp = *fiber.warp;
  int lane = fiber.self.thread & 31;
  warp.values[lane] = value;
  warp.arguments[lane] = argument;
  if (gather(fiber, kind, nullptr)) completeCollective(warp);
  return warp.values[lane];
}

void Engine::together(const char *what, void (*compute)(void *const *), void *mine) {
  Fiber &fiber = running();
  Warp &warp = *fiber.warp;
  warp.mine[fiber.self.thread & 31] = mine;
  if (!gather(fiber, phasec_sim::kTogether, what)) return;
  completeCollective(warp);
  compute(warp.mine);
  if (strncmp(what, "mma", 3) == 0) counters_.mma++;
}

void Engine::checkCounter(const void *counter) {
  auto address = reinterpret_cast<uint64_t>(counter);
  if (address % 4 != 0 || !memory_.contains(address, 4))
    fail(where(running()) + "uses a counter at " + memory_.describe(address) +
         ", which is not a word of device memory");
}

uint32_t Engine::addCounter(uint32_t *counter, uint32_t n) {
  checkCounter(counter);
  maybeYield();
  uint32_t old = *counter;
  *counter = old + n;
  counters_.event_arrivals++;
  if (n == 0) return old;
  progress();
  wakeWatchers(counter);
  return old;
}

uint32_t Engine::loadAcquire(const uint32_t *counter) {
  Fiber &fiber = running();
  if (counter != fiber.polled) {
    checkCounter(counter);
    counters_.event_waits++;
  }
  return poll(fiber, counter);
}

uint32_t Engine::loadSharedAcquire(const uint32_t *counter) {
  checkShared(counter, 4, 4, "load_shared_acquire");
  return poll(running(), counter);
}

/// What a spin_pause() that follows will wait for.
uint32_t Engine::poll(Fiber &fiber, const uint32_t *counter) {
  fiber.polled = nullptr;
  fiber.loaded = counter;
  fiber.loads++;
  return fiber.loaded_value = *static_cast<const volatile uint32_t *>(counter);
}

void Engine::storeRelaxed(uint32_t *counter, uint32_t n) {
  checkCounter(counter);
  maybeYield();
  if (*counter != n) progress();
  *counter = n;
  wakeWatchers(counter);
}

uint32_t Engine::addShared(uint32_t *counter, uint32_t n) {
  checkShared(counter, 4, 4, "add_shared");
  maybeYield();
  uint32_t old = *counter;
  *counter = old + n;
  if (n != 0) progress();
  wakeWatchers(counter);
  return old;
}

/// Turns the C table's calls into members.
struct ApiTable {
  static Engine &of(void *engine) { return *static_cast<Engine *>(engine); }
  static void fill(Api &api) {
    using u32 = unsigned;
    using u64 = unsigned long long;
    api.abi = phasec_sim::kAbi;
    api.sync_threads = [](void *e, int threads) { of(e).syncThreads(threads); };
    api.collective = [](void *e, int kind, u32 value, int argument) { return of(e).collective(kind, value, argument); };
    api.together = [](void *e, const char *what, void (*compute)(void *const *), void *mine) {
      of(e).together(what, compute, mine);
    };
    api.arrive_release = [](void *e, u32 *counter, u32 n) { of(e).addCounter(counter, n); };
    api.load_acquire = [](void *e, const u32 *counter) { return of(e).loadAcquire(counter); };
    api.load_shared_acquire = [](void *e, const u32 *counter) { return of(e).loadSharedAcquire(counter); };
    api.add_acq_rel = [](void *e, u32 *counter, u32 n) { return of(e).addCounter(counter, n); };
    api.store_relaxed = [](void *e, u32 *counter, u32 n) { of(e).storeRelaxed(counter, n); };
    api.add_shared = [](void *e, u32 *counter, u32 n) { return of(e).addShared(counter, n); };
    api.spin_pause = [](void *e) { of(e).spinPause(); };
    api.feeder_pause = [](void *e) { of(e).feederPause(); };
    api.shared_address = [](void *e, const void *p) {
      of(e).checkShared(p, 0, 1, "shared_address");
      return u32(static_cast<const unsigned char *>(p) - of(e).self_->shared);
    };
    api.mbar_init = [](void *e, u64 *bar, int arrivals) { of(e).barInit(bar, arrivals); };
    api.mbar_arrive = [](void *e, u64 *bar) { of(e).barArrive(bar); };
    api.mbar_wait = [](void *e, u64 *bar, u32 parity, bool stream) { of(e).barWait(bar, parity, stream); };
    api.mbar_test = [](void *e, u64 *bar, u32 parity) { return of(e).barTest(bar, parity); };
    api.stream_expect = [](void *e, u64 *bar, u32 bytes) { of(e).streamExpect(bar, bytes); };
    api.stream_copy = [](void *e, void *to, const void *from, u32 bytes, u64 *bar) {
      of(e).streamCopy(to, from, bytes, bar);
    };
    api.stream_commit = [](void *e, u64 *bar) { of(e).streamCommit(bar); };
    api.stream_prefetch = [](void *e, const void *from, u32 bytes) { of(e).streamPrefetch(from, bytes); };
    api.fail = [](void *e, const char *text) { of(e).fail(of(e).where(of(e).running()) + text); };
  }
};

void fillApi(Api &api, Engine *engine, Self *const *self) {
  ApiTable::fill(api);
  api.engine = engine;
  api.self = self;
}

} // namespace phasec::sim
