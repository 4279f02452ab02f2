// cuda_gpu.cpp: the cuda device on a real GPU: co-residency, shared memory beyond 48 KB, 10,000 launches and graph
// replays with identical bytes, refusals. Skipped by name, with the loader's message, where there is no GPU or no
// NVRTC.
#include "compiler/nvrtc.h"
#include "runtime/cuda/graph.h"
#include "tests/unit/skip.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <thread>

using namespace phasec;

namespace {

// Every CTA writes its slot, all meet at a barrier that only co-resident CTAs can pass, and every CTA folds all slots
// in order. `salt` lives on the device and changes between launches of one captured graph.
const char *kSource = R"cuda(
struct Args { unsigned *arrivals; const unsigned *salt; float *slots; float *out; };
extern "C" __global__ void __launch_bounds__(256, 1) fold(Args a) {
  extern __shared__ __align__(128) unsigned char shared[];
  unsigned last;
  asm("mov.u32 %0, %%dynamic_smem_size;" : "=r"(last));
  float *mine = (float *)(shared + last - 1024);
  unsigned bits = blockIdx.x * 2654435761u ^ *a.salt * 40503u ^ threadIdx.x * 97u;
  mine[threadIdx.x] = float(bits % 8191u) * 0.125f - 300.0f;
  __syncthreads();
  if (threadIdx.x == 0) {
    float sum = 0;
    for (int i = 0; i < 256; i++) sum += mine[i] * (i & 1 ? 1e-3f : 3e3f);
    a.slots[blockIdx.x] = sum;
    __threadfence();
    unsigned old = atomicAdd(a.arrivals, 1u), all = (old / gridDim.x + 1u) * gridDim.x;
    while (*(volatile unsigned *)a.arrivals < all) {}
    __threadfence();
    float folded = 0;
    for (unsigned i = 0; i < gridDim.x; i++) folded += ((volatile float *)a.slots)[(i + blockIdx.x) % gridDim.x];
    a.out[blockIdx.x] = folded;
    old = atomicAdd(a.arrivals, 1u), all = (old / gridDim.x + 1u) * gridDim.x;
    while (*(volatile unsigned *)a.arrivals < all) {} // nobody's next launch overwrites a slot still being read
  }
}
)cuda";

struct Args {
  DevicePtr arrivals, salt, slots, out;
};

/// Everything a test here needs, or a skip.
struct Gpu {
  std::unique_ptr<Device> device;
  std::unique_ptr<LoadedKernel> kernel;
  LaunchShape shape;
  Args args{};
  bool ok = false;

  Gpu() {
    const char *libcuda = std::getenv("PHASEC_CUDA"), *libnvrtc = std::getenv("PHASEC_NVRTC");
    auto opened = openCuda(libcuda ? libcuda : "");
    if (!opened.ok()) {
      test::skip(opened.status().text());
      return;
    }
    device = opened.take();
    auto cubin = compile(findTarget(device->info().target), libnvrtc);
    if (cubin.empty()) return;
    auto loaded = device->load(cubin, "fold");
    REQUIRE_MESSAGE(loaded.ok(), loaded.status().text());
    kernel = loaded.take();
    shape = {device->info().sms, 256, device->info().shared_bytes_max, true};
    for (DevicePtr *address : {&args.arrivals, &args.salt, &args.slots, &args.out})
      *address = *device->allocate(64 * 1024);
    ok = true;
  }
  static std::vector<uint8_t> compile(const Target *target, const char *libnvrtc) {
    NvrtcSearch search;
    if (libnvrtc) search.explicit_path = libnvrtc;
    auto nvrtc = Nvrtc::open(search);
    if (!target || !nvrtc.ok()) {
      test::skip(target ? nvrtc.status().text() : "this GPU has no target");
      return {};
    }
    CompileRequest request;
    request.source = kSource;
    request.target = target;
    auto compiled = (*nvrtc)->compile(request);
    REQUIRE_MESSAGE(compiled.ok(), compiled.status().text());
    return compiled->cubin;
  }
  Status launch(StreamHandle stream) { return device->launch(*kernel, shape, &args, sizeof args, stream); }
  void salt(uint32_t value) { REQUIRE(device->upload(args.salt, &value, sizeof value).ok()); }
  std::vector<float> out() {
    std::vector<float> values(shape.ctas);
    REQUIRE(device->download(values.data(), args.out, int64_t(values.size() * sizeof(float))).ok());
    return values;
  }
  /// What the kernel should have written: the same sums, in the same order, on the host.
  std::vector<float> expected(uint32_t salt) const {
    std::vector<float> slots(shape.ctas), folded(shape.ctas);
    for (uint32_t cta = 0; cta < slots.size(); cta++) {
      volatile float sum = 0;
      for (uint32_t i = 0; i < 256; i++) {
        float value = float((cta * 2654435761u ^ salt * 40503u ^ i * 97u) % 8191u) * 0.125f - 300.0f;
        volatile float product = value * (i & 1 ? 1e-3f : 3e3f);
        sum = sum + product;
      }
      slots[cta] = sum;
    }
    for (size_t cta = 0; cta < slots.size(); cta++) {
      volatile float sum = 0;
      for (size_t i = 0; i < slots.size(); i++) sum = sum + slots[(i + cta) % slots.size()];
      folded[cta] = sum;
    }
    return folded;
  }
};

constexpr int kLaunches = 10000;

} // namespace

