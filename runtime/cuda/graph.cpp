// graph.cpp: streams, captures and replays over the driver's table.
#include "runtime/cuda/graph.h"

namespace phasec::cuda {

Graph::Graph(Graph &&other) noexcept : device_(other.device_), exec_(std::exchange(other.exec_, nullptr)) {}

Graph::~Graph() {
  if (!exec_) return;
  ContextScope scope(device_->api(), device_->context());
  device_->api().cuGraphExecDestroy(exec_);
}

Result<Stream> Stream::create(const CudaDevice &device) {
  ContextScope scope(device.api(), device.context());
  PHASEC_TRY(scope.status());
  CuStream stream = nullptr;
  PHASEC_DRIVER_TRY(device.api(), "making a stream", cuStreamCreate, &stream, kStreamNonBlocking);
  return Stream(device, stream);
}

Stream::Stream(Stream &&other) noexcept : device_(other.device_), stream_(std::exchange(other.stream_, nullptr)) {}

Stream::~Stream() {
  if (!stream_) return;
  ContextScope scope(device_->api(), device_->context());
  device_->api().cuStreamDestroy_v2(stream_);
}

Status Stream::beginCapture() {
  ContextScope scope(device_->api(), device_->context());
  PHASEC_TRY(scope.status());
  PHASEC_DRIVER_TRY(device_->api(), "beginning a capture", cuStreamBeginCapture_v2, stream_, kCaptureThreadLocal);
  return {};
}

Result<Graph> Stream::endCapture() {
  const DriverApi &api = device_->api();
  ContextScope scope(api, device_->context());
  PHASEC_TRY(scope.status());
  CuGraph graph = nullptr;
  PHASEC_DRIVER_TRY(api, "ending a capture", cuStreamEndCapture, stream_, &graph);
  CuGraphExec exec = nullptr;
  CuResult result = api.cuGraphInstantiateWithFlags(&exec, graph, 0);
  api.cuGraphDestroy(graph); // the executable graph stands on its own
  if (result != 0) return driverError(api, "cuGraphInstantiateWithFlags", result, "instantiating a captured graph");
  return Graph(*device_, exec);
}

Status Stream::replay(const Graph &graph, int times) {
  ContextScope scope(device_->api(), device_->context());
  PHASEC_TRY(scope.status());
  for (int i = 0; i < times; ++i)
    PHASEC_DRIVER_TRY(device_->api(), "replaying a graph", cuGraphLaunch, graph.exec_, stream_);
  return {};
}

Status Stream::synchronize() {
  ContextScope scope(device_->api(), device_->context());
  PHASEC_TRY(scope.status());
  PHASEC_DRIVER_TRY(device_->api(), "waiting for a stream", cuStreamSynchronize, stream_);
  return {};
}

} // namespace phasec::cuda
