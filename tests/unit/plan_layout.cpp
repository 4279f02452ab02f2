// plan_layout.cpp: nothing that a launch keeps in shared memory, in the counters or in the workspace overlaps, on any target.
#include "compiler/plan_internal.h"
#include "tests/unit/layer_support.h"

#include <random>

using namespace layertest;

namespace {

struct Extent {
  std::string name;
  int64_t begin, end;
};

/// No overlap, and everything inside [0, size).
void checkDisjoint(std::vector<Extent> extents, int64_t size) {
  std::sort(extents.begin(), extents.end(), [](const Extent &a, const Extent &b) { return a.begin < b.begin; });
  int64_t at = 0;
  for (const Extent &e : extents) {
    INFO(e.name, " [", e.begin, ", ", e.end, ") after ", at, ", of ", size);
    if (e.end == e.begin) continue; // nothing of it is needed: pieces without a GEMV
    REQUIRE(e.begin >= at);
    REQUIRE(e.end > e.begin);
    at = e.end;
  }
  REQUIRE(at <= size);
}

void checkShared(const Plan &p, const ir::Module &module) {
  const SharedLayout &l = p.shared;
  int64_t stages = p.stream.stages, floats = 4, operand = 0, attention = 0, pieces = 0, steps = 0, zeros = 0, queries_end = l.operand;
  int64_t filled = 0; // of a stage, by the largest thing that it can hold
  for (const Body &b : p.bodies)
    for (const Step &s : b.steps) {
      steps++;
      int64_t segments = s.gemv.segments_per_slot, norm = s.gemv.operand.transform == Transform::Norm ? (s.gemv.cols + 511) / 512 : 0;
      if (norm) // exact: factors, and the sums of segments of 512; fast: those sums, or one per segment, beside the scales
        floats = std::max(floats, p.tokens_max * std::max(1 + norm, segments + std::max(norm, segments)));
      if (s.gemv.rows) floats = std::max(floats, p.tokens_max * segments);
      if (s.gemv.rows) {
        operand = std::max<int64_t>(operand, int64_t(p.tokens_max) * s.gemv.operand_stride * 2);
        pieces = int64_t(p.warps) * 2 * p.tokens_max * 16 * 4;
        REQUIRE(s.gemv.operand_stride % 2 == 0);
        if (s.gemv.format == ir::Format::nvfp4 && p.tokens_max <= 2 && p.schedule.word("math") == "fast") // what a column reads outside of its block
          zeros = std::max<int64_t>(zeros, s.gemv.segment_granules * 64 * 2);
        filled = std::max(filled, p.stream.stage_bytes / s.gemv.granule_bytes * s.gemv.granule_bytes);
      }
      if (s.op == ir::Op::attn) { // eight pairs' queries, then this step's rows or the states of half the warps
        const Attention &a = s.attention;
        const ir::Layer &layer = module.layers[size_t(b.layer)];
        int64_t hd = layer.dim("head_dim"), row_bytes = hd * ir::bytes(layer.values[size_t(a.kv)].cache.dtype);
        queries_end = std::max(queries_end, l.operand + 8 * std::max(4 * hd, 2 * hd + 8));
        REQUIRE(queries_end <= l.states);
        attention = std::max<int64_t>(attention, l.states - l.operand + std::max<int64_t>((p.warps + 1) / 2 * 4 * a.state_floats, 2 * p.tokens_max * a.row_stride));
        REQUIRE(a.state_floats >= 8 * (2 + hd));
        REQUIRE(a.row_stride >= row_bytes);
        REQUIRE(a.row_stride % 16 == 0);
        REQUIRE(a.block_rows >= 1);
        REQUIRE(a.block_rows * a.row_stride <= p.stream.stage_bytes);
        filled = std::max<int64_t>(filled, a.block_rows * a.row_stride);
        REQUIRE(a.block_rows <= 32); // a lane brings a row's address
        REQUIRE(b.regions[size_t(a.partials_region)].bytes == 8 * layer.dim("kv_heads") * (a.kv_splits + 1 + p.tokens_max * a.pair_tiles) * a.state_floats);
      }
    }
  std::vector<Extent> always = {{"ring", l.ring, l.ring + stages * p.stream.stage_bytes},
                 {"barriers", l.barriers, l.barriers + stages * 8},
                 {"units", l.units, l.units + steps * 16},
                 {"stretches", l.stretches, l.stretches + steps * 3 * 24},
                 {"reads", l.reads, l.reads + stages * 4},
                 {"step", l.step, l.step + 16 + 17 * 4 + 16 * 4}, // page table, its stride, first tokens, contexts
                 {"table", l.table, l.table + p.table_entries * 8},
                 {"feeder tables", l.feeder_tables, l.feeder_tables + 4 * p.feeders() * p.table_entries * 8},
                 {"owed", l.owed, l.owed + p.event_words * 4},
                 {"left", l.left, l.left + steps * 4},
                 {"attention units", l.attention_units, l.attention_units + p.warps * 13 * 4},
                 {"arrived", l.arrived, l.arrived + p.warps * 4},
                 {"tile", l.tile, l.tile + int64_t(p.warps) * p.tokens_max * 16 * 4},
                 {"zeros", l.zeros, l.zeros + zeros},
                 {"scratch", l.scratch, l.scratch + floats * 4}};
  // A GEMV and attention follow one another.
  std::vector<Extent> gemv = always, attn = always;
  gemv.insert(gemv.end(), {{"operand", l.operand, l.operand + operand}, {"pieces", l.pieces, l.pieces + pieces}});
  attn.push_back({"attention", l.operand, l.operand + attention});
  checkDisjoint(gemv, l.bytes);
  checkDisjoint(attn, l.bytes);
  REQUIRE(l.bytes <= p.target->shared_bytes_max);
  REQUIRE(l.ring % 128 == 0);
  REQUIRE(p.stream.stage_bytes % 16 == 0);
  REQUIRE(p.stream.stage_bytes - filled < 128);
  REQUIRE(l.barriers % 8 == 0);
  REQUIRE(p.warps <= 31);
  REQUIRE(stages <= 64); // the knob's range
  REQUIRE(l.step >= l.reads + 4 * stages); // a count for each
  REQUIRE(l.units % 8 == 0);
  REQUIRE(l.stretches % 8 == 0);
  REQUIRE(l.reads % 4 == 0);
  REQUIRE(l.owed % 4 == 0);
  REQUIRE(l.left % 4 == 0);
  REQUIRE(l.tile % 4 == 0);
  REQUIRE(l.zeros % 16 == 0);
  REQUIRE(l.step % 8 == 0);
  REQUIRE(l.table % 8 == 0);
  REQUIRE(l.feeder_tables % 8 == 0);
  REQUIRE(l.attention_units % 4 == 0);
  REQUIRE(l.states % 16 == 0);
  REQUIRE(l.pieces % 4 == 0);
  REQUIRE(l.arrived % 4 == 0);
  REQUIRE(l.scratch % 4 == 0);
  REQUIRE(l.operand % 16 == 0);
}

void checkWorkspace(const Plan &p) {
  std::vector<Extent> words = {{"epoch, exits, refused", 0, 3}, {"instances", p.instance_counter, p.instance_counter + 1}};
  std::vector<Extent> bytes = {{"counters", 0, p.counters * 4}};
  for (const Body &b : p.bodies) {
    for (const Event &e : b.events)
      if (!e.carried) words.push_back({e.edge, e.counter, e.counter + e.slices});
    for (const Step &s : b.steps) {
      if (s.gemv.fold == Fold::Tagged && s.gemv.rows) // a float and the tag of its round in one word, for every slot
        REQUIRE(b.regions[size_t(s.gemv.slots_region)].bytes == 8 * s.gemv.slots * p.tokens_max * s.gemv.rows);
      if (s.gemv.fold == Fold::ElectedCta) words.push_back({s.label + " cta", s.gemv.elections, s.gemv.elections + 1});
      if (s.op == ir::Op::qkv && !s.gemv.raw) // else attention finishes the heads
        words.push_back({s.label + " heads", s.gemv.head_elections, s.gemv.head_elections + s.gemv.rows / s.gemv.head_dim});
      if (s.argmax.cols) {
        words.push_back({s.label + " tokens", s.argmax.election, s.argmax.election + 1});
        REQUIRE(b.regions[size_t(s.argmax.keys_region)].bytes >= 8 * p.tokens_max);
      }
    }
    for (const Region &r : b.regions)
      if (r.space == Space::Workspace) {
        REQUIRE(r.offset % 16 == 0);
        bytes.push_back({r.name, r.offset, r.offset + r.bytes});
        if (r.slots > 1) REQUIRE(r.bytes % r.slots == 0);
      }
  }
  if (p.chain_bytes) bytes.push_back({"between instances", p.chain, p.chain + 2 * p.chain_bytes});
  checkDisjoint(words, p.counters);
  checkDisjoint(bytes, p.workspace_bytes);
}

} // namespace

