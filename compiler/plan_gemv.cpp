// plan_gemv.cpp: how one GEMV is cut into slots and segments.
#include "compiler/plan_internal.h"

#include <algorithm>

namespace phasec::planning {

int64_t ceilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t granuleBytes(ir::Format format) {
  switch (format) {
  case ir::Format::bf16: return 2048;
  case ir::Format::fp8_e4m3: return 1024;
  case ir::Format::nvfp4: return 576;
  }
  return 0;
}

std::vector<std::pair<int64_t, int64_t>> woSlots(int64_t k, int64_t kv_heads, int64_t split, bool to_granules) {
  std::vector<std::pair<int64_t, int64_t>> bounds;
  int64_t per_head = k / kv_heads;
  auto bound = [&](int64_t head, int64_t i) {
    int64_t at = per_head * head + per_head * i / split;
    return to_granules && at < k ? at / kGranuleK * kGranuleK : at;
  };
  for (int64_t head = 0; head < kv_heads; head++)
    for (int64_t i = 0; i < split; i++) bounds.emplace_back(bound(head, i), bound(head, i + 1));
  return bounds;
}

SlotGranules granulesOf(const std::vector<std::pair<int64_t, int64_t>> &slots) {
  SlotGranules granules{INT64_MAX, 1};
  for (auto [begin, end] : slots) {
    int64_t count = ceilDiv(end, kGranuleK) - begin / kGranuleK;
    granules = {std::min(granules.least, count), std::max(granules.most, count)};
  }
  return granules;
}

std::vector<std::pair<int64_t, int64_t>> evenSlots(int64_t k, int64_t granules, int slots) {
  std::vector<std::pair<int64_t, int64_t>> bounds;
  for (int64_t i = 0; i < slots; i++)
    bounds.emplace_back(std::min(k, granules * i / slots * kGranuleK), std::min(k, granules * (i + 1) / slots * kGranuleK));
  return bounds;
}

void measureSegments(Gemv &gemv, int64_t slots, SlotGranules granules, int64_t stage_bytes) {
  int64_t per_stage = std::max<int64_t>(1, stage_bytes / gemv.granule_bytes);
  gemv.slots = int(slots);
  gemv.segments_per_slot = int(ceilDiv(granules.most, per_stage));
  gemv.segment_granules = int(ceilDiv(granules.most, gemv.segments_per_slot));
  gemv.segment_least = int(granules.least / gemv.segments_per_slot);
  gemv.operand_stride = int(granules.most * kGranuleK + 8); // the pad spreads tokens over shared-memory banks
}

void cutSegments(Gemv &gemv, const std::vector<std::pair<int64_t, int64_t>> &slots) {
  const int n = gemv.segments_per_slot;
  gemv.segments.clear();
  for (int s = 0; s < gemv.slots; s++) {
    auto [begin, end] = slots[size_t(s)];
    int64_t first = begin / kGranuleK, count = ceilDiv(end, kGranuleK) - first;
    for (int j = 0; j < n; j++) {
      int64_t g0 = first + count * j / n, g1 = first + count * (j + 1) / n;
      gemv.segments.push_back({s, j, std::max(begin, g0 * kGranuleK), std::min(end, g1 * kGranuleK), g0, g1});
    }
  }
}

} // namespace phasec::planning

namespace phasec {

int64_t Gemv::checkpointRow(int64_t row) const {
  if (row_map == RowMap::GateUp) {
    int64_t tile = row / kTileRows, in = row % kTileRows, half = kTileRows / 2;
    int64_t column = tile * half + in % half, width = rows / 2;
    return column >= width ? -1 : in < half ? column : width + column;
  }
  if (row >= rows) return -1;
  if (row_map == RowMap::GatePerHead && row < int64_t(2) * heads * head_dim) {
    int64_t gate = row / (int64_t(heads) * head_dim), head = row / head_dim % heads;
    return (head * 2 + gate) * head_dim + row % head_dim;
  }
  return row;
}

} // namespace phasec
