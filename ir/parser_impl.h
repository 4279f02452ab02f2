// parser_impl.h: the recursive-descent parser's state. parser.cpp has the module, layers, stacks and recovery;
// parse_types.cpp declarations and constant expressions; parse_phases.cpp phases, attributes, events and returns.
#pragma once

#include "ir/attributes.h"
#include "ir/lexer.h"
#include "ir/parser.h"
#include "ir/suggest.h"

#include <map>

namespace phasec::ir {

/// One attribute as written: `name`, or `name = value` with a single token as value.
struct RawAttr {
  Token name;
  std::optional<Token> value;
  bool negative = false; ///< a '-' before the value
  bool used = false;
};

class Parser {
public:
  Parser(std::string path, std::string text);
  Parsed run() &&;

private:
  // parser.cpp: tokens
  const Token &cur() const { return tokens_[at_]; }
  const Token &peek(size_t n = 1) const { return tokens_[std::min(at_ + n, tokens_.size() - 1)]; }
  const Token &previous() const { return tokens_[at_ == 0 ? 0 : at_ - 1]; }
  bool is(Tok kind) const { return cur().kind == kind; }
  bool isWord(std::string_view word) const { return is(Tok::Word) && cur().text == word; }
  void advance() { at_ += at_ + 1 < tokens_.size(); }
  bool accept(Tok kind);
  /// Consumes `kind`, or reports "expected ..." and returns false.
  bool expect(Tok kind, std::string_view context);
  /// Reports "expected `what`, found ..." and returns false. What is missing at the end of a line is reported there;
  /// unexpected() always points at the current token.
  bool expected(std::string_view what);
  bool unexpected(std::string_view what);
  Diagnostic &error(Range range, std::string text) { return diagnostics_.error(range, std::move(text)); }
  Range since(uint32_t begin) const { return {begin, previous().range.end}; }

  // parser.cpp: comments
  void takeComments(uint32_t limit, std::vector<std::string> &out, bool keep_first_blank);
  void before(Trivia &trivia, bool keep_first_blank);
  void after(Trivia &trivia);

  // parser.cpp: structure
  bool startsItem() const;
  bool startsStatement() const;
  void recoverItem();
  void recoverStatement(size_t start);
  bool endOfStatement();
  void layer(Trivia head);
  void layerBody();
  bool statement(Statement &out);
  bool dims(Statement &out);
  bool tokens();
  bool sync();
  bool schedule(Statement &out);
  bool addKnob(std::string_view knob, Range knob_range, std::string_view value, Range value_range);
  void finishLayer();
  void stack(Trivia head);
  bool stackItems(std::vector<StackItem> &out, Trivia &tail, int depth);
  bool stackItem(StackItem &item, int depth);
  bool topName(const char *what, std::string &name, Range &range);

  // parse_types.cpp
  struct Constant {
    int64_t value = 1;
    std::string text;
    bool valid = true;
  };
  bool declaration(ValueKind kind);
  bool inputType(Value &value);
  bool weightType(Value &value);
  bool cacheType(Value &value);
  bool shape(Value &value, size_t most);
  bool extent(Value &value);
  bool sum(Constant &out, int depth);
  bool product(Constant &out, int depth);
  bool factor(Constant &out, int depth);
  bool dimReference(Constant &out);
  ValueId define(const Token &name, Value value);
  bool dtypeWord(DType &out);

  // parse_phases.cpp
  bool phase();
  bool resultList(std::vector<Token> &names, std::vector<Value> &values);
  bool opName(Op &op);
  static bool opNamed(std::string_view word, Op &op);
  bool operandList(Phase &phase);
  ValueId use(const Token &name);
  bool rawAttributes(Tok close, std::vector<RawAttr> &out);
  template <class Attributes> void fill(Attributes &attrs, std::vector<RawAttr> &raw, const std::string &owner);
  void fillPhase(Phase &phase, std::vector<RawAttr> &raw);
  bool event();
  bool returns();
  void resolveEvents();
  friend class AttrReader;

  struct PendingEvent {
    size_t index;
    Token from, to;
  };

  Module module_;
  Diagnostics diagnostics_;
  std::vector<Token> tokens_;
  std::vector<Comment> comments_;
  size_t at_ = 0, next_comment_ = 0;

  Layer *layer_ = nullptr; // the one being parsed
  std::map<std::string, ValueId, std::less<>> names_;
  std::map<std::string, size_t, std::less<>> undefined_; // names used without definition, and their diagnostics
  std::vector<PendingEvent> pending_events_;
  bool has_tokens_ = false, has_sync_ = false, has_return_ = false;
  std::vector<std::pair<std::string, Range>> top_names_;
};

} // namespace phasec::ir
