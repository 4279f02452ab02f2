// bench_host.cpp: `phasec bench FILE --host`: what phasec itself costs on the host, each figure beside a baseline of the same run.
#include "runtime/cli/bench.h"

#include "cache/store.h"
#include "compiler/fingerprint.h"
#include "compiler/nvrtc.h"
#include "compiler/plan.h"
#include "runtime/cli/program.h"
#include "runtime/cli/stub_driver.h"

#include "llvm/Support/Format.h"
#include "llvm/Support/Path.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <map>

namespace phasec::cli {
namespace {

constexpr int kKernels = 32; ///< in the blessed file
constexpr int kBatch = 100;  ///< calls per sample of what takes less than a microsecond

struct Figure {
  std::string what, baseline, target;
  double us, baseline_us;
  std::vector<double> samples;
};

/// Median of `rounds` samples, in microseconds per call; every sample makes `batch` calls.
double median(const std::function<void(int)> &call, int samples, int batch, std::vector<double> *all = nullptr) {
  std::vector<double> us;
  for (int i = 0; i < samples; i++) {
    auto start = std::chrono::steady_clock::now();
    for (int n = 0; n < batch; n++) call(i * batch + n);
    us.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count() / batch);
  }
  if (all) *all = us;
  std::nth_element(us.begin(), us.begin() + samples / 2, us.end());
  return us[size_t(samples / 2)];
}

class HostBench {
public:
  HostBench(const Session &session, std::string file, int rounds, Layers layers, std::string text)
      : session_(session), file_(std::move(file)), rounds_(rounds), layers_(std::move(layers)), text_(std::move(text)) {}

  Status run() {
    PHASEC_ASSIGN(scratch_, WorkDirectory::make());
    PHASEC_TRY(compileOnce());
    PHASEC_TRY(parseToKey());
    PHASEC_TRY(files());
    PHASEC_TRY(lookups());
    return launches();
  }

  std::vector<Figure> figures;

private:
  /// What is measured must not be optimised away.
  void keep(size_t n) { sink_ = sink_ + n; }

  void add(std::string what, std::string target, double us, std::vector<double> samples, std::string baseline, double baseline_us) {
    figures.push_back({std::move(what), std::move(baseline), std::move(target), us, baseline_us, std::move(samples)});
  }

  /// One miss, into a cache of its own: phasec's time is what nvrtcCompileProgram did not take.
  Status compileOnce() {
    RuntimeOptions options = session_.options;
    options.device = DeviceChoice::None;
    options.cache = CacheOptions();
    options.cache.user_dir = *scratch_ / "user";
    PHASEC_ASSIGN(Runtime warm, Runtime::open(options));
    PHASEC_ASSIGN(Kernel first, warm.prepare(layers_, session_.schedule)); // opens NVRTC
    PHASEC_TRY(clearStore(userFile(options.cache.user_dir)));
    PHASEC_ASSIGN(Runtime runtime, Runtime::open(options));
    auto start = std::chrono::steady_clock::now();
    PHASEC_ASSIGN(Kernel kernel, runtime.prepare(layers_, session_.schedule));
    double total = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
    PHASEC_ASSIGN(compiled_, readEntry(userFile(options.cache.user_dir), kernel.key(), kernel.provenance().artefact->toolchain));
    double nvrtc = double(compiled_.evidence.compile_us);
    add("a miss, besides nvrtcCompileProgram", "5 ms or 3 %", total - nvrtc, {total - nvrtc}, "nvrtcCompileProgram", nvrtc);
    return {};
  }

  Status parseToKey() {
    Status failed;
    auto once = [&](int) {
      auto layers = Layers::parse(file_, text_);
      auto source = layers ? stageText(*layers, session_.schedule, Stage::Cuda, "") : Result<std::string>(layers.status());
      if (!source) failed = source.status();
      else keep(fingerprint(*source, nvrtcArguments({}), compiled_.artefact.target, kLaunchAbi).low);
    };
    std::vector<double> samples;
    double us = median(once, rounds_, 1, &samples);
    double read = median([&](int) { keep(readFile(file_)->size()); }, rounds_, 1);
    add("parse to key", "400 us", us, std::move(samples), "reading the .phase file", read);
    return failed;
  }

