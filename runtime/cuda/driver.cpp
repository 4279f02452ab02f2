// driver.cpp: finds libcuda, fills the table, and words the driver's errors.
#include "runtime/cuda/driver.h"

#include <dlfcn.h>
#include <vector>

namespace phasec::cuda {
namespace {

constexpr const char *kNoDriverRemedy = "; install the NVIDIA driver (525 or later), give a container its GPU (docker "
                                        "run --gpus all), set PHASEC_CUDA to a "
                                        "libcuda.so.1, or use --device sim";

const char *remedy(CuResult result) {
  if (result >= kStreamCaptureFirst && result <= kStreamCaptureLast)
    return "the stream is being captured: load, allocate and prepare before the capture begins";
  switch (result) {
  case kOutOfMemory:
    return "free device memory, or lower contexts, batch or the workspace";
  case kStubLibrary:
    return "this libcuda is the toolkit's stub for linking; point PHASEC_CUDA at the driver's libcuda.so.1";
  case kDeviceUnavailable:
    return "another process holds the GPU exclusively; see nvidia-smi";
  case kNoDevice:
    return "no GPU is visible: look at CUDA_VISIBLE_DEVICES and nvidia-smi, or use --device sim";
  case kInvalidDevice:
    return "choose a smaller ordinal";
  case kInvalidImage:
    return "the cubin is damaged: run `phasec cache verify`, then compile again";
  case kInvalidContext:
    return "the stream or the kernel belongs to another device's context";
  case kNoBinaryForGpu:
    return "the cubin is for another architecture: compile for this device's target (phasec doctor names it)";
  case kInvalidHandle:
    return "the stream or the kernel is gone, or belongs to another context";
  case kNotFound:
    return "the image has no such entry point: compile again";
  case kOutOfResources:
    return "the kernel needs more registers or shared memory than a CTA may have: fewer warps or ring stages";
  case kCooperativeTooLarge:
    return "lower `ctas`, or set on_refusal=split";
  case kNotPermitted:
    return "the process may not do this on the GPU; look at MPS and MIG settings";
  case kDriverMismatch:
    return "the driver's kernel module and library differ: reboot, or reload the module";
  default:
    break;
  }
  if (result >= kIllegalAddress && result < kCooperativeTooLarge)
    return "the context is lost: restart the process; run with --device sim or under compute-sanitizer to find the "
           "access";
  return "see the driver's documentation of this error";
}

} // namespace

Result<DriverApi> openDriver(const std::string &path) {
  std::vector<std::string> candidates = {path};
  if (path.empty())
    candidates = {"libcuda.so.1", "/usr/local/nvidia/lib64/libcuda.so.1", "/usr/lib/wsl/lib/libcuda.so.1"};
  void *library = nullptr;
  std::string why;
  for (const std::string &candidate : candidates) {
    library = dlopen(candidate.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library) break;
    if (const char *message = dlerror(); message && why.empty()) why = message;
  }
  if (!library) return Status::device("cannot open the CUDA driver: " + why + kNoDriverRemedy);
  DriverApi api;
  std::string missing;
#define PHASEC_DRIVER_FIND(name, parameters) api.name = reinterpret_cast<CuResult(*) parameters>(dlsym(library, #name));
#define PHASEC_DRIVER_REQUIRE(name, parameters)                                                                        \
  PHASEC_DRIVER_FIND(name, parameters)                                                                                 \
  if (!api.name && missing.empty()) missing = #name;
  PHASEC_DRIVER_CALLS(PHASEC_DRIVER_REQUIRE)
  PHASEC_DRIVER_OPTIONAL_CALLS(PHASEC_DRIVER_FIND)
#undef PHASEC_DRIVER_REQUIRE
#undef PHASEC_DRIVER_FIND
  if (!missing.empty()) return Status::device("the CUDA driver is too old: it has no " + missing + kNoDriverRemedy);
  return api;
}

Status driverError(const DriverApi &api, std::string_view call, CuResult result, std::string_view what) {
  const char *name = nullptr, *text = nullptr;
  if (!api.cuGetErrorName || api.cuGetErrorName(result, &name) != 0 || !name) name = "CUresult";
  if (!api.cuGetErrorString || api.cuGetErrorString(result, &text) != 0 || !text) text = "";
  if (size_t suffix = call.rfind("_v"); suffix != std::string_view::npos) call = call.substr(0, suffix);
  std::string message(what);
  message += ": " + std::string(call) + " failed: " + name + " (" + std::to_string(result) + ")";
  if (*text) message += std::string(", ") + text;
  message += std::string("; ") + remedy(result);
  return {result == kCooperativeTooLarge ? ErrorKind::Refused : ErrorKind::Device, message};
}

} // namespace phasec::cuda
