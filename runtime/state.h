// state.h: what the handles of runtime.h point to.
#pragma once

#include "compiler/nvrtc.h"
#include "compiler/plan.h"
#include "compiler/render.h"
#include "phasec/runtime.h"
#include "runtime/device.h"

#include <atomic>
#include <mutex>

namespace phasec::detail {

struct RuntimeState {
  RuntimeOptions options;
  std::unique_ptr<Device> device; ///< null for DeviceChoice::None
  std::unique_ptr<Cache> cache;
  Templates templates;
  std::string cuda_problem;
  std::atomic<bool> sealed{false};
  std::mutex compiler_mutex;
  std::unique_ptr<Nvrtc> nvrtc;   ///< opened at the first miss
  std::once_flag nvrtc_located;
  std::string nvrtc_identity;     ///< of the library file; empty: there is none
  std::mutex loaded_mutex;
  std::map<std::pair<Key, std::string>, std::weak_ptr<LoadedKernel>> loaded; ///< by key and toolchain; loaded once
  std::map<Key, std::shared_ptr<LoadedKernel>> packers; ///< stay loaded; under loaded_mutex

  bool simulated() const { return device && device->info().device == "sim"; }
  void log(const std::string &line) const {
    if (options.log) options.log(line);
  }
};

struct KernelState {
  std::shared_ptr<RuntimeState> runtime;
  std::shared_ptr<const ir::Module> module;
  Plan plan;
  std::string source, source_digest;
  Key key;
  Hit hit;
  std::optional<Miss> miss;
  double compile_us = 0, load_us = 0;
  std::shared_ptr<LoadedKernel> loaded; ///< null for DeviceChoice::None; shared with kernels of the same key
};

struct BoundState {
  std::shared_ptr<KernelState> kernel;
  DevicePtr table = 0, workspace = 0;
  bool owns_workspace = false;
  LaunchShape shape;
  std::vector<int> cuts;          ///< call boundaries at which a split launch is divided
  bool poisoned = false;
  int64_t split_launches = 0;

  ~BoundState();
};

/// Where these options look for libnvrtc.
NvrtcSearch nvrtcSearch(const RuntimeOptions &options);

/// How NVRTC compiles a plan: an ingredient of the key.
CompileOptions compileOptions(const Plan &plan);

/// The layout id of a GEMV's packed weight.
std::string layoutId(const Gemv &gemv);

} // namespace phasec::detail
