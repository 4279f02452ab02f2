// stampede.cpp: threads and processes that want the same kernels at the same time, and processes that die while others
// wait for them. Whole runtimes ask; what counts is how often nvrtcCompileProgram was called through NVRTC's function
// table, which stub_nvrtc.cpp fills: 500 ms a call, and other bytes each time.
//
//   stampede STUB_LIBRARY [--rounds N] [--all]      default 10 kill rounds; --all 100
//
// Exit 0: every count was right.
#include "phasec/runtime.h"
#include "tests/cache/support.h"

#include <atomic>
#include <csignal>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>
#include <set>
#include <sys/wait.h>
#include <thread>

using namespace phasec;
using namespace phasec::test;

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr int kThreads = 64, kProcesses = 16, kKeys = 8, kWaiters = 3;
constexpr int kWarned = 2; ///< what a member exits with that has every kernel and had something to tell
constexpr const char *kSlow = "500", *kForever = "600000", *kQuick = "5", *kAtOnce = "0"; ///< milliseconds of a compile

std::string stub;
int failures = 0;
int warnings = 0; ///< of this process's caches

void expect(bool good, const std::string &what) {
  if (good) return;
  ++failures;
  std::printf("FAILED: %s\n", what.c_str());
}

/// Prints a line at once: children leave with _exit, which drops what stdout holds back.
void say(const std::string &line) {
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

double secondsSince(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

void compilesTake(const char *ms) { setenv("STUB_NVRTC_MS", ms, 1); }

/// Sources that were compiled, one entry per call of nvrtcCompileProgram.
std::multiset<std::string> callsIn(const std::string &path) {
  std::ifstream in(path);
  return {std::istream_iterator<std::string>(in), {}};
}

/// Where calls are counted from now on, here and in children.
std::string countIn(const TempDir &dir) {
  std::string path = dir / "calls";
  setenv("STUB_NVRTC_CALLS", path.c_str(), 1);
  return path;
}

const Layers &layers() {
  static const Layers all = Layers::read(PHASEC_SOURCE_DIR "/examples/layers/tiny_wo_harness.phase").take();
  return all;
}

/// One of kKeys schedules, each another kernel.
Schedule scheduleOf(int key) {
  Schedule schedule;
  for (auto [knob, value] : {std::pair("math", std::string("exact")), {"wo_split", std::to_string(1 << key % 4)},
                             {"tokens_max", std::to_string(1 + key / 4)}})
    if (!schedule.set(knob, value, Origin::Host).ok()) std::abort();
  return schedule;
}

Result<Runtime> openRuntime(const std::string &user_dir, int slots, std::string *log = nullptr) {
  RuntimeOptions options;
  options.device = DeviceChoice::None;
  options.nvrtc_path = stub;
  options.cache.user_dir = user_dir;
  options.cache.compile_slots = slots;
  if (log) options.log = [log](const std::string &line) { *log += line + "\n"; };
  options.cache.warn = [](const std::string &text) { say("warning: " + text), ++warnings; };
  return Runtime::open(options);
}

/// The kernel's bytes; empty when there is none.
std::string bytesOf(Runtime &runtime, int key) {
  Result<Kernel> kernel = runtime.prepare(layers(), scheduleOf(key));
  if (!kernel.ok()) return say(kernel.status().text()), std::string();
  const Bytes &payload = kernel->provenance().artefact->payload;
  return {payload.begin(), payload.end()};
}

// ---- threads ---------------------------------------------------------------------------------------------------

void threadStampede(const TempDir &dir, const std::string &user_dir) {
  std::string calls = countIn(dir);
  std::filesystem::remove(calls);
  compilesTake(kSlow);
  Result<Runtime> runtime = openRuntime(user_dir, 4);
  std::mutex mutex;
  std::set<std::string> seen;
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i)
    threads.emplace_back([&, i] {
      std::this_thread::sleep_for(milliseconds(i * 11 % 700)); // staggered; the last come when it is done
      std::string bytes = bytesOf(*runtime, 0);
      std::lock_guard lock(mutex);
      seen.insert(bytes);
    });
  for (std::thread &thread : threads) thread.join();
  size_t count = callsIn(calls).size();
  expect(count == 1, std::to_string(count) + " compiles by threads that want one key");
  expect(seen.size() == 1 && !seen.begin()->empty(), "threads have different bytes");
  std::printf("%d threads x 1 key, %s a user file: %zu compiles\n", kThreads, user_dir.empty() ? "without" : "with", count);
}

// ---- processes -------------------------------------------------------------------------------------------------

/// One process of the stampede: asks for all keys in an order of its own and writes down their bytes.
int runMember(const TempDir &dir, int member, milliseconds stagger) {
  std::this_thread::sleep_for(member * stagger); // as starts are
  Result<Runtime> runtime = openRuntime(dir / "user", 4);
  for (int i = 0; i < kKeys; ++i) {
    int key = (i * 3 + member) % kKeys;
    std::string bytes = bytesOf(*runtime, key);
    if (bytes.empty()) return 1;
    writeFile(dir / ("bytes-" + std::to_string(key) + "-" + std::to_string(member)), bytes);
  }
  return warnings ? kWarned : 0;
}

/// Members in processes of their own; whether all ended with one of the two statuses.
void runMembers(const TempDir &dir, int members, milliseconds stagger, int status_if_told) {
  std::vector<pid_t> children;
  std::fflush(stdout);
  for (int member = 0; member < members; ++member) {
    pid_t child = fork();
    if (child == 0) _exit(runMember(dir, member, stagger));
    children.push_back(child);
  }
  for (pid_t child : children) {
    int status = 0;
    waitpid(child, &status, 0);
    bool good = WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == status_if_told);
    expect(good, "a member of the stampede ended with status " + std::to_string(status));
  }
}

