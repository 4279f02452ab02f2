// verifier.cpp: dims, values, uses, schedule, events and stacks. A module may also be built by hand, so nothing here
// relies on the parser having refused something, except that messages then have no place.
#include "ir/suggest.h"
#include "ir/verifier_impl.h"

#include <algorithm>
#include <set>

namespace phasec::ir {

namespace {
constexpr int64_t kHeadDimMax = 256;
constexpr int kPageMax = 256;
} // namespace

void LayerVerifier::run() {
  if (!wellFormed()) return;
  checkTokens();
  checkDims();
  checkValues();
  checkPhases();
  checkUses();
  checkReturns();
  checkSchedule();
  checkEvents();
}

/// Every id names a value, and attributes are those of the op: what the other checks rely on.
bool LayerVerifier::wellFormed() {
  const auto known = [&](ValueId id) { return id >= 0 && id < static_cast<ValueId>(layer_.values.size()); };
  for (const auto &[dim, extent] : layer_.dims)
    if (extent < 1 || extent > kDimMax) {
      error(layer_.range, "dim '" + dim + "' must be from 1 to " + std::to_string(kDimMax));
      return false;
    }
  bool ok = std::all_of(layer_.returns.begin(), layer_.returns.end(), known);
  for (const EventStmt &event : layer_.events) ok = ok && known(event.from) && known(event.to);
  for (const Phase &phase : layer_.phases) {
    ok = ok && phase.attrs.index() == static_cast<size_t>(phase.op);
    ok = ok && std::all_of(phase.operands.begin(), phase.operands.end(), known);
    ok = ok && std::all_of(phase.results.begin(), phase.results.end(), known);
    if (const auto *qkv = std::get_if<QkvAttrs>(&phase.attrs))
      for (ValueId id : {qkv->bias, qkv->q_norm, qkv->k_norm, qkv->rope}) ok = ok && (id == kNone || known(id));
  }
  if (!ok) error(layer_.range, "layer @" + layer_.name + " refers to values that it does not have");
  return ok;
}

void LayerVerifier::checkTokens() {
  if (layer_.tokens_min < 1 || layer_.tokens_max < layer_.tokens_min || layer_.tokens_max > kTokensMax)
    error(layer_.range, "tokens must lie in 1.." + std::to_string(kTokensMax) + ", not " +
                            std::to_string(layer_.tokens_min) + ".." + std::to_string(layer_.tokens_max));
}

void LayerVerifier::checkDims() {
  const auto range = [&](std::string_view dim) {
    for (size_t i = 0; i < layer_.dims.size() && i < layer_.dim_ranges.size(); ++i)
      if (layer_.dims[i].first == dim) return layer_.dim_ranges[i];
    return layer_.range;
  };
  const int64_t heads = layer_.dim("heads"), kv_heads = layer_.dim("kv_heads"), head_dim = layer_.dim("head_dim");
  if (heads > 0 && kv_heads > 0 && heads % kv_heads != 0)
    error(range("heads"), "heads must be a multiple of kv_heads, so that every KV head serves as many query heads; " +
                              std::to_string(heads) + " is no multiple of " + std::to_string(kv_heads));
  if (head_dim % 16 != 0 || head_dim > kHeadDimMax)
    error(range("head_dim"), "head_dim must be a multiple of 16 and at most " + std::to_string(kHeadDimMax) + ", not " +
                                 std::to_string(head_dim));
  multiple(range("hidden"), "hidden", layer_.dim("hidden"), 16);
  multiple(range("ffn"), "ffn", layer_.dim("ffn"), 8);
}

void LayerVerifier::checkValues() {
  std::set<std::string> names;
  for (ValueId id = 0; id < static_cast<ValueId>(layer_.values.size()); ++id) {
    const Value &v = value(id);
    if (!names.insert(v.name).second) error(v.range, "%" + v.name + " is defined twice");
    const bool has_tokens = std::find(v.shape.begin(), v.shape.end(), kTokensExtent) != v.shape.end();
    switch (v.kind) {
    case ValueKind::Input:
      if (v.dtype == DType::fp8_e4m3) error(v.range, "an input is bf16 or f32 (ids: i32), not fp8_e4m3");
      if (v.dtype == DType::i32) {
        if (v.shape != std::vector<int64_t>{kTokensExtent})
          error(v.range, "an i32 input holds one id per token: i32[tokens]");
      } else if (v.shape.size() != 2)
        error(v.range, "an input has two extents: [tokens, n], or f32[max_pos, rotary] for a rope table; only ids "
                       "have one: i32[tokens]");
      else if (v.shape[1] == kTokensExtent)
        error(v.range, "`tokens` is the first extent: %" + v.name + " has one row per token");
      break;
    case ValueKind::Weight:
      if (has_tokens) error(v.range, "a weight does not depend on `tokens`; give its extents in dims and numbers");
      if (!v.isVector() && v.weight.format == Format::nvfp4 && v.shape.size() == 2 && v.shape[1] % 16 != 0)
        error(v.range, "an nvfp4 weight has one scale per 16 columns, so its columns must be a multiple of 16, not " +
                           std::to_string(v.shape[1]));
      break;
    case ValueKind::Cache:
      if (v.cache.page < 1 || v.cache.page > kPageMax)
        error(v.range,
              "a cache page has 1 to " + std::to_string(kPageMax) + " rows, not " + std::to_string(v.cache.page));
      break;
    case ValueKind::Temp:
      if (!layer_.producer(id)) error(v.range, "%" + v.name + " is the result of no phase");
      break;
    }
  }
}

void LayerVerifier::checkUses() {
  std::vector<bool> used(layer_.values.size(), false), defined(layer_.values.size(), false);
  for (size_t i = 0; i < used.size(); ++i) defined[i] = layer_.values[i].kind != ValueKind::Temp;
  const auto use = [&](ValueId id, Range range) {
    if (id == kNone) return;
    used[id] = true;
    if (!defined[id]) error(range, "%" + value(id).name + " is used before the phase that defines it");
  };
  for (const Phase &phase : layer_.phases) {
    for (size_t i = 0; i < phase.operands.size(); ++i) use(phase.operands[i], operandRange(phase, i));
    if (const auto *qkv = std::get_if<QkvAttrs>(&phase.attrs))
      for (ValueId id : {qkv->bias, qkv->q_norm, qkv->k_norm, qkv->rope}) use(id, phase.op_range);
    for (ValueId id : phase.results) {
      if (defined[id]) error(value(id).range, "%" + value(id).name + " is defined by two phases");
      defined[id] = true;
    }
  }
  for (ValueId id : layer_.returns) used[id] = true;
  for (size_t i = 0; i < used.size(); ++i) {
    const Value &v = layer_.values[i];
    if (used[i]) continue;
    if (v.kind == ValueKind::Temp)
      error(v.range, "%" + v.name + " is never used; use it, return it, or remove its phase");
    else
      error(v.range, std::string(name(v.kind)) + " %" + v.name + " is never used; remove its declaration");
  }
}

void LayerVerifier::checkReturns() {
  if (layer_.returns.empty()) {
    const Range range = layer_.end_range.end > 0 ? layer_.end_range : layer_.range;
    error(range, "layer @" + layer_.name + " returns nothing; end it with: return %value");
  }
  std::set<ValueId> seen;
  for (size_t i = 0; i < layer_.returns.size(); ++i) {
    const ValueId id = layer_.returns[i];
    const Range range = i < layer_.return_ranges.size() ? layer_.return_ranges[i] : layer_.range;
    if (!seen.insert(id).second) error(range, "%" + value(id).name + " is returned twice");
    if (value(id).kind != ValueKind::Temp)
      declared(error(range, "a layer returns results of phases, but %" + value(id).name + " is " +
                                (value(id).kind == ValueKind::Input ? "an " : "a ") + name(value(id).kind)),
               id);
    else if (layer_.isPartials(id))
      declared(error(range, "%" + value(id).name +
                                " is the partial slots of `wo`, whose number is the schedule's; "
                                "gather them and return the sum"),
               id);
  }
}

void LayerVerifier::checkSchedule() {
  Schedule schedule;
  for (size_t i = 0; i < layer_.schedule.size(); ++i) {
    const auto &[knob, text] = layer_.schedule[i];
    const Range range = i < layer_.schedule_ranges.size() ? layer_.schedule_ranges[i] : layer_.range;
    const Status status = schedule.set(knob, text, Origin::File);
    if (!status.ok()) {
      error(range, status.text());
    } else if (knob == "wo_split" && !layer_.find(Op::wo)) {
      error(range,
            "layer @" + layer_.name + " has no `wo` phase, so there is nothing for wo_split to split; remove it");
    } else if (knob == "wo_split" && text == "0") {
      error(range, "wo_split must be 1, 2, 4, 8, 16 or 32; 0 is the value of layers without `wo`");
    } else if (knob == "tokens_max" && schedule.integer(knob) > layer_.tokens_max) {
      error(range, "tokens_max is at most the layer's own bound of " + std::to_string(layer_.tokens_max) + " tokens");
    }
  }
  const int64_t split = schedule.integer("wo_split"), slice = schedule.integer("slice_ctas");
  if (schedule.origin("wo_split") != Origin::Default && schedule.word("partition") == "seed" && split > slice) {
    Range range = layer_.range;
    for (size_t i = 0; i < layer_.schedule.size() && i < layer_.schedule_ranges.size(); ++i)
      if (layer_.schedule[i].first == "wo_split") range = layer_.schedule_ranges[i];
    error(range, "wo_split = " + std::to_string(split) + " exceeds slice_ctas = " + std::to_string(slice) +
                     ", the CTAs per KV head under partition = seed; lower it or raise slice_ctas");
  }
}

// ---- events
// ----------------------------------------------------------------------------------------------------------

void LayerVerifier::checkEvents() {
  for (size_t i = 0; i < layer_.events.size(); ++i) checkEvent(i);
}

void LayerVerifier::checkEvent(size_t index) {
  const EventStmt &event = layer_.events[index];
  if (layer_.sync == Sync::Auto) {
    error(event.range,
          "events are written under `sync explicit` only; under `sync auto` they are inserted. Write `sync "
          "explicit`, or remove this event");
    return;
  }
  const Phase *from = layer_.producer(event.from), *to = layer_.producer(event.to);
  for (const auto &[phase, id] : {std::pair(from, event.from), std::pair(to, event.to)})
    if (!phase)
      declared(error(event.range, "an event orders one phase's result before another's, but %" + value(id).name +
                                      " is no result of a phase"),
               id);
  if (!from || !to) return;
  if (from >= to) { // both point into layer_.phases
    error(event.range, "this event waits for %" + value(event.from).name + ", which is not defined before %" +
                           value(event.to).name + "; an event leads from an earlier phase to a later one")
        .note(to->range, "%" + value(event.to).name + " is defined here");
    return;
  }
  const bool reads = std::find(to->operands.begin(), to->operands.end(), event.from) != to->operands.end();
  const bool whole = from->op == Op::gather || from->op == Op::fc2; // counted by finished rows: who waits has all of it
  if (event.kind == EventKind::Counter && !reads && !whole)
    error(event.range, "a counter event orders the slices of %" + value(event.from).name + " with their readers, but " +
                           quoted(to->op) + " does not read it; use `event grid`")
        .note(to->range, "the phase that defines %" + value(event.to).name);
  for (size_t i = 0; i < index; ++i)
    if (layer_.events[i].from == event.from && layer_.events[i].to == event.to)
      error(event.range, "a second event on the same edge").note(layer_.events[i].range, "the first is here");
  checkEventPlace(event, *from, *to);
}

void LayerVerifier::checkEventPlace(const EventStmt &event, const Phase &from, const Phase &to) {
  if (event.range.end == 0 || from.range.end == 0 || to.range.end == 0) return; // built by hand
  const bool between = event.range.begin >= from.range.end && event.range.end <= to.range.begin;
  if (!between)
    error(event.range,
          "this event belongs between the phases it orders; move it to just before %" + value(event.to).name)
        .note(from.range, "it waits for this phase")
        .note(to.range, "it must be before this one");
}

// ---- stacks
// ----------------------------------------------------------------------------------------------------------

namespace {

/// Counts instances and walks the chain of one stack.
class StackVerifier {
public:
  StackVerifier(const Module &module, Diagnostics &diagnostics) : module_(module), diagnostics_(diagnostics) {}

