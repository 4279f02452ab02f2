// main.cpp: a host that embeds phasec: opens a runtime, prepares the kernel of a layer, binds its buffers, launches.
#include <phasec/runtime.h>

#include <cstdio>

using namespace phasec;

// A host knows its model: these are the dims of tiny_wo_harness.phase, h = x + W_O a.
constexpr int64_t kTokens = 8, kHidden = 80, kDepth = 208;

template <class T>
Result<Buffer> place(Runtime &runtime, const char *dtype, std::vector<int64_t> shape, const std::vector<T> &data) {
  PHASEC_ASSIGN(uint64_t address, runtime.allocate(int64_t(data.size() * sizeof(T))));
  PHASEC_TRY(runtime.upload(address, data.data(), int64_t(data.size() * sizeof(T))));
  return Buffer{address, dtype, std::move(shape), ""};
}

Status run(const char *file, const char *cache) {
  RuntimeOptions options;                               // the library reads no environment: what it may use stands here
  options.cache.user_dir = cache;                       // empty: kernels stay in memory
  options.search_path = "/usr/local/bin:/usr/bin:/bin"; // where the sim finds the host's C++ compiler
  options.log = [](const std::string &line) { std::fprintf(stderr, "%s\n", line.c_str()); };
  PHASEC_ASSIGN(Runtime runtime, Runtime::open(options)); // a GPU if there is one, else the sim
  PHASEC_ASSIGN(Layers layers, Layers::read(file));

  Schedule schedule;
  PHASEC_TRY(schedule.set("math", "exact", Origin::Host));
  PHASEC_TRY(schedule.set("wo_split", "8", Origin::Host));
  PHASEC_ASSIGN(Kernel kernel, runtime.prepare(layers, schedule)); // cache or compile, then load

  // NVFP4 as a checkpoint has it: two codes a byte, one e4m3 scale per 16 values. 0x22 is (1, 1), 0x38 is 1.
  std::vector<uint8_t> codes(kHidden * kDepth / 2, 0x22), scales(kHidden * kDepth / 16, 0x38);
  PHASEC_ASSIGN(PackedWeight packed, kernel.pack("w_o", {codes.data(), scales.data()}));
  PHASEC_ASSIGN(Buffer weight, place(runtime, "nvfp4", {kHidden, kDepth}, packed.bytes));
  weight.layout = packed.layout; // bind() accepts the layout that this kernel reads, and no other

  const uint16_t one = 0x3f80; // bf16
  Buffers buffers;
  buffers.arrays["w_o"] = weight;
  PHASEC_ASSIGN(buffers.arrays["w_o.scale"], place(runtime, "f32", {1}, std::vector<float>{0.5f}));
  PHASEC_ASSIGN(buffers.arrays["a"], place(runtime, "bf16", {kTokens, kDepth}, std::vector(kTokens * kDepth, one)));
  PHASEC_ASSIGN(buffers.arrays["x"], place(runtime, "bf16", {kTokens, kHidden}, std::vector(kTokens * kHidden, one)));
  PHASEC_ASSIGN(buffers.arrays["h"], place(runtime, "f32", {kTokens, kHidden}, std::vector<float>(kTokens * kHidden)));
  const std::vector<int32_t> step = {3, 1}; // this step's tokens and sequences: may change between launches
  PHASEC_ASSIGN(buffers.arrays["step.counts"], place(runtime, "i32", {2}, step));
  PHASEC_ASSIGN(Bound bound, kernel.bind(buffers)); // checks every buffer: name, dtype, shape, layout, alignment

  PHASEC_TRY(bound.launch()); // on the default stream; launch(stream) takes a CUstream of the host's
  std::vector<float> h(3 * kHidden);
  PHASEC_TRY(runtime.download(h.data(), buffers.arrays["h"].address, int64_t(h.size() * sizeof(float))));
  const char *how = kernel.miss() ? "compiled" : "hit";
  std::printf("%s, %s, %d CTAs: h = %g\n", kernel.key().text().c_str(), how, bound.ctas(), h[0]);
  for (float value : h)
    if (value != 105) return {ErrorKind::Mismatch, "expected 1 + 208 * 0.5 everywhere"};
  return {};
}

int main(int argc, char **argv) {
  Status status = Status::usage("usage: embed FILE [CACHE_DIRECTORY]");
  if (argc > 1) status = run(argv[1], argc > 2 ? argv[2] : "");
  if (!status.ok()) std::fprintf(stderr, "%s: %s\n", name(status.kind()), status.text().c_str());
  return exitCode(status.kind());
}
