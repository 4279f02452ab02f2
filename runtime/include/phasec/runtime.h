// runtime.h: from a layer to launches: open a Runtime, prepare a kernel (cache or compile), bind buffers, launch.
//
//   PHASEC_ASSIGN(auto layers, Layers::read("llama.phase"));
//   PHASEC_ASSIGN(auto runtime, Runtime::open(options));
//   PHASEC_ASSIGN(auto kernel, runtime.prepare(layers, schedule));   // a hit opens no compiler
//   PHASEC_ASSIGN(auto bound, kernel.bind(buffers));                 // checks every buffer
//   PHASEC_TRY(bound.launch(stream));                                // no allocation, no synchronisation, capture-safe
#pragma once

#include "phasec/cache.h"
#include "phasec/compiler.h"
#include "phasec/config.h"
#include "phasec/status.h"

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#pragma GCC visibility push(default) // public: the library is compiled with hidden visibility

namespace phasec {

class Device;
struct Plan;
namespace detail {
struct RuntimeState;
struct KernelState;
struct BoundState;
} // namespace detail

enum class DeviceChoice { Auto, Cuda, Sim, None }; ///< None: prepare compiles but nothing can be bound (bless, inspect)
enum class Jit { On, Warn, Off };

/// Everything a Runtime may use. Plain data; the library itself reads no environment (the command line does).
struct RuntimeOptions {
  DeviceChoice device = DeviceChoice::Auto;
  int ordinal = 0;                ///< CUDA device
  uint64_t sim_seed = 1;          ///< scheduler seed of the sim
  int sim_ctas = 4;               ///< CTAs of a simulated launch, unless the schedule pins them
  std::string cuda_path;          ///< libcuda; empty: the loader's libcuda.so.1
  std::string nvrtc_path;         ///< libnvrtc; empty: searched
  std::vector<std::string> loader_dirs, site_packages; ///< further places to look for libnvrtc
  std::string host_compiler;      ///< for the sim; empty: c++, g++ or clang++ on search_path
  std::string search_path;        ///< directories separated by ':', as PATH
  std::string templates_dir;      ///< laid over the embedded templates; empty: none
  CacheOptions cache;
  Jit jit = Jit::On;              ///< Off: a miss is ErrorKind::CacheMiss with the explanation
  bool tuned = false;             ///< prepare() and explain() use what tuned() finds. Off: a host's kernels do not change because
                                  ///< somebody searched on this machine (the command line asks for it)
  bool prove = true;              ///< prove the plan on a miss; a hit is never proved again
  std::function<bool()> cancelled; ///< asked now and then while a compile runs or is waited for; true ends it with an error
  std::string dump_dir;           ///< source, PTX and log of every compile are written there; empty: nowhere
  std::function<void(const std::string &)> log; ///< one line per event worth knowing; from any thread
};

/// One array that bind() takes, in the device's memory.
struct Buffer {
  uint64_t address = 0;           ///< 16-byte aligned
  std::string dtype;              ///< "bf16", "f32", "fp8_e4m3", "i32", or a weight's format
  std::vector<int64_t> shape;     ///< elements; leading `tokens` extents may be larger than the kernel's maximum
  std::string layout;             ///< packed weights: the layout id that pack() gave; else empty
};

/// A paged KV cache of one layer instance.
struct KvBuffer {
  uint64_t k = 0, v = 0;          ///< base addresses; a joint cache passes v = k + its offset
  int64_t page_stride = 0, row_stride = 0, head_stride = 0; ///< bytes; multiples of 16
  std::string dtype;              ///< "bf16" | "fp8_e4m3"
  int page = 0;                   ///< rows per page
  uint64_t scales = 0;            ///< fp8: address of fp32 {k_scale, v_scale}
};

/// Buffers by name. A value `%x` is "x"; in a stack instance i's is "i/x", and a bare name is instance 0's where the value
/// exists once per launch (the first input) and every instance's where the instances share it.
/// The step's arrays: "step.counts" i32[2] {tokens, sequences}, "step.seq_first" i32[sequences + 1], "step.seq_context"
/// i32[sequences], "step.page_table" i32[sequences, pages]. They live on the device and may change between launches, and so
/// may the ids of an `embed`, i32[tokens]: bound to the buffer of the token that `argmax` returns, a launch takes up what
/// the last one chose without the host.
struct Buffers {
  std::map<std::string, Buffer> arrays;
  std::map<std::string, KvBuffer> caches;
  uint64_t workspace = 0;         ///< Kernel::workspaceBytes() bytes, 256-byte aligned, cleared by bind(); 0: the runtime allocates
};

/// A weight in checkpoint layout, on the host. Missing parts are null.
struct CheckpointWeight {
  const void *codes = nullptr;    ///< nvfp4 [rows, cols / 2], even k in the low nibble; fp8 [rows, cols]; bf16 [rows, cols]
  const void *scales = nullptr;   ///< nvfp4: e4m3 block scales, linear or 128x4-swizzled as declared
};

/// A packed weight image: upload `bytes` and pass them as Buffer{address, format, shape, layout}.
struct PackedWeight {
  std::vector<uint8_t> bytes;
  std::string layout;             ///< depends on format and role, never on the schedule
};

/// What a kernel expects under a name.
struct BufferSpec {
  std::string name;               ///< without instance prefix
  /// "embedding": the table of `embed`, bf16[vocab, hidden] as the checkpoint has it; a "weight" is packed with pack().
  std::string kind;               ///< "input" | "output" | "weight" | "weight_scale" | "embedding" | "vector" | "cache" | "step"
  std::string dtype;
  std::vector<int64_t> shape;     ///< -1: tokens
  std::string layout;             ///< packed weights
  int instance = 0;
};

/// A launch that was bound. Move-only. launch() may be called from any thread, one at a time; the arrays it was bound to
/// must stay alive.
class Bound {
public:
  Bound(Bound &&) noexcept;
  Bound &operator=(Bound &&) noexcept;
  ~Bound();

