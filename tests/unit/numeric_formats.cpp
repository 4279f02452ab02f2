// numeric_formats.cpp: the templates' conversions against arithmetic of its own: a table of values and a search in double
// for the nearest, ties to the even code.
#include <bit>
#include <cmath>
#include <cstdint>
#include <vector>

namespace ptx { // the two words that numeric.cuh needs of a device
inline unsigned bits(float v) { return std::bit_cast<unsigned>(v); }
inline float from_bits(unsigned v) { return std::bit_cast<float>(v); }
} // namespace ptx
#include "templates/numeric.cuh"

#include <doctest/doctest.h>

namespace {

/// A small float's value from its fields.
double valueOf(unsigned magnitude, int mantissa_bits, int bias) {
  int exponent = int(magnitude >> mantissa_bits);
  double fraction = double(magnitude & ((1u << mantissa_bits) - 1)) / double(1 << mantissa_bits);
  return exponent ? std::ldexp(1 + fraction, exponent - bias) : std::ldexp(fraction, 1 - bias);
}

/// The code whose value is nearest |x|; a tie goes to the even code; beyond the last value the last.
unsigned nearest(const std::vector<double> &values, double x) {
  x = std::fabs(x);
  unsigned best = 0;
  for (unsigned c = 1; c < values.size(); c++) {
    double was = std::fabs(values[best] - x), is = std::fabs(values[c] - x);
    if (is < was || (is == was && c % 2 == 0)) best = c;
  }
  return best;
}

std::vector<double> table(unsigned count, int mantissa_bits, int bias) {
  std::vector<double> values;
  for (unsigned c = 0; c < count; c++) values.push_back(valueOf(c, mantissa_bits, bias));
  return values;
}

/// Floats worth asking about: every value, every midpoint and their neighbours, both signs; then a stride over all bits.
std::vector<float> questions(const std::vector<double> &values) {
  std::vector<float> q;
  auto around = [&](double x) {
    float f = float(x);
    for (float v : {f, std::nextafter(f, 1e30f), std::nextafter(f, -1e30f)}) {
      q.push_back(v);
      q.push_back(-v);
    }
  };
  for (size_t i = 0; i < values.size(); i++) {
    around(values[i]);
    if (i) around((values[i - 1] + values[i]) / 2);
  }
  around(1.5 * values.back());
  for (uint64_t b = 0; b < (uint64_t(1) << 32); b += 49999) q.push_back(std::bit_cast<float>(uint32_t(b)));
  for (float v : {INFINITY, -INFINITY, 3.4e38f, -3.4e38f, 1e-45f, -1e-45f, 0.0f, -0.0f}) q.push_back(v);
  return q;
}

} // namespace

TEST_CASE("e4m3: all 256 codes decode to their fields' value, and encode to themselves") {
  for (unsigned code = 0; code < 256; code++) {
    float v = numeric::from_e4m3(u8(code));
    if ((code & 0x7f) == 0x7f) {
      CHECK(std::isnan(v));
      continue;
    }
    CHECK(double(std::fabs(v)) == valueOf(code & 0x7f, 3, 7));
    CHECK(std::signbit(v) == (code >= 128));
    CHECK(numeric::to_e4m3(v) == code);
  }
  CHECK(numeric::from_e4m3(0x7e) == 448.0f);
}

TEST_CASE("e4m3: encoding rounds to nearest even and saturates at 448") {
  std::vector<double> values = table(127, 3, 7);
  for (float v : questions(values)) {
    if (std::isnan(v)) {
      REQUIRE((numeric::to_e4m3(v) & 0x7f) == 0x7f);
      continue;
    }
    unsigned expected = nearest(values, std::fmin(std::fabs(double(v)), 448.0)) | (std::signbit(v) ? 0x80u : 0u);
    INFO("v = ", v);
    REQUIRE(unsigned(numeric::to_e4m3(v)) == expected);
  }
}

TEST_CASE("e2m1: all 16 codes, and encoding to nearest even, saturating at 6") {
  std::vector<double> values = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  for (unsigned code = 0; code < 16; code++) {
    float v = numeric::from_e2m1(code);
    CHECK(double(std::fabs(v)) == values[code & 7]);
    CHECK(std::signbit(v) == (code >= 8));
    CHECK(numeric::to_e2m1(v) == code);
  }
  for (float v : questions(values)) {
    if (std::isnan(v)) {
      REQUIRE(numeric::to_e2m1(v) == 7); // NaN becomes +6
      continue;
    }
    INFO("v = ", v);
    REQUIRE(numeric::to_e2m1(v) == (nearest(values, std::fmin(std::fabs(double(v)), 6.0)) | (std::signbit(v) ? 8u : 0u)));
  }
}

TEST_CASE("bf16: every code decodes exactly; encoding rounds to nearest even around every code") {
  for (uint32_t high = 0; high < 65536; high++) {
    float v = numeric::from_bf16(u16(high));
    REQUIRE(std::bit_cast<uint32_t>(v) == high << 16);
    if (std::isnan(v)) {
      uint16_t back = numeric::to_bf16(v);
      REQUIRE((back & 0x7f80) == 0x7f80);
      REQUIRE((back & 0x007f) != 0);
      continue;
    }
    for (uint32_t low : {0u, 1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      float x = std::bit_cast<float>(high << 16 | low);
      if (std::isnan(x)) { // a NaN whose payload lies in the low half stays a NaN
        REQUIRE((numeric::to_bf16(x) & 0x7fff) > 0x7f80);
        continue;
      }
      if (std::isinf(v)) continue;
      // The two neighbours in double; what overflows goes to infinity, 2^128 standing for it.
      double below = double(v), above = (high & 0x7fff) == 0x7f7f ? std::copysign(std::ldexp(1.0, 128), below)
                                                                  : double(numeric::from_bf16(u16(high + 1)));
      double to_below = std::fabs(double(x) - below), to_above = std::fabs(above - double(x));
      bool up = to_above < to_below || (to_above == to_below && high % 2 == 1);
      REQUIRE(uint32_t(numeric::to_bf16(x)) == high + (up ? 1 : 0));
    }
  }
}
