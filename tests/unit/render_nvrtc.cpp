// render_nvrtc.cpp: every target's real compiler takes what is rendered, without spills. Skipped by name where
// there is no libnvrtc. The suite "slow" has all layers on all targets and all splits.
#include "compiler/nvrtc.h"
#include "compiler/render.h"
#include "tests/unit/layer_support.h"
#include "tests/unit/skip.h"

#include <atomic>
#include <cstdlib>
#include <mutex>
#include <thread>

using namespace layertest;

namespace {

const Templates &embedded() {
  static const Templates templates = Templates::embedded();
  return templates;
}

Nvrtc *nvrtc() {
  static Result<std::unique_ptr<Nvrtc>> opened = [] {
    NvrtcSearch search;
    if (const char *path = std::getenv("PHASEC_NVRTC")) search.explicit_path = path;
    return Nvrtc::open(search);
  }();
  if (!opened.ok()) test::skip(opened.status().text());
  return opened.ok() ? opened->get() : nullptr;
}

struct Job {
  std::string layer, settings, target, math;
  int stacked = 1; ///< so many of the layer in one launch
};

/// What is wrong with one compile; empty when it is as it must be.
std::string compileOne(const Job &job) {
  std::string what = job.layer + " " + job.settings + " " + job.target + " " + job.math + ": ";
  std::string text = fileText(examplePath(job.layer));
  if (job.stacked > 1) text += "\nstack @stacked { @" + job.layer + " * " + std::to_string(job.stacked) + " }\n";
  auto layers = Layers::parse(job.layer + ".phase", text);
  if (!layers.ok()) return what + layers.status().text();
  Schedule schedule;
  Status set = schedule.set("math", job.math, Origin::Host);
  if (set.ok()) set = schedule.set("target", job.target, Origin::Host);
  size_t equals = job.settings.find('=');
  if (set.ok() && !job.settings.empty()) set = schedule.set(job.settings.substr(0, equals), job.settings.substr(equals + 1), Origin::Host);
  auto effective = effectiveSchedule(layers->module(), schedule, "");
  if (!set.ok() || !effective.ok()) return what + "schedule";
  auto p = plan(layers->module(), *effective, *findTarget(job.target));
  if (!p.ok()) return contains(p.status().text(), "shared memory") ? "" : what + p.status().text();
  auto source = render(*p, layers->module(), embedded());
  if (!source.ok()) return what + source.status().text();
  CompileRequest request;
  request.source = source->source;
  request.target = p->target;
  auto compiled = nvrtc()->compile(request);
  if (!compiled.ok()) return what + compiled.status().text();
  std::string wrong;
  if (compiled->cubin.size() < 4096) wrong += " cubin of " + std::to_string(compiled->cubin.size()) + " bytes;";
  if (contains(compiled->log, "warning")) wrong += " " + compiled->log;
  if (contains(compiled->ptx, "setmaxnreg") != (p->target->register_moves && p->feeders() == 4)) wrong += " arch.def and the templates disagree who moves registers;";
  bool found = false;
  for (const KernelResources &k : compiled->resources) {
    if (k.kernel != kKernelName) continue;
    found = true;
    const Resources &r = k.resources;
    if (r.spill_store_bytes || r.spill_load_bytes || r.local_bytes)
      wrong += " spills " + std::to_string(r.spill_store_bytes) + "/" + std::to_string(r.spill_load_bytes) + ", local " + std::to_string(r.local_bytes) + " bytes;";
    if (r.registers * p->threads() > 65536) wrong += " " + std::to_string(r.registers) + " registers do not fit;";
    if (r.shared_bytes) wrong += " static shared memory;";
  }
  if (!found) wrong += " no entry point;";
  return wrong.empty() ? "" : what + wrong;
}

/// Two compiles at a time.
void compileAll(const std::vector<Job> &jobs) {
  std::atomic<size_t> next{0};
  std::mutex mutex;
  std::vector<std::string> findings;
  auto work = [&] {
    for (size_t i; (i = next++) < jobs.size();)
      if (std::string finding = compileOne(jobs[i]); !finding.empty()) {
        std::lock_guard lock(mutex);
        findings.push_back(finding);
      }
  };
  std::thread other(work);
  work();
  other.join();
  MESSAGE(jobs.size() << " compiles");
  for (const std::string &f : findings) FAIL_CHECK(f);
  CHECK(findings.empty());
}

} // namespace

