// sim_stream.cpp: mbarriers and the byte stream on the sim: the ring of templates/stream.cuh, right under every seed; the
// same ring with one thing wrong; and every contract that the engine checks.
#include "tests/unit/sim_support.h"

using namespace simtest;

namespace {

/// What templates/stream.cuh makes of a ring of five stages of 512 bytes: four warps take the CTA's blocks in turn, in two steps,
/// and sum each.
const char *kRing = R"(
struct L {
  static constexpr bool prefetches = false;
  static constexpr int warps = 4, threads = 128, feeders = 1, stages = 5, window = 5, stage_bytes = 512, instances = 1, table_entries = 2, first_step = 0;
  static constexpr int barriers_offset = 0, reads_offset = 512, stretches_offset = 320, feeder_tables_offset = 768, ring_offset = 1024;
};
struct Program {
  static int calls(int) { return 1; }
  static int steps_begin(int) { return 0; }
  static int steps_end(int) { return 2; }
  static int begin(const Cta &cta, int step) { return step == 0 ? 0 : share(items(cta), 1, 3); }
  static int items(const Cta &cta) { return share(int(cta.table[1]), cta.cta + 1, ptx::ctas()) - share(int(cta.table[1]), cta.cta, ptx::ctas()); }
  static int items(const Cta &cta, int step) { return step == 0 ? begin(cta, 1) : items(cta) - begin(cta, 1); }
  static int block(const Cta &cta, int step, int item) { return share(int(cta.table[1]), cta.cta, ptx::ctas()) + begin(cta, step) + item; }
  static bool fetch(const u64 *table, int, const Stretch &s, int item, Item &to) {
    to.from = (const u8 *)table[0] + (s.unit + item) * 480;
    to.bytes = 480;
    return true;
  }
};
PHASEC_KERNEL(160) k(const __grid_constant__ Args args) {
  Cta cta{};
  cta.launch_table = cta.table = args.table;
  cta.cta = ptx::cta(), cta.warp = ptx::warp(), cta.lane = ptx::lane();
  cta.call_end = 2;
  if (int step = ptx::thread(); step < 2) {
    stream::open_empty<L>(step);
    stream::stretches<L>(step)[step] = Stretch{Program::items(cta, step), 1, 0, Program::block(cta, step, 0), 0, 0};
  }
  using R = Ring<L>;
  R::open(cta);
  ptx::sync_cta();
  if (cta.warp >= L::warps) return stream::feed<Program, L>(cta);
  for (int step = 0; step < 2; step++) {
    int items = Program::items(cta, step);
    ptx::sync_workers(L::threads);
    for (int i = cta.warp; i < items; i += L::warps) {
      u32 n = R::first() + u32(i);
      const u32 *stage = (const u32 *)R::wait(n);
      u32 sum = 0;
      for (int j = 0; j < 4; j++) sum = sum * 5u + stage[(cta.lane * 7 + j * 31) % 120];
      R::release(cta, n);
      ((u32 *)args.workspace)[Program::block(cta, step, i) * 32 + cta.lane] = sum;
    }
    R::advance(u32(items));
  }
}
PHASEC_KERNEL_ENTRY(k, Args)
)";

std::vector<uint32_t> ringData(int blocks) {
  std::vector<uint32_t> data(size_t(blocks) * 120);
  for (size_t i = 0; i < data.size(); i++) data[i] = uint32_t(i * 2654435761u + i / 77);
  return data;
}

std::vector<uint32_t> ringExpected(const std::vector<uint32_t> &data, int blocks) {
  std::vector<uint32_t> sums(size_t(blocks) * 32);
  for (int block = 0; block < blocks; block++)
    for (int lane = 0; lane < 32; lane++)
      for (int i = 0; i < 4; i++) {
        uint32_t &sum = sums[size_t(block * 32 + lane)];
        sum = sum * 5u + data[size_t(block) * 120 + size_t(lane * 7 + i * 31) % 120];
      }
  return sums;
}

