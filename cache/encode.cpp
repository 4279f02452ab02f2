// encode.cpp: see encode.h.
#include "cache/encode.h"

// The library's own choice of vector width at run time where it was built with one (Debian's is): 2.5 x on AVX2.
#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>
#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h>
#endif

#include <algorithm>
#include <cctype>
#include <cstring>

namespace phasec {

namespace {

class Hasher {
public:
  explicit Hasher(std::string_view domain) {
    XXH3_128bits_reset(&state_);
    add(domain);
  }
  void add(std::span<const uint8_t> bytes) {
    add(int64_t(bytes.size()));
    XXH3_128bits_update(&state_, bytes.data(), bytes.size());
  }
  void add(std::string_view text) { add(std::span(reinterpret_cast<const uint8_t *>(text.data()), text.size())); }
  void add(int64_t value) {
    uint8_t bytes[8];
    for (int i = 0; i < 8; ++i) bytes[i] = uint8_t(uint64_t(value) >> (56 - 8 * i));
    XXH3_128bits_update(&state_, bytes, sizeof bytes);
  }
  Checksum digest() const {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(&state_));
    Checksum sum;
    std::memcpy(sum.data(), canonical.digest, sum.size());
    return sum;
  }

private:
  alignas(64) XXH3_state_t state_;
};

constexpr char kHexDigits[] = "0123456789abcdef";

int hexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

void escapeInto(std::string &out, std::string_view text) {
  for (char c : text) {
    if (c == '\\')
      out += "\\\\";
    else if (c == '\t')
      out += "\\t";
    else if (c == '\n')
      out += "\\n";
    else
      out += c;
  }
}

std::string unescape(std::string_view text) {
  if (text.find('\\') == text.npos) return std::string(text); // nearly always
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\' || i + 1 == text.size()) {
      out += text[i];
      continue;
    }
    char c = text[++i];
    out += c == 't' ? '\t' : c == 'n' ? '\n' : c;
  }
  return out;
}

} // namespace

Checksum checksumOf(const RowView &row) {
  Hasher hasher("phasec artefact 1");
  hasher.add(row.wo_split);
  hasher.add(row.fingerprint);
  for (std::string_view field : {row.toolchain, row.layer, row.target, row.config, row.resources, row.sections})
    hasher.add(field);
  hasher.add(row.payload);
  return hasher.digest();
}

Checksum listingChecksum(const Checksum &artefact, std::string_view source, std::string_view ptx) {
  Hasher hasher("phasec listing 1");
  hasher.add(std::span<const uint8_t>(artefact));
  hasher.add(source);
  hasher.add(ptx);
  return hasher.digest();
}

std::array<uint8_t, 16> fingerprintBytes(const Fingerprint &fingerprint) {
  std::array<uint8_t, 16> bytes;
  for (int i = 0; i < 8; ++i) {
    bytes[size_t(i)] = uint8_t(fingerprint.high >> (56 - 8 * i));
    bytes[size_t(8 + i)] = uint8_t(fingerprint.low >> (56 - 8 * i));
  }
  return bytes;
}

Fingerprint fingerprintFrom(std::span<const uint8_t> bytes) {
  Fingerprint fingerprint;
  for (size_t i = 0; i < bytes.size() && i < 16; ++i) {
    uint64_t &half = i < 8 ? fingerprint.high : fingerprint.low;
    half = half << 8 | bytes[i];
  }
  return fingerprint;
}

// One line per section: name, digest, text, separated by tabs; tab, newline and backslash are escaped.

Sections::Sections(std::vector<Section> sections) {
  std::sort(sections.begin(), sections.end(), [](const Section &a, const Section &b) { return a.name < b.name; });
  for (const Section &section : sections) {
    escapeInto(text_, section.name);
    text_ += '\t';
    escapeInto(text_, section.digest);
    text_ += '\t';
    escapeInto(text_, section.text);
    text_ += '\n';
  }
}