TEST_CASE("packers compile for every target, without spills") {
  if (!nvrtc()) return;
  for (const char *layer : {"tiny_qwen35_27b", "tiny_llama31_8b_fp8", "tiny_llama31_8b"})
    for (const std::string &target : targetNames()) {
      CAPTURE(layer);
      CAPTURE(target);
      Layers layers = readExample(layer);
      auto effective = effectiveSchedule(layers.module(), hostSchedule("target=" + target), "");
      REQUIRE(effective.ok());
      auto p = plan(layers.module(), *effective, *findTarget(target));
      REQUIRE(p.ok());
      auto source = renderPacker(p->bodies[0].steps[0].gemv, *p->target, embedded());
      REQUIRE(source.ok());
      CompileRequest request;
      request.source = source->source;
      request.target = p->target;
      auto compiled = nvrtc()->compile(request);
      REQUIRE_MESSAGE(compiled.ok(), compiled.status().text());
      CHECK_MESSAGE(!contains(compiled->log, "warning"), compiled->log);
      REQUIRE(compiled->resources.size() == 1);
      CHECK(compiled->resources[0].kernel == kPackerName);
      CHECK(compiled->resources[0].resources.spill_store_bytes == 0);
      CHECK(compiled->resources[0].resources.local_bytes == 0);
    }
}

TEST_CASE("nvrtc: the 27B layer compiles for every target, under both contracts") {
  if (!nvrtc()) return;
  std::vector<Job> jobs;
  for (const char *math : {"fast", "exact"})
    for (const Target &t : targets()) jobs.push_back({"qwen35_27b", "wo_split=8", t.name, math});
  compileAll(jobs);
}

TEST_CASE("nvrtc: a stack spills as little as its layer") {
  if (!nvrtc()) return;
  compileAll({{"qwen35_27b", "tokens_max=1", "sm_90a", "fast", 24}, {"qwen35_27b", "tokens_max=4", "sm_90a", "fast", 24}, {"qwen35_27b", "tokens_max=16", "sm_90a", "fast", 24}});
}

TEST_CASE("nvrtc: every tiny layer and the harness compile, between them for all targets") {
  if (!nvrtc()) return;
  std::vector<Job> jobs;
  std::vector<std::string> names = examples(true);
  names.push_back("wo_harness");
  for (size_t i = 0; i < 2 * names.size(); i++) // all targets have their turn
    jobs.push_back({names[i / 2], "", targets()[(i + i / 2) % targets().size()].name, i % 2 ? "exact" : "fast"});
  compileAll(jobs);
}

TEST_CASE("nvrtc: an error in a template is located there") {
  if (!nvrtc()) return;
  Layers layers = readExample("tiny_wo_harness");
  auto source = render(planOf(layers), layers.module(), embedded());
  REQUIRE(source.ok());
  std::string broken = source->source;
  size_t at = broken.find("int width = end - begin;");
  REQUIRE(at != std::string::npos);
  broken.replace(at, 24, "int width = end - bogus;");
  CompileRequest request;
  request.source = broken;
  request.target = findTarget("sm_90a");
  auto compiled = nvrtc()->compile(request);
  REQUIRE_FALSE(compiled.ok());
  CHECK(compiled.status().kind() == ErrorKind::Toolchain);
  std::string_view text = embedded().find("phases/gather.cuh")->text;
  size_t line = 1 + size_t(std::count(text.begin(), text.begin() + long(text.find("int width = end - begin;")), '\n'));
  CHECK_MESSAGE(contains(compiled.status().text(), "phases/gather.cuh:" + std::to_string(line)), compiled.status().text());
}

TEST_SUITE_BEGIN("slow");

TEST_CASE("nvrtc: every example on every target") {
  if (!nvrtc()) return;
  std::vector<Job> jobs;
  for (const std::string &name : examples())
    for (const Target &t : targets())
      for (const char *math : {"fast", "exact"}) jobs.push_back({name, splitSettings(readExample(name)).front(), t.name, math});
  compileAll(jobs);
}

TEST_CASE("nvrtc: stacks of the full-size layers, compiled for few tokens and many") {
  if (!nvrtc()) return;
  std::vector<Job> jobs;
  for (const char *layer : {"qwen35_27b", "llama31_8b", "llama31_8b_fp8", "llama32_1b_layer", "qwen3_8b"})
    for (int tokens : {1, 2, 4, 8, 16}) jobs.push_back({layer, "tokens_max=" + std::to_string(tokens), "sm_90a", "fast", 24});
  compileAll(jobs);
}

TEST_CASE("nvrtc: every split of the full-size layers on sm_90a") {
  if (!nvrtc()) return;
  std::vector<Job> jobs;
  for (const char *name : {"qwen35_27b", "qwen35_27b_seed", "wo_harness", "llama31_8b", "llama31_8b_fp8", "qwen3_8b", "llama32_1b", "llama32_1b_layer"})
    for (const std::string &split : splitSettings(readExample(name)))
      for (const char *math : {"fast", "exact"}) jobs.push_back({name, split, "sm_90a", math});
  compileAll(jobs);
}

TEST_SUITE_END();
