// runtime.cpp: the one place where compiler and cache meet: plan -> render -> key -> cache -> compile -> load.
#include "runtime/state.h"

#include "compiler/fingerprint.h"
#include "compiler/schedule.h"
#include "ir/suggest.h"
#include "runtime/heartbeat.h"
#include "runtime/manifest.h"
#include "runtime/sim/compiler.h"

#include "llvm/Support/FileSystem.h"
#include "llvm/Support/raw_ostream.h"

#include <chrono>

namespace phasec {

using detail::KernelState;
using detail::RuntimeState;

NvrtcSearch detail::nvrtcSearch(const RuntimeOptions &o) {
  NvrtcSearch search;
  search.explicit_path = o.nvrtc_path;
  search.loader_dirs = o.loader_dirs;
  search.site_packages = o.site_packages;
  return search;
}

CompileOptions detail::compileOptions(const Plan &plan) {
  CompileOptions options;
  options.exact = plan.schedule.word("math") == "exact";
  return options;
}

namespace {

using detail::compileOptions;
using detail::nvrtcSearch;

double microsecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
}

/// Everything that is known about a launch before the cache is asked.
struct Prepared {
  Plan plan;
  Rendered rendered;
  std::vector<std::string> options;
  std::string target; ///< "sm_90a", or "sim:sm_90a": the same source, another compiler
  KernelFingerprint fingerprint;
  Query query;
};

std::vector<Section> sections(const Layers &layers, const Prepared &p) {
  std::vector<Section> all;
  all.push_back({"ir", layers.digest(), layers.name()});
  for (const KnobInfo &k : knobs()) {
    std::string text = p.plan.schedule.text(k.name);
    if (std::string_view(k.name) == "target" || std::string_view(k.name) == "wo_split") continue; // sections of their own
    all.push_back({std::string("knob:") + k.name, byteDigest(text), text});
  }
  for (const KernelFingerprint::Section &s : p.fingerprint.sections) all.push_back({s.name, s.digest, s.text});
  return all;
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

std::string deviceTarget(const RuntimeState &state) { return state.device ? state.device->info().target : ""; }

Result<TunedKey> tunedKeyOf(const RuntimeState &state, const Layers &layers, const Schedule &schedule) {
  const ir::Module &module = layers.module();
  PHASEC_ASSIGN(Schedule effective, effectiveSchedule(module, schedule, deviceTarget(state)));
  TunedKey key{layers.digest(), effective.word("target"), effective.integer("ctas"), effective.word("math"), effective.integer("tokens_max")};
  if (!key.ctas) key.ctas = state.device ? state.device->info().sms : findTarget(key.target)->sm_counts.front();
  if (!key.tokens_max)
    for (int l : ir::instances(module)) key.tokens_max = std::max<int64_t>(key.tokens_max, module.layers[size_t(l)].tokens_max);
  return key;
}

/// Knobs that a newer phasec searched, or values that it took, are no reason to fail: they are left out, and said.
Result<Schedule> withTuned(RuntimeState &state, const Layers &layers, Schedule schedule) {
  PHASEC_ASSIGN(TunedKey key, tunedKeyOf(state, layers, schedule));
  std::optional<Tuned> winner = state.cache->tuned(key);
  if (!winner) return schedule;
  for (const std::string &word : splitWords(winner->schedule, ' ')) {
    size_t equals = std::min(word.find('='), word.size());
    Status set = schedule.set(word.substr(0, equals), word.substr(std::min(equals + 1, word.size())), Origin::Tuned);
    if (!set.ok()) state.log("tuned schedule: " + set.text() + "; run `phasec tune` again");
  }
  return schedule;
}

/// A planner's error may be about values that nobody typed.
Status planError(const Status &status, const Schedule &schedule) {
  std::string tuned;
  for (const KnobInfo &k : knobs())
    if (schedule.origin(k.name) == Origin::Tuned) tuned += std::string(" ") + k.name + "=" + schedule.text(k.name);
  return tuned.empty() ? status : Status(status.kind(), status.text() + "\nnote: `phasec tune` chose" + tuned + "; --no-tuned leaves that out");
}

Result<Prepared> prepareQuery(RuntimeState &state, const Layers &layers, const Schedule &asked) {
  Prepared p;
  std::string device_target = deviceTarget(state);
  Schedule schedule = asked;
  if (state.options.tuned) {
    PHASEC_ASSIGN(schedule, withTuned(state, layers, asked));
  }
  PHASEC_ASSIGN(Schedule effective, effectiveSchedule(layers.module(), schedule, device_target));
  const Target *target = findTarget(effective.word("target"));
  if (!target) return Status::usage("target " + effective.word("target") + " is not known");
  if (!device_target.empty() && device_target != target->name)
    return Status::input("target " + std::string(target->name) + " cannot run on " + state.device->info().name + ", which is " +
                         device_target + "; drop --target, or use `phasec render` or `bless` to compile without running");
  auto planned = plan(layers.module(), effective, *target);
  if (!planned) return planError(planned.status(), schedule);
  p.plan = planned.take();
  PHASEC_ASSIGN(p.rendered, render(p.plan, layers.module(), state.templates));
  p.options = state.simulated() ? std::vector<std::string>{simOptions()} : nvrtcArguments(compileOptions(p.plan));
  p.target = state.simulated() ? std::string("sim:") + target->name : target->name;
  p.fingerprint = fingerprint(p.rendered.source, p.options, p.target, kLaunchAbi);
  p.query.key = {p.plan.schedule.integer("wo_split"), {p.fingerprint.high, p.fingerprint.low}};
  identifyCompiler(state, p.query);
  p.query.sections = sections(layers, p);
  return p;
}

Artefact describe(const Layers &layers, const Prepared &p) {
  Artefact a;
  a.key = p.query.key;
  a.layer = layers.name();
  a.target = p.target;
  a.config = p.plan.schedule.canonical();
  a.sections = p.query.sections;
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

Result<Compiled> compileSim(RuntimeState &state, const Layers &layers, const Prepared &p) {
  PHASEC_ASSIGN(std::string cxx, findHostCompiler(state.options.host_compiler, state.options.search_path));
  PHASEC_ASSIGN(std::string toolchain, simToolchain(cxx));
  PHASEC_ASSIGN(SimObject object, compileForSim(p.rendered.source, cxx));
  Compiled c;
  c.artefact = describe(layers, p);
  c.artefact.toolchain = toolchain;
  c.artefact.payload.assign(object.image.begin(), object.image.end());
  c.listing.source = p.rendered.source;
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

Result<Compiled> compileCuda(RuntimeState &state, const Layers &layers, const Prepared &p) {
  PHASEC_ASSIGN(Nvrtc * nvrtc, openNvrtc(state));
  CompileRequest request;
  request.source = p.rendered.source;
  request.target = p.plan.target;
  request.options = compileOptions(p.plan);
  if (state.options.cancelled) request.progress = [&](double) { return state.options.cancelled(); };
  PHASEC_ASSIGN(CompiledKernel kernel, nvrtc->compile(request));
  Compiled c;
  c.artefact = describe(layers, p);
  c.artefact.toolchain = kernel.toolchain;
  c.artefact.resources = resourcesJson(p.target, kernel.resources);
  c.artefact.payload.assign(kernel.cubin.begin(), kernel.cubin.end());
  c.listing.source = p.rendered.source;
  c.listing.ptx = std::move(kernel.ptx);
  c.evidence.log = std::move(kernel.log);
  c.evidence.compile_us = int64_t(kernel.seconds * 1e6);
  return c;
}

Result<Compiled> compile(RuntimeState &state, const Layers &layers, const Prepared &p, const Miss &miss) {
  if (state.options.cancelled && state.options.cancelled())
    return Status::toolchain("the compile of @" + layers.name() + " for " + p.target + " was cancelled");
  std::string why = miss.reasons.empty() ? "nothing like it is cached" : miss.reasons.front().text();
  state.log("first call for this config: compiling @" + layers.name() + " for " + p.target + " " + p.query.key.brief() + ": " + why);
  auto start = std::chrono::steady_clock::now();
  std::function<void(int)> beat;
  if (state.options.log)
    beat = [&](int seconds) { state.log("compiling @" + layers.name() + " for " + p.target + ", " + std::to_string(seconds) + " s"); };
  Heartbeat heartbeat(beat);
  Result<Compiled> c = state.simulated() ? compileSim(state, layers, p) : compileCuda(state, layers, p);
  if (!c) return c;
  if (!c->evidence.compile_us) c->evidence.compile_us = int64_t(microsecondsSince(start));
  dump(state, *c);
  return c;
}

/// The manifest line that would have made a hit of this, and what to do with it.
std::string blessText(const RuntimeState &state, const Layers &layers, const Prepared &p) {
  std::string text = "to bless it, add this line to a manifest and run `phasec bless MANIFEST --out blessed.db`:\n";
  if (state.simulated())
    text = "a simulated kernel is compiled where it runs and cannot be blessed; for the GPU the manifest line is:\n";
  return text + "  " + manifestLine(layers, p.plan, p.rendered.source).text() + "\n";
}

/// jit = off, a sealed runtime and a capture end here, with the explanation.
Status permitted(const RuntimeState &state, const Layers &layers, const Prepared &p, const Miss &miss, bool capturing) {
  if (state.options.jit != Jit::Off && !state.sealed && !capturing) {
    if (state.options.jit == Jit::Warn) state.log("jit: " + miss.text());
    return {};
  }
  std::string why = capturing ? "the stream is being captured, and nothing may be compiled or loaded meanwhile"
                              : state.sealed ? "sealed" : "jit = off";
  std::string text = miss.text();
  if (!text.empty() && text.back() != '\n') text += '\n';
  return {ErrorKind::CacheMiss, why + ": no cache layer has @" + layers.name() + "\n" + text + blessText(state, layers, p)};
}

Result<Hit> fetch(RuntimeState &state, const Layers &layers, const Prepared &p, KernelState &kernel, bool capturing) {
  if (auto hit = state.cache->lookup(p.query)) return std::move(*hit);
  kernel.miss = state.cache->miss(p.query);
  PHASEC_TRY(permitted(state, layers, p, *kernel.miss, capturing));
  if (state.options.prove) PHASEC_TRY(prove(p.plan, layers.module()));
  auto start = std::chrono::steady_clock::now();
  ObtainHooks hooks;
  hooks.on_wait = [&](const Waiting &w) { state.log(w.text()); };
  hooks.cancelled = state.options.cancelled;
  PHASEC_ASSIGN(Hit hit, state.cache->obtain(p.query, [&] { return compile(state, layers, p, *kernel.miss); }, hooks));
  kernel.compile_us = microsecondsSince(start);
  return hit;
}

/// Loads a kernel, or shares one of the same bytes that is loaded and alive.
Status load(RuntimeState &state, const Layers &layers, KernelState &kernel, bool capturing) {
  const Artefact &artefact = *kernel.hit.artefact;
  std::lock_guard lock(state.loaded_mutex);
  std::weak_ptr<LoadedKernel> &known = state.loaded[{artefact.key, artefact.toolchain}];
  kernel.loaded = known.lock();
  if (kernel.loaded) return {};
  if (capturing)
    return {ErrorKind::CacheMiss, "the stream is being captured, and loading is illegal meanwhile: @" + layers.name() + " " +
                                      artefact.key.text() + " is cached (" + name(kernel.hit.layer) +
                                      ") but not loaded; prepare it before the capture begins and keep the kernel"};
  auto start = std::chrono::steady_clock::now();
  PHASEC_ASSIGN(kernel.loaded, state.device->load(artefact.payload, kKernelName));
  known = kernel.loaded;
  kernel.load_us = microsecondsSince(start);
  return {};
}

Result<std::shared_ptr<KernelState>> prepareKernel(std::shared_ptr<RuntimeState> state, const Layers &layers, const Schedule &schedule,
                                                   bool capturing) {
  PHASEC_ASSIGN(Prepared p, prepareQuery(*state, layers, schedule));
  auto kernel = std::make_shared<KernelState>();
  kernel->runtime = state;
  kernel->module = std::shared_ptr<const ir::Module>(std::make_shared<Layers>(layers), &layers.module());
  kernel->key = p.query.key;
  PHASEC_ASSIGN(kernel->hit, fetch(*state, layers, p, *kernel, capturing));
  kernel->source_digest = std::move(p.fingerprint.source);
  kernel->source = std::move(p.rendered.source);
  kernel->plan = std::move(p.plan);
  if (state->device) PHASEC_TRY(load(*state, layers, *kernel, capturing));
  return kernel;
}

/// Everything but the device.
Result<std::shared_ptr<RuntimeState>> openState(const RuntimeOptions &options) {
  auto state = std::make_shared<RuntimeState>();
  state->options = options;
  state->templates = Templates::embedded();
  if (!options.templates_dir.empty()) {
    PHASEC_ASSIGN(state->templates, Templates::overlaid(options.templates_dir));
  }
  PHASEC_ASSIGN(state->cache, Cache::open(options.cache));
  return state;
}

} // namespace

Result<Runtime> Runtime::open(const RuntimeOptions &options) {
  PHASEC_ASSIGN(std::shared_ptr<RuntimeState> state, openState(options));
  if (options.device == DeviceChoice::Cuda || options.device == DeviceChoice::Auto) {
    auto cuda = openCuda(options.cuda_path, options.ordinal);
    if (cuda) state->device = cuda.take();
    else if (options.device == DeviceChoice::Cuda) return cuda.status();
    else state->cuda_problem = cuda.status().text();
  }
  if (!state->device && options.device != DeviceChoice::None) {
    if (!state->cuda_problem.empty()) state->log("no CUDA device, simulating (`phasec doctor` says more): " + state->cuda_problem.substr(0, state->cuda_problem.find(';')));
    state->device = openSim({options.sim_seed, options.sim_ctas});
  }
  return Runtime(std::move(state));
}

Result<Runtime> Runtime::with(const RuntimeOptions &options, std::unique_ptr<Device> device) {
  PHASEC_ASSIGN(std::shared_ptr<RuntimeState> state, openState(options));
  state->device = std::move(device);
  return Runtime(std::move(state));
}

Result<Kernel> Runtime::prepare(const Layers &layers, const Schedule &schedule) {
  PHASEC_ASSIGN(std::shared_ptr<KernelState> kernel, prepareKernel(state_, layers, schedule, false));
  return Kernel(std::move(kernel));
}

Result<Kernel> Runtime::prepare(const Layers &layers, const Schedule &schedule, void *stream) {
  bool capturing = false;
  if (state_->device) {
    PHASEC_ASSIGN(capturing, state_->device->capturing(stream));
  }
  PHASEC_ASSIGN(std::shared_ptr<KernelState> kernel, prepareKernel(state_, layers, schedule, capturing));
  return Kernel(std::move(kernel));
}

Result<Runtime::Explanation> Runtime::explain(const Layers &layers, const Schedule &schedule) {
  PHASEC_ASSIGN(Prepared p, prepareQuery(*state_, layers, schedule));
  Explanation e;
  e.key = p.query.key;
  e.schedule = p.plan.schedule;
  e.source = std::move(p.rendered.source);
  e.sections = p.query.sections;
  e.hit = state_->cache->lookup(p.query);
  if (!e.hit) e.miss = state_->cache->explain(p.query);
  return e;
}

Result<Schedule> Runtime::tuned(const Layers &layers, const Schedule &schedule) { return withTuned(*state_, layers, schedule); }
Result<TunedKey> Runtime::tunedKey(const Layers &layers, const Schedule &schedule) { return tunedKeyOf(*state_, layers, schedule); }

Result<uint64_t> Runtime::allocate(int64_t bytes) {
  if (!state_->device) return Status::usage("allocate: the runtime was opened without a device (DeviceChoice::None)");
  return state_->device->allocate(bytes);
}

void Runtime::release(uint64_t address) {
  if (state_->device) state_->device->release(address);
}

Status Runtime::upload(uint64_t to, const void *from, int64_t bytes) {
  if (!state_->device) return Status::usage("upload: the runtime was opened without a device (DeviceChoice::None)");
  return state_->device->upload(to, from, bytes);
}

Status Runtime::download(void *to, uint64_t from, int64_t bytes) {
  if (!state_->device) return Status::usage("download: the runtime was opened without a device (DeviceChoice::None)");
  PHASEC_TRY(state_->device->synchronize());
  return state_->device->download(to, from, bytes);
}

Cache &Runtime::cache() { return *state_->cache; }
Device &Runtime::device() { return *state_->device; }
bool Runtime::hasDevice() const { return state_->device != nullptr; }
const RuntimeOptions &Runtime::options() const { return state_->options; }
const std::string &Runtime::cudaProblem() const { return state_->cuda_problem; }
void Runtime::seal() { state_->sealed = true; }

const Key &Kernel::key() const { return state_->key; }
const Plan &Kernel::plan() const { return state_->plan; }
const std::string &Kernel::source() const { return state_->source; }
const std::string &Kernel::sourceDigest() const { return state_->source_digest; }
const Hit &Kernel::provenance() const { return state_->hit; }
const std::optional<Miss> &Kernel::miss() const { return state_->miss; }
double Kernel::compileMicroseconds() const { return state_->compile_us; }
double Kernel::loadMicroseconds() const { return state_->load_us; }
int64_t Kernel::workspaceBytes() const { return state_->plan.workspace_bytes; }
int Kernel::ctas() const {
  if (state_->plan.ctas_pinned) return state_->plan.ctas_pinned;
  return state_->runtime->device ? state_->runtime->device->info().sms : state_->plan.target->sm_counts.front();
}

} // namespace phasec
