// types.cpp: names, sizes and look-ups of the tree in layer.h.
#include "ir/layer.h"

namespace phasec::ir {

const char *name(DType dtype) {
  switch (dtype) {
  case DType::bf16: return "bf16";
  case DType::f32: return "f32";
  case DType::fp8_e4m3: return "fp8_e4m3";
  case DType::i32: return "i32";
  }
  return "";
}

int64_t bytes(DType dtype) {
  switch (dtype) {
  case DType::bf16: return 2;
  case DType::f32:
  case DType::i32: return 4;
  case DType::fp8_e4m3: return 1;
  }
  return 0;
}

const char *name(Format format) {
  static constexpr const char *kNames[] = {
#define PHASEC_FORMAT(id, ...) #id,
#include "formats.def"
  };
  return kNames[static_cast<size_t>(format)];
}

const char *name(Op op) {
  static constexpr const char *kNames[] = {
#define PHASEC_OP(id, ...) #id,
#include "ops.def"
  };
  return kNames[static_cast<size_t>(op)];
}

const char *name(ValueKind kind) {
  constexpr const char *kNames[] = {"input", "weight", "cache", "temp"};
  return kNames[static_cast<int>(kind)];
}
const char *name(ScaleLayout layout) { return layout == ScaleLayout::Linear ? "linear" : "swizzled"; }
const char *name(GlobalScale global) { return global == GlobalScale::Multiply ? "multiply" : "divide"; }
const char *name(Fp8Scale scale) { return scale == Fp8Scale::Tensor ? "tensor" : "row"; }
const char *name(NormGamma gamma) { return gamma == NormGamma::Plain ? "plain" : "one_plus"; }
const char *name(Pairing pairing) { return pairing == Pairing::Half ? "half" : "interleaved"; }
const char *name(GateRows rows) { return rows == GateRows::Block ? "block" : "per_head"; }
const char *name(Activation act) { return act == Activation::Silu ? "silu" : "gelu_tanh"; }
const char *name(GatherBy by) { return by == GatherBy::Elected ? "elected" : "consumers"; }
const char *name(EventKind kind) { return kind == EventKind::Grid ? "grid" : "counter"; }
const char *name(Sync sync) { return sync == Sync::Auto ? "auto" : "explicit"; }

int64_t Layer::dim(std::string_view dim_name) const {
  for (const auto &[known, value] : dims)
    if (known == dim_name) return value;
  return 0;
}

const Phase *Layer::producer(ValueId v) const {
  for (const Phase &phase : phases)
    for (ValueId result : phase.results)
      if (result == v) return &phase;
  return nullptr;
}

const Phase *Layer::find(Op op) const {
  for (const Phase &phase : phases)
    if (phase.op == op) return &phase;
  return nullptr;
}

bool Layer::isPartials(ValueId v) const {
  const Phase *phase = producer(v);
  return phase && phase->op == Op::wo;
}

const Layer *Module::layer(std::string_view layer_name) const {
  for (const Layer &candidate : layers)
    if (candidate.name == layer_name) return &candidate;
  return nullptr;
}

DType defaultDType(Op op) {
  if (op == Op::argmax) return DType::i32;
  return op == Op::wo || op == Op::gather || op == Op::head ? DType::f32 : DType::bf16;
}

std::vector<int64_t> resultShape(const Layer &layer, const Phase &phase) {
  const auto operand = [&](size_t i) -> const Value * {
    if (i >= phase.operands.size() || phase.operands[i] < 0) return nullptr;
    return &layer.values[phase.operands[i]];
  };
  const Value *source = operand(0), *weight = operand(1);
  switch (phase.op) {
  case Op::embed:
    if (weight && weight->shape.size() == 2) return {kTokensExtent, weight->shape[1]};
    break;
  case Op::norm:
  case Op::gather:
    if (source && source->shape.size() == 2) return source->shape;
    break;
  case Op::qkv:
  case Op::attn:
    if (layer.dim("heads") > 0 && layer.dim("head_dim") > 0)
      return {kTokensExtent, layer.dim("heads") * layer.dim("head_dim")};
    break;
  case Op::wo:
  case Op::fc2:
  case Op::head:
    if (weight && weight->shape.size() == 2) return {kTokensExtent, weight->shape[0]};
    break;
  case Op::fc1: // gate rows, then up rows
    if (weight && weight->shape.size() == 2) return {kTokensExtent, weight->shape[0] / 2};
    break;
  case Op::argmax: return {kTokensExtent};
  }
  return {};
}

namespace {
/// Appends the layers of `items`; false when kInstancesMax is reached.
bool expand(const Module &module, const std::vector<StackItem> &items, std::vector<int> &out) {
  for (const StackItem &item : items) {
    int index = -1;
    for (size_t i = 0; i < module.layers.size(); ++i)
      if (module.layers[i].name == item.layer) index = static_cast<int>(i);
    for (int64_t n = 0; n < item.count; ++n) {
      const size_t before = out.size();
      if (index >= 0) {
        if (out.size() >= kInstancesMax) return false;
        out.push_back(index);
      } else if (!expand(module, item.items, out)) {
        return false;
      }
      if (out.size() == before) break; // an empty group, however often it repeats
    }
  }
  return true;
}
} // namespace

std::vector<int> instances(const Module &module) {
  std::vector<int> out;
  if (!module.stacks.empty())
    expand(module, module.stacks.back().items, out);
  else if (!module.layers.empty())
    out.push_back(static_cast<int>(module.layers.size()) - 1);
  return out;
}

Status applyFileSchedule(const Module &module, Schedule &schedule) {
  int previous = -1;
  for (int index : instances(module)) {
    if (index == previous) continue;
    previous = index;
    for (const auto &[knob, value] : module.layers[index].schedule) PHASEC_TRY(schedule.set(knob, value, Origin::File));
  }
  return {};
}

} // namespace phasec::ir
