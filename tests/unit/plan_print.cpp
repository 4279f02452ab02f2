// plan_print.cpp: the plan as text (golden) and as JSON; equal inputs, equal plans; schedules that no layer can take.
#include "compiler/plan_internal.h"
#include "tests/unit/layer_support.h"

#include "llvm/Support/JSON.h"

#include <map>

using namespace layertest;

namespace {

llvm::json::Value parseJson(const std::string &text) {
  auto value = llvm::json::parse(text);
  REQUIRE(bool(value));
  return *value;
}

ErrorKind refusal(const Layers &layers, const std::string &settings, const std::string &part) {
  auto p = tryPlan(layers, settings);
  REQUIRE_FALSE(p.ok());
  CHECK_MESSAGE(contains(p.status().text(), part), p.status().text());
  return p.status().kind();
}

} // namespace

TEST_CASE("golden plans: steps, slots and the events of auto mode") {
  const std::pair<const char *, const char *> plans[] = {
      {"wo_harness", "wo_split=4"}, {"tiny_qwen35_27b", "wo_split=8"}, {"tiny_stack", "wo_split=2"}, {"tiny_qwen35_27b_seed", "wo_split=4"},
      {"tiny_llama32_1b", "wo_split=2"}};
  for (auto [name, settings] : plans) {
    Layers layers = readExample(name);
    checkGolden(std::string("plan/") + name + ".txt", planText(planOf(layers, settings), layers.module()));
  }
}

TEST_CASE("auto mode: no example has more events than edges that need one, and each says why") {
  // Per layer: kind and edge, in step order. A staged norm and an elected gather cost no event.
  const std::map<std::string, std::vector<std::string>> expected = {
      {"tiny_qwen35_27b", {"counter %q qkv -> %a attn", "counter %a attn -> %h gather", "counter %h gather -> %u fc1", "counter %u fc1 -> %y fc2"}},
      {"tiny_llama31_8b", {"counter %q qkv -> %a attn", "counter %a attn -> %h gather", "counter %h gather -> %u fc1", "counter %u fc1 -> %y fc2"}},
      {"tiny_mlp_only", {"counter %u fc1 -> %y fc2"}},
      {"tiny_attn_only", {}}};
  for (const auto &[name, events] : expected) {
    Layers layers = readExample(name);
    Plan p = planOf(layers);
    std::vector<std::string> got;
    for (const Event &e : p.bodies[0].events) {
      got.push_back(std::string(ir::name(e.kind)) + " " + e.edge);
      CHECK_FALSE(e.reason.empty());
      CHECK((e.kind == ir::EventKind::Grid ? e.arrivals.empty() : int(e.arrivals.size()) == e.slices));
      CHECK(e.from_step < e.to_step);
    }
    INFO(name);
    CHECK(got == events);
  }
}

namespace {

/// A model's ends in one layer.
Layers wholeStep(const std::string &returns, const std::string &sync = "auto", const std::string &event = "") {
  return parse("layer @step {\n  dims hidden = 80, vocab = 331\n  tokens 1..8\n  sync " + sync +
               "\n  in %ids : i32[tokens]\n  weight %table : bf16[vocab, hidden]\n  weight %g : bf16[hidden]\n  weight %w : bf16[vocab, hidden]\n"
               "  %x = embed %ids, %table\n  %n = norm %x, %g\n" + event + "  %l = head %n, %w\n  %t = argmax %l\n  return " + returns + "\n}\n", "step.phase");
}

bool hasRegion(const Plan &p, const std::string &name) {
  return std::any_of(p.bodies[0].regions.begin(), p.bodies[0].regions.end(), [&](const Region &r) { return r.name == name; });
}

} // namespace

TEST_CASE("a whole step: argmax is part of the head, and logits that nothing else reads have no buffer") {
  for (bool returned : {false, true}) {
    Plan p = planOf(wholeStep(returned ? "%t, %l" : "%t"));
    const Body &b = p.bodies[0];
    REQUIRE(b.steps.size() == 2); // embed, head
    REQUIRE(b.events.size() == 1);
    CHECK(b.events[0].edge == "%x embed -> %l head");
    CHECK(b.events[0].kind == ir::EventKind::Grid);
    const Argmax &a = b.steps[1].argmax;
    CHECK(a.cols == 331);
    CHECK(a.tiles == 21); // 331 = 20 * 16 + 11
    CHECK(b.regions[size_t(a.result)].space == Space::Table);
    CHECK(hasRegion(p, "l") == returned);
    CHECK((b.steps[1].results[0] >= 0) == returned);
    Layers layers = wholeStep("%t");
    llvm::json::Value json = parseJson(planJson(p, layers.module()));
    const llvm::json::Object *step = (*(*json.getAsObject()->getArray("bodies"))[0].getAsObject()->getArray("steps"))[1].getAsObject();
    REQUIRE(step->getObject("argmax"));
    CHECK(*step->getObject("argmax")->getInteger("tiles") == 21);
    CHECK(step->getObject("argmax")->getString("result")->str() == "t");
  }
}

