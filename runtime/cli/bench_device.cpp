// bench_device.cpp: `phasec bench FILE`: checks and times a layer or a stack on the GPU.
//
// The rules: weights never come from L2 (many instances with memory of their own in one launch, or launches that rotate over
// several sets of buffers); a sample covers at least 24 layers; nothing is timed that has not passed its check; the ceilings
// are measured in the same run.
#include "runtime/cli/bench.h"

#include "llvm/Support/Format.h"

#include <algorithm>

namespace phasec::cli {
namespace {

constexpr int kLayersPerSample = 24;
constexpr int64_t kColdBytes = 800'000'000; ///< distinct bytes between two uses of an address
constexpr int kSetsMin = 4, kCopiesMax = 64;
constexpr int kWarmups = 3;

int64_t ceilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// One configuration from preparing to timing.
class Measurement {
public:
  Measurement(Runtime &runtime, cuda::CudaDevice &device, const BenchOptions &options, const Layers &single, const Layers &launch,
              bool replicated, int sets, const Schedule &schedule, BenchRow &row)
      : runtime_(runtime), device_(device), options_(options), single_(single), launch_(launch), replicated_(replicated),
        schedule_(schedule), row_(row) {
    row.sets = sets;
  }

  Status run() {
    PHASEC_ASSIGN(Kernel kernel, runtime_.prepare(launch_, schedule_));
    describe(kernel);
    InputOptions wanted;
    wanted.tokens = row_.tokens;
    wanted.contexts.assign(size_t(row_.tokens), row_.context);
    wanted.instances = replicated_ ? 1 : 0;
    PHASEC_ASSIGN(HostInputs inputs, makeInputs(kernel.plan(), launch_.module(), wanted));
    if (options_.gate || !replicated_) PHASEC_TRY(stageFirst(kernel, inputs));
    if (!row_.passed()) return {}; // what is wrong is not worth timing
    PHASEC_TRY(stageRest(kernel, inputs));
    return time();
  }

private:
  void describe(const Kernel &kernel) {
    row_.toolchain = kernel.provenance().artefact->toolchain;
    const Plan &plan = kernel.plan();
    row_.schedule = plan.schedule;
    row_.key = kernel.key().text();
    row_.resources = kernel.provenance().artefact->resources;
    row_.ctas = kernel.ctas();
    row_.active_wo_ctas = activeWoCtas(plan, row_.ctas);
    row_.gather_ctas = gatherCtas(plan, row_.ctas);
    row_.instances = int(plan.instances.size());
    row_.launches = int(ceilDiv(kLayersPerSample, row_.instances * row_.sets)) * row_.sets;
    row_.bytes = launchBytes(launch_.module(), row_.tokens, row_.context);
    row_.cold = row_.sets * (row_.bytes.weights + row_.bytes.kv) >= kColdBytes;
  }

  /// What is checked: the launch itself, or one instance of a launch of many that are alike.
  Status stageFirst(const Kernel &kernel, const HostInputs &inputs) {
    Kernel one = kernel;
    if (replicated_) {
      PHASEC_ASSIGN(one, runtime_.prepare(single_, schedule_));
    }
    PHASEC_ASSIGN(Staging first, Staging::make(one, device_, inputs));
    if (options_.gate) {
      PHASEC_ASSIGN(row_.gate, checkOnce(one, replicated_ ? single_.module() : launch_.module(), device_, first, inputs));
    }
    stagings_.push_back(std::move(first));
    return {};
  }

  /// The buffers that are timed: all sets of a launch of one, or all instances of a launch of many.
  Status stageRest(const Kernel &kernel, const HostInputs &inputs) {
    for (int set = replicated_ ? 0 : 1; set < row_.sets; set++) {
      PHASEC_ASSIGN(Staging more, Staging::replicate(kernel, device_, inputs, stagings_.empty() ? nullptr : &stagings_.front()));
      stagings_.push_back(std::move(more));
    }
    if (replicated_ && stagings_.size() > 1) stagings_.erase(stagings_.begin());
    for (Staging &staging : stagings_) {
      PHASEC_TRY(staging.wipeOutputs());
      PHASEC_ASSIGN(Bound bound, kernel.bind(staging.buffers()));
      bounds_.push_back(std::move(bound));
    }
    return {};
  }

