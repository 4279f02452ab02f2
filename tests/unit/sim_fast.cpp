// sim_fast.cpp: what `math = fast` computes with: conversions for every code, granules as mma operands, the powers of two that
// bring bf16's range into f16. The kernels run templates/ themselves; the expectations are computed here, in double.
#include "tests/unit/sim_support.h"

#include <algorithm>
#include <cmath>

using namespace simtest;

namespace {

double e4m3(unsigned v) {
  int exponent = int(v >> 3 & 15u), mantissa = int(v & 7u);
  if ((v & 0x7fu) == 0x7f) return std::nan("");
  double magnitude = exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return v & 0x80u ? -magnitude : magnitude;
}
double e2m1(unsigned v) {
  const double magnitudes[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  return v & 8u ? -magnitudes[v & 7u] : magnitudes[v & 7u];
}
double f16(unsigned v) {
  int exponent = int(v >> 10 & 31u), mantissa = int(v & 0x3ffu);
  double magnitude = exponent == 31 ? (mantissa ? std::nan("") : INFINITY)
                                    : std::ldexp(exponent ? 1024 + mantissa : mantissa, (exponent ? exponent : 1) - 25);
  return v & 0x8000u ? -magnitude : magnitude;
}
double bf16(unsigned v) {
  float f;
  uint32_t bits = v << 16;
  memcpy(&f, &bits, 4);
  return double(f);
}

/// Equal, the sign of zero included; NaNs are one.
bool same(double a, double b) { return std::isnan(a) ? std::isnan(b) : a == b && std::signbit(a) == std::signbit(b); }

/// Runs `statement` for 65536 words `v` = 0..65535, with its result in `r`.
std::vector<uint32_t> forAll16(const std::string &declarations, const std::string &statement) {
  Bench bench(declarations + "PHASEC_KERNEL(128) k(const __grid_constant__ Args args) {\n"
                             "  for (int i = ptx::thread(); i < 65536; i += 128) {\n    u32 v = u32(i), r = 0;\n    " +
                  statement + "\n    ((u32 *)args.a)[i] = r;\n  }\n}\n",
              1);
  Args args{bench.put(std::vector<uint32_t>(65536)), nullptr, nullptr, 0, 0};
  Status status = bench.launch(1, 128, 0, args);
  REQUIRE_MESSAGE(status.ok(), status.text());
  return bench.get<uint32_t>(args.a, 65536);
}

/// The text of ptx.cuh between `from` and `to`.
std::string cut(const std::string &from, const std::string &to, size_t begin = 0) {
  std::string text = flattened("ptx.cuh");
  begin = text.find(from, begin);
  REQUIRE(begin != std::string::npos);
  begin += from.size();
  size_t end = text.find(to, begin);
  REQUIRE(end != std::string::npos);
  return text.substr(begin, end - begin);
}

} // namespace

TEST_CASE("fast: every pair of e4m3 codes becomes its f16 pair, exactly, NaN included") {
  std::vector<uint32_t> got = forAll16("", "r = ptx::e4m3x2_to_f16x2(v | 0xabcd0000u);");
  for (uint32_t v = 0; v < 65536; v++) {
    REQUIRE(same(f16(got[v] & 0xffffu), e4m3(v & 0xffu)));
    REQUIRE(same(f16(got[v] >> 16), e4m3(v >> 8)));
  }
}

TEST_CASE("fast: so do the targets that have no instruction for it") {
  // The body that sm_80 and sm_86 compile, taken out of ptx.cuh.
  std::string function = cut("PHASEC_DEVICE u32 e4m3x2_to_f16x2(u32 v) {", "\n}\n");
  size_t from = function.find("#else\n"), to = function.find("#endif");
  REQUIRE((from != std::string::npos && to != std::string::npos));
  std::string body = function.substr(from + 6, to - from - 6);
  std::vector<uint32_t> got = forAll16("u32 emulated(u32 v) {\n  using ptx::mul_f16x2;\n" + body + "}\n", "r = emulated(v | 0xabcd0000u);");
  for (uint32_t v = 0; v < 65536; v++) {
    REQUIRE_MESSAGE(same(f16(got[v] & 0xffffu), e4m3(v & 0xffu)), v, " ", got[v]);
    REQUIRE_MESSAGE(same(f16(got[v] >> 16), e4m3(v >> 8)), v, " ", got[v]);
  }
}

TEST_CASE("fast: f16 from floats: every code comes back, halves go to even, what is beyond 65504 is infinite") {
  std::vector<uint32_t> back = forAll16("", "r = ptx::to_f16x2(ptx::from_f16(v), -ptx::from_f16(v));");
  for (uint32_t v = 0; v < 65536; v++) {
    REQUIRE(same(f16(back[v] & 0xffffu), f16(v)));
    REQUIRE(same(f16(back[v] >> 16), -f16(v)));
  }
  // Between two neighbours: the half goes to the even one, anything more or less to the nearer.
  std::vector<uint32_t> half = forAll16("", "float a = ptx::from_f16(v), b = ptx::from_f16((v & 0x7fffu) < 0x7bffu ? v + 1u : v), m = a + (b - a) * 0.5f;\n"
                                            "    float e = ptx::abs(b - a) * 0.125f; if (v >> 15) e = -e;\n"
                                            "    r = u32(ptx::to_f16(m) == (a == b ? v : v & 1u ? v + 1u : v)) | u32(ptx::to_f16(m + e) == (a == b ? v : v + 1u)) << 1 | u32(ptx::to_f16(m - e) == v) << 2;");
  for (uint32_t v = 0; v < 65536; v++)
    if ((v & 0x7fffu) < 0x7bffu) REQUIRE_MESSAGE(half[v] == 7, v);
  std::vector<uint32_t> ends = forAll16("", "r = v == 0 ? ptx::to_f16x2(65519.0f, 65520.0f) : v == 1 ? ptx::to_f16x2(-65520.0f, 1e30f) : ptx::to_f16x2(0x1p-25f, 0x1.8p-25f);");
  CHECK(ends[0] == 0x7c007bffu);
  CHECK(ends[1] == 0x7c00fc00u);
  CHECK(ends[2] == 0x00010000u);
}

TEST_CASE("fast: bf16 from floats: every code comes back, halves go to even, NaN stays NaN") {
  std::vector<uint32_t> got = forAll16("", "float a = ptx::from_bits(v << 16);\n    u32 back = ptx::to_bf16(a), half = ptx::to_bf16(ptx::from_bits(v << 16 | 0x8000u));\n    r = back | half << 16;");
  for (uint32_t v = 0; v < 65536; v++) {
    REQUIRE(same(bf16(got[v] & 0xffffu), bf16(v)));
    if ((v & 0x7fffu) < 0x7f80u) REQUIRE((got[v] >> 16) == v + (v & 1u));
    else REQUIRE(std::isnan(bf16(got[v] >> 16)) == ((v & 0x7fffu) >= 0x7f80u)); // 0x7f808000 is a NaN
  }
}

TEST_CASE("fast: a group's power of two brings its maximum below f16's, and its inverse is exact") {
  std::string text = withIncludes("core/fast/float16.cuh") + R"(
struct Args { u8 *a, *b, *c; int n, m; };
PHASEC_KERNEL(128) k(const __grid_constant__ Args args) {
  for (int i = ptx::thread(); i < 65536; i += 128) {
    float amax = ptx::from_bits(u32(i) << 15), power = float16::power_for(amax);
    ((float *)args.a)[2 * i] = power;
    ((float *)args.a)[2 * i + 1] = float16::inverse(power);
  }
}
PHASEC_KERNEL_ENTRY(k, Args)
)";
  Bench bench(compiledSource(text), 1);
  Args args{bench.put(std::vector<float>(131072)), nullptr, nullptr, 0, 0};
  REQUIRE(bench.launch(1, 128, 0, args).ok());
  std::vector<float> got = bench.get<float>(args.a, 131072);
  for (uint32_t i = 0; i < 65536; i++) {
    float amax, power = got[2 * i], inverse = got[2 * i + 1];
    uint32_t bits = i << 15;
    memcpy(&amax, &bits, 4);
    REQUIRE(double(power) * double(inverse) == 1.0);
    REQUIRE((std::isnormal(power) && std::isnormal(inverse)));
    if (!std::isfinite(amax) || amax == 0) {
      REQUIRE(power == 1.0f);
      continue;
    }
    double scaled = double(amax) * double(power);
    REQUIRE(scaled < 32768);
    if (amax >= 0x1p-111f) REQUIRE(scaled >= 16384);
  }
}

