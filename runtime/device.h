// device.h: what the runtime asks of a device. Two implement it: `cuda` (the driver, opened with dlopen) and `sim` (the
// rendered source compiled for the host, one fiber per CUDA thread).
#pragma once

#include "phasec/status.h"

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace phasec {

using DevicePtr = uint64_t; ///< an address in the device's memory
using StreamHandle = void *; ///< a CUstream, or nullptr for the default stream; ignored by sim

struct DeviceInfo {
  std::string device; ///< "cuda" | "sim"
  std::string name;   ///< "NVIDIA H200", "sim (12 CTAs)"
  std::string target; ///< "sm_90a"; for sim empty: it runs the source of any target
  std::string driver; ///< driver version text, "" for sim
  int sms = 0;        ///< CTAs that fill the device with one CTA per SM
  int64_t shared_bytes_max = 0; ///< dynamic shared memory one CTA may opt in to
  bool cooperative = false;
  int64_t l2_bytes = 0;                             ///< 0 for sim, and so are the clocks
  int sm_khz_max = 0, memory_khz_max = 0;
};

struct LaunchShape {
  int ctas = 0, threads = 0;
  int64_t shared_bytes = 0;
  bool cooperative = true;
};

/// What a simulated launch executed; all zero on cuda. Sums over all CTAs and warps.
struct LaunchCounters {
  uint64_t stream_copies = 0; ///< ptx::stream_copy calls (one per warp, not per lane) that were issued
  uint64_t stream_bytes = 0;
  uint64_t stream_prefetches = 0; ///< of bytes that are copied later
  uint64_t stream_waits = 0;  ///< mbarrier waits by a ring's consumer (one per warp)
  uint64_t stream_under_way = 0; ///< most copies under way at once in a CTA: not a sum
  uint64_t event_arrivals = 0, event_waits = 0; ///< grid-scope arrivals and waits
  uint64_t mma = 0;           ///< warp-level mma executed
};

/// A kernel that is loaded and ready to launch: loading was forced, entry points resolved, attributes set.
class LoadedKernel {
public:
  virtual ~LoadedKernel() = default;
  /// CTAs of `shape` that can be resident at once (occupancy per SM x SMs), by a real query.
  virtual Result<int> residentCtas(const LaunchShape &shape) const = 0;
};

/// One device. Methods may be called from any thread; launches on one stream are ordered, memory calls are synchronous.
class Device {
public:
  virtual ~Device() = default;
  virtual const DeviceInfo &info() const = 0;

  /// Device memory, zero-filled, 256-byte aligned. Freed with the device at the latest.
  virtual Result<DevicePtr> allocate(int64_t bytes) = 0;
  virtual void release(DevicePtr) = 0;
  virtual Status upload(DevicePtr to, const void *from, int64_t bytes) = 0;
  virtual Status download(void *to, DevicePtr from, int64_t bytes) = 0;
  virtual Status fill(DevicePtr to, uint8_t value, int64_t bytes) = 0;
  /// From one place of the device's memory to another; they do not overlap.
  virtual Status copy(DevicePtr to, DevicePtr from, int64_t bytes) {
    std::vector<uint8_t> between(static_cast<size_t>(bytes));
    PHASEC_TRY(download(between.data(), from, bytes));
    return upload(to, between.data(), bytes);
  }

  /// Loads an artefact: a cubin for cuda, a shared object for sim. `entry` is the kernel's unmangled name.
  virtual Result<std::unique_ptr<LoadedKernel>> load(std::span<const uint8_t> image, const std::string &entry) = 0;

  /// Launches with one by-value parameter block. cuda: asynchronous on `stream`, no allocation, no synchronisation, legal
  /// under stream capture. sim: runs to completion. ErrorKind::Refused when a cooperative launch cannot be resident.
  virtual Status launch(const LoadedKernel &kernel, const LaunchShape &shape, const void *args, size_t args_bytes,
                        StreamHandle stream) = 0;
  /// Waits for everything launched; reports sticky device errors.
  virtual Status synchronize() = 0;
  /// Microseconds between two points of a stream, for timing: mark(i) records, elapsed(a, b) reads.
  virtual Status mark(int slot, StreamHandle stream) = 0;
  virtual Result<double> elapsedMicroseconds(int from_slot, int to_slot) = 0;

  /// True while `stream` is being captured into a graph: then nothing may be loaded or compiled.
  virtual Result<bool> capturing(StreamHandle) const { return false; }

  /// Counters of the last sim launch.
  virtual LaunchCounters counters() const { return {}; }
};

/// Opens the CUDA driver (PHASEC_CUDA's path, when given, else libcuda.so.1) and device `ordinal`.
/// ErrorKind::Device with the loader's message and a remedy when there is none.
Result<std::unique_ptr<Device>> openCuda(const std::string &libcuda_path, int ordinal = 0);

struct SimOptions {
  uint64_t seed = 1;  ///< scheduler seed: order of fibers, delay of bulk copies
  int ctas = 4;       ///< what info().sms reports
};
std::unique_ptr<Device> openSim(const SimOptions &options);

} // namespace phasec
