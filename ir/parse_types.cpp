// parse_types.cpp: declarations (`in`, `weight`, `cache`), their types, and constant expressions over dims.
#include "ir/parser_impl.h"

namespace phasec::ir {

namespace {

constexpr int kNestingMax = 32;
/// No extent of a decode layer comes near; products of two stay far inside 64 bits.
constexpr int64_t kExtentMax = int64_t{1} << 31;

constexpr DType kDTypes[] = {DType::bf16, DType::f32, DType::fp8_e4m3, DType::i32};
constexpr Format kFormats[] = {
#define PHASEC_FORMAT(id, ...) Format::id,
#include "formats.def"
};

/// The member of `table` with this name, and the table's names for messages.
template <class T, size_t N>
bool lookUp(const T (&table)[N], std::string_view word, T &out, std::vector<std::string> &names) {
  for (T candidate : table) {
    names.emplace_back(name(candidate));
    if (word == name(candidate)) {
      out = candidate;
      return true;
    }
  }
  return false;
}

} // namespace

ValueId Parser::define(const Token &token, Value value) {
  value.name = std::string(token.text);
  value.range = token.range;
  const auto id = static_cast<ValueId>(layer_->values.size());
  const auto [known, fresh] = names_.emplace(value.name, id);
  if (!fresh)
    error(token.range, "%" + value.name + " is defined twice; every value has one definition")
        .note(layer_->values[known->second].range, "the first definition is here");
  if (layer_->values.size() == kValuesMax)
    error(token.range, "a layer has at most " + std::to_string(kValuesMax) + " values");
  layer_->values.push_back(std::move(value));
  return id;
}

bool Parser::declaration(ValueKind kind) {
  advance(); // in | weight | cache
  const Token name_token = cur();
  if (!expect(Tok::Percent, "as the declared name")) return false;
  Value value;
  value.kind = kind;
  bool ok = expect(Tok::Colon, "and a type behind the name");
  if (ok)
    ok = kind == ValueKind::Input ? inputType(value) : kind == ValueKind::Weight ? weightType(value) : cacheType(value);
  define(name_token, std::move(value)); // even when its type is wrong: its uses are not errors too
  return ok;
}

bool Parser::dtypeWord(DType &out) {
  if (!is(Tok::Word)) return expected("a dtype (bf16, f32, fp8_e4m3 or i32)");
  std::vector<std::string> known;
  if (!lookUp(kDTypes, cur().text, out, known)) {
    error(cur().range, "unknown dtype '" + std::string(cur().text) + "'; dtypes are " + listWords(known, " and ") +
                           didYouMean(cur().text, known));
    return false;
  }
  advance();
  return true;
}

bool Parser::inputType(Value &value) { return dtypeWord(value.dtype) && shape(value, 2); }

bool Parser::weightType(Value &value) {
  if (!is(Tok::Word)) return expected("a weight format");
  const Token word = cur();
  std::vector<std::string> known;
  const bool is_format = lookUp(kFormats, word.text, value.weight.format, known);
  std::vector<std::string> dtypes;
  const bool is_dtype = lookUp(kDTypes, word.text, value.dtype, dtypes);
  if (!is_format && !is_dtype) {
    error(word.range, "unknown weight format '" + std::string(word.text) + "'; formats are " +
                          listWords(known, " and ") + ", and bf16 or f32 for vectors" + didYouMean(word.text, known));
    return false;
  }
  advance();
  if (!shape(value, 2)) return false;
  const bool vector = value.shape.size() == 1;
  if (vector && !(is_dtype && (value.dtype == DType::bf16 || value.dtype == DType::f32))) {
    error(word.range, "a weight of one extent (gamma, bias) is bf16 or f32, not " + std::string(word.text));
    return false;
  }
  if (!vector && !is_format) {
    error(word.range, "a weight matrix is " + listWords(known) + ", not " + std::string(word.text));
    return false;
  }
  if (!is(Tok::LBrace)) return true;
  std::vector<RawAttr> raw;
  advance();
  if (!rawAttributes(Tok::RBrace, raw)) return false;
  WeightType plain; // a vector has no attributes: bf16 accepts none
  fill(vector ? plain : value.weight, raw, "a " + std::string(word.text) + (vector ? " vector" : " weight"));
  return true;
}

bool Parser::cacheType(Value &value) {
  const Range dtype_range = cur().range;
  if (!dtypeWord(value.cache.dtype)) return false;
  if (value.cache.dtype != DType::bf16 && value.cache.dtype != DType::fp8_e4m3) {
    error(dtype_range, std::string("a cache is bf16 or fp8_e4m3, not ") + name(value.cache.dtype));
    return false;
  }
  value.dtype = value.cache.dtype;
  if (!isWord("paged")) return expected("'paged(...)'; caches are paged");
  advance();
  if (!accept(Tok::LParen)) return expected("'(' and the page size: paged(page = 64)");
  std::vector<RawAttr> raw;
  if (!rawAttributes(Tok::RParen, raw)) return false;
  fill(value.cache, raw, "a cache");
  return true;
}

bool Parser::shape(Value &value, size_t most) {
  const uint32_t begin = cur().range.begin;
  if (!expect(Tok::LBracket, "and the shape")) return false;
  do {
    if (!extent(value)) return false;
  } while (accept(Tok::Comma));
  if (!expect(Tok::RBracket, "or ',' in the shape")) return false;
  if (value.shape.size() > most) {
    error(since(begin),
          "a shape has at most " + std::to_string(most) + " extents, not " + std::to_string(value.shape.size()));
    return false;
  }
  return true;
}

bool Parser::extent(Value &value) {
  if (isWord("tokens") && (peek().kind == Tok::Comma || peek().kind == Tok::RBracket)) {
    advance();
    value.shape.push_back(kTokensExtent);
    value.shape_text.emplace_back("tokens");
    return true;
  }
  const uint32_t begin = cur().range.begin;
  Constant constant;
  if (!sum(constant, 0)) return false;
  if (constant.valid && (constant.value < 1 || constant.value > kExtentMax)) {
    error(since(begin),
          "an extent must be from 1 to " + std::to_string(kExtentMax) + ", not " + std::to_string(constant.value));
    constant.valid = false;
  }
  value.shape.push_back(constant.valid ? constant.value : 1);
  value.shape_text.push_back(std::move(constant.text));
  return true;
}

bool Parser::sum(Constant &out, int depth) {
  const uint32_t begin = cur().range.begin;
  if (!product(out, depth)) return false;
  while (is(Tok::Plus) || is(Tok::Minus)) {
    const bool plus = is(Tok::Plus);
    advance();
    Constant right;
    if (!product(right, depth)) return false;
    const bool was_valid = out.valid && right.valid;
    int64_t value = 0;
    const bool overflow = plus ? __builtin_add_overflow(out.value, right.value, &value)
                               : __builtin_sub_overflow(out.value, right.value, &value);
    if (was_valid && overflow) error(since(begin), "this sum does not fit 64 bits");
    out.valid = was_valid && !overflow;
    out.value = out.valid ? value : 1;
    out.text += (plus ? " + " : " - ") + right.text;
  }
  return true;
}

bool Parser::product(Constant &out, int depth) {
  const uint32_t begin = cur().range.begin;
  if (!factor(out, depth)) return false;
  while (is(Tok::Star) || is(Tok::Slash)) {
    const bool times = is(Tok::Star);
    advance();
    Constant right;
    if (!factor(right, depth)) return false;
    out.text += (times ? " * " : " / ") + right.text;
    if (!(out.valid && right.valid)) {
      out.valid = false;
      continue;
    }
    if (times) {
      out.valid = !__builtin_mul_overflow(out.value, right.value, &out.value);
      if (!out.valid) error(since(begin), "this product does not fit 64 bits");
    } else if (right.value == 0 || right.value == -1 || out.value % right.value != 0) {
      out.valid = right.value == -1 && out.value != INT64_MIN;
      if (!out.valid)
        error(since(begin), std::to_string(out.value) + " / " + std::to_string(right.value) +
                                " is not a whole number; extents divide without remainder");
      else
        out.value = -out.value;
    } else {
      out.value /= right.value;
    }
    if (!out.valid) out.value = 1;
  }
  return true;
}

bool Parser::factor(Constant &out, int depth) {
  if (depth > kNestingMax) {
    error(cur().range, "parentheses nest deeper than " + std::to_string(kNestingMax));
    return false;
  }
  if (is(Tok::Integer)) {
    out.value = cur().integer;
    out.text = std::to_string(out.value);
    advance();
    return true;
  }
  if (is(Tok::Word)) return dimReference(out);
  if (accept(Tok::LParen)) {
    if (!sum(out, depth + 1)) return false;
    out.text = "(" + out.text + ")";
    return expect(Tok::RParen, "to close the parenthesis");
  }
  return expected("an integer, a dim or '('");
}

bool Parser::dimReference(Constant &out) {
  const Token word = cur();
  advance();
  out.text = std::string(word.text);
  out.value = layer_->dim(word.text);
  if (out.value != 0) return true;
  out.valid = false;
  out.value = 1;
  if (word.text == "tokens") {
    error(word.range,
          "`tokens` is the first extent by itself, not part of an expression: its value is known at launch");
    return true;
  }
  std::vector<std::string> known;
  for (const auto &dim : layer_->dims) known.push_back(dim.first);
  Diagnostic &diagnostic = error(word.range, "unknown dim '" + out.text + "'" + didYouMean(word.text, known));
  if (nearest(word.text, known).empty()) diagnostic.text += "; declare it: dims " + out.text + " = ...";
  return true;
}

} // namespace phasec::ir
