// render_program.cpp: writes the configuration, one struct per step and event, and the kernel body as a list of phase calls
// that reads like the `.phase` file.
#include "compiler/render_program.h"

#include "compiler/render.h"
#include "compiler/render_vocabulary.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/Format.h"
#include "llvm/Support/raw_ostream.h"

#include <algorithm>
#include <cstring>
#include <set>

namespace phasec {
namespace {

using ir::EventKind;
using ir::Op;

std::string capitalised(std::string s) {
  s[0] = char(llvm::toUpper(s[0]));
  return s;
}

/// A float by its bits, with its value beside it.
std::string exactFloat(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  std::string text;
  llvm::raw_string_ostream out(text);
  out << "ptx::from_bits(" << llvm::format_hex(bits, 10) << "u) /* " << llvm::format("%.9g", double(v)) << " */";
  return out.str();
}

std::string cType(const std::string &dtype) { return dtype == "f32" || dtype == "tagged" ? "float" : dtype == "fp8_e4m3" ? "e4m3" : dtype; }

/// Renders one body.
class BodyText {
public:
  BodyText(const Plan &plan, const ir::Module &module, int index, int first_step)
      : plan_(plan), layer_(module.layers[plan.bodies[index].layer]), body_(plan.bodies[index]), first_step_(first_step) {}

  void phases(llvm::raw_ostream &out) {
    out << "// ---- layer @" << layer_.name << " ----\n";
    for (const Event &e : body_.events) event(out, e);
    for (const Step &s : body_.steps) step(out, s);
  }

  void nextCases(llvm::raw_ostream &out) {
    for (const Step &s : body_.steps) {
      if (s.gemv.rows) out << "    case " << first_step_ + s.id << ": return gemv::next<" << name(s) << ">(cta, table, c, item);\n";
      if (s.op == Op::attn) out << "    case " << first_step_ + s.id << ": attn::lend<" << name(s) << ">(cta, c); break;\n";
    }
  }

  void openCases(llvm::raw_ostream &out) {
    for (const Step &s : body_.steps)
      if (s.gemv.rows) out << "    case " << first_step_ + s.id << ": gemv::open<" << name(s) << ">(cta); break;\n";
  }

  void calls(llvm::raw_ostream &out) {
    int call_index = 0;
    for (const Step &s : body_.steps) {
      for (int e : s.waits)
        out << "    // " << (body_.events[e].kind == EventKind::Grid ? "grid: " : "counter: ") << body_.events[e].edge << "\n";
      out << "    if (cta.runs(call + " << call_index << ")) { // " << resultNames(s) << " = " << s.label << "\n";
      out << "      " << call(s) << "\n";
      if (s.gemv.fold == Fold::ElectedCta) out << "      gather::elected_cta<" << name(s) << ", " << name(s) << "Out>(cta);\n";
      if (s.gemv.fold == Fold::Tagged)
        out << "    }\n    if (cta.runs(call + " << call_index + 1 << ")) { // its slots\n      gemv::finish_tiles<" << name(s) << ", " << finishName(s)
            << ">(cta);\n";
      for (int e : s.signals)
        if (body_.events[e].kind == EventKind::Grid) out << "      event::arrive<" << eventName(e) << ">(cta);\n";
      out << "    }\n";
      call_index += s.calls();
    }
  }

  std::set<std::string> includes() const {
    std::set<std::string> used;
    for (const Step &s : body_.steps) {
      used.insert(std::string("phases/") + ir::name(s.op) + ".cuh");
      if (s.op == Op::wo && (s.results[0] >= 0)) used.insert("phases/gather.cuh");
    }
    return used;
  }

private:
  std::string suffix() const { return plan_.bodies.size() > 1 ? "_" + layer_.name : ""; }
  std::string name(const Step &s) const { return capitalised(ir::name(s.op)) + std::to_string(s.id) + suffix(); }
  std::string eventName(int id) const { return "Event" + std::to_string(id) + suffix(); }

  std::string resultNames(const Step &s) const {
    std::string names;
    for (ir::ValueId v : layer_.phases[s.phase].results) names += (names.empty() ? "%" : ", %") + layer_.values[v].name;
    return names;
  }

