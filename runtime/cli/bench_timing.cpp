// bench_timing.cpp: times of a stream, and what a list of them says.
#include "runtime/cli/bench.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace phasec::cli {

Statistics statistics(std::vector<double> samples) {
  Statistics s;
  if (samples.empty()) return s;
  std::sort(samples.begin(), samples.end());
  size_t n = samples.size();
  s.min = samples.front();
  s.median = n % 2 ? samples[n / 2] : (samples[n / 2 - 1] + samples[n / 2]) / 2;
  s.p99 = samples[size_t(std::ceil(0.99 * double(n))) - 1];
  double mean = std::accumulate(samples.begin(), samples.end(), 0.0) / double(n), squares = 0;
  for (double x : samples) squares += (x - mean) * (x - mean);
  s.deviation = n > 1 ? std::sqrt(squares / double(n - 1)) : 0;
  return s;
}

double noiseBand(double median, double deviation, double other_deviation) {
  return std::max(kNoiseMin, 3 * std::hypot(deviation, other_deviation) / median);
}

Result<cuda::Graph> capture(cuda::Stream &stream, int launches, const std::function<Status(int)> &launch) {
  PHASEC_TRY(stream.beginCapture());
  Status launched;
  for (int i = 0; i < launches && launched.ok(); i++) launched = launch(i);
  auto graph = stream.endCapture(); // also after a failure, or the stream is lost
  PHASEC_TRY(launched);
  return graph;
}

Result<std::vector<double>> timeOnStream(cuda::CudaDevice &device, cuda::Stream &stream, int samples, const std::function<Status()> &enqueue) {
  for (int i = 0; i < samples; i++) {
    PHASEC_TRY(device.mark(i, stream.handle()));
    PHASEC_TRY(enqueue());
  }
  PHASEC_TRY(device.mark(samples, stream.handle()));
  PHASEC_TRY(stream.synchronize());
  std::vector<double> us;
  for (int i = 0; i < samples; i++) {
    PHASEC_ASSIGN(double one, device.elapsedMicroseconds(i, i + 1));
    us.push_back(one);
  }
  return us;
}

} // namespace phasec::cli
