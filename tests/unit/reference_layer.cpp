// Whole layers: exact against fp64, fp64 against a naive evaluation of the dense values, path against path.
#include "tests/unit/reference_fixture.h"

#include <doctest/doctest.h>

using namespace phasec_reference;
using namespace reference_test;

namespace {

// The layer over dense doubles, in the plainest loops; nothing is rounded but cache rows and act_quant.
struct Naive {
  const Layer &layer;
  std::string prefix;
  const Shape &s = layer.s;
  std::map<std::string, Dense> out = {};

  const Dense &at(const std::string &name) const { return layer.dense.at(prefix + name); }

  // Sum over [begin, end) of one row and token.
  double product(const std::string &w, int64_t row, const Dense &x, int64_t cols, int64_t token, int64_t begin,
                 int64_t end) const {
    double sum = 0;
    for (int64_t k = begin; k < end; ++k) sum += at(w)[size_t(row * cols + k)] * x[size_t(token * cols + k)];
    return sum * layer.factor(prefix + w, row);
  }

  void normalise(double *x, int64_t n, const Dense &gamma) const {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += x[i] * x[i];
    for (int64_t i = 0; i < n; ++i) x[i] = x[i] / std::sqrt(sum / double(n) + 1e-6);
    for (int64_t i = 0; i < n; ++i) x[i] *= (s.one_plus ? 1 : 0) + gamma[size_t(i)];
  }

  Dense normed(Dense x, const Dense &gamma) const {
    for (int64_t token = 0; token < layer.tokens(); ++token) normalise(x.data() + token * s.hidden, s.hidden, gamma);
    return x;
  }

  // Rotation as a complex product.
  void rotate(double *v, int64_t position) const {
    for (int64_t i = 0; i < s.rotary / 2; ++i) {
      double &a = v[s.interleaved ? 2 * i : i], &b = v[s.interleaved ? 2 * i + 1 : i + s.rotary / 2];
      double c = at("rope")[size_t(position * s.rotary + i)];
      double d = at("rope")[size_t(position * s.rotary + s.rotary / 2 + i)], re = a * c - b * d, im = a * d + b * c;
      a = re;
      b = im;
    }
  }

  double cached(double value, int which) const {
    if (s.kv == "bf16") return double(bf16ToF32(toBf16(value)));
    return double(e4m3ToF32(toE4m3(value / at("kv.scales")[size_t(which)])));
  }

  Dense attention(const Dense &xn) {
    int64_t longest = int64_t(at("kv.k").size()) / (s.kv_heads * s.hd) / int64_t(s.context.size());
    Dense k = at("kv.k"), v = at("kv.v"), q, gate;
    for (size_t sequence = 0; sequence < s.context.size(); ++sequence)
      for (int64_t token = s.first[sequence]; token < s.first[sequence + 1]; ++token) {
        int64_t position = s.context[sequence] + token - s.first[sequence];
        Dense rows;
        for (int64_t row = 0; row < layer.qkvRows(); ++row)
          rows.push_back(product("w_qkv", row, xn, s.hidden, token, 0, s.hidden) +
                         (s.bias ? at("b_qkv")[size_t(row)] : 0));
        for (int64_t head = 0; head < s.heads; ++head) {
          int64_t base = head * s.hd * (s.gate && s.per_head ? 2 : 1);
          int64_t gate_base = s.per_head ? base + s.hd : (s.heads + head) * s.hd;
          if (s.qk_norm) normalise(rows.data() + base, s.hd, at("g_q"));
          rotate(rows.data() + base, position);
          q.insert(q.end(), rows.begin() + base, rows.begin() + base + s.hd);
          if (s.gate) gate.insert(gate.end(), rows.begin() + gate_base, rows.begin() + gate_base + s.hd);
        }
        for (int64_t head = 0; head < s.kv_heads; ++head) {
          double *key = rows.data() + layer.qRows() + head * s.hd, *value = key + s.kv_heads * s.hd;
          if (s.qk_norm) normalise(key, s.hd, at("g_k"));
          rotate(key, position);
          for (int64_t d = 0; d < s.hd; ++d) {
            size_t to = size_t(((int64_t(sequence) * longest + position) * s.kv_heads + head) * s.hd + d);
            k[to] = cached(key[d], 0);
            v[to] = cached(value[d], 1);
          }
        }
      }
    out["q"] = q;
    return softmax(q, k, v, gate, longest);
  }

