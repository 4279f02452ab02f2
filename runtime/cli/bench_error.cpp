// bench_error.cpp: `bench --error`: how far the kernel is from the same mathematics in fp64, beside PyTorch in bf16 on the same
// inputs. Weight and cache scales are powers of two, so that bf16 holds every weight exactly and nobody is charged for storage.
#include "runtime/cli/bench.h"
#include "runtime/cli/program.h"

#include "compiler/plan.h"

#include "llvm/Support/FileSystem.h"

#include <numeric>

namespace phasec::cli {
namespace {

constexpr int kPeerSeconds = 300;
constexpr double kSelfMax = 0.1; ///< the peer in fp64 must be that much nearer to the truth than in bf16, or it is another layer

std::string_view bytesOf(const void *data, size_t bytes) { return {static_cast<const char *>(data), bytes}; }

/// Without the instance: "0/w_o" -> "w_o".
std::string bare(const std::string &name) { return name.substr(name.find('/') + 1); }

/// Files of one seed's inputs and truth, and inputs.json, which names them.
class Dump {
public:
  Dump(std::string directory, const HostInputs &inputs) : directory_(std::move(directory)), in_(inputs) {}

  Status write(int seed, const std::string &plan, const std::map<std::string, std::vector<double>> &truth) {
    if (std::error_code error = llvm::sys::fs::create_directory(directory_)) return Status::io(directory_ + ": " + error.message());
    for (const auto &[name, bytes] : in_.arrays) PHASEC_TRY(file(bare(name), bytes.data(), bytes.size()));
    for (const auto &[name, c] : in_.caches) {
      PHASEC_TRY(file(bare(name) + ".k", c.k.data(), c.k.size()));
      if (!c.v.empty()) PHASEC_TRY(file(bare(name) + ".v", c.v.data(), c.v.size()));
      PHASEC_TRY(file(bare(name) + ".scales", c.scales, sizeof c.scales));
    }
    for (const auto &[name, values] : truth) {
      if (name.find('/') == std::string::npos) PHASEC_TRY(file(name + ".truth", values.data(), values.size() * sizeof(double)));
    }
    return writeFile(directory_ + "/inputs.json", jsonText("inputs", [&](llvm::json::OStream &json) { about(json, seed, plan, truth); }));
  }

private:
  Status file(const std::string &name, const void *data, size_t bytes) { return writeFile(directory_ + "/" + name, bytesOf(data, bytes)); }

  void about(llvm::json::OStream &json, int seed, const std::string &plan, const std::map<std::string, std::vector<double>> &truth) const {
    json.attribute("seed", seed);
    json.attribute("tokens", in_.tokens());
    json.attribute("context", in_.seq_context[0]);
    json.attributeArray("page_table", [&] {
      for (int32_t page : in_.page_table) json.value(page);
    });
    json.attributeObject("arrays", [&] {
      for (const auto &[name, bytes] : in_.arrays) json.attribute(bare(name), bare(name));
    });
    json.attributeObject("caches", [&] {
      for (const auto &[name, c] : in_.caches) json.attributeObject(bare(name), [&, &name = name, &c = c] { cache(json, bare(name), c); });
    });
    json.attributeObject("truth", [&] {
      for (const auto &[name, values] : truth)
        if (name.find('/') == std::string::npos) json.attribute(name, name + ".truth");
    });
    json.attributeBegin("plan");
    json.rawValue(plan);
    json.attributeEnd();
  }

  void cache(llvm::json::OStream &json, const std::string &name, const HostCache &c) const {
    json.attribute("dtype", c.dtype);
    json.attribute("k", name + ".k");
    json.attribute("v", name + (c.v.empty() ? ".k" : ".v"));
    json.attribute("scales", name + ".scales");
    json.attribute("v_offset", c.v_offset);
    json.attribute("pages", in_.pages);
    json.attribute("page", c.page);
    json.attribute("page_stride", c.page_stride);
    json.attribute("row_stride", c.row_stride);
    json.attribute("head_stride", c.head_stride);
    json.attribute("row_bytes", c.row_bytes);
  }