Sections Sections::stored(std::string_view text) {
  Sections sections;
  sections.text_ = text;
  return sections;
}

std::vector<Section> Sections::list() const {
  std::vector<Section> sections;
  std::string_view text = text_;
  while (!text.empty()) {
    size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    size_t first = std::min(line.find('\t'), line.size());
    size_t second = std::min(line.find('\t', first + 1), line.size());
    Section section;
    section.name = unescape(line.substr(0, first));
    if (first < line.size()) section.digest = unescape(line.substr(first + 1, second - first - 1));
    if (second < line.size()) section.text = unescape(line.substr(second + 1));
    sections.push_back(std::move(section));
  }
  return sections;
}

std::string hexOf(std::span<const uint8_t> bytes) {
  std::string out;
  out.reserve(2 * bytes.size());
  for (uint8_t byte : bytes) {
    out += kHexDigits[byte >> 4];
    out += kHexDigits[byte & 15];
  }
  return out;
}

uint64_t hashOf(const Key &key) {
  uint64_t words[3] = {uint64_t(key.wo_split), key.fingerprint.high, key.fingerprint.low};
  return XXH3_64bits(words, sizeof words);
}

uint64_t hashOf(std::string_view text) { return XXH3_64bits(text.data(), text.size()); }

bool naturalLess(std::string_view a, std::string_view b) {
  auto isDigit = [](char c) { return c >= '0' && c <= '9'; };
  while (!a.empty() && !b.empty()) {
    if (isDigit(a[0]) && isDigit(b[0])) {
      auto takeNumber = [&](std::string_view &text) {
        while (text.size() > 1 && text[0] == '0' && isDigit(text[1])) text.remove_prefix(1);
        size_t digits = 0;
        while (digits < text.size() && isDigit(text[digits])) ++digits;
        std::string_view number = text.substr(0, digits);
        text.remove_prefix(digits);
        return number;
      };
      std::string_view x = takeNumber(a), y = takeNumber(b);
      if (x.size() != y.size()) return x.size() < y.size();
      if (x != y) return x < y;
      continue;
    }
    if (a[0] != b[0]) return a[0] < b[0];
    a.remove_prefix(1);
    b.remove_prefix(1);
  }
  return a.size() < b.size();
}

// ---- public names ----------------------------------------------------------------------------------------------

std::string Fingerprint::hex() const { return hexOf(fingerprintBytes(*this)); }

std::optional<Fingerprint> Fingerprint::parse(std::string_view text) {
  if (text.size() != 32) return std::nullopt;
  Fingerprint fingerprint;
  for (size_t i = 0; i < 32; ++i) {
    int value = hexValue(text[i]);
    if (value < 0) return std::nullopt;
    uint64_t &half = i < 16 ? fingerprint.high : fingerprint.low;
    half = half << 4 | uint64_t(value);
  }
  return fingerprint;
}

std::string Key::text() const { return "(" + std::to_string(wo_split) + ", " + fingerprint.hex() + ")"; }

std::string Key::brief() const {
  return "(" + std::to_string(wo_split) + ", " + fingerprint.hex().substr(0, 8) + "..)";
}

std::optional<Key> Key::parse(std::string_view text) {
  std::string packed;
  for (char c : text)
    if (c != ' ' && c != '(' && c != ')') packed += c;
  size_t comma = packed.find(',');
  if (comma == 0 || comma > 9 || packed.find_first_not_of("0123456789") != comma) return std::nullopt;
  std::optional<Fingerprint> fingerprint = Fingerprint::parse(std::string_view(packed).substr(comma + 1));
  if (!fingerprint) return std::nullopt;
  return Key{std::stoll(packed.substr(0, comma)), *fingerprint};
}

const char *name(CacheLayer layer) {
  switch (layer) {
  case CacheLayer::Memory: return "memory";
  case CacheLayer::Blessed: return "blessed";
  case CacheLayer::User: return "user";
  case CacheLayer::Compiled: return "compiled";
  }
  return "unknown";
}

} // namespace phasec
