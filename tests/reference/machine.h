// Evaluates the instances of a plan phase by phase, in one precision. What the exact contract orders (sums, GEMV
// segments, the attention merge) is specialised in exact.cpp and fp64.cpp; the rest is written once.
#ifndef PHASEC_TESTS_REFERENCE_MACHINE_H
#define PHASEC_TESTS_REFERENCE_MACHINE_H

#include "tests/reference/formats.h"
#include "tests/reference/layout.h"
#include "tests/reference/plan.h"
#include "tests/reference/reference.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace phasec_reference {

// [slots][tokens][width]; only partials have more than one slot.
template <class Real> struct Tensor {
  std::string dtype;
  int64_t slots = 1, width = 0;
  std::vector<Real> data;
  std::vector<int32_t> ids; // i32 [tokens], instead of the above
};

// This step's rows of a cache, in the cache dtype.
struct Fresh {
  std::vector<uint8_t> k, v;
};

template <class Real> class Machine {
public:
  Machine(const Plan &plan, const Inputs &inputs, const Options &options, const Kernels &kernels, std::string *error)
      : plan_(plan), inputs_(inputs), options_(options), kernels_(kernels), error_(error), tokens_(inputs.tokens) {}

  bool run();
  bool write(Output *output) const;
  bool writeValues(std::map<std::string, std::vector<double>> *values) const;

private:
  // Specialised: sum of squares over [0, n) of a norm row, of a head, the GEMV of a phase, attention.
  Real rowSquares(const Real *x, int64_t n) const;
  Real headSquares(const Real *x, int64_t n) const;
  bool gemv(size_t phase, const std::vector<Real> &x, bool keep_slots, std::vector<Real> *out);
  void attend(const AttentionPlan &cut, const CacheRows &cache, int64_t heads, const std::vector<Real> &q,
              std::vector<Real> *out) const;
  Real rounded(Real value, const std::string &dtype) const;

  bool runInstance();
  bool runPhase(size_t index);
  bool bindInputs();
  bool bindInput(const ValueInfo &info);
  bool embed(const Phase &phase);
  bool norm(const Phase &phase);
  bool qkv(size_t index);
  bool finishHeads(const Phase &phase, std::vector<Real> *rows);
  void finishHead(const Attrs &attrs, const std::vector<Real> &gamma, const float *angles, Real *v) const;
  bool quantiseRows(const Phase &phase, const std::vector<Real> &rows);
  bool attention(size_t index);
  bool wo(size_t index);
  bool gather(const Phase &phase);
  bool fc1(size_t index);
  bool fc2(size_t index);
  bool head(size_t index);
  bool argmax(const Phase &phase);
  std::vector<Real> requantised(const std::vector<Real> &x) const;

  bool fail(const std::string &what) {
    *error_ = "instance " + std::to_string(instance_) + ": " + what;
    return false;
  }
  const Tensor<Real> *get(const std::string &name) {
    auto found = values_.find(name);
    if (found != values_.end()) return &found->second;
    fail("'" + name + "' is used before it has a value");
    return nullptr;
  }
  bool vector(const std::string &name, bool one_plus, std::vector<Real> *out) {
    std::vector<float> stored;
    if (!loadVector(inputs_, prefix_, *body_->find(name), &stored, error_)) return false;
    out->assign(stored.begin(), stored.end());
    for (Real &value : *out) value = one_plus ? Real(1) + value : value;
    return true;
  }
  void define(const std::string &name, int64_t slots, std::vector<Real> data) {
    const ValueInfo &info = *body_->find(name);
    for (Real &value : data) value = rounded(value, info.format);
    values_[name] = {info.format, slots, info.shape[1], std::move(data), {}};
  }

  const Plan &plan_;
  const Inputs &inputs_;
  const Options &options_;
  const Kernels &kernels_;
  std::string *error_;
  int64_t tokens_;
  const Body *body_ = nullptr;
  size_t instance_ = 0;
  std::string prefix_;
  std::vector<int64_t> positions_; // per token
  std::map<std::string, Tensor<Real>> values_;
  std::map<std::string, Fresh> fresh_;    // this instance, by cache name
  std::map<std::string, Fresh> appended_; // all instances, by prefixed name
  std::map<std::string, std::string> appended_dtypes_;
};

