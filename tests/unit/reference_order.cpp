// The order of the exact contract, retold literally and slowly: norm segments, slots and folds, the attention merge.
#include "tests/unit/reference_fixture.h"

#include <doctest/doctest.h>

#include <limits>

using namespace phasec_reference;
using namespace reference_test;

namespace {

std::vector<float> bf16Values(const std::vector<uint8_t> &bytes) {
  std::vector<float> out;
  for (size_t i = 0; i < bytes.size(); i += 2) out.push_back(bf16ToF32(uint16_t(bytes[i] | bytes[i + 1] << 8)));
  return out;
}

Output exact(const std::string &plan, const Inputs &inputs) {
  Output output;
  std::string error;
  REQUIRE_MESSAGE(run(plan, inputs, &output, &error), error);
  return output;
}

struct State {
  float m = -std::numeric_limits<float>::infinity(), l = 0;
  std::vector<float> acc = std::vector<float>(256, 0.0f);

  void add(float s, const float *v) {
    float next = m < s ? s : m, al = exp2Poly(m - next), p = exp2Poly(s - next);
    l = std::fma(l, al, p);
    for (size_t d = 0; d < acc.size(); ++d) acc[d] = std::fma(p, v[d], acc[d] * al);
    m = next;
  }

  void merge(const State &b) {
    float next = m < b.m ? b.m : m;
    if (next == -std::numeric_limits<float>::infinity()) return;
    float fa = exp2Poly(m - next), fb = exp2Poly(b.m - next);
    l = std::fma(b.l, fb, l * fa);
    for (size_t d = 0; d < acc.size(); ++d) acc[d] = std::fma(b.acc[d], fb, acc[d] * fa);
    m = next;
  }
};

// One token and head: rows by position, keys and values [row][256].
std::vector<uint16_t> literalAttention(const Shape &s, int64_t context, int64_t step, int64_t position, const float *q,
                                       const std::vector<float> &k, const std::vector<float> &v) {
  const float sm = 0.125f * 1.44269502f;
  int64_t length = s.fresh ? context : context + step;
  int64_t tiles = (step * (s.heads / s.kv_heads) + 7) / 8; // each reads all rows
  int64_t full = std::max<int64_t>(s.kv_splits - tiles + 1, 1);
  int64_t chunk_rows = std::max(s.chunk_rows, (length * tiles + full - 1) / full);
  int64_t n = std::min(std::max<int64_t>((length + chunk_rows - 1) / chunk_rows, 1), s.kv_splits);
  State total;
  for (int64_t c = 0; c < n; ++c) {
    int64_t c0 = length * c / n, len = length * (c + 1) / n - c0;
    std::vector<State> warps(size_t(s.warps));
    for (int64_t w = 0; w < s.warps; ++w) {
      std::vector<int64_t> rows;
      bool fresh = s.fresh && c == n - 1;
      int64_t cached = fresh ? s.warps - 1 : s.warps; // the last warp has this step's rows only
      if (len > s.buffered_from && s.buffered_warps < cached) cached = s.buffered_warps;
      for (int64_t j = c0 + len * w / cached; w < cached && j < c0 + len * (w + 1) / cached; ++j) rows.push_back(j);
      for (int64_t j = context; fresh && w == s.warps - 1 && j < context + step; ++j) rows.push_back(j);
      for (int64_t j : rows)
        if (j <= position) warps[size_t(w)].add(plainChain(q, k.data() + j * 256, 0, 256) * sm, v.data() + j * 256);
    }
    for (size_t left = size_t(s.warps), h; left > 1; left = h) {
      h = (left + 1) / 2;
      for (size_t w = 0; w + h < left; ++w) warps[w].merge(warps[w + h]);
    }
    if (c == 0)
      total = warps[0];
    else
      total.merge(warps[0]);
  }
  std::vector<uint16_t> out;
  for (float value : total.acc) out.push_back(toBf16(value / total.l));
  return out;
}

void checkAttention(const Shape &s, uint32_t seed) {
  Layer layer(s, seed);
  Output output = exact(layer.plan(), layer.inputs);
  std::vector<float> q = bf16Values(output.buffers["q"]);
  std::vector<float> fresh_k = bf16Values(output.buffers["0/kv.appended.k"]);
  std::vector<float> fresh_v = bf16Values(output.buffers["0/kv.appended.v"]);
  int64_t context = s.context[0], step = s.first[1], row = s.kv_heads * 256;
  std::vector<uint16_t> expected;
  for (int64_t token = 0; token < step; ++token)
    for (int64_t head = 0; head < s.heads; ++head) {
      int64_t kv_head = head / (s.heads / s.kv_heads);
      std::vector<float> k, v;
      for (int64_t j = 0; j < context + step; ++j)
        for (int64_t d = 0; d < 256; ++d) {
          size_t old = size_t(j * row + kv_head * 256 + d), now = size_t((j - context) * row + kv_head * 256 + d);
          k.push_back(j < context ? float(layer.dense["0/kv.k"][old]) : fresh_k[now]);
          v.push_back(j < context ? float(layer.dense["0/kv.v"][old]) : fresh_v[now]);
        }
      std::vector<uint16_t> one =
          literalAttention(s, context, step, context + token, q.data() + (token * s.heads + head) * 256, k, v);
      expected.insert(expected.end(), one.begin(), one.end());
    }
  REQUIRE(output.buffers["a"].size() == expected.size() * 2);
  Comparison result = compare("bf16", output.buffers["a"].data(), expected.data(), expected.size());
  CHECK(result.first_mismatch_index == -1);
}

} // namespace

