// sim_stream.cpp: mbarriers and the byte stream on the sim: a ring that is right under every seed, the same ring with
// its wait removed, and every contract that the engine checks.
#include "tests/unit/sim_support.h"

using namespace simtest;

namespace {

/// Each warp sums its share of `a` (u32) through a ring of 3 stages of 512 bytes, filled as two copies. m = 1 forgets
/// to wait; m = 2 refills a stage before the other lanes have read it.
const char *kRing = R"(
PHASEC_KERNEL(128) k(const __grid_constant__ Args args) {
  constexpr int stages = 3, words = 128;
  u8 *shared = ptx::shared_base();
  int me = ptx::cta() * 4 + ptx::warp(), warps = ptx::ctas() * 4;
  u64 *full = (u64 *)shared + ptx::warp() * stages;
  u8 *ring = shared + 1024 + ptx::warp() * stages * 512;
  if (ptx::lane() == 0)
    for (int i = 0; i < stages; i++) ptx::mbar_init(full + i, ptx::stream_arrivals());
  ptx::mbar_init_fence();
  ptx::sync_cta();
  int issued = 0, count = (args.n - me + warps - 1) / warps;
  auto fill = [&] {
    const u8 *from = args.a + (i64)(me + issued * warps) * 512;
    u64 *bar = full + issued % stages;
    u8 *to = ring + issued % stages * 512;
    ptx::stream_expect(bar, 512);
    ptx::stream_copy(to, from, 128, bar, true);
    ptx::stream_copy(to + 128, from + 128, 384, bar, true);
    ptx::stream_commit(bar);
    issued++;
  };
  while (issued < count && issued < stages) fill();
  u32 sum = 0;
  for (int taken = 0; taken < count; taken++) {
    if (args.m != 1) ptx::stream_wait(full + taken % stages, u32(taken / stages) & 1u);
    const u32 *stage = (const u32 *)(ring + taken % stages * 512);
    for (int i = 0; i < 4; i++) sum = sum * 5u + stage[(ptx::lane() * 7 + i * 32) % words];
    if (args.m != 2) ptx::sync_warp();
    if (issued < count) fill();
  }
  ((u32 *)args.b)[me * 32 + ptx::lane()] = sum;
  if (args.m == 1) // the stages must land before the CTA may return
    for (int i = 0; i < stages && i < count; i++) {
      int last = (count - 1 - i) / stages;
      ptx::mbar_wait(full + i, u32(last) & 1u);
    }
}
)";

std::vector<uint32_t> ringData(int blocks) {
  std::vector<uint32_t> data(size_t(blocks) * 128);
  for (size_t i = 0; i < data.size(); i++) data[i] = uint32_t(i * 2654435761u + i / 77);
  return data;
}

std::vector<uint32_t> ringExpected(const std::vector<uint32_t> &data, int blocks, int warps) {
  std::vector<uint32_t> sums(size_t(warps) * 32);
  for (int warp = 0; warp < warps; warp++)
    for (int lane = 0; lane < 32; lane++)
      for (int block = warp; block < blocks; block += warps)
        for (int i = 0; i < 4; i++)
          sums[size_t(warp * 32 + lane)] =
              sums[size_t(warp * 32 + lane)] * 5u + data[size_t(block) * 128 + size_t(lane * 7 + i * 32) % 128];
  return sums;
}

struct Ran {
  Status status;
  std::vector<uint32_t> sums;
  LaunchCounters counters;
};

Ran runRing(uint64_t seed, int blocks, int mode) {
  Bench bench(kRing, seed);
  Args args{bench.put(ringData(blocks)), bench.put(std::vector<uint32_t>(2 * 128)), nullptr, blocks, mode};
  Status status = bench.launch(2, 128, 1024 + 4 * 3 * 512, args);
  return {status, bench.get<uint32_t>(args.b, 2 * 128), bench.device->counters()};
}

