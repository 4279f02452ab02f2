// run.cpp: `phasec run`: fetch or build a kernel, launch it on seeded inputs, compare with the reference.
#include "runtime/cli/checking.h"
#include "runtime/cli/cli.h"

#include "compiler/fingerprint.h"
#include "runtime/manifest.h"

#include "llvm/Support/Format.h"

#include <algorithm>

namespace phasec::cli {
namespace {

#define RUN cl::sub(runCommand()), cl::cat(ownOptions())

cl::opt<std::string> file(cl::Positional, cl::Required, cl::desc("FILE"), cl::sub(runCommand()));
cl::opt<bool> check("check", cl::desc("compare with the reference; exit 3 when anything differs"), RUN);
cl::opt<int> tokens("tokens", cl::desc("rows of this step (default 3)"), cl::value_desc("N"), RUN);
cl::list<int> contexts("contexts", cl::desc("per sequence: rows already in the cache (default 1,65)"), cl::value_desc("N,..."),
                       cl::CommaSeparated, RUN);
cl::list<int> tokens_per_seq("tokens-per-seq", cl::desc("per sequence: rows of this step (default: spread evenly)"),
                             cl::value_desc("N,..."), cl::CommaSeparated, RUN);
cl::opt<bool> outliers("outliers", cl::desc("inputs with 3e6 beside 1e-3"), RUN);
cl::opt<unsigned long long> seed("seed", cl::desc("of the inputs (default 1)"), cl::value_desc("S"), cl::init(1), RUN);
cl::opt<unsigned long long> sim_seed("sim-seed", cl::desc("of the simulator's scheduler (default 1)"), cl::value_desc("S"), cl::init(1), RUN);
cl::opt<int> sim_ctas("sim-ctas", cl::desc("CTAs of a simulated launch, unless pinned (default 4)"), cl::value_desc("N"), cl::init(4), RUN);
cl::opt<int> repeat("repeat", cl::desc("launches (default 20 on cuda, 1 on sim; at least 2 with --check)"), cl::value_desc("N"), RUN);
cl::opt<std::string> save("save", cl::desc("write the returned values' bytes, one after the other"), cl::value_desc("F"), RUN);
cl::opt<std::string> record("record", cl::desc("add this kernel to a manifest for blessing"), cl::value_desc("F"), RUN);

constexpr int kCudaLaunches = 20;
constexpr int kSimCtasMax = 1024;

struct Times {
  std::vector<double> launches_us;
  double median() const {
    std::vector<double> sorted(launches_us.begin() + (launches_us.size() > 1), launches_us.end()); // the first one warms up
    std::sort(sorted.begin(), sorted.end());
    return sorted.empty() ? 0 : sorted[sorted.size() / 2];
  }
};

struct Outcome {
  Downloaded results;
  CheckResult check;
  Times times;
  int launches = 0, ctas = 0;
  int64_t split_launches = 0;
  StreamCount planned;
  LaunchCounters executed;
  bool simulated = false;
};

Result<Session> openRun() {
  PHASEC_ASSIGN(Session session, openSession());
  if (session.options.device == DeviceChoice::None) return Status::usage("run needs a device: auto, cuda or sim");
  if (repeat < 0) return Status::usage("--repeat takes a number from 1");
  if (sim_ctas < 1 || sim_ctas > kSimCtasMax)
    return Status::usage("--sim-ctas takes a number from 1 to " + std::to_string(kSimCtasMax));
  session.options.sim_seed = sim_seed;
  session.options.sim_ctas = sim_ctas;
  return session;
}

bool repeatable(const Kernel &kernel) { return kernel.plan().schedule.word("reduce") == "ordered"; }

/// Launches, and with --check downloads after every launch: all of them must leave the same bytes.
Status launchAll(const Kernel &kernel, Device &device, Staging &staging, Outcome &o) {
  PHASEC_ASSIGN(Bound bound, kernel.bind(staging.buffers()));
  o.ctas = bound.ctas();
  int launches = repeat ? repeat : o.simulated ? 1 : kCudaLaunches;
  if (check) launches = std::max(launches, 2);
  for (int i = 0; i < launches; i++) {
    if (check || i == 0) PHASEC_TRY(staging.wipeOutputs());
    PHASEC_TRY(device.mark(0, nullptr));
    PHASEC_TRY(bound.launch());
    PHASEC_TRY(device.mark(1, nullptr));
    PHASEC_TRY(device.synchronize());
    PHASEC_ASSIGN(double us, device.elapsedMicroseconds(0, 1));
    o.times.launches_us.push_back(us);
    o.launches++;
    if (!check && i + 1 < launches) continue;
    PHASEC_ASSIGN(Downloaded now, staging.download());
    if (i == 0 || !check) o.results = std::move(now);
    else if (!(now == o.results) && repeatable(kernel)) o.check.find("launch " + std::to_string(i + 1) + " left other bytes than the first");
  }
  PHASEC_ASSIGN(int64_t refused, bound.refusedSteps());
  if (refused) o.check.find("the kernel refused " + std::to_string(refused) + " steps");
  o.split_launches = bound.splitLaunches();
  o.executed = device.counters();
  return {};
}

Status checkAll(const Kernel &kernel, const ir::Module &module, const HostInputs &inputs, Outcome &o) {
  PHASEC_ASSIGN(CheckResult compared, checkAgainstReference(kernel.plan(), module, inputs, o.results));
  for (const std::string &finding : o.check.findings) compared.find(finding);
  o.check = std::move(compared);
  if (!o.simulated) return {};
  if (o.executed.stream_copies != o.planned.copies || o.executed.stream_bytes != o.planned.bytes ||
      o.executed.stream_waits != o.planned.waits)
    o.check.findings.push_back("the stream is not the planned one: " + std::to_string(o.executed.stream_copies) + " copies, " +
                               std::to_string(o.executed.stream_bytes) + " bytes, " + std::to_string(o.executed.stream_waits) +
                               " waits; planned " + std::to_string(o.planned.copies) + ", " + std::to_string(o.planned.bytes) + ", " +
                               std::to_string(o.planned.waits));
  return {};
}

/// One manifest line per kernel; a line that is there already is not added again.
Status recordKernel(const Kernel &kernel, const Layers &layers) {
  return recordLines(record, {manifestLine(layers, kernel.plan(), kernel.source())}).status();
}

Status saveOutputs(const Downloaded &results) {
  std::string bytes;
  for (const OutputArray &out : results.outputs) bytes.append(out.bytes.begin(), out.bytes.end());
  return writeFile(save, bytes);
}

void writeCache(llvm::json::OStream &json, const Kernel &kernel) {
  json.attributeObject("cache", [&] {
    json.attribute("outcome", kernel.miss() ? "miss" : "hit");
    json.attribute("layer", name(kernel.provenance().layer));
    json.attribute("path", clean(kernel.provenance().path));
    json.attribute("key", kernel.key().text());
    if (kernel.miss() && kernel.miss()->nearest)
      json.attributeObject("nearest", [&] {
        json.attribute("key", kernel.miss()->nearest->key.text());
        json.attribute("target", kernel.miss()->nearest->target);
      });
    else json.attribute("nearest", nullptr);
    writeReasons(json, kernel.miss() ? kernel.miss()->reasons : std::vector<Reason>());
  });
}

void writeCheck(llvm::json::OStream &json, const Kernel &kernel, const Outcome &o) {
  if (!check) return json.attribute("check", nullptr);
  json.attributeObject("check", [&] {
    json.attribute("contract", kernel.plan().schedule.word("math"));
    json.attribute("ok", o.check.findings.empty());
    bool exact = kernel.plan().schedule.word("math") == "exact";
    if (exact) json.attribute("bit_exact", o.check.bit_exact);
    else json.attribute("bit_exact", nullptr);
    json.attribute("max_abs", figure(o.check.max_abs));
    json.attribute("rel_l2", figure(o.check.rel_l2));
    if (!exact) json.attribute("rel_l2_bound", figure(o.check.rel_l2_bound));
    json.attributeArray("findings", [&] {
      for (const std::string &f : o.check.findings) json.value(f);
    });
  });
}

void writeStream(llvm::json::OStream &json, const Outcome &o) {
  auto counts = [&](const char *key, uint64_t copies, uint64_t bytes, uint64_t waits) {
    json.attributeObject(key, [&] {
      json.attribute("copies", int64_t(copies));
      json.attribute("bytes", int64_t(bytes));
      json.attribute("waits", int64_t(waits));
    });
  };
  json.attributeObject("stream", [&] {
    counts("planned", o.planned.copies, o.planned.bytes, o.planned.waits);
    if (o.simulated) counts("executed", o.executed.stream_copies, o.executed.stream_bytes, o.executed.stream_waits);
    else json.attribute("executed", nullptr);
  });
}

void writeTimes(llvm::json::OStream &json, const Kernel &kernel, const Outcome &o) {
  json.attributeObject("time_us", [&] {
    json.attribute("compile", kernel.compileMicroseconds());
    json.attribute("load", kernel.loadMicroseconds());
    if (o.simulated) json.attribute("launch_median", nullptr); // a simulated launch says nothing about a GPU's time
    else json.attribute("launch_median", o.times.median());
    if (o.simulated) json.attribute("simulation_median", o.times.median());
  });
  json.attribute("launches", o.launches);
  json.attribute("split_launches", o.split_launches);
}

void writeOutputs(llvm::json::OStream &json, const Outcome &o) {
  json.attributeArray("outputs", [&] {
    for (const OutputArray &out : o.results.outputs)
      json.object([&] {
        json.attribute("name", out.name);
        json.attribute("dtype", out.dtype);
        json.attributeArray("shape", [&] {
          for (int64_t n : out.shape) json.value(n);
        });
        json.attribute("digest", byteDigest({reinterpret_cast<const char *>(out.bytes.data()), out.bytes.size()}));
      });
  });
}

void printRunJson(const Layers &layers, Runtime &runtime, const Kernel &kernel, const HostInputs &inputs, const Outcome &o) {
  const Plan &plan = kernel.plan();
  printJson("run", [&](llvm::json::OStream &json) {
    json.attribute("layer", layers.name());
    json.attribute("device", runtime.device().info().device);
    json.attribute("device_name", runtime.device().info().name);
    json.attribute("target", plan.target->name);
    writeConfig(json, plan.schedule);
    json.attribute("wo_split", kernel.key().wo_split);
    json.attribute("function_fingerprint", kernel.key().fingerprint.hex());
    json.attribute("source_digest", kernel.sourceDigest());
    json.attribute("tokens", inputs.tokens());
    json.attributeArray("contexts", [&] {
      for (int32_t n : inputs.seq_context) json.value(n);
    });
    json.attribute("grid_ctas", o.ctas);
    json.attribute("active_wo_ctas", activeWoCtas(plan, o.ctas));
    json.attribute("gather_ctas", gatherCtas(plan, o.ctas));
    writeCache(json, kernel);
    writeCheck(json, kernel, o);
    writeTimes(json, kernel, o);
    writeStream(json, o);
    writeOutputs(json, o);
  });
}

void printRunText(const Layers &layers, Runtime &runtime, const Kernel &kernel, const HostInputs &inputs, const Outcome &o) {
  llvm::raw_ostream &out = llvm::outs();
  const Plan &plan = kernel.plan();
  out << "@" << layers.name() << " on " << runtime.device().info().name << " for " << plan.target->name << ": " << inputs.tokens()
      << (inputs.tokens() == 1 ? " token in " : " tokens in ") << inputs.sequences() << (inputs.sequences() == 1 ? " sequence, " : " sequences, ") << o.ctas << " CTAs, wo_split " << kernel.key().wo_split << "\n";
  out << "  key     " << kernel.key().text() << "\n";
  if (std::string tuned = tunedText(plan.schedule); !tuned.empty()) out << "  tuned   " << tuned << "\n";
  out << "  cache   ";
  if (!kernel.miss()) out << "hit (" << name(kernel.provenance().layer) << ")\n";
  else {
    out << "miss";
    for (size_t i = 0; i < std::min<size_t>(2, kernel.miss()->reasons.size()); i++) out << (i ? ", " : ": ") << kernel.miss()->reasons[i].text();
    out << llvm::format("; compiled in %.2f s\n", kernel.compileMicroseconds() / 1e6);
  }
  if (o.simulated) out << llvm::format("  launch  simulated in %.2f s; %llu bulk copies, %llu bytes\n", o.times.median() / 1e6,
                                       static_cast<unsigned long long>(o.executed.stream_copies), static_cast<unsigned long long>(o.executed.stream_bytes));
  else out << llvm::format("  launch  %.1f us (median of %d)\n", o.times.median(), o.launches);
  if (!check) {
    out << "  check   not asked for (--check compares with the reference)\n";
    return;
  }
  if (o.check.findings.empty()) {
    bool exact = kernel.plan().schedule.word("math") == "exact";
    if (exact) out << "  check   bit-exact: max_abs 0";
    else out << llvm::format("  check   rel_l2 %.2g against fp64 (allowed: %.2g)", o.check.rel_l2, o.check.rel_l2_bound);
    out << (repeatable(kernel) ? ", " + std::to_string(o.launches) + " launches alike\n" : ", launches need not be alike (reduce = atomic)\n");
  }
  for (const std::string &finding : o.check.findings) out << "  check   FAILED: " << finding << "\n";
}

} // namespace

Result<int> runMain() {
  PHASEC_ASSIGN(Session session, openRun());
  PHASEC_ASSIGN(Layers layers, Layers::read(file));
  PHASEC_ASSIGN(Runtime runtime, Runtime::open(session.options));
  PHASEC_ASSIGN(Kernel kernel, runtime.prepare(layers, session.schedule));
  InputOptions options;
  options.seed = seed;
  options.tokens = tokens;
  options.contexts.assign(contexts.begin(), contexts.end());
  options.tokens_per_seq.assign(tokens_per_seq.begin(), tokens_per_seq.end());
  options.outliers = outliers;
  PHASEC_ASSIGN(HostInputs inputs, makeInputs(kernel.plan(), layers.module(), options));
  PHASEC_ASSIGN(Staging staging, Staging::make(kernel, runtime.device(), inputs));
  Outcome o;
  o.simulated = runtime.device().info().device == "sim";
  PHASEC_TRY(launchAll(kernel, runtime.device(), staging, o));
  std::vector<SequenceStep> steps;
  for (int s = 0; s < inputs.sequences(); s++)
    steps.push_back({inputs.seq_first[size_t(s) + 1] - inputs.seq_first[size_t(s)], inputs.seq_context[size_t(s)]});
  o.planned = countStream(kernel.plan(), layers.module(), steps);
  if (check) PHASEC_TRY(checkAll(kernel, layers.module(), inputs, o));
  if (!save.empty()) PHASEC_TRY(saveOutputs(o.results));
  if (!record.empty()) PHASEC_TRY(recordKernel(kernel, layers));
  if (wantJson()) printRunJson(layers, runtime, kernel, inputs, o);
  else printRunText(layers, runtime, kernel, inputs, o);
  return o.check.findings.empty() ? 0 : kFinding;
}

} // namespace phasec::cli
