// Comparison of two buffers: bits (NaNs as one class), largest difference, relative L2 error.
#include "tests/reference/formats.h"
#include "tests/reference/reference.h"

#include <cmath>
#include <cstring>
#include <limits>

namespace phasec_reference {

namespace {

struct Element {
  uint64_t bits = 0;
  double value = 0;
};

Element element(const std::string &dtype, const void *data, size_t index) {
  const uint8_t *bytes = static_cast<const uint8_t *>(data);
  Element out;
  if (dtype == "f32") {
    float value;
    std::memcpy(&value, bytes + index * 4, 4);
    std::memcpy(&out.bits, bytes + index * 4, 4);
    out.value = double(value);
  } else if (dtype == "i32") {
    int32_t value;
    std::memcpy(&value, bytes + index * 4, 4);
    out = {uint32_t(value), double(value)};
  } else if (dtype == "bf16") {
    uint16_t code;
    std::memcpy(&code, bytes + index * 2, 2);
    out = {code, double(bf16ToF32(code))};
  } else if (dtype == "fp8_e4m3") {
    out = {bytes[index], double(e4m3ToF32(bytes[index]))};
  } else {
    std::memcpy(&out.value, bytes + index * 8, 8);
    std::memcpy(&out.bits, bytes + index * 8, 8);
  }
  return out;
}

} // namespace

std::vector<double> decode(const std::string &dtype, const void *from, size_t n) {
  std::vector<double> values(n);
  for (size_t i = 0; i < n; ++i) values[i] = element(dtype, from, i).value;
  return values;
}

Comparison compare(const std::string &dtype, const void *a, const void *b, size_t n) {
  const double infinity = std::numeric_limits<double>::infinity();
  Comparison out;
  if (dtype != "f32" && dtype != "bf16" && dtype != "fp8_e4m3" && dtype != "i32" && dtype != "f64")
    return {false, infinity, infinity, 0};
  double difference_squares = 0, reference_squares = 0;
  for (size_t i = 0; i < n; ++i) {
    Element left = element(dtype, a, i), right = element(dtype, b, i);
    bool both_nan = std::isnan(left.value) && std::isnan(right.value);
    if (left.bits != right.bits && !both_nan && out.first_mismatch_index < 0) out.first_mismatch_index = int64_t(i);
    if (both_nan || left.value == right.value) {
      if (std::isfinite(right.value)) reference_squares += right.value * right.value;
      continue;
    }
    double difference = std::fabs(left.value - right.value);
    if (!std::isfinite(difference)) difference = infinity;
    out.max_abs = difference > out.max_abs ? difference : out.max_abs;
    difference_squares += difference * difference;
    if (std::isfinite(right.value)) reference_squares += right.value * right.value;
  }
  out.bit_exact = out.first_mismatch_index < 0;
  if (difference_squares > 0)
    out.rel_l2 = reference_squares > 0 ? std::sqrt(difference_squares / reference_squares) : infinity;
  return out;
}

} // namespace phasec_reference