template <class Real> bool Machine<Real>::run() {
  if (tokens_ < 1 || tokens_ > plan_.tokens_max) return fail("tokens outside 1.." + std::to_string(plan_.tokens_max));
  Tensor<Real> carried;
  for (instance_ = 0; instance_ < plan_.instances.size(); ++instance_) {
    body_ = &plan_.bodies[plan_.instances[instance_]];
    prefix_ = std::to_string(instance_) + "/";
    values_.clear();
    fresh_.clear();
    if (instance_ > 0) values_[body_->firstInput()->name] = carried;
    if (!bindInputs() || !runInstance()) return false;
    for (auto &[name, rows] : fresh_) appended_[prefix_ + name] = rows;
    carried = *get(body_->returns[0]);
  }
  return true;
}

template <class Real> bool Machine<Real>::bindInputs() {
  for (const ValueInfo &info : body_->values)
    if (info.kind == "input" && info.shape[0] == kTokensExtent && !values_.count(info.name) && !bindInput(info))
      return false;
  return true;
}

template <class Real> bool Machine<Real>::bindInput(const ValueInfo &info) {
  const uint8_t *data = nullptr;
  if (info.format == "i32") {
    std::vector<int32_t> ids(static_cast<size_t>(tokens_));
    if (!findView(inputs_, prefix_ + info.name, ids.size() * 4, &data, error_)) return false;
    std::memcpy(ids.data(), data, ids.size() * 4);
    values_[info.name] = {info.format, 1, 0, {}, std::move(ids)};
    return true;
  }
  size_t row = size_t(info.shape[1]) * (info.format == "f32" ? 4 : 2), step = row * size_t(tokens_);
  if (!findView(inputs_, prefix_ + info.name, step, &data, error_)) return false;
  // Partials given from outside: as many slots as the buffer holds.
  size_t slots = 1;
  for (const Phase &phase : body_->phases)
    if (phase.op == "gather" && phase.operands[0] == info.name)
      slots = inputs_.buffers.at(prefix_ + info.name).bytes / step;
  std::vector<float> stored(size_t(info.shape[1]) * size_t(tokens_) * slots);
  decodeValues(kernels_, info.format, data, int64_t(stored.size()), stored.data());
  values_[info.name] = {
      info.format, int64_t(slots), info.shape[1], std::vector<Real>(stored.begin(), stored.end()), {}};
  return true;
}

template <class Real> bool Machine<Real>::runInstance() {
  bool sequences = false;
  for (const Phase &phase : body_->phases) sequences |= phase.op == "qkv" || phase.op == "attn";
  if (sequences && !checkSequences(inputs_, error_)) return false;
  positions_.clear();
  for (size_t s = 0; sequences && s < inputs_.seq_context.size(); ++s)
    for (int32_t token = inputs_.seq_first[s]; token < inputs_.seq_first[s + 1]; ++token)
      positions_.push_back(int64_t(inputs_.seq_context[s]) + token - inputs_.seq_first[s]);
  for (size_t index = 0; index < body_->phases.size(); ++index)
    if (!runPhase(index)) return false;
  for (const std::string &name : body_->returns)
    if (!get(name)) return false;
  return true;
}

template <class Real> bool Machine<Real>::runPhase(size_t index) {
  const Phase &phase = body_->phases[index];
  if (phase.op == "embed") return embed(phase);
  if (phase.op == "norm") return norm(phase);
  if (phase.op == "qkv") return qkv(index);
  if (phase.op == "attn") return attention(index);
  if (phase.op == "wo") return wo(index);
  if (phase.op == "gather") return gather(phase);
  if (phase.op == "head") return head(index);
  if (phase.op == "argmax") return argmax(phase);
  return phase.op == "fc1" ? fc1(index) : fc2(index);
}

