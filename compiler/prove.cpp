// prove.cpp: whether the plan is safe, from its access maps and events alone. It shares no code with event insertion and
// never looks at op names: a plan that was inserted wrongly cannot agree with itself here.
//
// What is shown today: each read of a workspace or output region that an earlier step of the body wrote is ordered after
// that write on every CTA, and the grid can be resident. Instances of a stack are separated by a grid event, launches by the
// stream, so nothing is carried over.
#include "compiler/plan.h"

#include <algorithm>

namespace phasec {
namespace {

using Map = Access::Map;

/// What a counter event's slices stand for: how its writer's and reader's maps must look for a slice to cover a read.
bool counterCovers(const Event &e, Map write, Map read, int slots) {
  if (write == Map::ByKvHead && read == Map::ByKvHead) return true;
  return write == Map::ByTile && read == Map::BySlot && e.slices == slots;
}

bool covers(const Body &body, const Event &e, int writer, const Access &write, int reader, const Access &read) {
  if (e.kind == ir::EventKind::Grid) return e.from_step >= writer && e.to_step <= reader;
  return e.from_step == writer && e.to_step == reader && counterCovers(e, write.map, read.map, body.steps[reader].gemv.slots);
}

/// A pair of CTAs that shows the race: the CTA that owns the last unit of the writer, and one that reads it.
std::string witness(const Body &body, const ir::Layer &layer, int writer, int reader, const Access &read, int ctas) {
  const Step &w = body.steps[writer], &r = body.steps[reader];
  int64_t units = std::max<int64_t>(1, w.gemv.tiles * w.gemv.slots);
  int owner = w.gemv.assignment == Assignment::SlotCta && w.gemv.rows ? w.gemv.slots - 1 : int(std::min<int64_t>(ctas, units) - 1);
  int other = owner == 0 ? std::min(1, ctas - 1) : 0;
  std::string part = body.regions[read.region].slots > 1 ? "[slot " + std::to_string(body.regions[read.region].slots - 1) + "]" : "";
  auto result = [&](const Step &s) { return "%" + layer.values[layer.phases[s.phase].results[0]].name; };
  return "witness: CTA " + std::to_string(other) + " reads " + body.regions[read.region].name + part + " in `" + r.label +
         "` while CTA " + std::to_string(owner) + " may still write it in `" + w.label + "`; no event orders the two\n" +
         "remedy: write `event grid " + result(w) + " -> " + result(r) + "`, or use `sync auto`";
}

std::pair<int, int> lineColumn(const std::string &text, uint32_t offset) {
  int line = 1, column = 1;
  for (uint32_t i = 0; i < offset && i < text.size(); i++) {
    column = text[i] == '\n' ? 1 : column + 1;
    line += text[i] == '\n';
  }
  return {line, column};
}

std::string lineAt(const std::string &text, uint32_t offset) {
  size_t begin = text.rfind('\n', offset ? offset - 1 : 0);
  begin = begin == std::string::npos || offset == 0 ? 0 : begin + 1;
  return text.substr(begin, text.find('\n', begin) - begin);
}

/// A located diagnostic in the form of the verifier's.
std::string located(const ir::Module &module, ir::Range range, const std::string &message) {
  auto [line, column] = lineColumn(module.text, range.begin);
  return module.path + ":" + std::to_string(line) + ":" + std::to_string(column) + ": error: " + message + "\n" +
         lineAt(module.text, range.begin) + "\n" + std::string(size_t(column - 1), ' ') + "^";
}

Status proveReads(const Plan &plan, const ir::Module &module, const Body &body) {
  const ir::Layer &layer = module.layers[body.layer];
  int ctas = plan.ctas_pinned ? plan.ctas_pinned : plan.target->sm_counts.front();
  for (const Step &r : body.steps)
    for (const Access &read : r.reads)
      for (int w = 0; w < r.id; w++)
        for (const Access &write : body.steps[w].writes) {
          if (write.region != read.region) continue;
          bool covered = std::any_of(body.events.begin(), body.events.end(),
                                     [&](const Event &e) { return covers(body, e, w, write, r.id, read); });
          if (covered) continue;
          return {ErrorKind::Proof, located(module, layer.phases[r.phase].op_range,
                                            "`" + r.label + "` reads what other CTAs write, and no event comes between") +
                                        "\n" + witness(body, layer, w, r.id, read, ctas)};
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
  return proveResident(plan);
}

} // namespace phasec
