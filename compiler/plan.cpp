// plan.cpp: plan(): lower each layer, fit the launch into shared memory, order it with events, place the workspace.
#include "compiler/plan_internal.h"

#include <algorithm>
#include <map>
#include <optional>

namespace phasec {
namespace planning {
namespace {

constexpr int64_t kStepBytes = 256, kUnitBytes = 128; // templates: sequences::StepArrays, attn::Known
constexpr int kBlockRows = 16;        // KV rows of a stage
constexpr int kSlotsMax = 16;         // slots of a GEMV other than wo
constexpr int kFc2Slots = 4;          // fewest of fc2: a CTA stages little, and starts when that is there (tests/bench/README.md)
constexpr double kImbalanceMax = 1.04;

int64_t align(int64_t v, int64_t to) { return (v + to - 1) / to * to; }
/// Templates: Ring, a count per stage and per warp.
int64_t readsBytes(int stages, int warps) { return align((stages + warps) * 4, 128); }

/// Bytes of the stream that a CTA may have under way in kernels for one token, or two where words are taken apart: what a CTA loads from L2
/// waits behind all of them. With four tokens a limit cost 1 %, with eight it gained as much (tests/bench/README.md).
constexpr int64_t kUnpackWindowBytes = 74 << 10, kWindowBytes = 64 << 10;

/// Eight queries: fp32, or 16-bit with a pad and the factors of their scores.
int64_t queryBytes(const Attention &a, int64_t head_dim) {
  int64_t padded = ceilDiv(a.row_bytes, 64) * 64 * head_dim / a.row_bytes + 8;
  return align(kPairTile * std::max(4 * head_dim, 2 * padded + 8), 128);
}
/// The states of half the warps; before they are stored, this step's K and V rows.
int64_t stateBytes(const Attention &a, int warps, int tokens) {
  return std::max<int64_t>(4 * a.state_floats * ((warps + 1) / 2), 2 * a.row_stride * tokens);
}

/// The geometry that is tried: everything else follows from it.
struct Geometry {
  int warps, stages;
  int64_t stage_bytes;
};

/// What the steps need of shared memory besides the ring, for given slot counts.
struct Need {
  int64_t operand = 0, pieces = 0, queries = 0, states = 0, scratch = 0;
  int64_t work() const { return std::max(operand + pieces, queries + states); } // a barrier lies between a GEMV and attention
  int64_t bytes() const { return work() + scratch; }
};

class Fitting {
public:
  Fitting(Plan &plan, const ir::Module &module) : plan_(plan), module_(module) {}

  Status run() {
    const Schedule &s = plan_.schedule;
    std::vector<int> warps = {12, 8, 4, 3, 1}; // three and a feeder for each of an SM's schedulers
    if (!plan_.target->register_moves) warps = {11, 15, 7, 3, 1}; // more would have too few registers
    if (!plan_.target->bulk_copy) warps = {7, 11, 15, 3, 1}; // copying takes registers, and eleven warps would spill some
    else if (!unpacks() && plan_.tokens_max == 1) warps.insert(warps.begin(), 9); // bytes pass quickly: fewer warps, fewer meetings
    if (int64_t w = s.integer("warps")) warps = {int(w)};
    // Not every length that fits: tests/bench/README.md.
    std::vector<int> stages = {44, 40, 32, 28, 24, 20, 16, 12, 8, 6, 4, 3, 2};
    if (int64_t r = s.integer("ring")) {
      if (r < 2) return Status::usage("ring = 1: a ring needs at least two stages (K and V rows are consumed together)");
      stages = {int(r)};
    }
    for (int w : warps)
      if (longest(w, stages, w + w / 2) || longest(w, stages, 2)) return {};
    return Status::input("this schedule needs more shared memory than " + std::string(plan_.target->name) + " has (" +
                         std::to_string(plan_.target->shared_bytes_max) + " bytes per CTA); set a larger wo_split, fewer warps, " +
                         "a shorter ring or a smaller tokens_max");
  }

private:
  /// A long ring hides more of a wait, but a GEMV whose operand does not fit beside it is cut into slots, which costs a
  /// round through memory: the longest ring of at least `least` stages with the fewest slots, if there is one.
  bool longest(int warps, const std::vector<int> &stages, int least) {
    std::optional<std::pair<int64_t, Geometry>> best; // slots
    for (int64_t most : stageLimits())
      for (int r : stages) {
        if (r < least && stages.size() > 1) break;
        Geometry g{warps, r, stageBytes(most)};
        if (!fits(g) || (best && stagedSlots() >= best->first)) continue;
        best = {stagedSlots(), g};
        if (best->first == stagedGemvs()) return true; // as `g` has just been fitted
      }
    return best && fits(best->second);
  }

