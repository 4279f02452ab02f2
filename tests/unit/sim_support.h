// sim_support.h: small kernels for the engine's tests: base.cuh and ptx.cuh flattened in front of a kernel's text,
// compiled for the sim and launched.
#pragma once

#include "runtime/device.h"
#include "runtime/sim/compiler.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace simtest {

using namespace phasec;

inline std::string hostCompiler() {
  const char *path = std::getenv("PATH");
  auto found = findHostCompiler("", path ? path : "");
  REQUIRE_MESSAGE(found.ok(), found.status().text());
  return *found;
}

/// A template's text without what the renderer strips.
inline std::string flattened(const std::string &file) {
  std::ifstream in(std::string(PHASEC_SOURCE_DIR) + "/templates/" + file);
  REQUIRE_MESSAGE(in.good(), file);
  std::string line, text = "#line 1 \"templates/" + file + "\"\n";
  while (std::getline(in, line))
    text += (line.rfind("#include", 0) == 0 || line.rfind("#pragma once", 0) == 0 ? "" : line) + "\n";
  return text;
}

/// A template behind all that it includes, each once.
inline std::string withIncludes(const std::string &file, std::set<std::string> &seen) {
  if (!seen.insert(file).second) return "";
  std::ifstream in(std::string(PHASEC_SOURCE_DIR) + "/templates/" + file);
  std::string line, before;
  while (std::getline(in, line))
    if (line.rfind("#include \"", 0) == 0) {
      auto path = std::filesystem::path(file).parent_path() / line.substr(10, line.rfind('"') - 10);
      before += withIncludes(path.lexically_normal().string(), seen);
    }
  return before + flattened(file);
}
inline std::string withIncludes(const std::string &file) {
  std::set<std::string> seen;
  return withIncludes(file, seen);
}

/// What every test kernel takes: buffers and numbers.
struct Args {
  void *a, *b, *c;
  int n, m;
};

inline std::string kernelSource(const std::string &body) {
  return flattened("base.cuh") + flattened("ptx.cuh") +
         "#line 1 \"kernel.cu\"\nstruct Args { u8 *a, *b, *c; int n, m; };\n" + body +
         "\nPHASEC_KERNEL_ENTRY(k, Args)\n";
}

/// Compiles once per distinct source.
inline const std::vector<uint8_t> &compiledSource(const std::string &source) {
  static std::map<std::string, std::vector<uint8_t>> known;
  if (auto it = known.find(source); it != known.end()) return it->second;
  auto object = compileForSim(source, hostCompiler());
  REQUIRE_MESSAGE(object.ok(), object.status().text());
  CHECK_MESSAGE(object->log.empty(), object->log);
  return known[source] = object->image;
}

/// A device, one kernel and its buffers.
class Bench {
public:
  Bench(const std::string &body, uint64_t seed) : Bench(compiledSource(kernelSource(body)), seed) {}
  Bench(const std::vector<uint8_t> &image, uint64_t seed) : device(openSim({seed, 4})) {
    auto loaded = device->load(image, "k");
    REQUIRE_MESSAGE(loaded.ok(), loaded.status().text());
    kernel = loaded.take();
  }
  template <class T> void *put(const std::vector<T> &values) {
    auto address = device->allocate(int64_t(values.size() * sizeof(T)));
    REQUIRE(address.ok());
    REQUIRE(device->upload(*address, values.data(), int64_t(values.size() * sizeof(T))).ok());
    return reinterpret_cast<void *>(*address);
  }
  template <class T> std::vector<T> get(void *address, size_t count) {
    std::vector<T> values(count);
    REQUIRE(device->download(values.data(), reinterpret_cast<DevicePtr>(address), int64_t(count * sizeof(T))).ok());
    return values;
  }
  template <class A> Status launch(int ctas, int threads, int64_t shared, const A &args) {
    return device->launch(*kernel, LaunchShape{ctas, threads, shared, true}, &args, sizeof args, nullptr);
  }

  std::unique_ptr<Device> device;
  std::unique_ptr<LoadedKernel> kernel;
};

inline bool contains(const std::string &text, const std::string &part) { return text.find(part) != std::string::npos; }

} // namespace simtest
