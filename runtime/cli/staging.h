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

/// The buffers of one kernel on one device, freed with this. Must not outlive the device.
class Staging {
public:
  /// Packs and uploads everything that bind() needs.
  static Result<Staging> make(const Kernel &kernel, Device &device, const HostInputs &inputs);
  /// The same for a launch of many instances of one layer: each holds what instance 0 holds, at addresses of its own, packed
  /// and uploaded once. `first` is a staging of the same inputs that has it on the device already; null: none has.
  static Result<Staging> replicate(const Kernel &kernel, Device &device, const HostInputs &inputs, const Staging *first);

  const Buffers &buffers() const { return buffers_; }
  /// Fills the outputs with a pattern, so that what a launch does not write shows.
  Status wipeOutputs();
  Result<Downloaded> download() const;
  /// The same without the caches.
  Result<Downloaded> downloadOutputs() const;

private:
  /// Memory of the device that goes away with this.
  struct Block {
    Device *device;
    DevicePtr address;
    ~Block() { device->release(address); }
  };

  struct Image {
    std::string layout;
    size_t bytes = 0;
  };

  Staging(const Kernel &kernel, Device &device, const HostInputs &inputs) : kernel_(kernel), device_(&device), inputs_(&inputs) {}
  Status addAll();
  Status addArray(const BufferSpec &spec);
  Status addWeight(const BufferSpec &spec);
  Status addCache(const BufferSpec &spec);
  /// The name of the inputs that `spec` takes.
  std::string sourceOf(const BufferSpec &spec) const { return std::to_string(replicate_ ? 0 : spec.instance) + "/" + spec.name; }
  Result<DevicePtr> allocate(size_t bytes);
  /// Puts an array of the inputs on the device: from the host, or as a copy where the device has it under that name.
  Result<DevicePtr> place(const std::string &source, const void *data, size_t bytes);

  Kernel kernel_;
  Device *device_;
  const HostInputs *inputs_;
  bool replicate_ = false;
  std::map<std::string, DevicePtr> placed_;    ///< by name of the inputs: what replicas copy
  std::map<std::string, Image> images_;        ///< of weights, likewise
  std::vector<std::unique_ptr<Block>> blocks_;
  Buffers buffers_;
  std::vector<BufferSpec> outputs_;
};

} // namespace phasec::cli
