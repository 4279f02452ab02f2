// render_attention.cpp: the structs of qkv and attention: what finishes a head, and where cached and fresh rows lie.
#include "compiler/render_body.h"

namespace phasec {

void BodyText::sequencesStruct(llvm::raw_ostream &out, const Step &s, int kv_region, const ir::Value &kv) {
  int k = body_.regions[kv_region].entry;
  out << "struct " << name(s) << "Kv {\n  static constexpr int step_offset = " << plan_.shared.step << ";\n"
      << "  static constexpr int cache_k = " << k << ", cache_v = " << k + 1 << ", page_stride = " << k + 2 << ", row_stride = " << k + 3
      << ", head_stride = " << k + 4 << ", page = " << kv.cache.page << ";\n};\n";
}

int BodyText::scalesEntry(int kv_region, const ir::Value &kv) const {
  return kv.cache.dtype == ir::DType::fp8_e4m3 ? body_.regions[kv_region].entry + 5 : -1;
}

void BodyText::qkvOut(llvm::raw_ostream &out, const Step &s) {
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
  out << "  PHASEC_DEVICE static int checkpoint_row(int row) { return " << checkpointRowText(s.gemv) << "; }\n";
  const char *names[] = {"Bias", "QNorm", "KNorm", "Rope"};
  for (int i = 0; i < 4; i++) out << "  using " << names[i] << " = " << region(s.operands[3 + i]) << ";\n";
  const char *results[] = {"Q", "Gate", "Fresh", "FreshV"};
  for (int i = 0; i < 4 && !s.gemv.raw; i++) out << "  using " << results[i] << " = " << region(s.results[i]) << ";\n";
  const Event *e = counterSignal(s);
  out << "  PHASEC_DEVICE static void signal(const Cta &" << (e ? "cta" : "") << ", int" << (e ? " kv_head" : "") << ") {";
  if (e) out << " event::owe<" << eventName(e->id) << ">(cta, kv_head, 1u);";
  out << " }\n};\n";
}

void BodyText::attnStep(llvm::raw_ostream &out, const Step &s) {
  const Attention &a = s.attention;
  const ir::Value &kv = layer_.values[a.kv];
  sequencesStruct(out, s, s.operands[1], kv);
  out << "struct " << name(s) << " : Launch {\n  using S = " << name(s) << "Kv;\n  using Row = " << cType(ir::name(kv.cache.dtype)) << ";\n  static constexpr int step = " << first_step_ + s.id << ";\n";
  out << "  static constexpr int queries_offset = " << plan_.shared.operand << ", states_offset = " << plan_.shared.states
        << ", units_shared_offset = " << plan_.shared.attention_units
      << ", state_floats = " << a.state_floats << ";\n";
  out << "  static constexpr int row_bytes = " << a.row_bytes << ", row_stride = " << a.row_stride << ";\n";
  out << "  static constexpr int heads = " << layer_.dim("heads") << ", kv_heads = " << layer_.dim("kv_heads")
      << ", group = " << layer_.dim("heads") / layer_.dim("kv_heads") << ", head_dim = " << layer_.dim("head_dim") << ";\n";
  out << "  static constexpr int kv_splits = " << a.kv_splits << ", head_states = " << body_.regions[a.partials_region].shape[1] << ", chunk_rows = " << a.chunk_rows << ", block_rows = " << a.block_rows << ", buffered_warps = " << a.buffered_warps << ", buffered_from = " << a.buffered_from
      << ", kv_scales = " << scalesEntry(s.operands[1], kv) << ";\n";
  out << "  static constexpr int pair_arrivals = " << kPairArrivals << ";\n";
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

std::string BodyText::fresh(int index, const ir::Value &kv) const {
  return index >= 0 ? region(index) : "Local<" + cType(ir::name(kv.cache.dtype)) + ", 0>";
}

} // namespace phasec
