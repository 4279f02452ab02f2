// ready.cpp: how soon a fresh process has 32 kernels from a blessed file, everything but the driver included: exec, layer,
// plan, source, key, look-up, checksum. The process has no HOME and no rights to write, and must not map libnvrtc, which
// is there to be found.
//
//   ready [--rounds N]      default 20 processes; prints the median beside the goal, which an idle machine can be held to
#include "phasec/runtime.h"
#include "tests/cache/support.h"

#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <sys/wait.h>

using namespace phasec;
using namespace phasec::test;

namespace {

using Clock = std::chrono::steady_clock;

constexpr int kKernels = 32;
constexpr double kGoalMs = 20;
constexpr uid_t kNobody = 65534;

double msSince(Clock::time_point start) { return std::chrono::duration<double, std::milli>(Clock::now() - start).count(); }

constexpr const char *kLayer = PHASEC_SOURCE_DIR "/examples/layers/qwen35_27b.phase";

Schedule scheduleOf(int index) {
  Schedule schedule;
  for (auto [knob, value] : {std::pair("math", std::string("exact")), {"target", "sm_90a"}, {"wo_split", std::to_string(1 << index % 4)},
                             {"tokens_max", std::to_string(1 + index / 4)}})
    if (!schedule.set(knob, value, Origin::Host).ok()) std::abort();
  return schedule;
}

RuntimeOptions serving(const std::string &blessed) {
  RuntimeOptions options;
  options.device = DeviceChoice::None;
  if (!blessed.empty()) options.cache.blessed = {{blessed, ""}};
  options.jit = Jit::Off;
  return options;
}

/// Real keys, and payloads of the size of real kernels.
Status bless(const std::string &path) {
  PHASEC_ASSIGN(Runtime runtime, Runtime::open(serving("")));
  std::vector<Compiled> kernels;
  for (int i = 0; i < kKernels; ++i) {
    PHASEC_ASSIGN(Runtime::Explanation e, runtime.explain(Layers::read(kLayer).take(), scheduleOf(i)));
    Compiled c = makeKernel(e.key.wo_split, uint64_t(i), 200'000);
    c.artefact.key = e.key;
    c.artefact.sections = e.sections;
    c.listing.source = e.source;
    kernels.push_back(std::move(c));
  }
  return writeBlessed(path, kernels);
}

/// The fresh process.
int serve(const std::string &blessed, const std::string &layer) {
  Clock::time_point start = Clock::now();
  Runtime runtime = Runtime::open(serving(blessed)).take();
  Layers all = Layers::read(layer).take();
  for (int i = 0; i < kKernels; ++i) {
    Result<Kernel> kernel = runtime.prepare(all, scheduleOf(i));
    if (!kernel.ok()) return std::printf("%s\n", kernel.status().text().c_str()), 1;
    if (kernel->provenance().layer != CacheLayer::Blessed) return std::printf("not from the blessed file\n"), 1;
  }
  double ms = msSince(start);
  if (readFile("/proc/self/maps").find("libnvrtc") != std::string::npos) return std::printf("libnvrtc is mapped\n"), 1;
  return std::printf("%.3f\n", ms), 0;
}

/// Milliseconds from the first line of serve() to its last kernel, and of the whole process; negative: it failed.
/// The program is executed by its descriptor, and the layer is a copy: nobody may see the folder that holds the build.
std::pair<double, double> spawn(int self, const std::string &blessed, const std::string &layer) {
  int out[2];
  if (pipe(out) != 0) return {-1, -1};
  Clock::time_point start = Clock::now();
  pid_t child = fork();
  if (child == 0) {
    dup2(out[1], 1);
    if (geteuid() == 0 && (setgid(kNobody) != 0 || setuid(kNobody) != 0)) _exit(4);
    const char *const words[] = {"ready", "--serve", blessed.c_str(), layer.c_str(), nullptr};
    char *const no_environment[] = {nullptr};
    fexecve(self, const_cast<char *const *>(words), no_environment);
    _exit(5);
  }
  close(out[1]);
  char text[4'096] = {};
  ssize_t bytes = read(out[0], text, sizeof text - 1);
  close(out[0]);
  int status = 0;
  waitpid(child, &status, 0);
  double whole = msSince(start);
  if (status != 0 || bytes <= 0) return std::printf("FAILED: status %d: %s\n", status, text), std::pair(-1.0, -1.0);
  return {std::atof(text), whole};
}

} // namespace

int main(int argc, char **argv) {
  if (argc == 4 && !std::strcmp(argv[1], "--serve")) return serve(argv[2], argv[3]);
  int rounds = argc == 3 && !std::strcmp(argv[1], "--rounds") ? std::atoi(argv[2]) : 20;
  TempDir dir;
  std::string blessed = dir / "blessed.db";
  if (Status s = bless(blessed); !s.ok()) return std::printf("%s\n", s.text().c_str()), 1;
  std::string layer = dir / "layer.phase";
  std::filesystem::copy_file(kLayer, layer);
  int self = open("/proc/self/exe", O_RDONLY);
  chmod(layer.c_str(), 0444);
  chmod(blessed.c_str(), 0444);
  chmod((blessed + ".sha256").c_str(), 0444);
  chmod(dir.path().c_str(), 0555);
  std::vector<double> ready, whole;
  for (int round = 0; round < rounds; ++round) {
    auto [ready_ms, whole_ms] = spawn(self, blessed, layer);
    if (ready_ms < 0) return 1;
    ready.push_back(ready_ms);
    whole.push_back(whole_ms);
  }
  std::sort(ready.begin(), ready.end());
  std::sort(whole.begin(), whole.end());
  double median = ready[ready.size() / 2];
  std::printf("fresh process, %d kernels from a blessed file: ready in %.1f ms (goal %.0f%s; best %.1f; %d processes), %.1f ms from fork to exit; "
              "libnvrtc not mapped\n",
              kKernels, median, kGoalMs, median <= kGoalMs ? "" : ": MISSED", ready.front(), rounds, whole[whole.size() / 2]);
  return 0;
}
