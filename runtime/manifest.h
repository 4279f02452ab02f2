// manifest.h: what to bless, as a text file. One line per kernel, made by `phasec run --record`, by `phasec bless
// --record` and by the text of a refused miss; read by `phasec bless`.
//
//   # phasec manifest 1
//   layers/llama.phase ir=3c0d..(32 digits) target=sm_90a math=exact wo_split=8 key=8,91ab..(32 digits)
//
// A line holds everything that the kernel is made of: the layer by its path (relative to the manifest) and the digest
// of what it means, the target, and every knob that is not at its default. `ir` and `key` are checks: when the layer,
// or phasec itself, is no longer what it was, blessing stops instead of shipping another kernel. Lines written by hand
// may leave both out. `#` begins a comment where a word would begin; a path with blanks stands in double quotes.
#pragma once

#include "compiler/plan.h"
#include "phasec/cache.h"
#include "phasec/compiler.h"

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace phasec {

struct ManifestLine {
  std::string layer;                                      ///< path of the .phase file, relative to the manifest
  std::string ir_digest;                                  ///< tokenDigest of the canonical text; empty: not checked
  std::string target;                                     ///< "sm_90a"
  std::vector<std::pair<std::string, std::string>> knobs; ///< in table order, without the target
  std::optional<Key> key;                                 ///< empty: not checked
  int number = 0;                                         ///< of the line in its file, from 1

  /// The line, without its end.
  std::string text() const;
};

/// The line that blesses a planned kernel for its GPU target, whatever device it was planned on. `source` is what was
/// rendered; `layer` is the layers' path as it was read.
ManifestLine manifestLine(const Layers &layers, const Plan &plan, std::string_view source);

/// ErrorKind::Input with path:line for anything that is no manifest line.
Result<std::vector<ManifestLine>> readManifest(const std::string &path);
Result<std::vector<ManifestLine>> parseManifest(const std::string &path, std::string_view text);

/// Adds lines that the manifest does not hold yet, with layer paths made relative to it. Processes may record into one
/// file at a time. Gives the number of lines added.
Result<int> recordLines(const std::string &manifest, const std::vector<ManifestLine> &lines);

} // namespace phasec
