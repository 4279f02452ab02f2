// fingerprint.cpp: a preprocessing tokenizer that writes canonical bytes, and XXH3-128 over them.
#include "compiler/fingerprint.h"

// By the vector width of the processor, as cache/encode.cpp does.
#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>
#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h>
#endif

#include <algorithm>
#include <array>
#include <cstring>
#include <map>

namespace phasec {
namespace {

bool isBlank(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\f' || c == '\v' || c == '\0'; }
bool isDigit(char c) { return c >= '0' && c <= '9'; }
/// A table: this is asked of every character, and a key must not take longer than a launch.
constexpr auto kIdentifier = [] {
  std::array<bool, 256> table{};
  for (int c = 0; c < 256; ++c)
    table[size_t(c)] = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '$' || c >= 0x80;
  return table;
}();
/// The second characters of all operators that are longer than one.
constexpr auto kSecond = [] {
  std::array<bool, 256> table{};
  for (char c : {'<', '=', '>', '.', '-', '*', ':', '#', '+', '&', '|'}) table[size_t(c)] = true;
  return table;
}();
bool isIdentifier(char c) { return kIdentifier[static_cast<unsigned char>(c)]; }

/// Writes the token stream of one text to `out`.
class Tokenizer {
public:
  /// A token of n characters becomes n + 1, and only the end of a directive and a macro's parenthesis become more.
  Tokenizer(std::string_view text, std::string &out) : text_(text), out_(out) {
    size_t begin = out.size();
    out.resize(begin + 3 * text.size() + 2);
    to_ = out.data() + begin;
  }

  /// True when the text means more than its tokens do (see the header).
  bool run() {
    while (at_ < text_.size()) step();
    endDirective();
    out_.resize(size_t(to_ - out_.data()));
    return needs_text_;
  }

private:
  char peek(size_t ahead = 0) const { return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\n'; }

  void emit(size_t begin, size_t end) { emit(text_.substr(begin, end - begin)); }
  void emit(std::string_view token) {
    for (char c : token) *to_++ = c; // a few characters: a call would take longer
    *to_++ = '\0';
  }

  void step() {
    char c = peek();
    if (c == '\n') {
      ++at_;
      endDirective();
      line_start_ = true;
    } else if (isBlank(c)) {
      do ++at_;
      while (at_ < text_.size() && isBlank(text_[at_]));
    } else if (size_t length = splice(at_)) {
      bool touches = at_ > 0 && !isBlank(text_[at_ - 1]) && text_[at_ - 1] != '\n';
      at_ += length;
      if (touches && !isBlank(peek()) && peek() != '\n') needs_text_ = true; // it may lie inside a token
    } else if (c == '/' && peek(1) == '/') {
      skipToLineEnd();
    } else if (c == '/' && peek(1) == '*') {
      size_t end = text_.find("*/", at_ + 2);
      at_ = end == std::string_view::npos ? text_.size() : end + 2;
    } else if (c == '#' && line_start_) {
      directive();
    } else {
      line_start_ = false;
      token(c);
    }
  }

  /// Length of a backslash-newline at `at`, or 0.
  size_t splice(size_t at) const {
    if (text_[at] != '\\') return 0;
    size_t end = at + 1 < text_.size() && text_[at + 1] == '\r' ? at + 2 : at + 1;
    return end < text_.size() && text_[end] == '\n' ? end + 1 - at : 0;
  }

  /// To the newline that ends this logical line.
  void skipToLineEnd() {
    while (true) {
      size_t end = std::min(text_.find('\n', at_), text_.size());
      size_t slash = text_.substr(at_, end - at_).find('\\'); // rare: a splice is one
      if (slash == std::string_view::npos) {
        at_ = end;
        return;
      }
      at_ += slash + std::max<size_t>(1, splice(at_ + slash));
    }
  }

  void endDirective() {
    if (in_directive_) emit("\n");
    in_directive_ = in_define_ = false;
  }

  void directive() {
    size_t name = at_ + 1;
    while (name < text_.size() && isBlank(text_[name])) ++name;
    size_t end = name;
    while (end < text_.size() && isIdentifier(text_[end])) ++end;
    std::string_view word = text_.substr(name, end - name);
    if (word == "line" || (!word.empty() && isDigit(word[0]))) {
      skipToLineEnd();
      return;
    }
    in_directive_ = true;
    line_start_ = false;
    if (word == "include") {
      skipToLineEnd();
      emit("#");
      emit(name, at_);
      return;
    }
    emit("#");
    emit(word);
    at_ = end;
    if (word == "define") define();
  }

  /// The macro's name, and whether a parameter list touches it.
  void define() {
    in_define_ = true;
    while (at_ < text_.size() && isBlank(text_[at_])) ++at_;
    size_t begin = at_;
    while (at_ < text_.size() && isIdentifier(text_[at_])) ++at_;
    emit(begin, at_);
    if (at_ < text_.size() && text_[at_] == '(') {
      emit("(\x01");
      ++at_;
    }
  }

  void token(char c) {
    size_t begin = at_;
    if (isDigit(c) || (c == '.' && isDigit(peek(1)))) return number();
    if (c == '"' || c == '\'') return literal(begin, c);
    if (!isIdentifier(c)) return punctuator();
    while (at_ < text_.size() && isIdentifier(text_[at_])) ++at_;
    std::string_view word = text_.substr(begin, at_ - begin);
    char quote = peek();
    if (quote == '"' && (word == "R" || word == "LR" || word == "uR" || word == "UR" || word == "u8R"))
      return rawString(begin);
    if ((quote == '"' || quote == '\'') && (word == "L" || word == "u" || word == "U" || word == "u8"))
      return literal(begin, quote);
    if (word == "__LINE__" || word == "__FILE__" || word == "__COUNTER__") needs_text_ = true;
    emit(word);
  }

  void number() {
    size_t begin = at_++;
    while (at_ < text_.size()) {
      char c = text_[at_], before = text_[at_ - 1];
      bool sign = (c == '+' || c == '-') && std::strchr("eEpP", before);
      bool separator = c == '\'' && isIdentifier(peek(1));
      if (!isIdentifier(c) && c != '.' && !sign && !separator) break;
      ++at_;
    }
    emit(begin, at_);
  }

  /// A string or character literal, prefix included; an unterminated one ends with its line.
  void literal(size_t begin, char quote) {
    ++at_;
    while (at_ < text_.size() && text_[at_] != quote && text_[at_] != '\n') {
      size_t spliced = splice(at_);
      at_ += spliced ? spliced : text_[at_] == '\\' && peek(1) != '\n' ? 2 : 1;
    }
    at_ = std::min(text_.size(), at_ + (peek() == quote ? 1 : 0));
    emit(begin, at_);
  }

  void rawString(size_t begin) {
    size_t open = text_.find('(', at_);
    std::string close = ")";
    if (open != std::string_view::npos) close.append(text_.substr(at_ + 1, open - at_ - 1));
    close.push_back('"');
    size_t end = open == std::string_view::npos ? open : text_.find(close, open);
    at_ = end == std::string_view::npos ? text_.size() : end + close.size();
    emit(begin, at_);
  }

  void punctuator() {
    static constexpr std::string_view kLong[] = {"<<=", ">>=", "...", "->*", "<=>", "::", "##", "++", "--",
                                                 "<<",  ">>",  "<=",  ">=",  "==",  "!=", "&&", "||", "+=",
                                                 "-=",  "*=",  "/=",  "%=",  "^=",  "&=", "|=", "->", ".*"};
    size_t length = 1;
    if (kSecond[static_cast<unsigned char>(peek(1))])
      for (std::string_view candidate : kLong)
        if (text_.substr(at_, candidate.size()) == candidate) {
          length = candidate.size();
          break;
        }
    if (in_define_ && length == 1 && text_[at_] == '#') needs_text_ = true;
    emit(at_, at_ + length);
    at_ += length;
  }

  std::string_view text_;
  std::string &out_;
  char *to_;
  size_t at_ = 0;
  bool line_start_ = true, in_directive_ = false, in_define_ = false, needs_text_ = false;
};

std::string hexOf(XXH128_hash_t hash) {
  XXH128_canonical_t bytes;
  XXH128_canonicalFromHash(&bytes, hash);
  std::string hex;
  for (unsigned char byte : bytes.digest) {
    hex.push_back("0123456789abcdef"[byte >> 4]);
    hex.push_back("0123456789abcdef"[byte & 15]);
  }
  return hex;
}

XXH128_hash_t hashOf(std::string_view bytes) { return XXH3_128bits(bytes.data(), bytes.size()); }

/// Appends the stream of one text, with the text itself where its tokens are not all it means.
void appendStream(std::string_view text, bool lines_count, std::string &out) {
  if (Tokenizer(text, out).run() || lines_count) out.append(text).push_back('\0');
}

/// The token stream of one text, and its digest.
struct Stream {
  std::string bytes;
  XXH128_hash_t digest;
};

/// Streams of texts that were seen before: nearly all of a source is templates, and those are the same in every key.
/// Keyed by the text's own digest, so a stream is what the tokenizer would say, whoever asked first.
class KnownStreams {
public:
  /// Valid until the next call.
  const Stream &of(std::string_view text) {
    XXH128_hash_t digest = hashOf(text);
    std::pair<uint64_t, uint64_t> key{digest.high64, digest.low64};
    auto known = streams_.find(key);
    if (known == streams_.end()) {
      if (streams_.size() >= kStreamsMax) streams_.clear(); // somebody edits overlays all day
      Stream stream;
      appendStream(text, false, stream.bytes);
      stream.digest = hashOf(stream.bytes);
      known = streams_.emplace(key, std::move(stream)).first;
    }
    return known->second;
  }

private:
  static constexpr size_t kStreamsMax = 256; ///< several times the number of templates
  std::map<std::pair<uint64_t, uint64_t>, Stream> streams_;
};

/// Per thread (some 50 KB): a lock here could be held across a fork.
thread_local KnownStreams template_streams;

/// The file that the #line directive at the start of `text` names; empty when there is none.
std::string_view lineDirectiveFile(std::string_view text) {
  if (text.substr(0, 6) != "#line ") return {};
  std::string_view line = text.substr(0, text.find('\n'));
  size_t open = line.find('"'), close = line.rfind('"');
  return open < close && close != std::string_view::npos ? line.substr(open + 1, close - open - 1) : std::string_view();
}

/// Calls visit(file, text) for each run of lines under one #line directive; the first file is "".
template <class Visit> void forEachRun(std::string_view source, Visit visit) {
  std::string_view file;
  size_t run = 0;
  for (size_t at = source.find('#'); at != std::string_view::npos; at = source.find('#', at + 1)) {
    if (at > 0 && source[at - 1] != '\n') continue;
    std::string_view named = lineDirectiveFile(source.substr(at));
    if (named.empty()) continue;
    visit(file, source.substr(run, at - run));
    file = named;
    run = at;
  }
  visit(file, source.substr(run));
}

} // namespace

std::string KernelFingerprint::hex() const { return hexOf({low, high}); }

std::string tokenDigest(std::string_view text) {
  std::string stream;
  appendStream(text, false, stream);
  return hexOf(hashOf(stream));
}

std::string byteDigest(std::string_view text) { return hexOf(hashOf(text)); }

KernelFingerprint fingerprint(std::string_view source, const std::vector<std::string> &options, std::string_view target,
                              uint32_t abi_version) {
  bool lines_count = std::find(options.begin(), options.end(), "-lineinfo") != options.end();
  struct File {
    std::string name;
    std::vector<std::pair<size_t, size_t>> runs; // of `key`: begin, length
    XXH128_hash_t digest;                        // of the last run, where `known`
    bool known = false;
  };
  std::vector<File> files{{"kernel", {}, {}}};
  std::string key("phasec.key/1\0", 13);
  const size_t stream_begin = key.size();
  key.reserve(source.size());
  forEachRun(source, [&](std::string_view name, std::string_view text) {
    bool own = name.empty() || name.substr(std::max<size_t>(name.size(), 3) - 3) == ".cu";
    std::string section = own ? "kernel" : "template:" + std::string(name);
    auto same = [&](const File &file) { return file.name == section; };
    auto file = std::find_if(files.begin(), files.end(), same);
    if (file == files.end()) file = files.insert(files.end(), File{section, {}, {}});
    size_t begin = key.size();
    file->known = !own && !lines_count;
    if (file->known) {
      const Stream &stream = template_streams.of(text);
      key.append(stream.bytes);
      file->digest = stream.digest;
    } else {
      appendStream(text, lines_count, key);
    }
    file->runs.emplace_back(begin, key.size() - begin);
  });
  std::string source_digest = hexOf(hashOf(std::string_view(key).substr(stream_begin)));
  key.append(2, '\0');
  std::string joined;
  for (const std::string &option : options) {
    key.append(option).push_back('\0');
    joined += joined.empty() ? option : " " + option;
  }
  key.push_back('\0');
  key.append(target).push_back('\0');
  for (int shift = 0; shift < 32; shift += 8) key.push_back(char(abi_version >> shift & 0xff));

  XXH128_hash_t hash = hashOf(key);
  KernelFingerprint result{hash.high64, hash.low64, std::move(source_digest), {}};
  for (const File &file : files) {
    std::string stream;
    auto bytes = [&]() -> std::string_view {
      for (auto [begin, length] : file.runs) stream.append(key, begin, length);
      return stream;
    };
    bool whole = file.known && file.runs.size() == 1; // as nearly every template
    result.sections.push_back({file.name, hexOf(whole ? file.digest : hashOf(bytes())), ""});
  }
  std::string abi = std::to_string(abi_version);
  result.sections.push_back({"options", byteDigest(joined), joined});
  result.sections.push_back({"target", byteDigest(target), std::string(target)});
  result.sections.push_back({"abi", byteDigest(abi), abi});
  return result;
}

} // namespace phasec
