// bless_serving.cpp: a blessed file serves without a compiler, and what it lacks is refused with the line that would
// have blessed it: under jit = off, after seal(), and while a stream is being captured.
#include "runtime/device.h"
#include "runtime/manifest.h"

#include "phasec/runtime.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

using namespace phasec;
namespace fs = std::filesystem;

namespace {

struct FakeState {
  bool capturing = false;
  int loads = 0, alive = 0;
};

struct FakeKernel : LoadedKernel {
  FakeState &state;
  explicit FakeKernel(FakeState &s) : state(s) { state.loads++, state.alive++; }
  ~FakeKernel() override { state.alive--; }
  Result<int> residentCtas(const LaunchShape &) const override { return 132; }
};

/// A GPU that loads anything and is being captured when the test says so.
class FakeDevice : public Device {
public:
  explicit FakeDevice(FakeState &state) : state_(state) {
    info_.device = "cuda";
    info_.name = "fake H200";
    info_.target = "sm_90a";
    info_.sms = 132;
  }
  const DeviceInfo &info() const override { return info_; }
  Result<DevicePtr> allocate(int64_t) override { return DevicePtr(256); }
  void release(DevicePtr) override {}
  Status upload(DevicePtr, const void *, int64_t) override { return {}; }
  Status download(void *, DevicePtr, int64_t) override { return {}; }
  Status fill(DevicePtr, uint8_t, int64_t) override { return {}; }
  Result<std::unique_ptr<LoadedKernel>> load(std::span<const uint8_t> , const std::string &) override {
    return std::unique_ptr<LoadedKernel>(new FakeKernel(state_));
  }
  Status launch(const LoadedKernel &, const LaunchShape &, const void *, size_t, StreamHandle) override { return {}; }
  Status synchronize() override { return {}; }
  Status mark(int, StreamHandle) override { return {}; }
  Result<double> elapsedMicroseconds(int, int) override { return 0.0; }
  Result<bool> capturing(StreamHandle) const override { return state_.capturing; }

private:
  FakeState &state_;
  DeviceInfo info_;
};

/// A blessed file with one kernel that no compiler has seen: what serving needs is its key.
struct Fixture {
  fs::path path;
  Layers layers = Layers::read(std::string(PHASEC_SOURCE_DIR) + "/examples/layers/tiny_mlp_only.phase").take();
  FakeState fake;
  RuntimeOptions options;

  Fixture() {
    char name[] = "/tmp/phasec-serving-XXXXXX";
    path = mkdtemp(name);
    options.nvrtc_path = "/nonexistent/libnvrtc.so";
    options.device = DeviceChoice::None;
    Compiled compiled;
    Runtime::Explanation e = Runtime::open(options)->explain(layers, schedule()).take();
    compiled.artefact.key = e.key;
    compiled.artefact.toolchain = "nvrtc 13.0.88 (test)";
    compiled.artefact.layer = layers.name();
    compiled.artefact.target = "sm_90a";
    compiled.artefact.sections = e.sections;
    compiled.artefact.payload = {1, 2, 3, 4, 5};
    REQUIRE(writeBlessed(file(), {compiled}).ok());
    fs::permissions(path, fs::perms(0555));
    options.cache.blessed = {{file(), ""}};
    options.cache.strict = true;
    options.jit = Jit::Off;
  }
  ~Fixture() {
    fs::permissions(path, fs::perms(0755));
    fs::remove_all(path);
  }
  std::string file() const { return (path / "blessed.db").string(); }
  static Schedule schedule(const char *tokens_max = "4") {
    Schedule s;
    REQUIRE(s.set("target", "sm_90a", Origin::Host).ok());
    REQUIRE(s.set("math", "exact", Origin::Host).ok());
    REQUIRE(s.set("tokens_max", tokens_max, Origin::Host).ok());
    return s;
  }
  Runtime runtime() { return Runtime::with(options, std::make_unique<FakeDevice>(fake)).take(); }
};

/// The manifest line inside an error's text must bless exactly the kernel that was refused.
void checkLine(const Status &status, const Layers &layers, const Key &key) {
  size_t at = status.text().find("  " + layers.module().path + " ir=");
  REQUIRE(at != std::string::npos);
  std::string line = status.text().substr(at, status.text().find('\n', at) - at);
  Result<std::vector<ManifestLine>> lines = parseManifest("m", line);
  REQUIRE(lines.ok());
  REQUIRE(lines->size() == 1);
  CHECK((*lines)[0].key == key);
  CHECK((*lines)[0].target == "sm_90a");
  CHECK((*lines)[0].ir_digest == layers.digest());
}

} // namespace

