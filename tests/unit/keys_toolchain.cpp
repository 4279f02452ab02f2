// keys_toolchain.cpp: the toolchain is recorded, not keyed: whose rows will do is a matter of policy, and a hit never
// asks the compiler who it is. The compilers are copies of a stub that calls itself what the test says.
#include "phasec/runtime.h"
#include "tests/cache/support.h"

#include <doctest/doctest.h>

using namespace phasec;
using namespace phasec::test;

namespace {

struct Machine {
  TempDir dir;
  Layers layers = Layers::read(PHASEC_SOURCE_DIR "/examples/layers/tiny_mlp_only.phase").take();
  ToolchainPolicy user_policy = ToolchainPolicy::Match;
  std::vector<BlessedFile> blessed;

  Machine() { setenv("STUB_NVRTC_CALLS", (dir / "calls").c_str(), 1); }
  ~Machine() { unsetenv("STUB_NVRTC_CALLS"); }

  /// A library file of its own, and how it will call itself.
  std::string library(const std::string &name, const char *build) const {
    setenv("STUB_NVRTC_BUILD", build, 1);
    std::string path = dir / (name + ".so");
    if (!std::filesystem::exists(path)) std::filesystem::copy_file(PHASEC_BUILD_DIR "/tests/phasec_stub_nvrtc.so", path);
    return path;
  }
  Runtime open(const std::string &nvrtc) const {
    RuntimeOptions options;
    options.device = DeviceChoice::None;
    options.nvrtc_path = nvrtc;
    options.cache.user_dir = dir / "user";
    options.cache.user_policy = user_policy;
    options.cache.blessed = blessed;
    return Runtime::open(options).take();
  }
  static Schedule schedule() {
    Schedule s;
    REQUIRE(s.set("math", "exact", Origin::Host).ok());
    return s;
  }
  /// "compiled CL-1" or "user CL-2": where a kernel came from, and whose it is.
  std::string serve(const std::string &nvrtc) const {
    Result<Kernel> kernel = open(nvrtc).prepare(layers, schedule());
    REQUIRE_MESSAGE(kernel.ok(), kernel.status().text());
    const Hit &hit = kernel->provenance();
    const std::string &toolchain = hit.artefact->toolchain;
    return std::string(name(hit.layer)) + " " + toolchain.substr(toolchain.find('(') + 1, 4);
  }
  size_t calls() const {
    std::string text = readFile(dir / "calls");
    return size_t(std::count(text.begin(), text.end(), '\n'));
  }
};

} // namespace

TEST_CASE_FIXTURE(Machine, "match: an upgraded compiler makes its own kernels, which lie beside the old ones") {
  CHECK(serve(library("old", "CL-1")) == "compiled CL-1");
  CHECK(serve(library("old", "CL-1")) == "user CL-1");
  CHECK(calls() == 1);
  {
    Runtime upgraded = open(library("new", "CL-2"));
    Miss miss = upgraded.explain(layers, schedule())->miss;
    REQUIRE(miss.reasons.size() == 1);
    CHECK(miss.reasons[0].section == "toolchain");
    CHECK(miss.reasons[0].from == "nvrtc 13.0.88 (CL-1)");
    CHECK(calls() == 1); // explaining opens no compiler, so of the new one its file is what can be named
    CHECK(miss.reasons[0].to.find("new.so") != std::string::npos);
  }
  CHECK(serve(library("new", "CL-2")) == "compiled CL-2");
  CHECK(serve(library("new", "CL-2")) == "user CL-2");
  CHECK(serve(library("old", "CL-1")) == "user CL-1");
  CHECK(calls() == 2);
  CHECK(open(library("old", "CL-1")).explain(layers, schedule())->hit);
}

TEST_CASE_FIXTURE(Machine, "match: the same compiler under another name costs one compile, whose bytes are not used") {
  CHECK(serve(library("here", "CL-1")) == "compiled CL-1");
  auto payload = [&] { return listEntries(userFile(dir / "user"))->front().checksum; };
  std::string before = payload();
  CHECK(serve(library("there", "CL-1")) == "compiled CL-1");
  CHECK(calls() == 2);
  CHECK(listEntries(userFile(dir / "user"))->size() == 1);
  CHECK(payload() == before);
  CHECK(serve(library("there", "CL-1")) == "user CL-1");
  CHECK(calls() == 2);
}

TEST_CASE_FIXTURE(Machine, "any: nobody asks whose it is; no compiler: neither") {
  CHECK(serve(library("old", "CL-1")) == "compiled CL-1");
  CHECK(serve("/nonexistent/libnvrtc.so") == "user CL-1");
  user_policy = ToolchainPolicy::Any;
  CHECK(serve(library("new", "CL-2")) == "user CL-1");
  REQUIRE(mergeStores({userFile(dir / "user")}, dir / "b.db").ok());
  user_policy = ToolchainPolicy::Match;
  blessed = {{dir / "b.db", ""}}; // any is what blessed files start with
  CHECK(serve(library("new", "CL-2")) == "blessed CL-1");
  CHECK(calls() == 1);
}