  void run(const Stack &stack) {
    if (stack.items.empty())
      diagnostics_.error(stack.range, "stack @" + stack.name + " is empty; list layers: @layer * 3");
    const int64_t total = count(stack.items);
    if (total > kInstancesMax)
      diagnostics_.error(stack.range, "stack @" + stack.name + " has more than " + std::to_string(kInstancesMax) +
                                          " layer instances, the most that one launch takes");
    else if (sound_)
      chain(stack.items);
  }

private:
  /// Instances of `items`, or more than kInstancesMax; sound_ is false when a reference is wrong.
  int64_t count(const std::vector<StackItem> &items) {
    int64_t total = 0;
    for (const StackItem &item : items) {
      if (item.count < 1 || item.count > kInstancesMax) {
        diagnostics_.error(item.range, "a count lies in 1.." + std::to_string(kInstancesMax) + ", not " +
                                           std::to_string(item.count));
        sound_ = false;
        continue;
      }
      if (item.layer.empty() && item.items.empty())
        diagnostics_.error(item.range, "this group is empty; list layers in it");
      total += item.count * (item.layer.empty() ? count(item.items) : reference(item));
      total = std::min(total, kInstancesMax + 1); // counts multiply: stay far from overflow
      if (total > kInstancesMax) break;
    }
    return total;
  }