TEST_CASE("gpu: the device agrees with its row in arch.def") {
  Gpu gpu;
  if (!gpu.ok) return;
  const DeviceInfo &info = gpu.device->info();
  const Target *target = findTarget(info.target);
  REQUIRE(target);
  MESSAGE(info.name << ", " << info.target << ", " << info.driver << ", " << info.sms << " SMs, "
                    << info.shared_bytes_max << " bytes");
  CHECK(target->shared_bytes_max == info.shared_bytes_max);
  CHECK(info.cooperative);
  auto resident = gpu.kernel->residentCtas(gpu.shape);
  REQUIRE(resident.ok());
  CHECK(*resident == info.sms); // all of an SM's shared memory: one CTA each
}

TEST_CASE("gpu: 10,000 cooperative launches give identical bytes, right ones, from several threads") {
  Gpu gpu;
  if (!gpu.ok) return;
  gpu.salt(12345);
  std::vector<float> expected = gpu.expected(12345);
  auto stream = cuda::Stream::create(static_cast<cuda::CudaDevice &>(*gpu.device));
  REQUIRE(stream.ok());
  for (int round = 0; round < 10; round++) {
    bool ok = true;
    std::thread other([&] { // a thread the driver has not seen: no context is current there
      for (int i = 0; i < kLaunches / 10; i++) ok &= gpu.launch(stream->handle()).ok();
    });
    other.join();
    REQUIRE(ok);
    REQUIRE(stream->synchronize().ok());
    REQUIRE(gpu.out() == expected);
  }
}

TEST_CASE("gpu: 10,000 graph replays, with device-side inputs changed between them") {
  Gpu gpu;
  if (!gpu.ok) return;
  auto &device = static_cast<cuda::CudaDevice &>(*gpu.device);
  auto created = cuda::Stream::create(device);
  REQUIRE(created.ok());
  cuda::Stream stream = created.take();
  REQUIRE_FALSE(*device.capturing(stream.handle()));
  REQUIRE(stream.beginCapture().ok());
  CHECK(*device.capturing(stream.handle()));
  for (int i = 0; i < 4; i++) REQUIRE(gpu.launch(stream.handle()).ok());
  auto captured = stream.endCapture();
  REQUIRE_MESSAGE(captured.ok(), captured.status().text());
  cuda::Graph graph = captured.take();
  for (uint32_t salt : {1u, 77u, 4000000000u, 1u}) {
    gpu.salt(salt);
    REQUIRE(stream.replay(graph, kLaunches / 4).ok());
    REQUIRE(stream.synchronize().ok());
    CHECK(gpu.out() == gpu.expected(salt));
  }
}

TEST_CASE("gpu: a grid that cannot be resident is refused, and so is one with too much shared memory") {
  Gpu gpu;
  if (!gpu.ok) return;
  gpu.shape.ctas++;
  Status status = gpu.launch(nullptr);
  CHECK(status.kind() == ErrorKind::Refused);
  MESSAGE(status.text());
  gpu.shape.ctas--;
  gpu.shape.shared_bytes++;
  CHECK(gpu.launch(nullptr).kind() == ErrorKind::Refused);
  gpu.shape.shared_bytes--;
  CHECK(gpu.launch(nullptr).ok());
  CHECK(gpu.device->synchronize().ok());
}

TEST_CASE("gpu: wrong entry, wrong architecture, cut image: typed errors that name the call") {
  Gpu gpu;
  if (!gpu.ok) return;
  auto cubin = Gpu::compile(findTarget(gpu.device->info().target), std::getenv("PHASEC_NVRTC"));
  auto loaded = gpu.device->load(cubin, "no_such_kernel");
  CHECK(loaded.status().text().find("cuLibraryGetKernel failed: CUDA_ERROR_NOT_FOUND (500)") != std::string::npos);
  cubin.resize(cubin.size() - 100);
  CHECK(gpu.device->load(cubin, "fold").status().kind() == ErrorKind::Toolchain);
  const char *other = gpu.device->info().target == "sm_120a" ? "sm_90a" : "sm_120a";
  loaded = gpu.device->load(Gpu::compile(findTarget(other), std::getenv("PHASEC_NVRTC")), "fold");
  CHECK(loaded.status().kind() == ErrorKind::Device);
  CHECK_MESSAGE(loaded.status().text().find("(209)") != std::string::npos, loaded.status().text());
}

TEST_CASE("gpu: marks measure, memory is zeroed, a launch has a time") {
  Gpu gpu;
  if (!gpu.ok) return;
  auto fresh = gpu.device->allocate(100000);
  REQUIRE(fresh.ok());
  std::vector<uint8_t> bytes(100000, 1);
  REQUIRE(gpu.device->download(bytes.data(), *fresh, int64_t(bytes.size())).ok());
  CHECK(bytes == std::vector<uint8_t>(100000));
  auto stream = cuda::Stream::create(static_cast<cuda::CudaDevice &>(*gpu.device));
  REQUIRE(stream.ok());
  REQUIRE(gpu.launch(stream->handle()).ok());
  REQUIRE(gpu.device->mark(0, stream->handle()).ok());
  for (int i = 0; i < 100; i++) REQUIRE(gpu.launch(stream->handle()).ok());
  REQUIRE(gpu.device->mark(1, stream->handle()).ok());
  auto time = gpu.device->elapsedMicroseconds(0, 1);
  REQUIRE(time.ok());
  CHECK(*time > 100.0);
  CHECK(*time < 1e6);
  MESSAGE("one launch: " << *time / 100 << " us");
}
