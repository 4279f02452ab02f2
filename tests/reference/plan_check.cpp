// What a plan must satisfy before its numbers mean anything: shapes, segment tiling, the W_O split formula.
#include "tests/reference/plan.h"

#include <cmath>

namespace phasec_reference {

namespace {

class Checker {
public:
  Checker(const Plan &plan, const Body &body, bool formula, std::string *error)
      : plan_(plan), body_(body), formula_(formula), error_(error) {}

  bool check();

private:
  bool fail(const std::string &what) {
    if (error_->empty()) *error_ = what;
    return false;
  }
  bool checkValue(const std::string &name, const char *kind, int64_t width);
  bool checkMatrix(const std::string &name, int64_t rows, int64_t cols);
  bool checkIds(const std::string &name, const char *kind);
  bool checkVector(const std::string &name, int64_t extent);
  bool checkCounts(const Phase &phase, size_t least, size_t most, size_t results);
  bool checkPhase(size_t index);
  bool checkEmbed(const Phase &phase);
  bool checkArgmax(const Phase &phase);
  bool checkQkv(const Phase &phase);
  bool checkAttention(size_t index);
  bool checkGemv(size_t index);
  bool checkTiling(const GemvPlan &gemv, const std::string &where);
  bool checkFormula(const GemvPlan &gemv, const std::string &where);
  int64_t width(const std::string &name) const {
    const ValueInfo *value = body_.find(name);
    return value && value->shape.size() == 2 ? value->shape[1] : 0;
  }