TEST_CASE("every example, split, target and token maximum: shared memory and workspace hold what they must, disjoint") {
  int plans = 0, refused = 0;
  for (const std::string &name : examples()) {
    Layers layers = readExample(name);
    int tokens = 1;
    for (int l : ir::instances(layers.module())) tokens = std::max(tokens, layers.module().layers[size_t(l)].tokens_max);
    for (const Target &target : targets())
      for (const std::string &split : splitSettings(layers))
        for (int tokens_max : {1, 5, tokens}) {
          INFO(name, " ", std::string(target.name), " ", split, " tokens_max ", tokens_max);
          auto p = tryPlan(layers, split + " tokens_max=" + std::to_string(std::min(tokens, tokens_max)), target.name);
          plans++;
          if (!p.ok()) {
            refused++;
            CHECK(target.shared_bytes_max < 200 * 1024); // parts with room for it take every example
            CHECK(p.status().kind() == ErrorKind::Input);
            CHECK_MESSAGE(contains(p.status().text(), "shared memory"), p.status().text());
            continue;
          }
          checkShared(*p, layers.module());
          checkWorkspace(*p);
        }
  }
  MESSAGE(plans << " plans, " << refused << " refused for shared memory");
  CHECK(refused * 20 < plans);
}

TEST_CASE("attention: the workspace has room for the chunks of every step, and not for many more") {
  std::mt19937 random(7);
  auto upTo = [&](int n) { return int(random() % uint32_t(n + 1)); };
  for (const char *name : {"qwen35_27b", "llama31_8b", "tiny_qwen35_27b", "tiny_attn_only"})
    for (const char *settings : {"", "kv_splits=1", "kv_splits=3", "kv_splits=128", "tokens_max=1"}) {
      Layers layers = readExample(name);
      Plan p = planOf(layers, settings);
      const Body &b = p.bodies[0];
      const Step &attn = *std::find_if(b.steps.begin(), b.steps.end(), [](const Step &s) { return s.op == ir::Op::attn; });
      const ir::Layer &layer = layers.module().layers[size_t(b.layer)];
      const Attention &a = attn.attention;
      int64_t group = layer.dim("heads") / layer.dim("kv_heads"), room = b.regions[size_t(a.partials_region)].shape[1], most = 0;
      INFO(name, " ", std::string(settings));
      for (int trial = 0; trial < 2000; trial++) {
        std::vector<std::pair<int64_t, int64_t>> sequences; // rows, tiles
        int64_t all = 0, tiles = 0, chunks = 0;
        for (int left = p.tokens_max; left > 0;) {
          int tokens = 1 + upTo(left - 1), context = upTo(trial % 2 ? 3000 : 200000);
          left -= tokens;
          sequences.emplace_back(context + (a.fresh_rows ? 0 : tokens), (tokens * group + kPairTile - 1) / kPairTile);
          all += sequences.back().first * sequences.back().second, tiles += sequences.back().second;
        }
        int64_t full = std::max<int64_t>(a.kv_splits - tiles + 1, 1), rows = std::max<int64_t>(a.chunk_rows, (all + full - 1) / full);
        for (auto [n, times] : sequences) chunks += times * std::clamp<int64_t>((n + rows - 1) / rows, 1, a.kv_splits);
        most = std::max(most, chunks);
        REQUIRE(chunks <= room);
      }
      CHECK(2 * most >= room - 2 * p.tokens_max * a.pair_tiles);
    }
}

