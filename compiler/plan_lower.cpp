// plan_lower.cpp: from phases to steps: which phases become kernel steps, which are folded into others, what each step
// reads and writes, and which buffers the launch needs.
#include "compiler/plan_internal.h"

#include <algorithm>

namespace phasec::planning {
namespace {

using ir::kNone;
using ir::Op;
using ir::ValueId;

class Lowering {
public:
  Lowering(const ir::Module &module, int layer, const Schedule &schedule)
      : layer_(module.layers[layer]), schedule_(schedule), region_of_(layer_.values.size(), -1) {
    body_.layer = layer;
  }

  Result<Body> run() {
    addStepArrays();
    for (ValueId v = 0; v < ValueId(layer_.values.size()); v++) addExternal(v);
    for (ValueId v : layer_.returns) addReturn(v);
    for (size_t p = 0; p < layer_.phases.size(); p++) PHASEC_TRY(lowerPhase(int(p)));
    return std::move(body_);
  }

private:
  const ir::Value &value(ValueId v) const { return layer_.values[v]; }

  int addEntry(TableEntry::Kind kind, ValueId v, std::string name) {
    body_.table.push_back({kind, v, std::move(name)});
    return int(body_.table.size()) - 1;
  }
  int addRegion(Region region) {
    body_.regions.push_back(std::move(region));
    return int(body_.regions.size()) - 1;
  }
  int addTableRegion(ValueId v, TableEntry::Kind kind, std::string dtype) {
    Region r;
    r.name = value(v).name;
    r.space = Space::Table;
    r.dtype = std::move(dtype);
    r.shape = value(v).shape;
    r.entry = addEntry(kind, v, r.name);
    return addRegion(std::move(r));
  }
  int addWorkspace(std::string name, std::string dtype, std::vector<int64_t> shape, int slots = 1) {
    Region r;
    r.name = std::move(name);
    r.dtype = std::move(dtype);
    r.shape = std::move(shape);
    r.slots = slots;
    return addRegion(std::move(r));
  }

  /// The same five entries lead every body's table, so that the kernel finds this step's arrays in instance 0's.
  void addStepArrays() {
    addEntry(TableEntry::Kind::StepCounts, kNone, "step.counts");
    addEntry(TableEntry::Kind::SeqFirst, kNone, "step.seq_first");
    addEntry(TableEntry::Kind::SeqContext, kNone, "step.seq_context");
    addEntry(TableEntry::Kind::PageTable, kNone, "step.page_table");
    addEntry(TableEntry::Kind::PageTableStride, kNone, "step.page_table_stride");
  }

  void addExternal(ValueId v) {
    const ir::Value &val = value(v);
    switch (val.kind) {
    case ir::ValueKind::Input: region_of_[v] = addTableRegion(v, TableEntry::Kind::Input, ir::name(val.dtype)); break;
    case ir::ValueKind::Weight:
      if (val.shape.size() == 1) {
        region_of_[v] = addTableRegion(v, TableEntry::Kind::Vector, ir::name(val.dtype));
      } else {
        const ir::Phase *embed = layer_.find(Op::embed);
        bool table = embed && embed->operands[1] == v;
        region_of_[v] = addTableRegion(v, table ? TableEntry::Kind::Embedding : TableEntry::Kind::Weight, ir::name(val.weight.format));
        if (val.weight.format != ir::Format::bf16) addEntry(TableEntry::Kind::WeightScale, v, val.name + ".scale");
      }
      break;
    case ir::ValueKind::Cache:
      region_of_[v] = addTableRegion(v, TableEntry::Kind::CacheK, ir::name(val.cache.dtype));
      addEntry(TableEntry::Kind::CacheV, v, val.name + ".v");
      addEntry(TableEntry::Kind::CachePageStride, v, val.name + ".page_stride");
      addEntry(TableEntry::Kind::CacheRowStride, v, val.name + ".row_stride");
      addEntry(TableEntry::Kind::CacheHeadStride, v, val.name + ".head_stride");
      if (val.cache.dtype == ir::DType::fp8_e4m3) addEntry(TableEntry::Kind::CacheScales, v, val.name + ".scales");
      break;
    case ir::ValueKind::Temp: break;
    }
  }