// An id outside the table stands for a row of zeros.
template <class Real> bool Machine<Real>::embed(const Phase &phase) {
  const Tensor<Real> *ids = get(phase.operands[0]);
  Matrix table;
  if (!ids || !bindMatrix(inputs_, prefix_, *body_->find(phase.operands[1]), &table, error_)) return false;
  std::vector<Real> x(size_t(tokens_ * table.cols), Real(0));
  std::vector<float> row(static_cast<size_t>(table.cols));
  for (int64_t token = 0; token < tokens_; ++token) {
    int64_t id = ids->ids[size_t(token)];
    if (id < 0 || id >= table.rows) continue;
    table.decode(kernels_, id, 0, table.cols, row.data());
    std::copy(row.begin(), row.end(), x.begin() + token * table.cols);
  }
  define(phase.results[0], 1, std::move(x));
  return true;
}

template <class Real> bool Machine<Real>::norm(const Phase &phase) {
  const Tensor<Real> *x = get(phase.operands[0]);
  std::vector<Real> gamma;
  if (!x || !vector(phase.operands[1], phase.attrs.one_plus, &gamma)) return false;
  int64_t n = x->width;
  std::vector<Real> y(x->data.size());
  for (int64_t token = 0; token < tokens_; ++token) {
    const Real *row = x->data.data() + token * n;
    Real mean = rowSquares(row, n) / Real(n);
    Real r = Real(1) / Arith<Real>::sqrt(mean + Real(phase.attrs.eps));
    for (int64_t i = 0; i < n; ++i) y[size_t(token * n + i)] = (row[i] * r) * gamma[size_t(i)];
  }
  define(phase.results[0], 1, std::move(y));
  return true;
}

template <class Real> bool Machine<Real>::qkv(size_t index) {
  const Phase &phase = body_->phases[index];
  const Tensor<Real> *x = get(phase.operands[0]);
  std::vector<Real> rows;
  if (!x || !gemv(index, x->data, false, &rows) || !finishHeads(phase, &rows)) return false;
  int64_t heads = body_->dim("heads"), hd = body_->dim("head_dim"), stride = int64_t(rows.size()) / tokens_;
  for (size_t result = 0; result < phase.results.size(); ++result) {
    std::vector<Real> value(size_t(tokens_ * heads * hd));
    for (int64_t token = 0; token < tokens_; ++token)
      for (int64_t head = 0; head < heads; ++head) {
        // Row of element 0: [q heads, gate heads], or per head [q, gate].
        int64_t base = phase.attrs.per_head ? (2 * head + int64_t(result)) * hd : (int64_t(result) * heads + head) * hd;
        for (int64_t d = 0; d < hd; ++d)
          value[size_t((token * heads + head) * hd + d)] = rows[size_t(token * stride + base + d)];
      }
    define(phase.results[result], 1, std::move(value));
  }
  return quantiseRows(phase, rows);
}