  std::string region(int index) const {
    if (index < 0) return "Absent";
    const Region &r = body_.regions[index];
    if (r.space == Space::Table) return "Bound<" + cType(r.dtype) + ", " + std::to_string(r.entry) + ">";
    return "Local<" + cType(r.dtype) + ", " + std::to_string(r.offset) + ">";
  }

  void event(llvm::raw_ostream &out, const Event &e) {
    bool grid = e.kind == EventKind::Grid;
    bool uniform = std::all_of(e.arrivals.begin(), e.arrivals.end(), [&](int64_t n) { return n == e.arrivals[0]; });
    out << "// " << (grid ? "grid: " : "counter: ") << e.edge << " (" << e.reason << ")\n";
    if (!uniform) table(out, eventName(e.id) + "_arrivals", e.arrivals);
    out << "struct " << eventName(e.id) << " {\n  static constexpr bool grid = " << (grid ? "true" : "false")
        << ";\n  static constexpr int counter = " << e.counter << ", slices = " << e.slices << ";\n";
    out << "  PHASEC_DEVICE static int arrivals(int" << (uniform ? "" : " slice") << ") { return ";
    if (!uniform) out << eventName(e.id) << "_arrivals[slice]";
    else out << (grid ? 0 : e.arrivals[0]);
    out << "; }\n};\n";
  }

  static void table(llvm::raw_ostream &out, const std::string &name, const std::vector<int64_t> &values) {
    out << "PHASEC_TABLE int " << name << "[] = {";
    for (size_t i = 0; i < values.size(); i++) out << (i ? (i % 16 ? ", " : ",\n    ") : "") << values[i];
    out << "};\n";
  }

  /// Under math = fast the bounds of wo's slots are rounded down to granules, so a slot may begin in an earlier KV head.
  static int64_t firstHead(const Gemv &g, int slices, int slot) {
    return g.segments[size_t(slot * g.segments_per_slot)].granule_begin * kGranuleK / (g.cols / slices);
  }
  static bool reachesBack(const Gemv &g, int slices) {
    for (int slot = 0; slot < g.slots; slot++)
      if (firstHead(g, slices, slot) < slot / (g.slots / slices)) return g.cols / slices % kGranuleK != 0;
    return false;
  }
  std::string firstHeads(const Step &s) const { return name(s) + "_first_heads"; }

  /// The wait before a unit whose slice is `slice` (an expression over the argument).
  void await(llvm::raw_ostream &out, const Step &s) const {
    out << "  PHASEC_DEVICE static void await(const Cta &" << (s.waits.empty() ? "" : "cta") << ", int"
        << (std::any_of(s.waits.begin(), s.waits.end(), [&](int e) { return body_.events[e].slices > 1; }) ? " slot" : "") << ") {";
    for (int e : s.waits) {
      const Event &event = body_.events[e];
      std::string slice = event.slices == 1 ? "0" : "slot";
      if (event.slices > 1 && s.op == Op::wo) {
        std::string head = "slot / " + std::to_string(s.gemv.slots / event.slices);
        slice = head;
        if (reachesBack(s.gemv, event.slices)) {
          out << " for (int head = " << firstHeads(s) << "[slot]; head <= " << head << "; head++)";
          slice = "head";
        }
      }
      out << " event::await<" << eventName(e) << ">(cta, " << slice << ");";
    }
    out << " }\n";
  }

  const Event *counterSignal(const Step &s) const {
    for (int e : s.signals)
      if (body_.events[e].kind == EventKind::Counter) return &body_.events[e];
    return nullptr;
  }

  void step(llvm::raw_ostream &out, const Step &s) {
    out << "// " << resultNames(s) << " = " << s.label << "\n";
    if (s.gemv.rows) gemv(out, s);
    switch (s.op) {
    case Op::embed: embedStep(out, s, body_.regions[s.operands[1]], stepText(s)); break;
    case Op::norm: normStep(out, s); break;
    case Op::qkv: qkvOut(out, s); break;
    case Op::attn: attnStep(out, s); break;
    case Op::gather: gatherStep(out, s); break;
    case Op::wo:
      if (s.results[0] >= 0) rowsOut(out, s, s.operands[2], s.results[0]);
      break;
    case Op::fc1: fc1Out(out, s); break;
    case Op::fc2: rowsOut(out, s, s.operands[2], s.results[0]); break;
    case Op::head: headOut(out, s, stepText(s)); break;
    case Op::argmax: argmaxStep(out, s, stepText(s)); break;
    }
  }

