// nvrtc_stub.cpp: the compile path over a table of functions of our own: every failure of NVRTC is a typed error,
// programs are destroyed on every way out, and a request that would spoil the bytes never reaches the compiler.
#include "compiler/nvrtc.h"

#include <cstring>
#include <doctest/doctest.h>

using namespace phasec;

namespace {

struct Stub {
  int created = 0, destroyed = 0, compiled = 0, flow_set = 0;
  int create_result = 0, compile_result = 0, cubin_result = 0;
  int calls_of_flow = 0;
  std::vector<std::string> options;
  std::string name, cubin = "not an elf";
  NvrtcApi::FlowCallback flow = nullptr;
  void *payload = nullptr;
} stub;

int giveText(const char *text, size_t *bytes) { return *bytes = std::strlen(text) + 1, 0; }

NvrtcApi stubApi() {
  stub = Stub();
  NvrtcApi api;
  api.version = [](int *major, int *minor) { return *major = 13, *minor = 4, 0; };
  api.createProgram = [](void **program, const char *, const char *name, int, const char *const *,
                         const char *const *) {
    if (stub.create_result) return stub.create_result;
    stub.created++;
    stub.name = name;
    *program = &stub;
    return 0;
  };
  api.destroyProgram = [](void **program) { return stub.destroyed++, *program = nullptr, 0; };
  api.compileProgram = [](void *, int count, const char *const *texts) {
    stub.compiled++;
    stub.options.assign(texts, texts + count);
    while (stub.flow && stub.calls_of_flow < 5) {
      stub.calls_of_flow++;
      if (stub.flow(stub.payload, nullptr)) return 16;
    }
    return stub.compile_result;
  };
  api.cubinSize = [](void *, size_t *bytes) { return *bytes = stub.cubin.size(), stub.cubin_result; };
  api.cubin = [](void *, char *to) { return std::memcpy(to, stub.cubin.data(), stub.cubin.size()), 0; };
  static const char *ptx = "// Compiler Build ID: CL-77\n// Cuda compilation tools, release 13.4, V13.4.21\n";
  api.ptxSize = [](void *, size_t *bytes) { return giveText(ptx, bytes); };
  api.ptx = [](void *, char *to) { return std::strcpy(to, ptx), 0; };
  api.logSize = [](void *, size_t *bytes) { return giveText("a log", bytes); };
  api.log = [](void *, char *to) { return std::strcpy(to, "a log"), 0; };
  api.errorString = [](int result) { return result == 1 ? "NVRTC_ERROR_OUT_OF_MEMORY" : "NVRTC_ERROR_OTHER"; };
  api.setFlowCallback = [](void *, NvrtcApi::FlowCallback callback, void *payload) {
    stub.flow_set++;
    stub.flow = callback;
    stub.payload = payload;
    return 0;
  };
  return api;
}

std::unique_ptr<Nvrtc> openStub(const NvrtcApi &api) {
  auto nvrtc = Nvrtc::with(api, {"/stub/libnvrtc.so", 1, 2});
  REQUIRE(nvrtc.ok());
  return nvrtc.take();
}

CompileRequest request() {
  CompileRequest request;
  request.source = "extern \"C\" __global__ void k() {}";
  request.target = findTarget("sm_90a");
  return request;
}

bool has(const std::vector<std::string> &list, const std::string &value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

} // namespace

TEST_CASE("the toolchain's name carries version, patch level and build") {
  auto nvrtc = openStub(stubApi());
  CHECK(nvrtc->major() == 13);
  auto toolchain = nvrtc->toolchain();
  REQUIRE(toolchain.ok());
  CHECK(*toolchain == "nvrtc 13.4.21 (CL-77)");
  CHECK(stub.created == 1);
  CHECK(stub.destroyed == 1);
}

TEST_CASE("failures are typed, named, and leave no program behind") {
  NvrtcApi api = stubApi();
  auto nvrtc = openStub(api);

  stub.create_result = 1;
  auto compiled = nvrtc->compile(request());
  CHECK(compiled.status().kind() == ErrorKind::Toolchain);
  CHECK(compiled.status().text().find("NVRTC_ERROR_OUT_OF_MEMORY") != std::string::npos);
  CHECK(stub.compiled == 0);

  stub.create_result = 0;
  stub.compile_result = 5;
  compiled = nvrtc->compile(request());
  CHECK(compiled.status().kind() == ErrorKind::Toolchain);
  CHECK(compiled.status().text().find("sm_90a: NVRTC_ERROR_OTHER\na log") != std::string::npos);
  CHECK(stub.name == "phasec_layer.cu");

  stub.compile_result = 0;
  stub.cubin_result = 4;
  CHECK(nvrtc->compile(request()).status().text().find("nvrtcGetCUBIN") != std::string::npos);
  stub.cubin_result = 0;
  CHECK(nvrtc->compile(request()).status().text().find("not a usable cubin") != std::string::npos);
  CHECK(stub.created == 3);
  CHECK(stub.destroyed == 3);
}

TEST_CASE("requests that would spoil key or bytes are refused before the compiler sees them") {
  auto nvrtc = openStub(stubApi());
  CompileRequest bad = request();
  bad.target = nullptr;
  CHECK(nvrtc->compile(bad).status().kind() == ErrorKind::Internal);
  bad = request();
  bad.program_name = "/tmp/x.cu";
  CHECK(nvrtc->compile(bad).status().kind() == ErrorKind::Internal);
  bad = request();
  bad.source = std::string_view("a\0b", 3);
  CHECK(nvrtc->compile(bad).status().kind() == ErrorKind::Internal);
  CHECK(stub.created == 0);
}

TEST_CASE("a target the library does not know is refused with the remedy") {
  NvrtcApi api = stubApi();
  api.archCount = [](int *count) { return *count = 2, 0; };
  api.archs = [](int *list) { return list[0] = 80, list[1] = 90, 0; };
  auto nvrtc = openStub(api);
  CompileRequest blackwell = request();
  blackwell.target = findTarget("sm_120a");
  auto compiled = nvrtc->compile(blackwell);
  CHECK(compiled.status().kind() == ErrorKind::Toolchain);
  CHECK(compiled.status().text().find("does not know sm_120a") != std::string::npos);
  CHECK(stub.created == 0);
  CHECK(nvrtc->compile(request()).status().text().find("cubin") != std::string::npos); // sm_90a goes through
}

TEST_CASE("too old a library, and one whose version call fails") {
  NvrtcApi api = stubApi();
  api.version = [](int *major, int *minor) { return *major = 11, *minor = 8, 0; };
  CHECK(Nvrtc::with(api, {}).status().text().find("11.8") != std::string::npos);
  api.version = [](int *, int *) { return 11; };
  CHECK(Nvrtc::with(api, {}).status().kind() == ErrorKind::Toolchain);
}

TEST_CASE("progress can cancel, is asked no more once it has, and is left out when it is empty or cannot be had") {
  NvrtcApi api = stubApi();
  auto nvrtc = openStub(api);
  int asked = 0;
  CompileRequest cancelling = request();
  cancelling.progress = [&](double seconds) { return seconds >= 0 && ++asked == 3; };
  auto compiled = nvrtc->compile(cancelling);
  CHECK(compiled.status().kind() == ErrorKind::Toolchain);
  CHECK(compiled.status().text().find("cancelled") != std::string::npos);
  CHECK(asked == 3);

  stub = Stub();
  (void)nvrtc->compile(request());
  CHECK(stub.flow_set == 0);

  api.setFlowCallback = nullptr;
  nvrtc = openStub(api);
  stub = Stub();
  (void)nvrtc->compile(cancelling);
  CHECK(stub.compiled == 1);
}

TEST_CASE("options: exact pins IEEE arithmetic; line tables and split compilation show") {
  auto exact = nvrtcArguments({});
  for (const char *option :
       {"--fmad=false", "--ftz=false", "--prec-div=true", "--prec-sqrt=true", "--ptxas-options=-v"})
    CHECK_MESSAGE(has(exact, option), option);
  CompileOptions options;
  options.exact = false;
  options.line_info = true;
  options.split_compile = 4;
  options.extra = {"-DX=1"};
  auto fast = nvrtcArguments(options);
  CHECK_FALSE(has(fast, "--fmad=false"));
  CHECK(has(fast, "-lineinfo"));
  CHECK(has(fast, "--split-compile=4"));
  CHECK(fast.back() == "-DX=1");
}
