// cuda_stub_driver.h: a driver made of plain functions, so that the cuda device's own logic is tested where there is no
// GPU. It counts calls, keeps what it was given, and fails where it is told to.
#pragma once

#include "runtime/cuda/cuda_device.h"

#include <cstring>
#include <map>
#include <string>
#include <vector>

namespace phasec::test {

struct StubDriver {
  std::map<std::string, int> calls;
  std::map<std::string, int> results; ///< call -> the CUresult it gives; absent: success
  int devices = 1, sms = 132, major = 9, minor = 0, shared_optin = 232448, cooperative = 1;
  int per_sm = 2, threads_max = 1024, shared_static = 1024, capture_status = 0;
  size_t parameter_bytes = 24;
  cuda::CuContext current = nullptr;  ///< this thread's, as the driver would keep it
  std::vector<cuda::CuContext> below; ///< pushed under it

  cuda::LaunchConfig config;
  std::vector<cuda::LaunchAttribute> attributes;
  std::vector<uint8_t> parameters;
  cuda::CuFunction function = nullptr;
  cuda::CuContext launched_in = nullptr;
  std::map<int, int> function_attributes;
  std::string entry;
  std::map<uint64_t, std::vector<uint8_t>> memory;
  std::vector<int> events_recorded;

  int operator()(const char *call) {
    calls[call]++;
    auto found = results.find(call);
    return found == results.end() ? 0 : found->second;
  }
};
inline StubDriver stub_driver;

/// Allocations this thread has made with operator new (cuda_allocations.cpp replaces it in this program).
long allocationCount();

template <class T> T stubHandle(int value) { return reinterpret_cast<T>(static_cast<uintptr_t>(value)); }

inline const cuda::CuContext kStubContext = stubHandle<cuda::CuContext>(0xc0);

inline void addStubMemory(cuda::DriverApi &api) {
  api.cuMemAlloc_v2 = [](cuda::CuAddress *address, size_t bytes) {
    if (int result = stub_driver("cuMemAlloc")) return result;
    *address = 0x1000000ull * (stub_driver.memory.size() + 1);
    stub_driver.memory[*address].assign(bytes, 0xee);
    return 0;
  };
  api.cuMemFree_v2 = [](cuda::CuAddress address) {
    stub_driver.memory.erase(address);
    return stub_driver("cuMemFree");
  };
  api.cuMemcpyHtoD_v2 = [](cuda::CuAddress to, const void *from, size_t bytes) {
    if (int result = stub_driver("cuMemcpyHtoD")) return result;
    std::memcpy(stub_driver.memory.at(to).data(), from, bytes);
    return 0;
  };
  api.cuMemcpyDtoH_v2 = [](void *to, cuda::CuAddress from, size_t bytes) {
    if (int result = stub_driver("cuMemcpyDtoH")) return result;
    std::memcpy(to, stub_driver.memory.at(from).data(), bytes);
    return 0;
  };
  api.cuMemcpyDtoD_v2 = [](cuda::CuAddress to, cuda::CuAddress from, size_t bytes) {
    if (int result = stub_driver("cuMemcpyDtoD")) return result;
    std::memcpy(stub_driver.memory.at(to).data(), stub_driver.memory.at(from).data(), bytes);
    return 0;
  };
  api.cuMemGetInfo_v2 = [](size_t *free, size_t *total) {
    return *free = 3u << 20, *total = 4u << 20, stub_driver("cuMemGetInfo");
  };
  api.cuMemsetD8_v2 = [](cuda::CuAddress to, unsigned char value, size_t bytes) {
    if (int result = stub_driver("cuMemsetD8")) return result;
    std::memset(stub_driver.memory.at(to).data(), value, bytes);
    return 0;
  };
}

inline void addStubContext(cuda::DriverApi &api) {
  api.cuInit = [](unsigned) { return stub_driver("cuInit"); };
  api.cuDriverGetVersion = [](int *version) { return *version = 13010, stub_driver("cuDriverGetVersion"); };
  api.cuDeviceGetCount = [](int *count) { return *count = stub_driver.devices, stub_driver("cuDeviceGetCount"); };
  api.cuDeviceGet = [](cuda::CuDevice *device, int ordinal) { return *device = ordinal, stub_driver("cuDeviceGet"); };
  api.cuDeviceGetName = [](char *name, int, cuda::CuDevice) {
    return std::strcpy(name, "Stub 9000"), stub_driver("cuDeviceGetName");
  };
  api.cuDeviceGetAttribute = [](int *value, int attribute, cuda::CuDevice) {
    const std::map<int, int> values = {{13, 1980000},
                                       {16, stub_driver.sms},
                                       {36, 3201000},
                                       {38, 60 << 20},
                                       {75, stub_driver.major},
                                       {76, stub_driver.minor},
                                       {95, stub_driver.cooperative},
                                       {97, stub_driver.shared_optin}};
    return *value = values.at(attribute), stub_driver("cuDeviceGetAttribute");
  };
  api.cuDevicePrimaryCtxRetain = [](cuda::CuContext *context, cuda::CuDevice) {
    return *context = kStubContext, stub_driver("cuDevicePrimaryCtxRetain");
  };
  api.cuDevicePrimaryCtxRelease_v2 = [](cuda::CuDevice) { return stub_driver("cuDevicePrimaryCtxRelease"); };
  api.cuCtxGetCurrent = [](cuda::CuContext *context) {
    return *context = stub_driver.current, stub_driver("cuCtxGetCurrent");
  };
  api.cuCtxPushCurrent_v2 = [](cuda::CuContext context) {
    if (int result = stub_driver("cuCtxPushCurrent")) return result;
    stub_driver.below.push_back(stub_driver.current);
    stub_driver.current = context;
    return 0;
  };
  api.cuCtxPopCurrent_v2 = [](cuda::CuContext *context) {
    *context = stub_driver.current;
    stub_driver.current = stub_driver.below.back();
    stub_driver.below.pop_back();
    return stub_driver("cuCtxPopCurrent");
  };
  api.cuCtxSynchronize = [] { return stub_driver("cuCtxSynchronize"); };
  api.cuGetErrorName = [](int result, const char **name) {
    *name = result == 700   ? "CUDA_ERROR_ILLEGAL_ADDRESS"
            : result == 720 ? "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE"
                            : nullptr;
    return *name ? 0 : 1;
  };
  api.cuGetErrorString = [](int result, const char **text) {
    return *text = "the driver's words", result == 1 ? 1 : 0;
  };
}

inline void addStubKernels(cuda::DriverApi &api) {
  api.cuLibraryLoadData = [](cuda::CuLibrary *library, const void *, int *, void **, unsigned, int *, void **,
                             unsigned) {
    return *library = stubHandle<cuda::CuLibrary>(0x11), stub_driver("cuLibraryLoadData");
  };
  api.cuLibraryUnload = [](cuda::CuLibrary) { return stub_driver("cuLibraryUnload"); };
  api.cuLibraryGetKernel = [](cuda::CuKernel *kernel, cuda::CuLibrary, const char *name) {
    stub_driver.entry = name;
    return *kernel = stubHandle<cuda::CuKernel>(0x22), stub_driver("cuLibraryGetKernel");
  };
  api.cuKernelGetFunction = [](cuda::CuFunction *function, cuda::CuKernel) {
    return *function = stubHandle<cuda::CuFunction>(0x33), stub_driver("cuKernelGetFunction");
  };
  api.cuFuncGetAttribute = [](int *value, int attribute, cuda::CuFunction) {
    return *value = attribute == 0 ? stub_driver.threads_max : stub_driver.shared_static,
           stub_driver("cuFuncGetAttribute");
  };
  api.cuFuncSetAttribute = [](cuda::CuFunction, int attribute, int value) {
    return stub_driver.function_attributes[attribute] = value, stub_driver("cuFuncSetAttribute");
  };
  api.cuFuncLoad = [](cuda::CuFunction) { return stub_driver("cuFuncLoad"); };
  api.cuFuncGetParamInfo = [](cuda::CuFunction, size_t, size_t *offset, size_t *bytes) {
    return *offset = 0, *bytes = stub_driver.parameter_bytes, stub_driver("cuFuncGetParamInfo");
  };
  api.cuOccupancyMaxActiveBlocksPerMultiprocessor = [](int *ctas, cuda::CuFunction, int, size_t) {
    return *ctas = stub_driver.per_sm, stub_driver("cuOccupancy");
  };
  api.cuLaunchKernelEx = [](const cuda::LaunchConfig *config, cuda::CuFunction function, void **parameters, void **) {
    stub_driver.config = *config;
    stub_driver.attributes.assign(config->attributes, config->attributes + config->attribute_count);
    const uint8_t *bytes = static_cast<const uint8_t *>(parameters ? parameters[0] : nullptr);
    stub_driver.parameters.assign(bytes, bytes + (bytes ? stub_driver.parameter_bytes : 0));
    stub_driver.function = function;
    stub_driver.launched_in = stub_driver.current;
    return stub_driver("cuLaunchKernelEx");
  };
}

inline void addStubStreams(cuda::DriverApi &api) {
  api.cuStreamCreate = [](cuda::CuStream *stream, unsigned) {
    return *stream = stubHandle<cuda::CuStream>(0x55), stub_driver("cuStreamCreate");
  };
  api.cuStreamDestroy_v2 = [](cuda::CuStream) { return stub_driver("cuStreamDestroy"); };
  api.cuStreamSynchronize = [](cuda::CuStream) { return stub_driver("cuStreamSynchronize"); };
  api.cuStreamBeginCapture_v2 = [](cuda::CuStream, int) { return stub_driver("cuStreamBeginCapture"); };
  api.cuStreamEndCapture = [](cuda::CuStream, cuda::CuGraph *graph) {
    return *graph = stubHandle<cuda::CuGraph>(0x66), stub_driver("cuStreamEndCapture");
  };
  api.cuStreamIsCapturing = [](cuda::CuStream, int *status) {
    return *status = stub_driver.capture_status, stub_driver("cuStreamIsCapturing");
  };
  api.cuGraphInstantiateWithFlags = [](cuda::CuGraphExec *exec, cuda::CuGraph, unsigned long long) {
    return *exec = stubHandle<cuda::CuGraphExec>(0x77), stub_driver("cuGraphInstantiate");
  };
  api.cuGraphLaunch = [](cuda::CuGraphExec, cuda::CuStream) { return stub_driver("cuGraphLaunch"); };
  api.cuGraphExecDestroy = [](cuda::CuGraphExec) { return stub_driver("cuGraphExecDestroy"); };
  api.cuGraphDestroy = [](cuda::CuGraph) { return stub_driver("cuGraphDestroy"); };
  api.cuEventCreate = [](cuda::CuEvent *event, unsigned) {
    return *event = stubHandle<cuda::CuEvent>(0x80 + ++stub_driver.calls["event"]), stub_driver("cuEventCreate");
  };
  api.cuEventDestroy_v2 = [](cuda::CuEvent) { return stub_driver("cuEventDestroy"); };
  api.cuEventRecord = [](cuda::CuEvent event, cuda::CuStream) {
    stub_driver.events_recorded.push_back(int(reinterpret_cast<uintptr_t>(event)));
    return stub_driver("cuEventRecord");
  };
  api.cuEventSynchronize = [](cuda::CuEvent) { return stub_driver("cuEventSynchronize"); };
  api.cuEventElapsedTime = [](float *milliseconds, cuda::CuEvent from, cuda::CuEvent to) {
    *milliseconds = 0.25f * float(reinterpret_cast<uintptr_t>(to) - reinterpret_cast<uintptr_t>(from));
    return stub_driver("cuEventElapsedTime");
  };
}

/// A fresh stub and the table over it.
inline cuda::DriverApi stubDriverApi() {
  stub_driver = StubDriver();
  cuda::DriverApi api;
  addStubContext(api);
  addStubMemory(api);
  addStubKernels(api);
  addStubStreams(api);
  return api;
}

/// The smallest image that validateCubin() takes: a header and one section, the names.
inline std::vector<uint8_t> stubCubin() {
  std::vector<uint8_t> image(64 + 64 + 1);
  const uint8_t magic[] = {0x7f, 'E', 'L', 'F', 2, 1, 1};
  std::memcpy(image.data(), magic, sizeof magic);
  auto put = [&](size_t at, auto value) { std::memcpy(image.data() + at, &value, sizeof value); };
  put(18, uint16_t(190));
  put(40, uint64_t(64));
  put(58, uint16_t(64));
  put(60, uint16_t(1));
  put(64 + 4, uint32_t(3));
  put(64 + 24, uint64_t(128));
  put(64 + 32, uint64_t(1));
  return image;
}

} // namespace phasec::test