  /// Launches on `stream` (a CUstream; nullptr is the default stream). ErrorKind::Refused when the device cannot run the
  /// grid cooperatively and the schedule says on_refusal = error. After a failed launch the workspace is poisoned:
  /// further launches fail until it is bound again.
  Status launch(void *stream = nullptr);

  /// Launches that the kernel itself refused since bind, because the step had more tokens than it was compiled for (or
  /// none). Synchronises.
  Result<int64_t> refusedSteps() const;
  /// Launches that went the non-cooperative way (on_refusal = split).
  int64_t splitLaunches() const;
  int ctas() const;

private:
  friend class Kernel;
  explicit Bound(std::unique_ptr<detail::BoundState> state);
  std::unique_ptr<detail::BoundState> state_;
};

/// What packs weights of one shape and format on the device.
struct Packer {
  Key key;
  int64_t shared_bytes = 0;       ///< dynamic, per CTA
};

/// A kernel that is ready to be bound. Copies share it; safe from any thread.
class Kernel {
public:
  const Key &key() const;
  const Plan &plan() const;
  const std::string &source() const;       ///< rendered; the text that was hashed
  const std::string &sourceDigest() const; ///< of its tokens; equal for sim and cuda
  const Hit &provenance() const;           ///< layer, path and artefact
  const std::optional<Miss> &miss() const; ///< set when it had to be compiled
  double compileMicroseconds() const;      ///< 0 on a hit
  double loadMicroseconds() const;
  int64_t workspaceBytes() const;
  /// Every name that bind() needs.
  std::vector<BufferSpec> buffers() const;
  /// CTAs a launch will have on this device.
  int ctas() const;

