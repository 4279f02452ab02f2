// verify_phases.cpp: what each operation asks of its operands, attributes and results.
#include "ir/suggest.h"
#include "ir/verifier_impl.h"

#include <algorithm>

namespace phasec::ir {

namespace {
struct OpInfo {
  size_t least_operands, most_operands, least_results, most_results;
  const char *operand_names;
};
constexpr OpInfo kOps[] = {
#define PHASEC_OP(id, least_in, most_in, least_out, most_out, names, doc)                                              \
  {least_in, most_in, least_out, most_out, names},
#include "ops.def"
};
const OpInfo &info(Op op) { return kOps[static_cast<size_t>(op)]; }

std::string count(size_t least, size_t most, const char *noun) {
  std::string text = std::to_string(least);
  if (most != least) text += " or " + std::to_string(most);
  return text + " " + noun + (most == 1 ? "" : "s");
}

constexpr int64_t kActivationGranule = 16; // a bulk copy and a row tile both want it
constexpr int64_t kFfnGranule = 8;
constexpr int64_t kNvfp4Block = 16;
} // namespace

void LayerVerifier::checkPhases() {
  for (size_t i = 0; i < layer_.phases.size(); ++i) {
    const Phase &phase = layer_.phases[i];
    const Phase *first = layer_.find(phase.op);
    if (first != &phase && phase.op != Op::norm)
      error(phase.op_range, "a second " + quoted(phase.op) +
                                " in one layer; only `norm` may occur more than once. "
                                "Write two layers and a stack")
          .note(first->op_range, "the first is here");
    if (!checkArity(phase)) continue;
    checkPhase(phase);
    checkResults(phase);
  }
}

bool LayerVerifier::checkArity(const Phase &phase) {
  const OpInfo &op = info(phase.op);
  std::vector<std::string> names = splitWords(op.operand_names, ' ');
  for (size_t i = op.least_operands; i < names.size(); ++i) names[i] = "[" + names[i] + "]";
  const size_t operands = phase.operands.size(), results = phase.results.size();
  if (operands < op.least_operands || operands > op.most_operands) {
    error(phase.op_range, quoted(phase.op) + " takes " + count(op.least_operands, op.most_operands, "operand") + " (" +
                              listWords(names, ", ") + "), not " + std::to_string(operands));
    return false;
  }
  if (results < op.least_results || results > op.most_results) {
    error(phase.op_range, quoted(phase.op) + " has " + count(op.least_results, op.most_results, "result") + ", not " +
                              std::to_string(results));
    return false;
  }
  return true;
}

void LayerVerifier::checkPhase(const Phase &phase) {
  switch (phase.op) {
  case Op::embed: return checkEmbed(phase);
  case Op::norm: return checkNorm(phase, std::get<NormAttrs>(phase.attrs));
  case Op::qkv: return checkQkv(phase, std::get<QkvAttrs>(phase.attrs));
  case Op::attn: return checkAttn(phase, std::get<AttnAttrs>(phase.attrs));
  case Op::wo: return checkWo(phase);
  case Op::gather: return checkGather(phase);
  case Op::fc1: return checkFc1(phase);
  case Op::fc2: return checkFc2(phase, std::get<Fc2Attrs>(phase.attrs));
  case Op::head: return checkHead(phase);
  case Op::argmax: return checkArgmax(phase);
  }
}

void LayerVerifier::checkResults(const Phase &phase) {
  const bool free_dtype = phase.op == Op::gather || phase.op == Op::fc2;
  const std::vector<int64_t> shape = resultShape(layer_, phase);
  for (ValueId id : phase.results) {
    const Value &result = value(id);
    if (free_dtype && result.dtype != DType::bf16 && result.dtype != DType::f32)
      error(result.range, "the result of " + quoted(phase.op) + " is bf16 or f32, not " + name(result.dtype));
    if (!free_dtype && result.dtype != defaultDType(phase.op))
      error(result.range, "the result of " + quoted(phase.op) + " is " + name(defaultDType(phase.op)) + ", not " +
                              name(result.dtype) + "; only gather and fc2 may be annotated with another dtype");
    if (!shape.empty() && result.shape != shape)
      error(result.range,
            "%" + result.name + " is " + typeText(result) + ", which is not the shape " + quoted(phase.op) + " gives");
  }
}

// ---- shared checks
// ---------------------------------------------------------------------------------------------------

std::optional<Range> LayerVerifier::attr(const Phase &phase, std::string_view attr_name) const {
  for (const auto &[written, range] : phase.attr_ranges)
    if (written == attr_name) return range;
  return std::nullopt;
}

bool LayerVerifier::needDims(const Phase &phase, std::initializer_list<const char *> names) {
  std::vector<std::string> missing;
  for (const char *dim : names)
    if (layer_.dim(dim) <= 0) missing.emplace_back(dim);
  if (missing.empty()) return true;
  error(phase.op_range, quoted(phase.op) + " needs " + (missing.size() == 1 ? "dim " : "dims ") +
                            listWords(missing, " and ") + "; add to the layer: dims " + missing.front() + " = ...");
  return false;
}

bool LayerVerifier::activation(const Phase &phase, size_t index, const char *role, int64_t columns, bool f32_too,
                               const std::string &why) {
  const ValueId id = phase.operands[index];
  const Value &v = value(id);
  const std::string what = quoted(phase.op) + " expects " + role;
  const Range range = operandRange(phase, index);
  if (v.kind == ValueKind::Weight || v.kind == ValueKind::Cache) {
    declared(error(range, what + ", a value [tokens, n], but %" + v.name + " is a " + name(v.kind)), id);
    return false;
  }
  if (layer_.isPartials(id)) {
    declared(error(range, what + ", but %" + v.name +
                              " is the partial slots of `wo`; gather them first: %h = gather %" + v.name),
             id);
    return false;
  }
  if (v.shape.empty()) return false; // its own definition is wrong
  if (v.shape.size() != 2 || v.shape[0] != kTokensExtent) {
    declared(error(range, what + " of shape [tokens, n], but it got " + show(id)), id);
    return false;
  }
  if (!(v.dtype == DType::bf16 || (f32_too && v.dtype == DType::f32))) {
    declared(error(range, what + (f32_too ? " in bf16 or f32" : " in bf16") + ", but it got " + show(id)), id);
    return false;
  }
  if (columns > 0 && v.shape[1] != columns) {
    declared(error(range, what + " of " + std::to_string(columns) + " columns" + (why.empty() ? "" : " (" + why + ")") +
                              ", but it got " + show(id)),
             id);
    return false;
  }
  return true;
}

bool LayerVerifier::matrix(const Phase &phase, size_t index, int64_t rows, int64_t columns, const std::string &why) {
  const ValueId id = phase.operands[index];
  const Value &v = value(id);
  const Range range = operandRange(phase, index);
  const std::string want =
      "[" + (rows > 0 ? std::to_string(rows) : "n") + ", " + (columns > 0 ? std::to_string(columns) : "k") + "]";
  if (v.kind != ValueKind::Weight || v.shape.size() != 2) {
    declared(error(range, quoted(phase.op) + " expects a weight matrix " + want + " here, but it got " + show(id)), id);
    return false;
  }
  if ((rows > 0 && v.shape[0] != rows) || (columns > 0 && v.shape[1] != columns)) {
    declared(error(range, quoted(phase.op) + " expects a weight " + want + (why.empty() ? "" : " (" + why + ")") +
                              ", but it got " + show(id)),
             id);
    return false;
  }
  return true;
}

bool LayerVerifier::vector(ValueId id, Range range, const std::string &role, int64_t extent, const std::string &why) {
  const Value &v = value(id);
  if (v.isVector() && v.shape[0] == extent) return true;
  declared(error(range, role + " must be a weight vector bf16[" + std::to_string(extent) + "] or f32[" +
                            std::to_string(extent) + "] (" + why + "), but it got " + show(id)),
           id);
  return false;
}

bool LayerVerifier::cache(const Phase &phase, size_t index) {
  const ValueId id = phase.operands[index];
  if (value(id).kind == ValueKind::Cache) return true;
  declared(error(operandRange(phase, index), quoted(phase.op) + " expects a cache here, but it got " + show(id)), id);
  return false;
}

void LayerVerifier::multiple(Range range, const std::string &what, int64_t number, int64_t of) {
  if (number % of != 0)
    error(range, what + " must be a multiple of " + std::to_string(of) + ", not " + std::to_string(number));
}

void LayerVerifier::epsilon(const Phase &phase, double eps) {
  if (!(static_cast<float>(eps) > 0 && eps < 1))
    error(attrRange(phase, "eps"), "eps must lie between 0 and 1 and not vanish in f32, not " + realText(eps));
}

// ---- operations
// ------------------------------------------------------------------------------------------------------

void LayerVerifier::checkEmbed(const Phase &phase) {
  const ValueId ids = phase.operands[0], table = phase.operands[1];
  if (value(ids).kind != ValueKind::Input || value(ids).dtype != DType::i32)
    declared(error(operandRange(phase, 0), "`embed` expects token ids, an input i32[tokens], but it got " + show(ids)),
             ids);
  if (!matrix(phase, 1, 0, 0, "")) return;
  if (value(table).weight.format != Format::bf16)
    declared(error(operandRange(phase, 1), "`embed` copies rows of a bf16 table, but it got " + show(table)), table);
  multiple(operandRange(phase, 1), "the columns of embed's table", value(table).shape[1], kActivationGranule);
  for (const Phase &other : layer_.phases)
    for (size_t i = 0; i < other.operands.size(); ++i)
      if (other.op != Op::embed && other.operands[i] == table)
        declared(error(operandRange(other, i),
                       "%" + value(table).name + " is the table of `embed`, read as the checkpoint has it, but " +
                           quoted(other.op) + " reads packed weights; declare a second weight (one tensor may be " +
                           "given to both)"),
                 table);
}

void LayerVerifier::checkNorm(const Phase &phase, const NormAttrs &attrs) {
  epsilon(phase, attrs.eps);
  if (!activation(phase, 0, "its input", 0, /*f32_too=*/true, "")) return;
  const int64_t width = value(phase.operands[0]).shape[1];
  multiple(operandRange(phase, 0), "the width of a normed row", width, kActivationGranule);
  vector(phase.operands[1], operandRange(phase, 1), "gamma", width, "the width of %" + value(phase.operands[0]).name);
}

void LayerVerifier::checkQkv(const Phase &phase, const QkvAttrs &attrs) {
  if (!cache(phase, 2) || !needDims(phase, {"heads", "kv_heads", "head_dim"})) return;
  const int64_t head_dim = layer_.dim("head_dim");
  const bool gate = phase.results.size() == 2;
  const int64_t rows = (gate ? 2 : 1) * layer_.dim("heads") * head_dim + 2 * layer_.dim("kv_heads") * head_dim;
  const std::string why = std::string(gate ? "2 * heads * head_dim for q and gate" : "heads * head_dim for q") +
                          ", 2 * kv_heads * head_dim for k and v";
  if (activation(phase, 0, "its input", 0, /*f32_too=*/false, "")) {
    const int64_t columns = value(phase.operands[0]).shape[1];
    multiple(operandRange(phase, 0), "the input of qkv", columns, kActivationGranule);
    matrix(phase, 1, rows, columns, why);
  }
  if (attrs.bias != kNone) vector(attrs.bias, attrRange(phase, "bias"), "bias", rows, "one per row of the weight");
  if (!gate && attr(phase, "gate_rows"))
    error(attrRange(phase, "gate_rows"), "gate_rows says where the gate's rows are, but this qkv has one result; write "
                                         "%q, %g = qkv ... or remove it");
  checkQkvNorms(phase, attrs);
  checkRope(phase, attrs);
  const auto reads_cache = [&](const Phase &p) {
    return p.op == Op::attn && p.operands.size() > 1 && p.operands[1] == phase.operands[2];
  };
  if (!attrs.append && std::none_of(layer_.phases.begin(), layer_.phases.end(), reads_cache))
    error(phase.op_range, "k and v of this qkv are never used: write `append` to store them in %" +
                              value(phase.operands[2]).name + ", or read it with `attn`");
}

void LayerVerifier::checkQkvNorms(const Phase &phase, const QkvAttrs &attrs) {
  const bool q = attrs.q_norm != kNone, k = attrs.k_norm != kNone;
  if (q != k)
    error(attrRange(phase, q ? "q_norm" : "k_norm"),
          std::string("q_norm and k_norm come together; add ") + (q ? "k_norm" : "q_norm") + " = %gamma");
  for (const char *name : {"eps", "gamma"})
    if (!q && !k && attr(phase, name))
      error(attrRange(phase, name), std::string(name) + " belongs to q_norm and k_norm, which this qkv does not have");
  epsilon(phase, attrs.eps);
  const int64_t head_dim = layer_.dim("head_dim");
  if (q) vector(attrs.q_norm, attrRange(phase, "q_norm"), "q_norm", head_dim, "head_dim");
  if (k) vector(attrs.k_norm, attrRange(phase, "k_norm"), "k_norm", head_dim, "head_dim");
}

void LayerVerifier::checkRope(const Phase &phase, const QkvAttrs &attrs) {
  if (attrs.rope == kNone) {
    for (const char *name : {"rotary", "pairing"})
      if (attr(phase, name) || (std::string_view(name) == "rotary" && attrs.rotary != 0))
        error(attrRange(phase, name), std::string(name) + " needs a table of angles; add rope = %rope, an input "
                                                          "f32[max_pos, rotary]");
    return;
  }
  const Value &table = value(attrs.rope);
  if (table.kind != ValueKind::Input || table.dtype != DType::f32 || table.shape.size() != 2 ||
      table.shape[0] == kTokensExtent || table.shape[1] == kTokensExtent) {
    declared(error(attrRange(phase, "rope"),
                   "rope must be an input f32[max_pos, rotary] (cos, then sin), but it got " + show(attrs.rope)),
             attrs.rope);
    return;
  }
  const int64_t head_dim = layer_.dim("head_dim");
  const Range range = attr(phase, "rotary") ? attrRange(phase, "rotary") : attrRange(phase, "rope");
  if (attrs.rotary < 2 || attrs.rotary % 2 != 0 || attrs.rotary > head_dim)
    error(range, "rotary must be even and from 2 to head_dim = " + std::to_string(head_dim) + ", not " +
                     std::to_string(attrs.rotary));
  if (table.shape[1] != attrs.rotary)
    declared(error(range, "the rope table has " + std::to_string(table.shape[1]) + " columns, but rotary is " +
                              std::to_string(attrs.rotary) + "; a row holds rotary/2 cosines, then rotary/2 sines"),
             attrs.rope);
}

void LayerVerifier::checkAttn(const Phase &phase, const AttnAttrs &attrs) {
  if (!cache(phase, 1) || !needDims(phase, {"heads", "kv_heads", "head_dim"})) return;
  const int64_t columns = layer_.dim("heads") * layer_.dim("head_dim");
  activation(phase, 0, "q", columns, /*f32_too=*/false, "heads * head_dim");
  const bool gate = phase.operands.size() == 3;
  if (gate) activation(phase, 2, "the gate", columns, /*f32_too=*/false, "heads * head_dim");
  if (gate && !attrs.sigmoid_gate)
    error(operandRange(phase, 2), "attn has a gate operand but does not say how it is applied; add { gate = sigmoid }");
  if (!gate && attrs.sigmoid_gate)
    error(attrRange(phase, "gate"), "gate = sigmoid needs the gate as third operand: attn %q, %kv, %g");
  const bool sound =
      attrs.scale == 0 ? !attr(phase, "scale") : static_cast<float>(attrs.scale) > 0 && attrs.scale < 1e6;
  if (!sound) error(attrRange(phase, "scale"), "scale must be a positive number; leave it out for 1/sqrt(head_dim)");
}

void LayerVerifier::checkWo(const Phase &phase) {
  if (!needDims(phase, {"kv_heads"})) return;
  const int64_t heads = layer_.dim("heads"), head_dim = layer_.dim("head_dim"), kv_heads = layer_.dim("kv_heads");
  const int64_t columns = heads * head_dim; // 0 when the layer does not say
  if (!activation(phase, 0, "its input", columns, /*f32_too=*/false, "heads * head_dim")) return;
  const int64_t k = value(phase.operands[0]).shape[1];
  if (!matrix(phase, 1, 0, k, "k is the width of %" + value(phase.operands[0]).name)) return;
  multiple(operandRange(phase, 1), "the rows of wo's weight", value(phase.operands[1]).shape[0], kActivationGranule);
  if (k % kv_heads != 0)
    error(operandRange(phase, 0), "K of wo is split by KV head, so it must be a multiple of kv_heads = " +
                                      std::to_string(kv_heads) + ", not " + std::to_string(k));
}

void LayerVerifier::checkGather(const Phase &phase) {
  const ValueId partials = phase.operands[0];
  if (!layer_.isPartials(partials)) {
    declared(error(operandRange(phase, 0), "`gather` sums the partial slots of `wo`, but it got " + show(partials) +
                                               "; write: %p = wo %a, %w, then gather %p"),
             partials);
    return;
  }
  const std::vector<int64_t> &shape = value(partials).shape;
  if (phase.operands.size() == 2 && shape.size() == 2)
    activation(phase, 1, "the residual", shape[1], /*f32_too=*/true, "the rows of wo's weight");
}

void LayerVerifier::checkFc1(const Phase &phase) {
  if (!activation(phase, 0, "its input", 0, /*f32_too=*/false, "")) return;
  const int64_t columns = value(phase.operands[0]).shape[1], ffn = layer_.dim("ffn");
  multiple(operandRange(phase, 0), "the input of fc1", columns, kActivationGranule);
  if (!matrix(phase, 1, 2 * ffn, columns, ffn > 0 ? "ffn gate rows, then ffn up rows" : "gate rows, then up rows"))
    return;
  const int64_t rows = value(phase.operands[1]).shape[0];
  if (rows % (2 * kFfnGranule) != 0)
    declared(error(operandRange(phase, 1), "fc1's weight has gate rows, then as many up rows, a multiple of " +
                                               std::to_string(kFfnGranule) + " each; " + std::to_string(rows) +
                                               " rows cannot be that"),
             phase.operands[1]);
}

void LayerVerifier::checkFc2(const Phase &phase, const Fc2Attrs &attrs) {
  if (!activation(phase, 0, "its input", 0, /*f32_too=*/false, "")) return;
  const int64_t k = value(phase.operands[0]).shape[1];
  multiple(operandRange(phase, 0), "the input of fc2", k, kFfnGranule);
  if (!matrix(phase, 1, 0, k, "k is the width of %" + value(phase.operands[0]).name)) return;
  const int64_t rows = value(phase.operands[1]).shape[0];
  multiple(operandRange(phase, 1), "the rows of fc2's weight", rows, kActivationGranule);
  if (attrs.act_quant_nvfp4 && k % kNvfp4Block != 0)
    error(attrRange(phase, "act_quant"),
          "act_quant = nvfp4 quantises blocks of 16, so fc2's input must be a multiple of "
          "16 wide, not " +
              std::to_string(k));
  if (phase.operands.size() == 3)
    activation(phase, 2, "the residual", rows, /*f32_too=*/true, "the rows of fc2's weight");
}

void LayerVerifier::checkHead(const Phase &phase) {
  if (!activation(phase, 0, "its input", 0, /*f32_too=*/false, "")) return;
  const int64_t k = value(phase.operands[0]).shape[1];
  multiple(operandRange(phase, 0), "the input of head", k, kActivationGranule);
  matrix(phase, 1, 0, k, "k is the width of %" + value(phase.operands[0]).name);
}

void LayerVerifier::checkArgmax(const Phase &phase) {
  const ValueId logits = phase.operands[0];
  if (activation(phase, 0, "logits", 0, /*f32_too=*/true, "") && value(logits).dtype != DType::f32)
    declared(error(operandRange(phase, 0), "`argmax` expects logits in f32, but it got " + show(logits)), logits);
}

} // namespace phasec::ir
