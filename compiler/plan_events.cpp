// plan_events.cpp: which events order the steps. With `sync = auto` the fewest and weakest that cover every dependence; with
// `sync = explicit` what the layer says. The proof (prove.cpp) does not look at this code.
#include "compiler/plan_internal.h"

#include <algorithm>
#include <map>

namespace phasec::planning {
namespace {

using ir::EventKind;
using ir::Op;

class Events {
public:
  Events(Plan &plan, Body &body, const ir::Layer &layer) : plan_(plan), body_(body), layer_(layer) {}

  void insertAuto() {
    for (Step &step : body_.steps) {
      int needed = -1; // the latest earlier step whose writes this step reads and nothing orders yet
      for (const Access &read : step.reads)
        if (int w = writer(read.region, step.id); w >= 0 && !ordered(w, step.id)) needed = std::max(needed, w);
      if (needed < 0) continue;
      std::string why;
      const Step &from = body_.steps[needed];
      bool only = onlyFrom(needed, step), counter = only && slicesMatch(from, step, &why), tiles = only && finishesTiles(from);
      add(counter || tiles ? EventKind::Counter : EventKind::Grid, needed, step.id,
          counter ? "readers need one slice each: " + why
          : tiles ? "every CTA reads what all CTAs wrote, and it is complete with the last row tile"
                  : "every CTA reads what all CTAs wrote");
    }
  }

  /// A step that finishes row tiles says itself when all are there. Everything before it must lie before some tile.
  void leave() {
    int last = int(body_.steps.size()) - 1;
    body_.leaves_by_tile = finishesTiles(body_.steps[size_t(last)]);
    for (int s = 0; s < last; s++) {
      bool before = std::any_of(body_.events.begin(), body_.events.end(),
                                [&](const Event &e) { return e.from_step == s && leadsTo(body_, e.to_step, last); });
      body_.leaves_by_tile = body_.leaves_by_tile && before;
    }
  }

  Status takeWritten() {
    for (const ir::EventStmt &e : layer_.events) {
      int from = stepWriting(e.from), to = stepReading(e.to);
      std::string edge = "%" + layer_.values[e.from].name + " -> %" + layer_.values[e.to].name;
      if (from < 0 || to < 0 || from >= to)
        return Status::input("event " + edge + ": both ends are computed in one step, so nothing can wait there; remove the event");
      std::string why;
      if (e.kind == EventKind::Counter && !slicesMatch(body_.steps[from], body_.steps[to], &why) && !finishesTiles(body_.steps[from]))
        return Status::input("event counter " + edge + ": slices of `" + body_.steps[from].label + "` and `" + body_.steps[to].label +
                             "` do not correspond; write `event grid " + edge + "`");
      add(e.kind, from, to, "written");
    }
    return {};
  }

private:
  int writer(int region, int before) const {
    for (int i = before - 1; i >= 0; i--)
      for (const Access &w : body_.steps[i].writes)
        if (w.region == region) return i;
    return -1;
  }

  bool ordered(int from, int to) const {
    for (const Event &e : body_.events) {
      if (e.kind == EventKind::Grid && e.from_step >= from && e.to_step <= to) return true;
      if (e.slices == 1 && e.from_step == from && leadsTo(body_, e.to_step, to)) return true;
    }
    return false;
  }

  /// Rows of the step's only result are finished tile by tile, each by one warp.
  static bool finishesTiles(const Step &s) {
    return (s.op == Op::wo || s.op == Op::fc2) && (s.gemv.fold == Fold::Direct || s.gemv.fold == Fold::Tagged || s.gemv.fold == Fold::Atomic);
  }

  /// True when everything unordered that `step` reads comes from step `from`, or lies behind what `from` waited for: who
  /// arrives there has seen it.
  bool onlyFrom(int from, const Step &step) const {
    for (const Access &read : step.reads)
      if (int w = writer(read.region, step.id); w >= 0 && w != from && !ordered(w, step.id) && !ordered(w, from)) return false;
    return true;
  }

  /// Whether a reader's slice is written by a countable set of arrivals.
  static bool slicesMatch(const Step &from, const Step &to, std::string *why) {
    if (from.op == Op::qkv && to.op == Op::attn) {
      *why = "the heads of a KV head";
      return true;
    }
    if (from.op == Op::attn && to.op == Op::wo && to.gemv.operand.transform == Transform::None) {
      *why = "the KV head that a slot multiplies";
      return true;
    }
    if (from.op == Op::fc1 && to.op == Op::fc2 && to.gemv.operand.transform != Transform::Norm) {
      *why = "the columns that a slot multiplies";
      return true;
    }
    return false;
  }

  void add(EventKind kind, int from, int to, std::string reason) {
    Event e;
    e.id = int(body_.events.size());
    e.kind = kind;
    e.from_step = from;
    e.to_step = to;
    const Step &a = body_.steps[from], &b = body_.steps[to];
    e.edge = producedBy(a) + " -> " + producedBy(b);
    e.reason = std::move(reason);
    if (kind == EventKind::Counter) countArrivals(e, a, b);
    body_.steps[from].signals.push_back(e.id);
    body_.steps[to].waits.push_back(e.id);
    body_.events.push_back(std::move(e));
  }