  /// Bytes that a stage may have: 8, 16, 6 and 4 granules of NVFP4. Others pass quickly: longer stages, fewer turns, 8 granules of FP8.
  std::vector<int64_t> stageLimits() const {
    return unpacks() ? std::vector<int64_t>{4608, 9216, 3456, 2304} : std::vector<int64_t>{8192, 4608, 3456, 2304};
  }

  /// Whether words of weights are taken apart before they are multiplied: more warps are needed to keep up with the bytes.
  bool unpacks() const {
    for (const Body &b : plan_.bodies)
      for (const Step &s : b.steps)
        if (s.gemv.rows && s.gemv.format == ir::Format::nvfp4) return true;
    return false;
  }

  /// The GEMVs that every CTA stages whole operands for, and their slots.
  int64_t stagedGemvs() const {
    int64_t n = 0;
    for (const Body &b : plan_.bodies)
      for (const Step &s : b.steps) n += s.op == ir::Op::qkv || s.op == ir::Op::fc1;
    return n;
  }
  int64_t stagedSlots() const {
    int64_t slots = 0;
    for (const Body &b : plan_.bodies)
      for (const Step &s : b.steps)
        if (s.op == ir::Op::qkv || s.op == ir::Op::fc1) slots += s.gemv.slots;
    return slots;
  }

  /// What the largest segment or block of KV rows within `most` bytes takes; two granules of any weight and one KV row at least.
  int64_t stageBytes(int64_t most) const {
    int64_t bytes = 0;
    for (const Body &b : plan_.bodies)
      for (const Step &s : b.steps) {
        if (int64_t granule = s.gemv.granule_bytes) bytes = std::max(bytes, std::max<int64_t>(2, most / granule) * granule);
        if (int64_t row = s.attention.row_stride) bytes = std::max(bytes, std::clamp<int64_t>(most / row, 1, kBlockRows) * row);
      }
    return align(bytes, 128);
  }

  /// 16-bit rows per token.
  int64_t operandBytes(const Gemv &g) const { return align(int64_t(plan_.tokens_max) * g.operand_stride * 2, 128); }

  std::vector<std::pair<int64_t, int64_t>> slotsOf(const Body &body, const Step &step, int slots) const {
    const Gemv &g = step.gemv;
    if (step.op != ir::Op::wo) return evenSlots(g.cols, g.granules, slots);
    bool to_granules = plan_.schedule.word("math") == "fast";
    return woSlots(g.cols, module_.layers[body.layer].dim("kv_heads"), plan_.schedule.integer("wo_split"), to_granules);
  }

  void measure(const Body &body, Step &step, const Geometry &geometry, int slots) const {
    Gemv &g = step.gemv;
    if (step.op != ir::Op::wo) return measureSegments(g, slots, {g.granules / slots, ceilDiv(g.granules, slots)}, geometry.stage_bytes);
    auto bounds = slotsOf(body, step, slots);
    measureSegments(g, int64_t(bounds.size()), granulesOf(bounds), geometry.stage_bytes);
  }

  /// Fewest slots that fit; of fc2, whose K is long, as many as keep the CTAs within 4 % of each other, and four at least.
  bool chooseSlots(Body &body, Step &step, const Geometry &geometry, int64_t available) {
    Gemv &g = step.gemv;
    int64_t ctas = plan_.ctas_pinned ? plan_.ctas_pinned : plan_.target->sm_counts.front();
    bool fitting = false;
    int limit = step.op == ir::Op::wo ? 1 : int(std::min<int64_t>(kSlotsMax, g.granules));
    for (int slots = step.op == ir::Op::fc2 ? std::min(kFc2Slots, limit) : 1; slots <= limit; slots++) {
      measure(body, step, geometry, slots);
      if (operandBytes(g) > available) continue;
      fitting = true;
      double units = double(g.tiles) * g.slots, most = double(ceilDiv(g.tiles * g.slots, ctas));
      if (step.op != ir::Op::fc2 || slots >= 8 || units < double(ctas) || most * double(ctas) / units <= kImbalanceMax) break;
    }
    return fitting;
  }

