// sim_faults.cpp: what the sim says about kernels that hang or write where they must not; compiling and loading.
#include "tests/unit/sim_support.h"

using namespace simtest;

namespace {

std::string kernelText(int threads, const std::string &body) {
  return "PHASEC_KERNEL(" + std::to_string(threads) + ") k(const __grid_constant__ Args args) {\n  (void)args;\n" +
         body + "\n}\n";
}

Status launchOf(const std::string &text, int ctas, int threads, int64_t shared = 512, uint64_t seed = 4) {
  Bench bench(text, seed);
  Args args{bench.put(std::vector<uint32_t>(64)), nullptr, nullptr, 0, 0};
  return bench.launch(ctas, threads, shared, args);
}

} // namespace

TEST_CASE("sim: a deadlock says who waits where") {
  SUBCASE("an event that nobody signals") {
    Status status = launchOf(kernelText(64, R"(
  u32 *counter = (u32 *)args.a + 3;
  if (ptx::thread() == 0) {
    if (ptx::cta() != 2) ptx::arrive_release(counter, 1u);
    while (ptx::load_acquire(counter) < 4u) ptx::spin_pause();
  }
  ptx::sync_cta();)"),
                             4, 64);
    CHECK(status.kind() == ErrorKind::Device);
    CHECK_MESSAGE(contains(status.text(), "256 of 256 threads wait"), status.text());
    CHECK_MESSAGE(contains(status.text(), "cta 0-3:\n    warp 0 lane 0: event counter at"), status.text());
    CHECK_MESSAGE(contains(status.text(), "(block of 256 bytes + 12), which holds 3\n"), status.text());
    CHECK_MESSAGE(contains(status.text(), "    warp 0 lanes 1-31: sync_cta, where 63 of 64 threads have arrived"),
                  status.text());
    CHECK_MESSAGE(contains(status.text(), "    warp 1: sync_cta"), status.text());
  }
  SUBCASE("a collective that some lanes skip") {
    Status status = launchOf(kernelText(96, "if (ptx::thread() != 37) ptx::sync_warp();"), 1, 96);
    CHECK_MESSAGE(contains(status.text(), "31 of 96 threads wait"), status.text());
    CHECK_MESSAGE(contains(status.text(), "warp 1 lanes 0-4, 6-31: sync_warp, which lanes 5 have not reached"),
                  status.text());
    CHECK_MESSAGE(contains(status.text(), "warp 1 lane 5: has returned"), status.text());
  }
  SUBCASE("an mbarrier that lacks an arrival") {
    Status status = launchOf(kernelText(32, R"(
  u64 *bar = (u64 *)ptx::shared_base() + 4;
  if (ptx::lane() == 0) ptx::mbar_init(bar, 3);
  ptx::sync_warp();
  if (ptx::lane() < 2) ptx::mbar_arrive(bar);
  ptx::mbar_wait(bar, 0);)"),
                             1, 32);
    CHECK_MESSAGE(contains(status.text(),
                           "warp 0: mbarrier at shared memory + 32, parity 0, which lacks 1 of 3 arrivals and 0 bytes"),
                  status.text());
  }
  SUBCASE("a loop that spins on plain memory") {
    Status status = launchOf(kernelText(32, "while (*(volatile u32 *)args.a == 0u) ptx::spin_pause();"), 1, 32);
    CHECK_MESSAGE(contains(status.text(), "warp 0: spins in spin_pause"), status.text());
  }
  SUBCASE("a warp that meets its lanes while it spins") {
    Status status = launchOf(kernelText(32, R"(
  u32 *words = (u32 *)args.a;
  while (ptx::any((ptx::load_acquire(words) & ptx::load_acquire(words + 1)) == 0u)) ptx::spin_pause();)"),
                             1, 32);
    CHECK_MESSAGE(contains(status.text(), "deadlock"), status.text());
  }
  SUBCASE("lanes in different collectives") {
    Status status = launchOf(kernelText(32, "if (ptx::lane() < 9) ptx::sync_warp(); else ptx::shfl(1u, 2);"), 1, 32);
    CHECK_MESSAGE(contains(status.text(), "while other lanes of its warp wait in"), status.text());
  }
}

TEST_CASE("sim: waiting for a plain store is no deadlock") {
  Status status = launchOf(kernelText(64, R"(
  u32 *flag = (u32 *)args.a;
  if (ptx::warp() == 0) while (ptx::load_acquire(flag) == 0u) ptx::spin_pause();
  else { ptx::sync_warp(); *(volatile u32 *)flag = 1u; }
  if (ptx::warp() == 1) while (*(volatile u32 *)flag == 0u) ptx::spin_pause();
  ptx::sync_cta();)"),
                           2, 64);
  CHECK_MESSAGE(status.ok(), status.text());
}

