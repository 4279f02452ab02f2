// config.h: the schedule: how a layer is to be compiled, as opposed to what it computes.
#pragma once

#include "phasec/status.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#pragma GCC visibility push(default) // public: the library is compiled with hidden visibility

namespace phasec {

/// Where a knob's value came from, strongest last. A later source overrides an earlier one.
enum class Origin { Default, File, Tuned, Environment, ConfigFile, Flag, Host };

/// Stable lower-case name of an origin ("default", "file", ...).
const char *name(Origin origin);

/// One row of knobs.def.
struct KnobInfo {
  const char *name;
  bool is_int;
  int64_t int_default, int_min, int_max; ///< integers only
  const char *word_default;              ///< words only
  const char *words;                     ///< words only: the allowed set, separated by '|'
  const char *doc;
};

/// All knobs, in the order of knobs.def. The table is constant; safe from any thread.
const std::vector<KnobInfo> &knobs();

/// The effective schedule: one value and origin per knob. A plain value type: copy it freely; const use is thread-safe.
class Schedule {
public:
  Schedule();

  /// Sets a knob from text ("8", "seed"). An unknown knob or a value outside its set is ErrorKind::Usage, naming the
  /// set and, for a near miss, the knob that was probably meant. A weaker origin never replaces a stronger one.
  Status set(std::string_view knob, std::string_view value, Origin origin);

  int64_t integer(std::string_view knob) const;
  const std::string &word(std::string_view knob) const;
  /// The value as text, whatever its type.
  std::string text(std::string_view knob) const;
  Origin origin(std::string_view knob) const;

  /// "k=v k=v ..." in table order: the form that is hashed and stored beside a cache entry.
  std::string canonical() const;

private:
  struct Value {
    std::string text;
    int64_t integer = 0;
    Origin origin = Origin::Default;
  };
  std::vector<Value> values_; // parallel to knobs()
};

/// The values wo_split may take in a layer that has a `wo` phase.
inline constexpr int kWoSplits[] = {1, 2, 4, 8, 16, 32};
/// Rows (tokens) one launch may carry at most.
inline constexpr int kTokensMax = 16;

} // namespace phasec

#pragma GCC visibility pop
