// cuda_stub_device.cpp: opening, memory, marks, errors and graphs over the stub driver; and what is said without a
// driver.
#include "runtime/cuda/graph.h"
#include "tests/unit/cuda_stub_driver.h"

#include <doctest/doctest.h>

using namespace phasec;
using test::stub_driver;

namespace {

std::unique_ptr<cuda::CudaDevice> openStub(const cuda::DriverApi &api) {
  auto device = cuda::CudaDevice::open(api, 0);
  REQUIRE_MESSAGE(device.ok(), device.status().text());
  return device.take();
}

std::string targetFor(int major, int minor) {
  cuda::DriverApi api = test::stubDriverApi();
  stub_driver.major = major;
  stub_driver.minor = minor;
  return openStub(api)->info().target;
}

bool says(const Status &status, const char *part) { return status.text().find(part) != std::string::npos; }

} // namespace

TEST_CASE("no driver: the loader's message, PHASEC_CUDA and the sim as remedies") {
  auto device = openCuda("/nonexistent/libcuda.so.1");
  REQUIRE_FALSE(device.ok());
  CHECK(device.status().kind() == ErrorKind::Device);
  for (const char *part :
       {"/nonexistent/libcuda.so.1", "cannot open shared object file", "PHASEC_CUDA", "--device sim", "--gpus all"})
    CHECK_MESSAGE(says(device.status(), part), part);
}

TEST_CASE("a library that is no driver is named by what it lacks") {
  auto device = openCuda("libm.so.6");
  REQUIRE_FALSE(device.ok());
  CHECK(device.status().kind() == ErrorKind::Device);
  CHECK(says(device.status(), "cuInit"));
  CHECK(says(device.status(), "too old"));
}

TEST_CASE("what the device says of itself") {
  auto device = openStub(test::stubDriverApi());
  const DeviceInfo &info = device->info();
  CHECK(info.device == "cuda");
  CHECK(info.name == "Stub 9000");
  CHECK(info.target == "sm_90a");
  CHECK(info.driver == "CUDA 13.1");
  CHECK(info.sms == 132);
  CHECK(info.shared_bytes_max == 232448);
  CHECK(info.cooperative);
}

TEST_CASE("compute capability to target: never another chip's \"a\"") {
  CHECK(targetFor(8, 0) == "sm_80");
  CHECK(targetFor(8, 6) == "sm_86");
  CHECK(targetFor(8, 7) == "sm_86"); // same major, older minor: runs
  CHECK(targetFor(8, 9) == "sm_89");
  CHECK(targetFor(10, 0) == "sm_100a");
  CHECK(targetFor(10, 3) == "sm_103a");
  CHECK(targetFor(12, 1) == "sm_121a");
  CHECK(targetFor(7, 5) == "");
  CHECK(targetFor(11, 0) == "");
  CHECK(targetFor(10, 1) == "");
}

TEST_CASE("opening: every failing call is named; a missing ordinal says how many there are") {
  for (const char *call : {"cuInit", "cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetName", "cuDriverGetVersion",
                           "cuDeviceGetAttribute", "cuDevicePrimaryCtxRetain"}) {
    cuda::DriverApi api = test::stubDriverApi();
    stub_driver.results[call] = 100;
    auto device = cuda::CudaDevice::open(api, 0);
    REQUIRE_FALSE(device.ok());
    CHECK(device.status().kind() == ErrorKind::Device);
    CHECK_MESSAGE(says(device.status(), (std::string(call) + " failed").c_str()), device.status().text());
    CHECK(says(device.status(), "CUDA_VISIBLE_DEVICES"));
    CHECK(stub_driver.calls["cuDevicePrimaryCtxRelease"] == 0);
  }
  cuda::DriverApi api = test::stubDriverApi();
  stub_driver.devices = 2;
  CHECK(cuda::CudaDevice::open(api, 1).ok());
  CHECK(says(cuda::CudaDevice::open(api, 2).status(), "there is no GPU 2: the driver shows 2"));
  CHECK_FALSE(cuda::CudaDevice::open(api, -1).ok());
}

TEST_CASE("error text: what, call, name, number, the driver's words, a remedy") {
  auto device = openStub(test::stubDriverApi());
  stub_driver.results["cuCtxSynchronize"] = 700;
  Status status = device->synchronize();
  CHECK(status.kind() == ErrorKind::Device);
  CHECK(
      status.text() ==
      "waiting for the device: cuCtxSynchronize failed: CUDA_ERROR_ILLEGAL_ADDRESS (700), the driver's words; "
      "the context is lost: restart the process; run with --device sim or under compute-sanitizer to find the access");
  stub_driver.results["cuCtxSynchronize"] = 1; // neither name nor text
  CHECK(says(device->synchronize(), "failed: CUresult (1); "));
  stub_driver.results["cuCtxSynchronize"] = 906;
  CHECK(says(device->synchronize(), "being captured"));
}