  StepText stepText(const Step &s) const {
    StepText text{name(s), [this](int index) { return region(index); }, ""};
    llvm::raw_string_ostream out(text.await);
    await(out, s);
    return text;
  }

  void gemv(llvm::raw_ostream &out, const Step &s) {
    const Gemv &g = s.gemv;
    std::vector<int64_t> segments;
    for (const Segment &x : g.segments) segments.insert(segments.end(), {x.granule_begin, x.granule_end, x.k_begin, x.k_end});
    std::string segment_name = std::string(ir::name(s.op)) + std::to_string(s.id) + suffix() + "_segments";
    out << "// " << ir::name(g.format) << " [" << g.rows << ", " << g.cols << "]; segments: granules [begin, end), k [begin, end)\n";
    table(out, segment_name, segments);
    for (int e : s.waits) {
      int slices = body_.events[e].slices;
      if (s.op != Op::wo || slices == 1 || !reachesBack(g, slices)) continue;
      std::vector<int64_t> heads;
      for (int slot = 0; slot < g.slots; slot++) heads.push_back(firstHead(g, slices, slot));
      table(out, firstHeads(s), heads);
    }
    out << "struct " << name(s) << " : Launch {\n  static constexpr int step = " << first_step_ + s.id << ";\n";
    out << "  static constexpr int rows = " << g.rows << ", cols = " << g.cols << ", tiles = " << g.tiles << ", granules = " << g.granules
        << ";\n  static constexpr int slots = " << g.slots << ", segments = " << g.segments_per_slot
        << ", segment_granules = " << g.segment_granules << ", operand_stride = " << g.operand_stride << ";\n";
    out << "  static constexpr int weight = " << g.weight << ", scale_entry = " << std::max(g.scale, 0) << ", elections = " << g.elections << ";\n";
    static const char *assignments[] = {"Balanced", "Grid", "SlotCta"}, *folds[] = {"Direct", "Tagged", "ElectedCta", "Consumers"};
    out << "  static constexpr auto assignment = gemv::Assignment::" << assignments[int(g.assignment)] << ";\n";
    out << "  static constexpr auto fold = gemv::Fold::" << folds[int(g.fold)] << ";\n";
    out << "  static constexpr auto scale = gemv::Scale::" << scaleName(g) << ";\n";
    out << "  using Format = weights::" << ir::name(g.format) << ";\n";
    transform(out, g.operand, true);
    out << "  using X = " << region(g.operand.region) << ";\n";
    out << "  using Slots = " << region(g.fold == Fold::Direct ? -1 : g.slots_region) << ";\n";
    out << "  PHASEC_DEVICE static const int *segment_table() { return " << segment_name << "; }\n";
    out << "  PHASEC_DEVICE static int checkpoint_row(int row) { return " << checkpointRow(g) << "; }\n";
    await(out, s);
    out << "};\n";
  }

  /// Where row-wise scales and the bias of an image row stand in the checkpoint: Gemv::checkpointRow as an expression.
  static std::string checkpointRow(const Gemv &g) {
    std::string half = std::to_string(g.rows / 2), hd = std::to_string(g.head_dim), heads = std::to_string(g.heads);
    if (g.row_map == RowMap::GateUp) return "row / 16 * 8 + row % 8 + (row % 16 < 8 ? 0 : " + half + ")";
    if (g.row_map == RowMap::GatePerHead)
      return "row >= " + std::to_string(2 * g.heads * g.head_dim) + " ? row : (row / " + hd + " % " + heads + " * 2 + row / " +
             std::to_string(g.heads * g.head_dim) + ") * " + hd + " + row % " + hd;
    return "row";
  }

  static const char *scaleName(const Gemv &g) {
    if (g.scale < 0) return "None";
    if (g.scale_count > 1) return "PerRow";
    return g.format == ir::Format::nvfp4 && g.weight_type.global == ir::GlobalScale::Divide ? "Divide" : "Multiply";
  }

