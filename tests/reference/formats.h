// Number formats and elementary functions of the reference, written from the numeric contract.
#ifndef PHASEC_TESTS_REFERENCE_FORMATS_H
#define PHASEC_TESTS_REFERENCE_FORMATS_H

#include <cstdint>

namespace phasec_reference {

// bf16: round to nearest even, NaN becomes 0x7fc0.
float bf16ToF32(uint16_t bits);
uint16_t toBf16(float value);
uint16_t toBf16(double value); // rounds once, straight from double

// e4m3: bias 7, no infinities, 0x7f and 0xff are NaN. Encoding rounds to nearest even and saturates at 448, NaN gives
// 0x7f. A float argument is exact as a double, so one function serves both.
float e4m3ToF32(uint8_t code);
uint8_t toE4m3(double value);

// e2m1: 0 .5 1 1.5 2 3 4 6 with the sign in bit 3. Nearest even, saturates at 6, NaN gives +6.
float e2m1ToF32(uint8_t code);
uint8_t toE2m1(double value);

// The contract's polynomial functions in f32.
float exp2Poly(float x);
float sigmoidPoly(float g);
float siluPoly(float g);
float geluTanhPoly(float g);

// Arithmetic of one precision: float is the exact contract, double is the yardstick.
template <class Real> struct Arith;

template <> struct Arith<float> {
  static float fma(float a, float b, float c);
  static float sqrt(float x);
  static float sigmoid(float g) { return sigmoidPoly(g); }
  static float silu(float g) { return siluPoly(g); }
  static float geluTanh(float g) { return geluTanhPoly(g); }
};

template <> struct Arith<double> {
  static double fma(double a, double b, double c);
  static double sqrt(double x);
  static double sigmoid(double g);
  static double silu(double g);
  static double geluTanh(double g);
};

} // namespace phasec_reference

#endif