  void countArrivals(Event &e, const Step &from, const Step &to) const {
    int64_t group = layer_.dim("kv_heads") ? layer_.dim("heads") / layer_.dim("kv_heads") : 0;
    if (from.op == Op::qkv) {
      e.slices = int(layer_.dim("kv_heads"));
      bool gated = layer_.phases[from.phase].results.size() > 1;
      e.arrivals.assign(e.slices, (group * (gated ? 2 : 1) + 2) * (from.gemv.raw ? from.gemv.head_dim / kTileRows : 1));
    } else if (from.op == Op::attn) {
      e.slices = int(layer_.dim("kv_heads"));
      e.arrivals.assign(e.slices, group * plan_.tokens_max * kPairArrivals);
    } else if (from.op != Op::fc1) {
      e.arrivals = {from.gemv.tiles};
    } else {
      const Gemv &g = to.gemv;
      e.slices = g.slots;
      for (int s = 0; s < g.slots; s++) {
        int64_t begin = g.segments[s * g.segments_per_slot].k_begin, end = g.segments[(s + 1) * g.segments_per_slot - 1].k_end;
        e.arrivals.push_back(ceilDiv(end, kTileRows / 2) - begin / (kTileRows / 2));
      }
    }
  }

  /// "%h gather": what a step leaves behind; a wo step that folds its slots leaves the gathered value.
  std::string producedBy(const Step &s) const {
    const ir::Phase *p = &layer_.phases[s.phase];
    if (s.op == Op::wo && s.results[0] >= 0)
      for (const ir::Phase &q : layer_.phases)
        if (q.op == Op::gather && q.operands[0] == p->results[0]) p = &q;
    return "%" + layer_.values[p->results[0]].name + " " + ir::name(p->op);
  }

  /// The step in which a value is written.
  int stepWriting(ir::ValueId v) const {
    for (const Step &s : body_.steps) {
      const ir::Phase &p = layer_.phases[s.phase];
      if (std::count(p.results.begin(), p.results.end(), v)) return s.id;
    }
    const ir::Phase *p = layer_.producer(v);
    if (p && (p->op == Op::gather || p->op == Op::argmax)) return stepWriting(p->operands[0]); // inside the wo or head step
    return -1;
  }

  /// The step that computes a value: for a staged norm, its first consumer.
  int stepReading(ir::ValueId v) const {
    if (int s = stepWriting(v); s >= 0) return s;
    for (const Step &s : body_.steps)
      if (layer_.phases[s.phase].operands[0] == v) return s.id;
    return -1;
  }

  Plan &plan_;
  Body &body_;
  const ir::Layer &layer_;
};

} // namespace

Status insertEvents(Plan &plan, Body &body, const ir::Layer &layer) {
  Events events(plan, body, layer);
  if (layer.sync == ir::Sync::Explicit) PHASEC_TRY(events.takeWritten());
  else events.insertAuto();
  events.leave();
  return {};
}

namespace {

/// Bytes that pass through L2 when a CTA stages them: beyond this a tag costs what it saves (tests/bench/README.md).
constexpr int64_t kTaggedBytesMax = 132 << 10;

/// Whether the words of a region can say that they are there: 4, 2 or 1 values a word, or 0.
class Carrier {
public:
  Carrier(const Plan &plan, const Body &body) : plan_(plan), body_(body) {}

  int values(int region) const {
    const Region &r = body_.regions[size_t(region)];
    if (r.space != Space::Workspace || (r.dtype != "f32" && r.dtype != "bf16") || r.shape.back() % 8) return 0;
    int values = 4;
    for (const Step &s : body_.steps)
      for (const Access &w : s.writes) {
        if (w.region != region) continue;
        if (!writes(s, region)) return 0;
        values = std::min(values, valuesWritten(s, r));
      }
    for (const Step &s : body_.steps)
      for (const Access &read : s.reads)
        if (read.region == region && !reads(s, region, values)) return 0;
    return values;
  }

private:
  static bool writes(const Step &s, int region) {
    if (s.op == Op::qkv) return region == s.gemv.raw_region;
    if (s.op == Op::attn || s.op == Op::fc1) return region == s.results[0];
    return (s.op == Op::wo || s.op == Op::fc2 || s.op == Op::gather) && region == s.results[0] && s.gemv.fold != Fold::ElectedCta;
  }
  /// What a lane has of neighbouring columns, or its neighbours have.
  int valuesWritten(const Step &s, const Region &r) const {
    if (s.op == Op::fc1) return 2;
    if (s.op == Op::attn) return r.dtype == "bf16" ? 2 : 1;
    return r.dtype == "f32" && (s.op == Op::wo || s.op == Op::fc2) ? 4 : 1; // bf16 is rounded before it is stored, one by one
  }
  bool reads(const Step &s, int region, int values) const {
    if (s.op == Op::attn) return s.attention.heads_step >= 0;
    if (s.op == Op::gather) return region == s.operands[1];
    if (!s.gemv.rows) return false;
    bool residual = (s.op == Op::wo || s.op == Op::fc2) && region == s.operands[2];
    if (region != s.gemv.operand.region) return residual;
    return plan_.tokens_max * s.gemv.operand_stride * taggedBytes(values) <= kTaggedBytesMax;
  }