TEST_CASE("a whole step: the last instance's returns are the host's and take no room between instances") {
  Plan p = planOf(readExample("llama32_1b"));
  CHECK(p.chain_bytes == 16 * 2048 * 2); // x and y, not the logits
  CHECK(p.instances.size() == 18);
}

TEST_CASE("counter arrivals add up to what the producers send") {
  Layers layers = readExample("tiny_qwen35_27b"); // 6 heads on 2 KV heads, gated; up to 8 tokens
  Plan p = planOf(layers, "wo_split=4");
  const Event &heads = p.bodies[0].events[0], &pairs = p.bodies[0].events[1], &columns = p.bodies[0].events[3];
  CHECK(heads.arrivals == std::vector<int64_t>{(3 * 2 + 2) * 3, (3 * 2 + 2) * 3}); // row tiles of a group's q and gate heads, of k and v
  CHECK(pairs.arrivals == std::vector<int64_t>{3 * 8 * 256, 3 * 8 * 256});
  CHECK(p.bodies[0].events[2].arrivals == std::vector<int64_t>{192 / 16}); // row tiles of h
  int64_t sent = 0; // each tile of fc1 arrives once, at the slot of its eight columns
  for (int64_t n : columns.arrivals) sent += n;
  CHECK(sent == 320 / 8);
}

TEST_CASE("plan() is pure: equal inputs, equal JSON, text and stream") {
  for (const std::string &name : examples()) {
    Layers layers = readExample(name), again = readExample(name);
    Plan a = planOf(layers), b = planOf(again);
    CHECK(planJson(a, layers.module()) == planJson(b, again.module()));
    CHECK(planText(a, layers.module()) == planText(b, again.module()));
  }
}

TEST_CASE("plan JSON carries what tools and the reference read") {
  for (const std::string &name : examples()) {
    INFO(name);
    Layers layers = readExample(name);
    Plan p = planOf(layers);
    llvm::json::Value value = parseJson(planJson(p, layers.module()));
    const llvm::json::Object &top = *value.getAsObject();
    CHECK(top.getString("schema") == llvm::StringRef("phasec.plan/1"));
    CHECK(top.getInteger("tokens_max") == int64_t(p.tokens_max));
    CHECK(top.getInteger("warps") == int64_t(p.warps));
    CHECK(top.getInteger("wo_split") == p.schedule.integer("wo_split"));
    REQUIRE(top.getArray("instances"));
    CHECK(top.getArray("instances")->size() == p.instances.size());
    REQUIRE(top.getArray("bodies"));
    REQUIRE(top.getArray("bodies")->size() == p.bodies.size());
    for (size_t b = 0; b < p.bodies.size(); b++) {
      const llvm::json::Object &body = *(*top.getArray("bodies"))[b].getAsObject();
      const ir::Layer &layer = layers.module().layers[size_t(p.bodies[b].layer)];
      CHECK(body.getString("layer") == llvm::StringRef(layer.name));
      for (const char *key : {"values", "phases", "returns", "gemv", "attention", "events", "steps", "regions"}) REQUIRE(body.getArray(key));
      REQUIRE(body.getObject("dims"));
      for (const auto &[dim, n] : layer.dims) CHECK(body.getObject("dims")->getInteger(dim) == n);
      CHECK(body.getArray("values")->size() == layer.values.size());
      CHECK(body.getArray("phases")->size() == layer.phases.size());
      CHECK(body.getArray("steps")->size() == p.bodies[b].steps.size());
      for (const llvm::json::Value &g : *body.getArray("gemv")) {
        const llvm::json::Object &gemv = *g.getAsObject();
        int64_t slot = 0, at = 0;
        for (const llvm::json::Value &s : *gemv.getArray("segments")) {
          const llvm::json::Object &segment = *s.getAsObject();
          REQUIRE(segment.getArray("k"));
          CHECK((*segment.getArray("k"))[0].getAsInteger() == at);
          at = *(*segment.getArray("k"))[1].getAsInteger();
          slot = *segment.getInteger("slot");
        }
        CHECK(at == *gemv.getInteger("cols"));
        CHECK(slot + 1 == *gemv.getInteger("slots"));
      }
      for (const llvm::json::Value &a : *body.getArray("attention"))
        for (const char *key : {"phase", "kv_splits", "chunk_rows", "warps"}) CHECK(bool(a.getAsObject()->getInteger(key)));
    }
  }
}

