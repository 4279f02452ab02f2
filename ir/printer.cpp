// printer.cpp: the canonical text. Statements keep the file's order; columns are aligned over a layer.
#include "ir/printer.h"

#include "ir/attributes.h"

#include <algorithm>
#include <charconv>

namespace phasec::ir {

namespace {

constexpr size_t kLineColumns = 100; // a longer phase breaks before its attributes

using Lines = std::vector<std::string>;

std::string join(const Lines &parts, std::string_view separator) {
  std::string out;
  for (size_t i = 0; i < parts.size(); ++i) out += (i > 0 ? std::string(separator) : "") + parts[i];
  return out;
}

std::string padded(std::string text, size_t width) {
  if (text.size() < width) text.resize(width, ' ');
  return text;
}

/// Collects "name = value" for the rows of attributes.h that the canonical form shows.
class AttrWriter {
public:
  AttrWriter(const Layer *layer, std::string split) : layer_(layer), split_(std::move(split)) {}

  void ignored(const char *) {}
  void flag(const char *name, bool, bool printed) {
    if (printed) out.emplace_back(name);
  }
  void real(const char *name, double value, bool printed) { add(name, realText(value), printed); }
  void integer(const char *name, int value, bool printed) { add(name, std::to_string(value), printed); }
  template <class Enum> void word(const char *attr_name, Enum value, int, bool printed) {
    add(attr_name, name(value), printed);
  }
  void choice(const char *name, bool, const char *word, bool printed) { add(name, word, printed); }
  void value(const char *name, ValueId id, bool printed) {
    if (printed && layer_) add(name, "%" + layer_->values[id].name, true);
  }
  void knob(const char *name, const char *) { add(name, split_, !split_.empty()); }