  const Plan &plan_;
  const Body &body_;
};

} // namespace

/// Attention needs the gates last, and tags tell them from the other rows: q, then as many gates, then K and V.
static void deferGates(Step &qkv, const ir::Layer &layer) {
  Gemv &g = qkv.gemv;
  const int64_t rows = int64_t(g.heads) * g.head_dim;
  if (layer.phases[qkv.phase].results.size() < 2 || g.slots > 1 || rows % kTileRows != 0) return;
  g.late_begin = rows / kTileRows;
  g.late_end = 2 * g.late_begin;
}

void carryEvents(const Plan &plan, Body &body, const ir::Layer &layer) {
  if (layer.sync == ir::Sync::Explicit || plan.schedule.word("handoff") == "events") return;
  std::map<int, int> handed; // region, values of a word
  for (const Step &reader : body.steps)
    for (const Access &read : reader.reads)
      for (const Step &writer : body.steps)
        for (const Access &write : writer.writes)
          if (writer.id < reader.id && write.region == read.region && !handed.count(read.region))
            handed[read.region] = Carrier(plan, body).values(read.region);
  if (std::any_of(handed.begin(), handed.end(), [](const auto &r) { return r.second == 0; })) return;
  for (auto [region, values] : handed) body.regions[size_t(region)].tagged = values;
  for (Event &e : body.events) e.carried = true;
  for (const Step &s : body.steps)
    if (s.op == ir::Op::attn && s.attention.heads_step >= 0) deferGates(body.steps[size_t(s.attention.heads_step)], layer);
}

/// The step whose first result an instance of `body` hands to the next one; null: not in words that may be tagged.
static const Step *chainedOutput(const Body &body) {
  auto entry = std::find_if(body.table.begin(), body.table.end(), [](const TableEntry &e) { return e.kind == TableEntry::Kind::Output; });
  for (const Step &s : body.steps)
    for (const Access &w : s.writes) {
      const Region &r = body.regions[size_t(w.region)];
      if (r.space != Space::Table || r.entry != int(entry - body.table.begin()) || r.dtype != "bf16" || r.shape.back() % 8) continue;
      bool finishes = (s.op == ir::Op::wo || s.op == ir::Op::fc2) && (s.gemv.fold == Fold::Direct || s.gemv.fold == Fold::Tagged);
      return (finishes || s.op == ir::Op::embed) && w.region == s.results[0] ? &s : nullptr;
    }
  return nullptr;
}
/// The region that an instance takes from the one before; -1: likewise.
static int chainedInput(const Body &body) {
  auto entry = std::find_if(body.table.begin(), body.table.end(), [](const TableEntry &e) { return e.kind == TableEntry::Kind::Input; });
  int found = -1;
  for (const Step &s : body.steps)
    for (const Access &a : s.reads) {
      const Region &r = body.regions[size_t(a.region)];
      if (r.space != Space::Table || r.entry != int(entry - body.table.begin())) continue;
      bool staged = s.gemv.rows && a.region == s.gemv.operand.region, residual = (s.op == ir::Op::wo || s.op == ir::Op::fc2) && a.region == s.operands[2];
      if ((!staged && !residual) || r.dtype != "bf16" || r.shape.back() % 8 || s.gemv.fold == Fold::ElectedCta || s.gemv.fold == Fold::Consumers) return -1;
      found = a.region;
    }
  return found;
}

void chainInstances(Plan &plan, const ir::Module &module) {
  if (plan.tokens_max != 1 || plan.instances.size() < 2) return;
  std::vector<std::pair<Region *, Region::Chain>> chained;
  for (size_t i = 0; i < plan.instances.size(); i++) {
    Body &body = plan.bodies[size_t(plan.instances[i].body)];
    if (std::any_of(body.events.begin(), body.events.end(), [](const Event &e) { return !e.carried; })) return;
    if (module.layers[size_t(body.layer)].sync == ir::Sync::Explicit || plan.schedule.word("handoff") == "events") return;
    if (i > 0) {
      int in = chainedInput(body);
      if (in < 0) return;
      chained.push_back({&body.regions[size_t(in)], Region::Chain::In});
    }
    if (i + 1 < plan.instances.size()) {
      const Step *last = chainedOutput(body);
      if (!last || std::any_of(body.steps.begin(), body.steps.end(), [&](const Step &s) { return !leadsTo(body, s.id, last->id); })) return;
      chained.push_back({&body.regions[size_t(last->results[0])], Region::Chain::Out});
    }
  }
  for (auto [region, chain] : chained) region->chain = chain;
  plan.chains = true;
}

} // namespace phasec::planning

bool phasec::leadsTo(const Body &body, int from, int to) {
  return from == to || std::any_of(body.events.begin(), body.events.end(),
                                   [&](const Event &e) { return e.to_step == to && e.from_step >= from && leadsTo(body, from, e.from_step); });
}
