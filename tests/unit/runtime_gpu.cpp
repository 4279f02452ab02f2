// runtime_gpu.cpp: layers on a real GPU: bit-exact, equal to the sim, the same bytes 10,000 times and as graph replays with
// lengths and page tables changed between them. Skipped by name, with the loader's message, where there is no GPU or no
// NVRTC. The suite "slow" has the full-size layers.
#include "runtime/cuda/graph.h"
#include "runtime/sim/compiler.h"
#include "tests/unit/pack_support.h"
#include "tests/unit/skip.h"

using namespace runtimetest;

namespace {

/// Before any assertion, so that a program of skipped tests is seen as skipped.
bool available() {
  const char *path = std::getenv("PHASEC_CUDA");
  static const Status status = openCuda(path ? path : "").status();
  if (!status.ok()) test::skip(status.text());
  return status.ok();
}

/// A session on the GPU, or a skip.
std::optional<Session> gpuSession(const Layers &layers, const std::string &settings) {
  Setup setup;
  setup.settings = settings;
  setup.device = DeviceChoice::Cuda;
  auto session = Session::open(layers, setup);
  if (!session.ok()) {
    bool absent = session.status().kind() == ErrorKind::Device || contains(session.status().text(), "libnvrtc");
    REQUIRE_MESSAGE(absent, session.status().text());
    test::skip(session.status().text());
    return std::nullopt;
  }
  return session.take();
}

/// Whether the sim can compile here, too.
bool simulates() {
  const char *path = std::getenv("PATH");
  return findHostCompiler("", path ? path : "").ok();
}

} // namespace

TEST_CASE("gpu: weights are packed as on the host") {
  if (!available()) return;
  std::vector<Layers> all = raggedLayers();
  for (const std::string &name : examples(true)) all.push_back(readExample(name));
  int weights = 0;
  for (const Layers &layers : all) {
    auto session = gpuSession(layers, "");
    if (!session) return;
    PackedAlike alike = packedAlike(*session);
    CHECK_MESSAGE(alike.wrong.empty(), layers.name(), ": ", alike.wrong);
    weights += alike.weights;
  }
  CHECK(weights > 20);
}

TEST_CASE("gpu: every tiny layer at every split is bit-exact, and has the sim's bits") {
  if (!available()) return;
  bool compare = simulates();
  if (!compare) MESSAGE("no host compiler here: compared with the reference alone");
  for (const std::string &name : examples(true)) {
    Layers layers = readExample(name);
    for (const std::string &settings : splitSettings(layers)) {
      auto session = gpuSession(layers, settings);
      if (!session) return;
      for (const Feed &step : coveringSteps()) {
        Downloaded on_gpu;
        std::string wrong = runStep(*session, step, &on_gpu);
        CHECK_MESSAGE(wrong.empty(), name, " ", settings, " ", step.text(), ": ", wrong);
      }
      if (!compare) continue;
      Setup setup;
      setup.settings = settings;
      auto sim = Session::open(layers, setup);
      REQUIRE_MESSAGE(sim.ok(), sim.status().text());
      CHECK(sim->kernel.sourceDigest() == session->kernel.sourceDigest());
      Feed step{{63, 65}, {2, 1}, 12, true};
      Downloaded a, b;
      CHECK(runStep(*session, step, &a) == "");
      CHECK(runStep(*sim, step, &b) == "");
      CHECK_MESSAGE(a == b, name, " ", settings);
    }
  }
}

TEST_CASE("gpu: 10,000 launches give identical bytes") {
  if (!available()) return;
  for (const char *name : {"tiny_qwen35_27b", "tiny_mixed_stack"}) {
    Layers layers = readExample(name);
    auto session = gpuSession(layers, "wo_split=8");
    if (!session) return;
    auto ready = Ready::make(*session, {{300, 65}, {2, 3}});
    REQUIRE_MESSAGE(ready.ok(), ready.status().text());
    std::optional<Downloaded> first;
    for (int round = 0; round < 20; round++) {
      REQUIRE(ready->staging->wipeOutputs().ok());
      for (int i = 0; i < 500; i++) REQUIRE(ready->bound->launch().ok());
      REQUIRE(session->device().synchronize().ok());
      auto results = ready->staging->download();
      REQUIRE(results.ok());
      if (!first) first = *results;
      REQUIRE(*results == *first);
    }
    auto check = ready->check(*session);
    REQUIRE_MESSAGE(check.ok(), check.status().text());
    CHECK_MESSAGE(check->findings.empty(), firstOf(*check));
    CHECK(*ready->bound->refusedSteps() == 0);
  }
}

