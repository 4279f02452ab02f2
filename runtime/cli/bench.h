// bench.h: what the parts of `phasec bench` hand each other.
#pragma once

#include "runtime/cli/checking.h"
#include "runtime/cli/cli.h"
#include "runtime/cli/program.h"
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
  bool peers = false;
  int peer_seconds = 240;            ///< for each
  int error_seeds = 0;               ///< 0: errors are not measured
};

/// Figures of one list of samples.
struct Statistics {
  double median = 0, min = 0, p99 = 0, deviation = 0;
};
Statistics statistics(std::vector<double> samples);

/// How far apart, relative to `median`, two runs of one configuration may lie: three standard deviations of the samples of
/// both, and at least kNoiseMin, because clocks and placement differ between runs and not within one.
double noiseBand(double median, double deviation, double other_deviation);
inline constexpr double kNoiseMin = 0.01;

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

inline constexpr double kMemoryBoundFraction = 0.5;

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
  /// Launches may differ only where nobody asked for an order of sums.
  bool repeats() const { return alike || schedule.word("reduce") == "atomic"; }
  bool ok() const { return error.ok() && passed() && repeats(); }
  double layerUs(double sample_us) const { return sample_us / (launches * instances); }
  /// The written rule, from bytes and time alone: memory-bound when reading the row's bytes at the ceiling of the same run
  /// takes at least half of its time, else latency-limited (waits, or instructions: bytes and time cannot tell those apart).
  const char *boundBy() const { return fraction >= kMemoryBoundFraction ? "memory-bound" : "latency-limited"; }
  double bytesPerLayer() const { return double(bytes.weights + bytes.kv) / instances; }
};

/// One way in which a peer ran one row.
struct PeerArm {
  std::string name, error;       ///< "torch eager"; why it has no figures
  int tokens = 0, context = 0;
  int layers = 0;                ///< in one sample
  std::vector<double> samples_us;
  double layerUs() const;        ///< median; 0: no figures
};

/// What others need for the same work, measured in this run.
struct Peer {
  std::string name;              ///< "torch" | "triton"
  std::string problem;           ///< why it has no figures, or not all
  std::vector<PeerArm> arms;
  const PeerArm *fastest(const BenchRow &row) const; ///< null: no figures
  double speedup(const BenchRow &row) const;         ///< its time over the row's; 0: no figures
};

/// The error of one returned value against fp64: relative, in the L2 norm.
struct ErrorRow {
  int seed = 0;
  std::string value;
  double rel_l2 = 0, torch = 0;  ///< the kernel's, PyTorch's in bf16
  double torch_fp64 = 0;         ///< PyTorch's in fp64: whether it means the same layer
};
inline constexpr double kErrorRatioMax = 1.05; ///< what the mean error may be, against PyTorch's

struct ErrorReport {
  int tokens = 0, context = 0;
  std::vector<ErrorRow> rows;
  std::string problem;           ///< why there is nothing to compare with
  std::vector<std::string> values() const;
  ErrorRow mean(const std::string &value) const;
  bool holds() const;            ///< also when there is nothing to compare with
};

struct BenchReport {
  std::string layer;
  DeviceInfo device;
  Ceilings ceilings;
  std::vector<BenchRow> rows;
  std::vector<Peer> peers;
  std::optional<ErrorReport> error;
  /// Of a sweep: the time at the first value, for the same step, over the row's; 0: no figures.
  double speedup(const BenchRow &row) const;
};
/// Members of an object that a peer printed; "" and 0 when it has none of that type.
std::string textOf(const llvm::json::Object &object, llvm::StringRef name);
double numberOf(const llvm::json::Object &object, llvm::StringRef name);
/// Runs a peer's file and gives the objects it prints; `problem` says why there may be none.
Result<std::vector<llvm::json::Object>> runPeer(const Session &session, const WorkDirectory &directory, const std::string &peer,
                                                const std::vector<std::string> &arguments, int seconds, std::string &problem);
/// Fills report.peers for its rows; `done` is called after each.
Status runPeers(const Session &session, const BenchOptions &options, const Layers &layers, BenchReport &report, const std::function<Status()> &done);
/// For the first of the options' tokens and contexts.
Result<ErrorReport> measureError(const Session &session, const BenchOptions &options, const Layers &layers, Runtime &runtime, Schedule schedule);

/// A kernel for the batch at hand, unless the user says otherwise.
Status compileForBatch(Schedule &schedule, int tokens);

/// The inputs of one step. No schedule changes them, so configurations of one batch can share them.
struct StepInputs {
  std::optional<HostInputs> inputs;
  std::optional<Staging> device; ///< of `inputs`; none: every row brings its own there
};

/// Measures configurations of one file on one device, one after the other.
class RowBench {
public:
  /// `keep`: inputs stay, on the host and on the device, for the next row of the same step.
  RowBench(Runtime &runtime, cuda::CudaDevice &device, bool keep) : runtime_(runtime), device_(device), keep_(keep) {}
  Result<Layers> open(const BenchOptions &options);
  /// Fills a row whose tokens and context are set. Of the options, `repeat`, `samples` and `gate` count.
  Status measure(const BenchOptions &options, const Schedule &schedule, BenchRow &row);

private:
  bool isStack() const;
  Status stage(const Schedule &schedule, const BenchRow &row, StepInputs &step);
  Result<int64_t> copiesFor(const BenchOptions &options, const BenchRow &row);
  Result<std::optional<Layers>> stackOf(const BenchOptions &options, int64_t copies);

  Runtime &runtime_;
  cuda::CudaDevice &device_;
  const bool keep_;
  std::map<std::pair<int, int>, StepInputs> kept_; ///< by tokens and context
  std::string text_;
  std::optional<Layers> layers_;
  bool said_ = false; ///< that the layer cannot run many times in one launch
};

/// `done` is called after every row, so that what was measured is kept whatever comes.
Result<BenchReport> deviceBench(const Session &session, const BenchOptions &options,
                                const std::function<Status(const BenchReport &)> &done);

std::string benchJson(const BenchReport &report, const BenchOptions &options, const std::string &command);
std::string benchCsv(const BenchReport &report, const BenchOptions &options);
std::string benchTable(const BenchReport &report, const BenchOptions &options);

} // namespace phasec::cli
