// The same mathematics in double: plain sums, a two-pass softmax, library functions.
#include "tests/reference/machine.h"

#include <algorithm>

namespace phasec_reference {

namespace {

constexpr int64_t kUnitRows = 16;

double squares(const double *x, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += x[i] * x[i];
  return sum;
}

// Begin and end of every slot, from its segments.
std::vector<std::pair<int64_t, int64_t>> slotBounds(const GemvPlan &plan) {
  std::vector<std::pair<int64_t, int64_t>> bounds(size_t(plan.slots), {0, 0});
  for (const Segment &segment : plan.segments) {
    auto &slot = bounds[size_t(segment.slot)];
    slot.first = segment.fold == 0 ? segment.begin : slot.first;
    slot.second = segment.end;
  }
  return bounds;
}

// One token against its rows, for the heads of one KV head.
struct TokenJob {
  const Kernels &kernels;
  const CacheRows &cache;
  int64_t heads;
  const double *q;
  double scale;

  void run(int64_t sequence, int64_t token, int64_t rows, int64_t kv_head, double *out) const {
    int64_t hd = cache.head_dim, group = heads / cache.kv_heads, base = (token * heads + kv_head * group) * hd;
    std::vector<float> row(size_t(hd), 0.0f);
    std::vector<double> scores(size_t(group * rows));
    for (int64_t j = 0; j < rows; ++j) {
      cache.decode(kernels, sequence, j, kv_head, false, row.data());
      for (int64_t h = 0; h < group; ++h)
        scores[size_t(h * rows + j)] = kernels.dot64(row.data(), q + base + h * hd, hd) * scale;
    }
    std::vector<double> sums(size_t(group), 0.0);
    for (int64_t h = 0; h < group; ++h) {
      double *of = scores.data() + h * rows;
      double largest = *std::max_element(of, of + rows);
      for (int64_t j = 0; j < rows; ++j) sums[size_t(h)] += of[j] = std::exp(of[j] - largest);
    }
    for (int64_t j = 0; j < rows; ++j) {
      cache.decode(kernels, sequence, j, kv_head, true, row.data());
      for (int64_t h = 0; h < group; ++h)
        for (int64_t d = 0; d < hd; ++d)
          out[base + h * hd + d] += scores[size_t(h * rows + j)] / sums[size_t(h)] * double(row[size_t(d)]);
    }
  }
};

} // namespace

template <> double Machine<double>::rounded(double value, const std::string &dtype) const {
  if (!options_.round_values) return value;
  return dtype == "bf16" ? double(bf16ToF32(toBf16(value))) : double(float(value));
}

template <> double Machine<double>::headSquares(const double *x, int64_t n) const { return squares(x, n); }

template <> double Machine<double>::rowSquares(const double *x, int64_t n) const { return squares(x, n); }

template <>
bool Machine<double>::gemv(size_t phase, const std::vector<double> &x, bool keep_slots, std::vector<double> *out) {
  Matrix matrix;
  if (!bindMatrix(inputs_, prefix_, *body_->find(body_->phases[phase].operands[1]), &matrix, error_)) return false;
  const GemvPlan &plan = *body_->gemvOf(phase);
  const auto bounds = keep_slots ? slotBounds(plan) : decltype(slotBounds(plan)){{0, matrix.cols}};
  out->assign(bounds.size() * size_t(tokens_ * matrix.rows), 0.0);
  parallelFor(options_.threads, (matrix.rows + kUnitRows - 1) / kUnitRows, [&](int64_t unit) {
    std::vector<float> weights(size_t(matrix.cols), 0.0f);
    for (int64_t row = unit * kUnitRows; row < std::min(matrix.rows, (unit + 1) * kUnitRows); ++row) {
      matrix.decode(kernels_, row, 0, matrix.cols, weights.data());
      for (size_t slot = 0; slot < bounds.size(); ++slot)
        for (int64_t token = 0; token < tokens_; ++token) {
          auto [begin, end] = bounds[slot];
          double sum = kernels_.dot64(weights.data() + begin, x.data() + token * matrix.cols + begin, end - begin);
          (*out)[(slot * size_t(tokens_) + size_t(token)) * size_t(matrix.rows) + size_t(row)] =
              matrix.scaled(sum, row);
        }
    }
  });
  return true;
}

template <>
void Machine<double>::attend(const AttentionPlan &cut, const CacheRows &cache, int64_t heads,
                             const std::vector<double> &q, std::vector<double> *out) const {
  TokenJob job{kernels_, cache, heads, q.data(), cut.scale * double(cache.k_scale)};
  for (size_t s = 0; s < inputs_.seq_context.size(); ++s) {
    int64_t first = inputs_.seq_first[s], tokens = inputs_.seq_first[s + 1] - first;
    parallelFor(options_.threads, tokens * cache.kv_heads, [&](int64_t i) {
      int64_t token = first + i / cache.kv_heads;
      job.run(int64_t(s), token, positions_[size_t(token)] + 1, i % cache.kv_heads, out->data());
    });
  }
}

namespace {

template <class Write>
bool runDouble(const std::string &plan_json, const Inputs &inputs, const Options &options, std::string *error,
               Write write) {
  FloatEnvironment environment;
  error->clear();
  Plan plan;
  const Kernels *kernels = kernelsFor(options.path);
  if (!kernels) *error = "this CPU has no AVX2 with FMA";
  if (!kernels || !parsePlan(plan_json, &plan, error) || !checkPlan(plan, false, error)) return false;
  Machine<double> machine(plan, inputs, options, *kernels, error);
  return machine.run() && write(machine);
}

} // namespace

bool run_fp64(const std::string &plan_json, const Inputs &inputs, Output *output, std::string *error,
              const Options &options) {
  return runDouble(plan_json, inputs, options, error,
                   [&](const Machine<double> &machine) { return machine.write(output); });
}

bool run_fp64_values(const std::string &plan_json, const Inputs &inputs,
                     std::map<std::string, std::vector<double>> *values, std::string *error, const Options &options) {
  return runDouble(plan_json, inputs, options, error,
                   [&](const Machine<double> &machine) { return machine.writeValues(values); });
}

} // namespace phasec_reference