  int64_t reference(const StackItem &item) {
    if (module_.layer(item.layer)) return 1;
    sound_ = false;
    const bool is_stack = std::any_of(module_.stacks.begin(), module_.stacks.end(),
                                      [&](const Stack &stack) { return stack.name == item.layer; });
    std::vector<std::string> names;
    for (const Layer &layer : module_.layers) names.push_back(layer.name);
    diagnostics_.error(item.range, is_stack ? "@" + item.layer + " is a stack; a stack lists layers and repeat groups"
                                            : "there is no layer @" + item.layer + didYouMean(item.layer, names, "@"));
    return 1;
  }

  /// Every pair of neighbours once, including the seam of a repeated group.
  void chain(const std::vector<StackItem> &items) {
    for (const StackItem &item : items) {
      for (int64_t pass = 0; pass < std::min<int64_t>(item.count, 2); ++pass) {
        if (item.layer.empty())
          chain(item.items);
        else
          link(*module_.layer(item.layer), item.range);
      }
    }
  }

  void link(const Layer &layer, Range range) {
    const Layer *previous = previous_;
    previous_ = &layer;
    if (!previous || !seen_.emplace(previous, &layer).second) return;
    const Value *input = nullptr;
    for (const Value &value : layer.values)
      if (value.kind == ValueKind::Input && !input) input = &value;
    if (!input || previous->returns.empty()) {
      diagnostics_.error(range, "@" + previous->name + " cannot feed @" + layer.name +
                                    ": the first return of a layer is the first input of the next, and there is none");
      return;
    }
    const Value &output = previous->values[previous->returns.front()];
    if (output.dtype == input->dtype && output.shape == input->shape) return;
    diagnostics_
        .error(range, "@" + previous->name + " cannot feed @" + layer.name + ": it returns %" + output.name + " (" +
                          typeText(output) + "), but the first input is %" + input->name + " (" + typeText(*input) +
                          ")")
        .note(output.range, "the returned value")
        .note(input->range, "the input it feeds");
  }