TEST_CASE("one more byte of operand than a target has is a typed error that names the way out") {
  Layers layers = readExample("qwen35_27b");
  Target small = *findTarget("sm_90a");
  auto effective = effectiveSchedule(layers.module(), hostSchedule("target=sm_90a wo_split=1"), "");
  REQUIRE(effective.ok());
  small.shared_bytes_max = 24 * 1024;
  auto p = plan(layers.module(), *effective, small);
  REQUIRE_FALSE(p.ok());
  CHECK(p.status().kind() == ErrorKind::Input);
  CHECK(contains(p.status().text(), "24576 bytes per CTA"));
  CHECK(contains(p.status().text(), "wo_split"));
}

TEST_CASE("the window: what the host sets, up to the ring; without it only fast kernels for one token, or for two in NVFP4, have less than the ring") {
  Layers tiny = readExample("tiny_qwen35_27b"), large = readExample("qwen35_27b"), bf16 = readExample("llama31_8b");
  auto window = [](const Layers &layers, const std::string &settings) {
    auto made = tryPlan(layers, settings);
    REQUIRE(made.ok());
    return std::pair{made->stream.window, made->stream.stages};
  };
  CHECK(window(tiny, "ring=16 window=1") == std::pair{1, 16});
  CHECK(window(tiny, "ring=16 window=7") == std::pair{7, 16});
  CHECK(window(tiny, "ring=16 window=64") == std::pair{16, 16});
  CHECK(window(large, "math=fast tokens_max=1") == std::pair{16, 32}); // 72 KB
  CHECK(window(large, "math=fast tokens_max=2") == std::pair{16, 32});
  CHECK(window(bf16, "math=fast tokens_max=1") == std::pair{8, 24}); // 64 KB
  for (auto [layers, settings] : {std::pair{&large, "math=fast tokens_max=8"}, {&large, "math=fast tokens_max=3"}, {&bf16, "math=fast tokens_max=2"},
                                  {&bf16, "tokens_max=1"}, {&large, "tokens_max=1"}}) {
    auto [n, stages] = window(*layers, settings);
    CHECK_MESSAGE(n == stages, std::string(settings));
  }
}

