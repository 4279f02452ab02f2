// sim_engine.cpp: the sim's scheduler, collectives, barriers and counters, on small kernels.
#include "tests/unit/sim_support.h"

#include <cmath>
#include <ctime>

using namespace simtest;

namespace {

/// Each round: every CTA publishes a value that depends on what all CTAs published the round before; a grid barrier.
const char *kGrid = R"(
PHASEC_DEVICE void grid_barrier(u32 *counter, u32 target) {
  ptx::sync_cta();
  if (ptx::thread() == 0) {
    ptx::arrive_release(counter, 1u);
    while (i32(ptx::load_acquire(counter) - target) < 0) ptx::spin_pause();
  }
  ptx::sync_cta();
}
PHASEC_KERNEL(256) k(const __grid_constant__ Args args) {
  u32 *counter = (u32 *)args.a, *values = (u32 *)args.b;
  int ctas = ptx::ctas();
  for (int round = 0; round < args.n; round++) {
    u32 sum = u32(round) * 7u + u32(ptx::cta()) * 131u + 1u;
    if (round > 0)
      for (int c = 0; c < ctas; c++) sum += values[(round - 1) * ctas + c] * u32(c * 2 + 3);
    if (ptx::thread() == 37) values[round * ctas + ptx::cta()] = sum;
    if (!args.m) grid_barrier(counter, u32(round + 1) * u32(ctas));
    else ptx::sync_cta();
  }
}
)";

std::vector<uint32_t> gridExpected(int rounds, int ctas) {
  std::vector<uint32_t> values(size_t(rounds * ctas));
  for (int r = 0; r < rounds; r++)
    for (int c = 0; c < ctas; c++) {
      uint32_t sum = uint32_t(r) * 7u + uint32_t(c) * 131u + 1u;
      if (r > 0)
        for (int o = 0; o < ctas; o++) sum += values[size_t((r - 1) * ctas + o)] * uint32_t(o * 2 + 3);
      values[size_t(r * ctas + c)] = sum;
    }
  return values;
}

std::vector<uint32_t> runGrid(uint64_t seed, int rounds, int ctas, bool broken, Status *status = nullptr,
                              LaunchCounters *counters = nullptr) {
  Bench bench(kGrid, seed);
  Args args{bench.put(std::vector<uint32_t>(1)), bench.put(std::vector<uint32_t>(size_t(rounds * ctas))), nullptr,
            rounds, broken};
  Status launched = bench.launch(ctas, 256, 0, args);
  if (status)
    *status = launched;
  else
    CHECK_MESSAGE(launched.ok(), launched.text());
  if (counters) *counters = bench.device->counters();
  return bench.get<uint32_t>(args.b, size_t(rounds * ctas));
}

} // namespace

TEST_CASE("sim: a grid barrier orders CTAs, under every seed") {
  for (uint64_t seed = 1; seed <= 8; seed++) {
    LaunchCounters counters;
    CHECK(runGrid(seed, 5, 7, false, nullptr, &counters) == gridExpected(5, 7));
    CHECK(counters.event_arrivals == 35);
    CHECK(counters.event_waits == 35);
  }
}

TEST_CASE("sim: without the grid barrier CTAs read too early") {
  int wrong = 0;
  for (uint64_t seed = 1; seed <= 8; seed++) wrong += runGrid(seed, 5, 7, true) != gridExpected(5, 7);
  CHECK(wrong >= 6);
}

TEST_CASE("sim: 132 CTAs of 256 threads pass grid barriers in seconds") {
  auto begin = std::clock();
  CHECK(runGrid(3, 4, 132, false) == gridExpected(4, 132));
  double seconds = double(std::clock() - begin) / CLOCKS_PER_SEC;
  MESSAGE("132 x 256 fibers, 4 grid barriers: " << seconds << " s");
  CHECK(seconds < 20.0);
}

