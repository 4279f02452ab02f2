// Reading the plan JSON.
#include "tests/reference/plan.h"

#include "tests/reference/json.h"

#include <algorithm>

namespace phasec_reference {

namespace {

// Reads fields of one object; the first problem is kept and everything after it is harmless.
class Reader {
public:
  Reader(const Json &object, std::string where, std::string *error)
      : object_(object), where_(std::move(where)), error_(error) {}

  bool ok() const { return error_->empty(); }

  void fail(const std::string &what) const {
    if (error_->empty()) *error_ = where_ + ": " + what;
  }

  bool present(const char *key) const {
    const Json *value = object_.get(key);
    return value && value->kind != Json::Kind::kNull;
  }

  int64_t integer(const char *key) const {
    const Json *value = object_.get(key);
    if (value && value->isInteger()) return int64_t(value->number);
    fail(std::string("needs the integer '") + key + "'");
    return 0;
  }

  int64_t count(const char *key) const {
    int64_t value = integer(key);
    if (value < 1 || value > (int64_t(1) << 40)) fail(std::string("'") + key + "' is not a positive count");
    return value;
  }

  double number(const char *key) const { return field(key, Json::Kind::kNumber, "number").number; }
  bool boolean(const char *key) const { return field(key, Json::Kind::kBool, "boolean").boolean; }
  std::string text(const char *key) const { return field(key, Json::Kind::kString, "string").string; }
  std::string optionalText(const char *key) const { return present(key) ? text(key) : std::string(); }

  // One of two words; true for the second.
  bool either(const char *key, const char *first, const char *second) const {
    std::string word = text(key);
    if (ok() && word != first && word != second)
      fail(std::string("'") + key + "' is '" + word + "', expected " + first + " or " + second);
    return word == second;
  }

  std::vector<std::string> texts(const char *key) const {
    std::vector<std::string> out;
    for (const Json &item : field(key, Json::Kind::kArray, "array").array) {
      if (item.kind != Json::Kind::kString) fail(std::string("'") + key + "' holds something that is not a string");
      out.push_back(item.string);
    }
    return out;
  }

  std::vector<int64_t> integers(const char *key) const {
    std::vector<int64_t> out;
    for (const Json &item : field(key, Json::Kind::kArray, "array").array) {
      if (!item.isInteger()) fail(std::string("'") + key + "' holds something that is not an integer");
      out.push_back(item.isInteger() ? int64_t(item.number) : 0);
    }
    return out;
  }

  // Calls fn with a reader of every object of an array.
  template <class Fn> void objects(const char *key, Fn fn) const {
    const std::vector<Json> &items = field(key, Json::Kind::kArray, "array").array;
    for (size_t index = 0; ok() && index < items.size(); ++index) {
      Reader item(items[index], where_ + "." + key + "[" + std::to_string(index) + "]", error_);
      if (items[index].kind != Json::Kind::kObject)
        item.fail("is not an object");
      else
        fn(item);
    }
  }

  Reader object(const char *key) const {
    return Reader(field(key, Json::Kind::kObject, "object"), where_ + "." + key, error_);
  }

  const std::map<std::string, Json> &members() const { return object_.object; }

private:
  const Json &field(const char *key, Json::Kind kind, const char *what) const {
    static const Json kNothing;
    const Json *value = object_.get(key);
    if (value && value->kind == kind) return *value;
    fail(std::string("needs the ") + what + " '" + key + "'");
    return kNothing;
  }

