// cuda_stub_launch.cpp: loading and launching over the stub driver: what is passed, what is refused, what is not
// called.
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

const LaunchShape kShape{200, 256, 100000, true};
const uint64_t kArgs[3] = {0x1122334455667788, 42, ~0ull};

} // namespace

TEST_CASE("loading forces the load, resolves the entry, and lifts the shared memory limit once and for all") {
  auto device = openStub(test::stubDriverApi());
  auto kernel = device->load(test::stubCubin(), "phasec_layer");
  REQUIRE_MESSAGE(kernel.ok(), kernel.status().text());
  CHECK(stub_driver.entry == "phasec_layer");
  CHECK(stub_driver.calls["cuFuncLoad"] == 1);
  CHECK(stub_driver.function_attributes.at(8) == 232448 - 1024);
  auto resident = (*kernel)->residentCtas(kShape);
  REQUIRE(resident.ok());
  CHECK(*resident == 264);
  kernel = Status::internal("drop it");
  CHECK(stub_driver.calls["cuLibraryUnload"] == 1);
}

TEST_CASE("a launch passes shape, stream and parameters on, cooperative or not") {
  auto device = openStub(test::stubDriverApi());
  auto kernel = device->load(test::stubCubin(), "phasec_layer").take();
  int here = 0;
  REQUIRE(device->launch(*kernel, kShape, kArgs, sizeof kArgs, &here).ok());
  const cuda::LaunchConfig &config = stub_driver.config;
  CHECK(config.grid[0] == 200);
  CHECK(config.grid[1] == 1);
  CHECK(config.grid[2] == 1);
  CHECK(config.block[0] == 256);
  CHECK(config.block[1] == 1);
  CHECK(config.shared_bytes == 100000);
  CHECK(config.stream == reinterpret_cast<cuda::CuStream>(&here));
  REQUIRE(stub_driver.attributes.size() == 1);
  CHECK(stub_driver.attributes[0].id == 2);
  CHECK(stub_driver.attributes[0].value.cooperative == 1);
  CHECK(stub_driver.function == test::stubHandle<cuda::CuFunction>(0x33));
  REQUIRE(stub_driver.parameters.size() == sizeof kArgs);
  CHECK(std::memcmp(stub_driver.parameters.data(), kArgs, sizeof kArgs) == 0);

  LaunchShape loose = kShape;
  loose.cooperative = false;
  loose.ctas = 100000; // more than fit at once, which is nobody's business here
  REQUIRE(device->launch(*kernel, loose, kArgs, sizeof kArgs, nullptr).ok());
  CHECK(stub_driver.config.attribute_count == 0);
  CHECK(stub_driver.config.grid[0] == 100000);
}

TEST_CASE("the prepared launch allocates nothing, waits for nothing and asks the driver nothing else") {
  static int launches, reads; // the stub's own bookkeeping would allocate
  launches = reads = 0;
  cuda::DriverApi api = test::stubDriverApi();
  api.cuCtxGetCurrent = [](cuda::CuContext *context) { return *context = test::kStubContext, reads++, 0; };
  api.cuLaunchKernelEx = [](const cuda::LaunchConfig *, cuda::CuFunction, void **, void **) { return launches++, 0; };
  auto device = openStub(api);
  auto kernel = device->load(test::stubCubin(), "phasec_layer").take();
  REQUIRE(kernel->residentCtas(kShape).ok());
  stub_driver.calls.clear();
  reads = 0;
  bool all_ok = true;
  long before = test::allocationCount();
  for (int i = 0; i < 100; i++) all_ok &= device->launch(*kernel, kShape, kArgs, sizeof kArgs, nullptr).ok();
  CHECK(test::allocationCount() == before);
  CHECK(all_ok);
  CHECK(launches == 100);
  CHECK(reads == 100);
  CHECK(stub_driver.calls.empty());
}

TEST_CASE("a grid that cannot be resident is refused with the figures, and never reaches the driver") {
  auto device = openStub(test::stubDriverApi());
  auto kernel = device->load(test::stubCubin(), "phasec_layer").take();
  LaunchShape shape = kShape;
  shape.ctas = 265;
  Status status = device->launch(*kernel, shape, kArgs, sizeof kArgs, nullptr);
  CHECK(status.kind() == ErrorKind::Refused);
  for (const char *part : {"265 CTAs", "holds 264", "Stub 9000", "256 threads", "100000 bytes", "on_refusal=split"})
    CHECK_MESSAGE(status.text().find(part) != std::string::npos, part);
  shape.ctas = 264;
  CHECK(device->launch(*kernel, shape, kArgs, sizeof kArgs, nullptr).ok());

  stub_driver.per_sm = 1; // another shape is another question
  shape.shared_bytes = 200000;
  CHECK(device->launch(*kernel, shape, kArgs, sizeof kArgs, nullptr).kind() == ErrorKind::Refused);
  shape.ctas = 132;
  CHECK(device->launch(*kernel, shape, kArgs, sizeof kArgs, nullptr).ok());
  CHECK(stub_driver.calls["cuOccupancy"] == 2);
  CHECK(stub_driver.calls["cuLaunchKernelEx"] == 2);

  stub_driver.results["cuLaunchKernelEx"] = 720; // another process took SMs away
  CHECK(device->launch(*kernel, shape, kArgs, sizeof kArgs, nullptr).kind() == ErrorKind::Refused);
}

