// Conversions by arithmetic on doubles (every f32, and every product with the powers of two used here, is exact in
// double), deliberately unlike integer bit tricks of a kernel. nearbyint rounds ties to even in the default mode.
#include "tests/reference/formats.h"

#include <cmath>
#include <cstring>
#include <limits>

#ifdef __FAST_MATH__
#error "the reference needs IEEE arithmetic: build it without fast-math"
#endif

namespace phasec_reference {

namespace {

uint32_t bitsOf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

float floatOf(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// 2^e for the exponents of normal f32 numbers.
float powerOfTwo(int e) { return floatOf(uint32_t(e + 127) << 23); }

} // namespace

float bf16ToF32(uint16_t bits) { return floatOf(uint32_t(bits) << 16); }

uint16_t toBf16(double value) {
  if (std::isnan(value)) return 0x7fc0;
  uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  double magnitude = std::fabs(value);
  if (std::isinf(magnitude) || magnitude == 0) return sign | (magnitude == 0 ? 0 : 0x7f80);
  // Eight significant bits, the last one never below 2^-133.
  int exponent = std::ilogb(magnitude);
  int quantum = (exponent < -126 ? -126 : exponent) - 7;
  double rounded = std::ldexp(std::nearbyint(std::ldexp(magnitude, -quantum)), quantum);
  if (rounded >= std::ldexp(1.0, 128)) return sign | 0x7f80;
  return sign | uint16_t(bitsOf(float(rounded)) >> 16);
}

uint16_t toBf16(float value) { return toBf16(double(value)); }

float e4m3ToF32(uint8_t code) {
  int exponent = (code >> 3) & 15;
  int mantissa = code & 7;
  float magnitude = exponent == 0 ? std::ldexp(float(mantissa), -9) : std::ldexp(float(8 + mantissa), exponent - 10);
  if (exponent == 15 && mantissa == 7) return std::numeric_limits<float>::quiet_NaN();
  return code & 0x80 ? -magnitude : magnitude;
}

uint8_t toE4m3(double value) {
  if (std::isnan(value)) return 0x7f;
  uint8_t sign = std::signbit(value) ? 0x80 : 0;
  double magnitude = std::fabs(value);
  if (magnitude >= 448) return sign | 0x7e;
  // Below 2^-6 the step is 2^-9; a value that rounds up to eight steps is the smallest normal, whose code is 8.
  if (magnitude < 0.015625) return sign | uint8_t(std::nearbyint(magnitude * 512));
  int exponent = std::ilogb(magnitude);
  int significand = int(std::nearbyint(std::ldexp(magnitude, 3 - exponent))); // 8..16; 16 carries into the exponent
  return sign | uint8_t(((exponent + 7) << 3) + significand - 8);
}

float e2m1ToF32(uint8_t code) {
  static const float kMagnitudes[8] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
  float magnitude = kMagnitudes[code & 7];
  return code & 8 ? -magnitude : magnitude;
}

uint8_t toE2m1(double value) {
  if (std::isnan(value)) return 7;
  // Code i ends at midpoint i; on the midpoint itself the even code of the two wins.
  static const double kMidpoints[7] = {0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0};
  double magnitude = std::fabs(value);
  int code = 0;
  while (code < 7 && (magnitude > kMidpoints[code] || (magnitude == kMidpoints[code] && code % 2 == 1))) ++code;
  return uint8_t(code | (std::signbit(value) ? 8 : 0));
}

float exp2Poly(float x) {
  if (std::isnan(x)) return x;
  if (x < -126.0f) return 0.0f;
  if (x >= 128.0f) return std::numeric_limits<float>::infinity();
  float whole = std::floor(x + 0.5f);
  float f = x - whole;
  float p = 0.000154035304f;
  p = std::fmaf(p, f, 0.00133335581f);
  p = std::fmaf(p, f, 0.00961812911f);
  p = std::fmaf(p, f, 0.0555041087f);
  p = std::fmaf(p, f, 0.240226507f);
  p = std::fmaf(p, f, 0.693147182f);
  p = std::fmaf(p, f, 1.0f);
  // Two steps, since 2^128 is not a float while p * 2^128 may be.
  int n = int(whole);
  int half = n >> 1;
  return (p * powerOfTwo(half)) * powerOfTwo(n - half);
}

float sigmoidPoly(float g) { return 1.0f / (1.0f + exp2Poly(-(g * 1.44269502f))); }

float siluPoly(float g) { return g / (1.0f + exp2Poly(-(g * 1.44269502f))); }

float geluTanhPoly(float g) {
  float cube = (g * g) * g;
  float t = std::fmaf(0.044715f, cube, g);
  float u = 0.797884583f * t;
  float e = exp2Poly(u * 2.88539004f);
  float th = 1.0f - 2.0f / (1.0f + e);
  return (0.5f * g) * (1.0f + th);
}

float Arith<float>::fma(float a, float b, float c) { return std::fmaf(a, b, c); }
float Arith<float>::sqrt(float x) { return std::sqrt(x); }

double Arith<double>::fma(double a, double b, double c) { return std::fma(a, b, c); }
double Arith<double>::sqrt(double x) { return std::sqrt(x); }
double Arith<double>::sigmoid(double g) { return 1 / (1 + std::exp(-g)); }
double Arith<double>::silu(double g) { return g / (1 + std::exp(-g)); }
double Arith<double>::geluTanh(double g) {
  return 0.5 * g * (1 + std::tanh(std::sqrt(2 / M_PI) * (g + 0.044715 * g * g * g)));
}

} // namespace phasec_reference