TEST_CASE("reference order: attention rows, warps and chunks as the contract tells them") {
  Shape shape;
  shape.hd = 256;
  shape.heads = 32;
  shape.first = {0, 8};
  shape.context = {50};
  shape.format = shape.kv = "bf16";
  shape.gate = shape.qk_norm = false;
  checkAttention(shape, 61);
  shape.kv_splits = 7;
  shape.chunk_rows = 5;
  shape.warps = 8;
  checkAttention(shape, 62);
  shape.fresh = false;
  checkAttention(shape, 63);
  shape.buffered_from = 20; // fewer warps share a longer chunk
  shape.kv_splits = 2;
  shape.buffered_warps = 3;
  checkAttention(shape, 65);
  shape.fresh = true;
  shape.context = {0};
  checkAttention(shape, 64);
}

TEST_CASE("reference order: a slot is the left fold of its segments, then its scale") {
  Shape shape;
  for (bool divide : {true, false}) {
    shape.divide = divide;
    Layer layer(shape, 71);
    layer.wo_step = 10; // segments of 10, 10 and 4
    Output output = exact(layer.plan(), layer.inputs);
    std::vector<float> a = bf16Values(output.buffers["a"]), h(output.buffers["h"].size() / 4);
    int64_t cols = shape.heads * shape.hd, slots = shape.kv_heads * shape.wo_split, rows = shape.hidden;
    std::vector<float> w(layer.dense["0/w_o"].begin(), layer.dense["0/w_o"].end()), p;
    float scale = float(layer.dense["0/w_o.scale"][0]);
    for (int64_t slot = 0; slot < slots; ++slot)
      for (int64_t cell = 0; cell < layer.tokens() * rows; ++cell) {
        int64_t begin = cols / slots * slot, end = begin + cols / slots;
        float sum = 0;
        for (int64_t at = begin; at < end; at += 10) {
          float value =
              plainChain(w.data() + cell % rows * cols, a.data() + cell / rows * cols, at, std::min(end, at + 10));
          sum = at == begin ? value : sum + value;
        }
        p.push_back(divide ? sum / scale : sum * scale);
      }
    CHECK(compare("f32", output.buffers["p"].data(), p.data(), p.size()).bit_exact);
    for (size_t i = 0; i < h.size(); ++i) {
      h[i] = p[i];
      for (size_t slot = 1; slot < size_t(slots); ++slot) h[i] = h[i] + p[slot * h.size() + i];
      h[i] = h[i] + float(layer.dense["0/x"][i]);
    }
    CHECK(compare("f32", output.buffers["h"].data(), h.data(), h.size()).bit_exact);
  }
}

TEST_CASE("reference order: norm rows are folded in segments of 512") {
  // Wide, so that a last bit of the sum shows in some bf16 result.
  constexpr int64_t kWidth = 40300, kTokens = 8;
  Shape shape;
  Layer layer(shape, 81);
  layer.addValues("0/row", "f32", kWidth * kTokens);
  layer.addValues("0/gain", "f32", kWidth, 0.4);
  layer.inputs.tokens = kTokens;
  std::string plan = "{\"schema\":\"phasec.plan/1\",\"tokens_max\":8,\"wo_split\":0,\"instances\":[{\"body\":0}],"
                     "\"bodies\":[{\"dims\":{},\"values\":["
                     "{\"name\":\"row\",\"kind\":\"input\",\"dtype\":\"f32\",\"shape\":[-1,40300]},"
                     "{\"name\":\"gain\",\"kind\":\"weight\",\"format\":\"f32\",\"shape\":[40300]},"
                     "{\"name\":\"n\",\"kind\":\"temp\",\"dtype\":\"bf16\",\"shape\":[-1,40300]}],\"phases\":["
                     "{\"op\":\"norm\",\"operands\":[\"row\",\"gain\"],\"results\":[\"n\"],"
                     "\"attrs\":{\"eps\":1e-6,\"gamma\":\"one_plus\"}}],\"returns\":[\"n\"]}]}";
  std::vector<uint16_t> expected;
  for (int64_t token = 0; token < kTokens; ++token) {
    const double *from = layer.dense["0/row"].data() + token * kWidth;
    std::vector<float> x(from, from + kWidth);
    float ss = plainChain(x.data(), x.data(), 0, 512);
    for (int64_t begin = 512; begin < kWidth; begin += 512)
      ss = ss + plainChain(x.data(), x.data(), begin, std::min(kWidth, begin + 512));
    float r = 1.0f / std::sqrt(ss / float(kWidth) + 1e-6f);
    for (int64_t i = 0; i < kWidth; ++i)
      expected.push_back(toBf16((x[size_t(i)] * r) * (1.0f + float(layer.dense["0/gain"][size_t(i)]))));
  }
  Output output = exact(plan, layer.inputs);
  CHECK(compare("bf16", output.buffers["n"].data(), expected.data(), expected.size()).bit_exact);
}
