// obtain.cpp: finding or making. One compile per key among the threads of this process (flights) and among processes (a
// record lock), a bounded number of compiles at a time on a host, and every wait bounded: what cannot be waited for is
// compiled here. Nothing is held in SQLite while a compile runs.
#include "cache/layers.h"

#include <thread>

namespace phasec {

namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kFollowerPoll{50};

Status cancelledStatus(const Key &key) {
  return {ErrorKind::CacheMiss, "cancelled while waiting for the kernel " + key.text()};
}

int slotsOf(const CacheOptions &options) {
  int wanted = options.compile_slots > 0 ? options.compile_slots : int(std::thread::hardware_concurrency());
  return std::clamp(wanted, 1, kCompileSlotsMax);
}

/// Waits until the flight has landed. False: gave up or was cancelled.
enum class FollowOutcome { Landed, TimedOut, Cancelled };
FollowOutcome follow(Flight &flight, Clock::time_point deadline, const ObtainHooks &hooks) {
  Clock::time_point start = Clock::now(), report = start + std::chrono::milliseconds(100);
  std::unique_lock lock(flight.mutex);
  while (!flight.done) {
    Clock::time_point now = Clock::now();
    if (now >= deadline) return FollowOutcome::TimedOut;
    flight.landed.wait_until(lock, std::min(deadline, now + kFollowerPoll));
    if (flight.done) break;
    lock.unlock();
    bool stop = hooks.cancelled && hooks.cancelled();
    if (!stop && hooks.on_wait && Clock::now() >= report) {
      hooks.on_wait({std::chrono::duration<double>(Clock::now() - start).count(), 0, {}, false});
      report += std::chrono::seconds(1);
    }
    lock.lock();
    if (stop) return FollowOutcome::Cancelled;
  }
  return FollowOutcome::Landed;
}

} // namespace

Result<Hit> Cache::obtain(const Query &query, const CompileFn &compile, const ObtainHooks &hooks) {
  return impl().obtain(query, compile, hooks);
}

Result<Hit> Cache::Impl::obtain(const Query &query, const CompileFn &compile, const ObtainHooks &hooks) {
  if (std::optional<Hit> hit = lookup(query)) return *hit;
  const Clock::time_point deadline = Clock::now() + options.wait_max;
  const std::pair<Key, std::string> same_work{query.key, query.toolchain.empty() ? query.compiler : query.toolchain};
  while (true) {
    std::shared_ptr<Flight> flight;
    bool leader = false;
    {
      std::lock_guard lock(flights_mutex);
      std::shared_ptr<Flight> &slot = flights[same_work];
      leader = !slot;
      if (leader) slot = std::make_shared<Flight>();
      flight = slot;
    }
    if (leader) {
      Result<Hit> result = lead(query, compile, hooks);
      {
        std::lock_guard lock(flights_mutex);
        flights.erase(same_work);
      }
      std::lock_guard lock(flight->mutex);
      flight->done = true;
      if (result.ok())
        flight->hit = *result;
      else
        flight->error = result.status(), flight->cancelled = hooks.cancelled && hooks.cancelled();
      flight->landed.notify_all();
      return result;
    }
    count(&CacheCounters::waits);
    FollowOutcome outcome = follow(*flight, deadline, hooks);
    if (outcome == FollowOutcome::Cancelled) return cancelledStatus(query.key);
    if (outcome == FollowOutcome::TimedOut) {
      count(&CacheCounters::wait_timeouts);
      return compileAndPublish(query, compile);
    }
    std::lock_guard lock(flight->mutex);
    if (flight->hit) return Hit{flight->hit->artefact, CacheLayer::Memory, flight->hit->path};
    // Somebody else's cancellation is not ours: take over.
    if (!flight->cancelled) return flight->error;
  }
}

/// The leader of a flight: locks the key among processes, looks again, takes a compile slot, compiles.
Result<Hit> Cache::Impl::lead(const Query &query, const CompileFn &compile, const ObtainHooks &hooks) {
  // Between our look-up and our flight another one may have landed.
  if (std::optional<Hit> hit = lookup(query)) return *hit;
  bool shared = false;
  {
    std::lock_guard lock(files_mutex);
    shared = user.store() != nullptr && user.store()->writable();
  }
  WaitResult key_lock, slot;
  if (shared) {
    const Clock::time_point deadline = Clock::now() + options.wait_max;
    key_lock = waitForRecord(user.lockFile(), {keyRecord(query.key)}, query.key.text(), false, deadline, hooks);
    if (key_lock.waited) count(&CacheCounters::waits);
    if (key_lock.outcome == WaitOutcome::Cancelled) return cancelledStatus(query.key);
    if (key_lock.outcome == WaitOutcome::GaveUp) count(&CacheCounters::wait_timeouts);
    if (std::optional<Hit> hit = lookup(query)) return *hit;

    std::vector<int64_t> slots;
    for (int i = 0; i < slotsOf(options); ++i) slots.push_back(slotRecord(hostName(), i));
    slot = waitForRecord(user.lockFile(), slots, query.key.text(), true, deadline, hooks);
    if (slot.outcome == WaitOutcome::Cancelled) return cancelledStatus(query.key);
  }
  return compileAndPublish(query, compile);
}

Result<Hit> Cache::Impl::compileAndPublish(const Query &query, const CompileFn &compile) {
  count(&CacheCounters::compiles);
  PHASEC_ASSIGN(Compiled compiled, compile());
  if (compiled.artefact.key != query.key)
    return Status::internal("asked for " + query.key.text() + ", but the compile function made " +
                            compiled.artefact.key.text());
  // Before the row is there for others: whoever sees it must also see that its toolchain is theirs.
  if (query.toolchain.empty() && !query.compiler.empty()) learnToolchain(query.compiler, compiled.artefact.toolchain);
  return publish(std::move(compiled));
}

Result<Hit> Cache::publish(const Compiled &compiled) { return impl().publish(compiled); }

/// Never fails for want of a file: what cannot be stored is served from memory.
Result<Hit> Cache::Impl::publish(Compiled compiled) {
  Hit hit{nullptr, CacheLayer::Compiled, {}};
  {
    std::lock_guard lock(files_mutex);
    Status status;
    if (user.store() && user.store()->writable()) {
      if (compiled.evidence.host.empty()) compiled.evidence.host = hostName();
      Result<Store::Published> done =
          user.with<Store::Published>(true, [&](Store &store) { return store.publish(compiled); });
      if (done.ok()) {
        count(done->inserted ? &CacheCounters::published : &CacheCounters::races_lost);
        hit.artefact = done->winner;
        hit.path = user.path();
        damaged.erase(compiled.artefact.key);
        user.touch(done->id);
      } else {
        degrade("publish", done.status().text() + "; the kernel was compiled and lives in this process's memory only");
      }
    } else if (user.wanted()) {
      degrade("user file", user.problem());
    }
  }
  if (!hit.artefact) hit.artefact = std::make_shared<const Artefact>(std::move(compiled.artefact));
  remember(hit);
  return hit;
}

} // namespace phasec
