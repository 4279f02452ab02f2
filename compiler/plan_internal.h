// plan_internal.h: the pieces of the planner, in the order in which plan() runs them.
#pragma once

#include "compiler/plan.h"

#include <utility>

namespace phasec::planning {

int64_t ceilDiv(int64_t a, int64_t b);
int64_t granuleBytes(ir::Format format);

/// K bounds of wo's slots: slot by * split + bx owns [by*Kh + Kh*bx/split, by*Kh + Kh*(bx+1)/split), Kh = k / kv_heads,
/// rounded down to granules when `to_granules` (math = fast).
std::vector<std::pair<int64_t, int64_t>> woSlots(int64_t k, int64_t kv_heads, int64_t split, bool to_granules);
/// K bounds of `slots` nearly equal runs of granules.
std::vector<std::pair<int64_t, int64_t>> evenSlots(int64_t k, int64_t granules, int slots);
/// Granules of the shortest and the longest slot.
struct SlotGranules {
  int64_t least, most;
};
SlotGranules granulesOf(const std::vector<std::pair<int64_t, int64_t>> &slots);
/// Every slot has the same number of segments, each at most a stage: their number, their granules and operand_stride.
void measureSegments(Gemv &gemv, int64_t slots, SlotGranules granules, int64_t stage_bytes);
/// Fills the segments of what was measured.
void cutSegments(Gemv &gemv, const std::vector<std::pair<int64_t, int64_t>> &slots);

/// Lowers a layer to steps, table entries and regions: everything but sizes that depend on shared memory.
Result<Body> lower(const ir::Module &module, int layer, const Schedule &schedule);

/// Chooses warps, stages and slots so that every step fits the target's shared memory; cuts the GEMVs.
Status fitShared(Plan &plan, const ir::Module &module);

/// Inserts events (sync = auto), or takes those that are written (sync = explicit).
Status insertEvents(Plan &plan, Body &body, const ir::Layer &layer);

/// Bytes of a value in a word of so many and a tag.
inline int64_t taggedBytes(int values) { return values == 1 ? 8 : 4; }
/// Lets tagged words carry the events of a body, where all that its steps hand on can be tagged and little is staged: a tag
/// saves a release, an acquire and a load, each a trip to memory.
void carryEvents(const Plan &plan, Body &body, const ir::Layer &layer);

/// For one token, instances of a stack hand on tagged words instead of waiting for an event, where all of them can and everything
/// that an instance computes goes into what it hands on.
void chainInstances(Plan &plan, const ir::Module &module);

/// Gives every region, event and election its place in the workspace.
void placeWorkspace(Plan &plan, const ir::Module &module);

} // namespace phasec::planning
