// The exact contract: f32 in the declared order.
#include "tests/reference/machine.h"

#include <algorithm>
#include <limits>

namespace phasec_reference {

namespace {

constexpr int64_t kNormSegment = 512;
constexpr int64_t kChunk = 1024;  // columns decoded at a time, for the first-level cache
constexpr int64_t kUnitRows = 32; // rows handed to a thread at a time

// One GEMV: rows in tiles of kRowTile, all tokens together.
struct GemvJob {
  const Kernels &kernels;
  const Matrix &matrix;
  const GemvPlan &plan;
  const float *x;
  int64_t tokens;
  bool keep_slots;
  float *out; // [slots][tokens][rows] or [tokens][rows]

  // Segment values of kRowTile rows by tokens, from lane chains over [begin, end).
  void segmentValues(const int64_t *rows, const Segment &segment, float *lanes, float *weights, float *values) const {
    std::fill_n(lanes, kRowTile * tokens * kLanes, 0.0f);
    for (int64_t begin = segment.begin; begin < segment.end;) {
      int64_t end = std::min(segment.end, (begin / kChunk + 1) * kChunk);
      // Whole blocks of 16 are decoded, for the sake of block scales.
      int64_t from = begin / 16 * 16, to = std::min(matrix.cols, (end + 15) / 16 * 16);
      for (int64_t r = 0; r < kRowTile; ++r) matrix.decode(kernels, rows[r], from, to, weights + r * kChunk);
      addChains(kernels, lanes, weights + begin - from, kChunk, x + begin, matrix.cols, tokens, begin, end);
      begin = end;
    }
    for (int64_t i = 0; i < kRowTile * tokens; ++i) values[i] = kernels.butterfly(lanes + i * kLanes);
  }

  void tile(int64_t first, std::vector<float> &scratch) const {
    int64_t rows[kRowTile];
    for (int64_t r = 0; r < kRowTile; ++r)
      rows[r] = std::min(first + r, matrix.rows - 1); // past the end: the last row again, not stored
    int64_t cells = kRowTile * tokens;
    scratch.resize(size_t(cells * (kLanes + 3) + kRowTile * kChunk));
    float *lanes = scratch.data(), *weights = lanes + cells * kLanes, *values = weights + kRowTile * kChunk;
    float *slots = values + cells, *sums = slots + cells;
    size_t at = 0;
    for (int64_t slot = 0; slot < plan.slots; ++slot) {
      std::fill_n(slots, cells, 0.0f); // a slot without columns is zero
      for (; at < plan.segments.size() && plan.segments[at].slot == slot; ++at) {
        segmentValues(rows, plan.segments[at], lanes, weights, values);
        for (int64_t i = 0; i < cells; ++i) slots[i] = plan.segments[at].fold == 0 ? values[i] : slots[i] + values[i];
      }
      for (int64_t i = 0; i < cells; ++i) {
        float value = matrix.scaled(slots[i], rows[i / tokens]);
        sums[i] = slot == 0 ? value : sums[i] + value;
        slots[i] = value;
      }
      if (keep_slots) store(first, slots, out + slot * tokens * matrix.rows);
    }
    if (!keep_slots) store(first, sums, out);
  }

  void store(int64_t first, const float *cells, float *to) const {
    for (int64_t r = 0; r < std::min(kRowTile, matrix.rows - first); ++r)
      for (int64_t token = 0; token < tokens; ++token) to[token * matrix.rows + first + r] = cells[r * tokens + token];
  }
};

// Online softmax states of one range of rows: for each of the sequence's tokens and the heads of the group.
struct States {
  std::vector<float> m, l, acc;

  States(int64_t count, int64_t head_dim)
      : m(size_t(count), -std::numeric_limits<float>::infinity()), l(size_t(count), 0.0f),
        acc(size_t(count * head_dim), 0.0f) {}
};

// Attention of one sequence.
struct AttentionJob {
  const Kernels &kernels;
  const AttentionPlan &cut;
  const CacheRows &cache;
  int64_t heads;
  const float *q; // all tokens
  int64_t sequence;
  float sm;

