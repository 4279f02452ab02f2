// inputs.cpp: see inputs.h.
#include "runtime/cli/inputs.h"

#include "runtime/cli/random.h"

#include <limits>
#include <numeric>

namespace phasec::cli {
namespace {

constexpr uint8_t kNanByte = 0xff; // bf16 and f32 of these bytes are NaN, and so is e4m3 0xff
constexpr int kGuardPages = 3;
constexpr int64_t kStridePadding = 16;
constexpr int kDefaultTokens = 3;

template <class T> void append(std::vector<uint8_t> &to, T value) {
  const auto *bytes = reinterpret_cast<const uint8_t *>(&value);
  to.insert(to.end(), bytes, bytes + sizeof value);
}

void appendReal(std::vector<uint8_t> &to, ir::DType dtype, double value) {
  if (dtype == ir::DType::f32) append(to, float(value));
  else append(to, toBf16(float(value)));
}

/// Which phases give a value its meaning.
struct Role {
  bool rope = false, bias = false, one_plus = false, logits = false;
  int64_t vocab = 0; ///< ids: rows of the table that they choose from
};

Role roleOf(const ir::Layer &layer, ir::ValueId v) {
  Role role;
  for (const ir::Phase &p : layer.phases) {
    if (const auto *norm = std::get_if<ir::NormAttrs>(&p.attrs); norm && p.operands[1] == v)
      role.one_plus = norm->gamma == ir::NormGamma::OnePlus;
    if (p.op == ir::Op::embed && p.operands[0] == v) role.vocab = layer.values[size_t(p.operands[1])].shape[0];
    role.logits |= p.op == ir::Op::argmax && p.operands[0] == v;
    if (const auto *qkv = std::get_if<ir::QkvAttrs>(&p.attrs)) {
      role.rope |= qkv->rope == v;
      role.bias |= qkv->bias == v;
      if (qkv->q_norm == v || qkv->k_norm == v) role.one_plus = qkv->gamma == ir::NormGamma::OnePlus;
    }
  }
  return role;
}

class Maker {
public:
  Maker(const Plan &plan, const ir::Module &module, const InputOptions &options)
      : plan_(plan), module_(module), options_(options) {}

  Result<HostInputs> run() {
    PHASEC_TRY(makeStep());
    makePages();
    size_t instances = options_.instances ? size_t(options_.instances) : plan_.instances.size();
    for (size_t i = 0; i < instances; i++) {
      layer_ = &module_.layers[plan_.bodies[size_t(plan_.instances[i].body)].layer];
      prefix_ = std::to_string(i) + "/";
      for (ir::ValueId v = 0; v < ir::ValueId(layer_->values.size()); v++) PHASEC_TRY(makeValue(v));
    }
    return std::move(in_);
  }

private:
  Status makeStep() {
    std::vector<int> contexts = options_.contexts, tokens = options_.tokens_per_seq;
    int most = plan_.tokens_max, total = std::accumulate(tokens.begin(), tokens.end(), 0);
    if (options_.tokens < 0 || std::any_of(tokens.begin(), tokens.end(), [](int n) { return n < 1; }) ||
        std::any_of(contexts.begin(), contexts.end(), [](int n) { return n < 0; }))
      return Status::usage("--tokens and --tokens-per-seq take numbers from 1, --contexts from 0");
    if (tokens.empty()) total = options_.tokens ? options_.tokens : std::min(most, std::max(kDefaultTokens, int(contexts.size())));
    else if (options_.tokens && options_.tokens != total)
      return Status::usage("--tokens-per-seq adds up to " + std::to_string(total) + ", but --tokens is " + std::to_string(options_.tokens));
    if (contexts.empty()) contexts = {1, 65};
    if (options_.contexts.empty()) contexts.resize(tokens.empty() ? size_t(std::min(2, total)) : tokens.size(), 65);
    if (!tokens.empty() && tokens.size() != contexts.size())
      return Status::usage("--contexts names " + std::to_string(contexts.size()) + " sequences, --tokens-per-seq " +
                           std::to_string(tokens.size()));
    if (total > most)
      return Status::input(std::to_string(total) + " tokens, but this kernel is compiled for at most " + std::to_string(most) +
                           "; the layer's `tokens` and the knob tokens_max set that");
    int n = int(contexts.size());
    if (n > total)
      return Status::input(std::to_string(n) + " sequences need at least as many tokens, but there are " + std::to_string(total));
    if (tokens.empty())
      for (int s = 0; s < n; s++) tokens.push_back(total / n + (s < total % n));
    in_.counts = {total, n};
    in_.seq_first = {0};
    for (int t : tokens) in_.seq_first.push_back(in_.seq_first.back() + t);
    in_.seq_context.assign(contexts.begin(), contexts.end());
    return {};
  }

