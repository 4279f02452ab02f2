// compiler.cpp: runs the host C++ compiler in a private directory, with relative names so that neither messages nor
// objects contain a temporary path.
#include "runtime/sim/compiler.h"
#include "runtime/sim/embedded.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <mutex>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

namespace phasec {
namespace {

namespace fs = std::filesystem;

constexpr const char *kRemedy = "; install g++ or clang++, or name one in the options (sim compiler)";

bool executable(const std::string &path) {
  std::error_code ignored;
  return access(path.c_str(), X_OK) == 0 && !fs::is_directory(path, ignored);
}

std::vector<std::string> compilerOptions() {
  std::vector<std::string> options = {"-std=c++20",
                                      "-O2",
                                      "-g0",
                                      "-fPIC",
                                      "-shared",
                                      "-ffp-contract=off",
                                      "-fno-strict-aliasing",
                                      "-fno-math-errno",
                                      "-fvisibility=hidden",
                                      "-fno-exceptions",
                                      "-fno-rtti",
                                      "-fno-threadsafe-statics",
                                      "-fno-stack-protector",
                                      "-fno-asynchronous-unwind-tables",
                                      "-Wno-unknown-pragmas"};
#if defined(__x86_64__)
  options.push_back("-fcf-protection=none");
  if (__builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("avx2")) { // fmaf is one instruction then, with equal results
    options.push_back("-mfma");
    options.push_back("-mavx2");
  }
#endif
  options.push_back("-Wl,-s,--as-needed");
  return options;
}

/// The environment with LC_ALL=C: messages and version texts do not depend on the user's language.
std::vector<std::string> plainEnvironment() {
  std::vector<std::string> result;
  for (char **entry = environ; entry && *entry; entry++)
    if (strncmp(*entry, "LC_ALL=", 7) != 0) result.emplace_back(*entry);
  result.emplace_back("LC_ALL=C");
  return result;
}

std::vector<char *> pointers(std::vector<std::string> &strings) {
  std::vector<char *> result;
  for (std::string &s : strings) result.push_back(s.data());
  result.push_back(nullptr);
  return result;
}

/// Runs `arguments` in `directory`, both output streams into its file "log". Returns the wait status.
Result<int> runIn(const fs::path &directory, std::vector<std::string> arguments) {
  std::vector<std::string> environment = plainEnvironment();
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addchdir_np(&actions, directory.c_str());
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, "log", O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_adddup2(&actions, 1, 2);
  pid_t pid = 0;
  int error = posix_spawn(&pid, arguments[0].c_str(), &actions, nullptr, pointers(arguments).data(),
                          pointers(environment).data());
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0)
    return Status::toolchain("cannot run the host C++ compiler " + arguments[0] + ": " + strerror(error) + kRemedy);
  int status = 0;
  while (waitpid(pid, &status, 0) < 0)
    if (errno != EINTR)
      return Status::toolchain("the host C++ compiler cannot be waited for: " + std::string(strerror(errno)));
  return status;
}

std::string readText(const fs::path &path) {
  std::ifstream in(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(in), {});
}

bool writeText(const fs::path &path, std::string_view text) {
  std::ofstream out(path, std::ios::binary);
  out.write(text.data(), std::streamsize(text.size()));
  return bool(out.flush());
}

/// A directory of our own, gone with the object.
class PrivateDirectory {
public:
  explicit PrivateDirectory(const std::string &parent) : path_(parent + "/phasec-sim-XXXXXX") {
    made_ = mkdtemp(path_.data()) != nullptr;
    error_ = errno;
  }
  ~PrivateDirectory() {
    std::error_code ignored;
    if (made_) fs::remove_all(path_, ignored);
  }
  PrivateDirectory(const PrivateDirectory &) = delete;
  PrivateDirectory &operator=(const PrivateDirectory &) = delete;