TEST_CASE("sim: shuffles and butterflies equal the written order of operations") {
  const char *body = R"(
PHASEC_KERNEL(96) k(const __grid_constant__ Args args) {
  int i = ptx::cta() * 96 + ptx::thread();
  float v = ((const float *)args.a)[i];
  u32 *out = (u32 *)args.b + i * 5;
  for (int round = 0; round < args.n; round++) {
    out[0] = ptx::bits(ptx::butterfly_sum(v));
    out[1] = ptx::bits(ptx::butterfly_max(v));
    out[2] = ptx::shfl(ptx::bits(v), (ptx::warp() * 5 + 3) & 31);
    out[3] = ptx::shfl_xor(ptx::bits(v), 1 << (ptx::warp() + 1));
    float w = v;
    for (int mask = 16; mask >= 1; mask >>= 1) w = w + ptx::from_bits(ptx::shfl_xor(ptx::bits(w), mask));
    out[4] = ptx::bits(w);
  }
}
)";
  const int ctas = 3, n = ctas * 96;
  std::vector<float> in;
  for (int i = 0; i < n; i++) in.push_back(std::ldexp(float(i * 7919 % 1009) - 500.25f, i * 31 % 40 - 20));
  auto bitsOf = [](float v) {
    uint32_t b;
    memcpy(&b, &v, 4);
    return b;
  };
  Bench bench(body, 5);
  Args args{bench.put(in), bench.put(std::vector<uint32_t>(size_t(n) * 5)), nullptr, 3, 0};
  Status status = bench.launch(ctas, 96, 0, args);
  REQUIRE_MESSAGE(status.ok(), status.text());
  auto out = bench.get<uint32_t>(args.b, size_t(n) * 5);
  for (int base = 0; base < n; base += 32) {
    std::vector<float> v(in.begin() + base, in.begin() + base + 32);
    float largest = v[0];
    for (float x : v) largest = largest < x ? x : largest;
    std::vector<float> sum = v;
    for (int mask = 16; mask >= 1; mask >>= 1) {
      std::vector<float> next(32);
      for (int l = 0; l < 32; l++) next[size_t(l)] = sum[size_t(l)] + sum[size_t(l ^ mask)];
      sum = next;
    }
    int warp = base / 32 % 3;
    for (int l = 0; l < 32; l++) {
      const uint32_t *o = &out[size_t(base + l) * 5];
      CHECK(o[0] == bitsOf(sum[size_t(l)]));
      CHECK(o[0] == o[4]);
      CHECK(o[1] == bitsOf(largest));
      CHECK(o[2] == bitsOf(v[size_t((warp * 5 + 3) & 31)]));
      CHECK(o[3] == bitsOf(v[size_t(l ^ (1 << (warp + 1)))]));
    }
  }
}

TEST_CASE("sim: what a lane writes before sync_warp and a thread before sync_cta is seen after it, and only then") {
  // Each round rotates a line of words through shared memory; args.m drops one of the barriers.
  const char *body = R"(
PHASEC_KERNEL(128) k(const __grid_constant__ Args args) {
  u32 *line = (u32 *)ptx::shared_base(), *out = (u32 *)args.a;
  u32 v = u32(ptx::thread()) * 2654435761u + u32(ptx::cta());
  for (int round = 0; round < args.n; round++) {
    line[ptx::thread()] = v;
    if (args.m != 1) ptx::sync_cta();
    v = line[(ptx::thread() + 33) & 127] * 3u + 1u;
    if (args.m != 2) ptx::sync_cta();
    line[128 + ptx::thread()] = v;
    if (args.m != 3) ptx::sync_warp();
    v ^= line[128 + (ptx::thread() ^ 5)] + u32(round);
    ptx::sync_warp();
  }
  out[ptx::cta() * 128 + ptx::thread()] = v;
}
)";
  std::vector<uint32_t> expected;
  for (uint32_t cta = 0; cta < 3; cta++) {
    std::vector<uint32_t> v(128), line(128), next(128);
    for (uint32_t t = 0; t < 128; t++) v[t] = t * 2654435761u + cta;
    for (uint32_t round = 0; round < 9; round++) {
      for (uint32_t t = 0; t < 128; t++) next[t] = v[(t + 33) & 127] * 3u + 1u;
      for (uint32_t t = 0; t < 128; t++) v[t] = next[t] ^ (next[t ^ 5] + round);
    }
    expected.insert(expected.end(), v.begin(), v.end());
  }
  for (int drop = 0; drop <= 3; drop++) {
    int wrong = 0;
    for (uint64_t seed = 1; seed <= 10; seed++) {
      Bench bench(body, seed);
      Args args{bench.put(std::vector<uint32_t>(384)), nullptr, nullptr, 9, drop};
      Status status = bench.launch(3, 128, 1024, args);
      REQUIRE_MESSAGE(status.ok(), status.text());
      wrong += bench.get<uint32_t>(args.a, 384) != expected;
    }
    CAPTURE(drop);
    if (drop == 0)
      CHECK(wrong == 0);
    else
      CHECK(wrong >= 5);
  }
}

