// layer.h: what a `.phase` file means, after parsing: values, phases, events, layers, stacks. Everything downstream
// (verifier, planner, printer) reads these types; nothing here knows about schedules' consequences or CUDA.
#pragma once

#include "phasec/config.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace phasec::ir {

/// Half-open byte range in the source text; {0,0} for values that have no text.
struct Range {
  uint32_t begin = 0, end = 0;
};

/// Element types of buffers that are not weights. bf16 is stored as 16-bit integers, fp8_e4m3 as bytes; i32 holds ids.
enum class DType : uint8_t { bf16, f32, fp8_e4m3, i32 };
const char *name(DType);
int64_t bytes(DType); ///< size of one element

/// Weight storage formats, one per row of formats.def.
enum class Format : uint8_t {
#define PHASEC_FORMAT(id, ...) id,
#include "formats.def"
};
const char *name(Format);

/// Operations, one per row of ops.def.
enum class Op : uint8_t {
#define PHASEC_OP(id, ...) id,
#include "ops.def"
};
const char *name(Op);

using ValueId = int32_t;
inline constexpr ValueId kNone = -1;

enum class ValueKind : uint8_t { Input, Weight, Cache, Temp };
const char *name(ValueKind);

/// Largest value of a dim, and most values (or events) of a layer: bounds that keep products and searches small.
inline constexpr int64_t kDimMax = int64_t{1} << 24;
inline constexpr size_t kValuesMax = 4096;

/// The symbolic extent `tokens` in a shape: the rows of this launch, at most Layer::tokens_max.
inline constexpr int64_t kTokensExtent = -1;

/// A linear or 128x4-swizzled block-scale layout of an nvfp4 weight as the checkpoint stores it.
enum class ScaleLayout : uint8_t { Linear, Swizzled128x4 };
/// How an nvfp4 weight's fp32 global scale enters: w = code * block_scale * g, or w = code * block_scale / g.
enum class GlobalScale : uint8_t { Multiply, Divide };
/// Where an fp8 weight's fp32 scale lives.
enum class Fp8Scale : uint8_t { Tensor, Row };
/// The words of the language: "linear" | "swizzled", "multiply" | "divide", "tensor" | "row".
const char *name(ScaleLayout);
const char *name(GlobalScale);
const char *name(Fp8Scale);

/// How one checkpoint weight is stored. Only the members of its format are meaningful.
struct WeightType {
  Format format = Format::bf16;
  ScaleLayout scales = ScaleLayout::Linear;       // nvfp4
  GlobalScale global = GlobalScale::Multiply;     // nvfp4
  Fp8Scale fp8_scale = Fp8Scale::Tensor;          // fp8_e4m3
};

/// How a paged KV cache is laid out. Strides are given when it is bound.
struct CacheType {
  DType dtype = DType::bf16; // bf16 | fp8_e4m3 (then fp32 k_scale and v_scale are bound: value = code * scale)
  int page = 64;             // rows per page: 1, 16, 32, 64, 128 (any 1..256)
  bool hnd = false;          // [page][head][row][dim] instead of [page][row][head][dim]
  bool joint = true;         // one allocation [pages][2]{K,V} instead of two
};

/// A named buffer or intermediate.
struct Value {
  std::string name; // without '%'
  ValueKind kind = ValueKind::Temp;
  DType dtype = DType::bf16;  // Input, Temp, and weight vectors (one extent: gamma, bias; bf16 or f32)
  WeightType weight;          // weight matrices (two extents)
  CacheType cache;            // Cache
  std::vector<int64_t> shape; // resolved; kTokensExtent for `tokens`; a vector weight (gamma, bias) has one extent
  Range range{};              // its name where it is declared or defined
  std::vector<std::string> shape_text{}; // the extents as written ("heads * head_dim"); empty: print the numbers
  bool annotated = false;     // Temp: the file states the dtype