  void transform(llvm::raw_ostream &out, const Operand &o, bool staged) {
    switch (o.transform) {
    case Transform::None: out << "  using Transform = operand::Plain;\n"; return;
    case Transform::QuantNvfp4: out << "  using Transform = operand::QuantNvfp4;\n"; return;
    case Transform::Norm:
      out << "  struct Transform" << (staged ? " : operand::Norm" : "") << " {\n    using Gamma = Bound<" << cType(o.gamma_dtype) << ", " << o.gamma
          << ">;\n    static constexpr bool one_plus = " << (o.norm.gamma == ir::NormGamma::OnePlus ? "true" : "false")
          << ";\n    PHASEC_DEVICE static float eps() { return " << exactFloat(float(o.norm.eps)) << "; }\n  };\n";
    }
  }

  void rowsOut(llvm::raw_ostream &out, const Step &s, int residual, int result) {
    out << "struct " << name(s) << "Out : Launch {\n  using Residual = " << region(residual) << ";\n  using Y = " << region(result) << ";\n";
    const Event *e = counterSignal(s);
    bool leaves = body_.leaves_by_tile && &s == &body_.steps.back();
    out << "  PHASEC_DEVICE static void signal(const Cta &" << (e || leaves ? "cta" : "") << ") {";
    if (e) out << " event::arrive_warp<" << eventName(e->id) << ">(cta, 0, 1u);";
    if (leaves) out << " launch::leave<Launch>(cta);";
    out << " }\n};\n";
  }

  void normStep(llvm::raw_ostream &out, const Step &s) {
    out << "struct " << name(s) << " : Launch {\n  static constexpr int cols = " << s.gemv.cols << ";\n";
    transform(out, s.gemv.operand, false);
    out << "  using X = " << region(s.gemv.operand.region) << ";\n  using Y = " << region(s.results[0]) << ";\n";
    await(out, s);
    out << "};\n";
  }

  void gatherStep(llvm::raw_ostream &out, const Step &s) {
    out << "struct " << name(s) << " : Launch {\n  using Residual = " << region(s.operands[1]) << ";\n  using Y = " << region(s.results[0]) << ";\n";
    await(out, s);
    out << "};\n";
  }

  void fc1Out(llvm::raw_ostream &out, const Step &s) {
    const auto &attrs = std::get<ir::Fc1Attrs>(layer_.phases[s.phase].attrs);
    const Event *e = counterSignal(s);
    std::vector<int64_t> ends;
    if (e && e->slices > 1) {
      const Gemv &g = body_.steps[e->to_step].gemv;
      for (int i = 0; i < g.slots; i++) ends.push_back(g.segments[(i + 1) * g.segments_per_slot - 1].k_end);
      table(out, name(s) + "_slice_ends", ends);
    }
    out << "struct " << name(s) << "Out : Launch {\n  using Y = " << region(s.results[0]) << ";\n  using Act = fc1::"
        << (attrs.act == ir::Activation::Silu ? "Silu" : "GeluTanh") << ";\n";
    if (!e) {
      out << "  PHASEC_DEVICE static void signal(const Cta &, int) {}\n};\n";
      return;
    }
    out << "  PHASEC_DEVICE static void signal(const Cta &cta, int" << (ends.empty() ? "" : " column") << ") {\n    int slice = 0;\n";
    if (!ends.empty()) out << "    while (column >= " << name(s) << "_slice_ends[slice]) slice++;\n";
    out << "    event::arrive_warp<" << eventName(e->id) << ">(cta, slice, 1u);\n  }\n};\n";
  }

  /// The table entries of the step's arrays and of one cache.
  void sequencesStruct(llvm::raw_ostream &out, const Step &s, int kv_region, const ir::Value &kv) {
    int k = body_.regions[kv_region].entry;
    out << "struct " << name(s) << "Kv {\n  static constexpr int step_offset = " << plan_.shared.step << ";\n"
        << "  static constexpr int cache_k = " << k << ", cache_v = " << k + 1 << ", page_stride = " << k + 2 << ", row_stride = " << k + 3
        << ", head_stride = " << k + 4 << ", page = " << kv.cache.page << ";\n};\n";
  }

  int scalesEntry(int kv_region, const ir::Value &kv) const {
    return kv.cache.dtype == ir::DType::fp8_e4m3 ? body_.regions[kv_region].entry + 5 : -1;
  }

