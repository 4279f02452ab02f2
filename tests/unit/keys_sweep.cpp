// keys_sweep.cpp: every input of a key is changed, one at a time, in every example layer. What reaches the compiler gives
// a new key, and explain names the changed section first; what does not gives the old one. Inputs come from the tables
// (ops.def, formats.def, attributes.h, knobs.def, arch.def, the embedded templates), so a new row is swept as it is
// added; one that no example can try fails here by name.
#include "compiler/fingerprint.h"
#include "compiler/nvrtc.h"
#include "ir/attributes.h"
#include "ir/printer.h"
#include "phasec/runtime.h"
#include "templates/embedded.h"
#include "tests/cache/support.h"
#include "tests/unit/layer_support.h"

#include <functional>
#include <map>
#include <optional>
#include <set>

using namespace layertest;
using test::TempDir;

namespace {

// ---- what the compiler sees --------------------------------------------------------------------------------------

/// The source without comments, #line and blank space: all that may move a key. Written without a look at the tokenizer.
std::string bare(const std::string &source) {
  std::string out;
  bool line_start = true;
  for (size_t i = 0; i < source.size(); i++) {
    char c = source[i];
    if (source.compare(i, 2, "//") == 0) {
      i = source.find('\n', i) - 1;
    } else if (source.compare(i, 2, "/*") == 0) {
      i = source.find("*/", i) + 1;
    } else if (line_start && source.compare(i, 5, "#line") == 0) {
      i = source.find('\n', i) - 1;
    } else if (c == '"' || c == '\'') {
      size_t end = i + 1;
      while (source[end] != c) end += source[end] == '\\' ? 2 : 1;
      bool separator = c == '\'' && i > 0 && std::isdigit(static_cast<unsigned char>(source[i - 1])); // 1'000
      if (separator) end = i;
      out += source.substr(i, end + 1 - i);
      i = end;
    } else if (!std::isspace(static_cast<unsigned char>(c))) {
      out += c;
    }
    line_start = c == '\n' || (line_start && std::isspace(static_cast<unsigned char>(c)));
  }
  return out;
}

/// What came of the trials of one row.
struct Row {
  int legal = 0, fresh = 0;
};

using Rows = std::map<std::string, Row>;

struct Base {
  std::string name;
  Layers layers;
  Schedule schedule;
  Runtime::Explanation known;
  std::string bare_source;
};

Runtime openRuntime(const std::string &templates_dir = {}) {
  RuntimeOptions options;
  options.device = DeviceChoice::None;
  options.nvrtc_path = "/nonexistent/libnvrtc.so"; // so that any toolchain will do
  options.templates_dir = templates_dir;
  return Runtime::open(options).take();
}

/// The example with every value returned that may be: what else is not written out has no text of its own.
std::optional<Layers> returningAll(const Layers &example) {
  ir::Module m = example.module();
  for (ir::Layer &layer : m.layers) {
    layer.name += "_returning_all";
    for (ir::ValueId v = 0; v < ir::ValueId(layer.values.size()); v++)
      if (layer.values[size_t(v)].kind == ir::ValueKind::Temp && !layer.isPartials(v) &&
          std::count(layer.returns.begin(), layer.returns.end(), v) == 0)
        layer.returns.push_back(v);
  }
  Result<Layers> layers = Layers::parse("sweep.phase", ir::print(m));
  return layers.ok() ? std::optional(layers.take()) : std::nullopt;
}

/// The examples under one contract, as far as it is built.
const std::vector<Base> &basesOf(const std::string &math) {
  static std::map<std::string, std::vector<Base>> all;
  std::vector<Base> &bases = all[math];
  if (!bases.empty()) return bases;
  Runtime runtime = openRuntime();
  auto add = [&](const std::string &name, const Layers &layers) {
    Schedule schedule;
    REQUIRE(schedule.set("math", math, Origin::Host).ok());
    Result<Runtime::Explanation> e = runtime.explain(layers, schedule);
    if (!e.ok() || std::any_of(bases.begin(), bases.end(), [&](const Base &b) { return b.known.key == e->key; })) return;
    std::string source = bare(e->source);
    bases.push_back({name, layers, schedule, e.take(), source});
  };
  for (const std::string &name : examples()) {
    add(name, readExample(name));
    if (std::optional<Layers> all_out = name.rfind("tiny_", 0) == 0 ? returningAll(readExample(name)) : std::nullopt)
      add(name + " returning all", *all_out);
  }
  REQUIRE_FALSE(bases.empty());
  return bases;
}

/// A cache in memory that holds one kernel of every example.
class Shop {
public:
  explicit Shop(const std::string &math, const std::string &templates_dir = {}) : bases(basesOf(math)), runtime_(openRuntime(templates_dir)) {
    for (const Base &base : bases) {
      Compiled c;
      c.artefact.key = base.known.key;
      c.artefact.toolchain = "nobody asks";
      c.artefact.layer = base.layers.name();
      c.artefact.sections = base.known.sections;
      c.artefact.payload = {1};
      REQUIRE(runtime_.cache().publish(c).ok());
    }
  }

