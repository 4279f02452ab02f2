// runtime_calls.cpp: the life of a kernel besides its numbers: where it comes from, steps that it refuses, launches that
// the device refuses or breaks.
#include "runtime/state.h"
#include "tests/unit/runtime_support.h"

using namespace runtimetest;

namespace {

// A private member's pointer, by the one way the language has: an explicit instantiation may name it. These tests put a
// device between the runtime and the sim.
template <auto Member> struct StateOf {
  friend auto stateOf(Runtime &runtime) { return runtime.*Member; }
};
auto stateOf(Runtime &runtime);
template struct StateOf<&Runtime::state_>;
} // namespace

namespace {

/// A loaded kernel whose occupancy is said to be small.
class Small : public LoadedKernel {
public:
  Small(std::unique_ptr<LoadedKernel> inner, int resident) : inner_(std::move(inner)), resident_(resident) {}
  Result<int> residentCtas(const LaunchShape &) const override { return resident_; }
  const LoadedKernel &inner() const { return *inner_; }

private:
  std::unique_ptr<LoadedKernel> inner_;
  int resident_;
};

/// The sim, with a word in what it answers.
class Meddler : public Device {
public:
  explicit Meddler(std::unique_ptr<Device> inner) : inner_(std::move(inner)) {}
  int resident = 1024, fail_at = -1, launches = 0;
  ErrorKind failure = ErrorKind::Device;
  std::vector<LaunchShape> shapes;

  const DeviceInfo &info() const override { return inner_->info(); }
  Result<DevicePtr> allocate(int64_t bytes) override { return inner_->allocate(bytes); }
  void release(DevicePtr p) override { inner_->release(p); }
  Status upload(DevicePtr to, const void *from, int64_t bytes) override { return inner_->upload(to, from, bytes); }
  Status download(void *to, DevicePtr from, int64_t bytes) override { return inner_->download(to, from, bytes); }
  Status fill(DevicePtr to, uint8_t value, int64_t bytes) override { return inner_->fill(to, value, bytes); }
  Result<std::unique_ptr<LoadedKernel>> load(std::span<const uint8_t> image, const std::string &entry) override {
    PHASEC_ASSIGN(std::unique_ptr<LoadedKernel> kernel, inner_->load(image, entry));
    return std::unique_ptr<LoadedKernel>(new Small(std::move(kernel), resident));
  }
  Status launch(const LoadedKernel &kernel, const LaunchShape &shape, const void *args, size_t bytes, StreamHandle stream) override {
    shapes.push_back(shape);
    if (launches++ == fail_at) return {failure, "the meddler says no"};
    return inner_->launch(static_cast<const Small &>(kernel).inner(), shape, args, bytes, stream);
  }
  Status synchronize() override { return inner_->synchronize(); }
  Status mark(int slot, StreamHandle stream) override { return inner_->mark(slot, stream); }
  Result<double> elapsedMicroseconds(int from, int to) override { return inner_->elapsedMicroseconds(from, to); }
  LaunchCounters counters() const override { return inner_->counters(); }

private:
  std::unique_ptr<Device> inner_;
};

/// A session over a meddler.
struct Meddled {
  Session session;
  Meddler *device;

  static Meddled make(const Layers &layers, const std::string &settings, int resident) {
    Setup setup;
    setup.settings = settings;
    auto runtime = Runtime::open(runtimeOptions(setup));
    REQUIRE_MESSAGE(runtime.ok(), runtime.status().text());
    auto state = stateOf(*runtime);
    auto meddler = std::make_unique<Meddler>(std::move(state->device));
    Meddler *device = meddler.get();
    device->resident = resident;
    state->device = std::move(meddler);
    auto kernel = runtime->prepare(layers, scheduleOf(settings));
    REQUIRE_MESSAGE(kernel.ok(), kernel.status().text());
    return {Session{layers, runtime.take(), kernel.take()}, device};
  }
};

void upload(Session &s, const Ready &r, const char *name, const std::vector<int32_t> &values) {
  REQUIRE(s.device().upload(r.staging->buffers().arrays.at(name).address, values.data(), int64_t(values.size() * 4)).ok());
}

} // namespace