  void qkvOut(llvm::raw_ostream &out, const Step &s) {
    const ir::Phase &p = layer_.phases[s.phase];
    const auto &a = std::get<ir::QkvAttrs>(p.attrs);
    const ir::Value &kv = layer_.values[p.operands[2]];
    sequencesStruct(out, s, s.operands[2], kv);
    auto flag = [](bool b) { return b ? "true" : "false"; };
    out << "struct " << name(s) << "Out : Launch {\n  using S = " << name(s) << "Kv;\n";
    out << "  static constexpr int heads = " << layer_.dim("heads") << ", kv_heads = " << layer_.dim("kv_heads") << ", head_dim = " << layer_.dim("head_dim")
        << ", rotary = " << (a.rope == ir::kNone ? 0 : a.rotary) << ", rows = " << s.gemv.rows << ";\n";
    out << "  static constexpr int kv_scales = " << scalesEntry(s.operands[2], kv) << ", head_elections = " << s.gemv.head_elections << ";\n";
    out << "  static constexpr bool gated = " << flag(p.results.size() > 1) << ", append = " << flag(a.append)
        << ", one_plus = " << flag(a.gamma == ir::NormGamma::OnePlus) << ", interleaved = " << flag(a.pairing == ir::Pairing::Interleaved) << ";\n";
    out << "  PHASEC_DEVICE static float eps() { return " << exactFloat(float(a.eps)) << "; }\n";
    out << "  using Raw = " << region(s.gemv.raw_region) << ";\n";
    out << "  PHASEC_DEVICE static int checkpoint_row(int row) { return " << checkpointRow(s.gemv) << "; }\n";
    const char *names[] = {"Bias", "QNorm", "KNorm", "Rope"};
    for (int i = 0; i < 4; i++) out << "  using " << names[i] << " = " << region(s.operands[3 + i]) << ";\n";
    const char *results[] = {"Q", "Gate", "Fresh", "FreshV"};
    for (int i = 0; i < 4 && !s.gemv.raw; i++) out << "  using " << results[i] << " = " << region(s.results[i]) << ";\n";
    const Event *e = counterSignal(s);
    out << "  PHASEC_DEVICE static void signal(const Cta &" << (e ? "cta" : "") << ", int" << (e ? " kv_head" : "") << ") {";
    if (e) out << " event::arrive_warp<" << eventName(e->id) << ">(cta, kv_head, 1u);";
    out << " }\n};\n";
  }

  void attnStep(llvm::raw_ostream &out, const Step &s) {
    const Attention &a = s.attention;
    const ir::Value &kv = layer_.values[a.kv];
    sequencesStruct(out, s, s.operands[1], kv);
    out << "struct " << name(s) << " : Launch {\n  using S = " << name(s) << "Kv;\n  using Row = " << cType(ir::name(kv.cache.dtype)) << ";\n";
    out << "  static constexpr int queries_offset = " << plan_.shared.operand << ", states_offset = " << plan_.shared.states
        << ", units_shared_offset = " << plan_.shared.attention_units
        << ", state_floats = " << a.state_floats << ";\n";
    out << "  static constexpr int row_bytes = " << a.row_bytes << ", row_stride = " << a.row_stride << ";\n";
    out << "  static constexpr int heads = " << layer_.dim("heads") << ", kv_heads = " << layer_.dim("kv_heads")
        << ", group = " << layer_.dim("heads") / layer_.dim("kv_heads") << ", head_dim = " << layer_.dim("head_dim") << ", token_tiles = " << a.pair_tiles << ";\n";
    out << "  static constexpr int kv_splits = " << a.kv_splits << ", chunk_rows = " << a.chunk_rows << ", block_rows = " << a.block_rows
        << ", kv_scales = " << scalesEntry(s.operands[1], kv) << ", elections = " << a.elections << ";\n";
    out << "  static constexpr bool fresh_rows = " << (a.fresh_rows ? "true" : "false") << ";\n";
    out << "  PHASEC_DEVICE static float scale() { return " << exactFloat(a.scale) << "; }\n";
    bool raw = a.heads_step >= 0;
    out << "  static constexpr bool gated = " << (layer_.phases[s.phase].operands.size() > 2 ? "true" : "false") << ";\n";
    out << "  using Heads = " << (raw ? name(body_.steps[a.heads_step]) + "Out" : "Absent") << ";\n";
    if (!raw)
      out << "  using Q = " << region(s.operands[0]) << ";\n  using Gate = " << region(s.operands[2]) << ";\n  using Fresh = "
          << fresh(s.operands[3], kv) << ";\n  using FreshV = " << fresh(s.operands[4], kv) << ";\n";
    out << "  using Y = " << region(s.results[0]) << ";\n  using Partials = " << region(a.partials_region) << ";\n";
    await(out, s);
    const Event *e = counterSignal(s);
    out << "  PHASEC_DEVICE static void signal(const Cta &" << (e ? "cta" : "") << ", int" << (e ? " kv_head" : "") << ", u32" << (e ? " pairs" : "") << ") {";
    if (e) out << " event::arrive_warp<" << eventName(e->id) << ">(cta, kv_head, pairs);";
    out << " }\n};\n";
  }

