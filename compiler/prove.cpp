// prove.cpp: whether the plan is safe, from its access maps and events alone. It shares no code with event insertion and
// never looks at op names: a plan that was inserted wrongly cannot agree with itself here.
//
// What is shown today: each read of a workspace or output region that an earlier step of the body wrote is ordered after
// that write on every CTA, or waits for the words themselves, which are tagged, and the grid can be resident. Instances of a stack are separated by a grid event, launches by the
// stream, so nothing is carried over.
#include "compiler/plan.h"
#include "ir/diagnostics.h"

#include <algorithm>

namespace phasec {
namespace {

using Map = Access::Map;

/// Whether a step lies behind the wait of another: it is the same, or it waits for a step that does.
bool behind(const Body &body, int wait, int step) {
  if (wait == step) return true;
  for (const Event &e : body.events)
    if (!e.carried && e.to_step == step && e.from_step >= wait && behind(body, wait, e.from_step)) return true;
  return false;
}

/// A counter without slices that every row tile arrives at covers all that the step writes.
bool countsTiles(const Body &body, const Event &e) {
  const Gemv &g = body.steps[e.from_step].gemv;
  return e.slices == 1 && g.rows > 0 && e.arrivals == std::vector<int64_t>{g.tiles};
}

/// What a counter event's slices stand for: how its writer's and reader's maps must look for a slice to cover a read.
bool counterCovers(const Event &e, Map write, Map read, int slots) {
  if (write == Map::ByKvHead && read == Map::ByKvHead) return true;
  return write == Map::ByTile && read == Map::BySlot && e.slices == slots;
}

bool covers(const Body &body, const Event &e, int writer, const Access &write, int reader, const Access &read) {
  if (e.carried) return false;
  if (e.kind == ir::EventKind::Grid) return e.from_step >= writer && e.to_step <= reader;
  if (e.from_step == writer && countsTiles(body, e) && behind(body, e.to_step, reader)) return true;
  return e.from_step == writer && e.to_step == reader && counterCovers(e, write.map, read.map, body.steps[reader].gemv.slots);
}

std::string resultOf(const ir::Layer &layer, const Step &s) { return "%" + layer.values[layer.phases[s.phase].results[0]].name; }

/// A pair of CTAs that shows the race: the CTA that owns the last unit of the writer, and one that reads it.
std::string witness(const Body &body, int writer, int reader, const Access &read, int ctas) {
  const Step &w = body.steps[writer], &r = body.steps[reader];
  int64_t units = std::max<int64_t>(1, w.gemv.tiles * w.gemv.slots);
  int owner = w.gemv.assignment == Assignment::SlotCta && w.gemv.rows ? w.gemv.slots - 1 : int(std::min<int64_t>(ctas, units) - 1);
  int other = owner == 0 ? std::min(1, ctas - 1) : 0;
  const Region &region = body.regions[read.region];
  std::string part = region.slots > 1 ? "[slot " + std::to_string(region.slots - 1) + "]" : "";
  return "witness: CTA " + std::to_string(other) + " reads " + region.name + part + " in `" + r.label + "` while CTA " +
         std::to_string(owner) + " may still write it here";
}

Status proveReads(const Plan &plan, const ir::Module &module, const Body &body) {
  const ir::Layer &layer = module.layers[body.layer];
  int ctas = plan.ctas_pinned ? plan.ctas_pinned : plan.target->sm_counts.front();
  ir::Diagnostics found;
  for (const Step &r : body.steps)
    for (const Access &read : r.reads)
      for (int w = 0; w < r.id; w++)
        for (const Access &write : body.steps[w].writes) {
          bool covered = write.region != read.region || body.regions[read.region].tagged ||
                         std::any_of(body.events.begin(), body.events.end(),
                                     [&](const Event &e) { return covers(body, e, w, write, r.id, read); });
          if (covered) continue;
          const Step &writer = body.steps[w];
          found
              .error(layer.phases[r.phase].op_range, "`" + r.label + "` reads what other CTAs write, and no event comes between; write `event grid " +
                                                         resultOf(layer, writer) + " -> " + resultOf(layer, r) + "` before it, or use `sync auto`")
              .note(layer.phases[writer.phase].op_range, witness(body, w, r.id, read, ctas));
        }
  if (found.empty()) return {};
  return {ErrorKind::Proof, found.status(module.path, module.text).text()};
}

Status proveResident(const Plan &plan) {
  int most = plan.target->sm_counts.front();
  if (plan.ctas_pinned > most)
    return {ErrorKind::Proof, "ctas = " + std::to_string(plan.ctas_pinned) + ": a CTA of this kernel fills an SM (" +
                                  std::to_string(plan.shared.bytes) + " bytes of shared memory, launch bound 1), and the largest " +
                                  plan.target->name + " part has " + std::to_string(most) +
                                  " SMs, so the grid can never be resident; set ctas <= " + std::to_string(most)};
  return {};
}

} // namespace

Status prove(const Plan &plan, const ir::Module &module) {
  for (const Body &body : plan.bodies) PHASEC_TRY(proveReads(plan, module, body));
  return proveResident(plan);
}

} // namespace phasec
