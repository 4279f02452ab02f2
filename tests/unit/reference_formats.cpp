// The reference's conversions and elementary functions against brute force and the C library.
#include "tests/unit/reference_fixture.h"

#include <doctest/doctest.h>

#include <limits>

using namespace phasec_reference;
using namespace reference_test;

namespace {

const float kNan = std::numeric_limits<float>::quiet_NaN();
const float kInfinity = std::numeric_limits<float>::infinity();

// Nearest of codes 0..last by distance in double; of two equally near the even code. Monotone codes assumed.
template <class Decode> int nearestCode(double magnitude, int last, Decode decode) {
  int best = 0;
  double best_distance = std::fabs(double(decode(0)) - magnitude);
  for (int code = 1; code <= last; ++code) {
    double distance = std::fabs(double(decode(code)) - magnitude);
    if (distance < best_distance || (distance == best_distance && code % 2 == 0)) {
      best = code;
      best_distance = distance;
    }
  }
  return best;
}

int64_t ulps(float a, float b) { return std::abs(int64_t(int32_t(bitsOf(a))) - int64_t(int32_t(bitsOf(b)))); }

} // namespace

TEST_CASE("reference e4m3: every code round-trips and has the value of its fields") {
  for (int code = 0; code < 256; ++code) {
    float value = e4m3ToF32(uint8_t(code));
    if ((code & 0x7f) == 0x7f) {
      CHECK(std::isnan(value));
      CHECK(toE4m3(value) == 0x7f);
      continue;
    }
    CHECK(toE4m3(double(value)) == code);
    int exponent = code >> 3 & 15;
    double expected = exponent ? (1 + (code & 7) / 8.0) * std::pow(2.0, exponent - 7) : (code & 7) / 512.0;
    CHECK(double(value) == (code & 0x80 ? -expected : expected));
  }
  CHECK(e4m3ToF32(0x7e) == 448.0f);
}

TEST_CASE("reference e4m3: ties go to even, large values saturate") {
  for (int code = 0; code < 0x7e; ++code) {
    double low = double(e4m3ToF32(uint8_t(code))), high = double(e4m3ToF32(uint8_t(code + 1))), tie = (low + high) / 2;
    CHECK(toE4m3(tie) == (code % 2 ? code + 1 : code));
    CHECK(toE4m3(-tie) == (0x80 | (code % 2 ? code + 1 : code)));
    CHECK(toE4m3(std::nextafter(tie, 0.0)) == code);
    CHECK(toE4m3(std::nextafter(tie, 1e9)) == code + 1);
  }
  for (double large : {448.0, 448.5, 464.0, 465.0, 1e30, double(kInfinity)}) {
    CHECK(toE4m3(large) == 0x7e);
    CHECK(toE4m3(-large) == 0xfe);
  }
  CHECK(toE4m3(-0.0) == 0x80);
}

TEST_CASE("reference e4m3 and e2m1: random floats go to the nearest code") {
  std::mt19937 random(7);
  for (int i = 0; i < 20000; ++i) {
    float value = floatBits(uint32_t(0x3a000000 + random() % 0x0a000000)); // 2^-11 .. 2^9
    int e4m3 = nearestCode(double(value), 0x7e, [](int code) { return e4m3ToF32(uint8_t(code)); });
    int e2m1 = nearestCode(double(value), 7, [](int code) { return e2m1ToF32(uint8_t(code)); });
    CHECK(toE4m3(double(value)) == e4m3);
    CHECK(toE4m3(-double(value)) == (e4m3 | 0x80));
    CHECK(toE2m1(double(value)) == e2m1);
    CHECK(toE2m1(-double(value)) == (e2m1 | 8));
  }
}