  std::string fresh(int index, const ir::Value &kv) const {
    return index >= 0 ? region(index) : "Local<" + cType(ir::name(kv.cache.dtype)) + ", 0>";
  }

  std::string call(const Step &s) const {
    std::string n = name(s);
    switch (s.op) {
    case Op::embed:
    case Op::argmax: return std::string(ir::name(s.op)) + "::run<" + n + ">(cta);";
    case Op::norm: return "rms::run<" + n + ">(cta);";
    case Op::attn: return "attn::run<" + n + ">(cta, ring);";
    case Op::gather: return "gather::run<" + woOf(s) + ", " + n + ">(cta);";
    default: return "gemv::run<" + n + ", " + finishName(s) + ">(cta, ring, folded);";
    }
  }

  /// What happens to a finished row tile.
  std::string finishName(const Step &s) const {
    std::string n = name(s);
    bool keep = s.results[0] < 0 || s.gemv.fold == Fold::ElectedCta || s.gemv.fold == Fold::Consumers;
    if (s.op == Op::wo) return keep ? "wo::KeepSlots" : "gather::Finish<" + n + "Out>";
    return std::string(ir::name(s.op)) + (s.gemv.raw ? "::Raw<" : "::Finish<") + n + "Out>";
  }

  /// The step that produced the slots a gather step folds.
  std::string woOf(const Step &s) const {
    for (const Step &w : body_.steps)
      if (w.op == Op::wo && w.gemv.slots_region == s.operands[0]) return name(w);
    return "";
  }

  const Plan &plan_;
  const ir::Layer &layer_;
  const Body &body_;
  int first_step_;
};

class ProgramBuilder {
public:
  ProgramBuilder(const Plan &plan, const ir::Module &module) : plan_(plan), module_(module) {
    int first = 0;
    for (size_t i = 0; i < plan.bodies.size(); i++) {
      first_step_.push_back(first);
      bodies_.emplace_back(plan, module, int(i), first);
      first += int(plan.bodies[i].steps.size());
    }
  }

  ProgramText build() {
    ProgramText text;
    includes(text);
    text.regions["banner"] = banner();
    text.regions["target"] = "#define PHASEC_SM " + std::to_string(plan_.target->sm) + "\n";
    text.regions["config"] = config();
    llvm::raw_string_ostream phases(text.regions["phases"]);
    for (BodyText &b : bodies_) b.phases(phases);
    phases.flush();
    text.regions["program"] = program();
    return text;
  }

private:
  void includes(ProgramText &text) {
    std::string math = plan_.schedule.word("math");
    std::set<std::string> phases, cores;
    bool attention = false;
    for (size_t i = 0; i < bodies_.size(); i++) {
      for (const std::string &p : bodies_[i].includes()) phases.insert(p);
      for (const Step &s : plan_.bodies[i].steps) {
        if (s.gemv.rows) cores.insert(std::string("core/") + math + "/" + ir::name(s.gemv.format) + ".cuh");
        attention |= s.op == Op::attn;
      }
    }
    text.includes.push_back("math/" + math + ".cuh");
    text.includes.insert(text.includes.end(), cores.begin(), cores.end());
    if (attention) text.includes.push_back("core/" + math + "/attention.cuh");
    text.includes.push_back("launch.cuh");
    text.includes.insert(text.includes.end(), phases.begin(), phases.end());
  }

  std::string what() const {
    return module_.stacks.empty() ? module_.layers[plan_.bodies[0].layer].name : module_.stacks.back().name;
  }