  void addReturn(ValueId v) {
    if (region_of_[v] < 0) region_of_[v] = addTableRegion(v, TableEntry::Kind::Output, ir::name(value(v).dtype));
  }

  /// The region of a phase's result: the bound output, or a workspace buffer.
  int resultRegion(ValueId v) {
    if (region_of_[v] < 0) region_of_[v] = addWorkspace(value(v).name, ir::name(value(v).dtype), value(v).shape);
    return region_of_[v];
  }

  /// A norm that only feeds GEMVs is staged by each of them and needs no buffer.
  bool stagedByConsumers(ValueId v) const {
    if (std::count(layer_.returns.begin(), layer_.returns.end(), v)) return false;
    for (const ir::Phase &p : layer_.phases)
      for (size_t i = 0; i < p.operands.size(); i++)
        if (p.operands[i] == v && !(i == 0 && multiplies(p.op))) return false;
    return true;
  }

  /// Whether an attention of the same cache takes what a qkv phase makes, and nobody else does.
  bool onlyAttended(const ir::Phase &qkv) const {
    const ir::Phase *attn = nullptr;
    for (ValueId v : qkv.results) {
      if (std::count(layer_.returns.begin(), layer_.returns.end(), v)) return false;
      for (const ir::Phase &p : layer_.phases) {
        if (!std::count(p.operands.begin(), p.operands.end(), v)) continue;
        if (p.op != Op::attn || p.operands[1] != qkv.operands[2] || (attn && attn != &p)) return false;
        attn = &p;
      }
    }
    return attn && attn->operands[0] == qkv.results[0] && (attn->operands.size() > 2) == (qkv.results.size() > 1) &&
           (attn->operands.size() <= 2 || attn->operands[2] == qkv.results[1]);
  }

  static bool multiplies(Op op) { return op == Op::qkv || op == Op::wo || op == Op::fc1 || op == Op::fc2 || op == Op::head; }

  Operand operand(ValueId v) {
    Operand o;
    const ir::Phase *producer = layer_.producer(v);
    if (producer && producer->op == Op::norm) {
      o.transform = Transform::Norm;
      o.norm = std::get<ir::NormAttrs>(producer->attrs);
      o.region = resultRegion(producer->operands[0]);
      o.gamma = body_.regions[region_of_[producer->operands[1]]].entry;
      o.gamma_dtype = body_.regions[region_of_[producer->operands[1]]].dtype;
      return o;
    }
    o.region = resultRegion(v);
    return o;
  }

  Step newStep(int phase) {
    const ir::Phase &p = layer_.phases[phase];
    Step step;
    step.id = int(body_.steps.size());
    step.op = p.op;
    step.phase = phase;
    step.label = ir::name(p.op);
    for (size_t i = 0; i < p.operands.size(); i++) step.label += (i ? ", %" : " %") + value(p.operands[i]).name;
    return step;
  }

  static void read(Step &step, int region, Access::Map map) {
    if (region >= 0) step.reads.push_back({region, map});
  }

  Gemv gemv(const ir::Phase &p, ValueId x, ValueId w) {
    const ir::Value &weight = value(w);
    Gemv g;
    g.format = weight.weight.format;
    g.weight_type = weight.weight;
    g.weight = body_.regions[region_of_[w]].entry;
    g.rows = weight.shape[0];
    g.cols = weight.shape[1];
    if (g.format != ir::Format::bf16) {
      g.scale = g.weight + 1;
      g.scale_count = g.format == ir::Format::fp8_e4m3 && weight.weight.fp8_scale == ir::Fp8Scale::Row ? int(g.rows) : 1;
    }
    if (p.op == Op::fc1) g.row_map = RowMap::GateUp;
    g.tiles = ceilDiv(g.rows, kTileRows);
    g.granules = ceilDiv(g.cols, kGranuleK);
    g.granule_bytes = granuleBytes(g.format);
    g.operand = operand(x);
    return g;
  }

  Status lowerPhase(int phase) {
    const ir::Phase &p = layer_.phases[phase];
    switch (p.op) {
    case Op::embed: lowerEmbed(phase); break;
    case Op::norm: lowerNorm(phase); break;
    case Op::qkv: lowerQkv(phase); break;
    case Op::attn: lowerAttn(phase); break;
    case Op::wo: lowerWo(phase); break;
    case Op::gather: return lowerGather(phase);
    case Op::fc1: lowerFc1(phase); break;
    case Op::fc2: return lowerFc2(phase);
    case Op::head: lowerHead(phase); break;
    case Op::argmax: lowerArgmax(phase); break;
    }
    return {};
  }

