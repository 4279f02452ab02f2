// bench_gate.cpp: the check that precedes every timing, and the bytes that a launch must move.
#include "runtime/cli/bench.h"

#include <chrono>
#include <cmath>
#include <cstring>

namespace phasec::cli {
namespace {

/// One rounding to bf16 (8 bits of significand) of values whose significands are uniform in [1, 2) has rel_l2
/// 2^-7 / sqrt(12) / sqrt(7/3) = 0.00148. PyTorch bf16 rounds a layer's values twelve times between x and y (norm, qkv,
/// rotation, attention, gate, output projection, residual, norm, gate and up, activation, product, down); the roundings are
/// independent, and a layer's gains from value to value are near one. Without PyTorch's own error on the same inputs, this
/// is the most a kernel may have.
constexpr double kRounding = 0.00148;
constexpr int kRoundingsPerLayer = 12;

std::vector<double> values(const OutputArray &out) {
  size_t size = out.dtype == "bf16" ? 2 : 4;
  std::vector<double> result(out.bytes.size() / size);
  for (size_t i = 0; i < result.size(); i++) {
    uint32_t bits = 0;
    std::memcpy(&bits, out.bytes.data() + i * size, size);
    result[i] = double(std::bit_cast<float>(size == 2 ? bits << 16 : bits));
  }
  return result;
}

Status checkExact(const Kernel &kernel, const ir::Module &module, const Staging &staging, const HostInputs &inputs, Gate &gate) {
  PHASEC_ASSIGN(Downloaded results, staging.download());
  PHASEC_ASSIGN(CheckResult check, checkAgainstReference(kernel.plan(), module, inputs, results));
  gate.bit_exact = check.bit_exact;
  gate.max_abs = check.max_abs;
  gate.rel_l2 = check.rel_l2;
  gate.findings = check.findings;
  return {};
}

/// Returned values against the same mathematics in double, nothing rounded in between.
Status checkFast(const Kernel &kernel, const ir::Module &module, const Staging &staging, const HostInputs &inputs, Gate &gate) {
  PHASEC_ASSIGN(Downloaded results, staging.downloadOutputs());
  std::map<std::string, std::vector<double>> expected;
  std::string error;
  phasec_reference::Options options;
  options.round_values = false;
  if (!phasec_reference::run_fp64_values(planJson(kernel.plan(), module), inputs.view(), &expected, &error, options))
    return Status::internal("the reference refuses the plan or its inputs: " + error);
  gate.bound = kRounding * std::sqrt(double(kRoundingsPerLayer * gate.instances));
  for (const OutputArray &out : results.outputs) {
    std::vector<double> got = values(out);
    const std::vector<double> &wanted = expected[out.name];
    if (got.size() != wanted.size()) return Status::internal("the reference has another %" + out.name);
    phasec_reference::Comparison c = phasec_reference::compare("f64", got.data(), wanted.data(), got.size());
    gate.max_abs = std::max(gate.max_abs, c.max_abs);
    gate.rel_l2 = std::max(gate.rel_l2, c.rel_l2);
    if (!(c.rel_l2 <= gate.bound))
      gate.findings.push_back("%" + out.name + ": rel_l2 " + std::to_string(c.rel_l2) + " against fp64, at most " + std::to_string(gate.bound));
  }
  return {};
}

int64_t weightBytes(const ir::Value &v) {
  if (v.isVector()) return v.shape[0] * ir::bytes(v.dtype);
  int64_t rows = v.shape[0], elements = rows * v.shape[1];
  switch (v.weight.format) {
  case ir::Format::nvfp4: return elements / 2 + elements / 16 + 4;
  case ir::Format::fp8_e4m3: return elements + (v.weight.fp8_scale == ir::Fp8Scale::Row ? 4 * rows : 4);
  case ir::Format::bf16: return elements * 2;
  }
  return 0;
}

} // namespace

Result<Gate> checkOnce(const Kernel &kernel, const ir::Module &module, Device &device, Staging &staging, const HostInputs &inputs) {
  auto start = std::chrono::steady_clock::now();
  Gate gate;
  gate.contract = kernel.plan().schedule.word("math");
  gate.instances = int(kernel.plan().instances.size());
  PHASEC_ASSIGN(Bound bound, kernel.bind(staging.buffers()));
  PHASEC_TRY(staging.wipeOutputs());
  PHASEC_TRY(bound.launch());
  PHASEC_TRY(device.synchronize());
  PHASEC_TRY(gate.contract == "exact" ? checkExact(kernel, module, staging, inputs, gate) : checkFast(kernel, module, staging, inputs, gate));
  PHASEC_ASSIGN(int64_t refused, bound.refusedSteps());
  if (refused) gate.findings.push_back("the kernel refused the step");
  gate.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return gate;
}

LaunchBytes launchBytes(const ir::Module &module, int tokens, int context) {
  LaunchBytes n;
  for (int i : ir::instances(module)) {
    const ir::Layer &layer = module.layers[size_t(i)];
    for (const ir::Value &v : layer.values) {
      if (v.kind == ir::ValueKind::Weight) n.weights += weightBytes(v);
      if (v.kind == ir::ValueKind::Cache)
        n.kv += 2 * int64_t(tokens) * (context + 1) * layer.dim("kv_heads") * layer.dim("head_dim") * ir::bytes(v.cache.dtype);
    }
  }
  return n;
}

} // namespace phasec::cli
