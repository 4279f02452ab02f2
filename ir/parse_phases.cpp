// parse_phases.cpp: phases, attribute lists, events and returns.
#include "ir/parser_impl.h"

#include <limits>

namespace phasec::ir {

namespace {
struct OpWord {
  Op op;
  const char *name;
};
constexpr OpWord kOps[] = {
#define PHASEC_OP(id, ...) {Op::id, #id},
#include "ops.def"
};

Attrs defaultAttrs(Op op) {
  switch (op) {
  case Op::embed: return EmbedAttrs{};
  case Op::norm: return NormAttrs{};
  case Op::qkv: return QkvAttrs{};
  case Op::attn: return AttnAttrs{};
  case Op::wo: return WoAttrs{};
  case Op::gather: return GatherAttrs{};
  case Op::fc1: return Fc1Attrs{};
  case Op::fc2: return Fc2Attrs{};
  case Op::head: return HeadAttrs{};
  case Op::argmax: return ArgmaxAttrs{};
  }
  return WoAttrs{};
}
} // namespace

/// Walks the rows of attributes.h and takes each from the attributes as written. Defined here and not in the header:
/// the two files that fill attributes instantiate through Parser::fill below.
class AttrReader {
public:
  AttrReader(Parser &parser, std::vector<RawAttr> &raw) : parser_(parser), raw_(raw) {}

  void ignored(const char *name) {
    if (RawAttr *attr = find(name); attr && attr->value) wrong(*attr, "no value: write `" + std::string(name) + "`");
  }
  void flag(const char *name, bool &out, bool) {
    RawAttr *attr = find(name);
    if (!attr) return;
    if (attr->value) return wrong(*attr, "no value: write `" + std::string(name) + "`");
    out = true;
  }
  void real(const char *name, double &out, bool) {
    RawAttr *attr = find(name);
    if (!attr) return;
    if (!attr->value || !(attr->value->kind == Tok::Integer || attr->value->kind == Tok::Real))
      return wrong(*attr, "a number");
    out = attr->negative ? -attr->value->real : attr->value->real;
  }
  void integer(const char *name, int &out, bool) {
    RawAttr *attr = find(name);
    if (!attr) return;
    if (!attr->value || attr->value->kind != Tok::Integer || attr->negative ||
        attr->value->integer > std::numeric_limits<int>::max())
      return wrong(*attr, "an integer from 0 to " + std::to_string(std::numeric_limits<int>::max()));
    out = static_cast<int>(attr->value->integer);
  }
  template <class Enum> void word(const char *attr_name, Enum &out, int count, bool) {
    RawAttr *attr = find(attr_name);
    if (!attr) return;
    std::vector<std::string> words;
    for (int i = 0; i < count; ++i) {
      words.emplace_back(name(static_cast<Enum>(i)));
      if (!isWord(*attr, words.back())) continue;
      out = static_cast<Enum>(i);
      return;
    }
    wrong(*attr, listWords(words), words);
  }
  void choice(const char *name, bool &out, const char *word, bool) {
    RawAttr *attr = find(name);
    if (!attr || isWord(*attr, "none")) return;
    if (!isWord(*attr, word)) return wrong(*attr, std::string(word) + " or none", {word, "none"});
    out = true;
  }
  void value(const char *name, ValueId &out, bool) {
    RawAttr *attr = find(name);
    if (!attr) return;
    if (!attr->value || attr->value->kind != Tok::Percent) return wrong(*attr, "a value (%name)");
    out = parser_.use(*attr->value);
  }
  void knob(const char *name, const char *knob_name) {
    RawAttr *attr = find(name);
    if (!attr) return;
    if (!attr->value || attr->value->kind != Tok::Integer || attr->negative) return wrong(*attr, "an integer");
    parser_.addKnob(knob_name, attr->name.range, attr->value->text, attr->value->range);
  }