  /// What the sets hold now; they have equal inputs, so all must hold the same.
  Result<bool> alike(std::optional<Downloaded> &expected) const {
    for (const Staging &staging : stagings_) {
      PHASEC_ASSIGN(Downloaded now, staging.downloadOutputs());
      if (!expected) expected = std::move(now);
      else if (!(now == *expected)) return false;
    }
    return true;
  }

  Status time() {
    for (Bound &bound : bounds_) PHASEC_TRY(bound.launch());
    PHASEC_TRY(device_.synchronize());
    std::optional<Downloaded> expected;
    PHASEC_ASSIGN(row_.alike, alike(expected));
    if (!row_.alike) return {};
    PHASEC_ASSIGN(cuda::Stream stream, cuda::Stream::create(device_));
    PHASEC_ASSIGN(cuda::Graph graph, capture(stream, row_.launches, [&](int i) { return bounds_[size_t(i) % bounds_.size()].launch(stream.handle()); }));
    PHASEC_TRY(stream.replay(graph, kWarmups));
    PHASEC_ASSIGN(row_.samples_us, timeOnStream(device_, stream, options_.samples, [&] { return stream.replay(graph); }));
    PHASEC_ASSIGN(row_.alike, alike(expected));
    for (const Bound &bound : bounds_) {
      PHASEC_ASSIGN(int64_t refused, bound.refusedSteps());
      if (refused) row_.alike = false;
    }
    return {};
  }

  Runtime &runtime_;
  cuda::CudaDevice &device_;
  const BenchOptions &options_;
  const Layers &single_, &launch_;
  const bool replicated_;
  const Schedule &schedule_;
  BenchRow &row_;
  std::vector<Staging> stagings_;
  std::vector<Bound> bounds_;
};

class DeviceBench {
public:
  DeviceBench(const Session &session, const BenchOptions &options, Runtime &runtime, cuda::CudaDevice &device)
      : session_(session), options_(options), runtime_(runtime), device_(device) {}

  Status run(BenchReport &report, const std::function<Status(const BenchReport &)> &done) {
    PHASEC_ASSIGN(text_, readFile(options_.file));
    PHASEC_ASSIGN(Layers layers, Layers::parse(options_.file, text_));
    is_stack_ = !layers.module().stacks.empty();
    if (is_stack_ && options_.repeat)
      return Status::usage(options_.file + " holds a stack, which is taken as it is; drop --repeat");
    report.layer = layers.name();
    report.device = device_.info();
    PHASEC_ASSIGN(report.ceilings, measureCeilings(session_.options, device_));
    std::vector<std::string> values = options_.sweep_values;
    if (values.empty()) values.push_back("");
    size_t count = values.size() * options_.tokens.size() * options_.contexts.size();
    for (int tokens : options_.tokens)
      for (int context : options_.contexts)
        for (const std::string &value : values) {
          BenchRow &row = report.rows.emplace_back();
          row.tokens = tokens;
          row.context = context;
          row.sweep_value = value;
          row.error = measure(layers, row);
          row.fraction = fractionOf(row, report.ceilings);
          sayRow(row, report.rows.size(), count);
          PHASEC_TRY(done(report));
        }
    return compareWithOthers(layers, report, done);
  }

private:
  static double fractionOf(const BenchRow &row, const Ceilings &ceilings) {
    double us = row.layerUs(statistics(row.samples_us).median);
    return us > 0 && ceilings.read_tbs > 0 ? row.bytesPerLayer() / us / 1e6 / ceilings.read_tbs : 0;
  }

  Status compareWithOthers(const Layers &layers, BenchReport &report, const std::function<Status(const BenchReport &)> &done) {
    if (options_.peers) PHASEC_TRY(runPeers(session_, options_, layers, report, [&] { return done(report); }));
    if (!options_.error_seeds) return {};
    PHASEC_ASSIGN(report.error, measureError(session_, options_, layers, runtime_, session_.schedule));
    return done(report);
  }

  Status measure(const Layers &layers, BenchRow &row) {
    Schedule schedule = session_.schedule;
    // A kernel for the batch at hand, unless the user says otherwise: what `tune` would do.
    PHASEC_TRY(schedule.set("tokens_max", std::to_string(row.tokens), Origin::Tuned));
    if (!options_.sweep_knob.empty()) PHASEC_TRY(schedule.set(options_.sweep_knob, row.sweep_value, Origin::Host));
    if (is_stack_) return Measurement(runtime_, device_, options_, layers, layers, false, 1, schedule, row).run();
    PHASEC_ASSIGN(int64_t copies, copiesFor(layers, row));
    PHASEC_ASSIGN(std::optional<Layers> stack, stackOf(layers, copies));
    if (!stack) return Measurement(runtime_, device_, options_, layers, layers, false, int(copies), schedule, row).run();
    return Measurement(runtime_, device_, options_, layers, *stack, true, 1, schedule, row).run();
  }