  Dense softmax(const Dense &q, const Dense &k, const Dense &v, const Dense &gate, int64_t longest) const {
    bool fp8 = s.kv == "fp8_e4m3";
    double scale = 0.125 * (fp8 ? at("kv.scales")[0] : 1), v_scale = fp8 ? at("kv.scales")[1] : 1;
    Dense a(q.size(), 0.0);
    for (size_t sequence = 0; sequence < s.context.size(); ++sequence)
      for (int64_t token = s.first[sequence]; token < s.first[sequence + 1]; ++token)
        for (int64_t head = 0; head < s.heads; ++head) {
          int64_t rows = s.context[sequence] + token - s.first[sequence] + 1, kv_head = head * s.kv_heads / s.heads;
          const double *query = q.data() + (token * s.heads + head) * s.hd;
          double *to = a.data() + (token * s.heads + head) * s.hd, sum = 0;
          for (int64_t j = 0; j < rows; ++j) {
            int64_t base = ((int64_t(sequence) * longest + j) * s.kv_heads + kv_head) * s.hd;
            double dot = 0;
            for (int64_t d = 0; d < s.hd; ++d) dot += query[d] * k[size_t(base + d)];
            double p = std::exp(dot * scale); // scores here are small enough without their maximum
            sum += p;
            for (int64_t d = 0; d < s.hd; ++d) to[d] += p * v[size_t(base + d)] * v_scale;
          }
          for (int64_t d = 0; d < s.hd; ++d)
            to[d] = to[d] / sum / (gate.empty() ? 1 : 1 + std::exp(-gate[size_t(to + d - a.data())]));
        }
    return a;
  }

  void mlp(const Dense &h) {
    Dense hn = normed(h, at("g_mlp")), u, y;
    for (int64_t token = 0; token < layer.tokens(); ++token)
      for (int64_t i = 0; i < s.ffn; ++i) {
        double g = product("w_gate_up", i, hn, s.hidden, token, 0, s.hidden);
        double up = product("w_gate_up", s.ffn + i, hn, s.hidden, token, 0, s.hidden);
        double act = s.gelu ? 0.5 * g * (1 + std::tanh(std::sqrt(2 / M_PI) * (g + 0.044715 * g * g * g)))
                            : g / (1 + std::exp(-g));
        u.push_back(act * up);
      }
    out["u"] = u;
    for (size_t block = 0; s.quantise && block < u.size(); block += 16) {
      double amax = 0;
      for (size_t i = block; i < block + 16; ++i) amax = std::max(amax, std::fabs(u[i]));
      double scale = double(e4m3ToF32(toE4m3(amax / 6)));
      for (size_t i = block; i < block + 16; ++i)
        u[i] = scale == 0 ? 0 : scale * double(e2m1ToF32(toE2m1(u[i] / scale)));
    }
    for (int64_t token = 0; token < layer.tokens(); ++token)
      for (int64_t row = 0; row < s.hidden; ++row)
        y.push_back(product("w_down", row, u, s.ffn, token, 0, s.ffn) + h[size_t(token * s.hidden + row)]);
    out["y"] = y;
  }