  int rowsOf(int s) const { return in_.seq_context[size_t(s)] + in_.seq_first[size_t(s) + 1] - in_.seq_first[size_t(s)]; }

  /// One page table for all caches, for the smallest page of any: a cache with larger pages uses a prefix of each row.
  void makePages() {
    int page = 1 << 20;
    for (const Body &b : plan_.bodies)
      for (const ir::Value &v : module_.layers[b.layer].values)
        if (v.kind == ir::ValueKind::Cache) page = std::min(page, v.cache.page);
    int used = 0;
    for (int s = 0; s < in_.sequences(); s++) {
      int count = (rowsOf(s) + page - 1) / page;
      in_.page_stride = std::max(in_.page_stride, count);
      used += count;
    }
    in_.pages = used + kGuardPages;
    std::vector<int32_t> order(static_cast<size_t>(in_.pages));
    std::iota(order.begin(), order.end(), 0);
    Random random(options_.seed, "pages");
    for (int i = in_.pages - 1; i > 0; i--) std::swap(order[size_t(i)], order[size_t(random.below(i + 1))]);
    in_.page_table.assign(size_t(in_.sequences() * in_.page_stride), -1); // nobody may follow the unused entries
    for (int s = 0, next = 0; s < in_.sequences(); s++)
      for (int i = 0; i < (rowsOf(s) + page - 1) / page; i++) in_.page_table[size_t(s * in_.page_stride + i)] = order[size_t(next++)];
  }

  Status makeValue(ir::ValueId v) {
    const ir::Value &value = layer_->values[size_t(v)];
    Role role = roleOf(*layer_, v);
    switch (value.kind) {
    case ir::ValueKind::Temp: return {};
    case ir::ValueKind::Cache: makeCache(v); return {};
    case ir::ValueKind::Weight:
      if (value.isVector()) makeVector(value, role);
      else makeMatrix(value);
      return {};
    case ir::ValueKind::Input:
      if (role.rope) return makeRope(value);
      if (role.vocab) makeIds(value, role.vocab);
      else if (role.logits) makeLogits(value);
      else makeActivation(value);
      return {};
    }
    return {};
  }

  /// A scale as the options want it.
  float scale(double value) const { return float(options_.plain_scales ? std::exp2(std::round(std::log2(value))) : value); }

  uint64_t seedOf(const std::string &name) const { return options_.seed * 0x632be59bd9b4e019ull ^ Random::hash(prefix_ + name); }

  void makeActivation(const ir::Value &value) {
    Random random(seedOf(value.name));
    std::vector<uint8_t> &bytes = in_.arrays[prefix_ + value.name];
    int64_t rows = value.shape[0] < 0 ? in_.tokens() : value.shape[0], width = value.shape[1];
    for (int64_t i = 0; i < rows * width; i++) {
      double x = random.normal();
      if (options_.outliers && i % 89 < 2) x = i % 89 == 0 ? std::copysign(3e6, x) : 1e-3 * x;
      appendReal(bytes, value.dtype, x);
    }
    if (value.shape[0] < 0) bytes.resize(size_t(plan_.tokens_max * width * ir::bytes(value.dtype)), kNanByte);
  }

  /// The table's ends come up often; with `outliers` so do ids outside of it. Those of rows that nobody may read are -1.
  void makeIds(const ir::Value &value, int64_t vocab) {
    Random random(seedOf(value.name));
    std::vector<uint8_t> &bytes = in_.arrays[prefix_ + value.name];
    const int32_t outside[] = {int32_t(vocab), -1, std::numeric_limits<int32_t>::max(), std::numeric_limits<int32_t>::min()};
    for (int i = 0; i < in_.tokens(); i++) {
      int32_t id = random.below(int(vocab)), which = random.below(12);
      if (which < 2) id = which ? int32_t(vocab) - 1 : 0;
      if (options_.outliers && i % 3 == 1) id = outside[random.below(4)];
      append(bytes, id);
    }
    bytes.resize(size_t(plan_.tokens_max) * 4, kNanByte);
  }

  /// Coarse, so that the largest are many; zeros of both signs; NaN here and there, and in the last row everywhere.
  void makeLogits(const ir::Value &value) {
    Random random(seedOf(value.name));
    std::vector<uint8_t> &bytes = in_.arrays[prefix_ + value.name];
    for (int row = 0; row < in_.tokens(); row++)
      for (int64_t i = 0; i < value.shape[1]; i++) {
        double x = std::min(0.5, std::round(2 * random.normal()) / 2);
        if (row % 2 && x > 0) x = -x; // the largest are zeros
        if (random.below(16) == 0 || (row > 0 && row + 1 == in_.tokens())) x = std::numeric_limits<double>::quiet_NaN();
        append(bytes, float(x));
      }
    bytes.resize(size_t(plan_.tokens_max * value.shape[1]) * 4, kNanByte);
  }