  const Module &module_;
  Diagnostics &diagnostics_;
  const Layer *previous_ = nullptr;
  std::set<std::pair<const Layer *, const Layer *>> seen_;
  bool sound_ = true;
};

/// The launch has one schedule: layers of a stack may not ask for different values of a knob.
void checkKnobs(const Module &module, Diagnostics &diagnostics) {
  std::vector<int> layers = instances(module);
  std::sort(layers.begin(), layers.end());
  layers.erase(std::unique(layers.begin(), layers.end()), layers.end());
  for (size_t b = 0; b < layers.size(); ++b)
    for (size_t a = 0; a < b; ++a) {
      const Layer &first = module.layers[layers[a]], &second = module.layers[layers[b]];
      const auto range = [](const Layer &layer, size_t i) {
        return i < layer.schedule_ranges.size() ? layer.schedule_ranges[i] : layer.range;
      };
      for (size_t i = 0; i < first.schedule.size(); ++i)
        for (size_t j = 0; j < second.schedule.size(); ++j)
          if (first.schedule[i].first == second.schedule[j].first &&
              first.schedule[i].second != second.schedule[j].second)
            diagnostics
                .error(range(second, j), "the layers of a stack run under one schedule, but @" + first.name + " sets " +
                                             first.schedule[i].first + " = " + first.schedule[i].second)
                .note(range(first, i), "the other value is here");
    }
}

} // namespace

void checkStacks(const Module &module, Diagnostics &diagnostics) {
  for (const Stack &stack : module.stacks) StackVerifier(module, diagnostics).run(stack);
  if (diagnostics.empty() && !module.stacks.empty()) checkKnobs(module, diagnostics);
}

// ---- entry points
// ----------------------------------------------------------------------------------------------------

Diagnostics check(const Module &module) {
  Diagnostics diagnostics;
  if (module.layers.empty()) diagnostics.error({}, "the module has no layer");
  std::set<std::string> names;
  for (const Layer &layer : module.layers)
    if (!names.insert(layer.name).second) diagnostics.error(layer.range, "@" + layer.name + " is defined twice");
  for (const Stack &stack : module.stacks)
    if (!names.insert(stack.name).second) diagnostics.error(stack.range, "@" + stack.name + " is defined twice");
  for (const Layer &layer : module.layers) LayerVerifier(layer, diagnostics).run();
  checkStacks(module, diagnostics);
  return diagnostics;
}

Status verify(const Module &module) { return check(module).status(module.path, module.text); }

Parsed loadAll(std::string path, std::string text) {
  Parsed parsed = parseAll(std::move(path), std::move(text));
  if (parsed.diagnostics.empty()) parsed.diagnostics = check(parsed.module);
  return parsed;
}

Result<Module> load(std::string path, std::string text) {
  Parsed parsed = loadAll(std::move(path), std::move(text));
  if (!parsed.diagnostics.empty()) return parsed.diagnostics.status(parsed.module.path, parsed.module.text);
  return std::move(parsed.module);
}

} // namespace phasec::ir
