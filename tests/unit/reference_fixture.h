// A small whole layer for the reference's own tests: random checkpoint buffers, their dense values, the plan text.
#ifndef PHASEC_TESTS_UNIT_REFERENCE_FIXTURE_H
#define PHASEC_TESTS_UNIT_REFERENCE_FIXTURE_H

#include "tests/reference/formats.h"
#include "tests/reference/reference.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <vector>

namespace reference_test {

using Dense = std::vector<double>;

inline float floatBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline uint32_t bitsOf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

// The contract, word for word: lane = k mod 32 ascending from +0, xor butterfly over all lanes.
inline float plainChain(const float *a, const float *b, int64_t begin, int64_t end) {
  float lanes[32] = {};
  for (int lane = 0; lane < 32; ++lane)
    for (int64_t k = begin; k < end; ++k)
      if (k % 32 == lane) lanes[lane] = std::fma(a[k], b[k], lanes[lane]);
  for (int mask : {16, 8, 4, 2, 1}) {
    float old[32];
    std::copy(lanes, lanes + 32, old);
    for (int lane = 0; lane < 32; ++lane) lanes[lane] = old[lane] + old[lane ^ mask];
  }
  return lanes[0];
}

// What varies between cases. Sizes are awkward on purpose: head_dim is not a multiple of 32, ffn not of 64.
struct Shape {
  int64_t hidden = 96, heads = 4, kv_heads = 2, hd = 48, ffn = 80, rotary = 24, max_pos = 64, page = 4;
  int64_t wo_split = 4, kv_splits = 3, chunk_rows = 8, buffered_from = 64, buffered_warps = 4, warps = 4;
  std::string format = "nvfp4"; // of all matrices
  std::string kv = "fp8_e4m3";
  bool swizzled = true, divide = true, row_scale = true;
  bool gate = true, per_head = false, bias = true, qk_norm = true, one_plus = true, interleaved = false;
  bool fresh = true, quantise = false, gelu = false;
  std::string h = "f32", y = "f32";
  std::vector<int32_t> first = {0, 3, 5}, context = {37, 0};
  int64_t instances = 1;
};

// Cuts [begin, end) into segments of at most `step`, as JSON.
inline std::string segments(int64_t slot, int64_t begin, int64_t end, int64_t step) {
  std::string out;
  for (int64_t at = begin, fold = 0; at < end; at += step, ++fold)
    out += std::string(out.empty() ? "" : ",") + "{\"slot\":" + std::to_string(slot) +
           ",\"fold\":" + std::to_string(fold) + ",\"k\":[" + std::to_string(at) + "," +
           std::to_string(std::min(end, at + step)) + "]}";
  return out;
}

class Layer {
public:
  explicit Layer(const Shape &shape, uint32_t seed = 1) : s(shape), random_(seed) {
    inputs.tokens = s.first.back();
    inputs.seq_first = s.first;
    inputs.seq_context = s.context;
    for (int64_t i = 0; i < s.instances; ++i) fill(std::to_string(i) + "/");
  }

  Shape s;
  phasec_reference::Inputs inputs;
  std::map<std::string, Dense> dense; // values of every buffer; matrices without their slot scale
  int64_t fc_step = 64, wo_step = 16;

  int64_t qRows() const { return s.heads * s.hd * (s.gate ? 2 : 1); }
  int64_t qkvRows() const { return qRows() + 2 * s.kv_heads * s.hd; }
  int64_t tokens() const { return inputs.tokens; }

  double uniform() { return std::uniform_real_distribution<double>(-1, 1)(random_); }
  uint32_t bits() { return random_(); }

  std::vector<uint8_t> &store(const std::string &name, size_t bytes) {
    storage_.emplace_back(bytes);
    inputs.buffers[name] = {storage_.back().data(), bytes};
    return storage_.back();
  }

