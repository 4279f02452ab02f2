// nvrtc.cpp: opens libnvrtc, compiles one program, reads everything that comes with the cubin.
#include "compiler/nvrtc.h"

#include "compiler/nvrtc_log.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <dlfcn.h>

namespace phasec {
namespace {

constexpr int kResultCancelled = 16; ///< NVRTC_ERROR_CANCELLED
constexpr int kOldestMajor = 12;

/// Names in libnvrtc of the table's members. The optional ones may be missing.
template <class Visit> void forEachFunction(NvrtcApi &api, Visit visit) {
  visit("nvrtcVersion", api.version, false);
  visit("nvrtcCreateProgram", api.createProgram, false);
  visit("nvrtcDestroyProgram", api.destroyProgram, false);
  visit("nvrtcCompileProgram", api.compileProgram, false);
  visit("nvrtcGetCUBINSize", api.cubinSize, false);
  visit("nvrtcGetCUBIN", api.cubin, false);
  visit("nvrtcGetPTXSize", api.ptxSize, false);
  visit("nvrtcGetPTX", api.ptx, false);
  visit("nvrtcGetProgramLogSize", api.logSize, false);
  visit("nvrtcGetProgramLog", api.log, false);
  visit("nvrtcGetErrorString", api.errorString, false);
  visit("nvrtcGetNumSupportedArchs", api.archCount, true);
  visit("nvrtcGetSupportedArchs", api.archs, true);
  visit("nvrtcSetFlowCallback", api.setFlowCallback, true);
}

/// What nvrtcSetFlowCallback hands back. The library may call from several threads, and once told to stop it must be
/// told so every time.
struct Flow {
  const CompileProgress &progress;
  std::chrono::steady_clock::time_point begin;
  std::atomic<bool> cancelled{false};

  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(); }
  static int callback(void *payload, void *) {
    Flow &flow = *static_cast<Flow *>(payload);
    if (!flow.cancelled && flow.progress && flow.progress(flow.seconds())) flow.cancelled = true;
    return flow.cancelled ? 1 : 0;
  }
};

/// A text result of NVRTC, without its terminating NUL; empty when there is none.
std::string readText(int (*size)(void *, size_t *), int (*read)(void *, char *), void *program) {
  size_t bytes = 0;
  if (size(program, &bytes) != 0 || bytes == 0) return {};
  std::string text(bytes, '\0');
  if (read(program, text.data()) != 0) return {};
  while (!text.empty() && text.back() == '\0') text.pop_back();
  return text;
}

/// Build identity from the comment that heads NVRTC's PTX: "// Compiler Build ID: CL-36424714" and
/// "// Cuda compilation tools, release 13.0, V13.0.88".
std::string toolchainOf(std::string_view ptx, int major, int minor) {
  auto after = [&](std::string_view mark) {
    size_t at = ptx.find(mark);
    if (at == std::string_view::npos) return std::string();
    std::string_view rest = ptx.substr(at + mark.size());
    return std::string(rest.substr(0, rest.find_first_of(" ,\r\n")));
  };
  std::string release = after(", V"), build = after("Compiler Build ID: ");
  if (release.empty()) release = std::to_string(major) + "." + std::to_string(minor);
  return "nvrtc " + release + (build.empty() ? "" : " (" + build + ")");
}

/// Destroys the program on every way out.
struct Program {
  const NvrtcApi &api;
  void *handle = nullptr;
  ~Program() {
    if (handle) api.destroyProgram(&handle);
  }
};

} // namespace

std::vector<std::string> nvrtcArguments(const CompileOptions &options) {
  std::vector<std::string> arguments = {"-std=c++20", "-default-device", "--ptxas-options=-v"};
  for (const char *argument : {"--fmad=false", "--ftz=false", "--prec-div=true", "--prec-sqrt=true"})
    if (options.exact) arguments.push_back(argument);
  if (options.line_info) arguments.push_back("-lineinfo");
  if (options.split_compile > 0) arguments.push_back("--split-compile=" + std::to_string(options.split_compile));
  arguments.insert(arguments.end(), options.extra.begin(), options.extra.end());
  return arguments;
}

Result<std::unique_ptr<Nvrtc>> Nvrtc::open(const NvrtcSearch &search) {
  PHASEC_ASSIGN(LibraryFile file, locateNvrtc(search));
  // Never closed: the compiler keeps threads and static state that do not survive dlclose.
  void *library = dlopen(file.path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char *why = dlerror();
    return Status::toolchain(
        "cannot open NVRTC: " + std::string(why ? why : file.path.c_str()) +
        "; set PHASEC_NVRTC to another libnvrtc.so, or install one: pip install nvidia-cuda-nvrtc");
  }
  NvrtcApi api;
  std::string missing;
  forEachFunction(api, [&](const char *name, auto &function, bool optional) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
    if (!function && !optional && missing.empty()) missing = name;
  });
  if (!missing.empty())
    return Status::toolchain(file.path + " has no " + missing + ": it is not NVRTC " + std::to_string(kOldestMajor) +
                             " or later; set PHASEC_NVRTC to one, or run pip install nvidia-cuda-nvrtc");
  return with(api, std::move(file));
}