TEST_CASE("sim: sync_workers is met by the first warps, and orders what they wrote") {
  // args.m: 1 drops the barrier, 2 has the last warp call it, 3 has one worker wait for all threads instead.
  const char *body = R"(
PHASEC_KERNEL(128) k(const __grid_constant__ Args args) {
  u32 *line = (u32 *)ptx::shared_base();
  if (args.m == 3 && ptx::warp() == 1) ptx::sync_cta();
  if (ptx::warp() == 3) {
    if (args.m == 2) ptx::sync_workers(96);
    return;
  }
  u32 v = u32(ptx::thread());
  for (int round = 0; round < args.n; round++) {
    line[ptx::thread()] = v;
    if (args.m != 1) ptx::sync_workers(96);
    v = line[(ptx::thread() + 33) % 96] * 3u + 1u;
    ptx::sync_workers(96);
  }
  ((u32 *)args.a)[ptx::thread()] = v;
}
)";
  std::vector<uint32_t> expected(96), next(96);
  for (uint32_t t = 0; t < 96; t++) expected[t] = t;
  for (int round = 0; round < 7; round++) {
    for (uint32_t t = 0; t < 96; t++) next[t] = expected[(t + 33) % 96] * 3u + 1u;
    expected = next;
  }
  int wrong = 0;
  for (int mode = 0; mode <= 3; mode++)
    for (uint64_t seed = 1; seed <= 10; seed++) {
      Bench bench(body, seed);
      Args args{bench.put(std::vector<uint32_t>(96)), nullptr, nullptr, 7, mode};
      Status status = bench.launch(1, 128, 512, args);
      CAPTURE(mode);
      if (mode < 2) REQUIRE_MESSAGE(status.ok(), status.text());
      if (mode == 0) CHECK(bench.get<uint32_t>(args.a, 96) == expected);
      if (mode == 1) wrong += bench.get<uint32_t>(args.a, 96) != expected;
      if (mode == 2) CHECK_MESSAGE(contains(status.text(), "meets the CTA's first 96 threads, to which it does not belong"), status.text());
      if (mode == 3) CHECK_MESSAGE(contains(status.text(), "threads while others wait for"), status.text());
    }
  CHECK(wrong >= 8);
}

TEST_CASE("sim: together hands 32 structs to one lane") {
  const char *body = R"(
struct Lane { u32 in, out; };
PHASEC_DEVICE void reverse(void *const *lanes) {
  for (int i = 0; i < 32; i++) ((Lane *)lanes[i])->out = ((Lane *)lanes[31 - i])->in * u32(i + 1);
}
PHASEC_KERNEL(64) k(const __grid_constant__ Args args) {
  u32 v = u32(ptx::thread() * 17 + 5);
  for (int i = 0; i < args.n; i++) {
    Lane mine = {v, 0};
    phasec_sim_api.together(phasec_sim_api.engine, "mma.test", reverse, &mine);
    v = mine.out;
  }
  ((u32 *)args.a)[ptx::thread()] = v;
}
)";
  Bench bench(body, 2);
  Args args{bench.put(std::vector<uint32_t>(64)), nullptr, nullptr, 4, 0};
  REQUIRE(bench.launch(1, 64, 0, args).ok());
  std::vector<uint32_t> v(64), next(64);
  for (uint32_t t = 0; t < 64; t++) v[t] = t * 17 + 5;
  for (int round = 0; round < 4; round++) {
    for (uint32_t t = 0; t < 64; t++) next[t] = v[(t & 32) + 31 - (t & 31)] * ((t & 31) + 1);
    v = next;
  }
  CHECK(bench.get<uint32_t>(args.a, 64) == v);
  CHECK(bench.device->counters().mma == 8);
}

TEST_CASE("sim: subnormals survive, whatever the host thread's mode, and the mode survives the launch") {
  const char *body = R"(
PHASEC_KERNEL(32) k(const __grid_constant__ Args args) {
  float *v = (float *)args.a + ptx::thread();
  v[0] = ptx::fma(v[0], 0.25f, 0.0f);
}
)";
  Bench bench(body, 1);
  Args args{bench.put(std::vector<float>(32, 2e-38f)), nullptr, nullptr, 0, 0};
#if defined(__x86_64__)
  unsigned before = __builtin_ia32_stmxcsr();
  __builtin_ia32_ldmxcsr(before | 0x8040u);
#endif
  Status status = bench.launch(1, 32, 0, args);
#if defined(__x86_64__)
  CHECK((__builtin_ia32_stmxcsr() & 0x8040u) == 0x8040u);
  __builtin_ia32_ldmxcsr(before);
#endif
  REQUIRE(status.ok());
  CHECK(bench.get<float>(args.a, 1)[0] == 5e-39f);
}

TEST_CASE("sim: the cost of a switch") {
  const char *body = R"(
PHASEC_KERNEL(256) k(const __grid_constant__ Args args) {
  float v = float(ptx::thread());
  for (int i = 0; i < args.n; i++) v = ptx::butterfly_sum(v) * 0.03125f;
  ((float *)args.a)[ptx::cta() * 256 + ptx::thread()] = v;
}
)";
  for (int ctas : {1, 4, 32}) {
    Bench bench(body, 1);
    int rounds = 128000 / ctas;
    Args args{bench.put(std::vector<float>(size_t(ctas) * 256)), nullptr, nullptr, rounds, 0};
    auto begin = std::clock();
    REQUIRE(bench.launch(ctas, 256, 0, args).ok());
    double seconds = double(std::clock() - begin) / CLOCKS_PER_SEC;
    double ns = seconds * 1e9 / (256.0 * ctas * rounds);
    MESSAGE(ctas << " CTAs: " << ns << " ns per lane and butterfly");
    CHECK(ns < 500.0);
  }
}