  /// The entry under key number i.
  Compiled variant(uint64_t i) const {
    Compiled c = compiled_;
    c.artefact.key.fingerprint.low ^= (i + 1) * 0x9e3779b97f4a7c15ull;
    return c;
  }
  static Query query(const Compiled &c) { return {c.artefact.key, c.artefact.toolchain, c.artefact.sections.list()}; }

  Status files() {
    std::string raw = *scratch_ / "raw";
    std::string bytes(reinterpret_cast<const char *>(compiled_.artefact.payload.data()), compiled_.artefact.payload.size());
    double write = median([&](int) { (void)writeFile(raw, bytes).ok(); }, kKernels, 1);
    read_ = median([&](int) { keep(readFile(raw)->size()); }, rounds_, 1);
    for (uint64_t i = 0; i < kKernels; i++) kernels_.push_back(variant(i));
    PHASEC_TRY(writeBlessed(*scratch_ / "blessed.db", kernels_));
    PHASEC_ASSIGN(std::unique_ptr<Store> user, Store::openUser(*scratch_ / "publish.db"));
    std::vector<double> samples;
    double publish = median([&](int i) { (void)user->publish(kernels_[size_t(i)]).ok(); }, kKernels, 1, &samples);
    add("publish", "", publish, samples, "writing a plain file", write);
    double hit = median(
        [&](int i) {
          const Artefact &a = kernels_[size_t(i % kKernels)].artefact;
          keep(user->find(a.key, a.toolchain, ToolchainPolicy::Match)->artefact->payload.size());
        },
        rounds_, 1, &samples);
    add("hit in the user file, checked", "40 us", hit, samples, "reading a plain file", read_);
    return {};
  }

  Status lookups() {
    CacheOptions options;
    options.blessed = {{*scratch_ / "blessed.db", ""}};
    std::vector<double> samples;
    double serve = median(
        [&](int) {
          auto cache = Cache::open(options);
          for (const Compiled &k : kernels_) keep((*cache)->lookup(query(k))->path.size());
        },
        std::max(5, rounds_ / 20), 1, &samples);
    add("open a blessed file and hit its 32 kernels", "20 ms", serve, samples, "reading 32 plain files", read_ * kKernels);
    PHASEC_ASSIGN(std::unique_ptr<Cache> cache, Cache::open(options));
    std::vector<Query> queries;
    std::map<Key, int> map;
    for (const Compiled &k : kernels_) {
      queries.push_back(query(k));
      map[k.artefact.key] = 1;
      keep(cache->lookup(queries.back())->path.size());
    }
    double found = median([&](int i) { keep(size_t(map.find(queries[size_t(i % kKernels)].key)->second)); }, rounds_, kBatch);
    double memory = median([&](int i) { keep(cache->lookup(queries[size_t(i % kKernels)])->path.size()); }, rounds_, kBatch, &samples);
    add("look-up in memory", "1 us", memory, samples, "std::map::find", found);
    Query strange = queries[0];
    strange.key.wo_split = strange.key.wo_split == 4 ? 8 : 4;
    double explain = median([&](int) { keep(cache->explain(strange).reasons.size()); }, std::max(5, rounds_ / 10), 1, &samples);
    add("explain a miss", "", explain, samples, "reading a plain file", read_);
    return {};
  }