TEST_CASE("items come to L2 early in fast kernels for one token that take nothing apart and have less than the ring under way") {
  for (auto [layer, settings, whether] : {std::tuple{"llama31_8b", "math=fast tokens_max=1", true}, {"llama31_8b_fp8", "math=fast tokens_max=1", true},
                                          {"qwen35_27b", "math=fast tokens_max=1", false}, {"llama31_8b", "math=fast tokens_max=2", false},
                                          {"llama31_8b", "math=fast tokens_max=1 window=64", false}, {"llama31_8b", "tokens_max=1", false}}) {
    Layers layers = readExample(layer);
    Plan p = planOf(layers, settings);
    INFO(layer, " ", settings);
    CHECK(p.stream.prefetches == whether);
    CHECK(contains(planText(p, layers.module()), "the next ones to L2") == whether);
  }
}

TEST_CASE("warps: three for each of an SM's schedulers where feeders leave them registers; nine where bytes pass quickly") {
  for (const Target &t : targets()) {
    CAPTURE(std::string(t.name));
    auto warps = [&](const char *layer, const char *tokens) { return planOf(readExample(layer), std::string("math=fast tokens_max=") + tokens, std::string(t.name)).warps; };
    int many = t.register_moves ? 12 : t.bulk_copy ? 11 : 7;
    CHECK(warps("tiny_qwen35_27b", "1") == many);
    CHECK(warps("tiny_llama31_8b_fp8", "2") == many);
    for (const char *layer : {"tiny_llama31_8b_fp8", "tiny_llama31_8b"}) CHECK(warps(layer, "1") == (t.bulk_copy ? 9 : 7));
  }
}