TEST_CASE("sim: waiting for a warp that has waited and now meets its lanes for long is no deadlock") {
  Status status = launchOf(kernelText(64, R"(
  u32 *flag = (u32 *)args.a;
  if (ptx::warp() == 0) {
    while (ptx::any((ptx::load_acquire(flag) & ptx::load_acquire(flag + 1)) == 0u)) ptx::spin_pause();
  } else {
    for (int i = 0; i < 3; i++) ptx::spin_pause();
    for (int i = 0; i < 2000000; i++) ptx::sync_warp();
    ptx::store_relaxed(flag, 1u);
    ptx::store_relaxed(flag + 1, 1u);
  })"),
                           1, 64);
  CHECK_MESSAGE(status.ok(), status.text());
}

TEST_CASE("sim: threads that have returned do not hold up sync_cta") {
  Status status = launchOf(kernelText(96, "if (ptx::warp() == 1) return;\n  ptx::sync_cta(); ptx::sync_cta();"), 2, 96);
  CHECK_MESSAGE(status.ok(), status.text());
}

TEST_CASE("sim: writes outside shared memory and outside a block are found") {
  Status after = launchOf(kernelText(32, "if (ptx::cta() == 1) ptx::shared_base()[512 + ptx::lane()] = 1;"), 3, 32);
  CHECK_MESSAGE(contains(after.text(), "cta 1 wrote past the end of its 512 bytes of shared memory"), after.text());
  Status before = launchOf(kernelText(32, "if (ptx::cta() == 2) ptx::shared_base()[-1] = 1;"), 3, 32);
  CHECK_MESSAGE(contains(before.text(), "cta 2 wrote before the start"), before.text());
  Status past = launchOf(kernelText(32, "((volatile u8 *)args.a)[256] = 7;"), 1, 32);
  CHECK_MESSAGE(contains(past.text(), "past the end of the block of 256 bytes"), past.text());
  Status counter = launchOf(kernelText(32, "ptx::arrive_release((u32 *)args.a + 64, 1u);"), 1, 32);
  CHECK_MESSAGE(contains(counter.text(), "uses a counter at"), counter.text());
}

TEST_CASE("sim: a stack that is used up is an error, not a crash") {
  Status status = launchOf(R"(
__attribute__((noinline)) int deep(int n) {
  volatile char frame[2048];
  frame[n] = char(n);
  ptx::sync_warp();
  return n == 0 ? 0 : deep(n - 1) + frame[n];
}
)" + kernelText(32, "*(volatile int *)args.a = deep(40);"),
                           1, 32);
  CHECK_MESSAGE(contains(status.text(), "has used up its stack"), status.text());
}

TEST_CASE("sim: shared memory starts as NaN, global memory as zero, and both know their bounds") {
  Bench bench(kernelText(32, "((u32 *)args.a)[ptx::lane()] = ((u32 *)ptx::shared_base())[ptx::lane()];"), 1);
  auto address = bench.device->allocate(300);
  REQUIRE(address.ok());
  CHECK(*address % 256 == 0);
  std::vector<uint8_t> bytes(300, 9);
  REQUIRE(bench.device->download(bytes.data(), *address, 300).ok());
  CHECK(bytes == std::vector<uint8_t>(300));
  CHECK(bench.device->upload(*address + 299, bytes.data(), 2).kind() == ErrorKind::Input);
  CHECK(bench.device->download(bytes.data(), *address - 1, 1).kind() == ErrorKind::Input);
  CHECK(bench.device->fill(*address, 1, -1).kind() == ErrorKind::Input);
  CHECK_FALSE(bench.device->allocate(-5).ok());
  Args args{reinterpret_cast<void *>(*address), nullptr, nullptr, 0, 0};
  REQUIRE(bench.launch(1, 32, 512, args).ok());
  CHECK(bench.get<uint32_t>(args.a, 32) == std::vector<uint32_t>(32, ~0u));
  bench.device->release(*address);
  CHECK(bench.device->upload(*address, bytes.data(), 1).kind() == ErrorKind::Input);
}