  // Values with a spread of magnitudes and a few outliers, rounded to the format.
  void addValues(const std::string &name, const std::string &format, int64_t n, double scale = 1) {
    std::vector<uint8_t> &bytes = store(name, size_t(n * (format == "f32" ? 4 : 2)));
    Dense &values = dense[name];
    for (int64_t i = 0; i < n; ++i) {
      double value = scale * uniform() * std::exp2(3 * uniform()) * (bits() % 61 == 0 ? 20 : 1);
      float f32 = float(value);
      uint16_t bf16 = phasec_reference::toBf16(value);
      std::memcpy(bytes.data() + i * (format == "f32" ? 4 : 2), format == "f32" ? static_cast<void *>(&f32) : &bf16,
                  format == "f32" ? 4 : 2);
      values.push_back(format == "f32" ? double(f32) : double(phasec_reference::bf16ToF32(bf16)));
    }
  }

  void addFloats(const std::string &name, std::vector<float> values) {
    std::vector<uint8_t> &bytes = store(name, values.size() * 4);
    std::memcpy(bytes.data(), values.data(), bytes.size());
    dense[name] = Dense(values.begin(), values.end());
  }

  // The slot scale of a matrix row, as a factor.
  double factor(const std::string &name, int64_t row) const {
    auto found = dense.find(name + ".scale");
    if (found == dense.end()) return 1;
    double value = found->second[found->second.size() == 1 ? 0 : size_t(row)];
    return s.format == "nvfp4" && s.divide ? 1 / value : value;
  }

  std::string plan() const;

private:
  void fill(const std::string &prefix);
  void addMatrix(const std::string &name, int64_t rows, int64_t cols);
  void addNvfp4(const std::string &name, int64_t rows, int64_t cols);
  void addCache(const std::string &prefix);
  std::string values() const;
  std::string phases() const;
  std::string gemvs() const;

  std::mt19937 random_;
  std::deque<std::vector<uint8_t>> storage_;
};

inline void Layer::addNvfp4(const std::string &name, int64_t rows, int64_t cols) {
  static const double kValues[8] = {0, .5, 1, 1.5, 2, 3, 4, 6};
  int64_t scale_cols = cols / 16, padded_cols = (scale_cols + 3) / 4 * 4, padded_rows = (rows + 127) / 128 * 128;
  std::vector<uint8_t> &codes = store(name, size_t(rows * cols / 2));
  std::vector<uint8_t> &scales =
      store(name + ".scales", size_t(s.swizzled ? padded_rows * padded_cols : rows * scale_cols));
  Dense &values = dense[name];
  values.assign(size_t(rows * cols), 0);
  for (uint8_t &pad : scales) pad = 0x7f; // padding must not be read
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t block = 0; block < scale_cols; ++block) {
      uint8_t code = uint8_t(0x20 + bits() % 0x38); // 2^-3 .. about 240
      // The tile's 32x4x4 order written as digits, not by the reference's formula.
      int64_t tile = (row / 128) * (padded_cols / 4) + block / 4;
      int64_t inside = ((row % 32) * 4 + (row / 32) % 4) * 4 + block % 4;
      scales[size_t(s.swizzled ? tile * 512 + inside : row * scale_cols + block)] = code;
      double scale = std::ldexp(8 + code % 8, code / 8 - 10);
      for (int64_t k = block * 16; k < block * 16 + 16; ++k) {
        uint32_t nibble = bits() >> 7 & 15;
        codes[size_t((row * cols + k) / 2)] |= uint8_t(k % 2 ? nibble << 4 : nibble);
        values[size_t(row * cols + k)] = kValues[nibble % 8] * scale * (nibble > 7 ? -1 : 1);
      }
    }
  addFloats(name + ".scale", {s.divide ? 1234.567f : 1 / 1357.91f});
}

inline void Layer::addMatrix(const std::string &name, int64_t rows, int64_t cols) {
  if (s.format == "nvfp4") return addNvfp4(name, rows, cols);
  if (s.format == "bf16") return addValues(name, "bf16", rows * cols, 0.05);
  std::vector<uint8_t> &codes = store(name, size_t(rows * cols));
  for (uint8_t &code : codes) {
    code = uint8_t(bits());
    code = (code & 0x7f) > 0x6f ? uint8_t(code & 0x8f) : code;
    dense[name].push_back(double(phasec_reference::e4m3ToF32(code)));
  }
  std::vector<float> scales;
  for (int64_t row = 0; row < (s.row_scale ? rows : 1); ++row) scales.push_back(float(0.0007 * (1.5 + uniform())));
  addFloats(name + ".scale", scales);
}

