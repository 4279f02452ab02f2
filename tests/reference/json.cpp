// Recursive descent over RFC 8259, with a depth limit.
#include "tests/reference/json.h"

#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace phasec_reference {

namespace {

constexpr int kDepthLimit = 64;

class Parser {
public:
  explicit Parser(const std::string &text) : text_(text) {}

  bool document(Json *out) {
    if (!value(out, 0)) return false;
    skipSpace();
    return at_ == text_.size();
  }

  size_t at() const { return at_; }

private:
  void skipSpace() {
    while (at_ < text_.size() && std::strchr(" \t\r\n", text_[at_]) && text_[at_] != '\0') ++at_;
  }

  // Skips space, then takes the character if it is next.
  bool take(char wanted) {
    skipSpace();
    if (at_ >= text_.size() || text_[at_] != wanted) return false;
    ++at_;
    return true;
  }

  bool word(const char *wanted) {
    size_t length = std::strlen(wanted);
    if (text_.compare(at_, length, wanted) != 0) return false;
    at_ += length;
    return true;
  }

  bool value(Json *out, int depth) {
    skipSpace();
    if (at_ >= text_.size() || depth > kDepthLimit) return false;
    switch (text_[at_]) {
    case '{':
      return object(out, depth);
    case '[':
      return array(out, depth);
    case '"':
      out->kind = Json::Kind::kString;
      return string(&out->string);
    case 't':
    case 'f':
      out->kind = Json::Kind::kBool;
      out->boolean = text_[at_] == 't';
      return word(out->boolean ? "true" : "false");
    case 'n':
      return word("null");
    default:
      return number(out);
    }
  }

  bool object(Json *out, int depth) {
    out->kind = Json::Kind::kObject;
    ++at_;
    if (take('}')) return true;
    do {
      std::string key;
      skipSpace();
      if (at_ >= text_.size() || text_[at_] != '"' || !string(&key) || !take(':')) return false;
      auto [place, inserted] = out->object.try_emplace(key);
      if (!inserted || !value(&place->second, depth + 1)) return false;
    } while (take(','));
    return take('}');
  }

  bool array(Json *out, int depth) {
    out->kind = Json::Kind::kArray;
    ++at_;
    if (take(']')) return true;
    do {
      out->array.emplace_back();
      if (!value(&out->array.back(), depth + 1)) return false;
    } while (take(','));
    return take(']');
  }

  bool number(Json *out) {
    size_t end = at_;
    while (end < text_.size() && text_[end] != '\0' && std::strchr("+-.0123456789eE", text_[end])) ++end;
    out->kind = Json::Kind::kNumber;
    auto result = std::from_chars(text_.data() + at_, text_.data() + end, out->number);
    if (result.ec != std::errc() || result.ptr != text_.data() + end || end == at_) return false;
    at_ = end;
    return true;
  }

  bool string(std::string *out) {
    for (++at_; at_ < text_.size() && text_[at_] != '"'; ++at_) {
      if (static_cast<unsigned char>(text_[at_]) < 0x20) return false;
      if (text_[at_] != '\\')
        out->push_back(text_[at_]);
      else if (!escape(out))
        return false;
    }
    return at_ < text_.size() && text_[at_++] == '"';
  }

  // Leaves at_ on the last character of the escape. Surrogates are refused: names in plans are identifiers.
  bool escape(std::string *out) {
    static const char kFrom[] = "\"\\/bfnrt", kTo[] = "\"\\/\b\f\n\r\t";
    if (++at_ >= text_.size()) return false;
    if (const char *found = text_[at_] ? std::strchr(kFrom, text_[at_]) : nullptr) {
      out->push_back(kTo[found - kFrom]);
      return true;
    }
    unsigned code = 0;
    const char *digits = text_.data() + at_ + 1;
    if (text_[at_] != 'u' || text_.size() - at_ < 5 ||
        std::from_chars(digits, digits + 4, code, 16).ptr != digits + 4 || (code >= 0xd800 && code < 0xe000))
      return false;
    at_ += 4;
    if (code < 0x80) {
      out->push_back(char(code));
    } else if (code < 0x800) {
      out->push_back(char(0xc0 | code >> 6));
      out->push_back(char(0x80 | (code & 63)));
    } else {
      out->push_back(char(0xe0 | code >> 12));
      out->push_back(char(0x80 | (code >> 6 & 63)));
      out->push_back(char(0x80 | (code & 63)));
    }
    return true;
  }

  const std::string &text_;
  size_t at_ = 0;
};

} // namespace

const Json *Json::get(const std::string &key) const {
  auto found = object.find(key);
  return found == object.end() ? nullptr : &found->second;
}

bool Json::isInteger() const {
  return kind == Kind::kNumber && std::fabs(number) < 9007199254740992.0 && number == std::floor(number);
}

bool parseJson(const std::string &text, Json *out, std::string *error) {
  Parser parser(text);
  if (parser.document(out)) return true;
  *error = "not JSON at offset " + std::to_string(parser.at());
  return false;
}

} // namespace phasec_reference
