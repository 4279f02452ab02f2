// options.h: what the process's environment and its files say, before any flag. Used by the command line; a host that embeds
// phasec fills RuntimeOptions itself, and then nothing of the environment is read.
#pragma once

#include "phasec/config.h"
#include "phasec/runtime.h"

#include <string>
#include <vector>

namespace phasec {

/// One setting with its source, for `phasec doctor`.
struct Setting {
  std::string name;   ///< "PHASEC_CACHE_DIR", "PATH", ...
  std::string value;  ///< effective
  std::string origin; ///< "environment", "XDG_CACHE_HOME", "HOME", "default"
};

/// A PHASEC_* variable that means nothing to phasec.
struct UnknownVariable {
  std::string name;
  std::string suggestion; ///< the known variable that was probably meant; empty: none is near
};

struct Environment {
  RuntimeOptions runtime;
  Schedule schedule;                    ///< Origin::Environment and Origin::ConfigFile
  std::vector<Setting> settings;        ///< every variable that is looked at, set or not
  std::vector<UnknownVariable> unknown;
  std::vector<std::string> problems;    ///< values that cannot be used; every command but doctor stops at the first
  std::string log_path;                 ///< PHASEC_LOG: a file, "stderr" or "off"; empty: stderr
  bool no_color = false;                ///< NO_COLOR, or TERM=dumb
};

/// Reads the environment and the configuration file. Never fails: what is wrong stands in `problems`.
Environment readEnvironment();

/// "auto", "sim", "none", "cuda" or "cuda:1" into `options`; the sentence says what is allowed otherwise.
Status setDevice(std::string_view text, RuntimeOptions &options);

} // namespace phasec
