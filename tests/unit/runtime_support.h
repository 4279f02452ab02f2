// runtime_support.h: a layer on a device with seeded inputs: prepared, bound, launched, compared with the reference.
#pragma once

#include "compiler/render.h"
#include "phasec/runtime.h"
#include "runtime/cli/checking.h"
#include "runtime/cli/inputs.h"
#include "runtime/cli/staging.h"
#include "tests/unit/layer_support.h"

#include <atomic>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <thread>
#include <unistd.h>

namespace runtimetest {

using namespace layertest;
using cli::CheckResult;
using cli::Downloaded;
using cli::HostInputs;
using cli::InputOptions;
using cli::Staging;

/// How a layer is prepared.
struct Setup {
  std::string settings;                 ///< of the schedule, "wo_split=8 warps=4"
  DeviceChoice device = DeviceChoice::Sim;
  uint64_t sim_seed = 1;
  int sim_ctas = 4;
  std::string templates;                ///< overlay directory
  std::string cache;                    ///< user directory; empty: the build's, kept from run to run
  bool prove = true;
  Jit jit = Jit::On;
};

inline RuntimeOptions runtimeOptions(const Setup &setup) {
  RuntimeOptions options;
  options.device = setup.device;
  options.jit = setup.jit;
  options.sim_seed = setup.sim_seed;
  options.sim_ctas = setup.sim_ctas;
  const char *path = std::getenv("PATH"), *nvrtc = std::getenv("PHASEC_NVRTC"), *cuda = std::getenv("PHASEC_CUDA");
  options.search_path = path ? path : "";
  options.nvrtc_path = nvrtc ? nvrtc : "";
  options.cuda_path = cuda ? cuda : "";
  options.templates_dir = setup.templates;
  options.cache.user_dir = !setup.cache.empty() ? setup.cache : std::filesystem::exists(PHASEC_BUILD_DIR) ? PHASEC_BUILD_DIR "/tests/cache/runtime" : "";
  options.prove = setup.prove;
  return options;
}

/// hostSchedule() without assertions, for threads.
inline Schedule scheduleOf(const std::string &settings) {
  Schedule schedule;
  (void)schedule.set("math", "exact", Origin::Host);
  std::istringstream words(settings);
  for (std::string word; words >> word;) {
    size_t equals = word.find('=');
    (void)schedule.set(word.substr(0, equals), word.substr(equals + 1), Origin::Host);
  }
  return schedule;
}

/// One step: tokens over sequences.
struct Feed {
  std::vector<int> contexts, tokens; ///< per sequence
  uint64_t seed = 1;
  bool outliers = false;
  bool padded = true; ///< caches

  std::string text() const {
    std::string t = "contexts";
    for (int c : contexts) t += " " + std::to_string(c);
    t += " tokens";
    for (int n : tokens) t += " " + std::to_string(n);
    return t;
  }
};

inline InputOptions inputOptions(const Feed &step) {
  InputOptions options;
  options.seed = step.seed;
  options.contexts = step.contexts;
  options.tokens_per_seq = step.tokens;
  options.outliers = step.outliers;
  options.padded = step.padded;
  return options;
}

/// A kernel with its runtime. Members are public: tests take it apart.
struct Session {
  Layers layers;
  Runtime runtime;
  Kernel kernel;

  static Result<Session> open(const Layers &layers, const Setup &setup) {
    PHASEC_ASSIGN(Runtime runtime, Runtime::open(runtimeOptions(setup)));
    PHASEC_ASSIGN(Kernel kernel, runtime.prepare(layers, scheduleOf(setup.settings)));
    return Session{layers, std::move(runtime), std::move(kernel)};
  }
  Device &device() { return runtime.device(); }
};

/// A step of a session: inputs on the host and on the device, and the launch they are bound to.
struct Ready {
  std::shared_ptr<HostInputs> inputs;
  std::shared_ptr<Staging> staging;
  std::shared_ptr<Bound> bound;

  static Result<Ready> make(Session &session, const Feed &step) {
    PHASEC_ASSIGN(HostInputs made, cli::makeInputs(session.kernel.plan(), session.layers.module(), inputOptions(step)));
    auto inputs = std::make_shared<HostInputs>(std::move(made));
    PHASEC_ASSIGN(Staging staging, Staging::make(session.kernel, session.device(), *inputs));
    PHASEC_TRY(staging.wipeOutputs());
    PHASEC_ASSIGN(Bound bound, session.kernel.bind(staging.buffers()));
    return Ready{inputs, std::make_shared<Staging>(std::move(staging)), std::make_shared<Bound>(std::move(bound))};
  }
  Result<CheckResult> check(Session &session) const {
    PHASEC_ASSIGN(Downloaded results, staging->download());
    return cli::checkAgainstReference(session.kernel.plan(), session.layers.module(), *inputs, results);
  }
};

inline std::string firstOf(const CheckResult &check) { return check.findings.empty() ? "" : check.findings.front(); }

/// math = fast: errors as shares of their bounds. The contract is on the mean over inputs; a single one may lie a little above,
/// where rounding once more turns a value that is rounded anyway.
struct Errors {
  static constexpr double kSingleMax = 1.25;
  std::vector<double> shares;