TEST_CASE("gpu: a captured graph replays 10,000 times, with lengths and page tables changed between replays") {
  if (!available()) return;
  Layers layers = readExample("tiny_qwen35_27b");
  auto session = gpuSession(layers, "wo_split=4");
  if (!session) return;
  auto ready = Ready::make(*session, {{300, 65}, {3, 2}});
  REQUIRE_MESSAGE(ready.ok(), ready.status().text());
  auto &device = static_cast<cuda::CudaDevice &>(session->device());
  auto made = cuda::Stream::create(device);
  REQUIRE(made.ok());
  cuda::Stream stream = made.take();
  REQUIRE(stream.beginCapture().ok());
  for (int i = 0; i < 4; i++) REQUIRE(ready->bound->launch(stream.handle()).ok());
  auto captured = stream.endCapture();
  REQUIRE_MESSAGE(captured.ok(), captured.status().text());
  cuda::Graph graph = captured.take();
  HostInputs &in = *ready->inputs;
  std::vector<int32_t> table = in.page_table;
  const std::vector<std::vector<int32_t>> contexts = {{300, 65}, {20, 64}, {299, 0}, {300, 65}}, firsts = {{0, 3, 5}, {0, 1, 2}, {0, 4, 6}, {0, 3, 5}};
  for (size_t round = 0; round < contexts.size(); round++) {
    auto results = ready->staging->download();
    REQUIRE(results.ok());
    in.caches = results->caches; // what earlier rounds appended is there now
    in.seq_context = contexts[round];
    in.seq_first = firsts[round];
    in.counts = {in.seq_first.back(), 2};
    in.page_table = table;
    if (round == 1) // sequences 0 and 1 change their first page
      std::swap(in.page_table[0], in.page_table[size_t(in.page_stride)]);
    const std::pair<const char *, const std::vector<int32_t> *> arrays[] = {
        {"step.counts", &in.counts}, {"step.seq_first", &in.seq_first}, {"step.seq_context", &in.seq_context}, {"step.page_table", &in.page_table}};
    for (auto [name, values] : arrays)
      REQUIRE(device.upload(ready->staging->buffers().arrays.at(name).address, values->data(), int64_t(values->size() * 4)).ok());
    REQUIRE(ready->staging->wipeOutputs().ok());
    REQUIRE(stream.replay(graph, 625).ok());
    REQUIRE(stream.synchronize().ok());
    auto check = ready->check(*session);
    REQUIRE_MESSAGE(check.ok(), check.status().text());
    CHECK_MESSAGE(check->findings.empty(), "round ", round, ": ", firstOf(*check));
  }
}

TEST_CASE("gpu: a step of too many tokens is refused and counted, and the next one is right") {
  if (!available()) return;
  Layers layers = readExample("tiny_llama31_8b");
  auto session = gpuSession(layers, "wo_split=2");
  if (!session) return;
  auto ready = Ready::make(*session, {{65}, {3}});
  REQUIRE_MESSAGE(ready.ok(), ready.status().text());
  std::vector<int32_t> counts = {9, 1};
  uint64_t address = ready->staging->buffers().arrays.at("step.counts").address;
  REQUIRE(session->device().upload(address, counts.data(), 8).ok());
  REQUIRE(ready->bound->launch().ok());
  CHECK(*ready->bound->refusedSteps() == 1);
  REQUIRE(session->device().upload(address, ready->inputs->counts.data(), 8).ok());
  REQUIRE(ready->bound->launch().ok());
  REQUIRE(session->device().synchronize().ok());
  auto check = ready->check(*session);
  REQUIRE_MESSAGE(check.ok(), check.status().text());
  CHECK_MESSAGE(check->findings.empty(), firstOf(*check));
}

TEST_SUITE_BEGIN("slow");

TEST_CASE("gpu: full-size layers are bit-exact over splits, contexts and tokens") {
  if (!available()) return;
  for (const std::string &name : examples()) {
    if (name.rfind("tiny_", 0) == 0) continue;
    Layers layers = readExample(name);
    for (const std::string &settings : splitSettings(layers)) {
      if (settings == "wo_split=32") continue;
      auto session = gpuSession(layers, settings);
      if (!session) return;
      for (int context : {1, 65, 4096})
        for (int tokens : {1, 8}) {
          std::string wrong = runStep(*session, {{context}, {tokens}, 7, true});
          CHECK_MESSAGE(wrong.empty(), name, " ", settings, " context ", context, " tokens ", tokens, ": ", wrong);
        }
    }
  }
}

TEST_SUITE_END();
