// lexer.cpp: characters to tokens and comments.
#include "ir/lexer.h"

#include <charconv>
#include <cmath>

namespace phasec::ir {

const char *spell(Tok kind) {
  switch (kind) {
  case Tok::End: return "the end of the file";
  case Tok::Bad: return "a valid character";
  case Tok::Word: return "a word";
  case Tok::Percent: return "a value (%name)";
  case Tok::At: return "a name (@name)";
  case Tok::Integer: return "an integer";
  case Tok::Real: return "a number";
  case Tok::DigitWord: return "a word";
  case Tok::LBrace: return "'{'";
  case Tok::RBrace: return "'}'";
  case Tok::LParen: return "'('";
  case Tok::RParen: return "')'";
  case Tok::LBracket: return "'['";
  case Tok::RBracket: return "']'";
  case Tok::Comma: return "','";
  case Tok::Colon: return "':'";
  case Tok::Semicolon: return "';'";
  case Tok::Equal: return "'='";
  case Tok::Plus: return "'+'";
  case Tok::Minus: return "'-'";
  case Tok::Star: return "'*'";
  case Tok::Slash: return "'/'";
  case Tok::Arrow: return "'->'";
  case Tok::DotDot: return "'..'";
  }
  return "";
}

namespace {

// The C library's classification depends on the locale; the language does not.
bool isDigit(char c) { return c >= '0' && c <= '9'; }
bool isNameStart(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool isName(char c) { return isNameStart(c) || isDigit(c); }

class Lexer {
public:
  Lexer(std::string_view text, Diagnostics &diagnostics) : text_(text), diagnostics_(diagnostics) {}

  Lexed run() {
    while (skipBlanks(), at_ < text_.size()) {
      if (text_.substr(at_, 2) == "//")
        comment();
      else
        token();
    }
    push(Tok::End, at_, at_);
    return std::move(out_);
  }

private:
  char peek(size_t ahead = 0) const { return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0'; }

  void skipBlanks() {
    for (; at_ < text_.size(); ++at_) {
      const char c = text_[at_];
      if (c == '\n') {
        ++line_;
        if (++newlines_ > 1) blank_ = true;
      } else if (c != ' ' && c != '\t' && c != '\r') {
        return;
      }
    }
  }

  void comment() {
    const size_t begin = at_;
    while (at_ < text_.size() && text_[at_] != '\n') ++at_;
    size_t end = at_;
    while (end > begin && (text_[end - 1] == ' ' || text_[end - 1] == '\t' || text_[end - 1] == '\r')) --end;
    out_.comments.push_back({range(begin, end), text_.substr(begin, end - begin), line_ != last_line_, blank_, line_});
    afterItem();
  }

  void afterItem() {
    newlines_ = 0;
    blank_ = false;
    last_line_ = line_;
  }

  static Range range(size_t begin, size_t end) { return {static_cast<uint32_t>(begin), static_cast<uint32_t>(end)}; }

  Token &push(Tok kind, size_t begin, size_t end) {
    Token token;
    token.kind = kind;
    token.range = range(begin, end);
    token.text = text_.substr(begin, end - begin);
    token.first_on_line = line_ != last_token_line_;
    token.blank_before = blank_;
    token.line = line_;
    out_.tokens.push_back(token);
    last_token_line_ = line_;
    afterItem();
    return out_.tokens.back();
  }

  void bad(size_t begin, std::string why) {
    diagnostics_.error(range(begin, at_), std::move(why));
    push(Tok::Bad, begin, at_);
  }

  void token() {
    const size_t begin = at_;
    const char c = peek();
    if (isDigit(c)) return number();
    if (isNameStart(c)) return name(Tok::Word, begin);
    if (c == '%' || c == '@') {
      ++at_;
      if (isNameStart(peek())) return name(c == '%' ? Tok::Percent : Tok::At, begin);
      while (static_cast<unsigned char>(peek()) >= 0x80) ++at_; // an accented name is one mistake
      return bad(begin, std::string("expected a name behind '") + c + "'");
    }
    if (c == '-' && peek(1) == '>') return punctuation(Tok::Arrow, 2);
    if (c == '.' && peek(1) == '.') return punctuation(Tok::DotDot, 2);
    constexpr std::string_view kChars = "{}()[],:;=+-*/";
    constexpr Tok kKinds[] = {Tok::LBrace,   Tok::RBrace, Tok::LParen, Tok::RParen,    Tok::LBracket,
                              Tok::RBracket, Tok::Comma,  Tok::Colon,  Tok::Semicolon, Tok::Equal,
                              Tok::Plus,     Tok::Minus,  Tok::Star,   Tok::Slash};
    if (const size_t i = kChars.find(c); i != std::string_view::npos && c != '\0') return punctuation(kKinds[i], 1);
    unexpected();
  }

  void punctuation(Tok kind, size_t size) {
    const size_t begin = at_;
    at_ += size;
    push(kind, begin, at_);
  }

  /// A run of characters that begin no token is one error.
  void unexpected() {
    const size_t begin = at_;
    constexpr std::string_view kKnown = "{}()[],:;=+-*/%@ \t\r\n";
    while (at_ < text_.size() && !isName(peek()) && (kKnown.find(peek()) == std::string_view::npos)) ++at_;
    if (at_ == begin) ++at_;
    bad(begin, "unexpected character; a layer is written in plain ASCII, and comments begin with '//'");
  }

  void name(Tok kind, size_t begin) {
    while (isName(peek())) ++at_;
    const size_t name_begin = kind == Tok::Word ? begin : begin + 1;
    if (at_ - name_begin > kNameMax)
      return bad(begin, "a name has at most " + std::to_string(kNameMax) + " characters");
    push(kind, begin, at_).text = text_.substr(name_begin, at_ - name_begin);
  }

  void number() {
    const size_t begin = at_;
    bool real = false;
    while (isDigit(peek())) ++at_;
    if (peek() == '.' && peek(1) != '.') {
      real = true;
      ++at_;
      while (isDigit(peek())) ++at_;
    }
    if (peek() == 'e' || peek() == 'E') {
      const size_t digit = peek(1) == '+' || peek(1) == '-' ? 2 : 1;
      if (isDigit(peek(digit))) {
        real = true;
        at_ += digit;
        while (isDigit(peek())) ++at_;
      }
    }
    if (isName(peek())) {
      while (isName(peek())) ++at_;
      if (at_ - begin > kNameMax) return bad(begin, "malformed number");
      push(Tok::DigitWord, begin, at_);
      return;
    }
    const char *first = text_.data() + begin, *last = text_.data() + at_;
    int64_t integer = 0;
    double value = 0;
    const std::errc error = real ? std::errc() : std::from_chars(first, last, integer).ec;
    const std::errc real_error = std::from_chars(first, last, value).ec;
    if (error != std::errc() || real_error != std::errc() || !std::isfinite(value))
      return bad(begin, "this number is too large or too small to represent");
    Token &token = push(real ? Tok::Real : Tok::Integer, begin, at_);
    token.integer = integer;
    token.real = value;
  }

  std::string_view text_;
  Diagnostics &diagnostics_;
  Lexed out_;
  size_t at_ = 0;
  int line_ = 1, newlines_ = 0;
  int last_line_ = 0, last_token_line_ = 0; // of the last token or comment; of the last token
  bool blank_ = false;
};

} // namespace

Lexed lex(std::string_view text, Diagnostics &diagnostics) { return Lexer(text, diagnostics).run(); }

} // namespace phasec::ir