  /// One extent: gamma or bias, of `dtype`. Otherwise a weight is a matrix of `weight.format`.
  bool isVector() const { return kind == ValueKind::Weight && shape.size() == 1; }
};

enum class NormGamma : uint8_t { Plain, OnePlus };
enum class Pairing : uint8_t { Half, Interleaved };
enum class GateRows : uint8_t { Block, PerHead }; // q rows then gate rows | per head: q then gate
enum class Activation : uint8_t { Silu, GeluTanh };
enum class GatherBy : uint8_t { Elected, Consumers };
/// The words of the language: "plain" | "one_plus", "half" | "interleaved", "block" | "per_head", ...
const char *name(NormGamma);
const char *name(Pairing);
const char *name(GateRows);
const char *name(Activation);
const char *name(GatherBy);

struct EmbedAttrs {};               // operands: ids, table
/// y = x * rsqrt(mean(x^2) + eps) * gamma, row by row. operands: x, gamma.
struct NormAttrs {
  double eps = 1e-6;
  NormGamma gamma = NormGamma::Plain;
};
/// q, k, v (and gate) projections, per-head norms, rotary embedding, KV append. operands: x, w, kv.
struct QkvAttrs {
  ValueId bias = kNone;             // f32|bf16 weight vector [rows]
  ValueId q_norm = kNone, k_norm = kNone; // gamma vectors [head_dim]; both or neither
  double eps = 1e-6;
  NormGamma gamma = NormGamma::Plain;
  ValueId rope = kNone;             // f32[max_pos, rotary]: cos in the first half of a row, sin in the second
  int rotary = 0;                   // rotated dims per head, <= head_dim; 0 without rope
  Pairing pairing = Pairing::Half;
  GateRows gate_rows = GateRows::Block; // meaningful with a second result
  bool append = false;              // write k and v rows of this step into the cache
};
/// Paged decode attention. operands: q, kv[, gate].
struct AttnAttrs {
  double scale = 0;                 // softmax scale; 0 means 1/sqrt(head_dim)
  bool sigmoid_gate = false;        // multiply by sigmoid(gate)
};
struct WoAttrs {};                  // operands: a, w. The result is a set of fp32 partial slots.
/// operands: partials[, residual].
struct GatherAttrs {
  GatherBy by = GatherBy::Elected;
};
/// operands: x, w (gate rows, then up rows). u = act(gate) * up.
struct Fc1Attrs {
  Activation act = Activation::Silu;
};
/// operands: u, w[, residual].
struct Fc2Attrs {
  bool act_quant_nvfp4 = false;     // re-quantise u to nvfp4 (block 16, scale = amax/6 in e4m3) first
};
struct HeadAttrs {};                // operands: x, w
struct ArgmaxAttrs {};              // operands: logits

/// In the order of ops.def.
using Attrs = std::variant<EmbedAttrs, NormAttrs, QkvAttrs, AttnAttrs, WoAttrs, GatherAttrs, Fc1Attrs, Fc2Attrs, HeadAttrs,
                           ArgmaxAttrs>;

/// One phase: `results = op operands { attrs }`.
struct Phase {
  Op op;
  std::vector<ValueId> results;
  std::vector<ValueId> operands; // in the order of ops.def; optional ones at the end may be absent
  Attrs attrs;
  Range range{};
  Range op_range{}; // the op's name
  std::vector<Range> operand_ranges{};                            // parallel to operands; empty without text
  std::vector<std::pair<std::string, Range>> attr_ranges{};       // the attributes the file writes
};

enum class EventKind : uint8_t { Grid, Counter };
const char *name(EventKind);

/// An event as written (`sync explicit`): `event grid %p -> %h` or `event counter %a -> %p`. It lies between the phase
/// that defines `from` and the phase that defines `to`. A grid event orders everything before it with everything after;
/// a counter event orders the slices of `from` with their readers in the phase that defines `to`.
struct EventStmt {
  EventKind kind;
  ValueId from, to;
  Range range{};
};