  int64_t group() const { return heads / cache.kv_heads; }
  int64_t context() const { return cache.inputs->seq_context[size_t(sequence)]; }
  int64_t first() const { return cache.inputs->seq_first[size_t(sequence)]; }
  int64_t tokens() const { return cache.inputs->seq_first[size_t(sequence) + 1] - first(); }
  int64_t rows() const { return cut.fresh_rows ? context() : context() + tokens(); }
  // A step has at most kv_splits chunks per KV head: its rows, once per tile of eight (token, query head) pairs, are shared among
  // as many chunks as leave every other tile one that is not full.
  int64_t chunkRows() const {
    int64_t all = 0, tiles = 0;
    for (size_t s = 0; s < cache.inputs->seq_context.size(); ++s) {
      int64_t step = cache.inputs->seq_first[s + 1] - cache.inputs->seq_first[s];
      all += (cache.inputs->seq_context[s] + (cut.fresh_rows ? 0 : step)) * ((step * group() + 7) / 8);
      tiles += (step * group() + 7) / 8;
    }
    int64_t full = std::max<int64_t>(cut.kv_splits - tiles + 1, 1);
    return std::max(cut.chunk_rows, (all + full - 1) / full);
  }
  int64_t chunks() const {
    int64_t least = chunkRows();
    return std::clamp((rows() + least - 1) / least, int64_t(1), cut.kv_splits);
  }

  void addRow(int64_t kv_head, int64_t row, float *k, float *v, States *states) const {
    int64_t hd = cache.head_dim;
    cache.decode(kernels, sequence, row, kv_head, false, k);
    cache.decode(kernels, sequence, row, kv_head, true, v);
    for (int64_t token = std::max(int64_t(0), row - context()); token < tokens(); ++token)
      for (int64_t h = 0; h < group(); ++h) {
        const float *query = q + ((first() + token) * heads + kv_head * group() + h) * hd;
        size_t at = size_t(token * group() + h);
        float s = chainValue(kernels, query, k, 0, hd) * sm;
        float m = states->m[at] < s ? s : states->m[at];
        float al = exp2Poly(states->m[at] - m), p = exp2Poly(s - m);
        states->l[at] = std::fmaf(states->l[at], al, p);
        kernels.rescale(states->acc.data() + int64_t(at) * hd, v, p, al, hd);
        states->m[at] = m;
      }
  }

  // The rows of warp w of chunk c.
  void range(int64_t kv_head, int64_t chunk, int64_t warp, States *states) const {
    std::vector<float> k(size_t(cache.head_dim)), v(size_t(cache.head_dim));
    int64_t n = chunks(), begin = rows() * chunk / n, length = rows() * (chunk + 1) / n - begin;
    bool fresh = cut.fresh_rows && chunk == n - 1; // the last warp has this step's rows, and of the cache's none
    int64_t warps = fresh && cut.warps > 1 ? cut.warps - 1 : cut.warps;
    if (length > cut.buffered_from) warps = std::min(warps, cut.buffered_warps);
    for (int64_t row = begin + length * warp / warps; warp < warps && row < begin + length * (warp + 1) / warps; ++row)
      addRow(kv_head, row, k.data(), v.data(), states);
    if (!fresh || warp != cut.warps - 1) return;
    for (int64_t row = context(); row < context() + tokens(); ++row) addRow(kv_head, row, k.data(), v.data(), states);
  }

  void merge(States *a, const States &b, size_t at) const {
    float m = a->m[at] < b.m[at] ? b.m[at] : a->m[at];
    if (m == -std::numeric_limits<float>::infinity()) return;
    float fa = exp2Poly(a->m[at] - m), fb = exp2Poly(b.m[at] - m);
    a->l[at] = std::fmaf(b.l[at], fb, a->l[at] * fa);
    int64_t hd = cache.head_dim;
    kernels.rescale(a->acc.data() + int64_t(at) * hd, b.acc.data() + int64_t(at) * hd, fb, fa, hd);
    a->m[at] = m;
  }