TEST_CASE("fc2's K has four slots at least, or as many as granules, and more where CTAs would have unequal shares") {
  for (auto [layer, slots] : {std::pair{"qwen35_27b", 4}, {"llama31_8b", 4}, {"llama31_8b_fp8", 4}, {"llama32_1b_layer", 4}, {"tiny_mlp_only", 3}}) {
    CAPTURE(std::string(layer));
    Plan made = planOf(readExample(layer), "math=fast tokens_max=1");
    for (const Step &s : made.bodies[0].steps)
      if (s.op == ir::Op::fc2) {
        CHECK(s.gemv.slots == slots);
        CHECK(s.gemv.fold == Fold::Tagged);
      }
  }
}

TEST_CASE("tags carry a body's events up to 132 KB an operand: four fp32 a word, two bf16 of attention and fc1; one of a bf16 residual") {
  Layers large = readExample("qwen35_27b"), fp8 = readExample("llama31_8b_fp8");
  auto values = [](const Layers &layers, const std::string &settings) { // of h, attention's result and fc1's
    Plan made = planOf(layers, settings);
    std::vector<int> all;
    for (const Step &s : made.bodies[0].steps)
      if (s.op == ir::Op::wo || s.op == ir::Op::attn || s.op == ir::Op::fc1) all.push_back(made.bodies[0].regions[size_t(s.results[0])].tagged);
    for (const Event &e : made.bodies[0].events) CHECK(e.carried == (all[0] > 0));
    return all;
  };
  const std::vector<int> tagged{2, 4, 2}, plain{0, 0, 0};
  for (const char *math : {"math=fast", "math=exact"}) {
    CAPTURE(std::string(math));
    auto with = [&](int tokens) { return std::string(math) + " tokens_max=" + std::to_string(tokens); };
    for (int tokens : {1, 2, 4}) CHECK(values(large, with(tokens)) == tagged);
    for (int tokens : {8, 16}) CHECK(values(large, with(tokens)) == plain);
    CHECK(values(fp8, with(8)) == tagged);
    CHECK(values(fp8, with(16)) == plain);
  }
  std::string text = fileText(examplePath("tiny_llama31_8b"));
  text.replace(text.find("%h  = gather"), 12, "%h : bf16 = gather");
  CHECK(values(parse(text), "tokens_max=1") == std::vector<int>{2, 1, 2});
}

TEST_CASE("warps and ring that the host sets are what the plan has") {
  Layers layers = readExample("tiny_qwen35_27b");
  for (const char *warps : {"1", "2", "3", "5", "8", "11", "16", "24", "31"})
    for (const char *ring : {"2", "5", "16", "32"}) {
      INFO(std::string(warps), " warps, ring of ", std::string(ring));
      auto made = tryPlan(layers, std::string("warps=") + warps + " ring=" + ring);
      REQUIRE(made.ok());
      const Plan &p = *made;
      CHECK(p.warps == std::stoi(warps));
      CHECK(p.stream.stages == std::stoi(ring));
      checkShared(p, layers.module());
    }
}
