// Inner loops for AVX2 and FMA. Eight lanes of a chain share a register; a fused multiply-add per element in the same
// order as the plain loops, so the bits are the same. Every function carries its own target, the file needs no flags.
#include "tests/reference/kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>

#define PHASEC_AVX2 __attribute__((target("avx2,fma")))

namespace phasec_reference {

namespace {

PHASEC_AVX2 void chain(float *acc, const float *w, const float *x, int64_t blocks) {
  __m256 a0 = _mm256_loadu_ps(acc), a1 = _mm256_loadu_ps(acc + 8);
  __m256 a2 = _mm256_loadu_ps(acc + 16), a3 = _mm256_loadu_ps(acc + 24);
  for (int64_t block = 0; block < blocks; ++block, w += kLanes, x += kLanes) {
    a0 = _mm256_fmadd_ps(_mm256_loadu_ps(w), _mm256_loadu_ps(x), a0);
    a1 = _mm256_fmadd_ps(_mm256_loadu_ps(w + 8), _mm256_loadu_ps(x + 8), a1);
    a2 = _mm256_fmadd_ps(_mm256_loadu_ps(w + 16), _mm256_loadu_ps(x + 16), a2);
    a3 = _mm256_fmadd_ps(_mm256_loadu_ps(w + 24), _mm256_loadu_ps(x + 24), a3);
  }
  _mm256_storeu_ps(acc, a0);
  _mm256_storeu_ps(acc + 8, a1);
  _mm256_storeu_ps(acc + 16, a2);
  _mm256_storeu_ps(acc + 24, a3);
}

// Eight lanes of kRowTile rows by two tokens (or one): at most eight chains in registers, six loads for eight steps.
template <int kTokens>
PHASEC_AVX2 void octet(float *acc, int64_t tokens, const float *w, int64_t w_stride, const float *x, int64_t x_stride,
                       int64_t blocks) {
  __m256 sums[kRowTile][kTokens];
#pragma GCC unroll 4
  for (int64_t row = 0; row < kRowTile; ++row)
#pragma GCC unroll 2
    for (int token = 0; token < kTokens; ++token)
      sums[row][token] = _mm256_loadu_ps(acc + (row * tokens + token) * kLanes);
  for (int64_t block = 0; block < blocks; ++block, w += kLanes, x += kLanes) {
    __m256 values[kTokens];
#pragma GCC unroll 2
    for (int token = 0; token < kTokens; ++token) values[token] = _mm256_loadu_ps(x + token * x_stride);
#pragma GCC unroll 4
    for (int64_t row = 0; row < kRowTile; ++row) {
      __m256 weight = _mm256_loadu_ps(w + row * w_stride);
#pragma GCC unroll 2
      for (int token = 0; token < kTokens; ++token)
        sums[row][token] = _mm256_fmadd_ps(weight, values[token], sums[row][token]);
    }
  }
#pragma GCC unroll 4
  for (int64_t row = 0; row < kRowTile; ++row)
#pragma GCC unroll 2
    for (int token = 0; token < kTokens; ++token)
      _mm256_storeu_ps(acc + (row * tokens + token) * kLanes, sums[row][token]);
}

PHASEC_AVX2 void chains(float *acc, const float *w, int64_t w_stride, const float *x, int64_t x_stride, int64_t tokens,
                        int64_t blocks) {
  for (int64_t lane = 0; lane < kLanes; lane += 8) {
    int64_t token = 0;
    for (; token + 2 <= tokens; token += 2)
      octet<2>(acc + token * kLanes + lane, tokens, w + lane, w_stride, x + token * x_stride + lane, x_stride, blocks);
    for (; token < tokens; ++token)
      octet<1>(acc + token * kLanes + lane, tokens, w + lane, w_stride, x + token * x_stride + lane, x_stride, blocks);
  }
}

PHASEC_AVX2 void partial(float *acc, const float *w, const float *x, int64_t begin, int64_t end) {
  for (int64_t k = begin; k < end; ++k) {
    __m128 sum = _mm_load_ss(acc + k % kLanes);
    sum = _mm_fmadd_ss(_mm_load_ss(w + k - begin), _mm_load_ss(x + k - begin), sum);
    _mm_store_ss(acc + k % kLanes, sum);
  }
}

// Addition commutes, so the half of each butterfly step that lane 0 depends on is enough.
PHASEC_AVX2 float butterfly(const float *acc) {
  __m256 low = _mm256_add_ps(_mm256_loadu_ps(acc), _mm256_loadu_ps(acc + 16));
  __m256 high = _mm256_add_ps(_mm256_loadu_ps(acc + 8), _mm256_loadu_ps(acc + 24));
  __m256 eight = _mm256_add_ps(low, high);
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

PHASEC_AVX2 void rescale(float *acc, const float *v, float p, float scale, int64_t n) {
  __m256 p8 = _mm256_set1_ps(p), scale8 = _mm256_set1_ps(scale);
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(acc + i), scale8);
    _mm256_storeu_ps(acc + i, _mm256_fmadd_ps(p8, _mm256_loadu_ps(v + i), scaled));
  }
  for (; i < n; ++i) {
    __m128 scaled = _mm_mul_ss(_mm_load_ss(acc + i), _mm_set_ss(scale));
    _mm_store_ss(acc + i, _mm_fmadd_ss(_mm_set_ss(p), _mm_load_ss(v + i), scaled));
  }
}

PHASEC_AVX2 void nvfp4(float *out, const uint8_t *codes, const float *scales, int64_t blocks) {
  const __m256 magnitudes = _mm256_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f);
  const __m128i nibble = _mm_set1_epi8(15);
  const __m256i sign = _mm256_set1_epi32(8);
  for (int64_t block = 0; block < blocks; ++block, out += 16, codes += 8) {
    __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i *>(codes));
    __m128i even = _mm_and_si128(bytes, nibble), odd = _mm_and_si128(_mm_srli_epi16(bytes, 4), nibble);
    __m128i order = _mm_unpacklo_epi8(even, odd);
    __m256 scale = _mm256_broadcast_ss(scales + block);
    for (int half = 0; half < 2; ++half) {
      __m256i index = _mm256_cvtepu8_epi32(half ? _mm_srli_si128(order, 8) : order);
      __m256 value = _mm256_permutevar8x32_ps(magnitudes, index); // looks at the low three bits
      __m256i signs = _mm256_slli_epi32(_mm256_and_si256(index, sign), 28);
      value = _mm256_xor_ps(value, _mm256_castsi256_ps(signs));
      _mm256_storeu_ps(out + half * 8, _mm256_mul_ps(value, scale));
    }
  }
}

