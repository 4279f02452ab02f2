// graph.h: a stream of one's own, and CUDA graphs captured from it: what the GPU tests, benches and hosts without a
// framework need to show that launches replay.
#pragma once

#include "runtime/cuda/cuda_device.h"

namespace phasec::cuda {

/// A captured and instantiated graph. Move-only; must not outlive its device.
class Graph {
public:
  Graph(Graph &&other) noexcept;
  Graph &operator=(Graph &&) = delete;
  ~Graph();

private:
  friend class Stream;
  Graph(const CudaDevice &device, CuGraphExec exec) : device_(&device), exec_(exec) {}
  const CudaDevice *device_;
  CuGraphExec exec_;
};

/// A stream that does not wait for the default one. Move-only; one thread at a time; must not outlive its device.
class Stream {
public:
  static Result<Stream> create(const CudaDevice &device);
  Stream(Stream &&other) noexcept;
  Stream &operator=(Stream &&) = delete;
  ~Stream();

  /// What Device::launch and mark take.
  StreamHandle handle() const { return stream_; }

  /// Launches between the two are recorded and not run. Other threads may go on with calls that a capture forbids.
  Status beginCapture();
  Result<Graph> endCapture();
  /// Runs a graph `times` times, in order, without waiting.
  Status replay(const Graph &graph, int times = 1);
  Status synchronize();

private:
  Stream(const CudaDevice &device, CuStream stream) : device_(&device), stream_(stream) {}
  const CudaDevice *device_;
  CuStream stream_;
};

} // namespace phasec::cuda