// NHD pages of K and V together, in shuffled page order, with every byte outside the rows set to NaN.
inline void Layer::addCache(const std::string &prefix) {
  bool fp8 = s.kv == "fp8_e4m3";
  int64_t size = fp8 ? 1 : 2, row = s.kv_heads * s.hd * size, page = 2 * s.page * row;
  int64_t sequences = int64_t(s.context.size()), longest = 0;
  for (size_t i = 0; i < s.context.size(); ++i)
    longest = std::max<int64_t>(longest, s.context[i] + s.first[i + 1] - s.first[i]);
  inputs.page_stride = int((longest + s.page - 1) / s.page);
  int64_t pages = sequences * inputs.page_stride;
  if (inputs.page_table.empty()) {
    inputs.page_table.resize(size_t(pages));
    std::iota(inputs.page_table.begin(), inputs.page_table.end(), 0);
    std::shuffle(inputs.page_table.begin(), inputs.page_table.end(), random_);
  }
  std::vector<uint8_t> &bytes = store(prefix + "kv", size_t(pages * page));
  std::fill(bytes.begin(), bytes.end(), 0xff);
  for (int v = 0; v < 2; ++v) {
    Dense &values = dense[prefix + (v ? "kv.v" : "kv.k")]; // [sequence][row][head][d]
    values.assign(size_t(sequences * longest * s.kv_heads * s.hd), 0);
    for (int64_t i = 0; i < sequences; ++i) {
      int64_t rows = s.context[size_t(i)] + (s.fresh ? 0 : s.first[size_t(i) + 1] - s.first[size_t(i)]);
      for (int64_t j = 0; j < rows * s.kv_heads * s.hd; ++j) {
        int64_t r = j / (s.kv_heads * s.hd), at = j % (s.kv_heads * s.hd);
        double value = uniform() * (fp8 ? 40 : 2);
        uint8_t code = phasec_reference::toE4m3(value);
        uint16_t wide = phasec_reference::toBf16(value);
        int64_t number = inputs.page_table[size_t(i * inputs.page_stride + r / s.page)];
        uint8_t *to = bytes.data() + number * page + v * s.page * row + r % s.page * row + at * size;
        std::memcpy(to, fp8 ? static_cast<void *>(&code) : &wide, size_t(size));
        values[size_t(i * longest * s.kv_heads * s.hd + j)] =
            fp8 ? double(phasec_reference::e4m3ToF32(code)) : double(phasec_reference::bf16ToF32(wide));
      }
    }
  }
  inputs.caches[prefix + "kv"] = {bytes.data(), bytes.data() + s.page * row, page, row, s.hd * size, pages};
  if (fp8) addFloats(prefix + "kv.scales", {0.0371f, 0.0653f});
}

inline void Layer::fill(const std::string &prefix) {
  if (prefix == "0/") addValues("0/x", "bf16", tokens() * s.hidden);
  std::vector<float> rope(size_t(s.max_pos * s.rotary));
  for (int64_t p = 0; p < s.max_pos; ++p)
    for (int64_t i = 0; i < s.rotary / 2; ++i) {
      double angle = double(p) * std::pow(10000.0, -2.0 * double(i) / double(s.rotary));
      rope[size_t(p * s.rotary + i)] = float(std::cos(angle));
      rope[size_t(p * s.rotary + s.rotary / 2 + i)] = float(std::sin(angle));
    }
  addFloats(prefix + "rope", rope);
  addValues(prefix + "g_attn", "bf16", s.hidden, 0.3);
  addValues(prefix + "g_mlp", "f32", s.hidden, 0.3);
  addValues(prefix + "g_q", "f32", s.hd, 0.3);
  addValues(prefix + "g_k", "bf16", s.hd, 0.3);
  addValues(prefix + "b_qkv", "bf16", qkvRows(), 0.2);
  addMatrix(prefix + "w_qkv", qkvRows(), s.hidden);
  addMatrix(prefix + "w_o", s.hidden, s.heads * s.hd);
  addMatrix(prefix + "w_gate_up", 2 * s.ffn, s.hidden);
  addMatrix(prefix + "w_down", s.hidden, s.ffn);
  addCache(prefix);
}