/// Runs one warp of `body` on 4 KB of data and 1 KB of shared memory, and expects the launch to fail with `part`.
void expectFault(const std::string &body, const std::string &part) {
  CAPTURE(body);
  Bench bench("PHASEC_KERNEL(32) k(const __grid_constant__ Args args) {\n"
              "  u8 *shared = ptx::shared_base(); u64 *bar = (u64 *)shared; (void)bar; (void)args;\n"
              "  if (ptx::lane() == 0) ptx::mbar_init(bar, ptx::stream_arrivals());\n  ptx::sync_warp();\n" +
                  body + "\n}\n",
              3);
  Args args{bench.put(std::vector<uint32_t>(1024)), nullptr, nullptr, 0, 0};
  Status status = bench.launch(1, 32, 1024, args);
  REQUIRE_FALSE(status.ok());
  CHECK(status.kind() == ErrorKind::Device);
  CHECK_MESSAGE(contains(status.text(), part), status.text());
  CHECK_MESSAGE(contains(status.text(), "cta 0"), status.text());
  CHECK(bench.device->synchronize().text() == status.text());
}

} // namespace

TEST_CASE("sim: a ring of bulk copies delivers every byte, under every seed, and is counted") {
  for (int blocks : {37, 8, 3}) {
    auto expected = ringExpected(ringData(blocks), blocks, 8);
    for (uint64_t seed = 1; seed <= 6; seed++) {
      Ran ran = runRing(seed, blocks, 0);
      REQUIRE_MESSAGE(ran.status.ok(), ran.status.text());
      CHECK(ran.sums == expected);
      CHECK(ran.counters.stream_copies == uint64_t(blocks) * 2);
      CHECK(ran.counters.stream_bytes == uint64_t(blocks) * 512);
      CHECK(ran.counters.stream_waits == uint64_t(blocks));
    }
  }
}

TEST_CASE("sim: every host compiler makes an object with the same results") {
  const char *path = std::getenv("PATH");
  for (const char *name : {"g++", "clang++"}) {
    auto cxx = findHostCompiler(name, path ? path : "");
    if (!cxx.ok()) continue;
    CAPTURE(*cxx);
    auto object = compileForSim(kernelSource(kRing), *cxx);
    REQUIRE_MESSAGE(object.ok(), object.status().text());
    CHECK_MESSAGE(object->log.empty(), object->log);
    Bench bench(kRing, 7);
    bench.kernel = bench.device->load(object->image, "k").take();
    Args args{bench.put(ringData(21)), bench.put(std::vector<uint32_t>(256)), nullptr, 21, 0};
    REQUIRE(bench.launch(2, 128, 1024 + 4 * 3 * 512, args).ok());
    CHECK(bench.get<uint32_t>(args.b, 256) == ringExpected(ringData(21), 21, 8));
  }
}

TEST_CASE("sim: a ring without its wait reads garbage") {
  auto expected = ringExpected(ringData(37), 37, 8);
  for (uint64_t seed = 1; seed <= 6; seed++) {
    Ran ran = runRing(seed, 37, 1);
    // Either the garbage shows, or a stage was opened again before its bytes had landed.
    CHECK((!ran.status.ok() || ran.sums != expected));
  }
}

TEST_CASE("sim: a ring that refills a stage that is still being read") {
  auto expected = ringExpected(ringData(37), 37, 8);
  int wrong = 0;
  for (uint64_t seed = 1; seed <= 6; seed++) {
    Ran ran = runRing(seed, 37, 2);
    wrong += !ran.status.ok() || ran.sums != expected;
  }
  CHECK(wrong >= 5);
}