  /// Bound::launch over a driver that does nothing, against the bare call of its cuLaunchKernelEx.
  Status launches() {
    cuda::DriverApi api = stubDriver();
    PHASEC_ASSIGN(std::unique_ptr<cuda::CudaDevice> device, cuda::CudaDevice::open(api, 0));
    RuntimeOptions options = session_.options;
    options.device = DeviceChoice::None;
    options.cache = CacheOptions();
    options.cache.user_dir = *scratch_ / "user";
    PHASEC_ASSIGN(Runtime runtime, Runtime::with(options, std::move(device)));
    PHASEC_ASSIGN(Kernel kernel, runtime.prepare(layers_, session_.schedule));
    Buffers buffers;
    const uint64_t somewhere = 1 << 20; // the stub never looks
    for (const BufferSpec &spec : kernel.buffers()) {
      std::string name = std::to_string(spec.instance) + "/" + spec.name;
      std::vector<int64_t> shape = spec.shape;
      for (int64_t &extent : shape) extent = extent < 0 ? kTokensMax : extent;
      if (spec.kind == "cache") buffers.caches[name] = kvBuffer(kernel, spec, somewhere);
      else buffers.arrays[spec.kind == "step" ? spec.name : name] = {somewhere, spec.dtype, shape, spec.layout};
    }
    PHASEC_ASSIGN(Bound bound, kernel.bind(buffers));
    Status failed;
    std::vector<double> samples;
    double ours = median([&](int) { if (Status s = bound.launch(); !s.ok()) failed = s; }, rounds_, kBatch, &samples);
    cuda::LaunchConfig config;
    double bare = median([&](int) { keep(size_t(api.cuLaunchKernelEx(&config, nullptr, nullptr, nullptr))); }, rounds_, kBatch);
    add("prepared launch, over a driver that does nothing", "0.1 us more", ours, std::move(samples), "the bare driver call", bare);
    return failed;
  }

  /// Strides that the declared order accepts.
  KvBuffer kvBuffer(const Kernel &kernel, const BufferSpec &spec, uint64_t address) const {
    const Body &body = kernel.plan().bodies[size_t(kernel.plan().instances[size_t(spec.instance)].body)];
    const ir::Layer &layer = layers_.module().layers[size_t(body.layer)];
    for (const ir::Value &v : layer.values)
      if (v.name == spec.name) {
        int64_t row = layer.dim("head_dim") * ir::bytes(v.cache.dtype), heads = layer.dim("kv_heads"), page = v.cache.page;
        return {address, address, page * heads * row, v.cache.hnd ? row : heads * row, v.cache.hnd ? page * row : row, spec.dtype, v.cache.page, address};
      }
    return {};
  }

  const Session &session_;
  const std::string file_;
  const int rounds_;
  Layers layers_;
  std::string text_;
  std::unique_ptr<WorkDirectory> scratch_;
  Compiled compiled_;
  std::vector<Compiled> kernels_;
  double read_ = 0;
  volatile size_t sink_ = 0;
};

void printFigures(const std::vector<Figure> &figures) {
  llvm::raw_ostream &out = llvm::outs();
  using llvm::right_justify;
  auto number = [](double v) {
    std::string text;
    llvm::raw_string_ostream(text) << llvm::format("%.3f", v);
    return text;
  };
  out << llvm::left_justify("median", 50) << right_justify("us", 14) << right_justify("goal", 14) << right_justify("ratio", 12) << "  to (us)\n";
  for (const Figure &f : figures)
    out << llvm::left_justify(f.what, 50) << right_justify(number(f.us), 14) << right_justify(f.target, 14)
        << right_justify(number(f.us / f.baseline_us), 12) << "  " << f.baseline << " (" << number(f.baseline_us) << ")\n";
}

void writeFigures(const std::vector<Figure> &figures, const std::string &file) {
  printJson("bench", [&](llvm::json::OStream &json) {
    json.attribute("file", clean(file));
    json.attributeArray("host", [&] {
      for (const Figure &f : figures)
        json.object([&] {
          json.attribute("what", f.what);
          json.attribute("median_us", f.us);
          json.attribute("goal", f.target);
          json.attribute("baseline", f.baseline);
          json.attribute("baseline_us", f.baseline_us);
          json.attributeArray("samples_us", [&] {
            for (double us : f.samples) json.value(us);
          });
        });
    });
  });
}

} // namespace

Status hostBench(const Session &session, const std::string &file, int rounds) {
  PHASEC_ASSIGN(std::string text, readFile(file));
  PHASEC_ASSIGN(Layers layers, Layers::parse(file, text));
  HostBench bench(session, file, rounds, std::move(layers), std::move(text));
  PHASEC_TRY(bench.run());
  if (wantJson()) writeFigures(bench.figures, file);
  else printFigures(bench.figures);
  return {};
}

} // namespace phasec::cli
