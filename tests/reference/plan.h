// The part of a plan (phasec.plan/1) that the reference reads: values, phases, segments, attention cuts.
#ifndef PHASEC_TESTS_REFERENCE_PLAN_H
#define PHASEC_TESTS_REFERENCE_PLAN_H

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace phasec_reference {

constexpr int64_t kTokensExtent = -1;

struct ValueInfo {
  std::string name;
  std::string kind;   // input, weight, cache, temp
  std::string format; // dtype, or the weight's format
  std::vector<int64_t> shape;
  bool swizzled = false;
  bool divide = false;    // the nvfp4 global scale divides
  bool row_scale = false; // fp8: a scale per row
  int64_t page = 0;
};

struct Attrs {
  double eps = 0;
  bool one_plus = false;
  bool interleaved = false;
  bool per_head = false;
  bool append = false;
  bool gated = false;
  bool gelu = false;
  bool quantise = false;
  bool has_scale = false;
  double scale = 0;
  int64_t rotary = 0;
  std::string bias, q_norm, k_norm, rope; // value names, empty when absent
};

struct Phase {
  std::string op;
  std::vector<std::string> operands, results;
  Attrs attrs;
};

struct Segment {
  int64_t slot = 0, fold = 0, begin = 0, end = 0;
};

struct GemvPlan {
  int64_t phase = 0, rows = 0, cols = 0, slots = 0;
  std::vector<Segment> segments; // sorted by slot, then fold
};

struct AttentionPlan {
  int64_t phase = 0, kv_splits = 0, chunk_rows = 0, buffered_from = 0, buffered_warps = 0, warps = 0;
  bool fresh_rows = false;
  double scale = 0;
};

struct Body {
  std::map<std::string, int64_t> dims;
  std::vector<ValueInfo> values;
  std::vector<Phase> phases;
  std::vector<std::string> returns;
  std::vector<GemvPlan> gemv;
  std::vector<AttentionPlan> attention;

  const ValueInfo *find(const std::string &name) const;
  const ValueInfo *firstInput() const;
  const GemvPlan *gemvOf(size_t phase) const;
  const AttentionPlan *attentionOf(size_t phase) const;
  int64_t dim(const std::string &name) const; // 0 when absent
};

struct Plan {
  int64_t tokens_max = 0;
  int64_t wo_split = 0;
  std::vector<size_t> instances; // body of each
  std::vector<Body> bodies;
};

// Reads the text; refuses unknown conventions by name, since a misread one would be computed wrongly in silence.
bool parsePlan(const std::string &text, Plan *plan, std::string *error);

// Operands exist, shapes agree with the operations, segments tile [0, K) once and in order, attention cuts are usable.
// With `formula`, the slots of wo must be those that the split formula gives.
bool checkPlan(const Plan &plan, bool formula, std::string *error);

} // namespace phasec_reference

#endif