  const Json &object_;
  std::string where_;
  std::string *error_;
};

ValueInfo readValue(const Reader &reader) {
  ValueInfo value;
  value.name = reader.text("name");
  value.kind = reader.text("kind");
  if (value.kind == "cache") {
    value.format = reader.text("dtype");
    value.page = reader.count("page");
    if (reader.ok() && value.format != "bf16" && value.format != "fp8_e4m3")
      reader.fail("a cache is bf16 or fp8_e4m3, not " + value.format);
    return value;
  }
  value.shape = reader.integers("shape");
  if (value.kind != "weight") {
    value.format = reader.text("dtype");
    if (reader.ok() && value.format == "i32") {
      if (value.shape != std::vector<int64_t>{kTokensExtent}) reader.fail("ids are i32[tokens]");
      return value;
    }
    if (reader.ok() && value.format != "bf16" && value.format != "f32")
      reader.fail("a value is bf16, f32 or i32, not " + value.format);
    if (reader.ok() && (value.shape.size() != 2 || value.shape[1] < 1)) reader.fail("expected a shape of two extents");
    return value;
  }
  value.format = reader.text("format");
  if (reader.ok() && value.shape.size() == 1) {
    if (value.format != "bf16" && value.format != "f32") reader.fail("a vector is bf16 or f32, not " + value.format);
  } else if (value.format == "nvfp4") {
    value.swizzled = reader.either("scales", "linear", "swizzled");
    value.divide = reader.either("global", "multiply", "divide");
  } else if (value.format == "fp8_e4m3") {
    value.row_scale = reader.either("fp8_scale", "tensor", "row");
  } else if (reader.ok() && value.format != "bf16") {
    reader.fail("a matrix is nvfp4, fp8_e4m3 or bf16, not " + value.format);
  }
  if (reader.ok() && (value.shape.empty() || value.shape.size() > 2 || value.shape[0] < 1 || value.shape.back() < 1))
    reader.fail("a weight has one or two positive extents");
  return value;
}

Attrs readAttrs(const Reader &reader, const Phase &phase) {
  Attrs attrs;
  if (phase.op == "norm") {
    attrs.eps = reader.number("eps");
    attrs.one_plus = reader.either("gamma", "plain", "one_plus");
  } else if (phase.op == "qkv") {
    attrs.bias = reader.optionalText("bias");
    attrs.q_norm = reader.optionalText("q_norm");
    attrs.k_norm = reader.optionalText("k_norm");
    attrs.rope = reader.optionalText("rope");
    if (!attrs.q_norm.empty() || !attrs.k_norm.empty()) {
      attrs.eps = reader.number("eps");
      attrs.one_plus = reader.either("gamma", "plain", "one_plus");
    }
    if (!attrs.rope.empty()) {
      attrs.rotary = reader.count("rotary");
      attrs.interleaved = reader.either("pairing", "half", "interleaved");
    }
    if (phase.results.size() == 2) attrs.per_head = reader.either("gate_rows", "block", "per_head");
    attrs.append = reader.boolean("append");
  } else if (phase.op == "attn") {
    attrs.has_scale = reader.present("scale");
    attrs.scale = attrs.has_scale ? reader.number("scale") : 0;
    attrs.gated = reader.present("gate");
    if (attrs.gated && reader.text("gate") != "sigmoid") reader.fail("the gate is sigmoid or null");
  } else if (phase.op == "fc1") {
    attrs.gelu = reader.either("act", "silu", "gelu_tanh");
  } else if (phase.op == "fc2") {
    attrs.quantise = reader.present("act_quant");
    if (attrs.quantise && reader.text("act_quant") != "nvfp4") reader.fail("act_quant is nvfp4 or null");
  } else if (phase.op != "wo" && phase.op != "gather" && phase.op != "embed" && phase.op != "head" &&
             phase.op != "argmax") {
    reader.fail("unknown operation '" + phase.op + "'");
  }
  return attrs;
}

Phase readPhase(const Reader &reader) {
  Phase phase;
  phase.op = reader.text("op");
  phase.operands = reader.texts("operands");
  phase.results = reader.texts("results");
  phase.attrs = readAttrs(reader.object("attrs"), phase);
  return phase;
}

GemvPlan readGemv(const Reader &reader) {
  GemvPlan gemv;
  gemv.phase = reader.integer("phase");
  gemv.rows = reader.count("rows");
  gemv.cols = reader.count("cols");
  gemv.slots = reader.count("slots");
  reader.objects("segments", [&](const Reader &item) {
    Segment segment;
    segment.slot = item.integer("slot");
    segment.fold = item.integer("fold");
    std::vector<int64_t> k = item.integers("k");
    if (k.size() != 2) {
      item.fail("'k' is not [begin, end]");
      return;
    }
    segment.begin = k[0];
    segment.end = k[1];
    gemv.segments.push_back(segment);
  });
  std::stable_sort(gemv.segments.begin(), gemv.segments.end(), [](const Segment &a, const Segment &b) {
    return a.slot != b.slot ? a.slot < b.slot : a.fold < b.fold;
  });
  return gemv;
}

AttentionPlan readAttention(const Reader &reader) {
  AttentionPlan attention;
  attention.phase = reader.integer("phase");
  attention.kv_splits = reader.count("kv_splits");
  attention.chunk_rows = reader.count("chunk_rows");
  attention.buffered_from = reader.count("buffered_from");
  attention.buffered_warps = reader.count("buffered_warps");
  attention.warps = reader.count("warps");
  attention.fresh_rows = reader.boolean("fresh_rows");
  attention.scale = reader.number("scale");
  return attention;
}

Body readBody(const Reader &reader) {
  Body body;
  Reader dims = reader.object("dims");
  for (const auto &member : dims.members()) body.dims[member.first] = dims.integer(member.first.c_str());
  reader.objects("values", [&](const Reader &item) { body.values.push_back(readValue(item)); });
  reader.objects("phases", [&](const Reader &item) { body.phases.push_back(readPhase(item)); });
  body.returns = reader.texts("returns");
  if (reader.present("gemv")) reader.objects("gemv", [&](const Reader &item) { body.gemv.push_back(readGemv(item)); });
  if (reader.present("attention"))
    reader.objects("attention", [&](const Reader &item) { body.attention.push_back(readAttention(item)); });
  return body;
}

} // namespace

const ValueInfo *Body::find(const std::string &name) const {
  for (const ValueInfo &value : values)
    if (value.name == name) return &value;
  return nullptr;
}

const ValueInfo *Body::firstInput() const {
  for (const ValueInfo &value : values)
    if (value.kind == "input") return &value;
  return nullptr;
}

const GemvPlan *Body::gemvOf(size_t phase) const {
  for (const GemvPlan &item : gemv)
    if (item.phase == int64_t(phase)) return &item;
  return nullptr;
}

const AttentionPlan *Body::attentionOf(size_t phase) const {
  for (const AttentionPlan &item : attention)
    if (item.phase == int64_t(phase)) return &item;
  return nullptr;
}

int64_t Body::dim(const std::string &name) const {
  auto found = dims.find(name);
  return found == dims.end() ? 0 : found->second;
}

bool parsePlan(const std::string &text, Plan *plan, std::string *error) {
  error->clear();
  Json root;
  if (!parseJson(text, &root, error)) return false;
  Reader reader(root, "plan", error);
  if (reader.text("schema") != "phasec.plan/1") reader.fail("'schema' is not phasec.plan/1");
  plan->tokens_max = reader.count("tokens_max");
  plan->wo_split = reader.present("wo_split") ? reader.integer("wo_split") : 0;
  reader.objects("bodies", [&](const Reader &item) { plan->bodies.push_back(readBody(item)); });
  reader.objects("instances", [&](const Reader &item) {
    int64_t body = item.integer("body");
    if (body < 0 || body >= int64_t(plan->bodies.size())) item.fail("there is no such body");
    plan->instances.push_back(size_t(body));
  });
  if (reader.ok() && plan->instances.empty()) reader.fail("no instances");
  return error->empty();
}

} // namespace phasec_reference
