// render_source.cpp: what a rendered source looks like, for every example: one file, no includes, short, reproducible.
#include "compiler/render.h"
#include "compiler/render_program.h"
#include "templates/embedded.h"
#include "tests/unit/layer_support.h"

using namespace layertest;

namespace {

const Templates &embedded() {
  static const Templates templates = Templates::embedded();
  return templates;
}

Rendered rendered(const Layers &layers, const std::string &settings = "", const std::string &target = "sm_90a") {
  auto r = render(planOf(layers, settings, target), layers.module(), embedded());
  REQUIRE_MESSAGE(r.ok(), r.status().text());
  return r.take();
}

size_t count(const std::string &text, const std::string &part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) n++;
  return n;
}

} // namespace

TEST_CASE("golden source: the generated regions of small layers") {
  const std::pair<const char *, const char *> sources[] = {{"tiny_wo_harness", "wo_split=8"}, {"tiny_mlp_only", ""}, {"tiny_mixed_stack", ""}};
  for (auto [name, settings] : sources) {
    Layers layers = readExample(name);
    ProgramText text = programText(planOf(layers, settings), layers.module());
    checkGolden(std::string("render/") + name + ".cu", text.regions["banner"] + text.regions["config"] + text.regions["phases"] + text.regions["program"]);
  }
}

TEST_CASE("every example renders to one file that a kernel engineer would sign") {
  // Beside its templates, as they stand: what is generated for a layer or two, and for a whole step.
  constexpr size_t kLinesMax = 400, kStepLinesMax = 520;
  for (const std::string &name : examples()) {
    Layers layers = readExample(name);
    std::vector<std::string> splits = splitSettings(layers);
    for (const std::string &split : {splits.front(), splits.back()})
      for (const char *target : {"sm_80", "sm_90a", "sm_120a"}) {
        if (!tryPlan(layers, split, target).ok()) continue; // too little shared memory: plan_layout.cpp
        INFO(name, " ", split, " ", target);
        Rendered r = rendered(layers, split, target);
        CHECK(count(r.source, "#include") == 0);
        CHECK(count(r.source, "#pragma once") == 0);
        CHECK(count(r.source, "//@ ") == 0);
        size_t written = 0; // by hand
        for (const std::string &used : r.templates_used) written += count(std::string(embedded().find(used)->text), "\n");
        CHECK(count(r.source, "\n") < written + (layers.module().layers.size() > 2 ? kStepLinesMax : kLinesMax));
        CHECK(count(r.source, PHASEC_SOURCE_DIR) == 0);
        CHECK(count(r.source, "/home") == 0);
        CHECK(count(r.source, "\"/") == 0);
        CHECK(count(r.source, "../") == 0);
        CHECK(count(r.source, "#line ") >= r.templates_used.size());
        for (const std::string &used : r.templates_used) {
          CHECK(count(r.source, " \"" + used + "\"\n") == 1);
          CHECK(embedded().find(used));
        }
        CHECK(count(r.source, "#define PHASEC_SM " + std::to_string(findTarget(target)->sm) + "\n") == 1);
        CHECK(count(r.source, "phasec_layer(const __grid_constant__ Args args)") == 1);
        CHECK(contains(r.source, "// reproduce: phasec render "));
        CHECK(r.source.back() == '\n');
        CHECK(rendered(readExample(name), split, target).source == r.source);
      }
  }
}

TEST_CASE("a source holds the templates that its phases and formats need, and no others") {
  auto used = [](const char *name) { return rendered(readExample(name)).templates_used; };
  auto has = [](const std::vector<std::string> &list, const char *name) { return std::count(list.begin(), list.end(), name) == 1; };
  std::vector<std::string> mlp = used("tiny_mlp_only"), harness = used("tiny_wo_harness"), attn = used("tiny_attn_only");
  CHECK(has(mlp, "phases/fc1.cuh"));
  CHECK(has(mlp, "weights/fp8_e4m3.cuh"));
  for (const char *absent : {"phases/attn.cuh", "phases/gather.cuh", "phases/qkv.cuh", "weights/nvfp4.cuh", "heads.cuh"}) CHECK_FALSE(has(mlp, absent));
  CHECK(has(harness, "phases/gather.cuh"));
  CHECK(has(harness, "core/exact/nvfp4.cuh"));
  CHECK_FALSE(has(harness, "phases/fc1.cuh"));
  CHECK(has(attn, "core/exact/attention.cuh"));
  CHECK_FALSE(has(attn, "gemv.cuh"));
}

