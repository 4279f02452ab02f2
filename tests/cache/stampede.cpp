// stampede.cpp: processes that want the same kernels at the same time, and processes that die while others wait for
// them.
//
//   stampede [--rounds N] [--all]      default 10 kill rounds; --all 100, and 500 ms per compile as a slow NVRTC has it
//
// Exit 0: every count was right. Each compile appends a byte to a file, so that compiles are counted across processes.
#include "tests/cache/support.h"

#include <csignal>
#include <cstring>
#include <sys/wait.h>
#include <thread>

using namespace phasec;
using namespace phasec::test;

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr int kProcesses = 16;
constexpr int kKeys = 8;

int failures = 0;

void expect(bool good, const std::string &what) {
  if (good) return;
  ++failures;
  std::printf("FAILED: %s\n", what.c_str());
}

void appendByte(const std::string &path) {
  int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  if (fd < 0 || write(fd, ".", 1) != 1) std::abort();
  close(fd);
}

size_t sizeOf(const std::string &path) {
  std::error_code ignored;
  auto size = std::filesystem::file_size(path, ignored);
  return ignored ? 0 : size_t(size);
}

/// One process of the stampede: asks for all keys in an order of its own. Exit status 0 when all bytes were right.
int runMember(const TempDir &dir, int member, milliseconds compile_time) {
  std::this_thread::sleep_for(milliseconds(member * 3)); // staggered, as starts are
  Bench bench(dir / "user");
  bench.options.compile_slots = 4;
  auto cache = bench.open();
  for (int i = 0; i < kKeys; ++i) {
    Compiled kernel = makeKernel(8, uint64_t((i * 3 + member) % kKeys));
    Result<Hit> hit = cache->obtain(queryOf(kernel), [&]() -> Result<Compiled> {
      appendByte(dir / ("compiled" + std::to_string(kernel.artefact.key.fingerprint.low)));
      std::this_thread::sleep_for(compile_time);
      return kernel;
    });
    if (!hit.ok() || !sameBytes(*hit->artefact, kernel.artefact)) return 1;
  }
  return bench.warnings->empty() ? 0 : 2;
}

void stampede(milliseconds compile_time) {
  TempDir dir;
  Clock::time_point start = Clock::now();
  std::vector<pid_t> children;
  for (int member = 0; member < kProcesses; ++member) {
    pid_t child = fork();
    if (child == 0) _exit(runMember(dir, member, compile_time));
    children.push_back(child);
  }
  for (pid_t child : children) {
    int status = 0;
    waitpid(child, &status, 0);
    expect(status == 0, "a member of the stampede ended with status " + std::to_string(status));
  }
  size_t compiles = 0;
  for (uint64_t i = 0; i < kKeys; ++i) compiles += sizeOf(dir / ("compiled" + std::to_string(fingerprintOf(i).low)));
  expect(compiles == kKeys, std::to_string(compiles) + " compiles of " + std::to_string(kKeys) + " keys");
  expect(listEntries(userFile(dir / "user"))->size() == kKeys, "not every key was stored");
  expect(verifyStore(userFile(dir / "user"))->ok(), "the file does not verify");
  std::printf("%d processes x %d keys: %zu compiles, %.2f s\n", kProcesses, kKeys, compiles,
              std::chrono::duration<double>(Clock::now() - start).count());
}

/// A holder is killed in the middle of its compile; three waiters must end with the kernel, one of them compiling.
void killRound(int round, std::vector<double> &waits_ms) {
  TempDir dir;
  Compiled kernel = makeKernel(8, uint64_t(round));
  auto compileSlowly = [&](milliseconds time) {
    Bench bench(dir / "user");
    bench.options.compile_slots = 1; // the slot, too, must come back from the dead
    auto cache = bench.open();
    Result<Hit> hit = cache->obtain(queryOf(kernel), [&]() -> Result<Compiled> {
      appendByte(dir / "started");
      std::this_thread::sleep_for(time);
      return kernel;
    });
    return hit.ok() && sameBytes(*hit->artefact, kernel.artefact) ? 0 : 1;
  };
  pid_t holder = fork();
  if (holder == 0) _exit(compileSlowly(milliseconds(600'000)));
  while (sizeOf(dir / "started") == 0) std::this_thread::sleep_for(milliseconds(1));
  std::vector<pid_t> waiters;
  for (int i = 0; i < 3; ++i) {
    pid_t child = fork();
    if (child == 0) _exit(compileSlowly(milliseconds(5)));
    waiters.push_back(child);
  }
  std::this_thread::sleep_for(milliseconds(20 + round % 30));
  kill(holder, SIGKILL);
  Clock::time_point killed = Clock::now();
  waitpid(holder, nullptr, 0);
  for (pid_t child : waiters) {
    int status = 0;
    while (waitpid(child, &status, WNOHANG) == 0) {
      if (Clock::now() - killed > std::chrono::seconds(20)) {
        expect(false, "round " + std::to_string(round) + ": a waiter hangs");
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
        break;
      }
      std::this_thread::sleep_for(milliseconds(1));
    }
    expect(status == 0, "round " + std::to_string(round) + ": a waiter ended with status " + std::to_string(status));
  }
  waits_ms.push_back(std::chrono::duration<double, std::milli>(Clock::now() - killed).count());
  expect(sizeOf(dir / "started") == 2,
         "round " + std::to_string(round) + ": " + std::to_string(sizeOf(dir / "started")) + " compiles, 2 expected");
}

} // namespace

int main(int argc, char **argv) {
  int rounds = 10;
  milliseconds compile_time{50};
  for (int i = 1; i < argc; ++i) {
    if (!std::strcmp(argv[i], "--all"))
      rounds = 100, compile_time = milliseconds(500);
    else if (!std::strcmp(argv[i], "--rounds") && i + 1 < argc)
      rounds = std::atoi(argv[++i]);
    else
      return std::printf("usage: stampede [--rounds N] [--all]\n"), 2;
  }
  stampede(compile_time);
  std::vector<double> waits_ms;
  for (int round = 0; round < rounds; ++round) killRound(round, waits_ms);
  std::sort(waits_ms.begin(), waits_ms.end());
  if (!waits_ms.empty())
    std::printf("%d holders killed: all waiters done after %.0f ms (median), %.0f ms (worst)\n", rounds,
                waits_ms[waits_ms.size() / 2], waits_ms.back());
  std::printf("%s\n", failures ? "stampede: FAILED" : "stampede: ok");
  return failures ? 1 : 0;
}