  /// How often a layer is held in memory: as instances of one launch or, when each launch is one layer, as sets.
  Result<int64_t> copiesFor(const Layers &layers, const BenchRow &row) {
    if (options_.repeat > 1) return int64_t(options_.repeat);
    LaunchBytes one = launchBytes(layers.module(), row.tokens, row.context);
    int64_t inputs = 0;
    for (const ir::Value &v : layers.module().layers.back().values)
      if (v.kind == ir::ValueKind::Input) inputs += std::abs(v.shape[0] * v.shape.back()) * ir::bytes(v.dtype);
    int64_t least = options_.repeat == 1 ? kSetsMin : kLayersPerSample;
    int64_t wanted = std::clamp<int64_t>(ceilDiv(kColdBytes, std::max<int64_t>(1, one.weights + one.kv)), least, kCopiesMax);
    PHASEC_ASSIGN(int64_t free, device_.freeBytes());
    // One more for the check, and a tenth for padding, guard pages, workspaces and the driver.
    int64_t fit = int64_t(double(free) * 0.9 / double(one.weights + one.kv + inputs + 1)) - 1;
    if (fit < std::min(wanted, int64_t(kSetsMin)))
      return Status::input("tokens " + std::to_string(row.tokens) + ", context " + std::to_string(row.context) + ": " + std::to_string(kSetsMin + 1) +
                           " copies of the layer's weights and cache do not fit into " + std::to_string(free >> 20) +
                           " MiB of free device memory; shorten --contexts or --tokens");
    return std::min(wanted, fit);
  }

  /// `copies` instances of the layer in one launch; none when each launch is to be one layer.
  Result<std::optional<Layers>> stackOf(const Layers &layers, int64_t copies) {
    if (options_.repeat == 1 || copies == 1) return std::optional<Layers>();
    auto stack = Layers::parse(options_.file, text_ + "\nstack @bench { @" + layers.name() + " * " + std::to_string(copies) + " }\n");
    if (stack) return std::optional<Layers>(std::move(*stack));
    std::string why = "@" + layers.name() + " cannot run many times in one launch: " + stack.status().text();
    if (options_.repeat) return Status::input(why + "\nuse --repeat 1");
    say(why + "; measuring launches of one instance (--repeat 1)");
    return std::optional<Layers>();
  }

  void sayRow(const BenchRow &row, size_t done, size_t count) const {
    std::string text;
    llvm::raw_string_ostream out(text);
    out << "[" << done << "/" << count << "] tokens " << row.tokens << ", context " << row.context;
    if (!options_.sweep_knob.empty()) out << ", " << options_.sweep_knob << " " << row.sweep_value;
    if (!row.error.ok()) out << ": " << row.error.text();
    if (row.gate) out << llvm::format(": check %.1f s", row.gate->seconds);
    if (!row.samples_us.empty()) out << llvm::format(", %.2f us per layer, %.3f of the read ceiling", row.layerUs(statistics(row.samples_us).median), row.fraction);
    if (!row.passed()) out << ": FAILED, and not timed: " << row.gate->findings.front();
    else if (!row.alike && row.error.ok()) out << ": FAILED: launches left different bytes";
    say(out.str());
  }

  const Session &session_;
  const BenchOptions &options_;
  Runtime &runtime_;
  cuda::CudaDevice &device_;
  std::string text_;
  bool is_stack_ = false;
};

} // namespace

Result<BenchReport> deviceBench(const Session &session, const BenchOptions &options,
                                const std::function<Status(const BenchReport &)> &done) {
  const RuntimeOptions &o = session.options;
  PHASEC_ASSIGN(cuda::DriverApi api, cuda::openDriver(o.cuda_path));
  PHASEC_ASSIGN(std::unique_ptr<cuda::CudaDevice> opened, cuda::CudaDevice::open(api, o.ordinal));
  cuda::CudaDevice &device = *opened;
  PHASEC_ASSIGN(Runtime runtime, Runtime::with(o, std::move(opened)));
  BenchReport report;
  PHASEC_TRY(DeviceBench(session, options, runtime, device).run(report, done));
  return report;
}

} // namespace phasec::cli
