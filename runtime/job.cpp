// job.cpp: the one place where compiler and cache meet: key -> cache -> compile -> load.
#include "runtime/job.h"

#include "runtime/heartbeat.h"
#include "runtime/sim/compiler.h"

#include "llvm/Support/FileSystem.h"
#include "llvm/Support/raw_ostream.h"

#include <chrono>

namespace phasec {

using detail::Job;
using detail::nvrtcSearch;
using detail::RuntimeState;

namespace {

double microsecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
}

/// Who would compile: a hit never opens libnvrtc, so of it only the file is known. Without a compiler any toolchain's
/// entry will do.
void identifyCompiler(RuntimeState &state, Query &query) {
  if (!state.simulated()) {
    std::call_once(state.nvrtc_located, [&] { // a process keeps the compiler that it found
      if (auto file = locateNvrtc(nvrtcSearch(state.options))) state.nvrtc_identity = file->identity();
    });
    query.compiler = state.nvrtc_identity;
    return;
  }
  auto cxx = findHostCompiler(state.options.host_compiler, state.options.search_path);
  if (!cxx) return;
  if (auto identity = simToolchain(*cxx)) query.toolchain = *identity;
}

Artefact describe(const Job &job) {
  Artefact a;
  a.key = job.query.key;
  a.layer = job.name;
  a.target = job.target;
  a.config = job.config;
  a.sections = job.query.sections;
  return a;
}

void dump(const RuntimeState &state, const Compiled &c) {
  if (state.options.dump_dir.empty()) return;
  if (llvm::sys::fs::create_directories(state.options.dump_dir)) return;
  std::string stem = state.options.dump_dir + "/" + c.artefact.layer + "-" + c.artefact.key.fingerprint.hex();
  const std::pair<const char *, const std::string *> files[] = {
      {".cu", &c.listing.source}, {".ptx", &c.listing.ptx}, {".log", &c.evidence.log}};
  for (auto [extension, text] : files) {
    std::error_code error;
    llvm::raw_fd_ostream out(stem + extension, error);
    if (!error) out << *text;
  }
}

Result<Compiled> compileSim(RuntimeState &state, const Job &job) {
  PHASEC_ASSIGN(std::string cxx, findHostCompiler(state.options.host_compiler, state.options.search_path));
  PHASEC_ASSIGN(std::string toolchain, simToolchain(cxx));
  PHASEC_ASSIGN(SimObject object, compileForSim(job.source, cxx));
  Compiled c;
  c.artefact = describe(job);
  c.artefact.toolchain = toolchain;
  c.artefact.payload.assign(object.image.begin(), object.image.end());
  c.listing.source = job.source;
  c.evidence.log = object.log;
  return c;
}

Result<Nvrtc *> openNvrtc(RuntimeState &state) {
  std::lock_guard lock(state.compiler_mutex);
  if (!state.nvrtc) {
    PHASEC_ASSIGN(state.nvrtc, Nvrtc::open(nvrtcSearch(state.options)));
  }
  return state.nvrtc.get();
}

Result<Compiled> compileCuda(RuntimeState &state, const Job &job) {
  PHASEC_ASSIGN(Nvrtc * nvrtc, openNvrtc(state));
  CompileRequest request;
  request.source = job.source;
  request.target = job.hardware;
  request.options = job.compile;
  if (state.options.cancelled) request.progress = [&](double) { return state.options.cancelled(); };
  PHASEC_ASSIGN(CompiledKernel kernel, nvrtc->compile(request));
  Compiled c;
  c.artefact = describe(job);
  c.artefact.toolchain = kernel.toolchain;
  c.artefact.resources = resourcesJson(job.target, kernel.resources);
  c.artefact.payload.assign(kernel.cubin.begin(), kernel.cubin.end());
  c.listing.source = job.source;
  c.listing.ptx = std::move(kernel.ptx);
  c.evidence.log = std::move(kernel.log);
  c.evidence.compile_us = int64_t(kernel.seconds * 1e6);
  return c;
}

Result<Compiled> compile(RuntimeState &state, const Job &job, const Miss &miss) {
  if (state.options.cancelled && state.options.cancelled())
    return Status::toolchain("the compile of @" + job.name + " for " + job.target + " was cancelled");
  std::string why = miss.reasons.empty() ? "nothing like it is cached" : miss.reasons.front().text();
  state.log("first call for this config: compiling @" + job.name + " for " + job.target + " " + job.query.key.brief() + ": " + why);
  auto start = std::chrono::steady_clock::now();
  std::function<void(int)> beat;
  if (state.options.log)
    beat = [&](int seconds) { state.log("compiling @" + job.name + " for " + job.target + ", " + std::to_string(seconds) + " s"); };
  Heartbeat heartbeat(beat);
  Result<Compiled> c = state.simulated() ? compileSim(state, job) : compileCuda(state, job);
  if (!c) return c;
  if (!c->evidence.compile_us) c->evidence.compile_us = int64_t(microsecondsSince(start));
  dump(state, *c);
  return c;
}

/// jit = off, a sealed runtime and a capture end here, with the explanation.
Status permitted(const RuntimeState &state, const Job &job, const Miss &miss, bool capturing) {
  if (state.options.jit != Jit::Off && !state.sealed && !capturing) {
    if (state.options.jit == Jit::Warn) state.log("jit: " + miss.text());
    return {};
  }
  std::string why = capturing ? "the stream is being captured, and nothing may be compiled or loaded meanwhile"
                              : state.sealed ? "sealed" : "jit = off";
  std::string text = miss.text();
  if (!text.empty() && text.back() != '\n') text += '\n';
  return {ErrorKind::CacheMiss, why + ": no cache layer has @" + job.name + "\n" + text + job.remedy()};
}

Result<Hit> fetch(RuntimeState &state, const Job &job, detail::Obtained &o, bool capturing) {
  if (auto hit = state.cache->lookup(job.query)) return std::move(*hit);
  o.miss = state.cache->miss(job.query);
  PHASEC_TRY(permitted(state, job, *o.miss, capturing));
  if (job.check) PHASEC_TRY(job.check());
  auto start = std::chrono::steady_clock::now();
  ObtainHooks hooks;
  hooks.on_wait = [&](const Waiting &w) { state.log(w.text()); };
  hooks.cancelled = state.options.cancelled;
  PHASEC_ASSIGN(Hit hit, state.cache->obtain(job.query, [&] { return compile(state, job, *o.miss); }, hooks));
  o.compile_us = microsecondsSince(start);
  return hit;
}

/// Loads a kernel, or shares one of the same bytes that is loaded and alive.
Status load(RuntimeState &state, const Job &job, detail::Obtained &o, bool capturing) {
  const Artefact &artefact = *o.hit.artefact;
  std::lock_guard lock(state.loaded_mutex);
  std::weak_ptr<LoadedKernel> &known = state.loaded[{artefact.key, artefact.toolchain}];
  o.loaded = known.lock();
  if (o.loaded) return {};
  if (capturing)
    return {ErrorKind::CacheMiss, "the stream is being captured, and loading is illegal meanwhile: @" + job.name + " " +
                                      artefact.key.text() + " is cached (" + name(o.hit.layer) +
                                      ") but not loaded; prepare it before the capture begins and keep the kernel"};
  auto start = std::chrono::steady_clock::now();
  PHASEC_ASSIGN(o.loaded, state.device->load(artefact.payload, job.entry));
  known = o.loaded;
  o.load_us = microsecondsSince(start);
  return {};
}

} // namespace

void detail::identify(RuntimeState &state, Job &job, int64_t wo_split) {
  std::vector<std::string> options = state.simulated() ? std::vector<std::string>{simOptions()} : nvrtcArguments(job.compile);
  job.target = state.simulated() ? std::string("sim:") + job.hardware->name : job.hardware->name;
  job.fingerprint = fingerprint(job.source, options, job.target, kLaunchAbi);
  job.query.key = {wo_split, {job.fingerprint.high, job.fingerprint.low}};
  identifyCompiler(state, job.query);
  for (const KernelFingerprint::Section &s : job.fingerprint.sections) job.query.sections.push_back({s.name, s.digest, s.text});
}

Result<detail::Obtained> detail::obtain(const std::shared_ptr<RuntimeState> &state, const Job &job, bool capturing) {
  Obtained o;
  PHASEC_ASSIGN(o.hit, fetch(*state, job, o, capturing));
  if (state->device) PHASEC_TRY(load(*state, job, o, capturing));
  return o;
}

} // namespace phasec