  /// `section` empty: nothing that may move a key was changed.
  void tryOne(Row &row, const std::string &what, const Base &base, const Layers &layers, const Schedule &schedule, const std::string &section) {
    Result<Runtime::Explanation> e = runtime_.explain(layers, schedule);
    if (!e.ok()) return; // not a legal layer or schedule
    row.legal++;
    INFO(base.name << ": " << what);
    bool same = bare(e->source) == base.bare_source && e->key.wo_split == base.known.key.wo_split && sameOptions(*e, base.known);
    CHECK_MESSAGE((e->key == base.known.key) == same, (same ? "a new key for the same source" : "the old key for another source"));
    if (e->key == base.known.key) return;
    row.fresh++;
    CHECK_MESSAGE(!section.empty(), "a new key");
    if (e->hit) return; // it has become another example
    REQUIRE_MESSAGE(!e->miss.reasons.empty(), e->miss.text());
    bool named = e->miss.reasons[0].section == section || (section == "ir" && e->miss.reasons[0].section == "wo_split" && noLongerSplit(*e, base));
    CHECK_MESSAGE(named, "expected " << section << " first: " << e->miss.text());
  }

  Runtime &runtime() { return runtime_; }
  const std::vector<Base> &bases;

private:
  static std::string sectionText(const Runtime::Explanation &e, const std::string &name) {
    for (const Section &s : e.sections)
      if (s.name == name) return s.text;
    return {};
  }
  static bool sameOptions(const Runtime::Explanation &a, const Runtime::Explanation &b) {
    return sectionText(a, "options") == sectionText(b, "options") && sectionText(a, "target") == sectionText(b, "target");
  }
  /// A layer that loses its `wo` has wo_split 0.
  static bool noLongerSplit(const Runtime::Explanation &e, const Base &base) { return e.key.wo_split == 0 && base.known.key.wo_split != 0; }

  Runtime runtime_;
};

/// Every contract that this build can plan.
std::vector<std::string> contracts() {
  std::vector<std::string> words;
  for (const KnobInfo &knob : knobs())
    if (std::string(knob.name) == "math") {
      std::istringstream all(knob.words);
      for (std::string word; std::getline(all, word, '|');) {
        Schedule schedule;
        REQUIRE(schedule.set("math", word, Origin::Host).ok());
        Result<Schedule> effective = effectiveSchedule(readExample("tiny_mlp_only").module(), schedule, "");
        REQUIRE(effective.ok());
        if (plan(readExample("tiny_mlp_only").module(), *effective, *findTarget(effective->word("target"))).ok()) words.push_back(word);
      }
    }
  REQUIRE_FALSE(words.empty());
  return words;
}

/// Rows that nothing could try, and rows that moved no key although they should (or the other way round).
void checkRows(const Rows &rows, const std::set<std::string> &no_inputs) {
  int legal = 0, fresh = 0;
  for (const auto &entry : rows) {
    const std::string &name = entry.first;
    const Row &row = entry.second;
    legal += row.legal;
    fresh += row.fresh;
    CHECK_MESSAGE(row.legal > 0, name << ": no example can try it");
    if (no_inputs.count(name)) CHECK_MESSAGE(row.fresh == 0, name << " moves keys");
    else CHECK_MESSAGE(row.fresh > 0, name << " moved no key in " << row.legal << " trials");
  }
  for (const std::string &name : no_inputs) CHECK_MESSAGE(rows.count(name), name << " is no row any more");
  MESSAGE(rows.size() << " rows, " << legal << " changes, " << fresh << " new keys");
}

// ---- the language ------------------------------------------------------------------------------------------------

/// Takes the n-th other value of the n-th row of attributes.h.
struct Mutator {
  const ir::Layer *layer;
  int row, candidate;
  std::string name{};
  bool done = false;