TEST_CASE("fast: every half of an NVFP4 word becomes its four f16, whatever the other half holds") {
  // Signs and magnitudes of rows r, r + 8 and of the k behind them, as weights/nvfp4.cuh has them.
  std::string text = withIncludes("core/fast/nvfp4.cuh") + R"(
struct Buffers { u8 *a, *b, *c; int n, m; };
PHASEC_KERNEL(32) k(const __grid_constant__ Buffers args) {
  const u32 others[] = {0u, 0xffffu, 0xa5c3u, 0x7186u, 0x8e79u};
  int sign[] = {15, 12, 14, 13}, magnitude[] = {9, 6, 3, 0};
  u32 wrong = 0;
  for (u32 v = u32(ptx::lane()); v < 65536u; v += 32u)
    for (u32 other : others)
      for (int high = 0; high < 2; high++) {
        u32 a[4];
        weights::fragment(weights::nvfp4{}, high ? v << 16 | other : v | other << 16, a);
        for (int i = 0; i < 4; i++) wrong += (a[i] >> 16 * high & 0xffffu) != ((v >> sign[i] & 1u) << 15 | (v >> magnitude[i] & 7u) << 9);
      }
  ((u32 *)args.a)[ptx::lane()] = wrong;
}
PHASEC_KERNEL_ENTRY(k, Buffers)
)";
  Bench bench(compiledSource(text), 1);
  Args args{bench.put(std::vector<uint32_t>(32, 1)), nullptr, nullptr, 0, 0};
  Status status = bench.launch(1, 32, 2048, args);
  REQUIRE_MESSAGE(status.ok(), status.text());
  CHECK(bench.get<uint32_t>(args.a, 32) == std::vector<uint32_t>(32));
}