  void makeVector(const ir::Value &value, Role role) {
    Random random(seedOf(value.name));
    std::vector<uint8_t> &bytes = in_.arrays[prefix_ + value.name];
    double centre = role.bias || role.one_plus ? 0 : 1;
    for (int64_t i = 0; i < value.shape[0]; i++) appendReal(bytes, value.dtype, centre + 0.25 * random.normal());
  }

  /// Rows beyond the step's last position are NaN.
  Status makeRope(const ir::Value &value) {
    int64_t positions = 0, rotary = value.shape[1];
    for (int s = 0; s < in_.sequences(); s++) positions = std::max<int64_t>(positions, rowsOf(s));
    if (positions > value.shape[0])
      return Status::input("a sequence reaches position " + std::to_string(positions - 1) + ", but the rotary table %" + value.name +
                           " ends at " + std::to_string(value.shape[0] - 1) + "; shorten --contexts");
    std::vector<uint8_t> &bytes = in_.arrays[prefix_ + value.name];
    bytes.reserve(size_t(value.shape[0] * rotary * 4));
    for (int64_t p = 0; p < positions; p++)
      for (int64_t i = 0; i < rotary; i++) {
        double angle = double(p) * std::pow(10000.0, -2.0 * double(i % (rotary / 2)) / double(rotary));
        append(bytes, float(i < rotary / 2 ? std::cos(angle) : std::sin(angle)));
      }
    bytes.resize(size_t(value.shape[0] * rotary * 4), kNanByte);
    return {};
  }

  void makeMatrix(const ir::Value &value) {
    int64_t rows = value.shape[0], cols = value.shape[1];
    std::vector<uint8_t> &codes = in_.arrays[prefix_ + value.name];
    uint64_t seed = seedOf(value.name);
    double norm = 1 / std::sqrt(double(cols)); // keeps results near the operands' size
    switch (value.weight.format) {
    case ir::Format::bf16: {
      codes.resize(size_t(rows * cols * 2));
      int top = 127 + int(std::floor(std::log2(norm * 3))); // exponents fall off as those of uniform numbers do
      fillWords(codes, seed, [top](Random &random) {
        uint64_t word = random.word(), result = 0;
        for (int i = 0; i < 4; i++) {
          uint64_t bits = word >> (16 * i) & 0xffff, exponent = uint64_t(top - std::countr_zero(uint32_t(bits >> 8 | 0x100)));
          result |= ((bits & 0x80) << 8 | exponent << 7 | (bits & 0x7f)) << (16 * i);
        }
        return result;
      });
      return;
    }
    case ir::Format::fp8_e4m3: {
      codes.resize(size_t(rows * cols));
      fillWords(codes, seed, [](Random &random) {
        uint64_t word = random.word(), low = word & 0x7f7f7f7f7f7f7f7full;
        uint64_t nan = ((low + 0x0101010101010101ull) & 0x8080808080808080ull) >> 7; // 1 in bytes that are 0x7f or 0xff
        return word - nan;
      });
      Random random(seed ^ 1);
      for (int64_t i = 0; i < (value.weight.fp8_scale == ir::Fp8Scale::Row ? rows : 1); i++)
        append(in_.arrays[prefix_ + value.name + ".scale"], scale(norm * (0.004 + 0.008 * random.uniform())));
      return;
    }
    case ir::Format::nvfp4: {
      codes.resize(size_t(rows * cols / 2));
      fillWords(codes, seed, [](Random &random) { return random.word(); });
      makeBlockScales(value, seed ^ 1);
      Random random(seed ^ 2);
      double global = norm * (0.04 + 0.06 * random.uniform());
      append(in_.arrays[prefix_ + value.name + ".scale"], scale(value.weight.global == ir::GlobalScale::Divide ? 1 / global : global));
      return;
    }
    }
  }

  /// Log-uniform over 2^-4 .. 2^4, every 64th tiny or zero; the swizzled layout's padding is NaN and must not be read.
  void makeBlockScales(const ir::Value &value, uint64_t seed) {
    int64_t rows = value.shape[0], columns = value.shape[1] / 16;
    auto code = [](Random &random) {
      uint64_t bits = random.word() >> 20;
      return uint8_t((bits & 63) == 0 ? bits >> 6 & 7 : 0x18 + (bits >> 6 & 63));
    };
    std::vector<uint8_t> &scales = in_.arrays[prefix_ + value.name + ".scales"];
    Random random(seed);
    if (value.weight.scales == ir::ScaleLayout::Linear) {
      scales.resize(size_t(rows * columns));
      for (uint8_t &s : scales) s = code(random);
      return;
    }
    int64_t tile_columns = (columns + 3) / 4;
    scales.assign(size_t((rows + 127) / 128 * tile_columns * 512), kNanByte);
    for (int64_t row = 0; row < rows; row++)
      for (int64_t column = 0; column < columns; column++) {
        int64_t tile = row / 128 * tile_columns + column / 4;
        scales[size_t(tile * 512 + row % 32 * 16 + row % 128 / 32 * 4 + column % 4)] = code(random);
      }
  }