  void lowerEmbed(int phase) {
    const ir::Phase &p = layer_.phases[phase];
    Step step = newStep(phase);
    step.operands = {region_of_[p.operands[0]], region_of_[p.operands[1]]};
    step.results = {resultRegion(p.results[0])};
    step.writes.push_back({step.results[0], Access::Map::ByToken});
    body_.steps.push_back(std::move(step));
  }

  void lowerNorm(int phase) {
    const ir::Phase &p = layer_.phases[phase];
    if (stagedByConsumers(p.results[0])) return;
    Step step = newStep(phase);
    step.gemv.operand = operand(p.results[0]);
    step.gemv.cols = value(p.operands[0]).shape[1];
    read(step, step.gemv.operand.region, Access::Map::All);
    step.results = {resultRegion(p.results[0])};
    step.writes.push_back({step.results[0], Access::Map::ByTile});
    body_.steps.push_back(std::move(step));
  }

  void lowerQkv(int phase) {
    const ir::Phase &p = layer_.phases[phase];
    const auto &attrs = std::get<ir::QkvAttrs>(p.attrs);
    const ir::Value &kv = value(p.operands[2]);
    int64_t heads = layer_.dim("heads"), kv_heads = layer_.dim("kv_heads"), hd = layer_.dim("head_dim");
    Step step = newStep(phase);
    step.gemv = gemv(p, p.operands[0], p.operands[1]);
    step.gemv.heads = int(heads);
    step.gemv.head_dim = int(hd);
    if (p.results.size() > 1 && attrs.gate_rows == ir::GateRows::PerHead) step.gemv.row_map = RowMap::GatePerHead;
    step.gemv.raw_region = addWorkspace("qkv.raw", "f32", {ir::kTokensExtent, step.gemv.rows});
    step.gemv.raw = onlyAttended(p);
    auto entry = [&](ValueId v) { return v == kNone ? -1 : region_of_[v]; };
    step.operands = {step.gemv.operand.region, region_of_[p.operands[1]], region_of_[p.operands[2]],
                     entry(attrs.bias), entry(attrs.q_norm), entry(attrs.k_norm), entry(attrs.rope)};
    read(step, step.gemv.operand.region, Access::Map::All);
    if (step.gemv.raw) {
      step.results = {-1, -1, -1, -1};
      step.writes.push_back({step.gemv.raw_region, Access::Map::ByKvHead});
    } else {
      step.results = {resultRegion(p.results[0]), p.results.size() > 1 ? resultRegion(p.results[1]) : -1,
                      addWorkspace(kv.name + ".fresh_k", ir::name(kv.cache.dtype), {ir::kTokensExtent, kv_heads, hd}),
                      addWorkspace(kv.name + ".fresh_v", ir::name(kv.cache.dtype), {ir::kTokensExtent, kv_heads, hd})};
      for (int r : step.results)
        if (r >= 0) step.writes.push_back({r, Access::Map::ByKvHead});
    }
    body_.steps.push_back(std::move(step));
  }

