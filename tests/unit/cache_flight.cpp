// cache_flight.cpp: many ask, one compiles; who waits, how long, and what ends a wait.
#include "tests/cache/support.h"

#include "cache/single_flight.h"

#include <doctest/doctest.h>

#include <atomic>
#include <thread>

using namespace phasec;
using namespace phasec::test;

namespace {

using std::chrono::milliseconds;

/// A compile function that counts its runs and takes its time.
struct SlowCompiler {
  std::atomic<int> runs{0};
  milliseconds time{50};
  CompileFn of(const Compiled &kernel) {
    return [this, kernel]() -> Result<Compiled> {
      ++runs;
      std::this_thread::sleep_for(time);
      return kernel;
    };
  }
};

/// 64 threads, staggered, ask `cache` for one key; all must get the same bytes.
void stampede(const std::function<Cache &(int)> &cacheOf, SlowCompiler &compiler, const Compiled &kernel) {
  std::atomic<int> good{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 64; ++i)
    threads.emplace_back([&, i] {
      std::this_thread::sleep_for(milliseconds(i % 7));
      Result<Hit> hit = cacheOf(i).obtain(queryOf(kernel), compiler.of(kernel));
      good += hit.ok() && sameBytes(*hit->artefact, kernel.artefact);
    });
  for (std::thread &thread : threads) thread.join();
  CHECK(good == 64);
}

} // namespace

TEST_CASE("64 threads, one key, one compile: with a file and without") {
  TempDir dir;
  for (const std::string &user_dir : {dir / "user", std::string()}) {
    Bench bench(user_dir);
    auto cache = bench.open();
    SlowCompiler compiler;
    stampede([&](int) -> Cache & { return *cache; }, compiler, makeKernel(8, 1));
    CHECK(compiler.runs == 1);
    CHECK(cache->counters().compiles == 1);
    CHECK(cache->counters().waits > 0);
    CHECK(cache->counters().wait_timeouts == 0);
  }
}

TEST_CASE("several caches on one directory exclude each other, also within a process") {
  TempDir dir;
  Bench bench(dir / "user");
  std::vector<std::unique_ptr<Cache>> caches;
  for (int i = 0; i < 4; ++i) caches.push_back(bench.open());
  SlowCompiler compiler;
  stampede([&](int i) -> Cache & { return *caches[size_t(i % 4)]; }, compiler, makeKernel(8, 1));
  CHECK(compiler.runs == 1);
}

TEST_CASE("different keys compile side by side, up to the host's limit") {
  TempDir dir;
  for (int limit : {1, 3}) {
    Bench bench(dir / ("user" + std::to_string(limit)));
    bench.options.compile_slots = limit;
    auto cache = bench.open();
    std::atomic<int> now{0}, most{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 8; ++i)
      threads.emplace_back([&, i] {
        Compiled kernel = makeKernel(8, uint64_t(i));
        auto hit = cache->obtain(queryOf(kernel), [&]() -> Result<Compiled> {
          int mine = ++now;
          for (int seen = most; seen < mine && !most.compare_exchange_weak(seen, mine);) {
          }
          std::this_thread::sleep_for(milliseconds(40));
          --now;
          return kernel;
        });
        CHECK(hit.ok());
      });
    for (std::thread &thread : threads) thread.join();
    CHECK(most <= limit);
    if (limit > 1) CHECK(most > 1);
  }
}

TEST_CASE("a compile that fails fails for all who waited, and is tried again by the next") {
  Bench bench("");
  auto cache = bench.open();
  Compiled kernel = makeKernel(8, 1);
  std::atomic<int> runs{0}, failed{0};
  CompileFn broken = [&]() -> Result<Compiled> {
    ++runs;
    std::this_thread::sleep_for(milliseconds(100));
    return Status::toolchain("ptxas had a bad day");
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i)
    threads.emplace_back([&] {
      Result<Hit> hit = cache->obtain(queryOf(kernel), broken);
      failed += !hit.ok() && hit.status().kind() == ErrorKind::Toolchain;
    });
  for (std::thread &thread : threads) thread.join();
  CHECK(failed == 8);
  CHECK(runs >= 1);
  CHECK(runs <= 2); // a thread that starts after the failure may try for itself
  SlowCompiler compiler;
  CHECK(cache->obtain(queryOf(kernel), compiler.of(kernel)).ok());
}