enum class Sync : uint8_t { Auto, Explicit };
const char *name(Sync);

/// Comments around a statement, kept for `phasec fmt`. "" is a blank line; other lines begin with "//".
struct Trivia {
  std::vector<std::string> before; // on lines of their own
  std::string after;               // behind the statement, on its last line
};

/// One statement of a layer in the order of the file: `count` elements from `first` of the list that `kind` names. A
/// layer built by hand has no statements; the printer then takes the canonical order.
struct Statement {
  enum class Kind : uint8_t { Dims, Tokens, Sync, Schedule, Value, Phase, Event, Return };
  Kind kind;
  int first = 0, count = 1; // Dims, Schedule: their pairs; Value, Phase, Event: the index
  Trivia trivia{};
  Range range{};
};

/// One decode layer.
struct Layer {
  std::string name;
  std::vector<std::pair<std::string, int64_t>> dims; // in file order; hidden, ffn, heads, kv_heads, head_dim, others
  int tokens_min = 1, tokens_max = 1;
  Sync sync = Sync::Auto;
  std::vector<std::pair<std::string, std::string>> schedule; // knobs set in the file, in file order
  std::vector<Value> values;
  std::vector<Phase> phases;
  std::vector<EventStmt> events;
  std::vector<ValueId> returns;
  Range range;                            // `layer @name`
  std::vector<Statement> statements{};    // the file's order, with comments
  Trivia head{}, tail{};                  // around `layer @name {` and around `}`
  std::vector<Range> dim_ranges{}, schedule_ranges{}, return_ranges{}; // parallel to their lists; empty without text
  Range end_range{};                      // the closing brace

  /// A dim's value, or 0 when the layer does not declare it.
  int64_t dim(std::string_view dim_name) const;
  /// The phase that defines `v`, or nullptr for inputs, weights and caches.
  const Phase *producer(ValueId v) const;
  /// The phase with this op, or nullptr. A layer has at most one phase per op, except norm.
  const Phase *find(Op op) const;
  /// Whether `v` is the result of `wo`: a set of fp32 slots that only `gather` reads.
  bool isPartials(ValueId v) const;
};

/// What a result of `op` is unless it is annotated: f32 for wo, gather and head, i32 for argmax, bf16 elsewhere.
DType defaultDType(Op op);
/// The shape of the results of `phase`, from its operands and the dims; empty when they do not give one.
std::vector<int64_t> resultShape(const Layer &layer, const Phase &phase);

/// One element of a stack body: a reference to a layer, or a repeated group.
struct StackItem {
  std::string layer;            // non-empty: a layer reference
  int64_t count = 1;            // `@gdn * 3`, or repeat(n)
  std::vector<StackItem> items; // repeat(n) { ... }
  Range range{};
  Trivia head{}, tail{};        // around the item (or `repeat(n) {`), and around a group's `}`
};

/// Many layer instances in one launch. The first return of an instance feeds the first input of the next.
struct Stack {
  std::string name;
  std::vector<StackItem> items;
  Range range{};
  Trivia head{}, tail{};
};

/// A parsed file: its text, layers and stacks. What runs is the last stack, or the last layer when there is none.
struct Module {
  std::string path; // as given, for diagnostics only
  std::string text;
  std::vector<Layer> layers;
  std::vector<Stack> stacks;
  std::vector<bool> order{};       // the file's order: true takes the next stack; empty: layers, then stacks
  std::vector<std::string> tail{}; // comments behind the last item

  const Layer *layer(std::string_view layer_name) const;
};

/// Layer instances one launch may have at most.
inline constexpr int64_t kInstancesMax = 1024;

/// The layers of one launch, in order: indices into Module::layers. At least one for a verified module; never more than
/// kInstancesMax.
std::vector<int> instances(const Module &module);

/// Sets the knobs that the layers of the launch write in the file, as Origin::File.
Status applyFileSchedule(const Module &module, Schedule &schedule);

} // namespace phasec::ir
