// checking.cpp: see checking.h.
#include "runtime/cli/checking.h"

#include "llvm/Support/Format.h"
#include "llvm/Support/raw_ostream.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

namespace phasec::cli {
namespace {

using phasec_reference::Comparison;

// fast: what an error may be, against the error of rounding to the declared types alone. The floor is that of fp32 sums
// of f16 and bf16 products, which matters where nothing is rounded. The error of an e4m3 result is of values that fall to the
// other side of a tie: with steps s and errors e before the rounding, relative to the values, e / s of them, sqrt(e s) in all.
// A sample of few rows has few of them by luck, so the floor is that of bf16's rounding: s = 2^-3.5, e = 2^-9.
constexpr double kFastRatioMax = 2, kFastFloor = 1.0 / 4096, kFastFloorE4m3 = 0.0131;

size_t elements(const std::string &dtype, size_t bytes) { return dtype == "bf16" ? bytes / 2 : dtype == "fp8_e4m3" ? bytes : bytes / 4; }

/// What results are held against: under `exact` the reference's bits; under `fast` the same mathematics in double, with the
/// error that rounding to the declared types alone has.
struct Reference {
  bool exact = true;
  phasec_reference::Output rounded;
  std::map<std::string, std::vector<double>> truth; ///< fast

  bool compute(const std::string &plan, const phasec_reference::Inputs &inputs, std::string *error) {
    if (exact) return phasec_reference::run(plan, inputs, &rounded, error);
    phasec_reference::Options unrounded;
    unrounded.round_values = false;
    return phasec_reference::run_fp64(plan, inputs, &rounded, error) &&
           phasec_reference::run_fp64_values(plan, inputs, &truth, error, unrounded);
  }
};

void recordExact(CheckResult &result, const std::string &what, const std::string &dtype, const uint8_t *got,
                 const std::vector<uint8_t> &expected, int64_t row_elements) {
  Comparison c = phasec_reference::compare(dtype, got, expected.data(), elements(dtype, expected.size()));
  result.max_abs = std::max(result.max_abs, c.max_abs);
  result.rel_l2 = std::max(result.rel_l2, c.rel_l2);
  if (c.bit_exact) return;
  std::string text;
  llvm::raw_string_ostream out(text);
  out << what << " differs from the reference: first at row " << c.first_mismatch_index / row_elements << ", element "
      << c.first_mismatch_index % row_elements << "; max_abs " << llvm::format("%g", c.max_abs) << ", rel_l2 " << llvm::format("%g", c.rel_l2);
  result.find(out.str());
}

void recordFast(CheckResult &result, const std::string &what, const std::string &dtype, const uint8_t *got,
                const std::vector<uint8_t> &rounded, const std::vector<double> &truth) {
  std::vector<double> mine = phasec_reference::decode(dtype, got, truth.size());
  std::vector<double> best = phasec_reference::decode(dtype, rounded.data(), truth.size());
  Comparison c = phasec_reference::compare("f64", mine.data(), truth.data(), truth.size());
  double floor = phasec_reference::compare("f64", best.data(), truth.data(), truth.size()).rel_l2;
  if (dtype == "fp8_e4m3") floor = std::max(floor, kFastFloorE4m3);
  double bound = kFastRatioMax * floor + kFastFloor;
  result.max_abs = std::max(result.max_abs, c.max_abs);
  result.rel_l2 = std::max(result.rel_l2, c.rel_l2);
  result.rel_l2_bound = std::max(result.rel_l2_bound, bound);
  if (c.rel_l2 <= bound) return;
  std::string text;
  llvm::raw_string_ostream out(text);
  out << what << ": rel_l2 " << llvm::format("%g", c.rel_l2) << " against fp64 exceeds " << llvm::format("%g", bound) << ", of which rounding to "
      << dtype << " and the other declared types explains " << llvm::format("%g", floor);
  result.find(out.str());
}

void record(CheckResult &result, const Reference &reference, const std::string &name, const std::string &what, const std::string &dtype,
            const uint8_t *got, int64_t row_elements) {
  const std::vector<uint8_t> &rounded = reference.rounded.buffers.at(name);
  if (reference.exact || dtype == "i32") recordExact(result, what, dtype, got, rounded, row_elements);
  else recordFast(result, what, dtype, got, rounded, reference.truth.at(name));
}

/// The returned logits that a token was chosen from; null when the layer does not return them.
const OutputArray *logitsOf(const ir::Module &module, const Downloaded &downloaded, const std::string &token) {
  for (const ir::Layer &layer : module.layers)
    for (const ir::Phase &p : layer.phases) {
      if (p.op != ir::Op::argmax || layer.values[size_t(p.results[0])].name != token) continue;
      for (const OutputArray &out : downloaded.outputs)
        if (out.name == layer.values[size_t(p.operands[0])].name) return &out;
    }
  return nullptr;
}

/// Under `fast` logits differ from the reference's by rounding, so a near tie may fall either way: a token must be the first
/// largest of the kernel's own logits, which are held against the reference themselves.
void checkTokens(CheckResult &result, const OutputArray &tokens, const OutputArray &logits) {
  size_t rows = tokens.bytes.size() / 4, columns = size_t(logits.shape.back());
  std::vector<double> chosen = phasec_reference::decode("i32", tokens.bytes.data(), rows);
  std::vector<double> values = phasec_reference::decode(logits.dtype, logits.bytes.data(), rows * columns);
  for (size_t row = 0; row < rows; row++) {
    const double *v = values.data() + row * columns;
    size_t best = 0;
    for (size_t i = 1; i < columns; i++)
      if (v[i] > v[best] || (std::isnan(v[best]) && !std::isnan(v[i]))) best = i;
    if (chosen[row] == double(best)) continue;
    result.find("%" + tokens.name + ": row " + std::to_string(row) + " is " + std::to_string(int64_t(chosen[row])) + ", but %" + logits.name +
                " is largest at " + std::to_string(best));
  }
}

/// This step's rows of a downloaded cache, in the reference's order [token][head][dim].
std::vector<uint8_t> gatherRows(const HostInputs &inputs, const HostCache &cache, const uint8_t *base) {
  std::vector<uint8_t> rows;
  for (int s = 0; s < inputs.sequences(); s++)
    for (int t = inputs.seq_first[size_t(s)]; t < inputs.seq_first[size_t(s) + 1]; t++) {
      int row = inputs.seq_context[size_t(s)] + t - inputs.seq_first[size_t(s)];
      const uint8_t *at = base + inputs.page(s, row, cache.page) * cache.page_stride + row % cache.page * cache.row_stride;
      for (int64_t h = 0; h < cache.heads; h++)
        rows.insert(rows.end(), at + h * cache.head_stride, at + h * cache.head_stride + cache.row_bytes);
    }
  return rows;
}

/// Writes `rows` where gatherRows reads them.
void scatterRows(const HostInputs &inputs, const HostCache &cache, uint8_t *base, const std::vector<uint8_t> &rows) {
  const uint8_t *from = rows.data();
  for (int s = 0; s < inputs.sequences(); s++)
    for (int t = inputs.seq_first[size_t(s)]; t < inputs.seq_first[size_t(s) + 1]; t++) {
      int row = inputs.seq_context[size_t(s)] + t - inputs.seq_first[size_t(s)];
      uint8_t *at = base + inputs.page(s, row, cache.page) * cache.page_stride + row % cache.page * cache.row_stride;
      for (int64_t h = 0; h < cache.heads; h++, from += cache.row_bytes) std::memcpy(at + h * cache.head_stride, from, size_t(cache.row_bytes));
    }
}

void checkCache(CheckResult &result, const HostInputs &inputs, const std::string &name, const HostCache &got,
                const Reference &reference) {
  HostCache expected = inputs.caches.at(name);
  uint8_t *v_base = expected.v.empty() ? expected.k.data() + expected.v_offset : expected.v.data();
  for (bool values : {false, true}) {
    std::string rows = name + (values ? ".appended.v" : ".appended.k");
    if (!reference.rounded.buffers.count(rows)) continue;
    std::vector<uint8_t> written = gatherRows(inputs, got, values ? got.vBase() : got.k.data());
    int64_t row_elements = int64_t(elements(got.dtype, size_t(got.heads * got.row_bytes)));
    record(result, reference, rows, std::string("appended ") + (values ? "V" : "K") + " of %" + name, got.dtype, written.data(), row_elements);
    scatterRows(inputs, expected, values ? v_base : expected.k.data(), written);
  }
  auto first_change = [&](const std::vector<uint8_t> &a, const std::vector<uint8_t> &b, const char *what) {
    auto at = std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first;
    if (at != a.end())
      result.find("%" + name + ": byte " + std::to_string(at - a.begin()) + " of " + what +
                  " changed, which is in none of this step's rows");
  };
  first_change(expected.k, got.k, expected.v.empty() ? "the cache" : "K");
  first_change(expected.v, got.v, "V");
}

} // namespace

Result<CheckResult> checkAgainstReference(const Plan &plan, const ir::Module &module, const HostInputs &inputs,
                                          const Downloaded &downloaded) {
  CheckResult result;
  Reference reference;
  reference.exact = plan.schedule.word("math") == "exact";
  std::string error;
  if (!reference.compute(planJson(plan, module), inputs.view(), &error))
    return Status::internal("the reference refuses the plan or its inputs: " + error);
  for (const OutputArray &out : downloaded.outputs) {
    auto expected = reference.rounded.buffers.find(out.name);
    if (expected == reference.rounded.buffers.end()) return Status::internal("the reference has no output %" + out.name);
    if (expected->second.size() != out.bytes.size())
      result.find("%" + out.name + " has " + std::to_string(out.bytes.size()) + " bytes, the reference's " +
                  std::to_string(expected->second.size()));
    else if (const OutputArray *logits = reference.exact || out.dtype != "i32" ? nullptr : logitsOf(module, downloaded, out.name))
      checkTokens(result, out, *logits);
    else record(result, reference, out.name, "%" + out.name, out.dtype, out.bytes.data(), out.shape.size() > 1 ? out.shape.back() : 1);
  }
  for (const std::string &name : downloaded.overruns) result.find("%" + name + ": rows behind this step's tokens were written");
  for (const auto &[name, cache] : downloaded.caches) checkCache(result, inputs, name, cache, reference);
  return result;
}

} // namespace phasec::cli
