// staging.h: brings host inputs to a device and results back.
#pragma once

#include "runtime/cli/inputs.h"
#include "runtime/device.h"
#include "phasec/runtime.h"

namespace phasec::cli {

/// One returned value.
struct OutputArray {
  std::string name, dtype;
  std::vector<int64_t> shape; ///< with this step's tokens
  std::vector<uint8_t> bytes; ///< without the rows behind this step's
};

/// What a launch left behind.
struct Downloaded {
  std::vector<OutputArray> outputs;
  std::map<std::string, HostCache> caches;
  std::vector<std::string> overruns; ///< outputs whose rows behind this step's tokens were written
  bool operator==(const Downloaded &other) const;
};

/// The buffers of one kernel on one device. They are freed with the device.
class Staging {
public:
  /// Packs and uploads everything that bind() needs.
  static Result<Staging> make(const Kernel &kernel, Device &device, const HostInputs &inputs);

  const Buffers &buffers() const { return buffers_; }
  /// Fills the outputs with a pattern, so that what a launch does not write shows.
  Status wipeOutputs();
  Result<Downloaded> download() const;

private:
  Staging(const Kernel &kernel, Device &device, const HostInputs &inputs) : kernel_(kernel), device_(&device), inputs_(&inputs) {}
  Status addArray(const BufferSpec &spec);
  Status addWeight(const BufferSpec &spec);
  Status addCache(const BufferSpec &spec);
  Result<DevicePtr> place(const void *data, size_t bytes);

  Kernel kernel_;
  Device *device_;
  const HostInputs *inputs_;
  Buffers buffers_;
  std::vector<BufferSpec> outputs_;
};

} // namespace phasec::cli