// Bias everywhere, then norm and rotary on the q and k heads, in place.
template <class Real> bool Machine<Real>::finishHeads(const Phase &phase, std::vector<Real> *rows) {
  const Attrs &attrs = phase.attrs;
  std::vector<Real> bias, q_gamma, k_gamma;
  if ((!attrs.bias.empty() && !vector(attrs.bias, false, &bias)) ||
      (!attrs.q_norm.empty() && !vector(attrs.q_norm, attrs.one_plus, &q_gamma)) ||
      (!attrs.k_norm.empty() && !vector(attrs.k_norm, attrs.one_plus, &k_gamma)))
    return false;
  int64_t last = 0;
  for (int64_t position : positions_) last = position > last ? position : last;
  const uint8_t *table = nullptr;
  if (!attrs.rope.empty() &&
      !findView(inputs_, prefix_ + attrs.rope, size_t((last + 1) * attrs.rotary * 4), &table, error_))
    return false;
  int64_t heads = body_->dim("heads"), kv_heads = body_->dim("kv_heads"), hd = body_->dim("head_dim");
  int64_t gates = phase.results.size() == 2 ? heads : 0, stride = (heads + gates + 2 * kv_heads) * hd;
  std::vector<float> angles(size_t(attrs.rotary));
  for (int64_t token = 0; token < tokens_; ++token) {
    Real *row = rows->data() + token * stride;
    for (size_t i = 0; i < bias.size(); ++i) row[i] = row[i] + bias[i];
    if (table) std::memcpy(angles.data(), table + positions_[size_t(token)] * attrs.rotary * 4, angles.size() * 4);
    for (int64_t head = 0; head < heads; ++head)
      finishHead(attrs, q_gamma, angles.data(), row + (attrs.per_head ? 2 * head : head) * hd);
    for (int64_t head = 0; head < kv_heads; ++head)
      finishHead(attrs, k_gamma, angles.data(), row + (heads + gates + head) * hd);
  }
  return true;
}

template <class Real>
void Machine<Real>::finishHead(const Attrs &attrs, const std::vector<Real> &gamma, const float *angles, Real *v) const {
  int64_t hd = body_->dim("head_dim"), pairs = attrs.rotary / 2;
  if (!gamma.empty()) {
    Real mean = headSquares(v, hd) / Real(hd);
    Real r = Real(1) / Arith<Real>::sqrt(mean + Real(attrs.eps));
    for (int64_t d = 0; d < hd; ++d) v[d] = (v[d] * r) * gamma[size_t(d)];
  }
  for (int64_t i = 0; i < pairs; ++i) {
    Real &first = v[attrs.interleaved ? 2 * i : i], &second = v[attrs.interleaved ? 2 * i + 1 : i + pairs];
    Real a = first, b = second, c = Real(angles[i]), s = Real(angles[pairs + i]);
    first = Arith<Real>::fma(a, c, -(b * s));
    second = Arith<Real>::fma(b, c, a * s);
  }
}

// k and v of this step, as the cache stores them.
template <class Real> bool Machine<Real>::quantiseRows(const Phase &phase, const std::vector<Real> &rows) {
  int64_t kv_heads = body_->dim("kv_heads"), hd = body_->dim("head_dim");
  CacheRows cache;
  const ValueInfo &info = *body_->find(phase.operands[2]);
  if (!bindCache(inputs_, prefix_, info, kv_heads, hd, &cache, error_)) return false;
  int64_t stride = int64_t(rows.size()) / tokens_, n = kv_heads * hd, size = cache.elementBytes();
  Fresh &fresh = fresh_[info.name];
  for (int which = 0; which < 2; ++which) {
    std::vector<uint8_t> &bytes = which ? fresh.v : fresh.k;
    Real scale = Real(which ? cache.v_scale : cache.k_scale);
    bytes.resize(size_t(tokens_ * n * size));
    for (int64_t i = 0; i < tokens_ * n; ++i) {
      Real value = rows[size_t(i / n * stride + stride - (2 - which) * n + i % n)];
      if (cache.fp8()) {
        bytes[size_t(i)] = toE4m3(value / scale);
      } else {
        uint16_t code = toBf16(value);
        std::memcpy(bytes.data() + i * 2, &code, 2);
      }
    }
  }
  if (phase.attrs.append) appended_dtypes_[prefix_ + info.name] = info.format;
  return true;
}

