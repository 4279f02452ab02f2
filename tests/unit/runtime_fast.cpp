// runtime_fast.cpp: math = fast on the sim: every tiny layer within the error bound of runtime/cli/checking.cpp, inputs that
// are meant to break f16, and what the contract leaves as it is: bits that depend on neither seed nor launch.
#include "tests/unit/runtime_support.h"

#include <cmath>
#include <cstring>

using namespace runtimetest;

namespace {

std::vector<Case> casesOf(const std::vector<std::string> &names, const std::vector<std::string> &settings, const std::vector<Feed> &steps) {
  static const std::pair<int, uint64_t> grids[] = {{4, 1}, {1, 2}, {7, 3}, {4, 77}, {7, 5}};
  std::vector<Case> cases;
  for (const std::string &name : names)
    for (const std::string &words : settings) {
      Layers layers = readExample(name);
      std::string kept = hasWo(layers) ? words : "";
      bool seed = name.find("seed") != std::string::npos || name.find("harness") != std::string::npos;
      if (seed && contains(kept, "wo_split=16")) kept = "wo_split=8";
      Setup setup;
      setup.settings = "math=fast " + kept;
      std::tie(setup.sim_ctas, setup.sim_seed) = grids[cases.size() % std::size(grids)];
      cases.push_back({name, std::move(layers), setup, steps});
    }
  return cases;
}

/// Values of a layer's inputs that f16 alone could not hold.
enum class Hard { Outliers, Zero, Denormal, Tiny, Huge };

uint16_t toBf16(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  return uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float hardValue(Hard kind, size_t i, size_t row) {
  float sign = i % 3 == 0 ? -1.0f : 1.0f, small = 1e-3f * float(1 + i % 7) * sign;
  switch (kind) {
  case Hard::Outliers: return i % 41 == 5 ? 3e6f * sign : i % 37 == 9 ? 1e5f * sign : small;
  case Hard::Zero: return row % 2 == 0 ? 0.0f : small;
  case Hard::Denormal: return row % 2 == 0 ? 1e-39f * float(1 + i % 9) * sign : small;
  case Hard::Tiny: return 1e-18f * float(1 + i % 5) * sign; // its square is still a normal number
  case Hard::Huge: return 1e15f * float(1 + i % 5) * sign;
  }
  return 0;
}

/// Runs a step whose bf16 inputs are replaced; what is wrong with it, or "". `finite` counts elements that are.
std::string runHard(Session &session, Hard kind, float weight_scale, size_t *finite) {
  Feed step{{65, 3}, {2, 1}, 5, false};
  auto ready = Ready::make(session, step);
  if (!ready.ok()) return ready.status().text();
  auto &arrays = ready->inputs->arrays;
  for (const BufferSpec &spec : session.kernel.buffers()) {
    std::string name = std::to_string(spec.instance) + "/" + spec.name;
    auto known = arrays.find(name);
    if (known == arrays.end()) continue;
    std::vector<uint8_t> &bytes = known->second;
    if (spec.kind == "input" && spec.dtype == "bf16") {
      size_t width = size_t(spec.shape.back());
      for (size_t i = 0; i < bytes.size() / 2; i++) {
        uint16_t v = toBf16(hardValue(kind, i % width, i / width));
        std::memcpy(bytes.data() + 2 * i, &v, 2);
      }
    } else if (weight_scale != 1 && name.size() > 6 && name.compare(name.size() - 6, 6, ".scale") == 0) {
      for (size_t i = 0; i < bytes.size() / 4; i++) {
        float v;
        std::memcpy(&v, bytes.data() + 4 * i, 4);
        v *= weight_scale;
        std::memcpy(bytes.data() + 4 * i, &v, 4);
      }
    } else {
      continue;
    }
    Status s = session.device().upload(ready->staging->buffers().arrays.at(name).address, bytes.data(), int64_t(bytes.size()));
    if (!s.ok()) return s.text();
  }
  Status s = ready->bound->launch();
  if (s.ok()) s = session.device().synchronize();
  if (!s.ok()) return s.text();
  auto results = ready->staging->download();
  if (!results.ok()) return results.status().text();
  phasec_reference::Output expected;
  std::string error;
  if (!phasec_reference::run_fp64(planJson(session.kernel.plan(), session.layers.module()), ready->inputs->view(), &expected, &error)) return error;
  for (const auto &out : results->outputs) {
    const std::vector<uint8_t> &want = expected.buffers.at(out.name);
    size_t n = want.size() / (out.dtype == "bf16" ? 2 : 4);
    std::vector<double> got = phasec_reference::decode(out.dtype, out.bytes.data(), n), reference = phasec_reference::decode(out.dtype, want.data(), n);
    for (size_t i = 0; i < n; i++) {
      *finite += std::isfinite(got[i]);
      if (std::isfinite(reference[i]) && !std::isfinite(got[i])) return "%" + out.name + "[" + std::to_string(i) + "] is " + std::to_string(got[i]) + ", the reference's " + std::to_string(reference[i]);
    }
  }
  auto check = ready->check(session);
  if (!check.ok()) return check.status().text();
  return firstOf(*check);
}

} // namespace

TEST_CASE("sim fast: every tiny layer is within its bound, over splits, tokens, ragged sequences and outliers") {
  runCases(casesOf(examples(true), {"wo_split=1", "wo_split=16", "wo_split=2 handoff=events"}, coveringSteps()));
}

TEST_CASE("sim fast: slots that begin inside a granule, partitions, warps, rings and windows") {
  std::vector<Feed> steps = {{{65, 3}, {2, 3}, 21, true}};
  runCases(casesOf({"tiny_qwen35_27b"}, {"wo_split=2 partition=2d", "wo_split=4 warps=3", "wo_split=8 partition=2d ctas=33", "wo_split=32 ring=3 warps=8 window=2", "wo_split=1 ring=20 warps=9 window=1"}, steps));
  runCases(casesOf({"tiny_wo_harness"}, {"wo_split=2 partition=seed", "wo_split=4 partition=2d", "wo_split=8 partition=wide"}, steps));
}

TEST_CASE("sim fast: sums that are added as they come stay within the bound, launch after launch; exact refuses them") {
  std::vector<Feed> steps = {{{65, 3}, {2, 3}, 21, true}, {{3}, {5}, 22, false}};
  runCases(casesOf({"tiny_qwen35_27b"}, {"wo_split=4 reduce=atomic", "wo_split=1 reduce=atomic partition=2d"}, steps));
  runCases(casesOf({"tiny_stack"}, {"wo_split=2 reduce=atomic"}, steps));
  Layers layers = readExample("tiny_qwen35_27b");
  for (const char *settings : {"math=fast", "math=exact"}) {
    auto schedule = effectiveSchedule(layers.module(), scheduleOf(std::string(settings) + " wo_split=4 reduce=atomic"), "");
    REQUIRE(schedule.ok());
    auto p = plan(layers.module(), *schedule, *findTarget("sm_90a"));
    CHECK(p.ok() == !strcmp(settings, "math=fast"));
    if (!p.ok()) CHECK(contains(p.status().text(), "set math = fast, or drop reduce"));
    else CHECK(planText(*p, layers.module()).find("fold: atomic adds") != std::string::npos);
  }
}

TEST_CASE("sim fast: attention cut into chunks, over one and many CTAs") {
  std::vector<Case> cases;
  for (const char *settings : {"kv_splits=1", "kv_splits=3", "kv_splits=128 warps=2"})
    for (Case &c : casesOf({"tiny_attn_only"}, {""}, {{{1100, 513}, {1, 2}, 51, false}, {{257}, {4}, 53, true}})) {
      c.setup.settings = std::string("math=fast ") + settings;
      c.setup.sim_ctas = cases.size() % 2 ? 1 : 7;
      cases.push_back(std::move(c));
    }
  runCases(cases);
}

TEST_CASE("sim fast: attention over rows of every width, of both types: the small layers' are narrow") {
  std::vector<Case> cases;
  for (int head_dim : {16, 48, 64, 80, 112, 128, 192, 256})
    for (const char *dtype : {"bf16", "fp8_e4m3"}) {
      std::string name = "attn_" + std::to_string(head_dim) + "_" + dtype;
      std::string text = "layer @attn {\n  dims heads = 6, kv_heads = 2, head_dim = " + std::to_string(head_dim) +
                         "\n  tokens 1..4\n  in %q : bf16[tokens, heads * head_dim]\n  cache %kv : " + dtype +
                         " paged(page = 16, order = nhd, kv = joint)\n  %a = attn %q, %kv\n  return %a\n}\n";
      Setup setup;
      setup.settings = "math=fast kv_splits=3 warps=3";
      setup.sim_ctas = 3 + int(cases.size() % 3);
      cases.push_back({name, parse(text, name + ".phase"), setup, {{{129, 70}, {2, 1}, 61, false}, {{5}, {4}, 62, false}}});
    }
  runCases(cases);
}

TEST_CASE("sim fast: 3e6 beside 1e-3, rows of zeros, subnormal numbers, extreme scales: nothing overflows that the reference holds") {
  for (const char *name : {"tiny_qwen35_27b", "tiny_llama31_8b", "tiny_llama31_8b_fp8", "tiny_wo_harness", "tiny_mlp_only"}) {
    Setup setup;
    setup.settings = "math=fast";
    auto session = Session::open(readExample(name), setup);
    REQUIRE_MESSAGE(session.ok(), session.status().text());
    for (Hard kind : {Hard::Outliers, Hard::Zero, Hard::Denormal, Hard::Tiny, Hard::Huge})
      for (float scale : {1.0f, 1e-6f, 1e6f}) {
        size_t finite = 0;
        std::string wrong = runHard(*session, kind, scale, &finite);
        CHECK_MESSAGE(wrong.empty(), name, ", kind ", int(kind), ", scales times ", scale, ": ", wrong);
        if (scale == 1) CHECK_MESSAGE(finite > 0, name, ", kind ", int(kind));
      }
  }
}

TEST_CASE("sim fast: the scheduler's seed shows in no bit, nor does the launch") {
  for (const char *name : {"tiny_qwen35_27b", "tiny_llama32_1b"}) {
    std::optional<Downloaded> first;
    Layers layers = readExample(name);
    for (uint64_t seed : {1, 77, 123456}) {
      Setup setup;
      setup.settings = "math=fast wo_split=8";
      setup.sim_seed = seed;
      auto session = Session::open(layers, setup);
      REQUIRE_MESSAGE(session.ok(), session.status().text());
      Downloaded got;
      std::string wrong = runStep(*session, {{65, 3}, {2, 3}}, &got);
      CHECK_MESSAGE(wrong.empty(), name, ", seed ", seed, ": ", wrong);
      if (!first) first = got;
      CHECK(got == *first);
    }
  }
}

TEST_SUITE_BEGIN("slow");

TEST_CASE("sim fast: every tiny layer at every split") {
  for (const std::string &name : examples(true)) runCases(casesOf({name}, splitSettings(readExample(name)), coveringSteps()));
}

TEST_SUITE_END();
