// attributes.h: every attribute of every statement, one row each. The parser and the printer both walk these rows, so
// an attribute that can be written is an attribute that is printed. A visitor has
//   real, integer, flag, word, choice, value (name, member, printed?)   and   ignored, knob.
// `printed` says whether the canonical form shows the attribute: conventions that a kernel is specialised for always
// are.
#pragma once

#include "ir/layer.h"

namespace phasec::ir {

template <class Visitor> void attributes(EmbedAttrs &, Visitor &) {}

template <class Visitor> void attributes(NormAttrs &a, Visitor &v) {
  v.ignored("rms"); // the only norm there is, for readers who like to see it
  v.real("eps", a.eps, true);
  v.word("gamma", a.gamma, 2, a.gamma != NormGamma::Plain);
}

template <class Visitor> void attributes(QkvAttrs &a, Visitor &v) {
  const bool norm = a.q_norm != kNone || a.k_norm != kNone;
  v.value("bias", a.bias, a.bias != kNone);
  v.value("q_norm", a.q_norm, a.q_norm != kNone);
  v.value("k_norm", a.k_norm, a.k_norm != kNone);
  v.real("eps", a.eps, norm);
  v.word("gamma", a.gamma, 2, a.gamma != NormGamma::Plain);
  v.value("rope", a.rope, a.rope != kNone);
  v.integer("rotary", a.rotary, a.rotary != 0);
  v.word("pairing", a.pairing, 2, a.rope != kNone);
  v.word("gate_rows", a.gate_rows, 2, a.gate_rows != GateRows::Block);
  v.flag("append", a.append, a.append);
}

template <class Visitor> void attributes(AttnAttrs &a, Visitor &v) {
  v.real("scale", a.scale, a.scale != 0);
  v.choice("gate", a.sigmoid_gate, "sigmoid", a.sigmoid_gate);
}

template <class Visitor> void attributes(WoAttrs &, Visitor &v) { v.knob("split", "wo_split"); }

template <class Visitor> void attributes(GatherAttrs &a, Visitor &v) { v.word("by", a.by, 2, true); }

template <class Visitor> void attributes(Fc1Attrs &a, Visitor &v) { v.word("act", a.act, 2, true); }

template <class Visitor> void attributes(Fc2Attrs &a, Visitor &v) {
  v.choice("act_quant", a.act_quant_nvfp4, "nvfp4", a.act_quant_nvfp4);
}

template <class Visitor> void attributes(HeadAttrs &, Visitor &) {}

template <class Visitor> void attributes(ArgmaxAttrs &, Visitor &) {}

/// How a weight matrix is stored, by format.
template <class Visitor> void attributes(WeightType &w, Visitor &v) {
  if (w.format == Format::nvfp4) {
    v.word("scales", w.scales, 2, true);
    v.word("global", w.global, 2, true);
  }
  if (w.format == Format::fp8_e4m3) v.word("scale", w.fp8_scale, 2, true);
}

/// The layout of a paged cache: words for bools that the tree keeps short.
enum class RowOrder : uint8_t { Nhd, Hnd };
enum class KvLayout : uint8_t { Joint, Separate };
inline const char *name(RowOrder order) { return order == RowOrder::Nhd ? "nhd" : "hnd"; }
inline const char *name(KvLayout kv) { return kv == KvLayout::Joint ? "joint" : "separate"; }

template <class Visitor> void attributes(CacheType &c, Visitor &v) {
  RowOrder order = c.hnd ? RowOrder::Hnd : RowOrder::Nhd;
  KvLayout kv = c.joint ? KvLayout::Joint : KvLayout::Separate;
  v.integer("page", c.page, true);
  v.word("order", order, 2, true);
  v.word("kv", kv, 2, true);
  c.hnd = order == RowOrder::Hnd;
  c.joint = kv == KvLayout::Joint;
}

} // namespace phasec::ir