TEST_CASE("schedules that a layer cannot take: kind, limit and knob are named") {
  Layers whole = readExample("tiny_qwen35_27b"), seed = readExample("tiny_qwen35_27b_seed"), mlp = readExample("tiny_mlp_only");
  for (const char *split : {"3", "31"}) { // the knob itself says so
    Status s = Schedule().set("wo_split", split, Origin::Host);
    CHECK(s.kind() == ErrorKind::Usage);
    CHECK_MESSAGE(contains(s.text(), "1, 2, 4, 8, 16 or 32"), s.text());
  }
  CHECK(refusal(whole, "wo_split=0", "use 1, 2, 4, 8, 16 or 32") == ErrorKind::Input);
  CHECK(refusal(mlp, "wo_split=2", "no `wo` phase") == ErrorKind::Input);
  CHECK(refusal(seed, "wo_split=16", "slice_ctas = 8") == ErrorKind::Input);
  CHECK(refusal(seed, "wo_split=8 ctas=15", "set ctas >= 16") == ErrorKind::Input);
  CHECK(refusal(whole, "tokens_max=9", "declares at most 8") == ErrorKind::Input);
  CHECK(Schedule().set("warps", "32", Origin::Host).kind() == ErrorKind::Usage); // the feeder is the thirty-second
  CHECK(refusal(whole, "ring=1", "two stages") == ErrorKind::Usage);
  CHECK(tryPlan(whole, "wo_split=32").ok());
  CHECK(tryPlan(seed, "wo_split=8 ctas=16").ok());
  CHECK(tryPlan(mlp, "").ok());
  CHECK(tryPlan(whole, "math=fast").ok());
  CHECK(tryPlan(whole, "warps=3").ok());
  Layers narrow = parse("layer @narrow {\n  dims hidden = 64, kv_heads = 4, k = 64\n  tokens 1..2\n  in %a : bf16[tokens, k]\n"
                        "  weight %w : bf16[hidden, k]\n  %p = wo %a, %w\n  %h = gather %p\n  return %h\n}\n");
  CHECK(tryPlan(narrow, "wo_split=16").ok());
  CHECK(refusal(narrow, "wo_split=32", "without a single k") == ErrorKind::Input);
}

TEST_CASE("countStream: GEMV bytes are the images, and no granule twice unless a slot begins inside it") {
  for (const std::string &name : examples()) {
    Layers layers = readExample(name);
    for (const std::string &split : splitSettings(layers)) {
      INFO(name, " ", split);
      Plan p = planOf(layers, split);
      uint64_t least = 0, most = 0, segments = 0;
      bool attention = false;
      for (const Instance &i : p.instances)
        for (const Step &s : p.bodies[size_t(i.body)].steps) {
          attention |= s.op == ir::Op::attn;
          if (!s.gemv.rows) continue;
          uint64_t shared = 0; // granules that two slots share
          for (int slot = 1; slot < s.gemv.slots; slot++)
            shared += s.gemv.segments[size_t(slot * s.gemv.segments_per_slot)].k_begin % kGranuleK != 0;
          least += uint64_t(s.gemv.imageBytes());
          most += uint64_t(s.gemv.imageBytes()) + shared * uint64_t(s.gemv.tiles * s.gemv.granule_bytes);
          segments += uint64_t(s.gemv.slots) * uint64_t(s.gemv.segments_per_slot) * uint64_t(s.gemv.tiles);
        }
      StreamCount n = countStream(p, layers.module(), {});
      CHECK(n.bytes == most);
      CHECK(n.bytes >= least);
      CHECK(n.copies == segments);
      CHECK(n.waits == segments);
      StreamCount one = countStream(p, layers.module(), {{1, 100}}), two = countStream(p, layers.module(), {{1, 100}, {1, 100}});
      CHECK((one.bytes > n.bytes) == attention);
      CHECK(two.bytes - one.bytes == one.bytes - n.bytes); // sequences are independent
    }
  }
}
