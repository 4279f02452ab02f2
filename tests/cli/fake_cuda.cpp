// fake_cuda.cpp: a libcuda.so for PHASEC_CUDA that computes nothing, so that what the command line does on a GPU is tested
// without one: memory is the host's, kernels do not run, and a launch takes as many microseconds as it has CTAs. A test may
// say otherwise, by variables that are read at every launch:
//   FAKE_CUDA_BEST=T     a launch takes a microsecond more for each warp that its block has more or less than T threads
//   FAKE_CUDA_SCALE=F    all times, times F
//   FAKE_CUDA_RESULT=P   a launch leaves the bytes of file P in every buffer that was wiped before (results of a sim)
//   FAKE_CUDA_WRONG=T    ... but not with blocks of T threads
#include "runtime/cuda/driver.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <string>

using namespace phasec::cuda;

namespace {

constexpr size_t kMemory = size_t(1) << 28;

template <class T> T handle(uintptr_t n) { return reinterpret_cast<T>(n); }

std::map<CuAddress, size_t> memory;
std::map<CuEvent, double> events;    ///< the stream's time when it was recorded
std::map<CuGraph, double> graphs;    ///< how long a replay takes
std::map<CuAddress, size_t> wiped;   ///< filled with the command line's pattern, which launches overwrite
constexpr unsigned char kPattern = 0xa5;
double now_us = 0, captured_us = 0;
bool capturing = false;
uintptr_t next_handle = 0x100;

double variable(const char *name, double otherwise) {
  const char *text = std::getenv(name);
  return text ? std::atof(text) : otherwise;
}

double launchUs(const LaunchConfig &config) {
  double threads = config.block[0], warps = std::abs(threads - variable("FAKE_CUDA_BEST", threads)) / 32;
  return (config.grid[0] + warps) * variable("FAKE_CUDA_SCALE", 1);
}

void leaveResults(const LaunchConfig &config) {
  const char *path = std::getenv("FAKE_CUDA_RESULT");
  if (!path || config.block[0] == variable("FAKE_CUDA_WRONG", 0)) return;
  std::ifstream in(path, std::ios::binary);
  std::string bytes((std::istreambuf_iterator<char>(in)), {});
  for (const auto &[address, size] : wiped)
    if (size >= bytes.size()) std::memcpy(reinterpret_cast<void *>(address), bytes.data(), bytes.size());
}

size_t used() {
  size_t bytes = 0;
  for (const auto &[address, size] : memory) bytes += size;
  return bytes;
}

int attribute(int which) {
  switch (which) {
  case kDeviceClockKhz: return 1980000;
  case kDeviceMultiprocessors: return 125; // an eighth of a millisecond a launch: times are exact in float
  case kDeviceMemoryClockKhz: return 3201000;
  case kDeviceL2Bytes: return 60 << 20;
  case kDeviceMajor: return 9;
  case kDeviceMinor: return 0;
  case kDeviceCooperative: return 1;
  case kDeviceSharedOptin: return 232448;
  default: return 0;
  }
}

} // namespace

// Every function of the table exists with its signature; those that have nothing to do are done in one line.
#define DECLARE(name, parameters) extern "C" __attribute__((visibility("default"))) CuResult name parameters;
PHASEC_DRIVER_CALLS(DECLARE)