Result<std::unique_ptr<Nvrtc>> Nvrtc::with(const NvrtcApi &api, LibraryFile file) {
  std::unique_ptr<Nvrtc> nvrtc(new Nvrtc(api, std::move(file)));
  if (int result = api.version(&nvrtc->major_, &nvrtc->minor_))
    return Status::toolchain("nvrtcVersion failed: " + nvrtc->describe(result));
  if (nvrtc->major_ < kOldestMajor)
    return Status::toolchain("NVRTC " + std::to_string(nvrtc->major_) + "." + std::to_string(nvrtc->minor_) + " at " +
                             nvrtc->file_.path +
                             " is too old: 12.8 or later is needed (pip install nvidia-cuda-nvrtc)");
  int count = 0;
  if (api.archCount && api.archs && api.archCount(&count) == 0 && count > 0) {
    nvrtc->archs_.resize(count);
    if (api.archs(nvrtc->archs_.data()) != 0) nvrtc->archs_.clear();
  }
  return nvrtc;
}

std::string Nvrtc::describe(int result) const {
  const char *name = api_.errorString ? api_.errorString(result) : nullptr;
  return name ? name : "nvrtcResult " + std::to_string(result);
}

Result<std::string> Nvrtc::toolchain() const {
  Program program{api_};
  int result = api_.createProgram(&program.handle, "extern \"C\" __global__ void empty() {}\n", kProgramName, 0,
                                  nullptr, nullptr);
  if (result == 0) result = api_.compileProgram(program.handle, 0, nullptr);
  if (result != 0) return Status::toolchain("NVRTC cannot compile an empty kernel: " + describe(result));
  return toolchainOf(readText(api_.ptxSize, api_.ptx, program.handle), major_, minor_);
}

Status Nvrtc::checkRequest(const CompileRequest &request) const {
  if (!request.target) return Status::internal("a compile without a target");
  if (request.program_name.find('/') != std::string::npos)
    return Status::internal("a program name that is a path reaches the cubin: " + request.program_name);
  if (request.source.find('\0') != std::string_view::npos) return Status::internal("the rendered source holds a NUL");
  if (!archs_.empty() && std::find(archs_.begin(), archs_.end(), request.target->sm) == archs_.end())
    return Status::toolchain("NVRTC " + std::to_string(major_) + "." + std::to_string(minor_) + " (" + file_.path +
                             ") does not know " + request.target->name +
                             "; install a newer one: pip install --upgrade nvidia-cuda-nvrtc");
  return {};
}

Result<CompiledKernel> Nvrtc::compile(const CompileRequest &request) const {
  PHASEC_TRY(checkRequest(request));
  Flow flow{request.progress, std::chrono::steady_clock::now()};
  std::string source(request.source); // NUL-terminated
  std::vector<std::string> arguments = nvrtcArguments(request.options);
  arguments.insert(arguments.begin(), std::string("--gpu-architecture=") + request.target->name);
  std::vector<const char *> texts;
  for (const std::string &argument : arguments) texts.push_back(argument.c_str());

  Program program{api_};
  int result = api_.createProgram(&program.handle, source.c_str(), request.program_name.c_str(), 0, nullptr, nullptr);
  if (result != 0) return Status::toolchain("nvrtcCreateProgram failed: " + describe(result));
  if (request.progress && api_.setFlowCallback) {
    result = api_.setFlowCallback(program.handle, Flow::callback, &flow);
    if (result != 0) return Status::toolchain("nvrtcSetFlowCallback failed: " + describe(result));
  }
  const double begun = flow.seconds();
  result = api_.compileProgram(program.handle, int(texts.size()), texts.data());
  const double seconds = flow.seconds() - begun;
  if (result == kResultCancelled || flow.cancelled)
    return Status::toolchain("the compile for " + std::string(request.target->name) + " was cancelled");
  std::string log = readText(api_.logSize, api_.log, program.handle);
  std::string ptx = readText(api_.ptxSize, api_.ptx, program.handle);
  if (result != 0) {
    std::string errors = renderErrors(parseCompilerLog(log, request.source, ptx, request.program_name));
    if (errors.empty())
      errors = "NVRTC failed for " + std::string(request.target->name) + ": " + describe(result) + "\n" + log;
    return Status::toolchain(errors);
  }
  CompiledKernel compiled;
  size_t bytes = 0;
  result = api_.cubinSize(program.handle, &bytes);
  if (result == 0) compiled.cubin.resize(bytes);
  if (result == 0) result = api_.cubin(program.handle, reinterpret_cast<char *>(compiled.cubin.data()));
  if (result != 0) return Status::toolchain("nvrtcGetCUBIN failed: " + describe(result));
  PHASEC_ASSIGN(compiled.resources, readResources(compiled.cubin, log));
  compiled.toolchain = toolchainOf(ptx, major_, minor_);
  compiled.ptx = std::move(ptx);
  compiled.log = std::move(log);
  compiled.seconds = seconds;
  return compiled;
}

} // namespace phasec