TEST_CASE("memory is zeroed, comes back as written, and is freed once") {
  auto device = openStub(test::stubDriverApi());
  auto first = device->allocate(1000), second = device->allocate(0);
  REQUIRE(first.ok());
  REQUIRE(second.ok());
  CHECK(*first != *second);
  CHECK(stub_driver.memory[*second].size() == 256);
  std::vector<uint8_t> zeros(1000), bytes(1000), back(1000, 0xaa);
  REQUIRE(device->download(back.data(), *first, 1000).ok());
  CHECK(back == zeros);
  for (size_t i = 0; i < bytes.size(); i++) bytes[i] = uint8_t(i * 37 + i / 251);
  int waits = stub_driver.calls["cuStreamSynchronize"];
  REQUIRE(device->upload(*first, bytes.data(), 1000).ok());
  CHECK(stub_driver.calls["cuStreamSynchronize"] == waits + 1);
  REQUIRE(device->download(back.data(), *first, 1000).ok());
  CHECK(back == bytes);
  REQUIRE(device->fill(*first, 0x5c, 10).ok());
  CHECK(stub_driver.memory[*first][9] == 0x5c);
  CHECK(stub_driver.memory[*first][10] == bytes[10]);

  device->release(*first);
  device->release(*first);
  device->release(12345);
  CHECK(stub_driver.calls["cuMemFree"] == 1);
  device.reset();
  CHECK(stub_driver.calls["cuMemFree"] == 2);
  CHECK(stub_driver.calls["cuDevicePrimaryCtxRelease"] == 1);
  CHECK(stub_driver.below.empty());
}

TEST_CASE("failing memory calls are typed, and nothing leaks") {
  auto device = openStub(test::stubDriverApi());
  stub_driver.results["cuMemAlloc"] = 2;
  auto memory = device->allocate(int64_t(1) << 40);
  CHECK(memory.status().kind() == ErrorKind::Device);
  CHECK(says(memory.status(), "1099511627776 bytes"));
  CHECK(says(memory.status(), "free device memory"));
  stub_driver.results = {{"cuMemsetD8", 700}};
  CHECK_FALSE(device->allocate(64).ok());
  CHECK(stub_driver.memory.empty());
  CHECK(device->allocate(-1).status().kind() == ErrorKind::Internal);
  stub_driver.results = {{"cuMemcpyHtoD", 700}, {"cuMemcpyDtoH", 700}};
  uint8_t byte = 0;
  CHECK(says(device->upload(4096, &byte, 1), "cuMemcpyHtoD failed"));
  CHECK(says(device->download(&byte, 4096, 1), "cuMemcpyDtoH failed"));
  CHECK(device->upload(4096, &byte, 0).ok());
}

TEST_CASE("time marks") {
  auto device = openStub(test::stubDriverApi());
  CHECK(device->mark(-1, nullptr).kind() == ErrorKind::Internal);
  CHECK(device->mark(256, nullptr).kind() == ErrorKind::Internal);
  REQUIRE(device->mark(7, nullptr).ok());
  REQUIRE(device->mark(3, nullptr).ok());
  REQUIRE(device->mark(7, nullptr).ok()); // the same event again
  CHECK(stub_driver.events_recorded == std::vector<int>{0x81, 0x82, 0x81});
  auto time = device->elapsedMicroseconds(7, 3);
  REQUIRE(time.ok());
  CHECK(*time == 250.0);
  CHECK(device->elapsedMicroseconds(7, 4).status().kind() == ErrorKind::Internal);
  device.reset();
  CHECK(stub_driver.calls["cuEventDestroy"] == 2);
}

TEST_CASE("capturing: the driver's answer, also when asking is itself forbidden") {
  auto device = openStub(test::stubDriverApi());
  CHECK_FALSE(*device->capturing(nullptr));
  stub_driver.capture_status = 1;
  CHECK(*device->capturing(nullptr));
  stub_driver.results["cuStreamIsCapturing"] = 906;
  CHECK(*device->capturing(nullptr));
  stub_driver.results["cuStreamIsCapturing"] = 400;
  CHECK(device->capturing(nullptr).status().kind() == ErrorKind::Device);
}

TEST_CASE("streams and graphs: created, replayed, destroyed once; failures are named") {
  auto device = openStub(test::stubDriverApi());
  {
    auto created = cuda::Stream::create(*device);
    REQUIRE(created.ok());
    cuda::Stream stream = created.take();
    REQUIRE(stream.beginCapture().ok());
    auto captured = stream.endCapture();
    REQUIRE(captured.ok());
    cuda::Graph graph = captured.take();
    REQUIRE(stream.replay(graph, 5).ok());
    REQUIRE(stream.synchronize().ok());
    CHECK(stub_driver.calls["cuGraphLaunch"] == 5);
    CHECK(stub_driver.calls["cuGraphDestroy"] == 1);
    stub_driver.results["cuGraphLaunch"] = 700;
    CHECK(says(stream.replay(graph, 5), "cuGraphLaunch failed"));
    CHECK(stub_driver.calls["cuGraphLaunch"] == 6);
    stub_driver.results["cuGraphInstantiate"] = 2;
    CHECK(says(stream.endCapture().status(), "cuGraphInstantiateWithFlags failed"));
    CHECK(stub_driver.calls["cuGraphDestroy"] == 2);
  }
  CHECK(stub_driver.calls["cuGraphExecDestroy"] == 1);
  CHECK(stub_driver.calls["cuStreamDestroy"] == 1);
  CHECK(stub_driver.below.empty());
}
