// bench.h: what the parts of `phasec bench` hand each other.
#pragma once

#include "runtime/cli/checking.h"
#include "runtime/cli/cli.h"
#include "runtime/cuda/graph.h"

#include <functional>
#include <optional>

namespace phasec::cli {

/// `bench --host`: measures and prints what phasec costs on the host.
Status hostBench(const Session &session, const std::string &file, int rounds);

struct BenchOptions {
  std::string file;
  std::vector<int> tokens, contexts; ///< one row per pair: so many sequences of one token, each with so many rows cached
  int repeat = 0;                    ///< instances of a single layer in one launch; 0: as the measuring rules ask
  int samples = 31;
  std::string sweep_knob;            ///< empty: no sweep
  std::vector<std::string> sweep_values;
  bool gate = true;
};

/// Figures of one list of samples.
struct Statistics {
  double median = 0, min = 0, p99 = 0, deviation = 0;
};
Statistics statistics(std::vector<double> samples);

/// A graph of `launches` calls of launch(i), which must go to `stream`.
Result<cuda::Graph> capture(cuda::Stream &stream, int launches, const std::function<Status(int)> &launch);
/// Enqueues `samples` times without waiting, and gives the microseconds between the stream's marks: the GPU never idles
/// because the host is late.
Result<std::vector<double>> timeOnStream(cuda::CudaDevice &device, cuda::Stream &stream, int samples, const std::function<Status()> &enqueue);
inline constexpr int kSamplesMax = 255; ///< a device has 256 marks

/// What this GPU can do at most, measured in this run.
struct Ceilings {
  int64_t read_bytes = 0;
  int read_ctas = 0;             ///< of the fastest grid
  std::vector<double> read_us;   ///< of that grid
  double read_tbs = 0;           ///< median
  double sm_mhz = 0;             ///< while it read
  std::vector<double> nothing_us; ///< per launch of an empty kernel within a graph
};
Result<Ceilings> measureCeilings(const RuntimeOptions &options, cuda::CudaDevice &device);

/// The correctness check that precedes every timing.
struct Gate {
  std::string contract;              ///< "exact" | "fast"
  int instances = 1;                 ///< that were checked
  bool bit_exact = false;
  double max_abs = 0, rel_l2 = 0;
  double bound = 0;                  ///< fast: largest rel_l2 against fp64 that passes
  std::vector<std::string> findings; ///< empty: passed
  double seconds = 0;
};
/// Launches `kernel` once on `staging` and compares with the reference.
Result<Gate> checkOnce(const Kernel &kernel, const ir::Module &module, Device &device, Staging &staging, const HostInputs &inputs);

/// Bytes that one launch must move, whatever the schedule: every weight once, every cached row once, this step's rows.
struct LaunchBytes {
  int64_t weights = 0, kv = 0;
};
LaunchBytes launchBytes(const ir::Module &module, int tokens, int context);

/// One configuration.
struct BenchRow {
  int tokens = 0, context = 0;
  std::string sweep_value;
  Schedule schedule;             ///< effective
  std::string key, toolchain, resources; ///< resources as JSON, as stored with the kernel
  int ctas = 0, active_wo_ctas = 0, gather_ctas = 0;
  int instances = 0;             ///< layers in one launch
  int sets = 0;                  ///< of buffers that launches take in turn
  int launches = 0;              ///< in one sample
  LaunchBytes bytes;             ///< of one launch
  Status error;                  ///< why there are no figures
  std::optional<Gate> gate;      ///< absent: not asked for
  bool alike = false;            ///< all launches left the same bytes
  std::vector<double> samples_us;
  double fraction = 0;           ///< of the read ceiling
  bool cold = false;             ///< what is read between two uses of an address is far more than L2 holds

  bool passed() const { return !gate || gate->findings.empty(); }
  bool ok() const { return error.ok() && passed() && alike; }
  double layerUs(double sample_us) const { return sample_us / (launches * instances); }
  double bytesPerLayer() const { return double(bytes.weights + bytes.kv) / instances; }
};

struct BenchReport {
  std::string layer;
  DeviceInfo device;
  Ceilings ceilings;
  std::vector<BenchRow> rows;
};
/// `done` is called after every row, so that what was measured is kept whatever comes.
Result<BenchReport> deviceBench(const Session &session, const BenchOptions &options,
                                const std::function<Status(const BenchReport &)> &done);

std::string benchJson(const BenchReport &report, const BenchOptions &options, const std::string &command);
std::string benchCsv(const BenchReport &report, const BenchOptions &options);
std::string benchTable(const BenchReport &report, const BenchOptions &options);

} // namespace phasec::cli