  /// Cuts every GEMV for a geometry and takes it when all fits.
  bool fits(const Geometry &geometry) {
    int64_t fixed = geometry.stages * (geometry.stage_bytes + 8) + 128 + unitsBytes() + stretchesBytes() + readsBytes(geometry.stages, geometry.warps) + tileBytes(geometry) + arrivedBytes(geometry) + zerosBytes(geometry) +
                    kStepBytes + tableBytes() + feederTablesBytes(geometry) + geometry.warps * kUnitBytes + owedBytes() + leftBytes() + 384;
    int64_t available = plan_.target->shared_bytes_max - fixed;
    if (available <= 0) return false;
    Need need;
    for (Body &body : plan_.bodies)
      for (Step &step : body.steps) {
        if (step.gemv.rows) {
          need.pieces = piecesBytes(geometry);
          if (!chooseSlots(body, step, geometry, available - need.pieces)) return false;
          need.operand = std::max(need.operand, operandBytes(step.gemv));
        }
        if (step.op != ir::Op::attn) continue;
        need.queries = std::max(need.queries, queryBytes(step.attention, module_.layers[body.layer].dim("head_dim")));
        need.states = std::max(need.states, stateBytes(step.attention, geometry.warps, plan_.tokens_max));
      }
    need.scratch = scratchBytes();
    if (need.bytes() > available) return false;
    accept(geometry, need);
    return true;
  }

  int64_t tileBytes(const Geometry &geometry) const { return align(int64_t(geometry.warps) * plan_.tokens_max * kTileRows * 4, 128); }
  /// templates/fold.cuh: two row tiles of each warp.
  int64_t piecesBytes(const Geometry &geometry) const { return 2 * tileBytes(geometry); }
  int64_t arrivedBytes(const Geometry &geometry) const { return align(geometry.warps * 4, 128); }
  /// templates/core/fast/segment.cuh: as much as a column of a segment, where columns have one block of k each.
  int64_t zerosBytes(const Geometry &geometry) const {
    bool by_block = plan_.schedule.word("math") == "fast" && plan_.tokens_max <= 2 && unpacks();
    return by_block ? align(geometry.stage_bytes / granuleBytes(ir::Format::nvfp4) * kGranuleK * 2, 128) : 0;
  }
  /// Templates: stream::kTables a feeder.
  int64_t feederTablesBytes(const Geometry &geometry) const { return 4 * feedersOf(geometry.warps) * tableBytes(); }
  int64_t tableBytes() const { return int64_t(plan_.table_entries) * 8; }
  /// Events do not exist yet: at most one before each step, or those that are written, with a slice per KV head or slot.
  int64_t owedBytes() const {
    int64_t words = 1;
    for (const Body &b : plan_.bodies) {
      const ir::Layer &layer = module_.layers[b.layer];
      words += int64_t(std::max(b.steps.size(), layer.events.size())) * std::max<int64_t>(kSlotsMax, layer.dim("kv_heads"));
    }
    return align(words * 4, 8);
  }
  int64_t leftBytes() const { return unitsBytes() / 4; }

  /// What a CTA knows of every step's share: its units, or the chunks of each sequence.
  int64_t unitsBytes() const { return align(steps() * 16, 128); }
  int64_t steps() const {
    int64_t n = 0;
    for (const Body &b : plan_.bodies) n += int64_t(b.steps.size());
    return n;
  }

  /// Templates: stream::kStretches a step.
  int64_t stretchesBytes() const { return align(steps() * 3 * 24, 128); }

  /// Factors of the staged operand: one per token and segment, the norm's and its partial sums; a word for CTA elections.
  int64_t scratchBytes() const {
    int64_t floats = 4;
    for (const Body &b : plan_.bodies)
      for (const Step &s : b.steps) {
        int64_t sums = s.gemv.operand.transform == Transform::Norm ? 1 + ceilDiv(s.gemv.cols, 512) + s.gemv.segments_per_slot : 0;
        floats = std::max(floats, plan_.tokens_max * (s.gemv.segments_per_slot + sums));
      }
    return align(floats * 4, 128);
  }