/// The ring's source, with one thing in stream.cuh changed.
std::string ringSource(const std::string &from = "", const std::string &to = "", int feeders = 1, int window = 5, int stages = 5) {
  std::string stream = withIncludes("stream.cuh"), ring = kRing;
  ring.replace(ring.find("feeders = 1"), 11, "feeders = " + std::to_string(feeders));
  ring.replace(ring.find("stages = 5"), 10, "stages = " + std::to_string(stages));
  ring.replace(ring.find("window = 5"), 10, "window = " + std::to_string(window));
  ring.replace(ring.find("(160)"), 5, "(" + std::to_string(128 + 32 * feeders) + ")");
  if (!from.empty()) {
    size_t at = stream.find(from);
    REQUIRE_MESSAGE(at != std::string::npos, "stream.cuh no longer says ", from);
    stream.replace(at, from.size(), to);
  }
  return stream + ring;
}

struct Ran {
  Status status;
  std::vector<uint32_t> sums;
  LaunchCounters counters;
};

Ran runRing(const std::string &source, uint64_t seed, int blocks, const std::vector<uint8_t> *image = nullptr, int feeders = 1, int stages = 5) {
  Bench bench(image ? *image : compiledSource(source), seed);
  struct {
    void *table, *workspace;
    int call_begin, call_end;
  } args{nullptr, bench.put(std::vector<uint32_t>(size_t(blocks) * 32)), 0, 2};
  args.table = bench.put(std::vector<uint64_t>{uint64_t(bench.put(ringData(blocks))), uint64_t(blocks)});
  Status status = bench.launch(2, 128 + 32 * unsigned(feeders), 1024 + 512 * stages, args);
  return {status, bench.get<uint32_t>(args.workspace, size_t(blocks) * 32), bench.device->counters()};
}

/// How many of twenty schedules show what was changed; `report` gets the failures' texts.
int caught(const std::string &from, const std::string &to, std::string *report = nullptr, int blocks = 37) {
  std::string source = ringSource(from, to);
  auto expected = ringExpected(ringData(blocks), blocks);
  int wrong = 0;
  for (uint64_t seed = 1; seed <= 20; seed++) {
    Ran ran = runRing(source, seed, blocks);
    wrong += !ran.status.ok() || ran.sums != expected;
    if (report && !ran.status.ok()) *report += ran.status.text();
  }
  return wrong;
}

