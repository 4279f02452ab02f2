// Inner loops: the two paths agree in every bit, and both follow the written order; layouts; JSON.
#include "tests/reference/json.h"
#include "tests/reference/kernels.h"
#include "tests/reference/layout.h"
#include "tests/unit/reference_fixture.h"

#include <doctest/doctest.h>

#include <set>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

using namespace phasec_reference;
using namespace reference_test;

namespace {

// Signs, magnitudes over many binades, zeros, subnormals and a rare infinity.
std::vector<float> wildFloats(size_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<float> out;
  for (size_t i = 0; i < n; ++i) {
    uint32_t bits = random(), pick = random() % 64;
    if (pick == 0)
      bits &= 0x80000000u;
    else if (pick == 1)
      bits &= 0x807fffffu;
    else
      bits = (bits & 0x807fffffu) | (100 + bits % 50) << 23;
    out.push_back(floatBits(bits));
  }
  return out;
}

} // namespace

TEST_CASE("reference chains: written order at every alignment, on both paths") {
  std::vector<float> a = wildFloats(300, 1), b = wildFloats(300, 2);
  for (int64_t begin : {0, 1, 15, 31, 32, 40, 64})
    for (int64_t end = begin; end <= 300; ++end) {
      uint32_t expected = bitsOf(plainChain(a.data(), b.data(), begin, end));
      CHECK(bitsOf(chainValue(genericKernels(), a.data(), b.data(), begin, end)) == expected);
      if (const Kernels *avx2 = avx2Kernels())
        CHECK(bitsOf(chainValue(*avx2, a.data(), b.data(), begin, end)) == expected);
    }
}

TEST_CASE("reference tiles: rows and tokens do not mix, and paths agree") {
  constexpr int64_t kStride = 200;
  std::vector<float> w = wildFloats(kRowTile * kStride, 3), x = wildFloats(5 * kStride, 4);
  for (const Kernels *kernels : {&genericKernels(), avx2Kernels()})
    for (int64_t tokens = 1; kernels && tokens <= 5; ++tokens) {
      std::vector<float> acc(size_t(kRowTile * tokens * kLanes), 0.0f);
      // In two pieces, cut inside a block.
      addChains(*kernels, acc.data(), w.data() + 7, kStride, x.data() + 7, kStride, tokens, 7, 83);
      addChains(*kernels, acc.data(), w.data() + 83, kStride, x.data() + 83, kStride, tokens, 83, 190);
      for (int64_t row = 0; row < kRowTile; ++row)
        for (int64_t token = 0; token < tokens; ++token)
          CHECK(bitsOf(kernels->butterfly(acc.data() + (row * tokens + token) * kLanes)) ==
                bitsOf(plainChain(w.data() + row * kStride, x.data() + token * kStride, 7, 190)));
    }
}

TEST_CASE("reference decoders and rescale: both paths give the same bits") {
  const Kernels *avx2 = avx2Kernels();
  if (!avx2) return;
  const Kernels &plain = genericKernels();
  std::mt19937 random(5);
  std::vector<uint8_t> codes(512);
  for (uint8_t &code : codes) code = uint8_t(random());
  std::vector<float> scales = wildFloats(64, 6), left(1024), right(1024);
  plain.nvfp4(left.data(), codes.data(), scales.data(), 64);
  avx2->nvfp4(right.data(), codes.data(), scales.data(), 64);
  CHECK(std::memcmp(left.data(), right.data(), 4096) == 0);
  for (int64_t n : {1, 7, 8, 9, 250}) {
    plain.bf16(left.data(), codes.data(), n);
    avx2->bf16(right.data(), codes.data(), n);
    CHECK(std::memcmp(left.data(), right.data(), size_t(n) * 4) == 0);
    left = right = wildFloats(1024, 8);
    plain.rescale(left.data(), scales.data(), 0.37f, 0.91f, std::min<int64_t>(n, 64));
    avx2->rescale(right.data(), scales.data(), 0.37f, 0.91f, std::min<int64_t>(n, 64));
    CHECK(std::memcmp(left.data(), right.data(), 4096) == 0);
  }
}

#if defined(__x86_64__)
TEST_CASE("reference float environment: a caller's flush-to-zero and rounding mode do not reach the results") {
  Layer layer{Shape()};
  Output expected, output;
  std::string error;
  REQUIRE(run(layer.plan(), layer.inputs, &expected, &error));
  float a[1] = {1e-30f}, b[1] = {1e-12f};
  const uint32_t before = _mm_getcsr(), hostile = 0xffc0; // FTZ, DAZ, round toward zero
  _mm_setcsr(hostile);
  float flushed = chainValue(genericKernels(), a, b, 0, 1), kept = 0;
  {
    FloatEnvironment environment;
    kept = chainValue(genericKernels(), a, b, 0, 1);
  }
  bool ran = run(layer.plan(), layer.inputs, &output, &error);
  uint32_t after = _mm_getcsr();
  _mm_setcsr(before);
  CHECK(flushed == 0.0f);
  CHECK(kept > 0.0f);
  REQUIRE(ran);
  CHECK(output.buffers == expected.buffers);
  CHECK((after & 0xffc0) == hostile); // the low six bits are sticky flags
}
#endif

TEST_CASE("reference swizzle: a bijection onto the padded tiles with the documented digits") {
  for (int64_t cols : {4, 6, 9}) {
    std::set<int64_t> seen;
    for (int64_t row = 0; row < 300; ++row)
      for (int64_t col = 0; col < cols; ++col) seen.insert(swizzledOffset(row, col, cols));
    CHECK(int64_t(seen.size()) == 300 * cols);
    CHECK(*seen.rbegin() < 384 * ((cols + 3) / 4 * 4));
  }
  CHECK(swizzledOffset(1, 0, 8) == 16);
  CHECK(swizzledOffset(32, 0, 8) == 4);
  CHECK(swizzledOffset(0, 3, 8) == 3);
  CHECK(swizzledOffset(0, 4, 8) == 512);
  CHECK(swizzledOffset(128, 0, 8) == 1024);
  CHECK(swizzledOffset(127, 3, 8) == 31 * 16 + 12 + 3);
}

TEST_CASE("reference json: accepts documents, refuses the rest with an offset") {
  Json value;
  std::string error;
  REQUIRE(parseJson(" {\"a\":[1,-2.5e3,true,null],\"b\":\"x\\n\\u0041\"} ", &value, &error));
  CHECK(value.get("a")->array.size() == 4);
  CHECK(value.get("a")->array[1].number == -2500);
  CHECK(!value.get("a")->array[2].isInteger());
  CHECK(value.get("b")->string == "x\nA");
  for (const char *bad :
       {"", "{", "[1,]", "{\"a\":1,\"a\":2}", "[1] 2", "nul", "\"\\q\"", "\"a", "{a:1}", "[1 2]", "1e"}) {
    Json other;
    INFO(bad);
    CHECK(!parseJson(bad, &other, &error));
    CHECK(error.find("offset") != std::string::npos);
  }
  Json deep;
  CHECK(!parseJson(std::string(1000, '['), &deep, &error));
}