  /// Packs a weight for this kernel (and every other kernel with the same layout id). `value` is "w_o", or "i/w_o" in a
  /// stack whose layers differ. Threaded.
  Result<PackedWeight> pack(const std::string &value, const CheckpointWeight &weight) const;
  /// Bytes of a packed weight.
  Result<int64_t> packedBytes(const std::string &value) const;
  /// The same on the device: codes and scales are addresses of its memory, and so is `image`, which takes packedBytes(value)
  /// bytes; all are aligned to 16 bytes. By a kernel that is keyed and cached like any other; asynchronous on `stream` (a CUstream).
  /// The layout. ErrorKind::CacheMiss where it would have to be compiled and may not be.
  Result<std::string> packOnDevice(const std::string &value, const CheckpointWeight &weight, uint64_t image, void *stream = nullptr) const;
  /// Has what packOnDevice() needs for every weight of this kernel, so that it compiles nothing: at start-up, or without a device, for a
  /// file that ships. One for each shape and format. ErrorKind::CacheMiss where some would have to be compiled and may not be; its text names all.
  Result<std::vector<Packer>> preparePackers() const;

  /// Checks buffers (dtype, shape, layout, alignment, strides) and prepares a launch. ErrorKind::Input names the buffer,
  /// what was expected and what came.
  Result<Bound> bind(const Buffers &buffers) const;

private:
  friend class Runtime;
  explicit Kernel(std::shared_ptr<detail::KernelState> state) : state_(std::move(state)) {}
  std::shared_ptr<detail::KernelState> state_;
};

/// Caches and a device. Copies share it; methods may be called from any thread.
class Runtime {
public:
  /// ErrorKind::Device when the chosen device cannot be opened (never for Auto, which falls to sim and says so in log).
  static Result<Runtime> open(const RuntimeOptions &options);
  /// Over a device of the caller's; what `options` say about devices is not looked at.
  static Result<Runtime> with(const RuntimeOptions &options, std::unique_ptr<Device> device);

  /// Plans, renders and looks `layers` up; on a miss proves, compiles and stores. Loads the kernel.
  Result<Kernel> prepare(const Layers &layers, const Schedule &schedule);
  /// The same for a caller that may be capturing `stream` (a CUstream) into a graph. Compiling and loading are illegal then:
  /// ErrorKind::CacheMiss unless a kernel of the same key is alive already, with what to do before the capture.
  Result<Kernel> prepare(const Layers &layers, const Schedule &schedule, void *stream);

  /// Would prepare() hit? The hit, or why not. Compiles nothing, counts nothing.
  struct Explanation {
    Key key;
    Schedule schedule; ///< effective
    std::string source;
    std::vector<Section> sections;
    std::optional<Hit> hit;
    Miss miss; ///< meaningful without hit
  };
  Result<Explanation> explain(const Layers &layers, const Schedule &schedule);

  /// `schedule` with the winner of `phasec tune` laid below what is set (Origin::Tuned), when the user file has one for
  /// exactly these layers, this target, number of CTAs, contract and tokens_max; else unchanged.
  Result<Schedule> tuned(const Layers &layers, const Schedule &schedule);
  /// What such a winner is stored under.
  Result<TunedKey> tunedKey(const Layers &layers, const Schedule &schedule);

  /// Memory of the device, zero-filled, 256-byte aligned, freed with the runtime at the latest. For hosts without an
  /// allocator of their own; a host that has CUDA pointers binds those. The sim streams from this memory only.
  Result<uint64_t> allocate(int64_t bytes);
  void release(uint64_t address);
  /// Synchronous copies; download() waits for what was launched. ErrorKind::Usage without a device.
  Status upload(uint64_t to, const void *from, int64_t bytes);
  Status download(void *to, uint64_t from, int64_t bytes);

  Cache &cache();
  Device &device();           ///< requires a device
  bool hasDevice() const;
  const RuntimeOptions &options() const;
  /// Why Auto did not take cuda; empty when it did.
  const std::string &cudaProblem() const;
  /// After seal() a miss is ErrorKind::CacheMiss whatever jit says.
  void seal();

private:
  explicit Runtime(std::shared_ptr<detail::RuntimeState> state) : state_(std::move(state)) {}
  std::shared_ptr<detail::RuntimeState> state_;
};

/// Version of the launch ABI: part of every key.
inline constexpr uint32_t kLaunchAbi = 1;

} // namespace phasec

#pragma GCC visibility pop