TEST_CASE("shapes beyond the kernel's or the device's limits, and wrong parameter sizes") {
  auto device = openStub(test::stubDriverApi());
  stub_driver.threads_max = 512;
  auto kernel = device->load(test::stubCubin(), "phasec_layer").take();
  auto kindOf = [&](LaunchShape shape) { return device->launch(*kernel, shape, kArgs, sizeof kArgs, nullptr).kind(); };
  CHECK(kindOf({1, 513, 0, true}) == ErrorKind::Refused);
  CHECK(kindOf({1, 32, 232448, true}) == ErrorKind::Refused);
  CHECK(kindOf({1, 32, 231424, true}) == ErrorKind::Ok);
  CHECK(kindOf({0, 32, 0, true}) == ErrorKind::Internal);
  CHECK(kindOf({1, 0, 0, false}) == ErrorKind::Internal);
  CHECK(kindOf({1, 32, -1, false}) == ErrorKind::Internal);
  CHECK(kernel->residentCtas({1, 2048, 0, true}).status().kind() == ErrorKind::Refused);
  CHECK(device->launch(*kernel, {1, 32, 0, true}, kArgs, 16, nullptr).kind() == ErrorKind::Internal);
}

TEST_CASE("a device without cooperative launches refuses them and takes the others") {
  cuda::DriverApi api = test::stubDriverApi();
  stub_driver.cooperative = 0;
  auto device = openStub(api);
  CHECK_FALSE(device->info().cooperative);
  auto kernel = device->load(test::stubCubin(), "phasec_layer").take();
  CHECK(device->launch(*kernel, {4, 32, 0, true}, kArgs, sizeof kArgs, nullptr).kind() == ErrorKind::Refused);
  CHECK(device->launch(*kernel, {4, 32, 0, false}, kArgs, sizeof kArgs, nullptr).ok());
}

TEST_CASE("an older driver without cuFuncLoad and parameter sizes still works") {
  cuda::DriverApi api = test::stubDriverApi();
  api.cuFuncLoad = nullptr;
  api.cuFuncGetParamInfo = nullptr;
  auto device = openStub(api);
  auto kernel = device->load(test::stubCubin(), "phasec_layer").take();
  CHECK(device->launch(*kernel, kShape, kArgs, sizeof kArgs, nullptr).ok());
}

TEST_CASE("every call that can fail while loading is named, and a half-loaded library is unloaded") {
  for (const char *call : {"cuLibraryLoadData", "cuLibraryGetKernel", "cuKernelGetFunction", "cuFuncLoad",
                           "cuFuncGetAttribute", "cuFuncSetAttribute"}) {
    auto device = openStub(test::stubDriverApi());
    stub_driver.results[call] = 209;
    auto kernel = device->load(test::stubCubin(), "phasec_layer");
    REQUIRE_FALSE(kernel.ok());
    CHECK(kernel.status().kind() == ErrorKind::Device);
    CHECK_MESSAGE(kernel.status().text().find(std::string(call) + " failed") != std::string::npos,
                  kernel.status().text());
    CHECK(kernel.status().text().find("another architecture") != std::string::npos);
    kernel = Status::internal("drop it");
    CHECK(stub_driver.calls["cuLibraryUnload"] == 1);
  }
}

TEST_CASE("a damaged image never reaches the driver") {
  auto device = openStub(test::stubDriverApi());
  std::vector<uint8_t> image = test::stubCubin();
  image.pop_back();
  CHECK(device->load(image, "phasec_layer").status().kind() == ErrorKind::Toolchain);
  CHECK(device->load({}, "phasec_layer").status().kind() == ErrorKind::Toolchain);
  CHECK(stub_driver.calls["cuLibraryLoadData"] == 0);
}

TEST_CASE("the caller's context is put back; one that is current is left alone") {
  auto device = openStub(test::stubDriverApi());
  auto kernel = device->load(test::stubCubin(), "phasec_layer").take();
  auto other = test::stubHandle<cuda::CuContext>(0xdd);
  stub_driver.current = other;
  REQUIRE(device->launch(*kernel, kShape, kArgs, sizeof kArgs, nullptr).ok());
  CHECK(stub_driver.launched_in == test::kStubContext);
  CHECK(stub_driver.current == other);
  CHECK(stub_driver.below.empty());

  stub_driver.current = test::kStubContext;
  stub_driver.calls.clear();
  REQUIRE(device->launch(*kernel, kShape, kArgs, sizeof kArgs, nullptr).ok());
  CHECK(stub_driver.calls["cuCtxPushCurrent"] == 0);

  stub_driver.current = nullptr;
  stub_driver.results["cuCtxPushCurrent"] = 201;
  Status status = device->launch(*kernel, kShape, kArgs, sizeof kArgs, nullptr);
  CHECK(status.kind() == ErrorKind::Device);
  CHECK(status.text().find("cuCtxPushCurrent failed") != std::string::npos);
  stub_driver.results.clear();
}