/// Runs one warp of `body` on 4 KB of data and 1 KB of shared memory, and expects the launch to fail with `part`.
void expectFault(const std::string &body, const std::string &part) {
  CAPTURE(body);
  Bench bench("PHASEC_KERNEL(32) k(const __grid_constant__ Args args) {\n"
              "  u8 *shared = ptx::shared_base(); u64 *bar = (u64 *)shared; bool one = ptx::lane() == 0; (void)bar; (void)args; (void)one;\n"
              "  if (ptx::lane() == 0) ptx::mbar_init(bar, 1);\n  ptx::sync_warp();\n" +
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

TEST_CASE("sim: feeders deliver every byte, under every seed, and are counted") {
  for (auto [blocks, feeders] : {std::pair{37, 1}, {8, 1}, {3, 1}, {37, 3}, {8, 3}, {3, 3}}) {
    auto expected = ringExpected(ringData(blocks), blocks);
    for (uint64_t seed = 1; seed <= 20; seed++) {
      Ran ran = runRing(ringSource("", "", feeders), seed, blocks, nullptr, feeders);
      REQUIRE_MESSAGE(ran.status.ok(), ran.status.text());
      CHECK(ran.sums == expected);
      CHECK(ran.counters.stream_copies == uint64_t(blocks));
      CHECK(ran.counters.stream_bytes == uint64_t(blocks) * 480);
      CHECK(ran.counters.stream_waits == uint64_t(blocks));
    }
  }
}

TEST_CASE("sim: while nothing is under way and no stage is free, the next items come to L2, each at most once") {
  constexpr int kBlocks = 160, kStages = 40;
  auto expected = ringExpected(ringData(kBlocks), kBlocks);
  auto prefetches = [&](const std::string &whether, const std::string &from = "", const std::string &to = "") {
    std::string source = ringSource(from, to, 1, 8, kStages);
    auto replace = [&](const std::string &what, const std::string &with) {
      REQUIRE_MESSAGE(contains(source, what), what);
      source.replace(source.find(what), what.size(), with);
    };
    replace("prefetches = false", "prefetches = " + whether);
    replace("kPrefetchRounds = 2", "kPrefetchRounds = 1"); // who pauses here sleeps until something happens
    replace("u32 sum = 0;", "u32 sum = 0; for (int slow = 0; slow < 2000; slow++) ptx::sync_warp();");
    uint64_t n = 0;
    for (uint64_t seed = 1; seed <= 5; seed++) {
      Ran ran = runRing(source, seed, kBlocks, nullptr, 1, kStages);
      REQUIRE_MESSAGE(ran.status.ok(), ran.status.text());
      CHECK(ran.sums == expected);
      CHECK(ran.counters.stream_copies == uint64_t(kBlocks));
      n += ran.counters.stream_prefetches;
    }
    return n;
  };
  uint64_t n = prefetches("true");
  CHECK(n > 20);
  CHECK(n <= uint64_t(5 * kBlocks));
  CHECK(prefetches("false") == 0);
  CHECK(prefetches("true", "asked = asked || next;", "") > n);
  CHECK(prefetches("true", "item.behind_rows = false;", "item.behind_rows = true;") == 0);
}

TEST_CASE("sim: of items behind more of attention's own than the ring has stages, each lane's first is known as such") {
  std::string program = R"(
struct L {
  static constexpr int warps = 4, feeders = 1, stages = 5, instances = 1, table_entries = 2, first_step = 0;
  static constexpr int stretches_offset = 0, feeder_tables_offset = 512;
};
struct Program {
  static int calls(int) { return 1; }
  static int steps_begin(int) { return 0; }
  static int steps_end(int) { return 3; }
  static bool fetch(const u64 *, int step, const Stretch &, int, Item &) { return step != 1; }
};
PHASEC_KERNEL(32) k(const __grid_constant__ Args args) {
  Cta cta{};
  cta.cta = 0, cta.warp = L::warps, cta.lane = ptx::lane(), cta.call_end = 3;
  if (ptx::lane() == 0)
    for (int step = 0; step < 3; step++) {
      stream::open_empty<L>(step);
      stream::stretches<L>(step)[0] = Stretch{step == 1 ? ROWS : 10, 1, 0, 0, 0, 0};
    }
  ptx::sync_warp();
  Cursor cursor{0, 0, 0, 0, 0, u32(ptx::lane())};
  Item item{};
  u32 behind = 0, n = 0;
  for (; ptx::lane() < 5 && stream::next<Program, L>(cta, cursor, item, 1); n++, cursor.next += 5u) behind |= u32(item.behind_rows) << n;
  ((u32 *)args.workspace)[ptx::lane()] = behind << 8 | n;
}
PHASEC_KERNEL_ENTRY(k, Args)
)";
  for (int rows : {0, 5, 6, 23}) {
    CAPTURE(rows);
    std::string source = withIncludes("stream.cuh") + program;
    source.replace(source.find("ROWS"), 4, std::to_string(rows));
    Bench bench(compiledSource(source), 1);
    struct {
      void *table, *workspace;
      int call_begin, call_end;
    } args{nullptr, bench.put(std::vector<uint32_t>(32)), 0, 3};
    REQUIRE(bench.launch(1, 32, 4096, args).ok());
    auto got = bench.get<uint32_t>(args.workspace, 32);
    int items = 0;
    for (int lane = 0; lane < 5; lane++) {
      uint32_t flags = got[size_t(lane)] >> 8;
      items += int(got[size_t(lane)] & 0xffu);
      CHECK(flags == (rows > 5 ? 4u : 0u)); // two items before the rows, the first behind them
    }
    CHECK(items == 20);
  }
}

TEST_CASE("sim: no more stages are under way than the window has, and every byte still comes") {
  constexpr int kBlocks = 240;
  auto expected = ringExpected(ringData(kBlocks), kBlocks);
  auto most = [&](const std::string &source, int feeders, int stages = 5) {
    uint64_t n = 0;
    for (uint64_t seed = 1; seed <= 20; seed++) {
      Ran ran = runRing(source, seed, kBlocks, nullptr, feeders, stages);
      REQUIRE_MESSAGE(ran.status.ok(), ran.status.text());
      REQUIRE(ran.sums == expected);
      n = std::max(n, ran.counters.stream_under_way);
    }
    return n;
  };
  for (int window : {1, 2, 3, 4}) CHECK(most(ringSource("", "", 1, window), 1) == uint64_t(window));
  CHECK(most(ringSource(), 1) == 5);
  CHECK(most(ringSource("", "", 3, 1), 3) == 3); // each feeder has one of its own
  // A feeder has 32 lanes: in a longer ring a lane's next stage is another one.
  CHECK(most(ringSource("", "", 1, 36, 40), 1, 40) <= 36);
  CHECK(most(ringSource("if (landed) last", "if (landed || true) last", 1, 36, 40), 1, 40) > 36);
  CHECK(most(ringSource("< u32(L::window)", "<= u32(L::window)", 1, 2), 1) == 3);
  CHECK(most(ringSource("if (landed) last", "if (landed || true) last", 1, 2), 1) > 2);
  // One that never sees its items land stands still.
  Ran stuck = runRing(ringSource("if (landed) last", "if (landed && false) last", 1, 2), 1, kBlocks);
  CHECK_MESSAGE(contains(stuck.status.text(), "deadlock"), stuck.status.text());
}

TEST_CASE("sim: every host compiler makes an object with the same results") {
  const char *path = std::getenv("PATH");
  for (const char *name : {"g++", "clang++"}) {
    auto cxx = findHostCompiler(name, path ? path : "");
    if (!cxx.ok()) continue;
    CAPTURE(*cxx);
    auto object = compileForSim(ringSource(), *cxx);
    REQUIRE_MESSAGE(object.ok(), object.status().text());
    CHECK_MESSAGE(object->log.empty(), object->log);
    Ran ran = runRing("", 7, 21, &object->image);
    REQUIRE_MESSAGE(ran.status.ok(), ran.status.text());
    CHECK(ran.sums == ringExpected(ringData(21), 21));
  }
}

TEST_CASE("sim: a reader that does not wait for its stage reads garbage, under every seed") {
  // Either the garbage shows, or the CTA ends before its bytes have landed.
  CHECK(caught("ptx::stream_wait(full(n), (n / L::stages) & 1u);", "") == 20);
}

TEST_CASE("sim: a reader that takes the first lap's parity for every lap") {
  CHECK(caught("(n / L::stages) & 1u", "0u") == 20);
}

TEST_CASE("sim: a feeder that refills a stage too early") {
  CHECK(caught("return i32(reads - n / L::stages) >= 0;", "return i32(reads - n / L::stages) >= -1;") >= 18);
  CHECK(caught("&& R::due(look, reads),", ",") == 20);
}

TEST_CASE("sim: a reader that trusts a parity while its stage still has an earlier item") {
  CHECK(caught("if (lap != n / L::stages) {", "if (false && lap) {", nullptr, 400) >= 10);
}

TEST_CASE("sim: a stage that is published before all lanes have read it") {
  CHECK(caught("    ptx::sync_warp();\n    if (cta.lane == 0) ptx::publish", "    if (cta.lane == 0) ptx::publish", nullptr, 1000) >= 18);
}

TEST_CASE("sim: a stage that is never published leaves the feeder polling, and the report says who waits") {
  std::string report;
  CHECK(caught("if (cta.lane == 0) ptx::publish(reads(n), n / L::stages + 1u);", "", &report) == 20);
  CHECK_MESSAGE(contains(report, "counter"), report); // readers: a stage is not free
  CHECK_MESSAGE(contains(report, "mbarrier"), report); // ... or not filled
  CHECK_MESSAGE(contains(report, "warp 4"), report);
  CHECK_MESSAGE(contains(report, "spins in spin_pause"), report); // the feeder
}

TEST_CASE("sim: a feeder that leaves out bytes") {
  std::string report;
  CHECK(caught("item.from, item.bytes, R::full(cursor.next));", "item.from, item.bytes - 16, R::full(cursor.next));", &report) == 20);
  CHECK_MESSAGE(contains(report, "still expects 16 bytes"), report);
}

TEST_CASE("sim: lanes fill stages of their own in one call") {
  const char *body = R"(
PHASEC_KERNEL(32) k(const __grid_constant__ Args args) {
  u8 *shared = ptx::shared_base();
  u64 *bar = (u64 *)shared + ptx::lane();
  ptx::mbar_init(bar, 1);
  ptx::mbar_init_fence();
  ptx::sync_cta();
  u8 *to = shared + 256 + ptx::lane() * 32;
  bool mine = ptx::lane() % 3 == 1;
  ptx::stream_expect(mine, bar, 32);
  ptx::stream_copy(mine, to, args.a + ptx::lane() * 32, 32, bar);
  ptx::stream_commit(mine, bar);
  if (mine) ptx::stream_wait(bar, 0);
  ((u32 *)args.b)[ptx::lane()] = mine ? *(u32 *)to : 7u;
}
)";
  for (uint64_t seed = 1; seed <= 5; seed++) {
    Bench bench(body, seed);
    std::vector<uint32_t> data(256);
    for (size_t i = 0; i < data.size(); i++) data[i] = uint32_t(1000 + i);
    Args args{bench.put(data), bench.put(std::vector<uint32_t>(32)), nullptr, 0, 0};
    Status status = bench.launch(1, 32, 256 + 32 * 32, args);
    REQUIRE_MESSAGE(status.ok(), status.text());
    auto seen = bench.get<uint32_t>(args.b, 32);
    for (uint32_t lane = 0; lane < 32; lane++) CHECK(seen[lane] == (lane % 3 == 1 ? 1000 + lane * 8 : 7));
    CHECK(bench.device->counters().stream_copies == 11);
  }
}