  void accept(const Geometry &geometry, const Need &need) {
    plan_.warps = geometry.warps;
    plan_.stream.stages = geometry.stages;
    plan_.stream.stage_bytes = geometry.stage_bytes;
    int64_t window = plan_.schedule.integer("window");
    bool limits = plan_.schedule.word("math") == "fast" && plan_.tokens_max <= (unpacks() ? 2 : 1);
    if (!window) window = limits ? (unpacks() ? kUnpackWindowBytes : kWindowBytes) / geometry.stage_bytes : geometry.stages;
    plan_.stream.window = int(std::clamp<int64_t>(window, 1, geometry.stages));
    plan_.stream.prefetches = plan_.tokens_max == 1 && plan_.stream.window < geometry.stages && !unpacks(); // measured: what is unpacked comes no sooner, and long contexts later
    SharedLayout &l = plan_.shared;
    l.ring = 0;
    l.barriers = geometry.stages * geometry.stage_bytes;
    l.units = l.barriers + align(geometry.stages * 8, 128);
    l.stretches = l.units + unitsBytes();
    l.reads = l.stretches + stretchesBytes();
    l.step = l.reads + readsBytes(geometry.stages, geometry.warps);
    l.table = l.step + kStepBytes;
    l.feeder_tables = l.table + tableBytes();
    l.owed = l.feeder_tables + feederTablesBytes(geometry);
    l.left = l.owed + owedBytes();
    l.attention_units = l.left + leftBytes();
    l.arrived = align(l.attention_units + geometry.warps * kUnitBytes, 128);
    l.tile = l.arrived + arrivedBytes(geometry);
    l.zeros = l.tile + tileBytes(geometry);
    l.scratch = l.zeros + zerosBytes(geometry);
    l.operand = l.scratch + need.scratch;
    l.pieces = l.operand + need.operand;
    l.states = l.operand + need.queries;
    l.bytes = l.operand + need.work();
    for (Body &b : plan_.bodies)
      for (Step &s : b.steps)
        if (s.op == ir::Op::attn) s.attention.block_rows = int(std::min<int64_t>(kBlockRows, geometry.stage_bytes / s.attention.row_stride));
        else if (s.gemv.rows) cutSegments(s.gemv, slotsOf(b, s, s.gemv.slots));
  }