  Lines out;

private:
  void add(const char *name, const std::string &text, bool printed) {
    if (printed) out.push_back(std::string(name) + " = " + text);
  }
  const Layer *layer_;
  std::string split_;
};

/// The attributes of a weight, cache or phase; `attrs` is a copy because rows are written for both directions.
template <class Attributes>
Lines attributeWords(Attributes attrs, const Layer *layer = nullptr, std::string split = "") {
  AttrWriter writer(layer, std::move(split));
  attributes(attrs, writer);
  return std::move(writer.out);
}

std::string extents(const Value &value, bool as_written) {
  Lines parts;
  const bool written = as_written && value.shape_text.size() == value.shape.size();
  for (size_t i = 0; i < value.shape.size(); ++i) {
    if (written)
      parts.push_back(value.shape_text[i]);
    else
      parts.push_back(value.shape[i] == kTokensExtent ? "tokens" : std::to_string(value.shape[i]));
  }
  return "[" + join(parts, ", ") + "]";
}

std::string elementText(const Value &value) {
  return value.kind == ValueKind::Weight && !value.isVector() ? name(value.weight.format) : name(value.dtype);
}

std::string declarationType(const Value &value) {
  if (value.kind == ValueKind::Cache)
    return std::string(name(value.cache.dtype)) + " paged(" + join(attributeWords(value.cache), ", ") + ")";
  std::string text = elementText(value) + extents(value, /*as_written=*/true);
  if (value.kind != ValueKind::Weight || value.isVector()) return text;
  const Lines words = attributeWords(value.weight);
  return words.empty() ? text : text + " { " + join(words, ", ") + " }";
}

/// The statements of a layer that was built by hand.
std::vector<Statement> canonicalStatements(const Layer &layer) {
  using Kind = Statement::Kind;
  std::vector<Statement> out;
  const auto add = [&](Kind kind, size_t first, size_t count = 1) {
    Statement statement{};
    statement.kind = kind;
    statement.first = static_cast<int>(first);
    statement.count = static_cast<int>(count);
    out.push_back(std::move(statement));
  };
  if (!layer.dims.empty()) add(Kind::Dims, 0, layer.dims.size());
  add(Kind::Tokens, 0);
  if (layer.sync == Sync::Explicit) add(Kind::Sync, 0);
  if (!layer.schedule.empty()) add(Kind::Schedule, 0, layer.schedule.size());
  for (size_t i = 0; i < layer.values.size(); ++i)
    if (layer.values[i].kind != ValueKind::Temp) add(Kind::Value, i);
  for (size_t i = 0; i < layer.phases.size(); ++i) {
    for (size_t e = 0; e < layer.events.size(); ++e)
      if (layer.producer(layer.events[e].to) == &layer.phases[i]) add(Kind::Event, e);
    add(Kind::Phase, i);
  }
  if (!layer.returns.empty()) add(Kind::Return, 0);
  return out;
}

/// The statements of a layer in explicit form: the written events give way to `events`, each before its reader's phase.
std::vector<Statement> explicitStatements(const Layer &layer, std::vector<Statement> statements,
                                          const ExplicitEvents &events) {
  using Kind = Statement::Kind;
  std::vector<Statement> out;
  Lines orphans; // comments of events that go
  bool has_sync = false;
  for (const Statement &statement : statements) has_sync |= statement.kind == Kind::Sync;
  for (Statement &statement : statements) {
    if (statement.kind == Kind::Event) {
      orphans.insert(orphans.end(), statement.trivia.before.begin(), statement.trivia.before.end());
      if (!statement.trivia.after.empty()) orphans.push_back(statement.trivia.after);
      continue;
    }
    statement.trivia.before.insert(statement.trivia.before.begin(), orphans.begin(), orphans.end());
    orphans.clear();
    for (size_t e = 0; statement.kind == Kind::Phase && e < events.events.size(); ++e) {
      if (layer.producer(events.events[e].to) != &layer.phases[statement.first]) continue;
      Statement event{};
      event.kind = Kind::Event;
      event.first = static_cast<int>(e);
      event.trivia.before.swap(statement.trivia.before); // comments and blank lines stay above the first of the group
      if (e < events.comments.size() && !events.comments[e].empty()) event.trivia.after = "// " + events.comments[e];
      out.push_back(std::move(event));
    }
    out.push_back(std::move(statement));
    if (has_sync || out.back().kind != Kind::Tokens) continue;
    Statement sync{};
    sync.kind = Kind::Sync;
    out.push_back(std::move(sync));
  }
  return out;
}

class LayerPrinter {
public:
  LayerPrinter(const Layer &layer, const ExplicitEvents *explicit_events) : layer_(layer), events_(layer.events) {
    statements_ = layer.statements.empty() ? canonicalStatements(layer) : layer.statements;
    sync_ = layer.sync;
    if (explicit_events) {
      statements_ = explicitStatements(layer, std::move(statements_), *explicit_events);
      events_ = explicit_events->events;
      sync_ = Sync::Explicit;
    }
  }

  std::string run() {
    measure();
    comments(layer_.head.before, "");
    line("layer @" + layer_.name + " {", layer_.head.after);
    for (const Statement &statement : statements_) {
      comments(statement.trivia.before, "  ");
      line("  " + text(statement), statement.trivia.after);
    }
    comments(layer_.tail.before, "  ");
    line("}", layer_.tail.after);
    return std::move(out_);
  }

private:
  void comments(const Lines &lines, const char *indent) {
    for (const std::string &comment : lines) out_ += comment.empty() ? "\n" : indent + comment + "\n";
  }
  void line(const std::string &text, const std::string &comment) {
    out_ += text + (comment.empty() ? "" : "  " + comment) + "\n";
  }

  void measure() {
    for (const Statement &statement : statements_) {
      if (statement.kind == Statement::Kind::Value)
        name_width_ = std::max(name_width_, layer_.values[statement.first].name.size() + 1);
      if (statement.kind != Statement::Kind::Phase) continue;
      const Phase &phase = layer_.phases[statement.first];
      result_width_ = std::max(result_width_, results(phase).size());
      op_width_ = std::max(op_width_, std::string_view(name(phase.op)).size());
    }
    for (size_t i = 0; i < layer_.schedule.size(); ++i) { // set by `wo { split }` when no schedule statement has it
      bool covered = false;
      for (const Statement &s : statements_)
        covered |= s.kind == Statement::Kind::Schedule && static_cast<int>(i) >= s.first &&
                   static_cast<int>(i) < s.first + s.count;
      if (!covered && layer_.schedule[i].first == "wo_split") split_ = layer_.schedule[i].second;
    }
  }