  /// Names this list accepts, for messages about those it does not.
  const std::vector<std::string> &known() const { return known_; }

private:
  RawAttr *find(const char *name) {
    known_.emplace_back(name);
    RawAttr *found = nullptr;
    for (RawAttr &attr : raw_) {
      if (attr.name.text != name) continue;
      if (found)
        parser_.error(attr.name.range, "attribute '" + std::string(name) + "' is given twice")
            .note(found->name.range, "the first is here");
      else
        found = &attr;
      attr.used = true;
    }
    return found;
  }
  static bool isWord(const RawAttr &attr, std::string_view word) {
    return attr.value && !attr.negative && attr.value->kind == Tok::Word && attr.value->text == word;
  }
  void wrong(const RawAttr &attr, std::string expected, const std::vector<std::string> &words = {}) {
    std::string text = "attribute '" + std::string(attr.name.text) + "' takes " + expected;
    if (attr.value) text += didYouMean(attr.value->text, words);
    parser_.error(attr.value ? attr.value->range : attr.name.range, text);
  }

  Parser &parser_;
  std::vector<RawAttr> &raw_;
  std::vector<std::string> known_;
};

template <class Attributes> void Parser::fill(Attributes &attrs, std::vector<RawAttr> &raw, const std::string &owner) {
  AttrReader reader(*this, raw);
  attributes(attrs, reader);
  for (const RawAttr &attr : raw) {
    if (attr.used) continue;
    if (diagnostics_.full()) return;
    std::string text = "unknown attribute '" + std::string(attr.name.text) + "' of " + owner;
    text += didYouMean(attr.name.text, reader.known());
    if (reader.known().empty())
      text += "; it has none";
    else
      text += " (it has " + listWords(reader.known(), " and ") + ")";
    error(attr.name.range, text);
  }
}
template void Parser::fill(WeightType &, std::vector<RawAttr> &, const std::string &);
template void Parser::fill(CacheType &, std::vector<RawAttr> &, const std::string &);

void Parser::fillPhase(Phase &phase, std::vector<RawAttr> &raw) {
  for (const RawAttr &attr : raw) phase.attr_ranges.emplace_back(std::string(attr.name.text), attr.name.range);
  const std::string owner = "`" + std::string(name(phase.op)) + "`";
  std::visit([&](auto &attrs) { fill(attrs, raw, owner); }, phase.attrs);
  auto *qkv = std::get_if<QkvAttrs>(&phase.attrs);
  if (!qkv || qkv->rope == kNone || qkv->rotary != 0) return;
  const std::vector<int64_t> &table = layer_->values[qkv->rope].shape; // without `rotary` the table says it
  if (table.size() == 2 && table[1] <= std::numeric_limits<int>::max()) qkv->rotary = static_cast<int>(table[1]);
}

bool Parser::rawAttributes(Tok close, std::vector<RawAttr> &out) {
  while (!accept(close)) {
    RawAttr attr;
    attr.name = cur();
    if (!is(Tok::Word)) return expected(std::string("an attribute or ") + spell(close));
    advance();
    if (accept(Tok::Equal)) {
      attr.negative = accept(Tok::Minus);
      if (!(is(Tok::Word) || is(Tok::Percent) || is(Tok::Integer) || is(Tok::Real)))
        return expected("the value of '" + std::string(attr.name.text) + "'");
      attr.value = cur();
      advance();
    }
    out.push_back(attr);
    if (is(close) || accept(Tok::Comma)) continue;
    return expected(std::string("',' or ") + spell(close) + " behind the attribute");
  }
  return true;
}

ValueId Parser::use(const Token &token) {
  const auto known = names_.find(token.text);
  if (known != names_.end()) return known->second;
  if (undefined_.count(token.text) || diagnostics_.full()) return kNone; // reported once
  std::vector<std::string> candidates;
  for (const auto &entry : names_) candidates.push_back(entry.first);
  undefined_.emplace(token.text, diagnostics_.size());
  error(token.range, "%" + std::string(token.text) + " is not defined" + didYouMean(token.text, candidates, "%"));
  return kNone;
}

bool Parser::resultList(std::vector<Token> &names, std::vector<Value> &values) {
  do {
    names.push_back(cur());
    values.emplace_back();
    if (!is(Tok::Percent)) {
      names.pop_back();
      values.pop_back();
      return expected("a result (%name)");
    }
    advance();
    if (!accept(Tok::Colon)) continue;
    if (!dtypeWord(values.back().dtype)) return false;
    values.back().annotated = true;
    if (is(Tok::LBracket)) {
      error(cur().range, "a result is annotated with a dtype only; its shape follows from the operation");
      return false;
    }
  } while (accept(Tok::Comma));
  return expect(Tok::Equal, "between results and operation");
}

bool Parser::opNamed(std::string_view word, Op &op) {
  for (const OpWord &row : kOps) {
    if (word != row.name) continue;
    op = row.op;
    return true;
  }
  return false;
}

bool Parser::opName(Op &op) {
  if (!is(Tok::Word)) return expected("an operation");
  if (opNamed(cur().text, op)) {
    advance();
    return true;
  }
  std::vector<std::string> known;
  for (const OpWord &row : kOps) known.emplace_back(row.name);
  error(cur().range, "unknown operation '" + std::string(cur().text) + "'; operations are " +
                         listWords(known, " and ") + didYouMean(cur().text, known));
  return false;
}

bool Parser::operandList(Phase &phase) {
  do {
    if (!is(Tok::Percent)) return expected("an operand (%name)");
    phase.operand_ranges.push_back(cur().range);
    phase.operands.push_back(use(cur()));
    advance();
  } while (accept(Tok::Comma));
  return true;
}

bool Parser::phase() {
  const uint32_t begin = cur().range.begin;
  std::vector<Token> names;
  std::vector<Value> values;
  Phase phase{};
  bool ok = resultList(names, values);
  if (ok) {
    phase.op_range = cur().range;
    ok = opName(phase.op);
  }
  const bool known_op = ok;
  phase.attrs = defaultAttrs(phase.op);
  ok = ok && operandList(phase);
  std::vector<RawAttr> raw;
  if (ok && accept(Tok::LBrace)) {
    ok = rawAttributes(Tok::RBrace, raw);
    if (ok) fillPhase(phase, raw);
  }
  if (ok && is(Tok::Percent) && !cur().first_on_line) ok = expected("',' between operands");
  phase.range = since(begin);
  // Results exist even behind an error, so that it is one error and not one per use.
  const std::vector<int64_t> shape = known_op ? resultShape(*layer_, phase) : std::vector<int64_t>();
  for (size_t i = 0; i < names.size(); ++i) {
    if (!values[i].annotated) values[i].dtype = defaultDType(phase.op);
    values[i].shape = shape;
    phase.results.push_back(define(names[i], std::move(values[i])));
  }
  if (ok) layer_->phases.push_back(std::move(phase));
  return ok;
}

bool Parser::event() {
  const uint32_t begin = cur().range.begin;
  advance();
  if (layer_->events.size() >= kValuesMax) {
    error(previous().range, "a layer has at most " + std::to_string(kValuesMax) + " events");
    return false;
  }
  EventStmt event{};
  if (isWord("grid"))
    event.kind = EventKind::Grid;
  else if (isWord("counter"))
    event.kind = EventKind::Counter;
  else
    return expected("'grid' or 'counter' behind `event`");
  advance();
  PendingEvent pending{layer_->events.size(), cur(), {}};
  if (!expect(Tok::Percent, "as the value that the event waits for")) return false;
  if (!expect(Tok::Arrow, "between the two values")) return false;
  pending.to = cur();
  if (!expect(Tok::Percent, "as the result of the phase that waits")) return false;
  event.range = since(begin);
  event.from = event.to = kNone;
  layer_->events.push_back(event);
  pending_events_.push_back(pending); // `to` is defined further down
  return true;
}

void Parser::resolveEvents() {
  for (const PendingEvent &pending : pending_events_) {
    layer_->events[pending.index].from = use(pending.from);
    layer_->events[pending.index].to = use(pending.to);
  }
}

bool Parser::returns() {
  const Token keyword = cur();
  advance();
  if (has_return_) {
    error(keyword.range, "a second `return`; list all results in one: return %a, %b");
    return false;
  }
  has_return_ = true;
  do {
    if (!is(Tok::Percent)) return expected("a value to return (%name)");
    layer_->return_ranges.push_back(cur().range);
    layer_->returns.push_back(use(cur()));
    advance();
  } while (accept(Tok::Comma));
  return true;
}

} // namespace phasec::ir