  void run(const Dense &x) {
    Dense a = attention(normed(x, at("g_attn"))), h = x, p;
    out["a"] = a;
    int64_t cols = s.heads * s.hd, per_head = cols / s.kv_heads;
    for (int64_t by = 0; by < s.kv_heads; ++by)
      for (int64_t bx = 0; bx < s.wo_split; ++bx)
        for (int64_t i = 0; i < layer.tokens() * s.hidden; ++i)
          p.push_back(product("w_o", i % s.hidden, a, cols, i / s.hidden, by * per_head + per_head * bx / s.wo_split,
                              by * per_head + per_head * (bx + 1) / s.wo_split));
    for (size_t i = 0; i < p.size(); ++i) h[i % h.size()] += p[i];
    out["p"] = p;
    out["h"] = h;
    mlp(h);
  }
};

double relative(const Dense &a, const Dense &b) {
  REQUIRE(a.size() == b.size());
  return compare("f64", a.data(), b.data(), a.size()).rel_l2;
}

Output exact(const Layer &layer, Path path = Path::kAuto, int threads = 0) {
  Output output;
  std::string error;
  Options options;
  options.path = path;
  options.threads = threads;
  REQUIRE_MESSAGE(run(layer.plan(), layer.inputs, &output, &error, options), error);
  return output;
}

Output yardstick(const Layer &layer) {
  Output output;
  std::string error;
  REQUIRE_MESSAGE(run_fp64(layer.plan(), layer.inputs, &output, &error), error);
  return output;
}

void checkLayer(const Shape &shape, uint32_t seed) {
  Layer layer(shape, seed);
  std::map<std::string, Dense> values;
  std::string error;
  Options unrounded;
  unrounded.round_values = false;
  REQUIRE_MESSAGE(run_fp64_values(layer.plan(), layer.inputs, &values, &error, unrounded), error);
  Dense x = layer.dense.at("0/x");
  for (int64_t i = 0; i < shape.instances; ++i) {
    Naive naive{layer, std::to_string(i) + "/"};
    naive.run(x);
    x = naive.out["y"];
    if (i + 1 == shape.instances)
      for (const char *name : {"q", "a", "p", "h", "u", "y"}) {
        INFO(name);
        CHECK(relative(values[name], naive.out[name]) < 1e-11);
      }
  }
  Output output = exact(layer), expected = yardstick(layer);
  REQUIRE(output.buffers.size() == expected.buffers.size());
  for (const auto &entry : output.buffers) {
    const std::string &name = entry.first;
    const std::vector<uint8_t> &bytes = entry.second;
    const std::string &dtype = output.dtypes[name];
    size_t size = dtype == "f32" ? 4 : dtype == "bf16" ? 2 : 1;
    Comparison result = compare(dtype, bytes.data(), expected.buffers[name].data(), bytes.size() / size);
    INFO(name << " " << dtype << " " << result.rel_l2);
    // Where a value sits by a rounding boundary, one element moves by a step of its dtype.
    CHECK(result.rel_l2 < (dtype == "fp8_e4m3" || shape.quantise ? 2e-2 : 1e-3));
    CHECK(expected.buffers[name].size() == bytes.size());
  }
}

} // namespace

TEST_CASE("reference layer: nvfp4 weights, fp8 cache, block gate") { checkLayer(Shape(), 11); }

TEST_CASE("reference layer: linear scales that multiply, bf16 cache, per-head gate, interleaved pairs") {
  Shape shape;
  shape.swizzled = shape.divide = false;
  shape.kv = "bf16";
  shape.per_head = shape.interleaved = true;
  shape.h = shape.y = "bf16";
  checkLayer(shape, 12);
}

TEST_CASE("reference layer: fp8 weights, tensor and row scales, no gate, no bias, no q/k norm") {
  Shape shape;
  shape.format = "fp8_e4m3";
  shape.gate = shape.bias = shape.qk_norm = shape.one_plus = false;
  checkLayer(shape, 13);
  shape.row_scale = false;
  shape.fresh = false;
  shape.gelu = true;
  checkLayer(shape, 14);
}

TEST_CASE("reference layer: bf16 weights, quantised FC2 input, uneven slots, one wide split") {
  Shape shape;
  shape.format = "bf16";
  shape.quantise = true;
  shape.hd = 16;
  shape.rotary = 16;
  shape.wo_split = 32; // K of a head is 32: slots of one column
  checkLayer(shape, 15);
  shape.heads = 2; // now 16: every other slot is empty
  shape.context = {5, 9};
  shape.kv_splits = 1;
  checkLayer(shape, 16);
}