TEST_CASE("cache: a miss compiles, the same runtime then hits memory, another one the user file") {
  TemporaryDir dir;
  Setup setup;
  setup.cache = dir.text();
  Layers layers = readExample("tiny_wo_harness");
  auto first = Session::open(layers, setup);
  REQUIRE_MESSAGE(first.ok(), first.status().text());
  CHECK(first->kernel.miss().has_value());
  CHECK(first->kernel.compileMicroseconds() > 0);
  auto again = first->runtime.prepare(layers, scheduleOf(""));
  REQUIRE(again.ok());
  CHECK_FALSE(again->miss().has_value());
  CHECK(again->provenance().layer == CacheLayer::Memory);
  CHECK(again->key() == first->kernel.key());
  CHECK(again->compileMicroseconds() == 0);
  auto other = Session::open(layers, setup);
  REQUIRE(other.ok());
  CHECK_FALSE(other->kernel.miss().has_value());
  CHECK(other->kernel.provenance().layer == CacheLayer::User);
  CHECK(other->kernel.provenance().path == userFile(dir.text()));
  CHECK(other->runtime.cache().counters().compiles == 0);
  CHECK(runStep(*other, {{1}, {3}}) == "");

  // Another split is another key, and the nearest entry explains it.
  auto explanation = other->runtime.explain(layers, scheduleOf("wo_split=4"));
  REQUIRE(explanation.ok());
  CHECK_FALSE(explanation->hit.has_value());
  REQUIRE_FALSE(explanation->miss.reasons.empty());
  CHECK(explanation->miss.reasons.front().text() == "wo_split 1 -> 4");
  CHECK(other->runtime.cache().counters().misses == 0); // asking counts nothing
}

TEST_CASE("jit = off and a sealed runtime: a miss is CacheMiss with the explanation, a hit is a hit") {
  TemporaryDir dir;
  Setup setup;
  setup.cache = dir.text();
  Layers layers = readExample("tiny_wo_harness");
  auto first = Session::open(layers, setup);
  REQUIRE(first.ok());
  RuntimeOptions options = runtimeOptions(setup);
  options.jit = Jit::Off;
  auto runtime = Runtime::open(options);
  REQUIRE(runtime.ok());
  CHECK(runtime->prepare(layers, scheduleOf("")).ok());
  auto miss = runtime->prepare(layers, scheduleOf("wo_split=8"));
  REQUIRE_FALSE(miss.ok());
  CHECK(miss.status().kind() == ErrorKind::CacheMiss);
  CHECK(contains(miss.status().text(), "jit = off"));
  CHECK(contains(miss.status().text(), "wo_split 1 -> 8"));
  CHECK(runtime->cache().counters().compiles == 0);

  first->runtime.seal();
  CHECK(first->runtime.prepare(layers, scheduleOf("")).ok());
  auto sealed = first->runtime.prepare(layers, scheduleOf("wo_split=8"));
  REQUIRE_FALSE(sealed.ok());
  CHECK(sealed.status().kind() == ErrorKind::CacheMiss);
  CHECK(contains(sealed.status().text(), "sealed"));
}

TEST_CASE("a plan that does not prove is not compiled, unless the host takes the blame") {
  Layers layers = readExample("tiny_mlp_only");
  TemporaryDir dir; // what is cached is not proved again
  Setup setup;
  setup.cache = dir.text();
  setup.settings = "ctas=4000 warps=2";
  auto session = Session::open(layers, setup);
  REQUIRE_FALSE(session.ok());
  CHECK(session.status().kind() == ErrorKind::Proof);
  CHECK(contains(session.status().text(), "ctas = 4000"));
  setup.prove = false;
  session = Session::open(layers, setup);
  REQUIRE_MESSAGE(session.ok(), session.status().text());
  auto ready = Ready::make(*session, {{1}, {1}}); // the device's own word comes last
  REQUIRE_FALSE(ready.ok());
  CHECK(ready.status().kind() == ErrorKind::Refused);
  CHECK(contains(ready.status().text(), "4000 CTAs cannot be resident"));
  CHECK(contains(ready.status().text(), "on_refusal = split"));
}

