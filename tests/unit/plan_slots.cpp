// plan_slots.cpp: how K is cut: W_O's slots against the formula, segments against the slots they must tile.
#include "compiler/plan_internal.h"
#include "tests/unit/layer_support.h"

using namespace layertest;

namespace {

/// Which slot owns element k, found by search instead of by a bound's formula: KV head by = k / Kh; within the head the
/// largest bx whose first element floor(Kh * bx / s) is not behind k.
int64_t ownerOf(int64_t k, int64_t per_head, int64_t split) {
  int64_t head = k / per_head, in = k % per_head, bx = split - 1;
  while (per_head * bx / split > in) bx--;
  return head * split + bx;
}

/// Segments lie in their slots in fold order without gap or overlap, in whole granules that cover their k.
void checkSegments(const Gemv &g, const std::vector<std::pair<int64_t, int64_t>> &slots, int64_t stage_bytes) {
  REQUIRE(g.segments.size() == size_t(g.slots) * size_t(g.segments_per_slot));
  REQUIRE(size_t(g.slots) == slots.size());
  for (int s = 0; s < g.slots; s++) {
    int64_t at = slots[size_t(s)].first;
    int64_t widest = 0;
    for (int f = 0; f < g.segments_per_slot; f++) {
      const Segment &x = g.segments[size_t(s * g.segments_per_slot + f)];
      REQUIRE(x.slot == s);
      REQUIRE(x.fold == f);
      REQUIRE(x.k_begin == at);
      REQUIRE(x.k_end > x.k_begin); // a copy of no bytes would never complete its barrier
      REQUIRE(x.granule_begin * kGranuleK <= x.k_begin);
      REQUIRE(x.granule_end * kGranuleK >= x.k_end);
      REQUIRE((x.granule_end - x.granule_begin - 1) * kGranuleK < x.k_end - x.granule_begin * kGranuleK);
      REQUIRE((x.granule_end - x.granule_begin) * g.granule_bytes <= stage_bytes);
      widest = x.granule_end - g.segments[size_t(s * g.segments_per_slot)].granule_begin;
      at = x.k_end;
    }
    REQUIRE(at == slots[size_t(s)].second);
    REQUIRE(g.operand_stride >= widest * kGranuleK);
  }
}

} // namespace

TEST_CASE("wo slots: every k belongs to the slot that the split formula names, once") {
  for (int64_t heads : {1, 2, 3, 4, 8})
    for (int64_t per_head : {1, 7, 16, 52, 144, 257, 1536})
      for (int64_t split : {1, 2, 4, 8, 16, 32}) {
        if (split > per_head) continue;
        INFO("heads ", heads, " K_h ", per_head, " split ", split);
        auto slots = planning::woSlots(heads * per_head, heads, split, false);
        REQUIRE(slots.size() == size_t(heads * split));
        int64_t at = 0;
        for (size_t s = 0; s < slots.size(); s++) {
          REQUIRE(slots[s].first == at);
          at = slots[s].second;
          for (int64_t k = slots[s].first; k < slots[s].second; k++) REQUIRE(ownerOf(k, per_head, split) == int64_t(s));
          // A slot of every size that the formula can give, and no other.
          int64_t length = slots[s].second - slots[s].first;
          REQUIRE(length >= per_head / split);
          REQUIRE(length <= (per_head + split - 1) / split);
        }
        REQUIRE(at == heads * per_head);
      }
}

TEST_CASE("wo slots rounded to granules tile K and begin on granules") {
  for (int64_t heads : {1, 2, 4})
    for (int64_t per_head : {144, 1536, 1600})
      for (int64_t split : {1, 2, 4, 8}) {
        auto slots = planning::woSlots(heads * per_head, heads, split, true);
        int64_t at = 0;
        for (auto [begin, end] : slots) {
          REQUIRE(begin == at);
          REQUIRE(begin % kGranuleK == 0);
          at = end;
        }
        REQUIRE(at == heads * per_head);
      }
}

TEST_CASE("segments tile their slots and fit a stage, for every format and stage") {
  for (ir::Format format : {ir::Format::bf16, ir::Format::fp8_e4m3, ir::Format::nvfp4})
    for (int64_t stages : {2, 3, 8})
      for (int64_t k : {64, 80, 208, 1000, 6144, 17408})
        for (int64_t split : {1, 2, 4, 8}) {
          Gemv g;
          g.format = format;
          g.granule_bytes = planning::granuleBytes(format);
          g.cols = k;
          g.granules = planning::ceilDiv(k, kGranuleK);
          INFO("granule bytes ", g.granule_bytes, " stage of ", stages, " K ", k, " split ", split);
          auto slots = planning::woSlots(k, 2, split, false);
          planning::measureSegments(g, int64_t(slots.size()), planning::granulesOf(slots), stages * g.granule_bytes);
          planning::cutSegments(g, slots);
          checkSegments(g, slots, stages * g.granule_bytes);
          auto even = planning::evenSlots(k, g.granules, int(std::min<int64_t>(split, g.granules)));
          planning::measureSegments(g, int64_t(even.size()), planning::granulesOf(even), stages * g.granule_bytes);
          planning::cutSegments(g, even);
          checkSegments(g, even, stages * g.granule_bytes);
        }
}

