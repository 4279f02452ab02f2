// bench_ceilings.cpp: runs ceilings.cu on the device that is about to be measured.
#include "runtime/cli/bench.h"
#include "runtime/cli/embedded.h"
#include "runtime/state.h"

#include <algorithm>

namespace phasec::cli {
namespace {

constexpr int64_t kReadBytesMax = int64_t(16) << 30, kReadBytesMin = int64_t(1) << 26;
constexpr int kThreads = 512, kSamples = 9, kWarmups = 2, kLaunchesPerGraph = 128;
constexpr const char *kProgram = "ceilings.cu";

/// The kernels' parameter; ceilings.cu has the same.
struct Args {
  uint64_t data, count, out;
};

/// The three kernels, their memory, and a stream.
class Probe {
public:
  explicit Probe(cuda::CudaDevice &device) : device_(device) {}
  ~Probe() {
    if (args_.data) device_.release(args_.data);
    if (args_.out) device_.release(args_.out);
  }

  Result<Ceilings> run(const std::vector<uint8_t> &cubin) {
    PHASEC_ASSIGN(fill_, device_.load(cubin, "phasec_fill"));
    PHASEC_ASSIGN(read_, device_.load(cubin, "phasec_read"));
    PHASEC_ASSIGN(nothing_, device_.load(cubin, "phasec_nothing"));
    PHASEC_ASSIGN(cuda::Stream stream, cuda::Stream::create(device_));
    PHASEC_TRY(allocate());
    PHASEC_TRY(launch(*fill_, device_.info().sms * 4, stream, false));
    PHASEC_TRY(stream.synchronize());
    for (int per_sm : {1, 2, 4}) PHASEC_TRY(read(device_.info().sms * per_sm, stream));
    PHASEC_TRY(launchNothing(stream));
    return std::move(ceilings_);
  }

private:
  /// 16 GiB, or as much as there is.
  Status allocate() {
    PHASEC_ASSIGN(int64_t free, device_.freeBytes());
    int64_t bytes = kReadBytesMax;
    while (bytes > free / 2 && bytes > kReadBytesMin) bytes /= 2;
    PHASEC_ASSIGN(args_.data, device_.allocate(bytes));
    PHASEC_ASSIGN(args_.out, device_.allocate(16));
    args_.count = uint64_t(bytes) / 16;
    ceilings_.read_bytes = bytes;
    return {};
  }

  Status launch(const LoadedKernel &kernel, int ctas, cuda::Stream &stream, bool cooperative) {
    return device_.launch(kernel, {ctas, kThreads, 0, cooperative}, &args_, sizeof args_, stream.handle());
  }

  /// Reads everything with one grid, and keeps its samples if it is the fastest so far.
  Status read(int ctas, cuda::Stream &stream) {
    for (int i = 0; i < kWarmups; i++) PHASEC_TRY(launch(*read_, ctas, stream, false));
    PHASEC_ASSIGN(std::vector<double> us, timeOnStream(device_, stream, kSamples, [&] { return launch(*read_, ctas, stream, false); }));
    double median = statistics(us).median, tbs = median > 0 ? double(ceilings_.read_bytes) / median / 1e6 : 0;
    if (tbs <= ceilings_.read_tbs) return {};
    uint64_t cycles = 0;
    PHASEC_TRY(device_.download(&cycles, args_.out + 8, sizeof cycles));
    ceilings_.sm_mhz = double(cycles) / us.back();
    ceilings_.read_ctas = ctas;
    ceilings_.read_tbs = tbs;
    ceilings_.read_us = std::move(us);
    return {};
  }

  Status launchNothing(cuda::Stream &stream) {
    PHASEC_ASSIGN(cuda::Graph graph, capture(stream, kLaunchesPerGraph, [&](int) { return launch(*nothing_, device_.info().sms, stream, true); }));
    PHASEC_TRY(stream.replay(graph, kWarmups));
    PHASEC_ASSIGN(ceilings_.nothing_us, timeOnStream(device_, stream, kSamples, [&] { return stream.replay(graph); }));
    for (double &us : ceilings_.nothing_us) us /= kLaunchesPerGraph;
    return {};
  }

  cuda::CudaDevice &device_;
  std::unique_ptr<LoadedKernel> fill_, read_, nothing_;
  Args args_ = {};
  Ceilings ceilings_;
};

} // namespace

Result<Ceilings> measureCeilings(const RuntimeOptions &options, cuda::CudaDevice &device) {
  const Target *target = findTarget(device.info().target);
  if (!target) return Status::device(device.info().name + " is of no target that phasec knows; `phasec doctor` lists them");
  PHASEC_ASSIGN(std::unique_ptr<Nvrtc> nvrtc, Nvrtc::open(detail::nvrtcSearch(options)));
  CompileRequest request;
  request.source = ceilingsSource();
  request.target = target;
  request.options.exact = false;
  request.program_name = kProgram;
  PHASEC_ASSIGN(CompiledKernel kernel, nvrtc->compile(request));
  return Probe(device).run(kernel.cubin);
}

} // namespace phasec::cli
