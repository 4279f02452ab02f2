// fingerprint.h: the identity of a generated kernel: what is compiled, how, for what, and how it is launched.
//
// The digest is XXH3-128 (seed 0), written high word first, over the following bytes. Changing any of this orphans
// every cache on earth: the golden test holds it still.
//   key     := "phasec.key/1" NUL, token stream, NUL NUL, option NUL ... , NUL, target NUL, ABI version as 4 bytes, low
//   first stream  := for each preprocessing token of the source its spelling and one NUL
// Tokens are those of C++: identifiers, numbers, string and character literals with their prefixes, operators by
// longest match. Blank space, comments and #line directives leave no trace, so neither a comment nor a blank line nor a
// file name moves the key. Where blank space does mean something it does leave one: the end of any other directive is a
// token "\n", and a macro's parameter list begins with the token "(\x01". Raw strings and #include lines are taken as
// they stand. A source whose meaning hangs on more than its tokens (it names __LINE__, __FILE__ or __COUNTER__, or
// stringizes a macro argument with #, or splices lines inside a token), and one compiled with line tables, is hashed
// with its whole text as one token more.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace phasec {

/// Identity of one kernel with the digests that explain it.
struct KernelFingerprint {
  /// One ingredient: "kernel" (the program's own text: before any #line, or under one that names a .cu file),
  /// "template:gather.cuh" (all text under `#line n "gather.cuh"`), "options", "target", "abi". The text is empty
  /// for source sections; a reader has the source itself.
  struct Section {
    std::string name, digest, text;
  };

  uint64_t high = 0, low = 0;
  std::string source; ///< digest of the token stream alone: equal sources, whatever compiles them
  std::vector<Section> sections; ///< in the order above, templates by first appearance; their digests cover only them

  /// 32 lower-case hexadecimal digits.
  std::string hex() const;
  friend bool operator==(const KernelFingerprint &a, const KernelFingerprint &b) {
    return a.high == b.high && a.low == b.low;
  }
};

/// Digest of the tokens of `text`, 32 hexadecimal digits; for sections that are source-like (a layer's canonical text).
std::string tokenDigest(std::string_view text);
/// Digest of the bytes of `text`, 32 hexadecimal digits.
std::string byteDigest(std::string_view text);

/// The fingerprint of `source` compiled with `options` (as nvrtcArguments gives them; "-lineinfo" makes lines count)
/// for `target`. Pure; a thread tokenizes a template's text once, and its own text at about 200 MB/s.
KernelFingerprint fingerprint(std::string_view source, const std::vector<std::string> &options, std::string_view target,
                              uint32_t abi_version);

} // namespace phasec