TEST_CASE("steps with no tokens or too many are refused by the kernel, counted, and write nothing") {
  Layers layers = readExample("tiny_qwen35_27b");
  auto session = Session::open(layers, Setup{});
  REQUIRE_MESSAGE(session.ok(), session.status().text());
  auto ready = Ready::make(*session, {{65}, {3}});
  REQUIRE_MESSAGE(ready.ok(), ready.status().text());
  auto before = ready->staging->download();
  REQUIRE(before.ok());
  int refused = 0;
  for (std::vector<int32_t> counts : {std::vector<int32_t>{0, 1}, {9, 1}, {-1, 1}, {1 << 30, 1}, {3, 4}, {3, -1}}) {
    upload(*session, *ready, "step.counts", counts);
    REQUIRE(ready->bound->launch().ok());
    INFO("tokens ", counts[0], ", sequences ", counts[1]);
    auto count = ready->bound->refusedSteps();
    REQUIRE(count.ok());
    CHECK(*count == ++refused);
    auto after = ready->staging->download();
    REQUIRE(after.ok());
    CHECK(*after == *before);
  }
  // The next good step is right: the refused ones touched no event.
  upload(*session, *ready, "step.counts", ready->inputs->counts);
  REQUIRE(ready->bound->launch().ok());
  auto check = ready->check(*session);
  REQUIRE_MESSAGE(check.ok(), check.status().text());
  CHECK_MESSAGE(check->findings.empty(), firstOf(*check));
  CHECK(*ready->bound->refusedSteps() == refused);
}

TEST_CASE("lengths and page tables may change between launches of one binding") {
  Layers layers = readExample("tiny_qwen35_27b");
  auto session = Session::open(layers, Setup{});
  REQUIRE_MESSAGE(session.ok(), session.status().text());
  auto ready = Ready::make(*session, {{65, 40}, {3, 2}});
  REQUIRE_MESSAGE(ready.ok(), ready.status().text());
  HostInputs &in = *ready->inputs;
  REQUIRE(ready->bound->launch().ok());
  // Shorter contexts, tokens divided otherwise; the rows between are in the cache already.
  auto downloaded = ready->staging->download();
  REQUIRE(downloaded.ok());
  in.caches = downloaded->caches;
  in.seq_context = {20, 40};
  in.seq_first = {0, 1, 2};
  in.counts = {2, 2};
  for (auto &[name, values] : {std::pair<const char *, std::vector<int32_t> &>{"step.counts", in.counts}, {"step.seq_first", in.seq_first}, {"step.seq_context", in.seq_context}})
    upload(*session, *ready, name, values);
  REQUIRE(ready->staging->wipeOutputs().ok());
  REQUIRE(ready->bound->launch().ok());
  auto check = ready->check(*session);
  REQUIRE_MESSAGE(check.ok(), check.status().text());
  CHECK_MESSAGE(check->findings.empty(), firstOf(*check));
}

TEST_CASE("on_refusal = split: a grid that does not fit runs kernel by kernel, counted, with the same bits") {
  for (const char *name : {"tiny_qwen35_27b", "tiny_stack", "tiny_mixed_stack", "tiny_wo_harness", "tiny_llama32_1b"}) {
    INFO(name);
    Layers layers = readExample(name);
    Feed step{{65, 3}, {2, 1}, 5, false};
    Meddled whole = Meddled::make(layers, "wo_split=2 kv_splits=1", 1024);
    auto a = Ready::make(whole.session, step);
    REQUIRE_MESSAGE(a.ok(), a.status().text());
    for (int i = 0; i < 3; i++) REQUIRE(a->bound->launch().ok());
    CHECK(a->bound->splitLaunches() == 0);
    CHECK(whole.device->launches == 3);

    Meddled refused = Meddled::make(layers, "wo_split=2", 1);
    auto none = Ready::make(refused.session, step);
    REQUIRE_FALSE(none.ok());
    CHECK(none.status().kind() == ErrorKind::Refused);
    CHECK(contains(none.status().text(), "(1 fit)"));

    Meddled split = Meddled::make(layers, "wo_split=2 kv_splits=1 on_refusal=split", 1);
    auto b = Ready::make(split.session, step);
    REQUIRE_MESSAGE(b.ok(), b.status().text());
    for (int i = 0; i < 3; i++) {
      Status s = b->bound->launch();
      REQUIRE_MESSAGE(s.ok(), s.text());
    }
    CHECK(b->bound->splitLaunches() == 3);
    size_t events = 0, tagged = 0;
    const Plan &p = split.session.kernel.plan();
    for (const Instance &i : p.instances) {
      events += p.bodies[size_t(i.body)].events.size();
      for (const Step &s : p.bodies[size_t(i.body)].steps) tagged += s.gemv.fold == Fold::Tagged;
    }
    CHECK((tagged > 0) == (std::string(name) != "tiny_wo_harness")); // one kernel per event, one that adds tagged slots, one more per instance
    CHECK(split.device->launches == 3 * int(events + tagged + p.instances.size()));
    for (const LaunchShape &shape : split.device->shapes) CHECK_FALSE(shape.cooperative);
    auto x = a->staging->download(), y = b->staging->download();
    REQUIRE(x.ok());
    REQUIRE(y.ok());
    CHECK(*x == *y);
    auto check = b->check(split.session);
    REQUIRE_MESSAGE(check.ok(), check.status().text());
    CHECK_MESSAGE(check->findings.empty(), firstOf(*check));
  }
}

