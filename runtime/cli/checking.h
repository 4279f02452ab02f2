// checking.h: compares what a launch left behind with the independent reference: bit for bit under math = exact, by its
// error against fp64 under math = fast.
#pragma once

#include "runtime/cli/staging.h"

namespace phasec::cli {

struct CheckResult {
  bool bit_exact = true;
  double max_abs = 0, rel_l2 = 0;    ///< the largest of all outputs
  double rel_l2_bound = 0;           ///< fast: the largest that was allowed
  std::vector<std::string> findings; ///< one line each; empty: everything is as the reference says

  void find(std::string line) {
    bit_exact = false;
    findings.push_back(std::move(line));
  }
};

/// Returned values, this step's K and V rows, and every other byte of the caches.
Result<CheckResult> checkAgainstReference(const Plan &plan, const ir::Module &module, const HostInputs &inputs,
                                          const Downloaded &downloaded);

} // namespace phasec::cli
