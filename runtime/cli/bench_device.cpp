// bench_device.cpp: `phasec bench FILE`: every row of a layer or a stack on the GPU, beside ceilings of the same run.
#include "runtime/cli/bench.h"

#include "llvm/Support/Format.h"

#include <algorithm>

namespace phasec::cli {
namespace {

class DeviceBench {
public:
  DeviceBench(const Session &session, const BenchOptions &options, Runtime &runtime, cuda::CudaDevice &device)
      : session_(session), options_(options), runtime_(runtime), device_(device), rows_(runtime, device, false) {}

  Status run(BenchReport &report, const std::function<Status(const BenchReport &)> &done) {
    PHASEC_ASSIGN(Layers layers, rows_.open(options_));
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
    PHASEC_TRY(compileForBatch(schedule, row.tokens));
    if (session_.options.tuned) {
      PHASEC_ASSIGN(schedule, runtime_.tuned(layers, schedule)); // of the layer, whose launches may be a stack of it
    }
    if (!options_.sweep_knob.empty()) PHASEC_TRY(schedule.set(options_.sweep_knob, row.sweep_value, Origin::Host));
    return rows_.measure(options_, schedule, row);
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
    else if (!row.repeats() && row.error.ok()) out << ": FAILED: launches left different bytes";
    say(out.str());
  }

  const Session &session_;
  const BenchOptions &options_;
  Runtime &runtime_;
  cuda::CudaDevice &device_;
  RowBench rows_;
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
