// workers.h: processes that take jobs by number. NVRTC's front end is serialised across the threads of a process, and a
// crash of the compiler should cost one kernel, not the build.
#pragma once

#include "phasec/status.h"

#include <functional>
#include <memory>

namespace phasec::cli {

/// What one worker does with a job; made in the worker, after the fork.
using Work = std::function<Status(size_t job)>;

struct JobDone {
  size_t job = 0;
  Status status;
  double seconds = 0;
};

/// Runs jobs 0..count-1 in `workers` processes; `done` is called here, in order of completion. To be called without
/// other threads running. The status is an error only when the pool itself could not go on: out of processes, or
/// interrupted.
Status runWorkers(size_t count, int workers, const std::function<Result<Work>()> &make,
                  const std::function<void(const JobDone &)> &done);

} // namespace phasec::cli