TEST_CASE_FIXTURE(Fixture, "serving: a blessed hit needs no compiler, and none is mapped") {
  Runtime r = runtime();
  Result<Kernel> kernel = r.prepare(layers, schedule());
  REQUIRE_MESSAGE(kernel.ok(), kernel.status().text());
  CHECK(kernel->provenance().layer == CacheLayer::Blessed);
  CHECK(kernel->provenance().path == file());
  CHECK_FALSE(kernel->miss());
  std::ifstream maps("/proc/self/maps");
  std::ostringstream text;
  text << maps.rdbuf();
  CHECK(text.str().find("/") != std::string::npos);
  CHECK(text.str().find("libnvrtc") == std::string::npos);
  CHECK(r.cache().counters().compiles == 0);
}

TEST_CASE_FIXTURE(Fixture, "serving: a miss under jit = off and after seal() carries the line that blesses it") {
  {
    Runtime r = runtime();
    Key key = r.explain(layers, schedule("2"))->key;
    Status status = r.prepare(layers, schedule("2")).status();
    CHECK(status.kind() == ErrorKind::CacheMiss);
    CHECK(status.text().find("jit = off") == 0);
    CHECK(status.text().find("tokens_max 4 -> 2") != std::string::npos);
    checkLine(status, layers, key);
  }
  options.jit = Jit::On;
  Runtime r = runtime();
  r.seal();
  Status status = r.prepare(layers, schedule("2")).status();
  CHECK(status.text().find("sealed") == 0);
  checkLine(status, layers, r.explain(layers, schedule("2"))->key);
}

TEST_CASE_FIXTURE(Fixture, "capture: neither compiles nor loads, and shares what is loaded") {
  options.jit = Jit::On;
  Runtime r = runtime();
  fake.capturing = true;

  Status miss = r.prepare(layers, schedule("2"), nullptr).status();
  CHECK(miss.kind() == ErrorKind::CacheMiss);
  CHECK(miss.text().find("captured") != std::string::npos);
  checkLine(miss, layers, r.explain(layers, schedule("2"))->key);
  CHECK(r.cache().counters().compiles == 0);

  Status cold = r.prepare(layers, schedule(), nullptr).status();
  CHECK(cold.kind() == ErrorKind::CacheMiss);
  CHECK(cold.text().find("not loaded") != std::string::npos);
  CHECK(fake.loads == 0);

  fake.capturing = false;
  {
    Result<Kernel> warm = r.prepare(layers, schedule(), nullptr);
    REQUIRE(warm.ok());
    fake.capturing = true;
    Result<Kernel> again = r.prepare(layers, schedule(), nullptr);
    REQUIRE(again.ok());
    CHECK(again->key() == warm->key());
    CHECK(fake.loads == 1);
    CHECK(fake.alive == 1);
  }
  CHECK(fake.alive == 0);
  CHECK(r.prepare(layers, schedule(), nullptr).status().kind() == ErrorKind::CacheMiss);
  CHECK(r.prepare(layers, schedule()).ok()); // without a stream nobody asks
}

TEST_CASE_FIXTURE(Fixture, "cancellation: a host that has had enough gets an error, not a kernel") {
  options.jit = Jit::On;
  options.cancelled = [] { return true; };
  Status status = runtime().prepare(layers, schedule("2")).status();
  CHECK(status.kind() == ErrorKind::Toolchain);
  CHECK(status.text().find("cancelled") != std::string::npos);
}
