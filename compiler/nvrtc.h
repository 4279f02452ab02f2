// nvrtc.h: NVRTC, NVIDIA's run-time compiler, opened with dlopen: rendered source in, cubin, PTX and resources out. No
// CUDA header is needed to build this, and no process maps libnvrtc unless it opens an Nvrtc.
#pragma once

#include "compiler/plan.h"
#include "compiler/resources.h"
#include "phasec/status.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace phasec {

/// The functions of libnvrtc that phasec calls (results are nvrtcResult, programs nvrtcProgram). Tests put their own
/// here.
struct NvrtcApi {
  using FlowCallback = int (*)(void *payload, void *reserved);
  int (*version)(int *major, int *minor) = nullptr;
  int (*createProgram)(void **program, const char *source, const char *name, int headers,
                       const char *const *header_texts, const char *const *header_names) = nullptr;
  int (*destroyProgram)(void **program) = nullptr;
  int (*compileProgram)(void *program, int options, const char *const *option_texts) = nullptr;
  int (*cubinSize)(void *program, size_t *bytes) = nullptr;
  int (*cubin)(void *program, char *to) = nullptr;
  int (*ptxSize)(void *program, size_t *bytes) = nullptr;
  int (*ptx)(void *program, char *to) = nullptr;
  int (*logSize)(void *program, size_t *bytes) = nullptr;
  int (*log)(void *program, char *to) = nullptr;
  const char *(*errorString)(int result) = nullptr;
  // Absent from older libraries.
  int (*archCount)(int *count) = nullptr;
  int (*archs)(int *sm_numbers) = nullptr;
  int (*setFlowCallback)(void *program, FlowCallback callback, void *payload) = nullptr;
};

// ---- where it is
// ------------------------------------------------------------------------------------------------------

/// Where to look for libnvrtc, in this order: the explicit path and nothing else; `loader_dirs`; what the loader's
/// cache and the usual system directories hold; /usr/local/cuda; /usr/local/cuda-*, newest first; `site_packages`.
struct NvrtcSearch {
  std::string explicit_path;              ///< a file (PHASEC_NVRTC); when set, nothing else is tried
  std::vector<std::string> loader_dirs;  ///< as in LD_LIBRARY_PATH
  std::vector<std::string> site_packages; ///< Python directories that may hold the nvidia-cuda-nvrtc wheel
  bool system = true;                     ///< false: only the directories given here
};

/// One library file, links resolved. Equal identities mean the same bytes, as far as a file system can tell.
struct LibraryFile {
  std::string path;
  int64_t bytes = 0, mtime_ns = 0;
  /// "path:bytes:mtime_ns": what a memo of toolchain identities is keyed on.
  std::string identity() const;
};

/// Finds the library without opening it; about 0.1 ms. ErrorKind::Toolchain, with what to install, when there is none.
Result<LibraryFile> locateNvrtc(const NvrtcSearch &search);

// ---- compiling
// --------------------------------------------------------------------------------------------------------

/// The one name rendered programs have. It reaches the cubin, so it is never a path.
inline constexpr const char *kProgramName = "phasec_layer.cu";

struct CompileOptions {
  bool exact = true;              ///< IEEE division and square root, denormals kept, no contraction
  bool line_info = false;         ///< line tables for profilers; changes the bytes
  int split_compile = 0;          ///< threads of ptxas's split compilation; 0 off; changes the bytes
  std::vector<std::string> extra; ///< appended as given
};

/// The compiler's command line, which is also the "options" part of the fingerprint. Without the target's own option.
std::vector<std::string> nvrtcArguments(const CompileOptions &options);

/// Called by the compiler as it works, with the seconds since it began, at its own pace (tens of calls per compile) and
/// maybe from other threads; true cancels. Never called by a libnvrtc without nvrtcSetFlowCallback (before 12.9).
using CompileProgress = std::function<bool(double seconds)>;

struct CompileRequest {
  std::string_view source;
  const Target *target = nullptr;
  CompileOptions options;
  CompileProgress progress; ///< may be empty
  std::string program_name = kProgramName;
};

struct CompiledKernel {
  std::vector<uint8_t> cubin;
  std::string ptx;
  std::string log; ///< warnings and ptxas's figures
  std::string toolchain;
  std::vector<KernelResources> resources;
  double seconds = 0; ///< in nvrtcCompileProgram
};

/// One loaded libnvrtc; it stays mapped until the process ends. Methods may be called from any thread at once.
class Nvrtc {
public:
  static Result<std::unique_ptr<Nvrtc>> open(const NvrtcSearch &search);
  /// Over a table given by the caller.
  static Result<std::unique_ptr<Nvrtc>> with(const NvrtcApi &api, LibraryFile file);

  int major() const { return major_; }
  int minor() const { return minor_; }
  const LibraryFile &file() const { return file_; }

  /// "nvrtc 13.0.88 (CL-36424714)", as compile() says it: nvrtcVersion has no patch level, so the build is read off the
  /// PTX of an empty kernel (about 10 ms).
  Result<std::string> toolchain() const;

  /// Compiles. Equal requests give equal cubins. ErrorKind::Toolchain with `file:line:column: error: ...` located in
  /// the templates (through the source's #line directives), first error first; also when cancelled.
  Result<CompiledKernel> compile(const CompileRequest &request) const;

private:
  Nvrtc(const NvrtcApi &api, LibraryFile file) : api_(api), file_(std::move(file)) {}
  Status checkRequest(const CompileRequest &request) const;
  std::string describe(int result) const;

  NvrtcApi api_;
  LibraryFile file_;
  int major_ = 0, minor_ = 0;
  std::vector<int> archs_; ///< empty: the library does not say
};

} // namespace phasec