  void lowerAttn(int phase) {
    const ir::Phase &p = layer_.phases[phase];
    const auto &attrs = std::get<ir::AttnAttrs>(p.attrs);
    int64_t heads = layer_.dim("heads"), kv_heads = layer_.dim("kv_heads"), hd = layer_.dim("head_dim");
    Step step = newStep(phase);
    Attention &a = step.attention;
    a.kv = p.operands[1];
    a.scale = attrs.scale != 0 ? float(attrs.scale) : 1.0f / __builtin_sqrtf(float(hd));
    const Step *qkv = nullptr;
    for (const Step &s : body_.steps)
      if (s.op == Op::qkv && layer_.phases[s.phase].operands[2] == a.kv) qkv = &s;
    a.fresh_rows = qkv != nullptr;
    if (qkv && qkv->gemv.raw) {
      a.heads_step = qkv->id;
      step.operands = {-1, region_of_[a.kv], -1, -1, -1};
      read(step, qkv->gemv.raw_region, Access::Map::ByKvHead);
    } else {
      step.operands = {resultRegion(p.operands[0]), region_of_[a.kv], p.operands.size() > 2 ? resultRegion(p.operands[2]) : -1,
                       qkv ? qkv->results[2] : -1, qkv ? qkv->results[3] : -1};
      for (int i : {0, 2, 3, 4}) read(step, step.operands[i], Access::Map::ByKvHead);
    }
    step.results = {resultRegion(p.results[0])};
    step.writes.push_back({step.results[0], Access::Map::ByKvHead});
    a.row_bytes = int(hd * ir::bytes(value(a.kv).cache.dtype));
    a.row_stride = a.row_bytes + 16;
    a.pair_tiles = int(ceilDiv(heads / kv_heads, kPairTile));
    a.state_floats = int(kPairTile * (2 + ceilDiv(a.row_bytes, 128) * 128 / ir::bytes(value(a.kv).cache.dtype)));
    a.partials_region = addWorkspace("attn.partials", "f32", {kv_heads, 0, a.state_floats});
    body_.regions[size_t(a.partials_region)].tagged = 1;
    body_.steps.push_back(std::move(step));
  }

  void lowerWo(int phase) {
    const ir::Phase &p = layer_.phases[phase];
    Step step = newStep(phase);
    step.gemv = gemv(p, p.operands[0], p.operands[1]);
    Gemv &g = step.gemv;
    std::string partition = schedule_.word("partition");
    g.assignment = partition == "seed" ? Assignment::SlotCta : partition == "2d" ? Assignment::Grid : Assignment::Balanced;
    g.fold = Fold::Consumers;
    const ir::Phase *producer = layer_.producer(p.operands[0]);
    read(step, g.operand.region, producer && producer->op == Op::attn ? Access::Map::ByKvHead : Access::Map::BySlot);
    step.operands = {g.operand.region, region_of_[p.operands[1]], -1};
    int64_t slots = layer_.dim("kv_heads") * schedule_.integer("wo_split");
    bool returned = region_of_[p.results[0]] >= 0;
    if (returned) body_.regions[region_of_[p.results[0]]].slots = int(slots);
    g.slots_region = returned ? region_of_[p.results[0]]
                              : addWorkspace("wo.slots", "f32", {slots, ir::kTokensExtent, g.rows}, int(slots));
    region_of_[p.results[0]] = g.slots_region;
    step.results = {-1};
    step.writes.push_back({g.slots_region, Access::Map::BySlot});
    body_.steps.push_back(std::move(step));
  }

  Status lowerGather(int phase) {
    const ir::Phase &p = layer_.phases[phase];
    Step *wo = nullptr;
    for (Step &s : body_.steps)
      if (s.op == Op::wo && layer_.phases[s.phase].results[0] == p.operands[0]) wo = &s;
    if (!wo)
      return Status::input("gather %" + value(p.operands[0]).name +
                           ": its operand must be the slots of a wo phase in the same layer");
    int residual = p.operands.size() > 1 ? resultRegion(p.operands[1]) : -1;
    int result = resultRegion(p.results[0]);
    bool kept = std::count(layer_.returns.begin(), layer_.returns.end(), p.operands[0]) > 0;
    if (std::get<ir::GatherAttrs>(p.attrs).by == ir::GatherBy::Elected) {
      Gemv &g = wo->gemv;
      int64_t slots = layer_.dim("kv_heads") * schedule_.integer("wo_split");
      bool atomic = schedule_.word("reduce") == "atomic";
      if (atomic && kept)
        return Status::input("reduce = atomic keeps no slots, but %" + value(p.operands[0]).name + " is returned; return %" +
                             value(p.results[0]).name + " alone, or drop the setting");
      g.fold = g.assignment == Assignment::SlotCta ? Fold::ElectedCta : slots == 1 && !kept ? Fold::Direct : atomic ? Fold::Atomic : Fold::Tagged;
      wo->operands[2] = residual;
      wo->results[0] = result;
      read(*wo, residual, Access::Map::ByTile);
      wo->writes.push_back({result, Access::Map::ByTile});
      return {};
    }
    Step step = newStep(phase);
    step.operands = {wo->gemv.slots_region, residual};
    step.results = {result};
    read(step, wo->gemv.slots_region, Access::Map::All);
    read(step, residual, Access::Map::ByTile);
    step.writes.push_back({result, Access::Map::ByTile});
    body_.steps.push_back(std::move(step));
    return {};
  }