  bool appends(ir::ValueId cache) const {
    for (const ir::Phase &p : layer_->phases)
      if (p.op == ir::Op::qkv && p.operands[2] == cache) return true;
    return false;
  }

  void makeCache(ir::ValueId v) {
    const ir::Value &value = layer_->values[size_t(v)];
    const ir::CacheType &type = value.cache;
    HostCache &cache = in_.caches[prefix_ + value.name];
    Random random(seedOf(value.name));
    int64_t head_dim = layer_->dim("head_dim"), size = ir::bytes(type.dtype);
    cache.dtype = ir::name(type.dtype);
    cache.page = type.page;
    cache.heads = layer_->dim("kv_heads");
    cache.row_bytes = head_dim * size;
    // Contiguous rows stay contiguous (the kernel fetches them in one copy); what lies between them is padded.
    int64_t padding = options_.padded ? kStridePadding : 0;
    cache.row_stride = type.hnd || cache.heads == 1 ? cache.row_bytes : cache.heads * cache.row_bytes + padding;
    cache.head_stride = type.hnd ? type.page * cache.row_bytes + padding : cache.row_bytes;
    int64_t half = type.hnd ? cache.heads * cache.head_stride : type.page * cache.row_stride;
    cache.page_stride = (type.joint ? 2 : 1) * half + padding;
    cache.v_offset = type.joint ? half : 0;
    cache.k.assign(size_t(in_.pages * cache.page_stride), kNanByte);
    if (!type.joint) cache.v = cache.k;
    if (type.dtype == ir::DType::fp8_e4m3)
      for (float &s : cache.scales) s = scale(0.02 + 0.06 * random.uniform());
    uint64_t seed = random.word();
    // Long contexts are gigabytes: the pages are filled by all processors, each with a generator of its own.
    for (int s = 0; s < in_.sequences(); s++) {
      int rows = appends(v) ? in_.seq_context[size_t(s)] : rowsOf(s);
      inParallel(size_t((rows + type.page - 1) / type.page), [&](size_t page) {
        Random of_page(seed + uint64_t(s) * 0x632be59bd9b4e019ull + page * 0x9e3779b97f4a7c15ull);
        for (int row = int(page) * type.page; row < std::min(rows, int(page + 1) * type.page); row++)
          for (int64_t head = 0; head < cache.heads; head++) {
            int64_t at = in_.page(s, row, type.page) * cache.page_stride + row % type.page * cache.row_stride + head * cache.head_stride;
            fillRow(cache.k.data() + at, head_dim, type.dtype, of_page);
            fillRow((type.joint ? cache.k.data() + cache.v_offset : cache.v.data()) + at, head_dim, type.dtype, of_page);
          }
      });
    }
  }

  static void fillRow(uint8_t *to, int64_t n, ir::DType dtype, Random &random) {
    for (int64_t d = 0; d < n; d++) {
      if (dtype == ir::DType::fp8_e4m3) {
        uint64_t bits = random.word() >> 32;
        to[d] = uint8_t((bits & 0x80) | (0x20 + bits % 0x48)); // 2^-3 .. 2^6
      } else {
        uint16_t code = toBf16(float(random.normal()));
        std::memcpy(to + 2 * d, &code, 2);
      }
    }
  }

  const Plan &plan_;
  const ir::Module &module_;
  const InputOptions &options_;
  HostInputs in_;
  const ir::Layer *layer_ = nullptr;
  std::string prefix_;
};

} // namespace

phasec_reference::Inputs HostInputs::view() const {
  phasec_reference::Inputs in;
  for (const auto &[name, bytes] : arrays) in.buffers[name] = {bytes.data(), bytes.size()};
  for (const auto &[name, c] : caches) {
    in.caches[name] = {c.k.data(), c.vBase(), c.page_stride, c.row_stride, c.head_stride, pages};
    if (c.dtype == "fp8_e4m3") in.buffers[name + ".scales"] = {c.scales, sizeof c.scales};
  }
  in.tokens = tokens();
  in.seq_first = seq_first;
  in.seq_context = seq_context;
  in.page_table = page_table;
  in.page_stride = page_stride;
  return in;
}

Result<HostInputs> makeInputs(const Plan &plan, const ir::Module &module, const InputOptions &options) {
  return Maker(plan, module, options).run();
}

} // namespace phasec::cli
