// plan_count.cpp: what one launch will do, counted from the plan: active CTAs, bulk copies, bytes.
#include "compiler/plan_internal.h"

#include <algorithm>

namespace phasec {
namespace {

using planning::ceilDiv;

const Step *findStep(const Plan &plan, ir::Op op) {
  for (const Body &b : plan.bodies)
    for (const Step &s : b.steps)
      if (s.op == op) return &s;
  return nullptr;
}

int activeCtas(const Gemv &g, int ctas) {
  if (g.assignment == Assignment::SlotCta) return std::min(ctas, g.slots);
  if (g.assignment == Assignment::Grid && ctas >= g.slots) return g.slots * int(std::min<int64_t>(ctas / g.slots, g.tiles));
  return int(std::min<int64_t>(ctas, g.tiles * g.slots));
}

int share(int64_t n, int64_t i, int64_t parts) { return int(n * i / parts); }

/// Copies that bring rows [begin, end) to one warp: per block K and V, a copy a row.
void countRows(const Attention &a, int begin, int end, StreamCount *n) {
  int rows = end - begin;
  n->copies += uint64_t(2 * rows);
  n->waits += uint64_t(2 * ((rows + a.block_rows - 1) / a.block_rows));
  n->bytes += uint64_t(2 * rows) * uint64_t(a.row_bytes);
}

void countAttention(const Plan &plan, const ir::Layer &layer, const Step &s, const std::vector<SequenceStep> &sequences, StreamCount *n) {
  const Attention &a = s.attention;
  int64_t kv_heads = layer.dim("kv_heads"), group = layer.dim("heads") / kv_heads, all = 0, tiles = 0;
  auto rowsOf = [&](const SequenceStep &q) { return q.context + (a.fresh_rows ? 0 : q.tokens); };
  auto tilesOf = [&](const SequenceStep &q) { return ceilDiv(q.tokens * group, kPairTile); };
  for (const SequenceStep &q : sequences) all += rowsOf(q) * tilesOf(q), tiles += tilesOf(q);
  int64_t full = std::max<int64_t>(a.kv_splits - tiles + 1, 1), chunk_rows = std::max<int64_t>(a.chunk_rows, ceilDiv(all, full));
  for (const SequenceStep &q : sequences) {
    int rows = rowsOf(q), chunks = int(std::clamp<int64_t>(ceilDiv(rows, chunk_rows), 1, a.kv_splits));
    int64_t times = kv_heads * tilesOf(q);
    StreamCount once;
    for (int c = 0; c < chunks; c++) {
      int begin = share(rows, c, chunks), length = share(rows, c + 1, chunks) - begin;
      int warps = a.fresh_rows && plan.warps > 1 && c == chunks - 1 ? plan.warps - 1 : plan.warps; // the last has this step's rows
      if (length > a.buffered_from) warps = std::min(warps, a.buffered_warps);
      for (int w = 0; w < warps; w++) countRows(a, begin + share(length, w, warps), begin + share(length, w + 1, warps), &once);
    }
    n->copies += times * once.copies;
    n->waits += times * once.waits;
    n->bytes += times * once.bytes;
  }
}

} // namespace

int activeWoCtas(const Plan &plan, int ctas) {
  const Step *wo = findStep(plan, ir::Op::wo);
  return wo ? activeCtas(wo->gemv, ctas) : 0;
}

int gatherCtas(const Plan &plan, int ctas) {
  const Step *wo = findStep(plan, ir::Op::wo);
  if (findStep(plan, ir::Op::gather)) return ctas;
  if (!wo) return 0;
  if (wo->gemv.fold == Fold::ElectedCta) return 1;
  return wo->gemv.fold == Fold::Consumers ? 0 : int(std::min<int64_t>(wo->gemv.tiles, ctas));
}

StreamCount countStream(const Plan &plan, const ir::Module &module, const std::vector<SequenceStep> &sequences) {
  StreamCount n;
  for (const Instance &i : plan.instances)
    for (const Step &s : plan.bodies[i.body].steps) {
      if (s.op == ir::Op::attn) countAttention(plan, module.layers[plan.bodies[i.body].layer], s, sequences, &n);
      if (!s.gemv.rows) continue;
      uint64_t granules = 0, copies = 0;
      for (const Segment &g : s.gemv.segments) {
        granules += uint64_t(g.granule_end - g.granule_begin);
        copies += g.granule_end > g.granule_begin;
      }
      n.copies += copies * s.gemv.tiles;
      n.waits += s.gemv.segments.size() * s.gemv.tiles;
      n.bytes += granules * s.gemv.tiles * s.gemv.granule_bytes;
    }
  return n;
}

} // namespace phasec