TEST_CASE("one caller's cancellation is not another's") {
  TempDir dir;
  Bench bench(dir / "user");
  auto cache = bench.open();
  Compiled kernel = makeKernel(8, 1);
  std::atomic<bool> stop{false}, started{false};
  std::thread first([&] {
    ObtainHooks hooks;
    hooks.cancelled = [&] { return stop.load(); };
    auto hit = cache->obtain(
        queryOf(kernel),
        [&]() -> Result<Compiled> {
          started = true;
          while (!stop) std::this_thread::sleep_for(milliseconds(1));
          return Status::toolchain("cancelled");
        },
        hooks);
    CHECK_FALSE(hit.ok());
  });
  while (!started) std::this_thread::sleep_for(milliseconds(1));
  SlowCompiler compiler;
  std::thread second([&] { CHECK(cache->obtain(queryOf(kernel), compiler.of(kernel)).ok()); });
  // A third gives up while it waits.
  ObtainHooks impatient;
  impatient.cancelled = [] { return true; };
  auto third = cache->obtain(queryOf(kernel), compiler.of(kernel), impatient);
  CHECK(third.status().kind() == ErrorKind::CacheMiss);
  stop = true;
  first.join();
  second.join();
  CHECK(compiler.runs == 1);
}

TEST_CASE("a wait is bounded and reported") {
  TempDir dir;
  Bench bench(dir / "user");
  bench.options.wait_max = milliseconds(400);
  auto holder = bench.open(), waiter = bench.open();
  Compiled kernel = makeKernel(8, 1);
  std::atomic<bool> started{false}, release{false};
  std::thread slow([&] {
    CHECK(holder
              ->obtain(queryOf(kernel),
                       [&]() -> Result<Compiled> {
                         started = true;
                         while (!release) std::this_thread::sleep_for(milliseconds(1));
                         return kernel;
                       })
              .ok());
  });
  while (!started) std::this_thread::sleep_for(milliseconds(1));
  std::vector<Waiting> seen;
  ObtainHooks hooks;
  hooks.on_wait = [&](const Waiting &waiting) { seen.push_back(waiting); };
  SlowCompiler compiler;
  auto hit = waiter->obtain(queryOf(kernel), compiler.of(kernel), hooks);
  CHECK(hit.ok());
  CHECK(compiler.runs == 1); // compiled itself
  CHECK(waiter->counters().wait_timeouts == 1);
  REQUIRE_FALSE(seen.empty());
  CHECK(seen[0].pid == getpid());
  CHECK(seen[0].text().find("for pid " + std::to_string(getpid())) != std::string::npos);
  release = true;
  slow.join();
  CHECK(holder->counters().races_lost == 1); // the waiter published first, and its bytes are the ones
}

TEST_CASE("a compile function that makes another kernel is a bug, not a cache entry") {
  Bench bench("");
  auto cache = bench.open();
  SlowCompiler compiler;
  auto hit = cache->obtain(queryOf(makeKernel(8, 1)), compiler.of(makeKernel(4, 1)));
  CHECK(hit.status().kind() == ErrorKind::Internal);
  CHECK_FALSE(cache->lookup(queryOf(makeKernel(4, 1))));
}

TEST_CASE("record locks: released with their holder, named while held") {
  TempDir dir;
  std::string file = dir / "lock";
  int64_t record = keyRecord(makeKernel(8, 1).artefact.key);
  CHECK(record != keyRecord(makeKernel(8, 2).artefact.key));
  {
    auto first = RecordLock::tryLock(file, record, "(8, x)");
    REQUIRE(first.outcome == RecordLock::Outcome::Held);
    CHECK(RecordLock::tryLock(file, record, "other").outcome == RecordLock::Outcome::Busy);
    CHECK(RecordLock::tryLock(file, record + 1, "other").outcome == RecordLock::Outcome::Held);
    HolderRecord holder = readHolder(file, record);
    CHECK(holder.pid == getpid());
    CHECK(holder.host == hostName());
    CHECK(holder.what == "(8, x)");
  }
  CHECK(RecordLock::tryLock(file, record, "other").outcome == RecordLock::Outcome::Held);
  CHECK(RecordLock::tryLock(dir / "absent/lock", record, "x").outcome == RecordLock::Outcome::Unavailable);
}