  std::string valueName(ValueId id) const {
    const bool known = id >= 0 && id < static_cast<ValueId>(layer_.values.size());
    return known ? "%" + layer_.values[id].name : "%?";
  }

  std::string text(const Statement &statement) const {
    switch (statement.kind) {
    case Statement::Kind::Dims: {
      Lines parts;
      for (int i = statement.first; i < statement.first + statement.count; ++i)
        parts.push_back(layer_.dims[i].first + " = " + std::to_string(layer_.dims[i].second));
      return "dims     " + join(parts, ", ");
    }
    case Statement::Kind::Schedule: {
      Lines parts;
      for (int i = statement.first; i < statement.first + statement.count; ++i)
        parts.push_back(layer_.schedule[i].first + " = " + layer_.schedule[i].second);
      return "schedule " + join(parts, ", ");
    }
    case Statement::Kind::Tokens: {
      const std::string most = std::to_string(layer_.tokens_max);
      return "tokens   " +
             (layer_.tokens_min == layer_.tokens_max ? most : std::to_string(layer_.tokens_min) + ".." + most);
    }
    case Statement::Kind::Sync: return std::string("sync     ") + name(sync_);
    case Statement::Kind::Value: return declaration(layer_.values[statement.first]);
    case Statement::Kind::Phase: return phaseText(layer_.phases[statement.first]);
    case Statement::Kind::Event: {
      const EventStmt &event = events_[statement.first];
      return std::string("event ") + name(event.kind) + " " + valueName(event.from) + " -> " + valueName(event.to);
    }
    case Statement::Kind::Return: {
      Lines parts;
      for (ValueId id : layer_.returns) parts.push_back(valueName(id));
      return "return " + join(parts, ", ");
    }
    }
    return "";
  }

  std::string declaration(const Value &value) const {
    const char *keyword = value.kind == ValueKind::Input   ? "in     "
                          : value.kind == ValueKind::Cache ? "cache  "
                                                           : "weight ";
    return keyword + padded("%" + value.name, name_width_) + " : " + declarationType(value);
  }

  std::string results(const Phase &phase) const {
    Lines parts;
    for (ValueId id : phase.results) {
      parts.push_back(valueName(id));
      const Value &value = layer_.values[id];
      if (value.annotated || value.dtype != defaultDType(phase.op))
        parts.back() += std::string(" : ") + name(value.dtype);
    }
    return join(parts, ", ");
  }

  std::string phaseText(const Phase &phase) const {
    Lines operands;
    for (ValueId id : phase.operands) operands.push_back(valueName(id));
    const std::string head =
        padded(results(phase), result_width_) + " = " + padded(name(phase.op), op_width_) + " " + join(operands, ", ");
    const Lines words =
        std::visit([&](const auto &attrs) { return attributeWords(attrs, &layer_, split_); }, phase.attrs);
    if (words.empty()) return head;
    const std::string whole = head + " { " + join(words, ", ") + " }";
    if (whole.size() + 2 <= kLineColumns) return whole;
    std::string text = head + " {\n   ", row;
    for (size_t i = 0; i < words.size(); ++i) {
      const std::string word = words[i] + (i + 1 < words.size() ? "," : "");
      if (!row.empty() && 4 + row.size() + 1 + word.size() > kLineColumns) {
        text += row + "\n   ";
        row.clear();
      }
      row += " " + word;
    }
    return text + row + "\n  }";
  }