  void ignored(const char *) {}
  void knob(const char *, const char *) {} // swept as a knob
  void real(const char *n, double &v, bool) { take(n, v, {v == 0 ? 0.125 : v * 2, v + 0.25}); }
  void integer(const char *n, int &v, bool) { take(n, v, {v + 1, v * 2, v / 2, v + 8, v - 8, 16, 128}); }
  void flag(const char *n, bool &v, bool) { take(n, v, {!v}); }
  void choice(const char *n, bool &v, const char *, bool) { take(n, v, {!v}); }
  template <class Enum> void word(const char *n, Enum &v, int count, bool) {
    std::vector<Enum> others;
    for (int i = 0; i < count; i++)
      if (static_cast<Enum>(i) != v) others.push_back(static_cast<Enum>(i));
    take(n, v, others);
  }
  void value(const char *n, ir::ValueId &v, bool) {
    std::vector<ir::ValueId> others;
    for (ir::ValueId id = ir::kNone; id < ir::ValueId(layer->values.size()); id++)
      if (id != v) others.push_back(id);
    take(n, v, others);
  }

private:
  template <class T> void take(const char *n, T &v, const std::vector<T> &others) {
    if (row-- != 0) return;
    name = n;
    if (candidate >= int(others.size())) return;
    v = others[size_t(candidate)];
    done = true;
  }
};

/// The rows of a list of attributes.
struct Lister {
  std::vector<std::string> names;
  void ignored(const char *) {}
  void knob(const char *, const char *) {}
  void real(const char *n, double &, bool) { names.push_back(n); }
  void integer(const char *n, int &, bool) { names.push_back(n); }
  void flag(const char *n, bool &, bool) { names.push_back(n); }
  void choice(const char *n, bool &, const char *, bool) { names.push_back(n); }
  template <class Enum> void word(const char *n, Enum &, int, bool) { names.push_back(n); }
  void value(const char *n, ir::ValueId &, bool) { names.push_back(n); }
};

struct OpRow {
  ir::Op op;
  const char *name;
  size_t least, most;
  std::vector<std::string> operands;
};

std::vector<std::string> split(const std::string &text) {
  std::istringstream in(text);
  return {std::istream_iterator<std::string>(in), {}};
}

const std::vector<OpRow> &opRows() {
  static const std::vector<OpRow> rows = {
#define PHASEC_OP(id, least, most, least_results, most_results, operands, doc) {ir::Op::id, #id, least, most, split(operands)},
#include "ir/ops.def"
  };
  return rows;
}

constexpr ir::Format kFormats[] = {
#define PHASEC_FORMAT(id, ...) ir::Format::id,
#include "ir/formats.def"
};

std::vector<ir::DType> dtypes() {
  std::vector<ir::DType> all;
  for (int i = 0; *ir::name(ir::DType(i)); i++) all.push_back(ir::DType(i));
  return all;
}

/// All rows of the language, from its tables. Attributes of formats that the weights of a row have are the format's.
template <size_t... I> void listAttributes(Rows &rows, std::index_sequence<I...>) {
  auto list = [&](const std::string &owner, auto attrs) {
    Lister lister;
    attributes(attrs, lister);
    for (const std::string &name : lister.names) rows["attribute " + owner + "." + name];
  };
  (list(opRows()[I].name, std::variant_alternative_t<I, ir::Attrs>()), ...);
  for (ir::Format format : kFormats) {
    ir::WeightType type;
    type.format = format;
    list(ir::name(format), type);
  }
  list("cache", ir::CacheType());
}

Rows languageRows() {
  Rows rows;
  static_assert(std::variant_size_v<ir::Attrs> == size_t(ir::Op::argmax) + 1);
  listAttributes(rows, std::make_index_sequence<std::variant_size_v<ir::Attrs>>());
  for (const OpRow &op : opRows()) {
    rows[std::string("op ") + op.name];
    for (size_t i = op.least; i < op.most; i++) rows[std::string("op ") + op.name + " without " + op.operands[i]];
  }
  for (ir::Format format : kFormats) rows[std::string("format ") + ir::name(format)];
  for (const char *kind : {"input", "weight", "cache", "temp"}) rows[std::string("dtype of ") + kind];
  for (const char *name : {"tokens_min", "tokens_max", "returns", "stack count", "stack order", "event kind", "events", "operand", "layer name", "value name"})
    rows[name];
  return rows;
}

using Emit = std::function<void(const std::string &row, const std::string &what, const ir::Module &)>;

/// Sees every value that attributes name.
struct NamedValues {
  std::set<ir::ValueId> &used;
  void ignored(const char *) {}
  void knob(const char *, const char *) {}
  void real(const char *, double &, bool) {}
  void integer(const char *, int &, bool) {}
  void flag(const char *, bool &, bool) {}
  void choice(const char *, bool &, const char *, bool) {}
  template <class Enum> void word(const char *, Enum &, int, bool) {}
  void value(const char *, ir::ValueId &v, bool) { used.insert(v); }
};

/// The phase goes, what it made becomes inputs.
void cut(ir::Layer &layer, size_t phase) {
  for (ir::ValueId result : layer.phases[phase].results) layer.values[size_t(result)].kind = ir::ValueKind::Input;
  layer.phases.erase(layer.phases.begin() + long(phase));
}

std::set<ir::ValueId> usedValues(ir::Layer &layer) {
  std::set<ir::ValueId> used(layer.returns.begin(), layer.returns.end());
  for (ir::Phase &phase : layer.phases) {
    used.insert(phase.operands.begin(), phase.operands.end());
    NamedValues named{used};
    std::visit([&](auto &attrs) { attributes(attrs, named); }, phase.attrs);
  }
  return used;
}

void repairAttributes(ir::Layer &layer, ir::Phase &phase) {
  if (auto *attn = std::get_if<ir::AttnAttrs>(&phase.attrs); attn && !attn->sigmoid_gate && phase.operands.size() > 2) {
    for (ir::Phase &other : layer.phases)
      if (other.results.size() > 1 && other.results.back() == phase.operands[2]) other.results.pop_back();
    phase.operands.resize(2);
  }
  auto *qkv = std::get_if<ir::QkvAttrs>(&phase.attrs);
  if (!qkv) return;
  auto extent = [&](ir::ValueId v, size_t i, int64_t to) {
    ir::Value &value = layer.values[size_t(v)];
    if (i < value.shape.size() && value.shape[i] != to) value.shape[i] = to, value.shape_text.clear();
  };
  if (qkv->q_norm == ir::kNone || qkv->k_norm == ir::kNone) qkv->q_norm = qkv->k_norm = ir::kNone;
  if (qkv->rope == ir::kNone) qkv->rotary = 0;
  else extent(qkv->rope, 1, qkv->rotary);
  if (phase.results.size() > 1) return;
  qkv->gate_rows = ir::GateRows::Block;
  extent(phase.operands[1], 0, (layer.dim("heads") + 2 * layer.dim("kv_heads")) * layer.dim("head_dim"));
}

/// One change drags others along that the verifier insists on: makes a changed layer legal where that is possible.
void repair(ir::Layer &layer) {
  for (size_t i = layer.phases.size(); i-- > 0;) repairAttributes(layer, layer.phases[i]); // readers before their sources
  for (bool again = true; again;) {
    again = false;
    for (size_t p = 0; p < layer.phases.size() && !again; p++) {
      const ir::Phase &phase = layer.phases[p];
      std::set<ir::ValueId> used = usedValues(layer);
      bool idle = std::none_of(phase.results.begin(), phase.results.end(), [&](ir::ValueId r) { return used.count(r); });
      again = idle || (phase.op == ir::Op::gather && !layer.isPartials(phase.operands[0]));
      if (again) cut(layer, p);
    }
    std::erase_if(layer.returns, [&](ir::ValueId v) { return layer.values[size_t(v)].kind == ir::ValueKind::Input; });
    if (layer.returns.empty() && !layer.phases.empty()) layer.returns = {layer.phases.back().results[0]};
  }
  std::erase_if(layer.events, [&](const ir::EventStmt &e) { return !layer.producer(e.from) || !layer.producer(e.to); });
  std::set<ir::ValueId> used = usedValues(layer);
  for (ir::ValueId v = 0; v < ir::ValueId(layer.values.size()); v++)
    if (!used.count(v)) layer.values[size_t(v)].kind = ir::ValueKind::Temp; // a temp that nothing makes is not printed
}

/// Weight vectors that an attribute may come to name, one per length.
void addVectors(ir::Layer &layer) {
  std::set<int64_t> lengths;
  for (const ir::Value &v : layer.values)
    if (v.kind == ir::ValueKind::Weight) lengths.insert(v.shape[0]);
  for (int64_t length : lengths) {
    ir::Value v;
    v.name = "extra_" + std::to_string(length);
    v.kind = ir::ValueKind::Weight;
    v.shape = {length};
    layer.values.push_back(v);
  }
}

/// `reach` finds the attributes in a copy of the module; the rows are `owner`'s.
template <class Reach> void mutateAttributes(const ir::Module &base, const std::string &owner, size_t layer, Reach reach, const Emit &emit) {
  for (int row = 0;; row++) {
    for (int candidate = 0;; candidate++) {
      ir::Module m = base;
      addVectors(m.layers[layer]);
      Mutator mutator{&m.layers[layer], row, candidate};
      reach(m, mutator);
      if (mutator.name.empty()) return;
      if (!mutator.done) break;
      emit("attribute " + owner + "." + mutator.name, owner + "." + mutator.name + " candidate " + std::to_string(candidate), m);
    }
  }
}

void mutateValues(const ir::Module &base, size_t l, const Emit &emit) {
  const ir::Layer &layer = base.layers[l];
  for (size_t i = 0; i < layer.values.size(); i++) {
    const ir::Value &v = layer.values[i];
    auto change = [&](const std::string &row, const std::string &what, auto edit) {
      ir::Module m = base;
      edit(m.layers[l].values[i]);
      emit(row, "%" + v.name + " " + what, m);
    };
    change("value name", "renamed", [](ir::Value &x) { x.name += "_renamed"; });
    const bool matrix = v.kind == ir::ValueKind::Weight && !v.isVector();
    for (ir::Format format : kFormats)
      if (matrix && format != v.weight.format)
        change(std::string("format ") + ir::name(format), ir::name(format), [&](ir::Value &x) { x.weight.format = format; });
    for (ir::DType dtype : dtypes())
      if (!matrix && dtype != v.dtype)
        change(std::string("dtype of ") + ir::name(v.kind), ir::name(dtype), [&](ir::Value &x) { x.dtype = x.cache.dtype = dtype, x.annotated = true; });
    if (matrix)
      mutateAttributes(base, ir::name(v.weight.format), l, [&](ir::Module &m, Mutator &how) { attributes(m.layers[l].values[i].weight, how); }, emit);
    if (v.kind == ir::ValueKind::Cache)
      mutateAttributes(base, "cache", l, [&](ir::Module &m, Mutator &how) { attributes(m.layers[l].values[i].cache, how); }, emit);
  }
}

void mutatePhases(const ir::Module &base, size_t l, const Emit &emit) {
  const ir::Layer &layer = base.layers[l];
  for (size_t p = 0; p < layer.phases.size(); p++) {
    const ir::Phase &phase = layer.phases[p];
    const OpRow &op = opRows()[size_t(phase.op)];
    mutateAttributes(base, op.name, l, [&](ir::Module &m, Mutator &how) { std::visit([&](auto &attrs) { attributes(attrs, how); }, m.layers[l].phases[p].attrs); }, emit);
    for (size_t i = op.least; i < op.most; i++) {
      ir::Module m = base;
      std::vector<ir::ValueId> &operands = m.layers[l].phases[p].operands;
      if (operands.size() <= i) continue;
      if (auto *attn = std::get_if<ir::AttnAttrs>(&m.layers[l].phases[p].attrs)) attn->sigmoid_gate = false; // takes it along
      else operands.resize(i);
      emit(std::string("op ") + op.name + " without " + op.operands[i], std::string(op.name) + " without " + op.operands[i], m);
    }
    for (size_t i = 0; i < phase.operands.size(); i++)
      for (ir::ValueId other = 0; other < ir::ValueId(layer.values.size()); other++) {
        if (other == phase.operands[i]) continue;
        ir::Module m = base;
        m.layers[l].phases[p].operands[i] = other;
        emit("operand", std::string(op.name) + " " + op.operands[i] + " = %" + layer.values[size_t(other)].name, m);
      }
    ir::Module m = base;
    cut(m.layers[l], p);
    emit(std::string("op ") + op.name, std::string("without ") + op.name, m);
    if (base.stacks.empty()) continue;
    ir::Module shorter = base; // a stack may do without the layer, where the layer cannot do without the phase
    std::erase_if(shorter.stacks.back().items, [&](const ir::StackItem &item) { return item.layer == layer.name; });
    emit(std::string("op ") + op.name, std::string("a stack without the layer of ") + op.name, shorter);
  }
}

void mutateLayer(const ir::Module &base, size_t l, const Emit &emit) {
  const ir::Layer &layer = base.layers[l];
  auto change = [&](const std::string &row, const std::string &what, auto edit) {
    ir::Module m = base;
    edit(m.layers[l]);
    emit(row, what, m);
  };
  if (base.stacks.empty()) change("layer name", "renamed", [](ir::Layer &x) { x.name += "_renamed"; });
  for (size_t d = 0; d < layer.dims.size(); d++) {
    int64_t v = layer.dims[d].second;
    for (int64_t to : {v + 1, v * 2, v / 2, v * 3, v + 16, v - 16, v + 64})
      if (to > 0 && to != v)
        change("dim " + layer.dims[d].first, layer.dims[d].first + " = " + std::to_string(to), [&](ir::Layer &x) { x.dims[d].second = to; });
  }
  for (int to = 1; to <= kTokensMax; to++) {
    if (to != layer.tokens_max) change("tokens_max", "tokens .." + std::to_string(to), [&](ir::Layer &x) { x.tokens_max = to, x.tokens_min = std::min(x.tokens_min, to); });
    if (to != layer.tokens_min && to <= layer.tokens_max) change("tokens_min", "tokens " + std::to_string(to) + "..", [&](ir::Layer &x) { x.tokens_min = to; });
  }
  for (ir::ValueId v = 0; v < ir::ValueId(layer.values.size()); v++) {
    const std::string name = layer.values[size_t(v)].name;
    change("returns", "return %" + name, [&](ir::Layer &x) { x.returns = {v}; });
    change("returns", "return also %" + name, [&](ir::Layer &x) { x.returns.push_back(v); });
  }
  for (size_t e = 0; e < layer.events.size(); e++) {
    change("events", "without event " + std::to_string(e), [&](ir::Layer &x) { x.events.erase(x.events.begin() + long(e)); });
    change("event kind", "event " + std::to_string(e), [&](ir::Layer &x) {
      x.events[e].kind = x.events[e].kind == ir::EventKind::Grid ? ir::EventKind::Counter : ir::EventKind::Grid;
    });
  }
  mutateValues(base, l, emit);
  mutatePhases(base, l, emit);
}

void mutateStacks(const ir::Module &base, const Emit &emit) {
  for (size_t s = 0; s < base.stacks.size(); s++) {
    for (size_t i = 0; i < base.stacks[s].items.size(); i++) {
      ir::Module m = base;
      m.stacks[s].items[i].count++;
      emit("stack count", "item " + std::to_string(i), m);
    }
    ir::Module m = base;
    for (ir::StackItem &item : m.stacks[s].items) std::reverse(item.items.begin(), item.items.end());
    std::reverse(m.stacks[s].items.begin(), m.stacks[s].items.end());
    emit("stack order", "reversed", m);
  }
}

std::vector<std::string> candidates(const KnobInfo &knob) {
  std::vector<std::string> all;
  if (knob.is_int) {
    std::set<int64_t> values = {knob.int_min, knob.int_max};
    for (int64_t v : {1, 2, 3, 4, 5, 6, 8, 12, 16, 32, 64, 100})
      if (v > knob.int_min && v < knob.int_max) values.insert(v);
    for (int64_t v : values) all.push_back(std::to_string(v));
  } else {
    std::istringstream words(knob.words);
    for (std::string word; std::getline(words, word, '|');) all.push_back(word);
  }
  return all;
}

/// What a knob is without being set.
std::string valueOf(const Base &base, const std::string &knob) {
  if (knob == "wo_split") return std::to_string(base.known.key.wo_split);
  for (const Section &s : base.known.sections)
    if (s.name == "knob:" + knob || s.name == knob) return s.text;
  return {};
}

/// As explain calls a knob's section.
std::string sectionOf(const std::string &knob) { return knob == "target" || knob == "wo_split" ? knob : "knob " + knob; }

} // namespace