  // Warps by halving, chunks from the left; then the quotient into out.
  void finish(int64_t kv_head, std::vector<States> &states, float *out) const {
    int64_t hd = cache.head_dim, n = chunks(), warps = cut.warps;
    States *of = states.data() + kv_head * n * warps;
    for (size_t at = 0; at < size_t(tokens() * group()); ++at) {
      for (int64_t chunk = 0; chunk < n; ++chunk)
        for (int64_t left = warps, half; left > 1; left = half) {
          half = (left + 1) / 2;
          for (int64_t warp = 0; warp + half < left; ++warp)
            merge(of + chunk * warps + warp, of[chunk * warps + warp + half], at);
        }
      for (int64_t chunk = 1; chunk < n; ++chunk) merge(of, of[chunk * warps], at);
      int64_t token = first() + int64_t(at) / group(), head = kv_head * group() + int64_t(at) % group();
      for (int64_t d = 0; d < hd; ++d)
        out[(token * heads + head) * hd + d] = of->acc[size_t(int64_t(at) * hd + d)] / of->l[at];
    }
  }
};

} // namespace

template <> float Machine<float>::rounded(float value, const std::string &dtype) const {
  return dtype == "bf16" ? bf16ToF32(toBf16(value)) : value;
}

template <> float Machine<float>::headSquares(const float *x, int64_t n) const {
  return chainValue(kernels_, x, x, 0, n);
}

template <> float Machine<float>::rowSquares(const float *x, int64_t n) const {
  float sum = 0;
  for (int64_t begin = 0; begin < n; begin += kNormSegment) {
    float value = chainValue(kernels_, x, x, begin, std::min(n, begin + kNormSegment));
    sum = begin == 0 ? value : sum + value;
  }
  return sum;
}

template <>
bool Machine<float>::gemv(size_t phase, const std::vector<float> &x, bool keep_slots, std::vector<float> *out) {
  Matrix matrix;
  if (!bindMatrix(inputs_, prefix_, *body_->find(body_->phases[phase].operands[1]), &matrix, error_)) return false;
  const GemvPlan &plan = *body_->gemvOf(phase);
  out->assign(size_t((keep_slots ? plan.slots : 1) * tokens_ * matrix.rows), 0.0f);
  GemvJob job{kernels_, matrix, plan, x.data(), tokens_, keep_slots, out->data()};
  parallelFor(options_.threads, (matrix.rows + kUnitRows - 1) / kUnitRows, [&](int64_t unit) {
    std::vector<float> scratch;
    for (int64_t row = unit * kUnitRows; row < std::min(matrix.rows, (unit + 1) * kUnitRows); row += kRowTile)
      job.tile(row, scratch);
  });
  return true;
}

template <>
void Machine<float>::attend(const AttentionPlan &cut, const CacheRows &cache, int64_t heads,
                            const std::vector<float> &q, std::vector<float> *out) const {
  float scale = float(cut.scale);
  float sm = (cache.fp8() ? scale * cache.k_scale : scale) * 1.44269502f;
  for (int64_t sequence = 0; sequence < int64_t(inputs_.seq_context.size()); ++sequence) {
    AttentionJob job{kernels_, cut, cache, heads, q.data(), sequence, sm};
    if (job.tokens() == 0) continue;
    int64_t ranges = job.chunks() * cut.warps;
    std::vector<States> states(size_t(cache.kv_heads * ranges), States(job.tokens() * job.group(), cache.head_dim));
    parallelFor(options_.threads, cache.kv_heads * ranges,
                [&](int64_t i) { job.range(i / ranges, i % ranges / cut.warps, i % cut.warps, &states[size_t(i)]); });
    parallelFor(options_.threads, cache.kv_heads, [&](int64_t kv_head) { job.finish(kv_head, states, out->data()); });
  }
}

bool run(const std::string &plan_json, const Inputs &inputs, Output *output, std::string *error,
         const Options &options) {
  FloatEnvironment environment;
  error->clear();
  Plan plan;
  const Kernels *kernels = kernelsFor(options.path);
  if (!kernels) *error = "this CPU has no AVX2 with FMA";
  if (!kernels || !parsePlan(plan_json, &plan, error) || !checkPlan(plan, true, error)) return false;
  Machine<float> machine(plan, inputs, options, *kernels, error);
  return machine.run() && machine.write(output);
}

} // namespace phasec_reference
