// lexer.h: tokens of a `.phase` file. The whole file is lexed before parsing: files are small, and recovery looks
// ahead.
#pragma once

#include "ir/diagnostics.h"

#include <cstdint>
#include <string_view>
#include <vector>

namespace phasec::ir {

enum class Tok : uint8_t {
  End,
  Bad,     ///< already reported
  Word,    ///< layer, norm, heads, bf16
  Percent, ///< %name; text is the name
  At,      ///< @name; text is the name
  Integer,
  Real,
  DigitWord, ///< 2d: only a knob's value
  LBrace,
  RBrace,
  LParen,
  RParen,
  LBracket,
  RBracket,
  Comma,
  Colon,
  Semicolon,
  Equal,
  Plus,
  Minus,
  Star,
  Slash,
  Arrow,  ///< ->
  DotDot, ///< ..
};

/// "'{'", "a name", "an integer": for "expected ...".
const char *spell(Tok kind);

struct Token {
  Tok kind = Tok::End;
  Range range;
  std::string_view text; ///< of the name or number
  bool first_on_line = false;
  bool blank_before = false; ///< an empty line separates it from what precedes
  int line = 1;
  int64_t integer = 0;
  double real = 0; ///< also set for integers
};

struct Comment {
  Range range;
  std::string_view text; ///< from "//", without trailing blanks
  bool own_line = false; ///< nothing but blanks before it on its line
  bool blank_before = false;
  int line = 1;
};

struct Lexed {
  std::vector<Token> tokens; ///< ends with Tok::End
  std::vector<Comment> comments;
};

/// Names longer than this are refused: they end up in generated identifiers.
inline constexpr size_t kNameMax = 64;
/// A larger file is refused: it is no layer, and positions are 32 bits.
inline constexpr size_t kFileBytesMax = 1u << 20;

/// Lexes `text`, which must outlive the result. Malformed tokens are reported once and become Tok::Bad.
Lexed lex(std::string_view text, Diagnostics &diagnostics);

} // namespace phasec::ir
