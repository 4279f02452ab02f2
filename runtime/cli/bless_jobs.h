// bless_jobs.h: which kernels `phasec bless` is asked for: manifest lines and layer files, times targets, times knob
// values.
#pragma once

#include "phasec/compiler.h"
#include "runtime/manifest.h"

#include <string>
#include <utility>
#include <vector>

namespace phasec::cli {

struct BlessRequest {
  std::vector<std::string> inputs;  ///< *.phase files, else manifests
  std::vector<std::string> targets; ///< empty: those of the manifest's lines; sm_90a for files
  std::vector<std::pair<std::string, std::vector<std::string>>> sets; ///< several values: one kernel each
  std::string templates_dir;
  bool rekey = false; ///< lines may have another key than phasec makes of them now
  int shard = 1, shards = 1;
};

/// One kernel to bless.
struct BlessJob {
  Layers layers;
  Schedule schedule;
  ManifestLine line;        ///< with the key that this phasec makes; the layer's path as it can be opened from here
  int64_t shared_bytes = 0; ///< dynamic

  const Key &key() const { return *line.key; }
  /// "sm_90a wo_split=4", without the split where there is nothing to split.
  std::string what() const;
};

struct BlessJobs {
  std::vector<BlessJob> jobs;        ///< this shard's, in key order, each key once
  size_t total = 0;                  ///< of all shards
  std::vector<std::string> findings; ///< lines that are no longer what was recorded, one sentence each
};

/// Plans and renders everything; compiles nothing. ErrorKind::Input for what cannot be planned, and names the line.
Result<BlessJobs> blessJobs(const BlessRequest &request);

/// "a,b" or "all". ErrorKind::Usage names the targets there are.
Result<std::vector<std::string>> parseTargets(const std::string &text);
/// "wo_split=1,2,4".
Result<std::pair<std::string, std::vector<std::string>>> parseSet(const std::string &text);
/// "2/4" into request.shard and request.shards.
Status parseShard(const std::string &text, BlessRequest &request);

} // namespace phasec::cli