inline std::string Layer::values() const {
  auto value = [](const std::string &name, const char *kind, const std::string &dtype, int64_t rows, int64_t width) {
    return "{\"name\":\"" + name + "\",\"kind\":\"" + kind + "\",\"" +
           (std::string(kind) == "weight" ? "format" : "dtype") + "\":\"" + dtype + "\",\"shape\":[" +
           (rows ? std::to_string(rows) + "," : "") + std::to_string(width) + "]},";
  };
  auto matrix = [&](const std::string &name, int64_t rows, int64_t cols) {
    std::string out = value(name, "weight", s.format, rows, cols);
    out.resize(out.size() - 2);
    return out + ",\"scales\":\"" + (s.swizzled ? "swizzled" : "linear") + "\",\"global\":\"" +
           (s.divide && s.format == "nvfp4" ? "divide" : "multiply") + "\",\"fp8_scale\":\"" +
           (s.row_scale && s.format == "fp8_e4m3" ? "row" : "tensor") + "\"},";
  };
  int64_t q = s.heads * s.hd;
  return value("x", "input", "bf16", -1, s.hidden) + value("rope", "input", "f32", s.max_pos, s.rotary) +
         "{\"name\":\"kv\",\"kind\":\"cache\",\"dtype\":\"" + s.kv + "\",\"page\":" + std::to_string(s.page) +
         ",\"order\":\"nhd\",\"kv\":\"joint\"}," + value("g_attn", "weight", "bf16", 0, s.hidden) +
         value("g_mlp", "weight", "f32", 0, s.hidden) + value("g_q", "weight", "f32", 0, s.hd) +
         value("g_k", "weight", "bf16", 0, s.hd) + value("b_qkv", "weight", "bf16", 0, qkvRows()) +
         matrix("w_qkv", qkvRows(), s.hidden) + matrix("w_o", s.hidden, q) + matrix("w_gate_up", 2 * s.ffn, s.hidden) +
         matrix("w_down", s.hidden, s.ffn) + value("xn", "temp", "bf16", -1, s.hidden) +
         value("q", "temp", "bf16", -1, q) + value("g", "temp", "bf16", -1, q) + value("a", "temp", "bf16", -1, q) +
         value("p", "temp", "f32", -1, s.hidden) + value("h", "temp", s.h, -1, s.hidden) +
         value("hn", "temp", "bf16", -1, s.hidden) + value("u", "temp", "bf16", -1, s.ffn) +
         "{\"name\":\"y\",\"kind\":\"temp\",\"dtype\":\"" + s.y + "\",\"shape\":[-1," + std::to_string(s.hidden) + "]}";
}

inline std::string Layer::phases() const {
  std::string gamma = s.one_plus ? "\"gamma\":\"one_plus\"" : "\"gamma\":\"plain\"";
  std::string norm = "\"attrs\":{\"eps\":1e-6," + gamma + "}}";
  return "{\"op\":\"norm\",\"operands\":[\"x\",\"g_attn\"],\"results\":[\"xn\"]," + norm +
         ",{\"op\":\"qkv\",\"operands\":[\"xn\",\"w_qkv\",\"kv\"],\"results\":[" + (s.gate ? "\"q\",\"g\"" : "\"q\"") +
         "],\"attrs\":{\"bias\":" + (s.bias ? "\"b_qkv\"" : "null") +
         ",\"q_norm\":" + (s.qk_norm ? "\"g_q\"" : "null") + ",\"k_norm\":" + (s.qk_norm ? "\"g_k\"" : "null") +
         ",\"eps\":1e-6," + gamma + ",\"rope\":\"rope\",\"rotary\":" + std::to_string(s.rotary) + ",\"pairing\":\"" +
         (s.interleaved ? "interleaved" : "half") + "\",\"gate_rows\":\"" + (s.per_head ? "per_head" : "block") +
         "\",\"append\":true}},{\"op\":\"attn\",\"operands\":[\"q\",\"kv\"" + (s.gate ? ",\"g\"" : "") +
         "],\"results\":[\"a\"],\"attrs\":{\"scale\":0.125,\"gate\":" + (s.gate ? "\"sigmoid\"" : "null") +
         "}},{\"op\":\"wo\",\"operands\":[\"a\",\"w_o\"],\"results\":[\"p\"],\"attrs\":{}},"
         "{\"op\":\"gather\",\"operands\":[\"p\",\"x\"],\"results\":[\"h\"],\"attrs\":{\"by\":\"elected\"}},"
         "{\"op\":\"norm\",\"operands\":[\"h\",\"g_mlp\"],\"results\":[\"hn\"]," +
         norm + ",{\"op\":\"fc1\",\"operands\":[\"hn\",\"w_gate_up\"],\"results\":[\"u\"],\"attrs\":{\"act\":\"" +
         (s.gelu ? "gelu_tanh" : "silu") +
         "\"}},{\"op\":\"fc2\",\"operands\":[\"u\",\"w_down\",\"h\"],\"results\":[\"y\"],\"attrs\":{\"act_quant\":" +
         (s.quantise ? "\"nvfp4\"" : "null") + "}}";
}