template <class Real> bool Machine<Real>::attention(size_t index) {
  const Phase &phase = body_->phases[index];
  const AttentionPlan &cut = *body_->attentionOf(index);
  int64_t heads = body_->dim("heads"), hd = body_->dim("head_dim");
  const Tensor<Real> *q = get(phase.operands[0]), *gate = phase.attrs.gated ? get(phase.operands[2]) : nullptr;
  CacheRows cache;
  if (!q || (phase.attrs.gated && !gate) ||
      !bindCache(inputs_, prefix_, *body_->find(phase.operands[1]), body_->dim("kv_heads"), hd, &cache, error_))
    return false;
  auto fresh = fresh_.find(phase.operands[1]);
  if (fresh != fresh_.end()) {
    cache.fresh_k = &fresh->second.k;
    cache.fresh_v = &fresh->second.v;
  }
  if (!bindPages(prefix_, &cache, error_)) return false;
  std::vector<Real> out(size_t(tokens_ * heads * hd));
  attend(cut, cache, heads, q->data, &out);
  for (size_t i = 0; i < out.size(); ++i) {
    Real o = cache.fp8() ? out[i] * Real(cache.v_scale) : out[i];
    out[i] = gate ? o * Arith<Real>::sigmoid(gate->data[i]) : o;
  }
  define(phase.results[0], 1, std::move(out));
  return true;
}

template <class Real> bool Machine<Real>::wo(size_t index) {
  const Phase &phase = body_->phases[index];
  const Tensor<Real> *x = get(phase.operands[0]);
  std::vector<Real> partials;
  if (!x || !gemv(index, x->data, true, &partials)) return false;
  define(phase.results[0], body_->gemvOf(index)->slots, std::move(partials));
  return true;
}

template <class Real> bool Machine<Real>::gather(const Phase &phase) {
  const Tensor<Real> *p = get(phase.operands[0]);
  const Tensor<Real> *residual = phase.operands.size() > 1 ? get(phase.operands[1]) : nullptr;
  if (!p || (phase.operands.size() > 1 && !residual)) return false;
  size_t n = size_t(tokens_ * p->width);
  std::vector<Real> h(p->data.begin(), p->data.begin() + int64_t(n));
  for (size_t i = 0; i < n; ++i) {
    for (size_t slot = 1; slot < size_t(p->slots); ++slot) h[i] = h[i] + p->data[slot * n + i];
    if (residual) h[i] = h[i] + residual->data[i];
  }
  define(phase.results[0], 1, std::move(h));
  return true;
}

template <class Real> bool Machine<Real>::fc1(size_t index) {
  const Phase &phase = body_->phases[index];
  const Tensor<Real> *x = get(phase.operands[0]);
  std::vector<Real> rows;
  if (!x || !gemv(index, x->data, false, &rows)) return false;
  int64_t ffn = int64_t(rows.size()) / tokens_ / 2;
  std::vector<Real> y(size_t(tokens_ * ffn));
  for (int64_t i = 0; i < tokens_ * ffn; ++i) {
    const Real *row = rows.data() + i / ffn * 2 * ffn + i % ffn;
    y[size_t(i)] = (phase.attrs.gelu ? Arith<Real>::geluTanh(row[0]) : Arith<Real>::silu(row[0])) * row[ffn];
  }
  define(phase.results[0], 1, std::move(y));
  return true;
}

// Blocks of 16: an e4m3 scale from the largest magnitude, e2m1 values.
template <class Real> std::vector<Real> Machine<Real>::requantised(const std::vector<Real> &x) const {
  std::vector<Real> out(x.size(), Real(0));
  for (size_t block = 0; block < x.size(); block += 16) {
    Real amax = 0;
    for (size_t i = block; i < block + 16; ++i) amax = amax < std::fabs(x[i]) ? std::fabs(x[i]) : amax;
    Real scale = Real(e4m3ToF32(toE4m3(amax / Real(6))));
    for (size_t i = block; scale != 0 && i < block + 16; ++i) out[i] = Real(e2m1ToF32(toE2m1(x[i] / scale))) * scale;
  }
  return out;
}

