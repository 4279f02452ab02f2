// driver.h: the CUDA driver as a table of functions, opened with dlopen. The few driver types are declared here, so
// that no CUDA header is needed to build phasec and one binary runs with and without a driver. Tests put their own
// functions in.
#pragma once

#include "phasec/status.h"

#include <cstddef>
#include <cstdint>
#include <string>

namespace phasec::cuda {

using CuResult = int; ///< CUresult; 0 is success
using CuDevice = int;
using CuAddress = uint64_t;
using CuContext = struct CuContextTag *;
using CuStream = struct CuStreamTag *;
using CuEvent = struct CuEventTag *;
using CuLibrary = struct CuLibraryTag *;
using CuKernel = struct CuKernelTag *;
using CuFunction = struct CuFunctionTag *;
using CuGraph = struct CuGraphTag *;
using CuGraphExec = struct CuGraphExecTag *;

/// Results that phasec tells apart.
enum : CuResult {
  kOutOfMemory = 2,
  kStubLibrary = 34,
  kDeviceUnavailable = 46,
  kNoDevice = 100,
  kInvalidDevice = 101,
  kInvalidImage = 200,
  kInvalidContext = 201,
  kNoBinaryForGpu = 209,
  kInvalidHandle = 400,
  kNotFound = 500,
  kIllegalAddress = 700,
  kOutOfResources = 701,
  kCooperativeTooLarge = 720,
  kNotPermitted = 800,
  kDriverMismatch = 803,
  kStreamCaptureFirst = 900,
  kStreamCaptureLast = 908,
};

/// CUdevice_attribute, CUfunction_attribute, CUlaunchAttributeID, CUstreamCaptureMode and flags, as far as they are
/// used.
enum : int {
  kDeviceClockKhz = 13,
  kDeviceMultiprocessors = 16,
  kDeviceMemoryClockKhz = 36,
  kDeviceL2Bytes = 38,
  kDeviceMajor = 75,
  kDeviceMinor = 76,
  kDeviceCooperative = 95,
  kDeviceSharedOptin = 97,
  kFunctionThreadsMax = 0,
  kFunctionSharedStatic = 1,
  kFunctionSharedDynamicMax = 8,
  kLaunchCooperative = 2,
  kStreamNonBlocking = 1,
  kCaptureThreadLocal = 1,
};

/// CUlaunchAttribute: an id and a 64-byte union, of which `cooperative` is read here.
struct alignas(8) LaunchAttribute {
  int id = 0;
  char padding[4] = {};
  union {
    char bytes[64];
    int cooperative;
  } value = {};
};
static_assert(sizeof(LaunchAttribute) == 72);

/// CUlaunchConfig.
struct LaunchConfig {
  unsigned grid[3] = {1, 1, 1}, block[3] = {1, 1, 1};
  unsigned shared_bytes = 0;
  CuStream stream = nullptr;
  LaunchAttribute *attributes = nullptr;
  unsigned attribute_count = 0;
};
static_assert(sizeof(LaunchConfig) == 56 && offsetof(LaunchConfig, attributes) == 40);

/// PHASEC_DRIVER_CALLS(X): X(name in libcuda, parameters). Names carry the version whose signature is written here.
#define PHASEC_DRIVER_CALLS(X)                                                                                         \
  X(cuInit, (unsigned flags))                                                                                          \
  X(cuDriverGetVersion, (int *version))                                                                                \
  X(cuDeviceGetCount, (int *count))                                                                                    \
  X(cuDeviceGet, (CuDevice * device, int ordinal))                                                                     \
  X(cuDeviceGetName, (char *name, int bytes, CuDevice device))                                                         \
  X(cuDeviceGetAttribute, (int *value, int attribute, CuDevice device))                                                \
  X(cuDevicePrimaryCtxRetain, (CuContext * context, CuDevice device))                                                  \
  X(cuDevicePrimaryCtxRelease_v2, (CuDevice device))                                                                   \
  X(cuCtxGetCurrent, (CuContext * context))                                                                            \
  X(cuCtxPushCurrent_v2, (CuContext context))                                                                          \
  X(cuCtxPopCurrent_v2, (CuContext * context))                                                                         \
  X(cuCtxSynchronize, ())                                                                                              \
  X(cuMemGetInfo_v2, (size_t *free, size_t *total))                                                                    \
  X(cuMemAlloc_v2, (CuAddress * address, size_t bytes))                                                                \
  X(cuMemFree_v2, (CuAddress address))                                                                                 \
  X(cuMemcpyHtoD_v2, (CuAddress to, const void *from, size_t bytes))                                                   \
  X(cuMemcpyDtoH_v2, (void *to, CuAddress from, size_t bytes))                                                         \
  X(cuMemcpyDtoD_v2, (CuAddress to, CuAddress from, size_t bytes))                                                     \
  X(cuMemsetD8_v2, (CuAddress to, unsigned char value, size_t bytes))                                                  \
  X(cuLibraryLoadData, (CuLibrary * library, const void *image, int *jit_options, void **jit_values,                   \
                        unsigned jit_count, int *options, void **values, unsigned count))                              \
  X(cuLibraryUnload, (CuLibrary library))                                                                              \
  X(cuLibraryGetKernel, (CuKernel * kernel, CuLibrary library, const char *name))                                      \
  X(cuKernelGetFunction, (CuFunction * function, CuKernel kernel))                                                     \
  X(cuFuncGetAttribute, (int *value, int attribute, CuFunction function))                                              \
  X(cuFuncSetAttribute, (CuFunction function, int attribute, int value))                                               \
  X(cuOccupancyMaxActiveBlocksPerMultiprocessor, (int *ctas, CuFunction function, int threads, size_t shared_bytes))   \
  X(cuLaunchKernelEx, (const LaunchConfig *config, CuFunction function, void **parameters, void **extra))              \
  X(cuStreamCreate, (CuStream * stream, unsigned flags))                                                               \
  X(cuStreamDestroy_v2, (CuStream stream))                                                                             \
  X(cuStreamSynchronize, (CuStream stream))                                                                            \
  X(cuStreamBeginCapture_v2, (CuStream stream, int mode))                                                              \
  X(cuStreamEndCapture, (CuStream stream, CuGraph * graph))                                                            \
  X(cuStreamIsCapturing, (CuStream stream, int *status))                                                               \
  X(cuGraphInstantiateWithFlags, (CuGraphExec * exec, CuGraph graph, unsigned long long flags))                        \
  X(cuGraphLaunch, (CuGraphExec exec, CuStream stream))                                                                \
  X(cuGraphExecDestroy, (CuGraphExec exec))                                                                            \
  X(cuGraphDestroy, (CuGraph graph))                                                                                   \
  X(cuEventCreate, (CuEvent * event, unsigned flags))                                                                  \
  X(cuEventDestroy_v2, (CuEvent event))                                                                                \
  X(cuEventRecord, (CuEvent event, CuStream stream))                                                                   \
  X(cuEventSynchronize, (CuEvent event))                                                                               \
  X(cuEventElapsedTime, (float *milliseconds, CuEvent from, CuEvent to))                                               \
  X(cuGetErrorName, (CuResult result, const char **name))                                                              \
  X(cuGetErrorString, (CuResult result, const char **text))

/// Newer than the oldest driver served (525, CUDA 12.0); null where the driver lacks them.
#define PHASEC_DRIVER_OPTIONAL_CALLS(X)                                                                                \
  X(cuFuncLoad, (CuFunction function))                                                                                 \
  X(cuFuncGetParamInfo, (CuFunction function, size_t index, size_t * offset, size_t * bytes))

struct DriverApi {
#define PHASEC_DRIVER_MEMBER(name, parameters) CuResult(*name) parameters = nullptr;
  PHASEC_DRIVER_CALLS(PHASEC_DRIVER_MEMBER)
  PHASEC_DRIVER_OPTIONAL_CALLS(PHASEC_DRIVER_MEMBER)
#undef PHASEC_DRIVER_MEMBER
};

/// Opens `path`, or libcuda.so.1 from the loader's path and the places containers put it. The library stays mapped.
/// ErrorKind::Device with the loader's message and a remedy.
Result<DriverApi> openDriver(const std::string &path);

/// The error of one driver call: its name, the result's name and text, and what to do about it. `call` may carry a
/// version suffix, which is dropped; `what` says what was being done ("loading kernel phasec_layer").
Status driverError(const DriverApi &api, std::string_view call, CuResult result, std::string_view what);

/// Returns from the enclosing function with driverError unless `api.call(...)` succeeds.
#define PHASEC_DRIVER_TRY(api, what, call, ...)                                                                        \
  do {                                                                                                                 \
    if (::phasec::cuda::CuResult driver_result = (api).call(__VA_ARGS__); driver_result != 0)                          \
      return ::phasec::cuda::driverError(api, #call, driver_result, what);                                             \
  } while (0)

/// Makes a context current for a scope and puts back what was current before: hosts such as PyTorch keep their own.
/// Costs one thread-local read when the context is current already; never a system call.
class ContextScope {
public:
  ContextScope(const DriverApi &api, CuContext context) : api_(api) {
    CuContext current = nullptr;
    if (api.cuCtxGetCurrent(&current) == 0 && current == context) return;
    result_ = api.cuCtxPushCurrent_v2(context);
    pushed_ = result_ == 0;
  }
  ~ContextScope() {
    CuContext popped = nullptr;
    if (pushed_) api_.cuCtxPopCurrent_v2(&popped);
  }
  ContextScope(const ContextScope &) = delete;
  ContextScope &operator=(const ContextScope &) = delete;

  Status status() const {
    return result_ == 0 ? Status() : driverError(api_, "cuCtxPushCurrent", result_, "entering the device's context");
  }

private:
  const DriverApi &api_;
  CuResult result_ = 0;
  bool pushed_ = false;
};

} // namespace phasec::cuda