TEST_CASE("reference e2m1: every code, ties, saturation, NaN") {
  const float kValues[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  for (int code = 0; code < 16; ++code) {
    CHECK(e2m1ToF32(uint8_t(code)) == (code & 8 ? -kValues[code & 7] : kValues[code & 7]));
    CHECK(std::signbit(e2m1ToF32(uint8_t(code))) == (code >= 8));
    CHECK(toE2m1(double(e2m1ToF32(uint8_t(code)))) == code);
  }
  const double kTies[7] = {0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5};
  const int kEven[7] = {0, 2, 2, 4, 4, 6, 6};
  for (int i = 0; i < 7; ++i) {
    CHECK(toE2m1(kTies[i]) == kEven[i]);
    CHECK(toE2m1(-kTies[i]) == (kEven[i] | 8));
  }
  CHECK(toE2m1(7.5) == 7);
  CHECK(toE2m1(-double(kInfinity)) == 15);
  CHECK(toE2m1(double(kNan)) == 7);
  CHECK(toE2m1(-double(kNan)) == 7);
}

TEST_CASE("reference bf16: every code, nearest even, single rounding from double") {
  for (uint32_t code = 0; code < 0x10000; ++code) {
    float value = bf16ToF32(uint16_t(code));
    CHECK(bitsOf(value) == code << 16);
    CHECK(toBf16(value) == (std::isnan(value) ? 0x7fc0 : code));
    if ((code & 0x7fff) >= 0x7f80 || (code & 0x7fff) == 0x7f7f) continue;
    // The tie above this code, and its neighbours in f32 and in double.
    uint32_t even = code + (code & 1);
    CHECK(toBf16(floatBits(code << 16 | 0x8000)) == even);
    CHECK(toBf16(floatBits(code << 16 | 0x7fff)) == code);
    CHECK(toBf16(floatBits(code << 16 | 0x8001)) == code + 1);
    double tie = double(floatBits(code << 16 | 0x8000));
    CHECK(toBf16(std::nextafter(tie, 0.0)) == code);
    CHECK(toBf16(tie * (1 + 1e-15)) == code + 1);
  }
  CHECK(toBf16(3.4e38f) == 0x7f80);
  CHECK(toBf16(-kInfinity) == 0xff80);
  CHECK(toBf16(1e300) == 0x7f80);
}

TEST_CASE("reference exp2: a few ulp from the library, exact edges") {
  int64_t worst = 0;
  std::mt19937 random(3);
  std::uniform_real_distribution<float> wide(-125.5f, 127.9f), narrow(-1.0f, 1.0f);
  for (int i = 0; i < 200000; ++i) {
    float x = i % 2 ? wide(random) : narrow(random);
    worst = std::max(worst, ulps(exp2Poly(x), float(std::exp2(double(x)))));
  }
  CHECK(worst <= 4);
  for (int n = -126; n < 128; ++n) CHECK(exp2Poly(float(n)) == std::ldexp(1.0f, n));
  CHECK(exp2Poly(128.0f) == kInfinity);
  CHECK(exp2Poly(kInfinity) == kInfinity);
  CHECK(std::isfinite(exp2Poly(std::nextafter(128.0f, 0.0f))));
  CHECK(bitsOf(exp2Poly(-126.5f)) == 0);
  CHECK(bitsOf(exp2Poly(-kInfinity)) == 0);
  CHECK(std::isnan(exp2Poly(kNan)));
}

TEST_CASE("reference sigmoid, silu and gelu follow the library") {
  for (float g = -30; g < 30; g += 0.0137f) {
    double x = double(g), sigmoid = 1 / (1 + std::exp(-x));
    double gelu = 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    // The rounding of the exponent's argument grows with |g|.
    CHECK(std::fabs(double(sigmoidPoly(g)) - sigmoid) <= 4e-6 * sigmoid);
    CHECK(std::fabs(double(siluPoly(g)) - x * sigmoid) <= 4e-6 * std::fabs(x * sigmoid));
    CHECK(std::fabs(double(geluTanhPoly(g)) - gelu) <= 1e-6 * std::max(1.0, std::fabs(gelu)));
    CHECK(std::fabs(Arith<double>::geluTanh(x) - gelu) <= 1e-14 * std::max(1.0, std::fabs(gelu)));
  }
  CHECK(sigmoidPoly(200.0f) == 1.0f);
  CHECK(sigmoidPoly(-200.0f) == 0.0f);
  CHECK(siluPoly(-200.0f) == 0.0f);
  CHECK(geluTanhPoly(-50.0f) == 0.0f);
  CHECK(std::isnan(sigmoidPoly(kNan)));
}

TEST_CASE("reference compare: bits, NaN class, first mismatch") {
  std::vector<float> a = {1, -2, kNan, 4, 0}, b = {1, -2, floatBits(0xffc00123), 4, 0};
  CHECK(compare("f32", a.data(), b.data(), 5).bit_exact);
  a[3] = 4.5f;
  Comparison result = compare("f32", a.data(), b.data(), 5);
  CHECK(!result.bit_exact);
  CHECK(result.max_abs == 0.5);
  CHECK(result.first_mismatch_index == 3);
  CHECK(result.rel_l2 == doctest::Approx(0.5 / std::sqrt(21.0)));
  a[3] = kNan;
  CHECK(std::isinf(compare("f32", a.data(), b.data(), 5).max_abs));
  a = {0, -0.0f};
  b = {0, 0};
  CHECK(compare("f32", a.data(), b.data(), 2).first_mismatch_index == 1);
  CHECK(compare("f32", a.data(), b.data(), 2).max_abs == 0);
  uint8_t left[2] = {0x7f, 0x38}, right[2] = {0xff, 0x39};
  CHECK(compare("fp8_e4m3", left, right, 2).max_abs == 0.125);
  CHECK(compare("fp8_e4m3", left, right, 2).first_mismatch_index == 1);
  CHECK(!compare("int4", left, right, 2).bit_exact);
}
