// prove.cpp: whether the plan is safe, from its access maps and events alone. It shares no code with event insertion and
// never looks at op names: a plan that was inserted wrongly cannot agree with itself here.
//
// What is shown today: each read of a workspace or output region that an earlier step of the body wrote is ordered after
// that write on every CTA, or waits for the words themselves, which are tagged, and the grid can be resident. Launches are separated by the
// stream, instances of a stack by a grid event, so nothing is carried over; or instances hand on tagged words (`chains`), and what an
// instance computes all goes into them: so no CTA still reads this one's buffers when another has a value of the next.
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

/// The CTA that owns the last unit of a GEMV's step, as gemv::share_units deals them; of another step any.
int ownerOfLast(const Gemv &g, int ctas) {
  if (!g.rows) return 0;
  if (g.assignment == Assignment::SlotCta) return g.slots - 1;
  int64_t fewest = ctas / g.slots; // CTAs of a slot, where slots have CTAs of their own
  bool dealt = g.assignment == Assignment::Balanced && g.slots > 1 && fewest > 0 &&
               (g.tiles + fewest - 1) / fewest <= (g.tiles * g.slots + ctas - 1) / ctas;
  return dealt || (g.assignment == Assignment::Grid && fewest > 0) ? int(fewest * g.slots) - 1 : ctas - 1;
}

/// A pair of CTAs that shows the race: the CTA that owns the last unit of the writer, and one that reads it.
std::string witness(const Body &body, int writer, int reader, const Access &read, int ctas) {
  const Step &w = body.steps[writer], &r = body.steps[reader];
  int owner = ownerOfLast(w.gemv, ctas), other = owner == 0 ? std::min(1, ctas - 1) : 0;
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

/// Whether what a step writes goes into what another writes, through any number of steps.
bool goesInto(const Body &body, int from, int to) {
  if (from == to) return true;
  for (const Access &write : body.steps[from].writes)
    for (int r = from + 1; r <= to; r++)
      for (const Access &read : body.steps[r].reads)
        if (read.region == write.region && goesInto(body, r, to)) return true;
  return false;
}

/// The regions of a body that are chained so.
std::vector<int> chained(const Body &body, Region::Chain chain) {
  std::vector<int> found;
  for (size_t r = 0; r < body.regions.size(); r++)
    if (body.regions[r].chain == chain) found.push_back(int(r));
  return found;
}

Status proveChain(const Plan &plan, const ir::Module &module) {
  if (!plan.chains) return {};
  for (size_t i = 0; i < plan.instances.size(); i++) {
    const Body &body = plan.bodies[plan.instances[i].body];
    std::string layer = "@" + module.layers[body.layer].name + ": instances hand on tagged words, ", remedy = "; set handoff = events";
    auto refuse = [&](const std::string &why) { return Status{ErrorKind::Proof, layer + why + remedy}; };
    if (plan.tokens_max > 1) return refuse("and a token may be a whole instance behind another");
    for (const Event &e : body.events)
      if (!e.carried) return refuse("and the event " + e.edge + " counts CTAs that may be in another instance");
    std::vector<int> in = chained(body, Region::Chain::In), out = chained(body, Region::Chain::Out);
    if (i > 0)
      for (size_t r = 0; r < body.regions.size(); r++)
        if (in.size() != 1 || (body.regions[r].space == Space::Table && body.regions[r].entry == body.regions[in[0]].entry && int(r) != in[0]))
          return refuse("and this one reads plain ones");
    if (i + 1 == plan.instances.size()) continue;
    if (out.size() != 1) return refuse("and this one writes none");
    const Step *last = nullptr;
    for (const Step &s : body.steps)
      for (const Access &write : s.writes)
        if (write.region == out[0]) last = &s;
    for (const Step &s : body.steps)
      if (!last || !goesInto(body, s.id, last->id))
        return refuse("and `" + s.label + "` goes into none of them: the next instance may overwrite what it reads");
  }
  return {};
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
  PHASEC_TRY(proveChain(plan, module));
  return proveResident(plan);
}

} // namespace phasec