TEST_CASE("sweep: everything a .phase file can say") {
  for (const std::string &math : contracts()) {
    Shop shop(math);
    Rows rows = languageRows();
    for (const Base &base : shop.bases) {
      Emit emit = [&](const std::string &row, const std::string &what, const ir::Module &m) {
        ir::Module legal = m;
        for (ir::Layer &layer : legal.layers) repair(layer);
        Result<Layers> layers = Layers::parse("sweep.phase", ir::print(legal));
        if (layers.ok()) shop.tryOne(rows[row], what, base, *layers, base.schedule, "ir");
      };
      ir::Module plain = base.layers.module();
      for (ir::Layer &layer : plain.layers) layer.statements.clear(); // the printer's own order, without comments
      Row comments;
      shop.tryOne(comments, "without comments", base, Layers::parse("sweep.phase", ir::print(plain)).take(), base.schedule, "");
      CHECK(comments.legal == 1);
      for (size_t l = 0; l < plain.layers.size(); l++) mutateLayer(plain, l, emit);
      mutateStacks(plain, emit);
    }
    // What a file says and no compiler sees: names, bounds that the host checks, layouts that strides or the packer follow.
    checkRows(rows, {"layer name", "value name", "tokens_min", "dim max_pos", "attribute cache.kv", "attribute cache.order", "attribute nvfp4.scales"});
  }
}