  Status status() const {
    if (made_) return {};
    return Status::io("cannot make the temporary directory " + path_ + ": " + strerror(error_));
  }
  fs::path path() const { return path_; }

private:
  std::string path_;
  bool made_ = false;
  int error_ = 0;
};

std::string describeExit(int status) {
  if (WIFSIGNALED(status)) return "was killed by signal " + std::to_string(WTERMSIG(status));
  return "failed with exit status " + std::to_string(WEXITSTATUS(status));
}

} // namespace

Result<std::string> findHostCompiler(const std::string &requested, const std::string &search_path) {
  if (requested.find('/') != std::string::npos) {
    std::error_code error;
    std::string path = fs::absolute(requested, error).string();
    if (!error && executable(path)) return path;
    return Status::toolchain("the sim's host C++ compiler " + requested + " is not an executable file" + kRemedy);
  }
  std::vector<std::string> names = {requested};
  if (requested.empty()) names = {"c++", "g++", "clang++"};
  for (const std::string &name : names)
    for (size_t begin = 0; begin < search_path.size();) {
      size_t end = std::min(search_path.find(':', begin), search_path.size());
      std::string directory = search_path.substr(begin, end - begin);
      begin = end + 1;
      if (directory.empty() || directory[0] != '/') continue; // what is found must not depend on the working directory
      if (executable(directory + "/" + name)) return directory + "/" + name;
    }
  return Status::toolchain("the sim needs a host C++ compiler and the search path has no " +
                           (requested.empty() ? std::string("c++, g++ or clang++") : requested) + kRemedy);
}

Result<SimObject> compileForSim(const std::string &rendered_source, const std::string &cxx,
                                const std::string &temporary) {
  PrivateDirectory directory(temporary);
  PHASEC_TRY(directory.status());
  if (!writeText(directory.path() / "kernel.cu", rendered_source) || !writeText(directory.path() / "shim.h", simShim()))
    return Status::io("cannot write the source to compile below " + temporary + "; is the file system full?");
  std::vector<std::string> arguments = {cxx, "-x", "c++"};
  for (const std::string &option : compilerOptions()) arguments.push_back(option);
  for (const char *last : {"-include", "shim.h", "kernel.cu", "-o", "kernel.so"}) arguments.emplace_back(last);
  PHASEC_ASSIGN(int status, runIn(directory.path(), arguments));
  SimObject object;
  object.log = readText(directory.path() / "log");
  if (status != 0)
    return Status::toolchain("the host C++ compiler " + cxx + " " + describeExit(status) +
                             " on the rendered source:\n" + object.log);
  std::string image = readText(directory.path() / "kernel.so");
  if (image.empty()) return Status::toolchain("the host C++ compiler " + cxx + " succeeded but wrote no object");
  object.image.assign(image.begin(), image.end());
  return object;
}

Result<std::string> simToolchain(const std::string &cxx) {
  static std::mutex mutex;
  static std::map<std::string, std::string> known;
  std::lock_guard lock(mutex);
  if (auto it = known.find(cxx); it != known.end()) return it->second;
  PrivateDirectory directory("/tmp");
  PHASEC_TRY(directory.status());
  PHASEC_ASSIGN(int status, runIn(directory.path(), {cxx, "--version"}));
  std::string text = readText(directory.path() / "log");
  if (status != 0 || text.empty())
    return Status::toolchain("the host C++ compiler " + cxx + " does not tell its version: it " + describeExit(status) +
                             kRemedy);
  return known[cxx] = cxx + ": " + text.substr(0, text.find('\n'));
}

std::string simOptions() {
  std::string text;
  for (const std::string &option : compilerOptions()) text += option + " ";
  uint64_t digest = 0xcbf29ce484222325ull; // FNV-1a: the shim is compiled in, so it is part of the key
  for (char c : simShim()) digest = (digest ^ uint8_t(c)) * 0x100000001b3ull;
  char hex[24];
  snprintf(hex, sizeof hex, "%016llx", static_cast<unsigned long long>(digest));
  return text + "shim=" + hex;
}

} // namespace phasec