TEST_CASE("reference stack: instances feed each other") {
  Shape shape;
  shape.instances = 3;
  shape.y = "bf16";
  shape.kv = "bf16"; // of instances 1 and 2 too: the yardstick then differs by roundings only
  Layer layer(shape, 21);
  Output output = exact(layer), expected = yardstick(layer);
  CHECK(output.buffers.count("2/kv.appended.v") == 1);
  CHECK(
      compare("bf16", output.buffers["y"].data(), expected.buffers["y"].data(), output.buffers["y"].size() / 2).rel_l2 <
      1e-2);
  checkLayer(shape, 22);
}

TEST_CASE("reference paths: AVX2 and generic agree in every bit, for any number of threads") {
  Shape shape;
  shape.first = {0, 3, 4, 5, 7};
  shape.context = {21, 0, 40, 3};
  for (const char *format : {"nvfp4", "fp8_e4m3", "bf16"}) {
    shape.format = format;
    Layer layer(shape, 31);
    Output generic = exact(layer, Path::kGeneric, 1);
    CHECK(exact(layer, Path::kAuto, 3).buffers == generic.buffers);
    CHECK(exact(layer, Path::kGeneric, 5).buffers == generic.buffers);
  }
}

TEST_CASE("reference attention: the cut of rows shows in the bits and only there") {
  Shape shape;
  // Differences in the last bits of f32 seldom reach a bf16 result: many elements are needed to see one.
  shape.hd = 256;
  shape.heads = 16;
  shape.first = {0, 8};
  shape.context = {50};
  shape.format = "bf16";
  Output first = exact(Layer(shape, 41));
  shape.kv_splits = 64; // chunks of seven rows, where there was one
  shape.chunk_rows = 4;
  Output second = exact(Layer(shape, 41));
  size_t n = first.buffers["a"].size() / 2;
  Comparison result = compare("bf16", first.buffers["a"].data(), second.buffers["a"].data(), n);
  CHECK(!result.bit_exact);
  CHECK(result.rel_l2 < 1e-3);
  CHECK(first.buffers["q"] == second.buffers["q"]);
  CHECK(first.buffers["0/kv.appended.k"] == second.buffers["0/kv.appended.k"]);
}

TEST_CASE("reference cache: strides describe any order; an idle sequence is not looked at") {
  Shape shape;
  shape.first = {0, 3, 3, 5};
  shape.context = {37, 19, 2};
  Layer layer(shape, 45);
  Output joint = exact(layer);
  // The same pages head by head, K and V apart.
  CacheView &view = layer.inputs.caches["0/kv"];
  int64_t rows = shape.page, head = shape.page * shape.hd, page = shape.kv_heads * head;
  std::vector<uint8_t> k(size_t(view.pages * page)), v(size_t(view.pages * page));
  for (int64_t i = 0; i < view.pages * page; ++i) {
    int64_t from = i / page * view.page_stride + i % head / shape.hd * view.row_stride +
                   i % page / head * view.head_stride + i % shape.hd;
    k[size_t(i)] = view.k[from];
    v[size_t(i)] = view.v[from];
  }
  view = {k.data(), v.data(), page, shape.hd, rows * shape.hd, view.pages};
  for (int i = 0; i < layer.inputs.page_stride; ++i) layer.inputs.page_table[size_t(layer.inputs.page_stride + i)] = -1;
  CHECK(exact(layer).buffers == joint.buffers);
}

