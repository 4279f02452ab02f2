// stub_nvrtc.cpp: a libnvrtc that phasec opens like the real one, so that calls through its function table can be counted
// over processes and made slow. Its cubins differ from call to call: whoever has equal bytes did not compile them.
//
//   STUB_NVRTC_CALLS   file that gets one line per nvrtcCompileProgram: a hash of the source
//   STUB_NVRTC_MS      milliseconds that a compile takes
//   STUB_NVRTC_BUILD   build id in the PTX's head
#include "tests/unit/cubin.h"

#include <chrono>
#include <cstdlib>
#include <fcntl.h>
#include <functional>
#include <random>
#include <thread>
#include <unistd.h>

namespace {

struct Program {
  std::string source, ptx;
  std::vector<uint8_t> cubin;
};

Program &of(void *program) { return *static_cast<Program *>(program); }

std::string setting(const char *name, const char *otherwise) {
  const char *value = std::getenv(name);
  return value ? value : otherwise;
}

int give(const std::string &text, char *to) { return std::memcpy(to, text.c_str(), text.size() + 1), 0; }

} // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int nvrtcVersion(int *major, int *minor) { return *major = 13, *minor = 0, 0; }
EXPORT int nvrtcCreateProgram(void **program, const char *source, const char *, int, const char *const *,
                              const char *const *) {
  return *program = new Program{source, {}, {}}, 0;
}
EXPORT int nvrtcDestroyProgram(void **program) { return delete static_cast<Program *>(*program), *program = nullptr, 0; }

EXPORT int nvrtcCompileProgram(void *program, int, const char *const *) {
  Program &p = of(program);
  std::string line = std::to_string(std::hash<std::string>()(p.source)) + "\n", calls = setting("STUB_NVRTC_CALLS", "");
  int fd = calls.empty() ? -1 : open(calls.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  if (!calls.empty() && (fd < 0 || write(fd, line.data(), line.size()) != ssize_t(line.size()))) std::abort();
  if (fd >= 0) close(fd);
  std::this_thread::sleep_for(std::chrono::milliseconds(std::atoi(setting("STUB_NVRTC_MS", "0").c_str())));
  std::string build = setting("STUB_NVRTC_BUILD", "CL-1");
  p.ptx = "// Compiler Build ID: " + build + "\n// Cuda compilation tools, release 13.0, V13.0.88\n";
  p.cubin = phasec::test::cubin(line + std::to_string(std::random_device()()) + std::string(5'000, 'x'));
  return 0;
}

EXPORT int nvrtcGetCUBINSize(void *program, size_t *bytes) { return *bytes = of(program).cubin.size(), 0; }
EXPORT int nvrtcGetCUBIN(void *program, char *to) {
  return std::memcpy(to, of(program).cubin.data(), of(program).cubin.size()), 0;
}
EXPORT int nvrtcGetPTXSize(void *program, size_t *bytes) { return *bytes = of(program).ptx.size() + 1, 0; }
EXPORT int nvrtcGetPTX(void *program, char *to) { return give(of(program).ptx, to); }
EXPORT int nvrtcGetProgramLogSize(void *, size_t *bytes) { return *bytes = 1, 0; }
EXPORT int nvrtcGetProgramLog(void *, char *to) { return give("", to); }
EXPORT const char *nvrtcGetErrorString(int) { return "NVRTC_STUB"; }