TEST_CASE("sweep: every knob, and every target") {
  const std::vector<std::string> built = contracts();
  Rows rows; // of both: not every value is legal under exact
  for (const std::string &math : built) {
    Shop shop(math);
    for (const KnobInfo &knob : knobs())
      for (const std::string &value : candidates(knob))
        for (const Base &base : shop.bases) {
          Schedule schedule = base.schedule;
          if (valueOf(base, knob.name) == value || !schedule.set(knob.name, value, Origin::Host).ok()) continue;
          if (std::string(knob.name) == "math" && std::count(built.begin(), built.end(), value) == 0) continue;
          std::string row = std::string("knob ") + knob.name;
          if (!knob.is_int) row += " = " + value;
          shop.tryOne(rows[row], std::string(knob.name) + " = " + value, base, base.layers, schedule, sectionOf(knob.name));
        }
  }
  // `auto` is the device's or sm_90a, and a refusal is dealt with at launch.
  checkRows(rows, {"knob target = auto", "knob on_refusal = split"});
}

TEST_CASE("sweep: a knob in the file is the knob of the host: the same key") {
  for (const std::string &math : contracts()) {
    Shop shop(math);
    int compared = 0;
    for (const KnobInfo &knob : knobs())
      for (const std::string &value : candidates(knob))
        for (const Base &base : shop.bases) {
          Schedule schedule = base.schedule;
          if (std::string(knob.name) == "math" || !schedule.set(knob.name, value, Origin::Host).ok()) continue;
          ir::Module m = base.layers.module();
          for (ir::Layer &layer : m.layers) {
            layer.statements.clear();
            std::erase_if(layer.schedule, [&](const auto &set) { return set.first == knob.name; });
            layer.schedule.emplace_back(knob.name, value);
          }
          Result<Layers> layers = Layers::parse("sweep.phase", ir::print(m));
          Result<Runtime::Explanation> host = shop.runtime().explain(base.layers, schedule);
          if (!layers.ok() || !host.ok()) continue;
          Result<Runtime::Explanation> file = shop.runtime().explain(*layers, base.schedule);
          REQUIRE_MESSAGE(file.ok(), file.status().text());
          CHECK_MESSAGE(file->key == host->key, base.name << ": " << knob.name << " = " << value);
          compared++;
        }
    CHECK(compared > int(10 * knobs().size()));
  }
}