TEST_CASE("reference attention alone: one token against a softmax in double") {
  Shape shape;
  shape.first = {0, 1};
  shape.context = {38};
  shape.fresh = shape.gate = false;
  Layer layer(shape, 51);
  layer.addValues("0/q", "bf16", shape.heads * shape.hd, 0.5);
  std::string plan = "{\"schema\":\"phasec.plan/1\",\"tokens_max\":1,\"wo_split\":0,\"instances\":[{\"body\":0}],"
                     "\"bodies\":[{\"dims\":{\"heads\":4,\"kv_heads\":2,\"head_dim\":48},\"values\":["
                     "{\"name\":\"q\",\"kind\":\"input\",\"dtype\":\"bf16\",\"shape\":[-1,192]},"
                     "{\"name\":\"kv\",\"kind\":\"cache\",\"dtype\":\"fp8_e4m3\",\"page\":4},"
                     "{\"name\":\"a\",\"kind\":\"temp\",\"dtype\":\"bf16\",\"shape\":[-1,192]}],\"phases\":["
                     "{\"op\":\"attn\",\"operands\":[\"q\",\"kv\"],\"results\":[\"a\"],\"attrs\":{\"gate\":null}}],"
                     "\"returns\":[\"a\"],\"gemv\":[],\"attention\":[{\"phase\":0,\"kv_splits\":3,\"chunk_rows\":8,"
                     "\"buffered_from\":64,\"buffered_warps\":4,\"warps\":4,\"fresh_rows\":false,\"scale\":0.14433757}]}]}";
  Output output;
  std::string error;
  // With the scale that the layer does not name, only 1/sqrt(head_dim) is right.
  REQUIRE_MESSAGE(run(plan, layer.inputs, &output, &error), error);
  Naive naive{layer, "0/"};
  Dense q = layer.dense["0/q"];
  for (double &value : q) value *= 0.14433757 / 0.125;
  Dense a = naive.softmax(q, layer.dense["0/kv.k"], layer.dense["0/kv.v"], {}, 39), got;
  for (size_t i = 0; i < a.size(); ++i) {
    uint16_t code;
    std::memcpy(&code, output.buffers["a"].data() + i * 2, 2);
    got.push_back(double(bf16ToF32(code)));
    CHECK(std::fabs(got[i] - a[i]) <= std::fabs(a[i]) / 250 + 1e-6);
  }
  CHECK(relative(got, a) < 3e-3);
  plan.replace(plan.find("0.14433757"), 10, "0.12500000");
  CHECK(!run(plan, layer.inputs, &output, &error));
}

TEST_CASE("reference gather alone: partials from outside, left fold, NaN and infinity pass") {
  std::string plan =
      "{\"schema\":\"phasec.plan/1\",\"tokens_max\":4,\"wo_split\":0,\"instances\":[{\"body\":0}],"
      "\"bodies\":[{\"dims\":{\"hidden\":3},\"values\":["
      "{\"name\":\"p\",\"kind\":\"input\",\"dtype\":\"f32\",\"shape\":[-1,3]},"
      "{\"name\":\"x\",\"kind\":\"input\",\"dtype\":\"f32\",\"shape\":[-1,3]},"
      "{\"name\":\"h\",\"kind\":\"temp\",\"dtype\":\"f32\",\"shape\":[-1,3]}],\"phases\":["
      "{\"op\":\"gather\",\"operands\":[\"p\",\"x\"],\"results\":[\"h\"],\"attrs\":{\"by\":\"consumers\"}}],"
      "\"returns\":[\"h\"],\"gemv\":[],\"attention\":[]}]}";
  const float kInfinity = INFINITY;
  std::vector<float> p = {1e8f, 1, kInfinity, 1, 1, -kInfinity, -1e8f, 1, 1}, x = {0.5f, 1, 1}, h(3);
  Inputs inputs;
  inputs.tokens = 1;
  inputs.buffers["0/p"] = {p.data(), 36};
  inputs.buffers["0/x"] = {x.data(), 12};
  Output output;
  std::string error;
  REQUIRE_MESSAGE(run(plan, inputs, &output, &error), error);
  std::memcpy(h.data(), output.buffers["h"].data(), 12);
  CHECK(h[0] == 0.5f); // (1e8 + 1) - 1e8 is 0 in f32, and only from the left
  CHECK(h[1] == 4.0f);
  CHECK(std::isnan(h[2]));
}