  std::string banner() const {
    std::string text;
    llvm::raw_string_ostream out(text);
    out << "// Generated by phasec from @" << what() << " for " << plan_.target->name << ".\n// schedule: " << plan_.schedule.canonical() << "\n";
    out << "// reproduce: phasec render " << what() << ".phase --emit=cuda --target " << plan_.target->name;
    for (const KnobInfo &k : knobs())
      if (std::strcmp(k.name, "target") && plan_.schedule.origin(k.name) != Origin::Default)
        out << " --set " << k.name << "=" << plan_.schedule.text(k.name);
    out << "\n";
    return out.str();
  }

  std::string config() const {
    std::string text;
    llvm::raw_string_ostream out(text);
    const SharedLayout &l = plan_.shared;
    int calls = 0;
    for (const Instance &i : plan_.instances) calls += plan_.bodies[i.body].calls();
    out << "struct Launch {\n  using L = Launch;\n";
    out << "  static constexpr int tokens = " << plan_.tokens_max << ", warps = " << plan_.warps << ", threads = " << plan_.warps * 32
        << ", ctas = " << plan_.ctas_pinned << ";" << (plan_.ctas_pinned ? "\n" : " // ctas 0: a launch value\n");
    out << "  static constexpr int stages = " << plan_.stream.stages << ", stage_bytes = " << plan_.stream.stage_bytes << ";\n";
    out << "  static constexpr int ring_offset = " << l.ring << ", barriers_offset = " << l.barriers << ", units_offset = " << l.units
        << ", taken_offset = " << l.taken << ", step_offset = " << l.step
        << ",\n      table_offset = " << l.table << ", feeder_tables_offset = " << l.feeder_tables << ", fold_offset = " << l.fold
        << ",\n      fold_buffers = " << l.fold_buffers << ", fold_bytes = " << l.fold_bytes << ", fold_sync_offset = " << l.fold_sync
        << ",\n      tile_offset = " << l.tile << ", scratch_offset = " << l.scratch << ", operand_offset = " << l.operand << "; // shared memory, " << l.bytes << " bytes\n";
    out << "  static constexpr int table_entries = " << plan_.table_entries << ", step_counts = 0, instances = " << plan_.instances.size()
        << ", first_step = " << first_step_[plan_.instances[0].body] << ", calls = " << calls
        << ", instance_counter = " << plan_.instance_counter << ";\n};\n";
    return out.str();
  }

  std::string program() {
    std::string text;
    llvm::raw_string_ostream out(text);
    bool many = plan_.bodies.size() > 1;
    int steps = int(plan_.bodies[0].steps.size());
    if (many) {
      std::vector<int> first_call;
      int calls = 0;
      for (const Instance &i : plan_.instances) {
        first_call.push_back(calls);
        calls += plan_.bodies[i.body].calls();
      }
      out << "// per instance: body, its occurrence, first call, arrivals so far by row tiles and by whole CTAs\nPHASEC_TABLE int instance_table[][5] = {";
      int64_t tiles = 0, ctas = 0;
      for (size_t i = 0; i < plan_.instances.size(); i++) {
        const Body &b = plan_.bodies[plan_.instances[i].body];
        if (b.leaves_by_tile) tiles += b.steps.back().gemv.tiles;
        else ctas += i + 1 < plan_.instances.size();
        out << (i ? ", " : "") << "{" << plan_.instances[i].body << ", " << plan_.instances[i].occurrence << ", " << first_call[i] << ", "
            << tiles << ", " << ctas << "}";
      }
      out << "};\nPHASEC_TABLE int body_steps[][2] = {";
      for (size_t b = 0; b < plan_.bodies.size(); b++)
        out << (b ? ", " : "") << "{" << first_step_[b] << ", " << first_step_[b] + int(plan_.bodies[b].steps.size()) << "}";
      out << "};\n";
    }
    std::string body = "body_steps[instance_table[instance][0]]", i = many ? " instance" : "";
    bool tagged = false;
    std::string step_calls;
    for (const Body &b : plan_.bodies)
      for (const Step &s : b.steps) {
        step_calls += (step_calls.empty() ? "" : ", ") + std::to_string(s.calls());
        tagged |= s.calls() > 1;
      }
    if (tagged) out << "PHASEC_TABLE int step_calls[] = {" << step_calls << "}; // a second call adds tagged slots\n";
    out << "struct Program {\n";
    out << "  PHASEC_DEVICE static int calls(int" << (tagged ? " step) { return step_calls[step]; }\n" : ") { return 1; }\n");
    out << "  PHASEC_DEVICE static int steps_begin(int" << i << ") { return " << (many ? body + "[0]" : "0") << "; }\n";
    out << "  PHASEC_DEVICE static int steps_end(int" << i << ") { return " << (many ? body + "[1]" : std::to_string(steps)) << "; }\n";
    out << "  PHASEC_DEVICE static int calls_begin(int instance) { return "
        << (many ? "instance_table[instance][2]" : "instance * " + std::to_string(plan_.bodies[0].calls())) << "; }\n";
    arrivals(out, many);
    out << "  PHASEC_DEVICE static void open(const Cta &cta) {\n    switch (ptx::thread()) {\n";
    for (BodyText &b : bodies_) b.openCases(out);
    out << "    default: break;\n    }\n  }\n";
    out << "  PHASEC_DEVICE static bool next(const Cta &cta, const u64 *table, Cursor &c, Item &item) {\n    switch (c.step) {\n";
    for (BodyText &b : bodies_) b.nextCases(out);
    out << "    }\n    return false;\n  }\n";
    for (size_t b = 0; b < bodies_.size(); b++) {
      out << "  // @" << module_.layers[plan_.bodies[b].layer].name << "\n";
      out << "  PHASEC_DEVICE static void body" << b << "(Cta &cta, Ring<Launch> &ring, u32 &folded, int call) {\n";
      bodies_[b].calls(out);
      out << "  }\n";
    }
    runFunction(out, many);
    out << "};\n";
    return out.str();
  }

