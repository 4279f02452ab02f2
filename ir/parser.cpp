// parser.cpp: the file's structure: layers, their header statements, stacks; comments; recovery after errors.
#include "ir/parser_impl.h"

#include <algorithm>

namespace phasec::ir {

namespace {
constexpr size_t kItemsMax = 1024; // layers and stacks of one file
constexpr size_t kDimsMax = 256;
constexpr int kGroupNestingMax = 8;
constexpr std::string_view kStatementWords[] = {"dims",  "tokens", "sync",  "schedule", "in",
                                                "cache", "weight", "event", "return"};

bool isStatementWord(std::string_view word) {
  return std::find(std::begin(kStatementWords), std::end(kStatementWords), word) != std::end(kStatementWords);
}

/// A token as the file has it, for "found ...".
std::string found(const Token &token, std::string_view text) {
  if (token.kind == Tok::End) return "the end of the file";
  return "'" + std::string(text.substr(token.range.begin, token.range.end - token.range.begin)) + "'";
}
} // namespace

Parser::Parser(std::string path, std::string text) {
  module_.path = std::move(path);
  module_.text = std::move(text);
}

Parsed Parser::run() && {
  if (module_.text.size() > kFileBytesMax) {
    error({}, "the file is larger than " + std::to_string(kFileBytesMax >> 20) + " MiB; it cannot be a layer");
    return {std::move(module_), std::move(diagnostics_)};
  }
  Lexed lexed = lex(module_.text, diagnostics_);
  tokens_ = std::move(lexed.tokens);
  comments_ = std::move(lexed.comments);
  while (!is(Tok::End)) {
    Trivia head;
    before(head, false);
    if (isWord("layer")) {
      layer(std::move(head));
    } else if (isWord("stack")) {
      stack(std::move(head));
    } else {
      unexpected("'layer @name {' or 'stack @name {'");
      recoverItem();
    }
    if (diagnostics_.full()) break;
  }
  takeComments(cur().range.begin + 1, module_.tail, false);
  if (module_.layers.empty() && diagnostics_.empty())
    error({0, 0}, "the file has no layer; write: layer @name { ... }");
  return {std::move(module_), std::move(diagnostics_)};
}

// ---- tokens
// ----------------------------------------------------------------------------------------------------------

bool Parser::accept(Tok kind) {
  if (!is(kind)) return false;
  advance();
  return true;
}

bool Parser::expect(Tok kind, std::string_view context) {
  if (accept(kind)) return true;
  return expected(std::string(spell(kind)) + " " + std::string(context));
}

bool Parser::expected(std::string_view what) {
  const bool new_line = cur().first_on_line && at_ > 0;
  if (!new_line || !(startsItem() || startsStatement() || is(Tok::End) || is(Tok::RBrace))) return unexpected(what);
  const uint32_t end = previous().range.end; // what is missing is missing behind the previous line
  error({end, end + 1}, "expected " + std::string(what) +
                            (is(Tok::End) ? ", found the end of the file" : " before the end of this line"));
  return false;
}

bool Parser::unexpected(std::string_view what) {
  if (!is(Tok::Bad)) // the lexer reported that one
    error(cur().range, "expected " + std::string(what) + ", found " + found(cur(), module_.text));
  return false;
}

// ---- comments
// --------------------------------------------------------------------------------------------------------

void Parser::takeComments(uint32_t limit, std::vector<std::string> &out, bool keep_first_blank) {
  for (; next_comment_ < comments_.size() && comments_[next_comment_].range.begin < limit; ++next_comment_) {
    const Comment &comment = comments_[next_comment_];
    if (comment.blank_before && (keep_first_blank || !out.empty())) out.emplace_back();
    out.emplace_back(comment.text);
  }
}

/// The comments on lines of their own before the current token.
void Parser::before(Trivia &trivia, bool keep_first_blank) {
  takeComments(cur().range.begin, trivia.before, keep_first_blank);
  if (cur().blank_before && (keep_first_blank || !trivia.before.empty())) trivia.before.emplace_back();
}

/// The comment behind the previous token. Comments inside the statement move in front of it.
void Parser::after(Trivia &trivia) {
  takeComments(previous().range.begin, trivia.before, false);
  if (next_comment_ >= comments_.size()) return;
  const Comment &comment = comments_[next_comment_];
  if (comment.own_line || comment.line != previous().line || comment.range.begin > cur().range.begin) return;
  trivia.after = std::string(comment.text);
  ++next_comment_;
}

// ---- recovery
// --------------------------------------------------------------------------------------------------------

/// `layer` or `stack` at the beginning of a line: a new item whatever is open.
bool Parser::startsItem() const {
  return (isWord("layer") || isWord("stack")) && peek().kind != Tok::Equal && cur().first_on_line;
}

bool Parser::startsStatement() const {
  if (!cur().first_on_line) return false;
  const Tok next = peek().first_on_line ? Tok::End : peek().kind;
  if (is(Tok::Percent)) return next == Tok::Equal || next == Tok::Comma || next == Tok::Colon || next == Tok::Word;
  return is(Tok::Word) && ((isStatementWord(cur().text) && next != Tok::Equal) || next == Tok::Percent);
}

void Parser::recoverItem() {
  while (!is(Tok::End) && !startsItem()) advance();
}

/// Skips to the next statement of the layer or to its closing brace. Braces that the broken statement opened are its
/// own.
void Parser::recoverStatement(size_t start) {
  int depth = 0;
  for (size_t i = start; i < at_; ++i) {
    if (tokens_[i].kind == Tok::LBrace) ++depth;
    if (tokens_[i].kind == Tok::RBrace) --depth;
  }
  if (at_ == start && !is(Tok::RBrace)) {
    depth += is(Tok::LBrace);
    advance();
  }
  for (; !is(Tok::End) && !startsItem() && !startsStatement(); advance()) {
    if (is(Tok::LBrace)) ++depth;
    if (is(Tok::RBrace) && depth-- <= 0) return;
  }
}

bool Parser::endOfStatement() {
  if (accept(Tok::Semicolon) || is(Tok::RBrace) || is(Tok::End) || cur().first_on_line) return true;
  return expected("the end of the statement (a new line or ';')");
}

// ---- layers
// ----------------------------------------------------------------------------------------------------------

bool Parser::topName(const char *what, std::string &name, Range &range) {
  const Token keyword = cur();
  advance();
  if (!is(Tok::At)) return expected(std::string("@name behind `") + what + "`");
  if (top_names_.size() >= kItemsMax) {
    error(cur().range, "a file has at most " + std::to_string(kItemsMax) + " layers and stacks");
    return false;
  }
  name = std::string(cur().text);
  range = {keyword.range.begin, cur().range.end};
  for (const auto &[known, where] : top_names_)
    if (known == name)
      error(cur().range, "@" + name + " is defined twice; layers and stacks share one set of names")
          .note(where, "the first definition is here");
  top_names_.emplace_back(name, cur().range);
  advance();
  return expect(Tok::LBrace, "behind the name");
}

void Parser::layer(Trivia head) {
  Layer result;
  result.head = std::move(head);
  if (!topName("layer", result.name, result.range)) return recoverItem();
  after(result.head);
  layer_ = &result;
  names_.clear();
  undefined_.clear();
  pending_events_.clear();
  has_tokens_ = has_sync_ = has_return_ = false;
  layerBody();
  finishLayer();
  layer_ = nullptr;
  module_.layers.push_back(std::move(result));
  module_.order.push_back(false);
}

void Parser::layerBody() {
  bool behind_return = false;
  while (true) {
    Trivia trivia;
    before(trivia, !layer_->statements.empty());
    if (is(Tok::RBrace)) {
      if (!trivia.before.empty() && trivia.before.back().empty()) trivia.before.pop_back();
      layer_->tail = std::move(trivia);
      layer_->end_range = cur().range;
      advance();
      after(layer_->tail);
      return;
    }
    if (is(Tok::End) || startsItem()) {
      error(cur().range, "expected '}' to close layer @" + layer_->name).note(layer_->range, "it is opened here");
      return;
    }
    if (diagnostics_.full()) return;
    if (has_return_ && !behind_return) {
      error(cur().range, "`return` is the last statement of a layer; move this before it");
      behind_return = true;
    }
    const size_t start = at_;
    Statement statement{};
    statement.trivia = std::move(trivia);
    if (this->statement(statement) && endOfStatement()) {
      statement.range = since(tokens_[start].range.begin);
      after(statement.trivia);
      layer_->statements.push_back(std::move(statement));
    } else {
      recoverStatement(start);
    }
  }
}

bool Parser::statement(Statement &out) {
  using Kind = Statement::Kind;
  const auto is_kind = [&](Kind kind, size_t next_index) {
    out.kind = kind;
    out.first = static_cast<int>(next_index);
  };
  if (is(Tok::Percent)) return is_kind(Kind::Phase, layer_->phases.size()), phase();
  if (isWord("dims")) return dims(out);
  if (isWord("tokens")) return is_kind(Kind::Tokens, 0), tokens();
  if (isWord("sync")) return is_kind(Kind::Sync, 0), sync();
  if (isWord("schedule")) return schedule(out);
  if (isWord("event")) return is_kind(Kind::Event, layer_->events.size()), event();
  if (isWord("return")) return is_kind(Kind::Return, 0), returns();
  is_kind(Kind::Value, layer_->values.size());
  if (isWord("in")) return declaration(ValueKind::Input);
  if (isWord("weight")) return declaration(ValueKind::Weight);
  if (isWord("cache")) return declaration(ValueKind::Cache);
  if (!is(Tok::Word)) return unexpected("a statement or '}'");
  Op op;
  if (opNamed(cur().text, op)) {
    error(cur().range, "a phase begins with its results: %y = " + std::string(cur().text) + " ...");
    return false;
  }
  std::vector<std::string> words(std::begin(kStatementWords), std::end(kStatementWords));
  std::string text = "unknown statement '" + std::string(cur().text) + "'" + didYouMean(cur().text, words);
  error(cur().range, text + " (statements are " + listWords(words, ", ") + " and phases: %result = op %operands)");
  return false;
}

bool Parser::dims(Statement &out) {
  out.kind = Statement::Kind::Dims;
  out.first = static_cast<int>(layer_->dims.size());
  advance();
  do {
    const Token name = cur();
    if (!expect(Tok::Word, "as the dim's name")) return false;
    if (!expect(Tok::Equal, "behind the dim's name")) return false;
    if (!is(Tok::Integer)) return expected("an integer as the dim's value");
    const int64_t value = cur().integer;
    if (value < 1 || value > kDimMax) {
      error(cur().range, "a dim must be from 1 to " + std::to_string(kDimMax));
      return false;
    }
    if (name.text == "tokens") {
      error(name.range, "'tokens' is not a dim; write: tokens 1..16");
      return false;
    }
    if (layer_->dims.size() >= kDimsMax) {
      error(name.range, "a layer has at most " + std::to_string(kDimsMax) + " dims");
      return false;
    }
    for (size_t i = 0; i < layer_->dims.size(); ++i)
      if (layer_->dims[i].first == name.text)
        error(name.range, "dim '" + std::string(name.text) + "' is given twice")
            .note(layer_->dim_ranges[i], "here first");
    layer_->dims.emplace_back(name.text, value);
    layer_->dim_ranges.push_back({name.range.begin, cur().range.end});
    advance();
  } while (accept(Tok::Comma));
  out.count = static_cast<int>(layer_->dims.size()) - out.first;
  return true;
}

bool Parser::tokens() {
  if (has_tokens_) error(cur().range, "`tokens` is given twice");
  has_tokens_ = true;
  advance();
  if (!is(Tok::Integer)) return expected("the number of tokens, or a range: tokens 1..16");
  const uint32_t begin = cur().range.begin;
  const int64_t low = cur().integer;
  advance();
  int64_t high = low;
  if (accept(Tok::DotDot)) {
    if (!is(Tok::Integer)) return expected("the largest number of tokens");
    high = cur().integer;
    advance();
  }
  if (low < 1 || high < low || high > kTokensMax) {
    error(since(begin), "tokens must lie in 1.." + std::to_string(kTokensMax) +
                            " with the smaller number first; larger steps are split by the host");
    return false;
  }
  layer_->tokens_min = static_cast<int>(low);
  layer_->tokens_max = static_cast<int>(high);
  return true;
}

bool Parser::sync() {
  const Range keyword = cur().range;
  advance();
  if (!isWord("auto") && !isWord("explicit")) return expected("'auto' or 'explicit' behind `sync`");
  if (has_sync_) error(keyword, "`sync` is given twice");
  has_sync_ = true;
  layer_->sync = isWord("auto") ? Sync::Auto : Sync::Explicit;
  advance();
  return true;
}

bool Parser::schedule(Statement &out) {
  out.kind = Statement::Kind::Schedule;
  out.first = static_cast<int>(layer_->schedule.size());
  advance();
  bool ok = true;
  do {
    const Token knob = cur();
    if (!expect(Tok::Word, "as the knob's name")) return false;
    if (!expect(Tok::Equal, "behind the knob's name")) return false;
    if (!is(Tok::Word) && !is(Tok::DigitWord) && !is(Tok::Integer))
      return expected("the value of knob '" + std::string(knob.text) + "'");
    ok = addKnob(knob.text, knob.range, cur().text, cur().range) && ok;
    advance();
  } while (accept(Tok::Comma));
  out.count = static_cast<int>(layer_->schedule.size()) - out.first;
  return ok;
}

bool Parser::addKnob(std::string_view knob, Range knob_range, std::string_view value, Range value_range) {
  for (size_t i = 0; i < layer_->schedule.size(); ++i)
    if (layer_->schedule[i].first == knob)
      error(knob_range, "knob '" + std::string(knob) + "' is set twice").note(layer_->schedule_ranges[i], "here first");
  Schedule scratch;
  const Status status = scratch.set(knob, value, Origin::File);
  if (!status.ok()) {
    const bool known = std::any_of(knobs().begin(), knobs().end(), [&](const KnobInfo &k) { return knob == k.name; });
    error(known ? value_range : knob_range, status.text());
    return false;
  }
  layer_->schedule.emplace_back(knob, scratch.text(knob));
  layer_->schedule_ranges.push_back({knob_range.begin, value_range.end});
  return true;
}

void Parser::finishLayer() {
  resolveEvents();
  for (const auto &[name, diagnostic] : undefined_) {
    const auto later = names_.find(name);
    if (later == names_.end() || diagnostic >= diagnostics_.size()) continue;
    diagnostics_[diagnostic].note(layer_->values[later->second].range,
                                  "it is defined here; a value is defined before it is used");
  }
  if (!has_tokens_)
    error(layer_->range, "layer @" + layer_->name + " does not say how many tokens it takes; write: tokens 1..16");
}

// ---- stacks
// ----------------------------------------------------------------------------------------------------------

void Parser::stack(Trivia head) {
  Stack result;
  result.head = std::move(head);
  if (!topName("stack", result.name, result.range)) return recoverItem();
  after(result.head);
  if (!stackItems(result.items, result.tail, 0)) return recoverItem();
  module_.stacks.push_back(std::move(result));
  module_.order.push_back(true);
}

bool Parser::stackItems(std::vector<StackItem> &out, Trivia &tail, int depth) {
  while (true) {
    Trivia trivia;
    before(trivia, !out.empty());
    if (is(Tok::RBrace)) {
      if (!trivia.before.empty() && trivia.before.back().empty()) trivia.before.pop_back();
      tail = std::move(trivia);
      advance();
      if (depth > 0) accept(Tok::Semicolon);
      after(tail);
      return true;
    }
    StackItem item;
    item.head = std::move(trivia);
    if (!stackItem(item, depth)) return false;
    out.push_back(std::move(item));
  }
}

bool Parser::stackItem(StackItem &item, int depth) {
  item.range = cur().range;
  if (accept(Tok::At)) {
    item.layer = std::string(previous().text);
    if (accept(Tok::Star)) {
      if (!is(Tok::Integer)) return expected("how many times the layer runs: @layer * 3");
      item.count = cur().integer;
      advance();
    }
    item.range = since(item.range.begin);
    if (!endOfStatement()) return false;
    after(item.head);
    return true;
  }
  if (!isWord("repeat")) return expected("@layer, @layer * n, repeat(n) { ... } or '}'");
  if (depth >= kGroupNestingMax) {
    error(cur().range, "repeat groups nest deeper than " + std::to_string(kGroupNestingMax));
    return false;
  }
  advance();
  if (!expect(Tok::LParen, "behind `repeat`")) return false;
  if (!is(Tok::Integer)) return expected("how many times the group runs: repeat(16)");
  item.count = cur().integer;
  advance();
  if (!expect(Tok::RParen, "behind the count")) return false;
  item.range = since(item.range.begin);
  if (is(Tok::At)) { // `repeat(n) @layer` is short for `@layer * n`
    item.layer = std::string(cur().text);
    advance();
    if (!endOfStatement()) return false;
    after(item.head);
    return true;
  }
  if (!expect(Tok::LBrace, "and the group's items, or @layer")) return false;
  after(item.head);
  return stackItems(item.items, item.tail, depth + 1);
}

// ---- entry points
// ----------------------------------------------------------------------------------------------------

Parsed parseAll(std::string path, std::string text) { return Parser(std::move(path), std::move(text)).run(); }

Result<Module> parse(std::string path, std::string text) {
  Parsed parsed = parseAll(std::move(path), std::move(text));
  if (!parsed.diagnostics.empty()) return parsed.diagnostics.status(parsed.module.path, parsed.module.text);
  return std::move(parsed.module);
}

} // namespace phasec::ir