TEST_CASE("sim: broken stream contracts end the launch and say who and what") {
  const std::string open = "ptx::stream_expect(bar, 32);\n",
                    close = "ptx::stream_commit(bar); ptx::stream_wait(bar, 0);\n";
  expectFault(open + "ptx::stream_copy(shared + 24, args.a, 32, bar, true);" + close,
              "shared memory + 24 is not aligned to 16");
  expectFault(open + "ptx::stream_copy(shared + 64, args.a + 8, 32, bar, true);" + close, "multiples of 16");
  expectFault("ptx::stream_expect(bar, 24); ptx::stream_copy(shared + 64, args.a, 24, bar, true);" + close,
              "of 24 bytes");
  expectFault(open + "ptx::stream_copy(shared + 1008, args.a, 32, bar, true);" + close, "leaves the CTA's 1024 bytes");
  expectFault(open + "ptx::stream_copy(shared + 64, args.a + 4080, 32, bar, true);" + close,
              "leaves the memory that was allocated");
  expectFault(open + "ptx::stream_copy(shared + 64, args.a, 48, bar, true);" + close, "expects only 32 more");
  expectFault(open + "ptx::stream_copy(shared + 64, args.a, 16, bar, true);" + close, "still expects 16 bytes");
  expectFault("ptx::stream_copy(shared + 64, args.a, 16, bar, true);", "stream_expect did not open");
  expectFault(open + "ptx::stream_copy(shared + 64, args.a, 32, bar, true);", "stream_commit is missing");
  expectFault(open + "ptx::stream_copy(shared + 64, args.a, 32, bar, true); ptx::stream_commit(bar);",
              "a stream_wait is missing");
  expectFault("if (ptx::lane() < 31) {" + open +
                  "ptx::stream_copy(shared + 64, args.a, 32, bar, true); ptx::stream_commit(bar); }"
                  "ptx::stream_wait(bar, 0);",
              "lane 31: made other stream calls than lane 0");
  expectFault("bar[3] = 12345; ptx::stream_wait(bar + 3, 0);", "was not initialised or was overwritten");
  expectFault("if (ptx::lane() < 2) ptx::mbar_arrive(bar + 0); ptx::mbar_init(bar, 5000);", "5000 arrivals");
  expectFault("ptx::add_shared((u32 *)(shared + 1024), 1u);", "leaves the CTA's 1024 bytes");
}

TEST_CASE("sim: mbarriers count arrivals and turn their parity") {
  const char *body = R"(
PHASEC_KERNEL(96) k(const __grid_constant__ Args args) {
  u64 *bar = (u64 *)ptx::shared_base();
  u32 *word = (u32 *)(bar + 2);
  if (ptx::thread() == 0) { ptx::mbar_init(bar, 64); ptx::mbar_init(bar + 1, 32); word[0] = 0; }
  ptx::mbar_init_fence();
  ptx::sync_cta();
  for (u32 round = 0; round < u32(args.n); round++) {
    if (ptx::warp() < 2) { // producers
      if (round > 0) ptx::mbar_wait(bar + 1, (round - 1) & 1u);
      ptx::add_shared(word, u32(ptx::thread()) + round);
      ptx::mbar_arrive(bar);
    } else {
      ptx::mbar_wait(bar, round & 1u);
      ((u32 *)args.a)[round * 32 + u32(ptx::lane())] = word[0];
      ptx::mbar_arrive(bar + 1);
    }
  }
}
)";
  for (uint64_t seed = 1; seed <= 5; seed++) {
    Bench bench(body, seed);
    Args args{bench.put(std::vector<uint32_t>(7 * 32)), nullptr, nullptr, 7, 0};
    Status status = bench.launch(1, 96, 256, args);
    REQUIRE_MESSAGE(status.ok(), status.text());
    auto seen = bench.get<uint32_t>(args.a, 7 * 32);
    uint32_t sum = 0;
    for (uint32_t round = 0; round < 7; round++) {
      sum += 63 * 64 / 2 + 64 * round;
      for (uint32_t lane = 0; lane < 32; lane++) CHECK(seen[round * 32 + lane] == sum);
    }
  }
}