template <class Real> bool Machine<Real>::fc2(size_t index) {
  const Phase &phase = body_->phases[index];
  const Tensor<Real> *u = get(phase.operands[0]);
  const Tensor<Real> *residual = phase.operands.size() > 2 ? get(phase.operands[2]) : nullptr;
  std::vector<Real> y;
  if (!u || (phase.operands.size() > 2 && !residual) ||
      !gemv(index, phase.attrs.quantise ? requantised(u->data) : u->data, false, &y))
    return false;
  for (size_t i = 0; residual && i < y.size(); ++i) y[i] = y[i] + residual->data[i];
  define(phase.results[0], 1, std::move(y));
  return true;
}

template <class Real> bool Machine<Real>::head(size_t index) {
  const Phase &phase = body_->phases[index];
  const Tensor<Real> *x = get(phase.operands[0]);
  std::vector<Real> logits;
  if (!x || !gemv(index, x->data, false, &logits)) return false;
  define(phase.results[0], 1, std::move(logits));
  return true;
}

// The largest logit, the first of several; a NaN is passed over, and 0 stands for nothing but NaN.
template <class Real> bool Machine<Real>::argmax(const Phase &phase) {
  const Tensor<Real> *logits = get(phase.operands[0]);
  if (!logits) return false;
  std::vector<int32_t> chosen;
  for (int64_t token = 0; token < tokens_; ++token) {
    const Real *row = logits->data.data() + token * logits->width;
    int64_t best = -1;
    for (int64_t i = 0; i < logits->width; ++i)
      if (!std::isnan(row[i]) && (best < 0 || row[i] > row[best])) best = i;
    chosen.push_back(int32_t(best < 0 ? 0 : best));
  }
  values_[phase.results[0]] = {"i32", 1, 0, {}, std::move(chosen)};
  return true;
}

template <class Real> bool Machine<Real>::write(Output *output) const {
  output->buffers.clear();
  output->dtypes.clear();
  for (const std::string &name : body_->returns) {
    const Tensor<Real> &value = values_.at(name);
    bool wide = value.dtype == "f32";
    std::vector<uint8_t> &bytes = output->buffers[name];
    output->dtypes[name] = value.dtype;
    if (value.dtype == "i32") {
      bytes.resize(value.ids.size() * 4);
      std::memcpy(bytes.data(), value.ids.data(), bytes.size());
      continue;
    }
    bytes.resize(value.data.size() * (wide ? 4 : 2));
    for (size_t i = 0; i < value.data.size(); ++i) {
      float f32 = float(value.data[i]);
      uint16_t bf16 = toBf16(value.data[i]);
      std::memcpy(bytes.data() + i * (wide ? 4 : 2), wide ? static_cast<void *>(&f32) : &bf16, wide ? 4 : 2);
    }
  }
  for (const auto &[name, dtype] : appended_dtypes_) {
    output->buffers[name + ".appended.k"] = appended_.at(name).k;
    output->buffers[name + ".appended.v"] = appended_.at(name).v;
    output->dtypes[name + ".appended.k"] = output->dtypes[name + ".appended.v"] = dtype;
  }
  return true;
}

template <class Real> bool Machine<Real>::writeValues(std::map<std::string, std::vector<double>> *values) const {
  values->clear();
  for (const std::string &name : body_->returns) {
    const Tensor<Real> &value = values_.at(name);
    if (value.dtype == "i32")
      (*values)[name].assign(value.ids.begin(), value.ids.end());
    else
      (*values)[name].assign(value.data.begin(), value.data.end());
  }
  for (const auto &[name, dtype] : appended_dtypes_)
    for (bool v : {false, true}) {
      const std::vector<uint8_t> &bytes = v ? appended_.at(name).v : appended_.at(name).k;
      std::vector<float> decoded(dtype == "bf16" ? bytes.size() / 2 : bytes.size());
      decodeValues(genericKernels(), dtype, bytes.data(), int64_t(decoded.size()), decoded.data());
      (*values)[name + (v ? ".appended.v" : ".appended.k")].assign(decoded.begin(), decoded.end());
    }
  return true;
}

} // namespace phasec_reference

#endif
