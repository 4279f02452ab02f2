// stub_driver.cpp: the functions of the driver that does nothing.
#include "runtime/cli/stub_driver.h"

#include <cstring>

namespace phasec::cli {
namespace {

template <class T> T handle() { return reinterpret_cast<T>(uintptr_t(0x10)); }

int attribute(int which) {
  switch (which) {
  case cuda::kDeviceMultiprocessors: return 132;
  case cuda::kDeviceMajor: return 9;
  case cuda::kDeviceMinor: return 0;
  case cuda::kDeviceCooperative: return 1;
  case cuda::kDeviceSharedOptin: return 232448;
  default: return 0;
  }
}

void contextCalls(cuda::DriverApi &api) {
  api.cuInit = [](unsigned) { return 0; };
  api.cuDriverGetVersion = [](int *version) { return *version = 13000, 0; };
  api.cuDeviceGetCount = [](int *count) { return *count = 1, 0; };
  api.cuDeviceGet = [](cuda::CuDevice *device, int) { return *device = 0; };
  api.cuDeviceGetName = [](char *name, int bytes, cuda::CuDevice) {
    std::strncpy(name, "driver that does nothing", size_t(bytes));
    return 0;
  };
  api.cuDeviceGetAttribute = [](int *value, int which, cuda::CuDevice) { return *value = attribute(which), 0; };
  api.cuDevicePrimaryCtxRetain = [](cuda::CuContext *context, cuda::CuDevice) { return *context = handle<cuda::CuContext>(), 0; };
  api.cuDevicePrimaryCtxRelease_v2 = [](cuda::CuDevice) { return 0; };
  api.cuCtxGetCurrent = [](cuda::CuContext *context) { return *context = handle<cuda::CuContext>(), 0; };
  api.cuCtxPushCurrent_v2 = [](cuda::CuContext) { return 0; };
  api.cuCtxPopCurrent_v2 = [](cuda::CuContext *) { return 0; };
  api.cuCtxSynchronize = [] { return 0; };
  api.cuGetErrorName = [](int, const char **name) { return *name = "", 0; };
  api.cuGetErrorString = [](int, const char **text) { return *text = "", 0; };
}

void memoryCalls(cuda::DriverApi &api) {
  api.cuMemAlloc_v2 = [](cuda::CuAddress *address, size_t) { return *address = 1 << 20, 0; };
  api.cuMemFree_v2 = [](cuda::CuAddress) { return 0; };
  api.cuMemcpyHtoD_v2 = [](cuda::CuAddress, const void *, size_t) { return 0; };
  api.cuMemcpyDtoH_v2 = [](void *, cuda::CuAddress, size_t) { return 0; };
  api.cuMemsetD8_v2 = [](cuda::CuAddress, unsigned char, size_t) { return 0; };
}

void kernelCalls(cuda::DriverApi &api) {
  api.cuLibraryLoadData = [](cuda::CuLibrary *library, const void *, int *, void **, unsigned, int *, void **, unsigned) {
    return *library = handle<cuda::CuLibrary>(), 0;
  };
  api.cuLibraryUnload = [](cuda::CuLibrary) { return 0; };
  api.cuLibraryGetKernel = [](cuda::CuKernel *kernel, cuda::CuLibrary, const char *) { return *kernel = handle<cuda::CuKernel>(), 0; };
  api.cuKernelGetFunction = [](cuda::CuFunction *function, cuda::CuKernel) { return *function = handle<cuda::CuFunction>(), 0; };
  api.cuFuncGetAttribute = [](int *value, int which, cuda::CuFunction) {
    return *value = which == cuda::kFunctionThreadsMax ? 1024 : 0, 0;
  };
  api.cuFuncSetAttribute = [](cuda::CuFunction, int, int) { return 0; };
  api.cuFuncLoad = [](cuda::CuFunction) { return 0; };
  api.cuOccupancyMaxActiveBlocksPerMultiprocessor = [](int *ctas, cuda::CuFunction, int, size_t) { return *ctas = 1, 0; };
  api.cuLaunchKernelEx = [](const cuda::LaunchConfig *, cuda::CuFunction, void **, void **) { return 0; };
  api.cuStreamSynchronize = [](cuda::CuStream) { return 0; };
  api.cuStreamIsCapturing = [](cuda::CuStream, int *status) { return *status = 0; };
}

} // namespace

cuda::DriverApi stubDriver() {
  cuda::DriverApi api;
  contextCalls(api);
  memoryCalls(api);
  kernelCalls(api);
  return api;
}

} // namespace phasec::cli
