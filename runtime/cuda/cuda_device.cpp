// cuda_device.cpp: memory, loading, launching. The launch path allocates nothing, waits for nothing and is legal under
// stream capture: attributes are set when a kernel is loaded, occupancy is remembered.
#include "runtime/cuda/cuda_device.h"

#include "compiler/plan.h"
#include "compiler/resources.h"

#include <algorithm>

namespace phasec {

Result<std::unique_ptr<Device>> openCuda(const std::string &libcuda_path, int ordinal) {
  PHASEC_ASSIGN(cuda::DriverApi api, cuda::openDriver(libcuda_path));
  PHASEC_ASSIGN(std::unique_ptr<cuda::CudaDevice> device, cuda::CudaDevice::open(api, ordinal));
  return std::unique_ptr<Device>(std::move(device));
}

namespace cuda {
namespace {

constexpr int64_t kSmallestAllocation = 256;
constexpr int kMarksMax = 256;
/// Limits of the packed occupancy answer: 11 bits of threads, 24 of shared bytes, 28 of CTAs, and one that says
/// "known".
constexpr int kThreadsMax = 1024, kSharedBits = 24, kResidentBits = 28;

uint64_t packShape(const LaunchShape &shape) {
  return uint64_t(1) << 63 | uint64_t(shape.threads) << (kSharedBits + kResidentBits) |
         uint64_t(shape.shared_bytes) << kResidentBits;
}
uint64_t packResident(const LaunchShape &shape, int ctas) { return packShape(shape) | uint64_t(ctas); }
bool isFor(uint64_t packed, const LaunchShape &shape) {
  return packed >> kResidentBits == packShape(shape) >> kResidentBits;
}
int residentOf(uint64_t packed) { return int(packed & ((uint64_t(1) << kResidentBits) - 1)); }

std::string kernelText(const std::string &entry) { return "kernel " + entry; }

/// The target whose cubins this compute capability runs: its own, or, among those without "a", an older one of its
/// major.
std::string targetOf(int major, int minor) {
  const Target *best = nullptr;
  for (const Target &target : targets()) {
    bool exact = target.sm == major * 10 + minor;
    bool family =
        std::string_view(target.name).back() != 'a' && target.sm / 10 == major && target.sm < major * 10 + minor;
    if (exact || (family && (!best || best->sm < target.sm))) best = &target;
    if (exact) break;
  }
  return best ? best->name : "";
}

} // namespace

// ---- opening
// ----------------------------------------------------------------------------------------------------------

Result<std::unique_ptr<CudaDevice>> CudaDevice::open(const DriverApi &api, int ordinal) {
  constexpr const char *what = "opening the GPU";
  PHASEC_DRIVER_TRY(api, what, cuInit, 0);
  int count = 0;
  PHASEC_DRIVER_TRY(api, what, cuDeviceGetCount, &count);
  if (ordinal < 0 || ordinal >= count)
    return Status::device("there is no GPU " + std::to_string(ordinal) + ": the driver shows " + std::to_string(count) +
                          "; choose a smaller ordinal or look at CUDA_VISIBLE_DEVICES");
  std::unique_ptr<CudaDevice> device(new CudaDevice(api));
  CuDevice handle = 0;
  PHASEC_DRIVER_TRY(api, what, cuDeviceGet, &handle, ordinal);
  PHASEC_TRY(device->describe(handle));
  CuContext context = nullptr;
  PHASEC_DRIVER_TRY(api, what, cuDevicePrimaryCtxRetain, &context, handle);
  device->device_ = handle;
  device->context_ = context;
  return device;
}

Status CudaDevice::describe(CuDevice device) {
  constexpr const char *what = "asking what the GPU is";
  char text[256] = {};
  int version = 0, major = 0, minor = 0, shared = 0, cooperative = 0, l2 = 0;
  PHASEC_DRIVER_TRY(api_, what, cuDeviceGetName, text, int(sizeof text) - 1, device);
  PHASEC_DRIVER_TRY(api_, what, cuDriverGetVersion, &version);
  PHASEC_DRIVER_TRY(api_, what, cuDeviceGetAttribute, &info_.sms, kDeviceMultiprocessors, device);
  PHASEC_DRIVER_TRY(api_, what, cuDeviceGetAttribute, &major, kDeviceMajor, device);
  PHASEC_DRIVER_TRY(api_, what, cuDeviceGetAttribute, &minor, kDeviceMinor, device);
  PHASEC_DRIVER_TRY(api_, what, cuDeviceGetAttribute, &shared, kDeviceSharedOptin, device);
  PHASEC_DRIVER_TRY(api_, what, cuDeviceGetAttribute, &l2, kDeviceL2Bytes, device);
  PHASEC_DRIVER_TRY(api_, what, cuDeviceGetAttribute, &info_.sm_khz_max, kDeviceClockKhz, device);
  PHASEC_DRIVER_TRY(api_, what, cuDeviceGetAttribute, &info_.memory_khz_max, kDeviceMemoryClockKhz, device);
  PHASEC_DRIVER_TRY(api_, what, cuDeviceGetAttribute, &cooperative, kDeviceCooperative, device);
  info_.device = "cuda";
  info_.name = text;
  info_.target = targetOf(major, minor);
  info_.driver = "CUDA " + std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
  info_.shared_bytes_max = shared;
  info_.l2_bytes = l2;
  info_.cooperative = cooperative != 0;
  return {};
}

CudaDevice::~CudaDevice() {
  if (!context_) return;
  {
    ContextScope scope(api_, context_);
    for (const auto &[slot, event] : marks_) api_.cuEventDestroy_v2(event);
    for (const auto &[address, bytes] : memory_) api_.cuMemFree_v2(address);
  }
  api_.cuDevicePrimaryCtxRelease_v2(device_);
}

// ---- memory
// -----------------------------------------------------------------------------------------------------------

Result<DevicePtr> CudaDevice::allocate(int64_t bytes) {
  std::string what = "allocating " + std::to_string(bytes) + " bytes of device memory";
  if (bytes < 0) return Status::internal(what);
  ContextScope scope(api_, context_);
  PHASEC_TRY(scope.status());
  DevicePtr address = 0;
  size_t size = size_t(std::max(bytes, kSmallestAllocation));
  PHASEC_DRIVER_TRY(api_, what, cuMemAlloc_v2, &address, size);
  {
    std::lock_guard lock(mutex_);
    memory_[address] = int64_t(size);
  }
  Status cleared = fill(address, 0, int64_t(size));
  if (!cleared.ok()) {
    release(address);
    return cleared;
  }
  return address;
}

void CudaDevice::release(DevicePtr address) {
  {
    std::lock_guard lock(mutex_);
    if (memory_.erase(address) == 0) return;
  }
  ContextScope scope(api_, context_);
  // A failure here means a lost context, which the next call that can say so will report.
  if (scope.status().ok()) api_.cuMemFree_v2(address);
}

// The copy calls may return before a DMA from staging memory is over, and on streams that do not wait for the default
// one that would be seen: hence the wait.
Status CudaDevice::upload(DevicePtr to, const void *from, int64_t bytes) {
  if (bytes == 0) return {};
  std::string_view what = "copying to the device";
  ContextScope scope(api_, context_);
  PHASEC_TRY(scope.status());
  PHASEC_DRIVER_TRY(api_, what, cuMemcpyHtoD_v2, to, from, size_t(bytes));
  PHASEC_DRIVER_TRY(api_, what, cuStreamSynchronize, nullptr);
  return {};
}

Status CudaDevice::download(void *to, DevicePtr from, int64_t bytes) {
  if (bytes == 0) return {};
  ContextScope scope(api_, context_);
  PHASEC_TRY(scope.status());
  PHASEC_DRIVER_TRY(api_, "copying from the device", cuMemcpyDtoH_v2, to, from, size_t(bytes));
  return {};
}

Status CudaDevice::fill(DevicePtr to, uint8_t value, int64_t bytes) {
  if (bytes == 0) return {};
  std::string_view what = "filling device memory";
  ContextScope scope(api_, context_);
  PHASEC_TRY(scope.status());
  PHASEC_DRIVER_TRY(api_, what, cuMemsetD8_v2, to, value, size_t(bytes));
  PHASEC_DRIVER_TRY(api_, what, cuStreamSynchronize, nullptr);
  return {};
}

Status CudaDevice::copy(DevicePtr to, DevicePtr from, int64_t bytes) {
  if (bytes == 0) return {};
  std::string_view what = "copying within the device";
  ContextScope scope(api_, context_);
  PHASEC_TRY(scope.status());
  PHASEC_DRIVER_TRY(api_, what, cuMemcpyDtoD_v2, to, from, size_t(bytes));
  PHASEC_DRIVER_TRY(api_, what, cuStreamSynchronize, nullptr);
  return {};
}

Result<int64_t> CudaDevice::freeBytes() const {
  ContextScope scope(api_, context_);
  PHASEC_TRY(scope.status());
  size_t free = 0, total = 0;
  PHASEC_DRIVER_TRY(api_, "asking how much device memory is free", cuMemGetInfo_v2, &free, &total);
  return int64_t(free);
}

// ---- kernels
// ----------------------------------------------------------------------------------------------------------

Result<std::unique_ptr<LoadedKernel>> CudaDevice::load(std::span<const uint8_t> image, const std::string &entry) {
  PHASEC_TRY(validateCubin(image));
  ContextScope scope(api_, context_);
  PHASEC_TRY(scope.status());
  std::unique_ptr<CudaKernel> kernel(new CudaKernel(*this, entry));
  PHASEC_TRY(kernel->resolve(image));
  return std::unique_ptr<LoadedKernel>(std::move(kernel));
}

Status CudaKernel::resolve(std::span<const uint8_t> image) {
  const DriverApi &api = device_.api();
  std::string what = "loading kernel " + entry_ + " on " + device_.info().name;
  PHASEC_DRIVER_TRY(api, what, cuLibraryLoadData, &library_, image.data(), nullptr, nullptr, 0, nullptr, nullptr, 0);
  CuKernel kernel = nullptr;
  PHASEC_DRIVER_TRY(api, what, cuLibraryGetKernel, &kernel, library_, entry_.c_str());
  PHASEC_DRIVER_TRY(api, what, cuKernelGetFunction, &function_, kernel);
  // Loading is lazy by default and would otherwise happen in the first launch, where a capture forbids it.
  if (api.cuFuncLoad) PHASEC_DRIVER_TRY(api, what, cuFuncLoad, function_);
  int shared_static = 0;
  PHASEC_DRIVER_TRY(api, what, cuFuncGetAttribute, &threads_max_, kFunctionThreadsMax, function_);
  PHASEC_DRIVER_TRY(api, what, cuFuncGetAttribute, &shared_static, kFunctionSharedStatic, function_);
  // The limit may stand at the device's maximum for good: what a launch asks for decides what it gets.
  shared_max_ = std::max<int64_t>(0, device_.info().shared_bytes_max - shared_static);
  PHASEC_DRIVER_TRY(api, what, cuFuncSetAttribute, function_, kFunctionSharedDynamicMax, int(shared_max_));
  size_t offset = 0, bytes = 0;
  if (api.cuFuncGetParamInfo && api.cuFuncGetParamInfo(function_, 0, &offset, &bytes) == 0)
    parameter_bytes_ = int64_t(bytes);
  return {};
}

CudaKernel::~CudaKernel() {
  if (!library_) return;
  ContextScope scope(device_.api(), device_.context());
  device_.api().cuLibraryUnload(library_);
}

Status CudaKernel::checkShape(const LaunchShape &shape) const {
  auto refuse = [&](const std::string &why) {
    return Status(ErrorKind::Refused, device_.info().name + " cannot take " + kernelText(entry_) + ": " + why);
  };
  if (shape.ctas < 1 || shape.threads < 1 || shape.shared_bytes < 0)
    return Status::internal("a launch of no CTAs or no threads");
  if (shape.threads > std::min(threads_max_, kThreadsMax))
    return refuse(std::to_string(shape.threads) + " threads per CTA, at most " + std::to_string(threads_max_) +
                  "; lower `warps`");
  if (shape.shared_bytes > shared_max_)
    return refuse(std::to_string(shape.shared_bytes) + " bytes of shared memory per CTA, at most " +
                  std::to_string(shared_max_) + "; lower `ring` or `warps`");
  return {};
}

Result<int> CudaKernel::residentCtas(const LaunchShape &shape) const {
  PHASEC_TRY(checkShape(shape));
  uint64_t known = resident_.load(std::memory_order_relaxed);
  if (isFor(known, shape)) return residentOf(known);
  const DriverApi &api = device_.api();
  ContextScope scope(api, device_.context());
  PHASEC_TRY(scope.status());
  int per_sm = 0;
  PHASEC_DRIVER_TRY(api, "asking how many CTAs of " + kernelText(entry_) + " fit",
                    cuOccupancyMaxActiveBlocksPerMultiprocessor, &per_sm, function_, shape.threads,
                    size_t(shape.shared_bytes));
  int ctas = per_sm * device_.info().sms;
  resident_.store(packResident(shape, ctas), std::memory_order_relaxed);
  return ctas;
}

Status CudaDevice::launch(const LoadedKernel &loaded, const LaunchShape &shape, const void *args, size_t args_bytes,
                          StreamHandle stream) {
  const CudaKernel &kernel = static_cast<const CudaKernel &>(loaded);
  PHASEC_TRY(kernel.checkShape(shape));
  if (kernel.parameter_bytes_ >= 0 && size_t(kernel.parameter_bytes_) != args_bytes)
    return Status::internal(kernelText(kernel.entry_) + " takes " + std::to_string(kernel.parameter_bytes_) +
                            " bytes of parameters, and was given " + std::to_string(args_bytes));
  if (shape.cooperative) {
    if (!info_.cooperative)
      return {ErrorKind::Refused, info_.name + " takes no cooperative launches; set on_refusal=split"};
    PHASEC_ASSIGN(int resident, kernel.residentCtas(shape));
    if (shape.ctas > resident)
      return {ErrorKind::Refused, kernelText(kernel.entry_) + " needs " + std::to_string(shape.ctas) + " CTAs of " +
                                      std::to_string(shape.threads) + " threads and " +
                                      std::to_string(shape.shared_bytes) + " bytes of shared memory at once; " +
                                      info_.name + " holds " + std::to_string(resident) +
                                      "; lower `ctas`, or set on_refusal=split"};
  }
  LaunchAttribute cooperative;
  cooperative.id = kLaunchCooperative;
  cooperative.value.cooperative = 1;
  LaunchConfig config;
  config.grid[0] = unsigned(shape.ctas);
  config.block[0] = unsigned(shape.threads);
  config.shared_bytes = unsigned(shape.shared_bytes);
  config.stream = static_cast<CuStream>(stream);
  config.attributes = &cooperative;
  config.attribute_count = shape.cooperative ? 1 : 0;
  void *parameters[] = {const_cast<void *>(args)};
  ContextScope scope(api_, context_);
  PHASEC_TRY(scope.status());
  CuResult result = api_.cuLaunchKernelEx(&config, kernel.function_, args_bytes ? parameters : nullptr, nullptr);
  if (result != 0)
    return driverError(api_, "cuLaunchKernelEx", result,
                       "launching " + kernelText(kernel.entry_) + " on " + info_.name);
  return {};
}

// ---- waiting and timing
// -----------------------------------------------------------------------------------------------

Status CudaDevice::synchronize() {
  ContextScope scope(api_, context_);
  PHASEC_TRY(scope.status());
  PHASEC_DRIVER_TRY(api_, "waiting for the device", cuCtxSynchronize);
  return {};
}

Status CudaDevice::mark(int slot, StreamHandle stream) {
  if (slot < 0 || slot >= kMarksMax)
    return Status::internal("time mark " + std::to_string(slot) + " of " + std::to_string(kMarksMax));
  ContextScope scope(api_, context_);
  PHASEC_TRY(scope.status());
  std::lock_guard lock(mutex_);
  CuEvent &event = marks_[slot];
  if (!event) PHASEC_DRIVER_TRY(api_, "making a time mark", cuEventCreate, &event, 0);
  PHASEC_DRIVER_TRY(api_, "recording a time mark", cuEventRecord, event, static_cast<CuStream>(stream));
  return {};
}

Result<double> CudaDevice::elapsedMicroseconds(int from_slot, int to_slot) {
  CuEvent from = nullptr, to = nullptr;
  {
    std::lock_guard lock(mutex_);
    if (auto found = marks_.find(from_slot); found != marks_.end()) from = found->second;
    if (auto found = marks_.find(to_slot); found != marks_.end()) to = found->second;
  }
  if (!from || !to) return Status::internal("a time mark was read that was never made");
  constexpr const char *what = "reading the time between two marks";
  ContextScope scope(api_, context_);
  PHASEC_TRY(scope.status());
  float milliseconds = 0;
  PHASEC_DRIVER_TRY(api_, what, cuEventSynchronize, to);
  PHASEC_DRIVER_TRY(api_, what, cuEventElapsedTime, &milliseconds, from, to);
  return double(milliseconds) * 1000.0;
}

Result<bool> CudaDevice::capturing(StreamHandle stream) const {
  ContextScope scope(api_, context_);
  PHASEC_TRY(scope.status());
  int status = 0;
  CuResult result = api_.cuStreamIsCapturing(static_cast<CuStream>(stream), &status);
  // The default stream answers with an error while another stream of the process captures globally.
  if (result >= kStreamCaptureFirst && result <= kStreamCaptureLast) return true;
  if (result != 0)
    return driverError(api_, "cuStreamIsCapturing", result, "asking whether the stream is being captured");
  return status != 0;
}

} // namespace cuda
} // namespace phasec