// ---- templates ---------------------------------------------------------------------------------------------------

namespace {

/// A shop whose templates are the embedded ones but for `name`; the keys in it are the embedded ones'.
struct Overlay {
  TempDir dir;
  Overlay(const std::string &name, const std::string &text) {
    std::filesystem::create_directories(std::filesystem::path(dir / name).parent_path());
    test::writeFile(dir / name, text);
  }
};

std::vector<std::string> linesOf(const std::string &text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

std::string joined(const std::vector<std::string> &lines) {
  std::string text;
  for (const std::string &line : lines) text += line + "\n";
  return text;
}

/// Comments and blank space wherever a line may have some more.
std::string commented(const std::string &text) {
  std::string out = "// nobody reads this\n\n";
  bool in_comment = false;
  for (const std::string &line : linesOf(text)) {
    bool spliced = !line.empty() && line.back() == '\\';
    bool marker = line.rfind("//@", 0) == 0 || line.rfind("#include", 0) == 0 || line.rfind("#pragma once", 0) == 0;
    size_t open = line.rfind("/*"), close = line.rfind("*/");
    if (open != line.npos || close != line.npos) in_comment = close == line.npos || (open != line.npos && open > close);
    if (marker || spliced || in_comment) out += line + "\n";
    else out += line + "\t // \"end 'of line\n  \n/* and\n more */\n";
  }
  return out;
}

const char *kOneMore = "int one_more;";

} // namespace

TEST_CASE("sweep: every template, in every example: its users get new keys and no other layer does") {
  Rows rows;
  for (const std::string &math : contracts())
    for (const EmbeddedFile &file : embeddedTemplates()) {
      const std::string name(file.name), text(file.text);
      const bool skeleton = name == "layer.cu";
      std::string section = skeleton ? "kernel" : "template " + name;
      // At the end, then at random lines: there it may fall into a comment, or where the renderer puts text of its own.
      std::mt19937 random(uint32_t(text.size()));
      for (int trial = 0; trial < 6; trial++) {
        std::vector<std::string> lines = linesOf(text);
        lines.insert(trial == 0 ? lines.end() : lines.begin() + long(random() % lines.size()), kOneMore);
        Overlay overlay(name, joined(lines));
        Shop shop(math, overlay.dir.path());
        for (const Base &base : shop.bases) {
          bool used = skeleton || base.known.source.find("\"" + name + "\"\n") != std::string::npos;
          Row row;
          shop.tryOne(row, name + " changed", base, base.layers, base.schedule, section);
          rows["template " + name].legal += row.legal;
          rows["template " + name].fresh += row.fresh;
          if (!used) CHECK_MESSAGE(row.fresh == 0, name << " moves " << base.name << ", which does not use it");
          if (used && trial == 0) CHECK_MESSAGE(row.fresh == 1, name << " does not move " << base.name);
        }
      }
    }
  checkRows(rows, {"template pack.cu"}); // of packers: pack_device.cpp
}

TEST_CASE("sweep: comments and blank space in every template: no new key") {
  for (const std::string &math : contracts()) {
    Row row;
    for (const EmbeddedFile &file : embeddedTemplates()) {
      Overlay overlay(std::string(file.name), commented(std::string(file.text)));
      Shop shop(math, overlay.dir.path());
      for (const Base &base : shop.bases) shop.tryOne(row, std::string(file.name) + " with comments", base, base.layers, base.schedule, "");
    }
    CHECK(row.legal >= int(embeddedTemplates().size()));
    CHECK(row.fresh == 0);
  }
}

// ---- how it is compiled ------------------------------------------------------------------------------------------

TEST_CASE("sweep: every compile option, every target, the launch ABI") {
  Shop shop(contracts().front());
  const Base &base = shop.bases.front();
  std::set<std::string> keys;
  int tried = 0;
  auto tryCompile = [&](const std::vector<std::string> &options, const std::string &target, uint32_t abi, const std::string &section) {
    KernelFingerprint f = fingerprint(base.known.source, options, target, abi);
    Query query{{base.known.key.wo_split, {f.high, f.low}}, "", base.known.sections};
    for (const KernelFingerprint::Section &s : f.sections)
      for (Section &known : query.sections)
        if (known.name == s.name) known = {s.name, s.digest, s.text};
    keys.insert(f.hex());
    tried++;
    if (section.empty()) {
      CHECK(query.key == base.known.key);
      return;
    }
    Miss miss = shop.runtime().cache().explain(query);
    REQUIRE(!miss.reasons.empty());
    CHECK_MESSAGE(miss.reasons[0].section == section, miss.text());
    CHECK(miss.reasons.size() == 1);
  };
  CompileOptions compiled;
  compiled.exact = base.schedule.word("math") == "exact";
  const std::vector<std::string> options = nvrtcArguments(compiled);
  const std::string target = "sm_90a";
  tryCompile(options, target, kLaunchAbi, "");
  for (size_t i = 0; i < options.size(); i++) {
    std::vector<std::string> less = options, other = options;
    less.erase(less.begin() + long(i));
    other[i] += "0";
    tryCompile(less, target, kLaunchAbi, "options");
    tryCompile(other, target, kLaunchAbi, "options");
  }
  {
    // A member that is added does not compile here until it is swept.
    CompileOptions changed = compiled;
    auto &[exact, line_info, split_compile, extra] = changed;
    auto one = [&](auto &member, auto value) {
      changed = compiled;
      member = value;
      tryCompile(nvrtcArguments(changed), target, kLaunchAbi, "options");
    };
    one(exact, !compiled.exact);
    one(split_compile, 4);
    one(split_compile, 8);
    one(extra, std::vector<std::string>{"-DX=1"});
    one(extra, std::vector<std::string>{"-DX=2"});
    changed = compiled;
    line_info = true; // moves all sources too: their lines count now
    keys.insert(fingerprint(base.known.source, nvrtcArguments(changed), target, kLaunchAbi).hex());
    tried++;
  }
  for (const Target &t : targets())
    if (t.name != target) tryCompile(options, t.name, kLaunchAbi, "target");
  tryCompile(options, "sim:" + target, kLaunchAbi, "target");
  for (uint32_t abi : {kLaunchAbi - 1, kLaunchAbi + 1, kLaunchAbi + 256}) tryCompile(options, target, abi, "abi");
  CHECK(int(keys.size()) == tried);
  MESSAGE(tried << " ways to compile, " << keys.size() << " keys");
}
