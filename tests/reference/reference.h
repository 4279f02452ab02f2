// The independent numeric reference: what a plan must compute, bit for bit.
//
// It reads a plan as JSON text and the checkpoint-layout buffers of every instance, and evaluates the layers in the
// declared order with its own accessors, conversions and elementary functions. Nothing here comes from the compiler,
// the runtime or the kernel templates, so an error there cannot hide here.
//
// Build with -ffp-contract=off and without fast-math; FTZ/DAZ and the rounding mode are reset while it runs.
#ifndef PHASEC_TESTS_REFERENCE_REFERENCE_H
#define PHASEC_TESTS_REFERENCE_REFERENCE_H

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace phasec_reference {

// Borrowed bytes; no alignment is required.
struct View {
  const void *data = nullptr;
  size_t bytes = 0;
};

// A paged K/V cache: row r, head h, element d of page p lies at base + p * page_stride + r * row_stride +
// h * head_stride + d * element size; all strides are in bytes. `pages` > 0 bounds the page numbers.
struct CacheView {
  const uint8_t *k = nullptr;
  const uint8_t *v = nullptr;
  int64_t page_stride = 0;
  int64_t row_stride = 0;
  int64_t head_stride = 0;
  int64_t pages = 0;
};

// Every name is prefixed with the instance: "0/x", "1/w_o".
//   inputs    "i/x" [tokens, n] in the declared dtype, row major; "i/rope" f32 [positions, rotary]; a partials input is
//             f32 [slots, tokens, n]; ids are i32 [tokens]. The first input of instances > 0 comes from the instance
//             before.
//   nvfp4     "i/w" codes [rows, cols/2] (even k in the low nibble), "i/w.scales" e4m3 [rows, cols/16] linear or
//             128x4-swizzled, "i/w.scale" f32[1]
//   fp8_e4m3  "i/w" [rows, cols], "i/w.scale" f32[1] or f32[rows]
//   bf16      "i/w" [rows, cols]; vectors bf16 or f32 [n]
//   caches    `caches["i/kv"]`, and for fp8 "i/kv.scales" f32[2] {k_scale, v_scale}
struct Inputs {
  std::map<std::string, View> buffers;
  std::map<std::string, CacheView> caches;
  int tokens = 0;
  std::vector<int32_t> seq_first;   // S + 1 entries: sequence s owns tokens [seq_first[s], seq_first[s + 1])
  std::vector<int32_t> seq_context; // S entries: rows already in the cache before this step
  std::vector<int32_t> page_table;  // row r of sequence s is in page page_table[s * page_stride + r / page]
  int page_stride = 0;
};

// Returned values of the last instance by name, in their declared dtype, and "i/<kv>.appended.k" / ".v": this step's
// rows [tokens][kv_heads][head_dim] in the cache dtype. Partials are f32 [slots, tokens, n], chosen tokens i32
// [tokens]. `dtypes` has a key for each buffer ("bf16", "f32", "fp8_e4m3", "i32").
struct Output {
  std::map<std::string, std::vector<uint8_t>> buffers;
  std::map<std::string, std::string> dtypes;
};

enum class Path { kAuto, kGeneric, kAvx2 };

struct Options {
  int threads = 0;         // 0: one per hardware thread
  Path path = Path::kAuto; // both paths give the same bits; kAvx2 is refused where the CPU lacks it
  // run_fp64 only: round values to their declared dtypes. Cache rows and act_quant are rounded in any case.
  bool round_values = true;
};

// The exact contract. False with a sentence in *error when the plan or the buffers are not acceptable; *output is
// then unspecified.
bool run(const std::string &plan_json, const Inputs &inputs, Output *output, std::string *error,
         const Options &options = Options());

// The same mathematics in double precision, library elementary functions, no segment order. The output is converted to
// the declared dtypes. The W_O slot formula is not enforced here (fast plans round slot bounds), the tiling is.
bool run_fp64(const std::string &plan_json, const Inputs &inputs, Output *output, std::string *error,
              const Options &options = Options());

// As run_fp64, with every returned value left in double (appended cache rows decoded without their scale).
bool run_fp64_values(const std::string &plan_json, const Inputs &inputs,
                     std::map<std::string, std::vector<double>> *values, std::string *error,
                     const Options &options = Options());

struct Comparison {
  bool bit_exact = false;            // equal bits, all NaNs being one class
  double max_abs = 0;                // infinite when a NaN or an infinity stands against something else
  double rel_l2 = 0;                 // |a - b| / |b|, b being the reference
  int64_t first_mismatch_index = -1; // -1: none
};

// n elements of dtype "f32", "bf16", "fp8_e4m3", "i32" or "f64".
Comparison compare(const std::string &dtype, const void *a, const void *b, size_t n);
std::vector<double> decode(const std::string &dtype, const void *from, size_t n);

} // namespace phasec_reference

#endif