TEST_CASE("sim: launches that cannot be are refused") {
  Bench bench(kernelText(32, ""), 1);
  Args args{};
  CHECK(bench.launch(1, 33, 0, args).kind() == ErrorKind::Refused);
  CHECK(bench.launch(0, 32, 0, args).kind() == ErrorKind::Refused);
  CHECK(bench.launch(5000, 32, 0, args).kind() == ErrorKind::Refused);
  CHECK(bench.launch(1, 32, 228 * 1024, args).kind() == ErrorKind::Refused);
  CHECK(bench.device->launch(*bench.kernel, LaunchShape{1, 32, 0, true}, &args, 8, nullptr).kind() ==
        ErrorKind::Internal);
  CHECK(bench.launch(1, 32, 227 * 1024, args).ok());
}

TEST_CASE("sim: timing marks") {
  auto device = openSim({});
  REQUIRE(device->mark(2, nullptr).ok());
  REQUIRE(device->mark(0, nullptr).ok());
  auto passed = device->elapsedMicroseconds(2, 0);
  REQUIRE(passed.ok());
  CHECK(*passed >= 0.0);
  CHECK(device->elapsedMicroseconds(0, 1).status().kind() == ErrorKind::Usage);
  CHECK(device->elapsedMicroseconds(0, 9).status().kind() == ErrorKind::Usage);
}

TEST_CASE("sim: the same image loads twice, and loads do not mix") {
  auto device = openSim({});
  std::vector<std::unique_ptr<LoadedKernel>> held;
  for (int i = 0; i < 12; i++) {
    const auto &image = compiledSource(kernelSource(kernelText(32, "*(volatile u32 *)args.a = " + std::to_string(i % 3 + 70) + "u;")));
    auto kernel = device->load(image, "k");
    REQUIRE_MESSAGE(kernel.ok(), kernel.status().text());
    auto word = device->allocate(4);
    struct {
      DevicePtr a, b, c;
      int n, m;
    } args{*word, 0, 0, 0, 0};
    REQUIRE(device->launch(**kernel, LaunchShape{1, 32, 0, true}, &args, sizeof args, nullptr).ok());
    uint32_t value = 0;
    REQUIRE(device->download(&value, *word, 4).ok());
    CHECK(value == uint32_t(i % 3 + 70));
    if (i % 2) held.push_back(kernel.take()); // the others are unloaded: their descriptors are used again
  }
  CHECK(device->load(std::vector<uint8_t>{1, 2, 3, 4}, "k").status().kind() == ErrorKind::Device);
  CHECK(device->load(compiledSource(kernelSource(kernelText(32, ""))), "other").status().kind() == ErrorKind::Device);
}

TEST_CASE("sim: compile errors name the template's file and line, not a temporary path") {
  auto failed = compileForSim(
      kernelSource("#line 41 \"phases/fc1.cuh\"\nint broken = missing_name;\n" + kernelText(32, "")), hostCompiler());
  REQUIRE_FALSE(failed.ok());
  CHECK(failed.status().kind() == ErrorKind::Toolchain);
  CHECK_MESSAGE(contains(failed.status().text(), "phases/fc1.cuh:41:"), failed.status().text());
  CHECK_FALSE(contains(failed.status().text(), "/tmp/"));
}

TEST_CASE("sim: equal sources give equal objects") {
  std::string source = kernelSource(kernelText(32, "*args.a = u8(args.n);"));
  auto a = compileForSim(source, hostCompiler()), b = compileForSim(source, hostCompiler());
  REQUIRE(a.ok());
  REQUIRE(b.ok());
  CHECK(a->image == b->image);
}

TEST_CASE("sim: the host compiler is found, or its absence is a typed error") {
  CHECK(findHostCompiler("", "").status().kind() == ErrorKind::Toolchain);
  CHECK(findHostCompiler("", "relative:/nowhere:").status().kind() == ErrorKind::Toolchain);
  CHECK(findHostCompiler("/nowhere/c++", "/usr/bin").status().kind() == ErrorKind::Toolchain);
  CHECK(findHostCompiler("no-such-compiler", "/usr/bin:/bin").status().kind() == ErrorKind::Toolchain);
  CHECK(compileForSim("", "/nowhere/c++").status().kind() == ErrorKind::Toolchain);
  CHECK(compileForSim("", "/bin/false").status().kind() == ErrorKind::Toolchain);
  CHECK(compileForSim("", hostCompiler(), "/nowhere").status().kind() == ErrorKind::Io);
  auto version = simToolchain(hostCompiler());
  REQUIRE(version.ok());
  CHECK(contains(*version, hostCompiler() + ": "));
  CHECK(simToolchain("/bin/false").status().kind() == ErrorKind::Toolchain);
  CHECK(contains(simOptions(), "-ffp-contract=off "));
  CHECK(contains(simOptions(), "shim="));
}
