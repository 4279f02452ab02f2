// bench_row.cpp: checks and times one configuration on the GPU.
//
// The rules: weights never come from L2 (many instances with memory of their own in one launch, or launches that rotate over
// several sets of buffers); a sample covers at least 24 layers; nothing is reported that has not passed its check.
#include "runtime/cli/bench.h"

#include <algorithm>

namespace phasec::cli {
namespace {

constexpr int kLayersPerSample = 24;
constexpr int64_t kColdBytes = 800'000'000; ///< distinct bytes between two uses of an address
constexpr int kSetsMin = 4, kCopiesMax = 64;
constexpr int kWarmups = 3;

int64_t ceilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

InputOptions stepOf(const BenchRow &row, int instances) {
  InputOptions wanted;
  wanted.tokens = row.tokens;
  wanted.contexts.assign(size_t(row.tokens), row.context);
  wanted.padded = false; // rows that begin anywhere share sectors of memory with their neighbours
  wanted.instances = instances;
  return wanted;
}

/// One configuration from preparing to timing.
class Measurement {
public:
  Measurement(Runtime &runtime, cuda::CudaDevice &device, const BenchOptions &options, const Layers &single, const Layers &launch,
              bool replicated, int sets, const Schedule &schedule, StepInputs &step, BenchRow &row)
      : runtime_(runtime), device_(device), options_(options), single_(single), launch_(launch), replicated_(replicated),
        schedule_(schedule), step_(step), row_(row) {
    row.sets = sets;
  }

  Status run() {
    PHASEC_ASSIGN(Kernel kernel, runtime_.prepare(launch_, schedule_));
    describe(kernel);
    if (!step_.inputs) {
      PHASEC_ASSIGN(step_.inputs, makeInputs(kernel.plan(), launch_.module(), stepOf(row_, replicated_ ? 1 : 0)));
    }
    if (options_.gate || !replicated_) PHASEC_TRY(stageFirst(kernel, *step_.inputs));
    if (!row_.passed()) return {}; // what is wrong is not worth timing
    PHASEC_TRY(stageRest(kernel, *step_.inputs));
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
    PHASEC_ASSIGN(Staging first, step_.device ? Staging::replicate(one, device_, inputs, &*step_.device) : Staging::make(one, device_, inputs));
    if (options_.gate) {
      PHASEC_ASSIGN(row_.gate, checkOnce(one, replicated_ ? single_.module() : launch_.module(), device_, first, inputs));
    }
    stagings_.push_back(std::move(first));
    return {};
  }

  /// The buffers that are timed: all sets of a launch of one, or all instances of a launch of many.
  Status stageRest(const Kernel &kernel, const HostInputs &inputs) {
    for (int set = replicated_ ? 0 : 1; set < row_.sets; set++) {
      const Staging *held = step_.device ? &*step_.device : stagings_.empty() ? nullptr : &stagings_.front();
      PHASEC_ASSIGN(Staging more, Staging::replicate(kernel, device_, inputs, held));
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
    if (!row_.repeats()) return {};
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
  StepInputs &step_;
  BenchRow &row_;
  std::vector<Staging> stagings_;
  std::vector<Bound> bounds_;
};

} // namespace

Status compileForBatch(Schedule &schedule, int tokens) {
  if (schedule.origin("tokens_max") > Origin::Tuned) return {}; // the user says otherwise
  return schedule.set("tokens_max", std::to_string(tokens), Origin::Host);
}

Result<Layers> RowBench::open(const BenchOptions &options) {
  PHASEC_ASSIGN(text_, readFile(options.file));
  PHASEC_ASSIGN(layers_, Layers::parse(options.file, text_));
  if (isStack() && options.repeat) return Status::usage(options.file + " holds a stack, which is taken as it is; drop --repeat");
  return *layers_;
}

/// One instance on the device that no launch touches: what every later launch has is copied from there.
Status RowBench::stage(const Schedule &schedule, const BenchRow &row, StepInputs &step) {
  PHASEC_ASSIGN(Kernel kernel, runtime_.prepare(*layers_, schedule));
  PHASEC_ASSIGN(step.inputs, makeInputs(kernel.plan(), layers_->module(), stepOf(row, 0)));
  PHASEC_ASSIGN(step.device, Staging::make(kernel, device_, *step.inputs));
  return {};
}

bool RowBench::isStack() const { return !layers_->module().stacks.empty(); }

Status RowBench::measure(const BenchOptions &options, const Schedule &schedule, BenchRow &row) {
  StepInputs own, &step = keep_ ? kept_[{row.tokens, row.context}] : own;
  if (isStack()) return Measurement(runtime_, device_, options, *layers_, *layers_, false, 1, schedule, step, row).run();
  PHASEC_ASSIGN(int64_t copies, copiesFor(options, row));
  PHASEC_ASSIGN(std::optional<Layers> stack, stackOf(options, copies));
  if (keep_ && !step.device) PHASEC_TRY(stage(schedule, row, step));
  if (!stack) return Measurement(runtime_, device_, options, *layers_, *layers_, false, int(copies), schedule, step, row).run();
  return Measurement(runtime_, device_, options, *layers_, *stack, true, 1, schedule, step, row).run();
}

/// How often a layer is held in memory: as instances of one launch or, when each launch is one layer, as sets.
Result<int64_t> RowBench::copiesFor(const BenchOptions &options, const BenchRow &row) {
  if (options.repeat > 1) return int64_t(options.repeat);
  LaunchBytes one = launchBytes(layers_->module(), row.tokens, row.context);
  int64_t inputs = 0;
  for (const ir::Value &v : layers_->module().layers.back().values)
    if (v.kind == ir::ValueKind::Input) inputs += std::abs(v.shape[0] * v.shape.back()) * ir::bytes(v.dtype);
  int64_t least = options.repeat == 1 ? kSetsMin : kLayersPerSample;
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
Result<std::optional<Layers>> RowBench::stackOf(const BenchOptions &options, int64_t copies) {
  if (options.repeat == 1 || copies == 1) return std::optional<Layers>();
  auto stack = Layers::parse(options.file, text_ + "\nstack @bench { @" + layers_->name() + " * " + std::to_string(copies) + " }\n");
  if (stack) return std::optional<Layers>(std::move(*stack));
  std::string why = "@" + layers_->name() + " cannot run many times in one launch: " + stack.status().text();
  if (options.repeat) return Status::input(why + "\nuse --repeat 1");
  if (!std::exchange(said_, true)) say(why + "; measuring launches of one instance (--repeat 1)");
  return std::optional<Layers>();
}

} // namespace phasec::cli