TEST_CASE("fast: granules of each format become the fragments of their rows and k, exactly") {
  // The kernel unpacks a granule that the format's own packer filled; lane (r, c) must hold rows r and r + 8, k 16 c .. 16 c + 15.
  for (const char *format : {"nvfp4", "fp8_e4m3", "bf16"}) {
    CAPTURE(format);
    bool nvfp4 = !strcmp(format, "nvfp4"), is_bf16 = !strcmp(format, "bf16");
    std::string text = withIncludes(std::string("core/fast/") + format + ".cuh") + R"(
struct Buffers { u8 *a, *b, *c; int n, m; };
PHASEC_KERNEL(32) k(const __grid_constant__ Buffers args) {
  using Format = weights::)" + format + R"(;
  const u16 *codes = (const u16 *)args.a; // [granule][16][64], then scales [granule][16][4]
  u8 *granule = ptx::shared_base();
  for (int g = 0; g < args.n; g++) {
    if (ptx::lane() == 0) {
      for (int i = 0; i < Format::granule_bytes; i++) granule[i] = 0;
      for (int row = 0; row < 16; row++)
        for (int k = 0; k < 64; k++) Format::put(granule, row, k, codes[(g * 16 + row) * 64 + k]);
      )" + (nvfp4 ? "for (int row = 0; row < 16; row++) for (int k = 0; k < 4; k++) granule[Format::scale_offset(row, k * 16)] = u8(codes[(args.n * 16 + g * 16 + row) * 64 + k]);" : "") + R"(
    }
    ptx::sync_warp();
    core::Fragments f = fragments(Format{}, load(Format{}, granule, ptx::lane()));
    for (int j = 0; j < 4; j++)
      for (int i = 0; i < 4; i++) ((u32 *)args.b)[((g * 32 + ptx::lane()) * 4 + j) * 4 + i] = f.a[j][i];
    ptx::sync_warp();
  }
}
PHASEC_KERNEL_ENTRY(k, Buffers)
)";
    const int granules = is_bf16 ? 64 : 16; // so that every code stands somewhere
    uint32_t mask = nvfp4 ? 15 : is_bf16 ? 0xffff : 0xff;
    std::vector<uint16_t> codes(size_t(granules) * 2 * 16 * 64);
    for (size_t i = 0; i < codes.size() / 2; i++) codes[i] = uint16_t((is_bf16 ? i : i * 2654435761u >> 7) & mask);
    // Scales: all 256 codes, NaN among them, in blocks with all e2m1 codes.
    for (int g = 0; g < granules; g++)
      for (int block = 0; block < 64; block++) codes[codes.size() / 2 + size_t((g * 16 + block / 4) * 64 + block % 4)] = uint16_t((g * 64 + block) & 0xff);
    Bench bench(compiledSource(text), 1);
    Args args{bench.put(codes), bench.put(std::vector<uint32_t>(size_t(granules) * 512)), nullptr, granules, 0};
    Status status = bench.launch(1, 32, 2048, args);
    REQUIRE_MESSAGE(status.ok(), status.text());
    auto got = bench.get<uint32_t>(args.b, size_t(granules) * 512);
    for (int g = 0; g < granules; g++)
      for (int lane = 0; lane < 32; lane++)
        for (int j = 0; j < 4; j++)
          for (int i = 0; i < 8; i++) {
            int row = lane / 4 + i / 2 % 2 * 8, k = lane % 4 * 16 + 4 * j + i % 2 + i / 4 * 2;
            unsigned code = codes[size_t((g * 16 + row) * 64 + k)], word = got[size_t(((g * 32 + lane) * 4 + j) * 4 + i / 2)] >> (i % 2 * 16) & 0xffffu;
            if (is_bf16) {
              REQUIRE(word == code);
            } else if (nvfp4) {
              double scale = e4m3(codes[codes.size() / 2 + size_t((g * 16 + row) * 64 + k / 16)]);
              REQUIRE_MESSAGE(same(f16(word), std::ldexp(e2m1(code) * scale, -14)), "row ", row, " k ", k);
            } else {
              REQUIRE_MESSAGE(same(f16(word), e4m3(code)), "row ", row, " k ", k);
            }
          }
  }
}