TEST_CASE("sim: broken stream contracts end the launch and say who and what") {
  const std::string open = "ptx::stream_expect(one, bar, 32);\n",
                    close = "ptx::stream_commit(one, bar); ptx::stream_wait(bar, 0);\n";
  auto copy = [](const char *to, const char *from, int bytes) {
    return std::string("ptx::stream_copy(one, ") + to + ", " + from + ", " + std::to_string(bytes) + ", bar);";
  };
  expectFault(open + copy("shared + 24", "args.a", 32) + close, "shared memory + 24 is not aligned to 16");
  expectFault(open + copy("shared + 64", "args.a + 8", 32) + close, "multiples of 16");
  expectFault("ptx::stream_expect(one, bar, 24);" + copy("shared + 64", "args.a", 24) + close, "of 24 bytes");
  expectFault(open + copy("shared + 1008", "args.a", 32) + close, "leaves the CTA's 1024 bytes");
  expectFault(open + copy("shared + 64", "args.a + 4080", 32) + close, "leaves the memory that was allocated");
  expectFault(open + copy("shared + 64", "args.a", 48) + close, "expects only 32 more");
  expectFault(open + copy("shared + 64", "args.a", 16) + close, "still expects 16 bytes");
  expectFault(copy("shared + 64", "args.a", 16), "stream_expect did not open");
  expectFault(open + "ptx::stream_copy(ptx::lane() == 4, shared + 64, args.a, 32, bar); ptx::sync_warp();", "lane 4: stream_copy of 32 bytes into a stage that stream_expect did not open");
  expectFault(open + "ptx::stream_commit(ptx::lane() == 4, bar); ptx::sync_warp();", "lane 4: stream_commit of a stage that stream_expect did not open");
  expectFault(open + copy("shared + 64", "args.a", 32), "stream_commit is missing");
  expectFault(open + copy("shared + 64", "args.a", 32) + open, "stream_commit is missing");
  expectFault(open + copy("shared + 64", "args.a", 32) + "ptx::stream_commit(one, bar);" + open, "the stage was opened before its last fill was consumed");
  expectFault(open + copy("shared + 64", "args.a", 32) + "ptx::stream_commit(one, bar);", "a stream_wait is missing");
  // All lanes call, since targets without bulk copies need all of them.
  expectFault("if (ptx::lane() < 31) {" + open + copy("shared + 64", "args.a", 32) + "ptx::stream_commit(one, bar); }" + "ptx::stream_wait(bar, 0);", "lane 31");
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