CuResult cuInit(unsigned) { return 0; }
CuResult cuDriverGetVersion(int *version) { return *version = 13000, 0; }
CuResult cuDeviceGetCount(int *count) { return *count = 1, 0; }
CuResult cuDeviceGet(CuDevice *device, int) { return *device = 0; }
CuResult cuDeviceGetName(char *name, int, CuDevice) { return std::strcpy(name, "Fake H200"), 0; }
CuResult cuDeviceGetAttribute(int *value, int which, CuDevice) { return *value = attribute(which), 0; }
CuResult cuDevicePrimaryCtxRetain(CuContext *context, CuDevice) { return *context = handle<CuContext>(1), 0; }
CuResult cuDevicePrimaryCtxRelease_v2(CuDevice) { return 0; }
CuResult cuCtxGetCurrent(CuContext *context) { return *context = handle<CuContext>(1), 0; }
CuResult cuCtxPushCurrent_v2(CuContext) { return 0; }
CuResult cuCtxPopCurrent_v2(CuContext *) { return 0; }
CuResult cuCtxSynchronize() { return 0; }
CuResult cuMemGetInfo_v2(size_t *free, size_t *total) { return *free = kMemory - used(), *total = kMemory, 0; }
CuResult cuMemAlloc_v2(CuAddress *address, size_t bytes) {
  if (bytes > kMemory - used()) return kOutOfMemory;
  *address = CuAddress(std::aligned_alloc(256, (bytes + 255) / 256 * 256));
  memory[*address] = bytes;
  return 0;
}
CuResult cuMemFree_v2(CuAddress address) {
  if (!memory.erase(address)) return kInvalidHandle;
  wiped.erase(address);
  std::free(reinterpret_cast<void *>(address));
  return 0;
}
CuResult cuMemcpyHtoD_v2(CuAddress to, const void *from, size_t n) { return std::memcpy(reinterpret_cast<void *>(to), from, n), 0; }
CuResult cuMemcpyDtoH_v2(void *to, CuAddress from, size_t n) { return std::memcpy(to, reinterpret_cast<void *>(from), n), 0; }
CuResult cuMemcpyDtoD_v2(CuAddress to, CuAddress from, size_t n) {
  return std::memcpy(reinterpret_cast<void *>(to), reinterpret_cast<void *>(from), n), 0;
}
CuResult cuMemsetD8_v2(CuAddress to, unsigned char value, size_t n) {
  if (value == kPattern) wiped[to] = n;
  return std::memset(reinterpret_cast<void *>(to), value, n), 0;
}
CuResult cuLibraryLoadData(CuLibrary *library, const void *, int *, void **, unsigned, int *, void **, unsigned) {
  return *library = handle<CuLibrary>(1), 0;
}
CuResult cuLibraryUnload(CuLibrary) { return 0; }
CuResult cuLibraryGetKernel(CuKernel *kernel, CuLibrary, const char *) { return *kernel = handle<CuKernel>(1), 0; }
CuResult cuKernelGetFunction(CuFunction *function, CuKernel) { return *function = handle<CuFunction>(1), 0; }
CuResult cuFuncGetAttribute(int *value, int which, CuFunction) { return *value = which == kFunctionThreadsMax ? 1024 : 0, 0; }
CuResult cuFuncSetAttribute(CuFunction, int, int) { return 0; }
CuResult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *ctas, CuFunction, int, size_t) { return *ctas = 1, 0; }
CuResult cuLaunchKernelEx(const LaunchConfig *config, CuFunction, void **, void **) {
  (capturing ? captured_us : now_us) += launchUs(*config);
  if (!capturing) leaveResults(*config);
  return 0;
}
CuResult cuStreamCreate(CuStream *stream, unsigned) { return *stream = handle<CuStream>(2), 0; }
CuResult cuStreamDestroy_v2(CuStream) { return 0; }
CuResult cuStreamSynchronize(CuStream) { return 0; }
CuResult cuStreamBeginCapture_v2(CuStream, int) { return captured_us = 0, capturing = true, 0; }
CuResult cuStreamEndCapture(CuStream, CuGraph *graph) {
  capturing = false;
  graphs[*graph = handle<CuGraph>(next_handle++)] = captured_us;
  return 0;
}
CuResult cuStreamIsCapturing(CuStream, int *status) { return *status = capturing, 0; }
CuResult cuGraphInstantiateWithFlags(CuGraphExec *exec, CuGraph graph, unsigned long long) {
  return *exec = reinterpret_cast<CuGraphExec>(graph), 0;
}
CuResult cuGraphLaunch(CuGraphExec exec, CuStream) { return now_us += graphs.at(reinterpret_cast<CuGraph>(exec)), 0; }
CuResult cuGraphExecDestroy(CuGraphExec) { return 0; }
CuResult cuGraphDestroy(CuGraph) { return 0; }
CuResult cuEventCreate(CuEvent *event, unsigned) { return *event = handle<CuEvent>(next_handle++), 0; }
CuResult cuEventDestroy_v2(CuEvent) { return 0; }
CuResult cuEventRecord(CuEvent event, CuStream) { return events[event] = now_us, 0; }
CuResult cuEventSynchronize(CuEvent) { return 0; }
CuResult cuEventElapsedTime(float *milliseconds, CuEvent from, CuEvent to) {
  return *milliseconds = float((events.at(to) - events.at(from)) / 1000), 0;
}
CuResult cuGetErrorName(CuResult, const char **name) { return *name = "CUDA_ERROR_FAKE", 0; }
CuResult cuGetErrorString(CuResult, const char **text) { return *text = "the fake driver's error", 0; }