  Plan &plan_;
  const ir::Module &module_;
};

} // namespace

Status fitShared(Plan &plan, const ir::Module &module) { return Fitting(plan, module).run(); }

static const Region &regionOf(const Body &body, const std::string &name) {
  return *std::find_if(body.regions.begin(), body.regions.end(), [&](const Region &r) { return r.name == name; });
}

static int64_t elementBytes(const std::string &dtype) { return dtype == "bf16" ? 2 : dtype == "fp8_e4m3" ? 1 : dtype == "tagged" || dtype == "u64" ? 8 : 4; }

void placeWorkspace(Plan &plan, const ir::Module &module) {
  int64_t words = plan.instance_counter + 1, bytes = 0;
  auto take = [&](int64_t n) {
    int64_t at = words;
    words += n;
    return int(at);
  };
  for (Body &body : plan.bodies)
    for (Event &e : body.events) e.counter = e.carried ? -1 : take(e.slices);
  plan.event_words = int(words - plan.instance_counter);
  for (Body &body : plan.bodies) {
    for (Step &s : body.steps) {
      if (s.gemv.fold == Fold::ElectedCta) s.gemv.elections = take(1);
      if (s.gemv.fold == Fold::Atomic) s.gemv.elections = take(s.gemv.tiles);
      if (s.op == ir::Op::qkv && !s.gemv.raw) s.gemv.head_elections = take(s.gemv.rows / s.gemv.head_dim);
      if (s.argmax.cols) s.argmax.election = take(1);
    }
  }
  plan.counters = words;
  bytes = align(words * 4, 256);
  for (Body &body : plan.bodies)
    for (Region &r : body.regions) {
      int64_t n = !r.tagged ? elementBytes(r.dtype) : r.dtype == "f32" ? 8 : taggedBytes(r.tagged); // math = exact keeps an fp32 in a word of its own
      if (r.space == Space::Table && r.dtype != "bf16" && r.dtype != "f32" && r.dtype != "i32") continue;
      for (int64_t extent : r.shape) n *= extent == ir::kTokensExtent ? plan.tokens_max : extent;
      r.bytes = n;
      if (r.space != Space::Workspace) continue;
      r.offset = bytes;
      bytes = align(bytes + n, 256);
    }
  if (plan.instances.size() > 1) {
    int64_t buffers = 2;
    for (size_t i = 0; i + 1 < plan.instances.size(); i++) { // the last one's returns are the host's
      const Body &body = plan.bodies[plan.instances[i].body];
      const ir::Layer &layer = module.layers[body.layer];
      buffers = std::max<int64_t>(buffers, 1 + int64_t(layer.returns.size()));
      for (const TableEntry &e : body.table)
        if (e.kind == TableEntry::Kind::Output) plan.chain_bytes = std::max(plan.chain_bytes, align((plan.chains ? 2 : 1) * regionOf(body, e.name).bytes, 256)); // a quarter of a word a value
    }
    plan.chain = bytes;
    bytes += buffers * plan.chain_bytes;
  }
  plan.workspace_bytes = bytes;
}

} // namespace planning

using namespace planning;

namespace {

Status checkSchedule(const ir::Module &module, const Plan &plan) {
  const Schedule &s = plan.schedule;
  if (s.word("reduce") == "atomic" && s.word("math") == "exact")
    return Status::input("reduce = atomic has no order of sums, and math = exact is one; set math = fast, or drop reduce");
  int64_t split = s.integer("wo_split");
  bool has_wo = false;
  for (const Body &b : plan.bodies) has_wo |= module.layers[b.layer].find(ir::Op::wo) != nullptr;
  if (!has_wo) {
    if (split > 0 && s.origin("wo_split") != Origin::Default)
      return Status::input("wo_split = " + std::to_string(split) + ": the layer has no `wo` phase to split; drop the setting");
    return {};
  }
  if (std::find(std::begin(kWoSplits), std::end(kWoSplits), split) == std::end(kWoSplits))
    return Status::input("wo_split = " + std::to_string(split) + ": use 1, 2, 4, 8, 16 or 32");
  if (s.word("partition") == "seed" && split > s.integer("slice_ctas"))
    return Status::input("wo_split = " + std::to_string(split) + " needs as many CTAs per KV head, but partition = seed has slice_ctas = " +
                         s.text("slice_ctas") + "; set wo_split <= slice_ctas or a larger slice_ctas");
  for (const Body &b : plan.bodies) {
    const ir::Layer &layer = module.layers[b.layer];
    const ir::Phase *wo = layer.find(ir::Op::wo);
    if (wo && split > layer.values[wo->operands[1]].shape[1] / layer.dim("kv_heads"))
      return Status::input("wo_split = " + std::to_string(split) + " leaves slots without a single k: W_O of @" + layer.name +
                           " has K = " + std::to_string(layer.values[wo->operands[1]].shape[1]) + " over " +
                           std::to_string(layer.dim("kv_heads")) + " KV heads");
  }
  return {};
}

Status chooseGrid(Plan &plan, const ir::Module &module) {
  plan.ctas_pinned = int(plan.schedule.integer("ctas"));
  if (plan.schedule.word("partition") != "seed") return {};
  for (const Body &b : plan.bodies) {
    const ir::Layer &layer = module.layers[b.layer];
    if (!layer.find(ir::Op::wo)) continue;
    int64_t kv_heads = layer.dim("kv_heads"), slots = kv_heads * plan.schedule.integer("wo_split");
    if (!plan.ctas_pinned) plan.ctas_pinned = int(kv_heads * plan.schedule.integer("slice_ctas"));
    if (plan.ctas_pinned < slots)
      return Status::input("ctas = " + std::to_string(plan.ctas_pinned) + ": partition = seed gives each of the " + std::to_string(slots) +
                           " slots its own CTA; set ctas >= " + std::to_string(slots));
  }
  return {};
}

void numberInstances(Plan &plan, const std::vector<int> &layers) {
  std::map<int, int> body_of, seen;
  for (size_t i = 0; i < plan.bodies.size(); i++) body_of[plan.bodies[i].layer] = int(i);
  for (int layer : layers) plan.instances.push_back({body_of[layer], seen[layer]++});
}

void sizeAttention(Plan &plan, const ir::Module &module) {
  for (Body &body : plan.bodies)
    for (Step &s : body.steps) {
      if (s.op != ir::Op::attn) continue;
      int64_t kv_heads = module.layers[body.layer].dim("kv_heads"), knob = plan.schedule.integer("kv_splits");
      int64_t fill = ceilDiv(plan.target->sm_counts.front(), kv_heads);
      s.attention.chunk_rows = std::max(1, plan.warps - s.attention.fresh_rows) * s.attention.block_rows; // a block a warp
      s.attention.buffered_warps = std::clamp(plan.stream.stages / 4, 1, plan.warps);
      s.attention.buffered_from = 4 * plan.warps * s.attention.block_rows; // measured: fewer warps lose at three blocks a warp, tie at six and win at twenty
      s.attention.kv_splits = int(knob ? knob : std::clamp<int64_t>(fill, 1, 64));
      // All tiles of a step share kv_splits chunks, and each may have one more.
      body.regions[s.attention.partials_region].shape[1] = s.attention.kv_splits + 1 + int64_t(plan.tokens_max) * s.attention.pair_tiles;
    }
}

/// templates/cta.cuh computes shares in 32 bits: units times CTAs and columns times CTAs must stay below 2^32.
Status checkShares(const Plan &plan) {
  int64_t ctas = std::max(plan.ctas_pinned, plan.target->sm_counts.front());
  for (const Body &body : plan.bodies)
    for (const Step &s : body.steps)
      if (std::max(s.gemv.tiles * s.gemv.slots, std::max({s.gemv.rows, s.gemv.cols, s.argmax.cols})) * ctas >= int64_t(1) << 32)
        return Status::input("`" + s.label + "` is too large to share among " + std::to_string(ctas) +
                             " CTAs; set fewer ctas or a smaller wo_split");
  return {};
}

/// GEMVs whose K is cut need a place for the slots and someone to fold them.
void addSlotRegions(Plan &plan) {
  for (Body &body : plan.bodies)
    for (Step &s : body.steps) {
      Gemv &g = s.gemv;
      if (!g.rows) continue;
      Fold several = plan.schedule.word("reduce") == "atomic" ? Fold::Atomic : Fold::Tagged;
      if (s.op != ir::Op::wo) g.fold = g.slots == 1 ? Fold::Direct : several;
      if (g.slots_region >= 0 && g.fold == Fold::Tagged) body.regions[g.slots_region].dtype = "tagged"; // a float and a tag
      if (g.slots_region >= 0 && g.fold == Fold::Atomic) body.regions[g.slots_region].shape[0] = body.regions[g.slots_region].slots = 1;
      if (g.fold == Fold::Direct || g.slots_region >= 0) continue;
      Region r;
      r.name = std::string(ir::name(s.op)) + ".slots";
      r.dtype = g.fold == Fold::Tagged ? "tagged" : "f32";
      r.slots = g.fold == Fold::Tagged ? g.slots : 1;
      r.shape = {r.slots, ir::kTokensExtent, g.rows};
      body.regions.push_back(std::move(r));
      g.slots_region = int(body.regions.size()) - 1;
    }
}

} // namespace

Result<Plan> plan(const ir::Module &module, const Schedule &schedule, const Target &target) {
  Plan plan;
  plan.target = &target;
  plan.schedule = schedule;
  std::vector<int> layers = ir::instances(module), unique;
  for (int l : layers)
    if (std::find(unique.begin(), unique.end(), l) == unique.end()) unique.push_back(l);
  int tokens = 0;
  for (int l : unique) tokens = std::max(tokens, module.layers[l].tokens_max);
  int64_t knob = schedule.integer("tokens_max");
  if (knob > tokens)
    return Status::input("tokens_max = " + std::to_string(knob) + ": @" + module.layers[unique[0]].name + " declares at most " +
                         std::to_string(tokens) + " tokens; raise `tokens` in the layer");
  plan.tokens_max = knob ? int(knob) : tokens;
  for (int l : unique) {
    PHASEC_ASSIGN(Body body, lower(module, l, schedule));
    plan.bodies.push_back(std::move(body));
    plan.table_entries = std::max(plan.table_entries, int(plan.bodies.back().table.size()));
  }
  PHASEC_TRY(checkSchedule(module, plan));
  PHASEC_TRY(chooseGrid(plan, module));
  numberInstances(plan, layers);
  PHASEC_TRY(fitShared(plan, module));
  PHASEC_TRY(checkShares(plan));
  addSlotRegions(plan);
  sizeAttention(plan, module);
  for (Body &body : plan.bodies) {
    PHASEC_TRY(insertEvents(plan, body, module.layers[body.layer]));
    carryEvents(plan, body, module.layers[body.layer]);
  }
  chainInstances(plan, module);
  for (const Body &body : plan.bodies)
    for (const Step &s : body.steps)
      if (s.gemv.rows || s.op == ir::Op::attn) plan.stream.steps.push_back(s.id);
  placeWorkspace(plan, module);
  return plan;
}

} // namespace phasec