  const Layer &layer_;
  std::vector<Statement> statements_;
  std::vector<EventStmt> events_;
  Sync sync_ = Sync::Auto;
  std::string split_; // wo's `split` attribute
  size_t name_width_ = 0, result_width_ = 0, op_width_ = 0;
  std::string out_;
};

// ---- stacks
// ----------------------------------------------------------------------------------------------------------

bool quiet(const Trivia &trivia) { return trivia.before.empty() && trivia.after.empty(); }

bool quiet(const std::vector<StackItem> &items) {
  return std::all_of(items.begin(), items.end(),
                     [](const StackItem &item) { return quiet(item.head) && quiet(item.tail) && quiet(item.items); });
}

std::string itemHead(const StackItem &item) {
  if (item.layer.empty()) return "repeat(" + std::to_string(item.count) + ") {";
  return "@" + item.layer + (item.count == 1 ? "" : " * " + std::to_string(item.count));
}

std::string flat(const std::vector<StackItem> &items) {
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    out += (i > 0 ? "; " : "") + itemHead(items[i]);
    if (items[i].layer.empty()) out += " " + flat(items[i].items) + "}";
  }
  return out + (items.empty() ? "" : " ");
}

std::string suffix(const std::string &comment) { return comment.empty() ? "\n" : "  " + comment + "\n"; }

void tall(const std::vector<StackItem> &items, const std::string &indent, std::string &out) {
  for (const StackItem &item : items) {
    for (const std::string &comment : item.head.before) out += comment.empty() ? "\n" : indent + comment + "\n";
    out += indent + itemHead(item) + suffix(item.head.after);
    if (!item.layer.empty()) continue;
    tall(item.items, indent + "  ", out);
    for (const std::string &comment : item.tail.before) out += comment.empty() ? "\n" : indent + "  " + comment + "\n";
    out += indent + "}" + suffix(item.tail.after);
  }
}

std::string stackText(const Stack &stack) {
  std::string out;
  for (const std::string &comment : stack.head.before) out += comment + "\n";
  const std::string line = "stack @" + stack.name + " { " + flat(stack.items) + "}";
  if (quiet(stack.items) && stack.tail.before.empty() && stack.head.after.empty() && line.size() <= kLineColumns)
    return out + line + suffix(stack.tail.after);
  out += "stack @" + stack.name + " {" + suffix(stack.head.after);
  tall(stack.items, "  ", out);
  for (const std::string &comment : stack.tail.before) out += comment.empty() ? "\n" : "  " + comment + "\n";
  return out + "}" + suffix(stack.tail.after);
}

} // namespace

std::string realText(double value) {
  char buffer[64];
  const auto [end, error] = std::to_chars(buffer, buffer + sizeof buffer, value);
  if (error != std::errc()) return "0";
  std::string text(buffer, end);
  const size_t exponent = text.find('e'); // "1e-06" to "1e-6"
  if (exponent == std::string::npos) return text;
  size_t digits = exponent + 1 + (text[exponent + 1] == '-' || text[exponent + 1] == '+');
  while (digits + 1 < text.size() && text[digits] == '0') text.erase(digits, 1);
  return text;
}

std::string typeText(const Value &value) {
  if (value.kind == ValueKind::Cache) return std::string(name(value.cache.dtype)) + " cache";
  return elementText(value) + extents(value, /*as_written=*/false);
}

std::string print(const Module &module, const PrintOptions &options) {
  std::vector<bool> order = module.order;
  if (order.size() != module.layers.size() + module.stacks.size()) {
    order.assign(module.layers.size(), false);
    order.insert(order.end(), module.stacks.size(), true);
  }
  std::string out;
  size_t layer = 0, stack = 0;
  for (bool is_stack : order) {
    if (!out.empty()) out += "\n";
    if (is_stack) {
      out += stackText(module.stacks[stack++]);
      continue;
    }
    const ExplicitEvents *events = nullptr;
    for (const ExplicitEvents &candidate : options.explicit_events)
      if (candidate.layer == static_cast<int>(layer)) events = &candidate;
    out += LayerPrinter(module.layers[layer++], events).run();
  }
  if (!module.tail.empty()) out += "\n";
  for (const std::string &comment : module.tail) out += comment + "\n";
  return out;
}

} // namespace phasec::ir
