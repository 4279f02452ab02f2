// runtime.cpp: the one place where compiler and cache meet. A layer becomes a job by plan -> render; a job goes key -> cache ->
// compile -> load.
#include "runtime/job.h"

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

// ---- jobs ------------------------------------------------------------------------------------------------------

namespace {

using detail::Job;
using detail::nvrtcSearch;

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

Result<detail::Obtained> detail::obtain(RuntimeState &state, const Job &job, bool capturing) {
  Obtained o;
  PHASEC_ASSIGN(o.hit, fetch(state, job, o, capturing));
  if (state.device) PHASEC_TRY(load(state, job, o, capturing));
  return o;
}

// ---- layers ----------------------------------------------------------------------------------------------------

namespace {

using detail::compileOptions;

/// A layer's kernel before the cache is asked.
struct Prepared {
  Plan plan;
  detail::Job job;
};

/// What the key is made of besides the source: what people write.
std::vector<Section> sections(const Layers &layers, const Plan &plan) {
  std::vector<Section> all;
  all.push_back({"ir", layers.digest(), layers.name()});
  for (const KnobInfo &k : knobs()) {
    std::string text = plan.schedule.text(k.name);
    if (std::string_view(k.name) == "target" || std::string_view(k.name) == "wo_split") continue; // sections of their own
    all.push_back({std::string("knob:") + k.name, byteDigest(text), text});
  }
  return all;
}

/// The manifest line that would have made a hit of a kernel, and what to do with it.
std::string blessText(bool simulated, const Layers &layers, const Plan &plan, const std::string &source) {
  std::string text = "to bless it, add this line to a manifest and run `phasec bless MANIFEST --out blessed.db`:\n";
  if (simulated) text = "a simulated kernel is compiled where it runs and cannot be blessed; for the GPU the manifest line is:\n";
  return text + "  " + manifestLine(layers, plan, source).text() + "\n";
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
  PHASEC_ASSIGN(Rendered rendered, render(p.plan, layers.module(), state.templates));
  p.job.name = layers.name();
  p.job.entry = kKernelName;
  p.job.source = std::move(rendered.source);
  p.job.hardware = target;
  p.job.compile = compileOptions(p.plan);
  p.job.config = p.plan.schedule.canonical();
  p.job.query.sections = sections(layers, p.plan);
  identify(state, p.job, p.plan.schedule.integer("wo_split"));
  return p;
}

Result<std::shared_ptr<KernelState>> prepareKernel(std::shared_ptr<RuntimeState> state, const Layers &layers, const Schedule &schedule,
                                                   bool capturing) {
  PHASEC_ASSIGN(Prepared p, prepareQuery(*state, layers, schedule));
  if (state->options.prove) p.job.check = [&] { return prove(p.plan, layers.module()); };
  p.job.remedy = [&] { return blessText(state->simulated(), layers, p.plan, p.job.source); };
  PHASEC_ASSIGN(detail::Obtained o, detail::obtain(*state, p.job, capturing));
  auto kernel = std::make_shared<KernelState>();
  kernel->runtime = state;
  kernel->module = std::shared_ptr<const ir::Module>(std::make_shared<Layers>(layers), &layers.module());
  kernel->key = p.job.query.key;
  kernel->hit = std::move(o.hit);
  kernel->miss = std::move(o.miss);
  kernel->compile_us = o.compile_us;
  kernel->load_us = o.load_us;
  kernel->loaded = std::move(o.loaded);
  kernel->source_digest = std::move(p.job.fingerprint.source);
  kernel->source = std::move(p.job.source);
  kernel->plan = std::move(p.plan);
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
  e.key = p.job.query.key;
  e.schedule = p.plan.schedule;
  e.source = std::move(p.job.source);
  e.sections = p.job.query.sections;
  e.hit = state_->cache->lookup(p.job.query);
  if (!e.hit) e.miss = state_->cache->explain(p.job.query);
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