enum class UserFileIs { Absent, Damaged };

void processStampede(UserFileIs at_first, const char *compile_ms, milliseconds stagger) {
  TempDir dir;
  const std::string file = userFile(dir / "user");
  std::string calls = countIn(dir);
  compilesTake(compile_ms);
  if (at_first == UserFileIs::Damaged) {
    runMembers(dir, 1, milliseconds(0), 0);
    std::string error = sql(file, "UPDATE artefact SET payload = zeroblob(length(payload))");
    expect(error.empty(), error);
    std::filesystem::remove(calls);
  }
  Clock::time_point start = Clock::now();
  runMembers(dir, kProcesses, stagger, at_first == UserFileIs::Damaged ? kWarned : 0);
  std::multiset<std::string> all = callsIn(calls);
  expect(all.size() == kKeys, std::to_string(all.size()) + " compiles of " + std::to_string(kKeys) + " keys");
  expect(std::set<std::string>(all.begin(), all.end()).size() == kKeys, "a kernel was compiled twice, or not at all");
  std::set<std::string> kernels;
  for (int key = 0; key < kKeys; ++key)
    for (int member = 0; member < kProcesses; ++member)
      kernels.insert(readFile(dir / ("bytes-" + std::to_string(key) + "-" + std::to_string(member))));
  expect(kernels.size() == kKeys, "processes have different bytes of one key");
  expect(listEntries(file)->size() == kKeys, "not every key was stored");
  expect(verifyStore(file)->ok(), "the file does not verify");
  int64_t aside = storeStats(file)->quarantined;
  expect(aside == (at_first == UserFileIs::Damaged ? kKeys : 0), std::to_string(aside) + " rows were moved aside");
  std::printf("%d processes x %d keys of %s ms%s: %zu compiles, %.2f s\n", kProcesses, kKeys, compile_ms,
              at_first == UserFileIs::Damaged ? ", all rows damaged" : "", all.size(), secondsSince(start));
}

/// Members of a file that somebody clears, evicts from, verifies and lists all the while: everybody has every kernel, and
/// nothing is taken for damage.
void tendedStampede() {
  TempDir dir;
  const std::string file = userFile(dir / "user");
  std::string calls = countIn(dir);
  compilesTake(kAtOnce);
  Clock::time_point start = Clock::now();
  std::fflush(stdout);
  pid_t tender = fork();
  for (int64_t round = 0; tender == 0; ++round) {
    if (round % 3 == 0) (void)clearStore(file);
    else (void)evict(file, "cache_size_files=1");
    if (Result<VerifyReport> report = verifyStore(file); report.ok())
      for (const std::string &finding : report->findings) say("FAILED: " + finding), _exit(1);
    std::this_thread::sleep_for(milliseconds(round % 5));
  }
  for (int round = 0; round < 10; ++round) runMembers(dir, kProcesses, milliseconds(round % 3), 0);
  int status = 0;
  bool tended = waitpid(tender, &status, WNOHANG) == 0;
  kill(tender, SIGKILL);
  if (tended) waitpid(tender, &status, 0);
  expect(tended, "a file that members publish to does not verify");
  for (const auto &entry : std::filesystem::directory_iterator(dir / "user"))
    expect(entry.path().string().find(".aside") == std::string::npos, "set aside: " + entry.path().string());
  size_t count = callsIn(calls).size();
  expect(count > kKeys, "the file was never cleared");
  std::printf("%d processes x %d keys, the file cleared and verified meanwhile: %zu compiles, %.2f s\n", kProcesses, kKeys,
              count, secondsSince(start));
}