  /// What the event between instances counts: row tiles of the last step, or CTAs (never after the last instance).
  void arrivals(llvm::raw_ostream &out, bool many) const {
    if (plan_.instances.size() == 1) return;
    const Body &only = plan_.bodies[0];
    std::string by_cta = many ? "false" : only.leaves_by_tile ? "false" : "true", count;
    if (many) {
      by_cta.clear();
      for (size_t b = 0; b < plan_.bodies.size(); b++)
        if (!plan_.bodies[b].leaves_by_tile) by_cta += (by_cta.empty() ? "" : " || ") + ("instance_table[instance][0] == " + std::to_string(b));
      count = "instance_table[instance][3] + instance_table[instance][4] * cta.ctas";
    } else if (only.leaves_by_tile) {
      count = "(instance + 1) * " + std::to_string(only.steps.back().gemv.tiles);
    } else {
      count = "(instance + 1 < Launch::instances ? instance + 1 : instance) * cta.ctas";
    }
    bool names_cta = count.find("cta.") != std::string::npos, names_instance = by_cta.find("instance") != std::string::npos;
    out << "  PHASEC_DEVICE static int arrivals(const Cta &" << (names_cta ? "cta" : "") << ", int instance) { return " << count << "; }\n";
    out << "  PHASEC_DEVICE static bool leaves_by_cta(int" << (names_instance ? " instance" : "") << ") { return "
        << (by_cta.empty() ? "false" : by_cta) << "; }\n";
  }

  void runFunction(llvm::raw_ostream &out, bool many) const {
    out << "  PHASEC_DEVICE static void run(Cta &cta, Ring<Launch> &ring, u32 &folded, int instance) {\n";
    for (size_t b = 0; b < plan_.bodies.size(); b++) {
      auto occurrences = std::count_if(plan_.instances.begin(), plan_.instances.end(), [&](const Instance &i) { return i.body == int(b); });
      if (many) out << "    if (instance_table[instance][0] == " << b << ") {\n  ";
      out << "    cta.round = cta.epoch * " << occurrences << "u + u32(" << (many ? "instance_table[instance][1]" : "instance") << ");\n";
      out << (many ? "      " : "    ") << "body" << b << "(cta, ring, folded, calls_begin(instance));\n";
      if (many) out << "    }\n";
    }
    out << "  }\n";
  }

  const Plan &plan_;
  const ir::Module &module_;
  std::vector<BodyText> bodies_;
  std::vector<int> first_step_;
};

} // namespace

ProgramText programText(const Plan &plan, const ir::Module &module) { return ProgramBuilder(plan, module).build(); }

} // namespace phasec