TEST_CASE("fast: mma multiplies rows by columns, transpose transposes, as PTX lays them out over the lanes") {
  const char *body = R"(
PHASEC_KERNEL(32) k(const __grid_constant__ Args args) {
  int row = ptx::lane() / 4, column = ptx::lane() % 4 * 2;
  const float *a = (const float *)args.a, *b = a + 256; // a[16][16], b[16][8]
  auto pair = [](const float *at, int apart) { return args_bf16 ? ptx::to_bf16x2(at[0], at[apart]) : ptx::to_f16x2(at[0], at[apart]); };
  u32 f[4] = {pair(a + row * 16 + column, 1), pair(a + (row + 8) * 16 + column, 1), pair(a + row * 16 + column + 8, 1), pair(a + (row + 8) * 16 + column + 8, 1)};
  u32 b0 = pair(b + column * 8 + row, 8), b1 = pair(b + (column + 8) * 8 + row, 8);
  float c[4] = {100.0f, 200.0f, 300.0f, 400.0f};
  if (args_bf16) ptx::mma_bf16(c, f, b0, b1);
  else ptx::mma_f16(c, f, b0, b1);
  float *out = (float *)args.b;
  for (int i = 0; i < 4; i++) out[(row + i / 2 * 8) * 8 + column + i % 2] = c[i];
  ((u32 *)args.c)[ptx::lane()] = ptx::transpose(u32(ptx::lane() * 2) | u32(ptx::lane() * 2 + 1) << 16);
}
)";
  for (const char *flag : {"true", "false"}) {
    std::vector<float> in(256 + 128);
    for (size_t i = 0; i < in.size(); i++) in[i] = float(int(i * 37 % 61) - 30) * 0.25f; // products and sums are exact
    Bench bench(std::string("constexpr bool args_bf16 = ") + flag + ";\n" + body, 3);
    Args args{bench.put(in), bench.put(std::vector<float>(128)), bench.put(std::vector<uint32_t>(32)), 0, 0};
    Status status = bench.launch(1, 32, 0, args);
    REQUIRE_MESSAGE(status.ok(), status.text());
    auto got = bench.get<float>(args.b, 128);
    auto turned = bench.get<uint32_t>(args.c, 32);
    for (int row = 0; row < 16; row++)
      for (int column = 0; column < 8; column++) {
        float sum = float(100 + 100 * (column % 2 + row / 8 * 2));
        for (int k = 0; k < 16; k++) sum += in[size_t(row * 16 + k)] * in[size_t(256 + k * 8 + column)];
        CHECK(got[size_t(row * 8 + column)] == sum);
      }
    for (uint32_t lane = 0; lane < 32; lane++)
      for (uint32_t i = 0; i < 2; i++) CHECK((turned[lane] >> (16 * i) & 0xffffu) == (lane % 4 * 2 + i) * 8 + lane / 4);
    CHECK(bench.device->counters().mma == 1);
  }
}