  /// What is wrong with a result besides its error, which is kept.
  std::string take(const CheckResult &check) {
    if (check.rel_l2_bound > 0) shares.push_back(check.rel_l2 / check.rel_l2_bound);
    for (const std::string &f : check.findings)
      if (!contains(f, "against fp64 exceeds") || shares.empty() || !(shares.back() <= kSingleMax)) return f;
    return "";
  }
  /// Above 1 is wrong.
  double mean() const {
    double sum = 0;
    for (double s : shares) sum += s;
    return shares.empty() ? 0 : sum / double(shares.size());
  }
};

/// Launches twice, the second time with other activations; compares both with the reference and, on the sim, what was
/// streamed with the plan. Returns what is wrong; empty: nothing.
inline std::string runStep(Session &session, const Feed &step, Downloaded *results = nullptr, Errors *errors = nullptr) {
  auto wrongWith = [&](const CheckResult &check) { return errors ? errors->take(check) : firstOf(check); };
  auto ready = Ready::make(session, step);
  if (!ready.ok()) return ready.status().text();
  Status s = ready->bound->launch();
  if (s.ok()) s = session.device().synchronize();
  if (!s.ok()) return s.text();
  if (session.device().info().device == "sim") {
    std::vector<SequenceStep> sequences;
    for (size_t i = 0; i < step.contexts.size(); i++) sequences.push_back({step.tokens[i], step.contexts[i]});
    StreamCount planned = countStream(session.kernel.plan(), session.layers.module(), sequences);
    LaunchCounters executed = session.device().counters();
    if (planned.copies != executed.stream_copies || planned.bytes != executed.stream_bytes || planned.waits != executed.stream_waits)
      return "planned " + std::to_string(planned.copies) + " copies, " + std::to_string(planned.bytes) + " bytes, " + std::to_string(planned.waits) +
             " waits; executed " + std::to_string(executed.stream_copies) + ", " + std::to_string(executed.stream_bytes) + ", " +
             std::to_string(executed.stream_waits);
  }
  auto check = ready->check(session);
  if (!check.ok()) return check.status().text();
  if (std::string wrong = wrongWith(*check); !wrong.empty()) return wrong;
  if (results) {
    auto downloaded = ready->staging->download();
    if (!downloaded.ok()) return downloaded.status().text();
    *results = downloaded.take();
  }
  // Again on the same workspace with the activations of another seed: whoever does not wait now reads the first launch's.
  Feed other = step;
  other.seed += 1000;
  auto inputs = cli::makeInputs(session.kernel.plan(), session.layers.module(), inputOptions(other));
  if (!inputs.ok()) return inputs.status().text();
  for (const BufferSpec &spec : session.kernel.buffers()) {
    std::string name = std::to_string(spec.instance) + "/" + spec.name;
    if (spec.kind != "input" || spec.shape[0] >= 0) continue;
    std::vector<uint8_t> &bytes = ready->inputs->arrays.at(name);
    bytes = inputs->arrays.at(name);
    s = session.device().upload(ready->staging->buffers().arrays.at(name).address, bytes.data(), int64_t(bytes.size()));
    if (!s.ok()) return s.text();
  }
  s = ready->staging->wipeOutputs();
  if (s.ok()) s = ready->bound->launch();
  if (s.ok()) s = session.device().synchronize();
  if (!s.ok()) return "second launch: " + s.text();
  check = ready->check(session);
  if (!check.ok()) return check.status().text();
  std::string wrong = wrongWith(*check);
  return wrong.empty() ? "" : "second launch: " + wrong;
}

/// One kernel with the steps it is tried at.
struct Case {
  std::string name;
  Layers layers;
  Setup setup;
  std::vector<Feed> steps;
};

/// Runs cases, two at a time (most of a case is the host compiler's), and fails with what they found.
inline void runCases(const std::vector<Case> &cases) {
  std::atomic<size_t> next{0}, runs{0};
  std::mutex mutex;
  std::vector<std::string> findings;
  auto work = [&] {
    for (size_t i; (i = next++) < cases.size();) {
      const Case &c = cases[i];
      auto find = [&](const std::string &text) {
        std::lock_guard lock(mutex);
        findings.push_back(c.name + " (" + c.setup.settings + ", " + std::to_string(c.setup.sim_ctas) + " CTAs, seed " + std::to_string(c.setup.sim_seed) + ") " + text);
      };
      auto session = Session::open(c.layers, c.setup);
      if (!session.ok()) {
        find(session.status().text());
        continue;
      }
      Errors errors;
      for (const Feed &step : c.steps) {
        runs++;
        if (std::string wrong = runStep(*session, step, nullptr, &errors); !wrong.empty()) find(step.text() + ": " + wrong);
      }
      if (errors.mean() > 1) find("errors are " + std::to_string(errors.mean()) + " of their bounds in the mean");
    }
  };
  std::thread other(work);
  work();
  other.join();
  MESSAGE(cases.size() << " kernels, " << runs.load() << " steps");
  for (const std::string &f : findings) FAIL_CHECK(f);
  CHECK(findings.empty());
  CHECK(runs >= cases.size());
}

/// A directory of its own, removed afterwards.
class TemporaryDir {
public:
  TemporaryDir() : path_(std::filesystem::temp_directory_path() / ("phasec-runtime-" + std::to_string(getpid()) + "-" + std::to_string(next_++))) {
    std::filesystem::create_directories(path_);
  }
  ~TemporaryDir() { std::filesystem::remove_all(path_); }
  std::string text() const { return path_.string(); }
  void write(const std::string &name, const std::string &text) const {
    std::filesystem::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name) << text;
  }

private:
  static inline std::atomic<int> next_{0};
  std::filesystem::path path_;
};

/// The steps that between them have tokens 1, 3 and 8, one to five sequences, and all the lengths around a page of 64.
inline std::vector<Feed> coveringSteps() {
  return {{{1}, {1}, 11, false}, {{63, 65}, {2, 1}, 12, true}, {{64, 0, 300, 1, 63}, {1, 2, 3, 1, 1}, 13, false}, {{300}, {8}, 14, true}};
}

} // namespace runtimetest