TEST_CASE("exact and fast differ in core/<math>/, math/<math>.cuh and the rounding of wo's slots, and in nothing else") {
  int compared = 0;
  for (const std::string &name : examples()) {
    Layers layers = readExample(name);
    for (const std::string &split : splitSettings(layers))
      for (const char *target : {"sm_86", "sm_90a"}) {
        auto exact = tryPlan(layers, split, target), fast = tryPlan(layers, split + " math=fast", target);
        if (!exact.ok() || !fast.ok()) {
          CHECK(exact.ok() == fast.ok());
          continue;
        }
        INFO(name, " ", split, " ", target);
        auto neutral = [](std::vector<std::string> used) {
          std::vector<std::string> kept;
          for (const std::string &t : used)
            if (t.rfind("core/", 0) != 0 && t.rfind("math/", 0) != 0 && t != "rms.cuh") kept.push_back(t); // the exact core's and norm's order of squares
          std::sort(kept.begin(), kept.end());
          return kept;
        };
        auto a = render(*exact, layers.module(), embedded()), b = render(*fast, layers.module(), embedded());
        REQUIRE((a.ok() && b.ok()));
        CHECK(neutral(a->templates_used) == neutral(b->templates_used));
        for (const std::string &t : a->templates_used) CHECK_FALSE((t.rfind("core/fast/", 0) == 0 || t == "math/fast.cuh"));
        for (const std::string &t : b->templates_used) CHECK_FALSE((t.rfind("core/exact/", 0) == 0 || t == "math/exact.cuh"));
        ProgramText x = programText(*exact, layers.module()), y = programText(*fast, layers.module());
        CHECK(x.regions["target"] == y.regions["target"]);
        CHECK(x.regions["program"] == y.regions["program"]);
        bool rounded = false;
        for (size_t i = 0; i < exact->bodies.size(); i++)
          for (size_t s = 0; s < exact->bodies[i].steps.size(); s++) {
            const Gemv &g = exact->bodies[i].steps[s].gemv, &h = fast->bodies[i].steps[s].gemv;
            if (exact->bodies[i].steps[s].op != ir::Op::wo) {
              CHECK(g.segments.size() == h.segments.size());
              continue;
            }
            CHECK(g.slots == h.slots);
            for (int slot = 0; slot < g.slots; slot++) {
              int64_t wanted = g.segments[size_t(slot * g.segments_per_slot)].k_begin, got = h.segments[size_t(slot * h.segments_per_slot)].k_begin;
              CHECK(got == wanted / kGranuleK * kGranuleK);
              rounded |= got != wanted;
            }
          }
        compared++;
        if (rounded) continue; // then segments and what is sized by them may differ as well
        CHECK(x.regions["phases"] == y.regions["phases"]);
        CHECK(x.regions["config"] == y.regions["config"]);
      }
  }
  MESSAGE(compared << " pairs");
  CHECK(compared >= 60);
}

TEST_CASE("cached rows are asked into L2 before a layer's first step, in kernels for one token only") {
  Layers layers = readExample("tiny_qwen35_27b");
  for (const char *tokens : {"1", "2", "8"}) {
    std::string program = programText(planOf(layers, std::string("math=fast tokens_max=") + tokens), layers.module()).regions["program"];
    size_t at = program.find("attn::prefetch<Attn1>(cta);");
    CHECK((at != std::string::npos) == (tokens == std::string("1")));
    if (at != std::string::npos) CHECK(at < program.find("gemv::run<Qkv0"));
  }
}

TEST_CASE("every #line tells the truth: the text under it is the template's, from that line on") {
  Rendered r = rendered(readExample("tiny_qwen35_27b"));
  std::istringstream in(r.source);
  std::string line, file;
  std::vector<std::string> text;
  size_t at = 0, compared = 0;
  while (std::getline(in, line)) {
    if (line.rfind("#line ", 0) == 0) {
      size_t quote = line.find('"');
      file = line.substr(quote + 1, line.rfind('"') - quote - 1);
      at = std::stoul(line.substr(6)) - 1;
      text.clear();
      const Template *whole = embedded().find(file);
      std::istringstream lines(std::string(whole ? whole->text : ""));
      for (std::string l; std::getline(lines, l);) text.push_back(l);
      continue;
    }
    if (!text.empty() && !line.empty()) {
      REQUIRE(at < text.size());
      REQUIRE_MESSAGE(text[at] == line, file, ":", at + 1, " is ", text[at], ", rendered as ", line);
      compared++;
    }
    at++;
  }
  CHECK(compared > 500);
}

TEST_CASE("inline assembly stands in ptx.cuh and nowhere else") {
  bool ptx = false;
  for (const EmbeddedFile &f : embeddedTemplates()) {
    std::string text(f.text);
    bool has = contains(text, "asm volatile") || contains(text, "asm(") || contains(text, "asm (");
    if (f.name == "ptx.cuh") ptx = has;
    else CHECK_MESSAGE(!has, std::string(f.name));
  }
  CHECK(ptx);
}

TEST_CASE("a schedule's structure shows in its source: events by their edge, slots by their table") {
  Layers layers = readExample("tiny_qwen35_27b");
  Rendered one = rendered(layers, "wo_split=1 handoff=events"), eight = rendered(layers, "wo_split=8 handoff=events");
  CHECK(contains(one.source, "// counter: %h gather -> %u fc1"));
  CHECK(contains(eight.source, "// counter: %a attn -> %h gather"));
  CHECK(contains(one.source, "slots = 2, "));
  CHECK(contains(eight.source, "slots = 16, "));
  CHECK(one.templates_used == eight.templates_used);
  Rendered tags = rendered(layers, "wo_split=1");
  CHECK(contains(tags.source, "// tags: %h gather -> %u fc1"));
  CHECK_FALSE(contains(tags.source, "// counter: "));
}