inline std::string Layer::gemvs() const {
  auto gemv = [](int phase, const char *op, int64_t rows, int64_t cols, int64_t slots, const std::string &cuts) {
    return "{\"phase\":" + std::to_string(phase) + ",\"op\":\"" + op + "\",\"rows\":" + std::to_string(rows) +
           ",\"cols\":" + std::to_string(cols) + ",\"slots\":" + std::to_string(slots) + ",\"segments\":[" + cuts +
           "]}";
  };
  int64_t per_head = s.heads * s.hd / s.kv_heads;
  std::string wo;
  for (int64_t slot = 0; slot < s.kv_heads * s.wo_split; ++slot) {
    int64_t by = slot / s.wo_split, bx = slot % s.wo_split;
    std::string cuts = segments(slot, by * per_head + per_head * bx / s.wo_split,
                                by * per_head + per_head * (bx + 1) / s.wo_split, wo_step);
    wo += (wo.empty() || cuts.empty() ? "" : ",") + cuts;
  }
  std::string down = segments(0, 0, 48, fc_step) + "," + segments(1, 48, s.ffn, fc_step);
  return gemv(1, "qkv", qkvRows(), s.hidden, 1, segments(0, 0, s.hidden, fc_step)) + "," +
         gemv(3, "wo", s.hidden, s.heads * s.hd, s.kv_heads * s.wo_split, wo) + "," +
         gemv(6, "fc1", 2 * s.ffn, s.hidden, 1, segments(0, 0, s.hidden, fc_step)) + "," +
         gemv(7, "fc2", s.hidden, s.ffn, 2, down);
}

inline std::string Layer::plan() const {
  std::string list;
  for (int64_t i = 0; i < s.instances; ++i)
    list += std::string(i ? "," : "") + "{\"body\":0,\"occurrence\":" + std::to_string(i) + "}";
  return "{\"schema\":\"phasec.plan/1\",\"tokens_max\":8,\"warps\":4,\"wo_split\":" + std::to_string(s.wo_split) +
         ",\"instances\":[" + list + "],\"bodies\":[{\"layer\":\"t\",\"dims\":{\"hidden\":" + std::to_string(s.hidden) +
         ",\"ffn\":" + std::to_string(s.ffn) + ",\"heads\":" + std::to_string(s.heads) +
         ",\"kv_heads\":" + std::to_string(s.kv_heads) + ",\"head_dim\":" + std::to_string(s.hd) + "},\"values\":[" +
         values() + "],\"phases\":[" + phases() + "],\"returns\":[\"y\",\"h\",\"p\",\"a\",\"q\",\"u\"],\"gemv\":[" +
         gemvs() + "],\"attention\":[{\"phase\":2,\"kv_splits\":" + std::to_string(s.kv_splits) +
         ",\"chunk_rows\":" + std::to_string(s.chunk_rows) + ",\"buffered_from\":" + std::to_string(s.buffered_from) +
         ",\"buffered_warps\":" + std::to_string(s.buffered_warps) + ",\"warps\":" + std::to_string(s.warps) +
         ",\"fresh_rows\":" + (s.fresh ? "true" : "false") + ",\"scale\":0.125}],\"events\":[],\"steps\":[]}]}";
}

} // namespace reference_test

#endif
