// cuda_prepared.cpp: what a bound launch costs besides the driver's call: no allocation and no system call (getenv is
// barred by a layering rule). The kernel sees strict seccomp: any system call but read, write and exit kills the process.
#include "phasec/runtime.h"
#include "tests/unit/cuda_stub_driver.h"

#include <doctest/doctest.h>

#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace phasec;

namespace {

constexpr int kLaunches = 1'000;
int launched; // the stub's own bookkeeping would allocate

/// The driver of the tests, with a launch that only counts.
cuda::DriverApi quietDriver() {
  cuda::DriverApi api = test::stubDriverApi();
  api.cuFuncGetParamInfo = nullptr;
  api.cuCtxGetCurrent = [](cuda::CuContext *context) { return *context = test::kStubContext, 0; };
  api.cuLaunchKernelEx = [](const cuda::LaunchConfig *, cuda::CuFunction, void **, void **) { return launched++, 0; };
  return api;
}

Result<Bound> bindSomewhere(const Kernel &kernel) {
  Buffers buffers;
  for (const BufferSpec &spec : kernel.buffers()) {
    std::vector<int64_t> shape = spec.shape;
    for (int64_t &extent : shape) extent = extent < 0 ? kTokensMax : extent;
    buffers.arrays[spec.name] = {1 << 20, spec.dtype, shape, spec.layout}; // the stub never looks
  }
  return kernel.bind(buffers);
}

bool launchOften(Bound &bound) {
  bool all_ok = true;
  for (int i = 0; i < kLaunches; i++) all_ok &= bound.launch().ok();
  return all_ok && launched == kLaunches;
}

} // namespace

TEST_CASE("a bound launch allocates nothing and makes no system call") {
  RuntimeOptions options;
  options.device = DeviceChoice::None;
  options.nvrtc_path = PHASEC_BUILD_DIR "/tests/phasec_stub_nvrtc.so";
  Runtime runtime = Runtime::with(options, cuda::CudaDevice::open(quietDriver(), 0).take()).take();
  Schedule schedule;
  REQUIRE(schedule.set("math", "exact", Origin::Host).ok());
  Layers layers = Layers::read(PHASEC_SOURCE_DIR "/examples/layers/tiny_mlp_only.phase").take();
  Result<Kernel> kernel = runtime.prepare(layers, schedule);
  REQUIRE_MESSAGE(kernel.ok(), kernel.status().text());
  Result<Bound> bound = bindSomewhere(*kernel);
  REQUIRE_MESSAGE(bound.ok(), bound.status().text());

  launched = 0;
  long before = test::allocationCount();
  CHECK(launchOften(*bound));
  CHECK(test::allocationCount() == before);

  launched = 0;
  pid_t child = fork();
  if (child == 0) {
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) != 0) syscall(SYS_exit, 2);
    syscall(SYS_exit, launchOften(*bound) ? 0 : 1); // exit_group is not allowed
  }
  int status = 0;
  waitpid(child, &status, 0);
  CHECK_MESSAGE(!WIFSIGNALED(status), "a launch made a system call");
  CHECK(WEXITSTATUS(status) == 0);
}