TEST_CASE("fast: e4m3 from floats: every code comes back, halves go to even, what is beyond 448 becomes 448") {
  std::vector<uint32_t> back = forAll16("", "r = ptx::to_e4m3x2(ptx::from_f16(ptx::e4m3_to_f16(v & 0xffu)), -ptx::from_f16(ptx::e4m3_to_f16(v & 0xffu)));");
  for (uint32_t v = 0; v < 256; v++) {
    REQUIRE(same(e4m3(back[v] & 0xffu), e4m3(v)));
    REQUIRE(same(e4m3(back[v] >> 8), -e4m3(v)));
  }
  std::vector<uint32_t> half = forAll16("", "float a = ptx::from_f16(ptx::e4m3_to_f16(v & 0xffu)), b = ptx::from_f16(ptx::e4m3_to_f16((v & 0x7fu) < 0x7eu ? (v & 0xffu) + 1u : v & 0xffu)), m = a + (b - a) * 0.5f;\n"
                                            "    float e = (b - a) * 0.125f;\n"
                                            "    r = ptx::to_e4m3(m) | ptx::to_e4m3(m + e) << 8 | ptx::to_e4m3(m - e) << 16;");
  for (uint32_t v = 0; v < 256; v++)
    if ((v & 0x7fu) < 0x7eu) REQUIRE_MESSAGE(half[v] == ((v & 1u ? v + 1 : v) | (v + 1) << 8 | v << 16), v);
  std::vector<uint32_t> ends = forAll16("", "r = ptx::to_e4m3x2(v == 0 ? 449.0f : 1e30f, v == 0 ? -1e30f : ptx::from_bits(0x7fc00000u));");
  CHECK(ends[0] == 0xfe7eu);
  CHECK(ends[1] == 0x7f7eu);
}

