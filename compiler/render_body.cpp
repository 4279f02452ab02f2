// render_body.cpp: see render_body.h.
#include "compiler/render_body.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/Format.h"

#include <algorithm>
#include <cstring>

namespace phasec {

using ir::EventKind;
using ir::Op;

void BodyText::phases(llvm::raw_ostream &out) {
  out << "// ---- layer @" << layer_.name << " ----\n";
  for (const Event &e : body_.events)
    if (!e.carried) event(out, e);
  for (const Step &s : body_.steps) step(out, s);
}

void BodyText::fetchCases(llvm::raw_ostream &out) {
  for (const Step &s : body_.steps)
    if (s.gemv.rows) out << "    case " << first_step_ + s.id << ": gemv::fetch<" << name(s) << ">(table, s, item, to); break;\n";
}

void BodyText::openCases(llvm::raw_ostream &out) {
  for (const Step &s : body_.steps) {
    if (!s.gemv.rows && s.op != Op::attn) continue;
    auto waits = std::find_if(body_.steps.begin(), body_.steps.end(), [&](const Step &a) { return a.op == Op::attn && a.attention.heads_step == s.id; });
    std::string busy = s.gemv.late_end ? ", attn::count_units<" + name(*waits) + ">(cta, nullptr)" : "";
    out << "    case " << first_step_ + s.id << ": " << (s.gemv.rows ? "gemv" : "attn") << "::open<" << name(s) << ">(cta" << busy << "); break;\n";
  }
}

void BodyText::calls(llvm::raw_ostream &out) {
  int call_index = 0;
  for (const Step &s : body_.steps) // the rows of more tokens are in the stream's way (tests/bench/README.md)
    if (s.op == Op::attn && s.id > 0 && plan_.tokens_max == 1) out << "    attn::prefetch<" << name(s) << ">(cta);\n";
  for (const Step &s : body_.steps) {
    for (int e : s.waits)
      out << "    // " << (body_.events[e].carried ? "tags: " : body_.events[e].kind == EventKind::Grid ? "grid: " : "counter: ") << body_.events[e].edge << "\n";
    out << "    if (launch::begins<Launch>(cta, call + " << call_index << ")) { // " << resultNames(s) << " = " << s.label << "\n";
    delay(out, call_index);
    out << "      " << call(s) << "\n";
    if (std::string rows = appendRows(s); !rows.empty()) out << "      " << rows << "\n";
    if (s.gemv.fold == Fold::ElectedCta) out << "      gather::elected_cta<" << name(s) << ", " << name(s) << "Out>(cta);\n";
    if (s.gemv.fold == Fold::Tagged) {
      out << "    }\n    if (launch::begins<Launch>(cta, call + " << call_index + 1 << ")) { // its slots\n";
      delay(out, call_index + 1);
      out << "      gemv::finish_tiles<" << name(s) << ", " << finishName(s) << ">(cta);\n";
    }
    if (s.argmax.cols) out << "      argmax::close<" << chooserName(s, name(s)) << ">(cta);\n";
    settle(out, s);
    for (int e : s.signals)
      if (body_.events[e].kind == EventKind::Grid && !body_.events[e].carried) out << "      event::arrive<" << eventName(e) << ">(cta);\n";
    out << "    }\n";
    call_index += s.calls();
  }
}

/// KV rows that attention finishes go to the cache by CTAs that a later step needs, if there is one.
std::string BodyText::appendRows(const Step &s) const {
  if (s.op != Op::attn || s.attention.heads_step < 0) return "";
  if (!std::get<ir::QkvAttrs>(layer_.phases[body_.steps[s.attention.heads_step].phase].attrs).append) return "";
  auto later = std::find_if(body_.steps.begin() + s.id + 1, body_.steps.end(), [](const Step &t) { return t.gemv.rows > 0; });
  std::string call = "attn::append_rows<" + name(s) + ">(cta, ";
  if (later == body_.steps.end()) return call + "cta.cta, cta.cta + 1, ptx::ctas());";
  std::string g = name(*later), units = "gemv::units<" + g + ">(cta)";
  return call + units + ".begin, " + units + ".end, " + g + "::slots * " + g + "::tiles);";
}

void BodyText::delay(llvm::raw_ostream &out, int call_index) const {
  if (int64_t most = plan_.schedule.integer("delay")) out << "      launch::delay<Launch, " << most << ">(cta, call + " << call_index << ");\n";
}

/// Attention arrives at once, a GEMV's row tiles owe their arrivals until the step ends.
void BodyText::settle(llvm::raw_ostream &out, const Step &s) const {
  std::string events;
  if (const Event *e = counterSignal(s)) events += ", " + eventName(e->id);
  if (leaves(s)) events += ", launch::Leave<Launch>";
  if (s.gemv.rows && !events.empty()) out << "      event::settle<" << name(s) << events << ">(cta);\n";
}

std::set<std::string> BodyText::includes() const {
  std::set<std::string> used;
  for (const Step &s : body_.steps) {
    used.insert(std::string("phases/") + ir::name(s.op) + ".cuh");
    if (s.op == Op::wo && (s.results[0] >= 0)) used.insert("phases/gather.cuh");
  }
  return used;
}

std::string BodyText::exactFloat(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  std::string text;
  llvm::raw_string_ostream out(text);
  out << "ptx::from_bits(" << llvm::format_hex(bits, 10) << "u) /* " << llvm::format("%.9g", double(v)) << " */";
  return out.str();
}

std::string BodyText::cType(const std::string &dtype) {
  return dtype == "f32" || dtype == "tagged" ? "float" : dtype == "fp8_e4m3" ? "e4m3" : dtype;
}

std::string BodyText::name(const Step &s) const {
  std::string op = ir::name(s.op);
  op[0] = char(llvm::toUpper(op[0]));
  return op + std::to_string(s.id) + suffix();
}

std::string BodyText::resultNames(const Step &s) const {
  std::string names;
  for (ir::ValueId v : layer_.phases[s.phase].results) names += (names.empty() ? "%" : ", %") + layer_.values[v].name;
  return names;
}

std::string BodyText::region(int index) const {
  if (index < 0) return "Absent";
  const Region &r = body_.regions[index];
  if (r.chain != Region::Chain::None)
    return "Chained<Launch, " + std::to_string(r.entry) + ", " + (r.chain == Region::Chain::Out ? "true" : "false") + ">";
  if (r.space == Space::Table) return "Bound<" + cType(r.dtype) + ", " + std::to_string(r.entry) + ">";
  std::string place = cType(r.dtype) + ", " + std::to_string(r.offset);
  return r.tagged ? "Tagged<" + place + ", " + std::to_string(r.tagged) + ">" : "Local<" + place + ">";
}

void BodyText::event(llvm::raw_ostream &out, const Event &e) {
  bool grid = e.kind == EventKind::Grid;
  bool uniform = std::all_of(e.arrivals.begin(), e.arrivals.end(), [&](int64_t n) { return n == e.arrivals[0]; });
  out << "// " << (grid ? "grid: " : "counter: ") << e.edge << " (" << e.reason << ")\n";
  if (!uniform) table(out, eventName(e.id) + "_arrivals", e.arrivals);
  out << "struct " << eventName(e.id) << " : Launch {\n  static constexpr bool grid = " << (grid ? "true" : "false")
      << ";\n  static constexpr int counter = " << e.counter << ", slices = " << e.slices << ";\n";
  out << "  PHASEC_DEVICE static int arrivals(int" << (uniform ? "" : " slice") << ") { return ";
  if (!uniform) out << eventName(e.id) << "_arrivals[slice]";
  else out << (grid ? 0 : e.arrivals[0]);
  out << "; }\n};\n";
}

void BodyText::table(llvm::raw_ostream &out, const std::string &name, const std::vector<int64_t> &values) {
  out << "PHASEC_TABLE int " << name << "[] = {";
  for (size_t i = 0; i < values.size(); i++) out << (i ? (i % 16 ? ", " : ",\n    ") : "") << values[i];
  out << "};\n";
}

int64_t BodyText::firstHead(const Gemv &g, int slices, int slot) {
  return g.segments[size_t(slot * g.segments_per_slot)].granule_begin * kGranuleK / (g.cols / slices);
}

bool BodyText::reachesBack(const Gemv &g, int slices) {
  for (int slot = 0; slot < g.slots; slot++)
    if (firstHead(g, slices, slot) < slot / (g.slots / slices)) return g.cols / slices % kGranuleK != 0;
  return false;
}

void BodyText::await(llvm::raw_ostream &out, const Step &s) const {
  std::vector<int> waits = s.waits;
  std::erase_if(waits, [&](int e) { return body_.events[e].carried; });
  out << "  PHASEC_DEVICE static void await(const Cta &" << (waits.empty() ? "" : "cta") << ", int"
      << (std::any_of(waits.begin(), waits.end(), [&](int e) { return body_.events[e].slices > 1; }) ? " slot" : "") << ") {";
  for (int e : waits) {
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

const Event *BodyText::counterSignal(const Step &s) const {
  for (int e : s.signals)
    if (body_.events[e].kind == EventKind::Counter && !body_.events[e].carried) return &body_.events[e];
  return nullptr;
}

void BodyText::step(llvm::raw_ostream &out, const Step &s) {
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

StepText BodyText::stepText(const Step &s) const {
  StepText text{name(s), [this](int index) { return region(index); }, ""};
  llvm::raw_string_ostream out(text.await);
  await(out, s);
  return text;
}

void BodyText::gemv(llvm::raw_ostream &out, const Step &s) {
  const Gemv &g = s.gemv;
  std::vector<int64_t> segments;
  for (const Segment &x : g.segments) segments.insert(segments.end(), {x.granule_begin, x.granule_end, x.k_begin, x.k_end});
  std::string segment_name = std::string(ir::name(s.op)) + std::to_string(s.id) + suffix() + "_segments";
  out << "// " << ir::name(g.format) << " [" << g.rows << ", " << g.cols << "]; segments: granules [begin, end), k [begin, end)\n";
  table(out, segment_name, segments);
  for (int e : s.waits) {
    int slices = body_.events[e].slices;
    if (s.op != Op::wo || slices == 1 || body_.events[e].carried || !reachesBack(g, slices)) continue;
    std::vector<int64_t> heads;
    for (int slot = 0; slot < g.slots; slot++) heads.push_back(firstHead(g, slices, slot));
    table(out, firstHeads(s), heads);
  }
  out << "struct " << name(s) << " : Launch {\n  static constexpr int step = " << first_step_ + s.id << ";\n";
  out << "  static constexpr int rows = " << g.rows << ", cols = " << g.cols << ", tiles = " << g.tiles << ", granules = " << g.granules
      << ";\n  static constexpr int slots = " << g.slots << ", segments = " << g.segments_per_slot
      << ", segment_granules = " << g.segment_granules << ", segment_least = " << g.segment_least << ", operand_stride = " << g.operand_stride << ";\n";
  out << "  static constexpr int weight = " << g.weight << ", scale_entry = " << std::max(g.scale, 0) << ", elections = " << g.elections
      << ", late_begin = " << g.late_begin << ", late_end = " << g.late_end << ";\n";
  static const char *assignments[] = {"Balanced", "Grid", "SlotCta"}, *folds[] = {"Direct", "Tagged", "ElectedCta", "Consumers", "Atomic"};
  out << "  static constexpr auto assignment = gemv::Assignment::" << assignments[int(g.assignment)] << ";\n";
  out << "  static constexpr auto fold = gemv::Fold::" << folds[int(g.fold)] << ";\n";
  out << "  static constexpr auto scale = gemv::Scale::" << scaleName(g) << ";\n";
  out << "  using Format = weights::" << ir::name(g.format) << ";\n";
  transform(out, g.operand, true);
  out << "  using X = " << region(g.operand.region) << ";\n";
  out << "  using Slots = " << region(g.fold == Fold::Direct ? -1 : g.slots_region) << ";\n";
  out << "  PHASEC_DEVICE static const int *segment_table() { return " << segment_name << "; }\n";
  out << "  PHASEC_DEVICE static int checkpoint_row(int row) { return " << checkpointRowText(g) << "; }\n";
  await(out, s);
  out << "};\n";
}

std::string checkpointRowText(const Gemv &g) {
  std::string half = std::to_string(g.rows / 2), hd = std::to_string(g.head_dim), heads = std::to_string(g.heads);
  if (g.row_map == RowMap::GateUp) return "row / 16 * 8 + row % 8 + (row % 16 < 8 ? 0 : " + half + ")";
  if (g.row_map == RowMap::GatePerHead)
    return "row >= " + std::to_string(2 * g.heads * g.head_dim) + " ? row : (row / " + hd + " % " + heads + " * 2 + row / " +
           std::to_string(g.heads * g.head_dim) + ") * " + hd + " + row % " + hd;
  return "row";
}

const char *BodyText::scaleName(const Gemv &g) {
  if (g.scale < 0) return "None";
  if (g.scale_count > 1) return "PerRow";
  return g.format == ir::Format::nvfp4 && g.weight_type.global == ir::GlobalScale::Divide ? "Divide" : "Multiply";
}

void BodyText::transform(llvm::raw_ostream &out, const Operand &o, bool staged) {
  switch (o.transform) {
  case Transform::None: out << "  using Transform = operand::Plain;\n"; return;
  case Transform::QuantNvfp4: out << "  using Transform = operand::QuantNvfp4;\n"; return;
  case Transform::Norm:
    out << "  struct Transform" << (staged ? " : operand::Norm" : "") << " {\n    using Gamma = Bound<" << cType(o.gamma_dtype) << ", " << o.gamma
        << ">;\n    static constexpr bool one_plus = " << (o.norm.gamma == ir::NormGamma::OnePlus ? "true" : "false")
        << ";\n    PHASEC_DEVICE static float eps() { return " << exactFloat(float(o.norm.eps)) << "; }\n  };\n";
  }
}

void BodyText::rowsOut(llvm::raw_ostream &out, const Step &s, int residual, int result) {
  out << "struct " << name(s) << "Out : Launch {\n  using Residual = " << region(residual) << ";\n  using Y = " << region(result) << ";\n";
  const Event *e = counterSignal(s);
  out << "  PHASEC_DEVICE static void signal(const Cta &" << (e || leaves(s) ? "cta" : "") << ") {";
  if (e) out << " event::owe<" << eventName(e->id) << ">(cta, 0, 1u);";
  if (leaves(s)) out << " event::owe<launch::Leave<Launch>>(cta, 0, 1u);";
  out << " }\n};\n";
}

void BodyText::normStep(llvm::raw_ostream &out, const Step &s) {
  out << "struct " << name(s) << " : Launch {\n  static constexpr int cols = " << s.gemv.cols << ";\n";
  transform(out, s.gemv.operand, false);
  out << "  using X = " << region(s.gemv.operand.region) << ";\n  using Y = " << region(s.results[0]) << ";\n";
  await(out, s);
  out << "};\n";
}

void BodyText::gatherStep(llvm::raw_ostream &out, const Step &s) {
  out << "struct " << name(s) << " : Launch {\n  using Residual = " << region(s.operands[1]) << ";\n  using Y = " << region(s.results[0]) << ";\n";
  await(out, s);
  out << "};\n";
}

void BodyText::fc1Out(llvm::raw_ostream &out, const Step &s) {
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
  out << "    event::owe<" << eventName(e->id) << ">(cta, slice, 1u);\n  }\n};\n";
}

std::string BodyText::call(const Step &s) const {
  std::string n = name(s);
  switch (s.op) {
  case Op::embed:
  case Op::argmax: return std::string(ir::name(s.op)) + "::run<" + n + ">(cta);";
  case Op::norm: return "rms::run<" + n + ">(cta);";
  case Op::attn: return "attn::run<" + n + ">(cta);";
  case Op::gather: return "gather::run<" + woOf(s) + ", " + n + ">(cta);";
  default: return "gemv::run<" + n + ", " + finishName(s) + ">(cta);";
  }
}

std::string BodyText::finishName(const Step &s) const {
  std::string n = name(s);
  bool keep = s.results[0] < 0 || s.gemv.fold == Fold::ElectedCta || s.gemv.fold == Fold::Consumers;
  if (s.op == Op::wo) return keep ? "wo::KeepSlots" : "gather::Finish<" + n + "Out>";
  return std::string(ir::name(s.op)) + (s.gemv.raw ? "::Raw<" : "::Finish<") + n + "Out>";
}

std::string BodyText::woOf(const Step &s) const {
  for (const Step &w : body_.steps)
    if (w.op == Op::wo && w.gemv.slots_region == s.operands[0]) return name(w);
  return "";
}

} // namespace phasec
