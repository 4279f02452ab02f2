// cuda_device.h: the `cuda` device: one GPU's primary context, which phasec shares with whatever else the process runs
// there.
#pragma once

#include "runtime/cuda/driver.h"
#include "runtime/device.h"

#include <atomic>
#include <map>
#include <mutex>

namespace phasec::cuda {

class CudaDevice;

/// A loaded cubin and one entry point. Must not outlive its device.
class CudaKernel final : public LoadedKernel {
public:
  ~CudaKernel() override;
  /// 0 when not even one CTA fits an SM. ErrorKind::Refused when the shape breaks a limit of kernel or device.
  Result<int> residentCtas(const LaunchShape &shape) const override;

private:
  friend class CudaDevice;
  CudaKernel(const CudaDevice &device, std::string entry) : device_(device), entry_(std::move(entry)) {}
  Status resolve(std::span<const uint8_t> image);
  Status checkShape(const LaunchShape &shape) const;

  const CudaDevice &device_;
  std::string entry_;
  CuLibrary library_ = nullptr;
  CuFunction function_ = nullptr;
  int threads_max_ = 0;
  int64_t shared_max_ = 0;       ///< dynamic shared memory a launch may ask for
  int64_t parameter_bytes_ = -1; ///< of the kernel's one parameter; -1: the driver does not say
  /// The last answer of the occupancy query, packed, so that a launch asks the driver nothing: see packResident().
  mutable std::atomic<uint64_t> resident_{0};
};

class CudaDevice final : public Device {
public:
  /// Opens device `ordinal` over a table (openCuda gives the driver's; tests give their own).
  static Result<std::unique_ptr<CudaDevice>> open(const DriverApi &api, int ordinal);
  ~CudaDevice() override;

  const DeviceInfo &info() const override { return info_; }
  Result<DevicePtr> allocate(int64_t bytes) override;
  void release(DevicePtr address) override;
  Status upload(DevicePtr to, const void *from, int64_t bytes) override;
  Status download(void *to, DevicePtr from, int64_t bytes) override;
  Status fill(DevicePtr to, uint8_t value, int64_t bytes) override;
  Status copy(DevicePtr to, DevicePtr from, int64_t bytes) override;
  Result<std::unique_ptr<LoadedKernel>> load(std::span<const uint8_t> image, const std::string &entry) override;
  Status launch(const LoadedKernel &kernel, const LaunchShape &shape, const void *args, size_t args_bytes,
                StreamHandle stream) override;
  Status synchronize() override;
  Status mark(int slot, StreamHandle stream) override;
  Result<double> elapsedMicroseconds(int from_slot, int to_slot) override;
  Result<bool> capturing(StreamHandle stream) const override;

  /// Device memory that nobody has allocated.
  Result<int64_t> freeBytes() const;

  const DriverApi &api() const { return api_; }
  CuContext context() const { return context_; }

private:
  explicit CudaDevice(const DriverApi &api) : api_(api) {}
  Status describe(CuDevice device);

  DriverApi api_;
  CuDevice device_ = 0;
  CuContext context_ = nullptr;
  DeviceInfo info_;
  std::mutex mutex_;                    ///< guards the two below
  std::map<DevicePtr, int64_t> memory_; ///< what is allocated, freed at the latest with the device
  std::map<int, CuEvent> marks_;
};

} // namespace phasec::cuda
