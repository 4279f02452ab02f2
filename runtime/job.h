// job.h: a kernel to be had: what the cache and the compilers must know of one source, whatever rendered it.
#pragma once

#include "compiler/fingerprint.h"
#include "runtime/state.h"

#include <functional>

namespace phasec::detail {

struct Job {
  std::string name;            ///< for people: "qwen35_27b", "pack_nvfp4"
  const char *entry = nullptr; ///< the kernel's name in the source
  std::string source;          ///< rendered
  const Target *hardware = nullptr;
  CompileOptions compile;
  std::string target;          ///< "sm_90a", or "sim:sm_90a": the same source, another compiler
  std::string config;          ///< canonical, for people
  KernelFingerprint fingerprint;
  Query query;
  std::function<Status()> check;      ///< before a compile; null: nothing to check
  std::function<std::string()> remedy; ///< what to do when nothing may be compiled
};

/// Fills target, fingerprint and query from name, source, hardware and compile: sections that came before the source's own are
/// kept, `wo_split` is the key's.
void identify(RuntimeState &state, Job &job, int64_t wo_split);

/// What came of a job.
struct Obtained {
  Hit hit;
  std::optional<Miss> miss;             ///< set when it had to be compiled
  double compile_us = 0, load_us = 0;
  std::shared_ptr<LoadedKernel> loaded; ///< null without a device; shared by all who have the same bytes
};
/// From the cache, or compiled and stored; then loaded. `capturing`: neither may be done, ErrorKind::CacheMiss unless the kernel is
/// loaded and alive. The same with jit = off or a sealed runtime for a compile.
Result<Obtained> obtain(RuntimeState &state, const Job &job, bool capturing);

} // namespace phasec::detail