PHASEC_AVX2 void bf16(float *out, const uint8_t *codes, int64_t n) {
  int64_t k = 0;
  for (; k + 8 <= n; k += 8) {
    __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i *>(codes + 2 * k));
    _mm256_storeu_ps(out + k, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16)));
  }
  if (k < n) genericKernels().bf16(out + k, codes + 2 * k, n - k);
}

PHASEC_AVX2 double dot64(const float *w, const double *x, int64_t n) {
  __m256d sums[4] = {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd()};
  int64_t k = 0;
  for (; k + 16 <= n; k += 16)
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i)
      sums[i] = _mm256_fmadd_pd(_mm256_cvtps_pd(_mm_loadu_ps(w + k + 4 * i)), _mm256_loadu_pd(x + k + 4 * i), sums[i]);
  double lanes[4];
  _mm256_storeu_pd(lanes, _mm256_add_pd(_mm256_add_pd(sums[0], sums[1]), _mm256_add_pd(sums[2], sums[3])));
  for (; k < n; ++k) lanes[0] += double(w[k]) * x[k];
  return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
}

} // namespace

const Kernels *avx2Kernels() {
  static const Kernels kKernels = {chains, chain, partial, butterfly, rescale, nvfp4, bf16, dot64};
  static const bool kUsable = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return kUsable ? &kKernels : nullptr;
}

} // namespace phasec_reference

#else

namespace phasec_reference {

const Kernels *avx2Kernels() { return nullptr; }

} // namespace phasec_reference

#endif
