// nvrtc_locate.cpp: finds the file libnvrtc without opening it. A cache hit must be able to say which compiler it
// matches while no compiler is mapped, so what dlopen would do by name is done here with stat.
#include "compiler/nvrtc.h"

#include <algorithm>
#include <charconv>
#include <climits>
#include <cstdlib>
#include <dirent.h>
#include <fstream>
#include <iterator>
#include <sys/stat.h>

namespace phasec {
namespace {

constexpr const char *kNames[] = {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"};

/// Fills `found` when `path` is a readable file.
bool probe(const std::string &path, LibraryFile &found) {
  char resolved[PATH_MAX];
  struct stat info;
  if (!realpath(path.c_str(), resolved) || stat(resolved, &info) != 0 || !S_ISREG(info.st_mode)) return false;
  found.path = resolved;
  found.bytes = info.st_size;
  found.mtime_ns = int64_t(info.st_mtim.tv_sec) * 1000000000 + info.st_mtim.tv_nsec;
  return true;
}

bool probeDirectory(const std::string &directory, LibraryFile &found) {
  for (const char *name : kNames)
    if (!directory.empty() && probe(directory + "/" + name, found)) return true;
  return false;
}

/// Paths that the dynamic loader's cache has for `name`. The cache ends in NUL-terminated strings, paths among them.
std::vector<std::string> loaderCachePaths(const std::string &cache, const std::string &name) {
  std::vector<std::string> paths;
  std::string tail = "/" + name + std::string(1, '\0');
  for (size_t at = cache.find(tail); at != std::string::npos; at = cache.find(tail, at + 1)) {
    size_t begin = cache.rfind('\0', at);
    begin = begin == std::string::npos ? 0 : begin + 1;
    if (cache[begin] == '/') paths.push_back(cache.substr(begin, at + 1 + name.size() - begin));
  }
  return paths;
}

bool probeSystem(LibraryFile &found) {
  std::ifstream file("/etc/ld.so.cache", std::ios::binary);
  std::string cache((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  for (const char *name : kNames)
    for (const std::string &path : loaderCachePaths(cache, name))
      if (probe(path, found)) return true;
  for (const char *directory : {"/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib",
                                "/usr/local/lib", "/usr/local/cuda/lib64"})
    if (probeDirectory(directory, found)) return true;
  return false;
}

/// /usr/local/cuda-13.0 -> 13000; -1 when `name` is no toolkit directory.
int toolkitVersion(const std::string &name) {
  if (name.rfind("cuda-", 0) != 0) return -1;
  int major = 0, minor = 0;
  const char *end = name.data() + name.size();
  auto [dot, error] = std::from_chars(name.data() + 5, end, major);
  if (error != std::errc()) return -1;
  if (dot != end && *dot == '.') std::from_chars(dot + 1, end, minor);
  return major * 1000 + minor;
}

bool probeToolkits(LibraryFile &found) {
  std::vector<std::pair<int, std::string>> toolkits;
  if (DIR *directory = opendir("/usr/local")) {
    while (dirent *entry = readdir(directory))
      if (int version = toolkitVersion(entry->d_name); version >= 0) toolkits.emplace_back(version, entry->d_name);
    closedir(directory);
  }
  std::sort(toolkits.rbegin(), toolkits.rend());
  for (const auto &[version, name] : toolkits)
    if (probeDirectory("/usr/local/" + name + "/lib64", found)) return true;
  return false;
}

} // namespace

std::string LibraryFile::identity() const {
  return path + ":" + std::to_string(bytes) + ":" + std::to_string(mtime_ns);
}

Result<LibraryFile> locateNvrtc(const NvrtcSearch &search) {
  LibraryFile found;
  if (!search.explicit_path.empty()) {
    if (probe(search.explicit_path, found)) return found;
    return Status::toolchain("no NVRTC at " + search.explicit_path +
                             ": no such file; correct PHASEC_NVRTC or unset it to search the usual places");
  }
  for (const std::string &directory : search.loader_dirs)
    if (probeDirectory(directory, found)) return found;
  if (search.system && (probeSystem(found) || probeToolkits(found))) return found;
  for (const std::string &site : search.site_packages)
    for (const char *wheel : {"/nvidia/cu13/lib", "/nvidia/cuda_nvrtc/lib"})
      if (probeDirectory(site + wheel, found)) return found;
  return Status::toolchain(
      "no NVRTC on this machine (looked for libnvrtc.so.13, .so.12 and .so in the library path, the loader's cache, "
      "/usr/local/cuda*/lib64 and Python's site-packages).\n"
      "  To compile kernels, install one of:\n"
      "    pip install nvidia-cuda-nvrtc                the wheel alone, no toolkit (CUDA 12: nvidia-cuda-nvrtc-cu12)\n"
      "    apt-get install cuda-nvrtc-13-0              from NVIDIA's repository; or a CUDA toolkit, 12.8 or later\n"
      "  or set PHASEC_NVRTC to a libnvrtc.so. Cached kernels and the sim device need none.");
}

} // namespace phasec