TEST_CASE("every GEMV of every example: segments tile [0, K) once, at every split") {
  for (const std::string &name : examples()) {
    Layers layers = readExample(name);
    for (const std::string &split : splitSettings(layers)) {
      INFO(name, " ", split);
      Plan p = planOf(layers, split);
      for (const Body &body : p.bodies)
        for (const Step &s : body.steps) {
          if (!s.gemv.rows) continue;
          std::vector<std::pair<int64_t, int64_t>> slots;
          int64_t at = 0;
          for (int i = 0; i < s.gemv.slots; i++) {
            slots.emplace_back(s.gemv.segments[size_t(i * s.gemv.segments_per_slot)].k_begin,
                               s.gemv.segments[size_t((i + 1) * s.gemv.segments_per_slot - 1)].k_end);
            REQUIRE(slots.back().first == at);
            at = slots.back().second;
          }
          REQUIRE(at == s.gemv.cols);
          checkSegments(s.gemv, slots, p.stream.stage_bytes);
          if (s.op == ir::Op::wo) {
            int64_t heads = layers.module().layers[size_t(body.layer)].dim("kv_heads"), wo_split = p.schedule.integer("wo_split");
            REQUIRE(s.gemv.slots == heads * wo_split);
            for (int i = 0; i < s.gemv.slots; i++)
              REQUIRE(ownerOf(slots[size_t(i)].first, s.gemv.cols / heads, wo_split) == i);
          }
        }
    }
  }
}

TEST_CASE("a K that the KV heads do not divide is refused or covered, never cut short") {
  auto layers = Layers::parse("odd.phase", "layer @odd {\n  dims hidden = 64, kv_heads = 3, k = 64\n  tokens 1..2\n"
                                           "  in %a : bf16[tokens, k]\n  weight %w : bf16[hidden, k]\n"
                                           "  %p = wo %a, %w\n  %h = gather %p\n  return %h\n}\n");
  if (!layers.ok()) {
    CHECK(layers.status().kind() == ErrorKind::Input);
    CHECK_MESSAGE(contains(layers.status().text(), "odd.phase:"), layers.status().text());
    return;
  }
  auto made = tryPlan(*layers, "wo_split=2");
  if (!made.ok()) {
    CHECK(made.status().kind() == ErrorKind::Input);
    return;
  }
  CHECK(made->bodies[0].steps[0].gemv.segments.back().k_end == 64);
}

TEST_CASE("the weight image does not depend on the split") {
  Layers layers = readExample("qwen35_27b");
  for (const char *split : {"wo_split=1", "wo_split=32"}) {
    Plan p = planOf(layers, split);
    for (const Step &s : p.bodies[0].steps)
      if (s.op == ir::Op::wo) CHECK(s.gemv.imageBytes() == int64_t(5120 / 16) * (6144 / 64) * 576);
  }
}

TEST_CASE("checkpointRow is a permutation of the checkpoint's rows plus padding") {
  Gemv fc1;
  fc1.row_map = RowMap::GateUp;
  fc1.rows = 2 * 168; // eight gate and eight up rows a tile; 168 = 21 * 8
  Gemv qkv;
  qkv.row_map = RowMap::GatePerHead;
  qkv.heads = 3;
  qkv.head_dim = 16;
  qkv.rows = 2 * 3 * 16 + 2 * 16;
  for (const Gemv *g : {&fc1, &qkv}) {
    std::vector<int> seen(size_t(g->rows), 0);
    for (int64_t row = 0; row < (g->rows + 15) / 16 * 16; row++)
      if (int64_t from = g->checkpointRow(row); from >= 0) seen[size_t(from)]++;
    CHECK(std::all_of(seen.begin(), seen.end(), [](int n) { return n == 1; }));
  }
  CHECK(fc1.checkpointRow(0) == 0);
  CHECK(fc1.checkpointRow(8) == 168);     // the up row of gate row 0
  CHECK(fc1.checkpointRow(16 + 3) == 11); // tile 1's fourth gate row
  CHECK(qkv.checkpointRow(16) == 32);     // head 1's q rows: behind head 0's q and gate
  CHECK(qkv.checkpointRow(48) == 16);     // head 0's gate
  CHECK(qkv.checkpointRow(96) == 96);     // k
}
