// bench_gate.cpp: the check that precedes every timing, and the bytes that a launch must move.
#include "runtime/cli/bench.h"

#include <chrono>
#include <cmath>
#include <cstring>

namespace phasec::cli {
namespace {

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
  PHASEC_ASSIGN(Downloaded results, staging.download());
  PHASEC_ASSIGN(CheckResult check, checkAgainstReference(kernel.plan(), module, inputs, results));
  gate.bit_exact = gate.contract == "exact" && check.bit_exact;
  gate.max_abs = check.max_abs;
  gate.rel_l2 = check.rel_l2;
  gate.bound = check.rel_l2_bound;
  gate.findings = check.findings;
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