  std::string directory_;
  const HostInputs &in_;
};

/// One seed: launches, compares with the truth, leaves a dump for the peer.
Status oneSeed(const Kernel &kernel, const ir::Module &module, Device &device, int seed, const std::string &directory, ErrorReport &report) {
  InputOptions wanted;
  wanted.seed = uint64_t(seed);
  wanted.tokens = report.tokens;
  wanted.contexts.assign(size_t(report.tokens), report.context);
  wanted.plain_scales = true;
  PHASEC_ASSIGN(HostInputs inputs, makeInputs(kernel.plan(), module, wanted));
  PHASEC_ASSIGN(Staging staging, Staging::make(kernel, device, inputs));
  PHASEC_ASSIGN(Bound bound, kernel.bind(staging.buffers()));
  PHASEC_TRY(staging.wipeOutputs());
  PHASEC_TRY(bound.launch());
  PHASEC_TRY(device.synchronize());
  PHASEC_ASSIGN(Downloaded results, staging.downloadOutputs());
  std::string plan = planJson(kernel.plan(), module), error;
  std::map<std::string, std::vector<double>> truth;
  phasec_reference::Options unrounded;
  unrounded.round_values = false;
  if (!phasec_reference::run_fp64_values(plan, inputs.view(), &truth, &error, unrounded))
    return Status::internal("the reference refuses the plan or its inputs: " + error);
  for (const OutputArray &out : results.outputs) {
    const std::vector<double> &expected = truth.at(out.name);
    std::vector<double> mine = phasec_reference::decode(out.dtype, out.bytes.data(), expected.size());
    ErrorRow &row = report.rows.emplace_back();
    row.seed = seed;
    row.value = out.name;
    row.rel_l2 = phasec_reference::compare("f64", mine.data(), expected.data(), expected.size()).rel_l2;
  }
  return Dump(directory, inputs).write(seed, plan, truth);
}

void fill(ErrorReport &report, const std::vector<llvm::json::Object> &lines) {
  for (const llvm::json::Object &line : lines)
    for (ErrorRow &row : report.rows) {
      if (textOf(line, "value") != row.value || int(numberOf(line, "seed")) != row.seed) continue;
      row.torch = numberOf(line, "rel_l2");
      row.torch_fp64 = numberOf(line, "self_rel_l2");
      if (row.torch_fp64 > kSelfMax * row.torch) report.problem = "PyTorch in fp64 is not what the reference computes: it runs another layer";
    }
}

} // namespace

std::vector<std::string> ErrorReport::values() const {
  std::vector<std::string> names;
  for (const ErrorRow &row : rows)
    if (row.seed == rows.front().seed) names.push_back(row.value);
  return names;
}

ErrorRow ErrorReport::mean(const std::string &value) const {
  ErrorRow mean;
  mean.value = value;
  int n = 0;
  for (const ErrorRow &row : rows) {
    if (row.value != value) continue;
    mean.rel_l2 += row.rel_l2;
    mean.torch += row.torch;
    n++;
  }
  mean.rel_l2 /= n;
  mean.torch /= n;
  return mean;
}

bool ErrorReport::holds() const {
  for (const std::string &value : values()) {
    ErrorRow m = mean(value);
    if (problem.empty() && !(m.rel_l2 <= kErrorRatioMax * m.torch)) return false;
  }
  return true;
}

Result<ErrorReport> measureError(const Session &session, const BenchOptions &options, const Layers &layers, Runtime &runtime, Schedule schedule) {
  ErrorReport report;
  report.tokens = options.tokens.front();
  report.context = options.contexts.front();
  PHASEC_TRY(compileForBatch(schedule, report.tokens));
  PHASEC_ASSIGN(Kernel kernel, runtime.prepare(layers, schedule));
  if (kernel.plan().instances.size() != 1) return Status::usage("--error takes a single layer, not a stack");
  PHASEC_ASSIGN(std::unique_ptr<WorkDirectory> directory, WorkDirectory::make());
  std::vector<std::string> arguments{"--error"};
  for (int seed = 1; seed <= options.error_seeds; seed++) {
    arguments.push_back(*directory / ("seed" + std::to_string(seed)));
    say("[" + std::to_string(seed) + "/" + std::to_string(options.error_seeds) + "] error against fp64, seed " + std::to_string(seed));
    PHASEC_TRY(oneSeed(kernel, layers.module(), runtime.device(), seed, arguments.back(), report));
  }
  PHASEC_ASSIGN(std::vector<llvm::json::Object> lines, runPeer(session, *directory, "torch", arguments, kPeerSeconds, report.problem));
  fill(report, lines);
  return report;
}

} // namespace phasec::cli
