// tune.h: what the parts of `phasec tune` hand each other.
#pragma once

#include "runtime/cli/bench.h"

namespace phasec::cli {

struct TuneOptions {
  BenchOptions bench;    ///< one batch; the contexts count together
  double budget_s = 120; ///< no candidate is begun after that, save the first
};

/// One point of the search: the sum over the contexts, in us per layer.
struct Candidate {
  std::string phase;     ///< "stored" | "default" | "grid" | "descent"
  std::string schedule;  ///< "partition=wide wo_split=8 ...": what was searched
  std::string key;       ///< of the kernel for one layer; empty: it could not be planned
  double us = 0;         ///< first timing, not checked; 0: none
  double checked_us = 0, checked_sd = 0; ///< timing after the check passed; 0: it never came that far
  std::string outcome;   ///< "leads" | "not faster" | "not confirmed" | "same kernel" | "dropped"
  std::string cause;     ///< of a drop: "planner" | "compiler" | "device" | "check"
  std::string reason;    ///< in words
};

struct TuneReport {
  std::string layer;
  DeviceInfo device;
  TunedKey key;
  std::vector<Candidate> candidates;
  int winner = -1, baseline = -1;  ///< of candidates; -1: none passed its check, the default has no checked time
  std::vector<BenchRow> rows;      ///< the winner's, one per context
  std::optional<Tuned> stored;     ///< of an earlier search
  double stored_us = 0, stored_sd = 0, band = 0;
  double spent_s = 0;
  bool complete = false;           ///< the search ended by itself, not by its budget
  Status failed;                   ///< of the first candidate that could not be measured
  Status broken;                   ///< why it ended early: the device failed
  Status kept;                     ///< of storing the winner

  /// "first", or against the stored winner's time: "reproduced" | "moved"; "none" without a winner.
  std::string verdict() const;
  int dropped(std::string_view cause) const;
};

/// Searches, and stores the winner. Errors are those that end a search before its first candidate.
Result<TuneReport> tuneOnDevice(const Session &session, const TuneOptions &options);

} // namespace phasec::cli