TEST_CASE("fast: a warp multiplies a segment with the staged operand: every value counts, and its own tokens, blocks and granules only") {
  // Granules of a slot of three, of which the segment has the last two and one that is not its own; everything else in shared
  // memory is NaN. Weights and values are such that sums are exact but for the block scales' products.
  for (auto [format, tokens] : {std::pair{"nvfp4", 1}, {"nvfp4", 2}, {"nvfp4", 3}, {"nvfp4", 16}, {"fp8_e4m3", 1}, {"fp8_e4m3", 6}, {"fp8_e4m3", 16}}) {
    CAPTURE(format);
    CAPTURE(tokens);
    bool nvfp4 = !strcmp(format, "nvfp4");
    std::string text = withIncludes(std::string("core/fast/") + format + ".cuh") + R"(
struct Buffers { u8 *a, *b, *c; int n, m; };
struct L {
  static constexpr int tokens = )" + std::to_string(tokens) + R"(, warps = 4, threads = 128, stages = 4, step = 0;
  static constexpr int ring_offset = 0, barriers_offset = 0, reads_offset = 0, units_offset = 0, pieces_offset = 0, arrived_offset = 0, tile_offset = 0;
  static constexpr int zeros_offset = 102400, scratch_offset = 16384, operand_offset = 16640, table_entries = 1, instances = 1, instance_counter = 3, owed_offset = 0, left_offset = 0;
};
PHASEC_TABLE int table[] = {0, 3, 0, 192, 1, 3, 64, 192}; // granules and k
struct G : L {
  static constexpr int segments = 2, segment_granules = 3, segment_least = 2, operand_stride = 3 * 64 + 8, rows = 64, cols = 192, slots = 1;
  using Format = weights::)" + format + R"(;
  PHASEC_DEVICE static const int *segment_table() { return table; }
};
PHASEC_KERNEL(160) k(const __grid_constant__ Buffers args) {
  using Format = G::Format;
  const u16 *codes = (const u16 *)args.a; // [warp][granule of 3][16][64], then scales [warp][granule][16][4]
  const float *x = (const float *)args.b; // [tokens][192]
  u8 *shared = ptx::shared_base(), *stage = shared + ptx::warp() * 4096;
  if (ptx::warp() == 4) return;
  for (int i = ptx::thread(); i < 160 * 256; i += 128) ((u32 *)shared)[i] = 0x7f7f7f7fu;
  ptx::sync_workers(128);
  Cta cta{};
  cta.tokens = G::tokens, cta.warp = ptx::warp(), cta.lane = ptx::lane();
  for (int g = 0; g < 2; g++)
    if (ptx::lane() == 0) {
      u8 *granule = stage + g * Format::granule_bytes;
      for (int i = 0; i < Format::granule_bytes; i++) granule[i] = 0;
      const u16 *from = codes + (ptx::warp() * 3 + g + 1) * 1024;
      for (int row = 0; row < 16; row++)
        for (int k = 0; k < 64; k++) Format::put(granule, row, k, from[row * 64 + k]);
      )" + (nvfp4 ? "for (int row = 0; row < 16; row++) for (int k = 0; k < 4; k++) granule[Format::scale_offset(row, k * 16)] = u8(from[12288 + row * 64 + k]);" : "") + R"(
    }
  for (int i = ptx::thread(); i < 96; i += 128) ((u32 *)(shared + G::zeros_offset))[i] = 0u;
  for (int i = ptx::thread(); i < G::tokens * 192; i += 128)
    if (i % 192 >= 64) gemv::staged<G>(cta)[i / 192 * G::operand_stride + i % 192] = u16(ptx::to_f16x2(x[i], 0.0f));
  for (int t = ptx::thread(); t < G::tokens; t += 128) operand::scales<G>(cta)[t * 2 + 1] = float(t + 1) * Format::unit();
  ptx::sync_workers(128);
  float *sums = (float *)args.c + ptx::warp() * G::tokens * 16;
  core::Sums<G> all;
  all.begin(sums);
  all.take(stage, ptx::lane());
  ptx::sync_warp();
  for (int i = ptx::lane(); i < 1024; i += 32) ((u32 *)stage)[i] = 0x7f7f7f7fu; // the next bytes may come
  all.add(cta, 0, 1);
  all.end(cta);
}
PHASEC_KERNEL_ENTRY(k, Buffers)
)";
    std::vector<uint16_t> codes(2 * 12288);
    for (size_t i = 0; i < codes.size(); i++) codes[i] = uint16_t(i < 12288 ? (i * 2654435761u >> 9) & (nvfp4 ? 15u : 0xbfu) : 0x28 + i * 7 % 24);
    std::vector<float> x(size_t(tokens) * 192);
    for (size_t i = 0; i < x.size(); i++) x[i] = float(int(i * 2246822519u >> 8 & 511) - 255); // nine bits with the sign
    Bench bench(compiledSource(text), 1);
    Args args{bench.put(codes), bench.put(x), bench.put(std::vector<float>(size_t(tokens) * 64, -1.0f)), 2, 0};
    Status status = bench.launch(1, 160, 200 * 1024, args);
    REQUIRE_MESSAGE(status.ok(), status.text());
    auto got = bench.get<float>(args.c, size_t(tokens) * 64);
    for (int w = 0; w < 4; w++)
      for (int t = 0; t < tokens; t++)
        for (int row = 0; row < 16; row++) {
          double sum = 0, magnitude = 0;
          for (int k = 64; k < 192; k++) {
            size_t at = size_t((w * 3 + k / 64) * 1024 + row * 64);
            double weight = nvfp4 ? e2m1(codes[at + size_t(k % 64)]) * e4m3(codes[12288 + at + size_t(k % 64 / 16)]) : e4m3(codes[at + size_t(k % 64)]);
            sum += weight * double(x[size_t(t * 192 + k)]) * (t + 1);
            magnitude += std::abs(weight * double(x[size_t(t * 192 + k)]) * (t + 1));
          }
          double v = double(got[size_t((w * tokens + t) * 16 + row)]);
          REQUIRE_MESSAGE(std::abs(v - sum) <= 1e-6 * magnitude, "warp ", w, " token ", t, " row ", row, ": ", v, " for ", sum);
        }
    CHECK(bench.device->counters().mma == uint64_t(4 * 4 * (nvfp4 && tokens <= 2 ? 3 : 2 * ((tokens + 7) / 8))));
  }
}

TEST_CASE("fast: the larger of two; a NaN loses against a number") {
  std::vector<uint32_t> got = forAll16("", "float nan = ptx::from_bits(0x7fc00000u), one = 1.0f; r = u32(ptx::max(nan, one) == one && ptx::max(one, nan) == one && ptx::max(-one, one) == one);");
  CHECK(got[0] == 1);
}