  void lowerFc1(int phase) {
    const ir::Phase &p = layer_.phases[phase];
    Step step = newStep(phase);
    step.gemv = gemv(p, p.operands[0], p.operands[1]);
    step.operands = {step.gemv.operand.region, region_of_[p.operands[1]]};
    step.results = {resultRegion(p.results[0])};
    read(step, step.gemv.operand.region, Access::Map::All);
    step.writes.push_back({step.results[0], Access::Map::ByTile});
    body_.steps.push_back(std::move(step));
  }

  Status lowerFc2(int phase) {
    const ir::Phase &p = layer_.phases[phase];
    Step step = newStep(phase);
    step.gemv = gemv(p, p.operands[0], p.operands[1]);
    bool staged_norm = step.gemv.operand.transform == Transform::Norm;
    if (std::get<ir::Fc2Attrs>(p.attrs).act_quant_nvfp4) {
      if (staged_norm)
        return Status::input("fc2 %" + value(p.operands[0]).name + ": act_quant quantises what fc1 produced; its operand is a norm");
      step.gemv.operand.transform = Transform::QuantNvfp4;
    }
    int residual = p.operands.size() > 2 ? resultRegion(p.operands[2]) : -1;
    step.operands = {step.gemv.operand.region, region_of_[p.operands[1]], residual};
    step.results = {resultRegion(p.results[0])};
    read(step, step.gemv.operand.region, staged_norm ? Access::Map::All : Access::Map::BySlot);
    read(step, residual, Access::Map::ByTile);
    step.writes.push_back({step.results[0], Access::Map::ByTile});
    body_.steps.push_back(std::move(step));
    return {};
  }

  /// Logits that only argmax reads are chosen from as they come and need no buffer.
  bool onlyArgmaxReads(ValueId v) const {
    if (std::count(layer_.returns.begin(), layer_.returns.end(), v)) return false;
    return std::all_of(layer_.phases.begin(), layer_.phases.end(),
                       [&](const ir::Phase &p) { return p.op == Op::argmax || !std::count(p.operands.begin(), p.operands.end(), v); });
  }

  void lowerHead(int phase) {
    const ir::Phase &p = layer_.phases[phase];
    Step step = newStep(phase);
    step.gemv = gemv(p, p.operands[0], p.operands[1]);
    step.operands = {step.gemv.operand.region, region_of_[p.operands[1]]};
    step.results = {onlyArgmaxReads(p.results[0]) ? -1 : resultRegion(p.results[0])};
    read(step, step.gemv.operand.region, Access::Map::All);
    if (step.results[0] >= 0) step.writes.push_back({step.results[0], Access::Map::ByTile});
    body_.steps.push_back(std::move(step));
  }

  /// Inside the head that makes the logits, where there is one; otherwise a step of its own.
  void lowerArgmax(int phase) {
    const ir::Phase &p = layer_.phases[phase];
    for (Step &s : body_.steps)
      if (s.op == Op::head && layer_.phases[s.phase].results[0] == p.operands[0]) return chooseTokens(s, p);
    Step step = newStep(phase);
    step.operands = {resultRegion(p.operands[0])};
    read(step, step.operands[0], Access::Map::All);
    chooseTokens(step, p);
    body_.steps.push_back(std::move(step));
  }

  void chooseTokens(Step &step, const ir::Phase &p) {
    Argmax &a = step.argmax;
    a.cols = value(p.operands[0]).shape[1];
    a.tiles = ceilDiv(a.cols, kTileRows);
    a.keys_region = addWorkspace("argmax.keys", "u64", {ir::kTokensExtent});
    a.result = resultRegion(p.results[0]);
    step.writes.push_back({a.result, Access::Map::ByToken});
  }

  const ir::Layer &layer_;
  const Schedule &schedule_;
  std::vector<int> region_of_;
  Body body_;
};

} // namespace

Result<Body> lower(const ir::Module &module, int layer, const Schedule &schedule) {
  return Lowering(module, layer, schedule).run();
}

} // namespace phasec::planning