TEST_CASE("on_refusal = split: chunks that CTAs wait for inside a kernel need all of them at once, so more than one is refused") {
  Feed step{{700}, {1}, 5, false};
  for (const char *name : {"tiny_qwen35_27b", "tiny_attn_only"}) {
    INFO(name);
    Meddled m = Meddled::make(readExample(name), "kv_splits=2 on_refusal=split", 1);
    auto none = Ready::make(m.session, step);
    REQUIRE_FALSE(none.ok());
    CHECK(none.status().kind() == ErrorKind::Refused);
    for (const char *part : {"wait for each other inside attention", "1 of 4 fit", "set kv_splits = 1, or ctas <= 1"}) CHECK(contains(none.status().text(), part));
    Meddled all = Meddled::make(readExample(name), "kv_splits=2 on_refusal=split", 1024);
    CHECK(Ready::make(all.session, step).ok());
  }
  Meddled none = Meddled::make(readExample("tiny_mlp_only"), "on_refusal=split", 1);
  CHECK(Ready::make(none.session, step).ok());
}

TEST_CASE("a failed launch poisons its workspace: bind again; a refusal before anything ran does not") {
  Layers layers = readExample("tiny_wo_harness");
  Meddled m = Meddled::make(layers, "wo_split=2", 1024);
  auto ready = Ready::make(m.session, {{1}, {2}});
  REQUIRE_MESSAGE(ready.ok(), ready.status().text());
  m.device->failure = ErrorKind::Refused;
  m.device->fail_at = 0;
  CHECK(ready->bound->launch().kind() == ErrorKind::Refused);
  CHECK(ready->bound->launch().ok());
  m.device->failure = ErrorKind::Device;
  m.device->fail_at = m.device->launches;
  CHECK(ready->bound->launch().kind() == ErrorKind::Device);
  m.device->fail_at = -1;
  Status poisoned = ready->bound->launch();
  CHECK(poisoned.kind() == ErrorKind::Device);
  CHECK(contains(poisoned.text(), "bind again"));
  auto bound = m.session.kernel.bind(ready->staging->buffers());
  REQUIRE(bound.ok());
  CHECK(bound->launch().ok());
  auto check = ready->check(m.session);
  REQUIRE(check.ok());
  CHECK(check->findings.empty());
}

TEST_CASE("a workspace of the host's is used and cleared at bind: nothing of an earlier binding passes for this one's") {
  Layers layers = readExample("tiny_qwen35_27b");
  Setup setup;
  setup.sim_ctas = 7;
  auto session = Session::open(layers, setup);
  REQUIRE_MESSAGE(session.ok(), session.status().text());
  auto ready = Ready::make(*session, {{65}, {4}});
  REQUIRE(ready.ok());
  auto other = Ready::make(*session, {{30}, {4}, 77});
  REQUIRE(other.ok());
  auto workspace = session->device().allocate(session->kernel.workspaceBytes());
  REQUIRE(workspace.ok());
  REQUIRE(session->device().fill(*workspace, 0xff, session->kernel.workspaceBytes()).ok());
  Buffers buffers = ready->staging->buffers();
  Buffers before = other->staging->buffers();
  buffers.workspace = before.workspace = *workspace;
  auto bound = session->kernel.bind(before);
  REQUIRE_MESSAGE(bound.ok(), bound.status().text());
  REQUIRE(bound->launch().ok());
  bound = session->kernel.bind(buffers);
  REQUIRE_MESSAGE(bound.ok(), bound.status().text());
  REQUIRE(bound->launch().ok());
  auto check = ready->check(*session);
  REQUIRE(check.ok());
  CHECK_MESSAGE(check->findings.empty(), firstOf(*check));
}

TEST_CASE("a schedule that says nothing gets math = fast; the sim runs any target's source") {
  Layers layers = readExample("tiny_mlp_only");
  auto runtime = Runtime::open(runtimeOptions(Setup{}));
  REQUIRE(runtime.ok());
  auto fast = runtime->prepare(layers, Schedule());
  REQUIRE_MESSAGE(fast.ok(), fast.status().text());
  CHECK(fast->plan().schedule.word("math") == "fast");
  for (const char *math : {"fast", "exact"}) CHECK(runtime->prepare(layers, scheduleOf(std::string("target=sm_80 math=") + math)).ok());
}
