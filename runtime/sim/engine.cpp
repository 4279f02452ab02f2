// engine.cpp: the scheduler of a simulated launch.
#include "runtime/sim/engine.h"

#include <bit>
#include <cstring>
#include <sys/mman.h>
#include <unistd.h>

namespace phasec::sim {
namespace {

constexpr int64_t kStackBytes = 64 * 1024;
constexpr int kGuardedMax = 8192;   ///< stacks with a guard page: hosts limit the number of mappings
constexpr int kStackReserve = 8192; ///< bytes that the engine itself may need below a fiber's frame
constexpr size_t kBuckets = 1024;
constexpr uint64_t kSpinsMax = 1000; ///< idle spins per live fiber before a launch counts as stuck
constexpr int64_t kCanaryBytes = 256;
constexpr unsigned char kCanary = 0xc5;

uint64_t mix(uint64_t seed) { // splitmix64: near seeds give unlike states
  uint64_t z = seed + 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return (z ^ (z >> 31)) | 1u;
}

size_t bucket(const void *address) { return (reinterpret_cast<uintptr_t>(address) >> 2) % kBuckets; }

} // namespace

StackPool::~StackPool() { unmap(); }

void StackPool::unmap() {
  if (!base_) return;
  forgetFrames(base_, size_t(stride_ * count_));
  munmap(base_, size_t(stride_ * count_));
  base_ = nullptr;
  count_ = 0;
}

Status StackPool::reserve(int count) {
  if (count <= count_) return {};
  unmap();
  page_ = sysconf(_SC_PAGESIZE);
  stride_ = kStackBytes + page_;
  void *mapping = mmap(nullptr, size_t(stride_ * count), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED)
    return Status::device("sim: cannot map stacks for " + std::to_string(count) + " threads; launch fewer CTAs");
  base_ = static_cast<unsigned char *>(mapping);
  count_ = count;
  for (int i = 0; i < count && i < kGuardedMax; i++) mprotect(base_ + i * stride_, size_t(page_), PROT_NONE);
  return {};
}

void StackPool::trim() {
  if (count_ > kGuardedMax) unmap();
}

Engine::Engine(const LaunchRequest &request, StackPool &stacks, const Memory &memory)
    : random_(mix(request.seed)), request_(request), stacks_(stacks), memory_(memory) {}

Engine::~Engine() {
  if (shared_) munmap(shared_, size_t(shared_mapped_));
}

Status Engine::prepare() {
  const LaunchShape &shape = request_.shape;
  int warps = shape.threads / 32, threads = shape.ctas * shape.threads;
  PHASEC_TRY(stacks_.reserve(threads));
  shared_stride_ = (shape.shared_bytes + 2 * kCanaryBytes + 1023) / 1024 * 1024;
  shared_mapped_ = shared_stride_ * shape.ctas + 1024;
  void *mapping = mmap(nullptr, size_t(shared_mapped_), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED)
    return Status::device("sim: cannot map shared memory for " + std::to_string(shape.ctas) + " CTAs");
  shared_ = static_cast<unsigned char *>(mapping);
  memset(shared_, kCanary, size_t(shared_mapped_));

  ctas_.resize(size_t(shape.ctas));
  warps_.resize(size_t(shape.ctas) * size_t(warps));
  fibers_.resize(size_t(threads));
  watchers_.assign(kBuckets, nullptr);
  ready_.reserve(warps_.size());
  for (int c = 0; c < shape.ctas; c++) {
    Cta &cta = ctas_[size_t(c)];
    cta.shared = shared_ + 1024 + shared_stride_ * c;     // the canary before it ends the region before
    memset(cta.shared, 0xff, size_t(shape.shared_bytes)); // reading what nobody wrote gives NaN
    cta.warps = &warps_[size_t(c) * size_t(warps)];
    cta.live = shape.threads;
    for (int t = 0; t < shape.threads; t++) {
      int i = c * shape.threads + t;
      Fiber &fiber = fibers_[size_t(i)];
      fiber.self = Self{t, shape.threads, c, shape.ctas, cta.shared};
      fiber.warp = cta.warps + t / 32;
      fiber.stack_low = stacks_.low(i);
      forgetFrames(stacks_.low(i), stacks_.bytes(i));
      fiber.sp = prepareFiber(stacks_.low(i), stacks_.bytes(i), fiberMain, this);
      if (t % 32 == 0) *fiber.warp = Warp{};
      if (t % 32 == 0) fiber.warp->cta = &cta, fiber.warp->fibers = &fiber;
    }
  }
  live_ = threads;
  for (Warp &warp : warps_) warp.queued = true, ready_.push_back(&warp);
  return {};
}

Status Engine::run() {
  PHASEC_TRY(prepare());
  fillApi(api_, this, &self_);
  if (!request_.bind(&api_))
    return Status::internal("sim: the object was compiled for another version of the engine; remove it from the cache");
  {
    IeeeMode mode;
    Fiber *first = pick();
    self_ = &first->self;
    phasec_sim_switch(&main_sp_, first->sp);
  }
  Status status = finish();
  stacks_.trim();
  return status;
}

Status Engine::finish() {
  if (!fault_.empty()) return Status::device(fault_);
  if (stuck_) return deadlock();
  PHASEC_TRY(memory_.checkCanaries());
  for (const Cta &cta : ctas_)
    for (int64_t i = 0; i < kCanaryBytes; i++) {
      bool after = cta.shared[request_.shape.shared_bytes + i] != kCanary;
      if (!after && cta.shared[-1 - i] == kCanary) continue;
      return Status::device("sim: cta " + std::to_string(&cta - ctas_.data()) + " wrote " +
                            (after ? "past the end" : "before the start") + " of its " +
                            std::to_string(request_.shape.shared_bytes) + " bytes of shared memory");
    }
  return {};
}

void Engine::fiberMain(void *argument) {
  auto *engine = static_cast<Engine *>(argument);
  engine->request_.entry(engine->request_.args);
  engine->exitFiber();
}

void Engine::exitFiber() {
  Fiber &fiber = running();
  Warp &warp = *fiber.warp;
  uint32_t bit = 1u << (fiber.self.thread & 31);
  warp.live &= ~bit;
  if (fiber.stage) fail(where(fiber) + "returns with a stream stage open: stream_commit is missing");
  Cta &cta = *warp.cta;
  cta.live--;
  live_--;
  progress();
  if (cta.live == 0 && cta.copies > 0)
    fail("cta " + std::to_string(fiber.self.cta) + " has returned while " + std::to_string(cta.copies) +
         " stream copies into its shared memory are in flight: a stream_wait is missing");
  if (cta.arrived > 0 && cta.arrived == std::min(cta.live, cta.awaited))
    releaseCta(cta); // CUDA's barrier counts the threads that have not exited
  park(fiber, Wait::Exited);
}

/// The next fiber, or nullptr when the launch is over or stuck.
Fiber *Engine::pick() {
  while (budget_ <= 0 || warp_->runnable == 0)
    if (!refill()) return nullptr;
  budget_--;
  int start = int(random() >> 40) & 31;
  int lane = (std::countr_zero(std::rotr(warp_->runnable, start)) + start) & 31;
  return warp_->fibers + lane;
}

/// Gives another warp its turn; now and then a copy lands first. False when nothing can run any more.
bool Engine::refill() {
  uint64_t r = random();
  if (!copies_.empty() && (r & 7) == 0) landCopy();
  for (;;) {
    while (!ready_.empty()) {
      size_t i = size_t((r >> 32) % ready_.size());
      warp_ = ready_[i];
      if (warp_->runnable) { // one turn in four is short, so that warps drift apart and stay close in turn
        budget_ = (r & 24) ? 64 + int(r >> 8 & 1023) : 1 + int(r >> 8 & 31);
        return true;
      }
      warp_->queued = false;
      ready_[i] = ready_.back();
      ready_.pop_back();
    }
    if (!copies_.empty())
      landCopy();
    else if (live_ == 0 || !rescan())
      break;
  }
  stuck_ = live_ > 0;
  return false;
}

void Engine::switchAway() {
  Fiber &from = running();
  Fiber *to = pick();
  if (to == &from) return;
  if (reinterpret_cast<unsigned char *>(__builtin_frame_address(0)) < from.stack_low + kStackReserve)
    fault_ = where(from) + "has used up its stack", to = nullptr;
  if (to) self_ = &to->self;
  phasec_sim_switch(&from.sp, to ? to->sp : main_sp_);
}

void Engine::park(Fiber &fiber, Wait wait) {
  fiber.wait = wait;
  fiber.warp->runnable &= ~(1u << (fiber.self.thread & 31));
  switchAway();
}

void Engine::watch(Fiber &fiber, Wait wait, const void *address, uint32_t value) {
  fiber.address = address;
  fiber.value = value;
  Fiber *&head = watchers_[bucket(address)];
  fiber.next = head;
  head = &fiber;
  park(fiber, wait);
}

void Engine::wake(Fiber &fiber) { wakeLanes(*fiber.warp, 1u << (fiber.self.thread & 31)); }

void Engine::wakeLanes(Warp &warp, uint32_t lanes) {
  warp.runnable |= lanes;
  if (warp.queued) return;
  warp.queued = true;
  ready_.push_back(&warp);
}

bool Engine::satisfied(const Fiber &fiber) const {
  if (fiber.wait == Wait::Barrier)
    return Barrier::load(static_cast<const unsigned long long *>(fiber.address)).phase != (fiber.value & 1u);
  return *static_cast<const volatile uint32_t *>(fiber.address) != fiber.value;
}

void Engine::wakeWatchers(const void *address) {
  for (Fiber **link = &watchers_[bucket(address)]; *link;) {
    Fiber &fiber = **link;
    if (fiber.address != address || !satisfied(fiber)) {
      link = &fiber.next;
      continue;
    }
    *link = fiber.next;
    wake(fiber);
  }
}

/// A plain store can change a counter too: looks at every watched word. True when that made a fiber runnable.
bool Engine::rescan() {
  bool woke = false;
  for (Fiber &fiber : fibers_) {
    uint32_t bit = 1u << (fiber.self.thread & 31);
    bool watching = fiber.wait == Wait::Counter || fiber.wait == Wait::Barrier;
    if (!watching || (fiber.warp->runnable & bit) || !satisfied(fiber)) continue;
    wakeWatchers(fiber.address);
    woke = true;
  }
  return woke;
}

/// Lets another warp run.
void Engine::yield() {
  budget_ = 0;
  switchAway();
}

void Engine::releaseCta(Cta &cta) {
  cta.arrived = 0;
  int warps = request_.shape.threads / 32;
  for (Warp *warp = cta.warps; warp != cta.warps + warps; warp++) {
    if (!warp->at_barrier) continue;
    wakeLanes(*warp, warp->at_barrier);
    warp->at_barrier = 0;
  }
}

void Engine::spinPause() {
  Fiber &fiber = running();
  fiber.polled = fiber.loaded;
  bool polls = fiber.loads == 1 && *static_cast<const volatile uint32_t *>(fiber.loaded) == fiber.loaded_value;
  fiber.loads = 0;
  if (polls) return watch(fiber, Wait::Counter, fiber.loaded, fiber.loaded_value);
  spin(fiber);
}

void Engine::feederPause() {
  Fiber &fiber = running();
  fiber.loads = 0;
  spin(fiber);
}

void Engine::spin(Fiber &fiber) {
  fiber.wait = Wait::Spin;
  fiber.warp->met = 0;
  if (++spins_ > kSpinsMax * uint64_t(live_) && copies_.empty() && !rescan()) {
    stuck_ = true;
    phasec_sim_switch(&fiber.sp, main_sp_);
  }
  yield();
}

} // namespace phasec::sim