  const Plan &plan_;
  const Body &body_;
  bool formula_;
  std::string *error_;
};

std::string str(int64_t value) { return std::to_string(value); }

bool Checker::checkValue(const std::string &name, const char *kind, int64_t width) {
  const ValueInfo *value = body_.find(name);
  if (!value || (kind ? value->kind != kind : value->kind != "input" && value->kind != "temp"))
    return fail("value '" + name + "' is missing or of another kind");
  if (kind || value->shape == std::vector<int64_t>{kTokensExtent, width}) return true;
  return fail("value '" + name + "' should be [tokens, " + str(width) + "]");
}

bool Checker::checkMatrix(const std::string &name, int64_t rows, int64_t cols) {
  const ValueInfo *value = body_.find(name);
  if (!value || value->kind != "weight" || value->shape != std::vector<int64_t>{rows, cols})
    return fail("'" + name + "' should be a weight [" + str(rows) + ", " + str(cols) + "]");
  if (value->format == "nvfp4" && cols % 16 != 0)
    return fail("'" + name + "' has columns that are not whole blocks of 16");
  return true;
}

bool Checker::checkVector(const std::string &name, int64_t extent) {
  const ValueInfo *value = body_.find(name);
  if (!value || value->kind != "weight" || value->shape != std::vector<int64_t>{extent})
    return fail("'" + name + "' should be a vector [" + str(extent) + "]");
  return true;
}

bool Checker::checkIds(const std::string &name, const char *kind) {
  const ValueInfo *value = body_.find(name);
  if (!value || value->kind != kind || value->format != "i32") return fail("'" + name + "' should be i32[tokens]");
  return true;
}

bool Checker::checkCounts(const Phase &phase, size_t least, size_t most, size_t results) {
  if (phase.operands.size() < least || phase.operands.size() > most || phase.results.size() != results)
    return fail(phase.op + " has a wrong number of operands or results");
  return true;
}

bool Checker::checkEmbed(const Phase &phase) {
  if (!checkCounts(phase, 2, 2, 1) || !checkIds(phase.operands[0], "input")) return false;
  const ValueInfo *table = body_.find(phase.operands[1]);
  if (!table || table->kind != "weight" || table->format != "bf16" || table->shape.size() != 2)
    return fail("'" + phase.operands[1] + "' should be a table bf16[vocab, hidden]");
  return checkValue(phase.results[0], nullptr, table->shape[1]);
}

bool Checker::checkArgmax(const Phase &phase) {
  if (!checkCounts(phase, 1, 1, 1) || !checkValue(phase.operands[0], nullptr, width(phase.operands[0]))) return false;
  if (body_.find(phase.operands[0])->format != "f32") return fail("'" + phase.operands[0] + "' should be f32 logits");
  return checkIds(phase.results[0], "temp");
}

bool Checker::checkQkv(const Phase &phase) {
  bool gate = phase.results.size() == 2;
  if (!checkCounts(phase, 3, 3, gate ? 2 : 1)) return false;
  int64_t heads = body_.dim("heads"), kv_heads = body_.dim("kv_heads"), hd = body_.dim("head_dim");
  if (heads < 1 || kv_heads < 1 || hd < 1 || heads % kv_heads != 0)
    return fail("qkv needs heads, kv_heads and head_dim");
  int64_t rows = heads * hd * (gate ? 2 : 1) + 2 * kv_heads * hd;
  const Attrs &attrs = phase.attrs;
  if (!checkMatrix(phase.operands[1], rows, width(phase.operands[0])) || !checkValue(phase.operands[2], "cache", 0) ||
      !checkValue(phase.results[0], nullptr, heads * hd) ||
      (gate && !checkValue(phase.results[1], nullptr, heads * hd)))
    return false;
  if ((!attrs.bias.empty() && !checkVector(attrs.bias, rows)) ||
      (!attrs.q_norm.empty() && !checkVector(attrs.q_norm, hd)) ||
      (!attrs.k_norm.empty() && !checkVector(attrs.k_norm, hd)))
    return false;
  if (attrs.rope.empty()) return true;
  const ValueInfo *rope = body_.find(attrs.rope);
  if (!rope || rope->kind != "input" || rope->format != "f32" || width(attrs.rope) != attrs.rotary)
    return fail("'" + attrs.rope + "' should be an f32 input [positions, " + str(attrs.rotary) + "]");
  if (attrs.rotary % 2 != 0 || attrs.rotary > hd) return fail("rotary is odd or above head_dim");
  return true;
}

bool Checker::checkAttention(size_t index) {
  const Phase &phase = body_.phases[index];
  int64_t heads = body_.dim("heads"), kv_heads = body_.dim("kv_heads"), hd = body_.dim("head_dim");
  if (heads < 1 || kv_heads < 1 || hd < 1 || heads % kv_heads != 0)
    return fail("attn needs heads, kv_heads and head_dim");
  if (!checkCounts(phase, 2, 3, 1) || !checkValue(phase.operands[0], nullptr, heads * hd) ||
      !checkValue(phase.operands[1], "cache", 0) || !checkValue(phase.results[0], nullptr, heads * hd))
    return false;
  if (phase.attrs.gated != (phase.operands.size() == 3))
    return fail("attn has a gate operand without a gate, or the reverse");
  if (phase.attrs.gated && !checkValue(phase.operands[2], nullptr, heads * hd)) return false;
  const AttentionPlan *cut = body_.attentionOf(index);
  if (!cut) return fail("no attention entry for phase " + str(int64_t(index)));
  // The declared scale, or 1/sqrt(head_dim), however the planner rounded that.
  double expected = phase.attrs.has_scale ? phase.attrs.scale : 1 / std::sqrt(double(hd));
  double slack = phase.attrs.has_scale ? 0 : 1e-6 * expected;
  if (!(std::fabs(double(float(cut->scale)) - double(float(expected))) <= slack))
    return fail("the attention entry's scale is not the layer's");
  bool fresh = false;
  for (size_t i = 0; i < index; ++i)
    fresh |= body_.phases[i].op == "qkv" && body_.phases[i].operands[2] == phase.operands[1];
  if (cut->fresh_rows && !fresh) return fail("fresh_rows without a qkv phase that makes them");
  return true;
}

bool Checker::checkTiling(const GemvPlan &gemv, const std::string &where) {
  int64_t at = 0, slot = -1, fold = 0;
  for (const Segment &segment : gemv.segments) {
    if (segment.slot < 0 || segment.slot >= gemv.slots)
      return fail(where + ": a segment names slot " + str(segment.slot) + " of " + str(gemv.slots));
    fold = segment.slot == slot ? fold + 1 : 0;
    slot = segment.slot;
    if (segment.fold != fold)
      return fail(where + ": slot " + str(slot) + " has fold position " + str(segment.fold) + " where " + str(fold) +
                  " follows");
    if (segment.begin != at || segment.end < segment.begin)
      return fail(where + ": segments do not tile [0, " + str(gemv.cols) + "): slot " + str(slot) + " fold " +
                  str(fold) + " is [" + str(segment.begin) + ", " + str(segment.end) + ") where " + str(at) +
                  " follows");
    at = segment.end;
  }
  if (at != gemv.cols)
    return fail(where + ": segments do not tile [0, " + str(gemv.cols) + "): they end at " + str(at));
  return true;
}

bool Checker::checkFormula(const GemvPlan &gemv, const std::string &where) {
  int64_t kv_heads = body_.dim("kv_heads"), split = plan_.wo_split;
  int64_t per_head = gemv.cols / kv_heads;
  for (const Segment &segment : gemv.segments) {
    int64_t by = segment.slot / split, bx = segment.slot % split;
    int64_t begin = by * per_head + per_head * bx / split;
    int64_t end = by * per_head + per_head * (bx + 1) / split;
    if (segment.begin < begin || segment.end > end)
      return fail(where + ": slot " + str(segment.slot) + " leaves [" + str(begin) + ", " + str(end) + ")");
  }
  return true; // inside their slots and tiling [0, K): they fill every slot
}

bool Checker::checkGemv(size_t index) {
  const Phase &phase = body_.phases[index];
  const GemvPlan *gemv = body_.gemvOf(index);
  std::string where = phase.op + " of phase " + str(int64_t(index));
  if (!gemv) return fail(where + ": no gemv entry");
  const ValueInfo *operand = body_.find(phase.operands[0]);
  if (!operand || operand->format != "bf16" || width(phase.operands[0]) != gemv->cols)
    return fail(where + ": the operand should be bf16[tokens, " + str(gemv->cols) + "]");
  if (!checkMatrix(phase.operands[1], gemv->rows, gemv->cols) || !checkTiling(*gemv, where)) return false;
  if (phase.op != "wo") return true;
  int64_t kv_heads = body_.dim("kv_heads");
  if (kv_heads < 1 || gemv->cols % kv_heads != 0) return fail(where + ": the columns are not a multiple of kv_heads");
  if (plan_.wo_split < 1 || gemv->slots != kv_heads * plan_.wo_split)
    return fail(where + ": " + str(gemv->slots) +
                " slots, expected kv_heads * wo_split = " + str(kv_heads * plan_.wo_split));
  return !formula_ || checkFormula(*gemv, where);
}

bool Checker::checkPhase(size_t index) {
  const Phase &phase = body_.phases[index];
  if (phase.op == "embed") return checkEmbed(phase);
  if (phase.op == "argmax") return checkArgmax(phase);
  if (phase.op == "attn") return checkAttention(index);
  if (phase.op == "qkv") return checkQkv(phase) && checkGemv(index);
  bool residual = phase.op == "gather" || phase.op == "fc2";
  if (!checkCounts(phase, phase.op == "gather" ? 1 : 2, phase.op == "fc2" ? 3 : 2, 1)) return false;
  int64_t in = width(phase.operands[0]), out = width(phase.results[0]);
  if (!checkValue(phase.operands[0], nullptr, in) || !checkValue(phase.results[0], nullptr, out)) return false;
  size_t last = phase.op == "gather" ? 1 : 2;
  if (residual && phase.operands.size() > last && !checkValue(phase.operands[last], nullptr, out)) return false;
  if (phase.op == "norm") return in == out ? checkVector(phase.operands[1], in) : fail("norm changes the width");
  if (phase.op == "gather") return in == out || fail("gather changes the width");
  if (!checkGemv(index)) return false;
  const GemvPlan &gemv = *body_.gemvOf(index);
  if (gemv.rows != (phase.op == "fc1" ? 2 * out : out))
    return fail(phase.op + " has the wrong number of rows for its result");
  if (phase.attrs.quantise && in % 16 != 0) return fail("act_quant needs whole blocks of 16");
  return true;
}

bool Checker::check() {
  for (size_t index = 0; index < body_.phases.size(); ++index)
    if (!checkPhase(index)) return false;
  for (const std::string &name : body_.returns) {
    const ValueInfo *value = body_.find(name);
    if (!value || (value->kind != "temp" && value->kind != "input"))
      return fail("there is no returned value '" + name + "'");
  }
  return !body_.returns.empty() || fail("a body returns nothing");
}

} // namespace

bool checkPlan(const Plan &plan, bool formula, std::string *error) {
  error->clear();
  for (const Body &body : plan.bodies)
    if (!Checker(plan, body, formula, error).check()) return false;
  for (size_t i = 1; i < plan.instances.size(); ++i) {
    const Body &before = plan.bodies[plan.instances[i - 1]], &body = plan.bodies[plan.instances[i]];
    const ValueInfo *given = before.find(before.returns[0]), *wanted = body.firstInput();
    if (!wanted || given->format != wanted->format || given->shape != wanted->shape) {
      *error = "instance " + str(int64_t(i)) + " does not accept the value of the instance before";
      return false;
    }
  }
  return true;
}

} // namespace phasec_reference