// ---- death -----------------------------------------------------------------------------------------------------

/// A child that wants key 0 while one compile at a time may run: the slot, too, must come back from the dead.
pid_t forkWanting(const TempDir &dir, const char *ms, const std::string &log_name) {
  std::fflush(stdout);
  pid_t child = fork();
  if (child != 0) return child;
  compilesTake(ms);
  std::string log;
  Result<Runtime> runtime = openRuntime(dir / "user", 1, &log);
  std::string bytes = bytesOf(*runtime, 0);
  writeFile(dir / (log_name + ".log"), log);
  writeFile(dir / (log_name + ".bytes"), bytes);
  _exit(bytes.empty() || warnings);
}

/// A holder is killed inside nvrtcCompileProgram; the waiters must end with one kernel, one of them compiling.
void killRound(int round, std::vector<double> &waits_ms) {
  TempDir dir;
  std::string calls = countIn(dir), name = "round " + std::to_string(round) + ": ";
  pid_t holder = forkWanting(dir, kForever, "holder");
  while (callsIn(calls).empty()) std::this_thread::sleep_for(milliseconds(1));
  std::vector<pid_t> waiters;
  for (int i = 0; i < kWaiters; ++i) waiters.push_back(forkWanting(dir, kQuick, std::to_string(i)));
  const bool long_wait = round % 10 == 0; // long enough to be told whom one waits for
  std::this_thread::sleep_for(milliseconds(long_wait ? 250 : 20 + round % 30));
  kill(holder, SIGKILL);
  Clock::time_point killed = Clock::now();
  waitpid(holder, nullptr, 0);
  for (pid_t child : waiters) {
    int status = 0;
    while (waitpid(child, &status, WNOHANG) == 0) {
      if (secondsSince(killed) > 20) {
        expect(false, name + "a waiter hangs");
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
        break;
      }
      std::this_thread::sleep_for(milliseconds(1));
    }
    expect(status == 0, name + "a waiter ended with status " + std::to_string(status));
  }
  waits_ms.push_back(1000 * secondsSince(killed));
  size_t count = callsIn(calls).size();
  expect(count == 2, name + std::to_string(count) + " compiles, 2 expected");
  for (int i = 0; i < kWaiters; ++i) {
    std::string who = std::to_string(i);
    expect(readFile(dir / (who + ".bytes")) == readFile(dir / "0.bytes"), name + "waiters have different bytes");
    bool told = readFile(dir / (who + ".log")).find("for pid " + std::to_string(holder)) != std::string::npos;
    if (long_wait) expect(told, name + "a waiter was not told whom it waits for");
  }
}

} // namespace

int main(int argc, char **argv) {
  int rounds = 10;
  for (int i = 1; i < argc; ++i) {
    if (!std::strcmp(argv[i], "--all"))
      rounds = 100;
    else if (!std::strcmp(argv[i], "--rounds") && i + 1 < argc)
      rounds = std::atoi(argv[++i]);
    else if (stub.empty() && argv[i][0] != '-')
      stub = argv[i];
    else
      return std::printf("usage: stampede STUB_LIBRARY [--rounds N] [--all]\n"), 2;
  }
  // Forks first: the threads come when no child will inherit their runtime.
  processStampede(UserFileIs::Absent, kSlow, milliseconds(30));
  // At once: somebody publishes, or moves a bad row aside, while others are in the middle of a look-up.
  for (int round = 0; round < rounds; ++round)
    for (UserFileIs at_first : {UserFileIs::Absent, UserFileIs::Damaged}) processStampede(at_first, kAtOnce, milliseconds(1));
  for (int round = 0; round < (rounds + 9) / 10; ++round) tendedStampede();
  std::vector<double> waits_ms;
  for (int round = 0; round < rounds; ++round) killRound(round, waits_ms);
  std::sort(waits_ms.begin(), waits_ms.end());
  if (!waits_ms.empty())
    std::printf("%d holders killed: all waiters done after %.0f ms (median), %.0f ms (worst)\n", rounds,
                waits_ms[waits_ms.size() / 2], waits_ms.back());
  TempDir dir;
  for (const std::string &user_dir : {dir / "user", std::string()}) threadStampede(dir, user_dir);
  std::printf("%s\n", failures ? "stampede: FAILED" : "stampede: ok");
  return failures ? 1 : 0;
}
