// options.cpp: the only file that reads the environment.
#include "runtime/options.h"

#include "ir/suggest.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

extern char **environ;

namespace phasec {
namespace {

namespace fs = std::filesystem;

const char *const kVariables[] = {"PHASEC_CACHE_DIR", "PHASEC_BLESSED",  "PHASEC_JIT", "PHASEC_DEVICE", "PHASEC_CONFIG",
                                  "PHASEC_WO_SPLIT",  "PHASEC_DUMP_DIR", "PHASEC_LOG", "PHASEC_NVRTC",  "PHASEC_CUDA"};
constexpr const char *kPrefix = "PHASEC_";

std::string trimmed(std::string_view text) {
  size_t begin = text.find_first_not_of(" \t\r"), end = text.find_last_not_of(" \t\r");
  return begin == std::string_view::npos ? std::string() : std::string(text.substr(begin, end - begin + 1));
}

std::vector<std::string> directories(const std::string &text) {
  std::vector<std::string> parts = splitWords(text, ':');
  parts.erase(std::remove(parts.begin(), parts.end(), ""), parts.end());
  return parts;
}

/// The `site-packages` and `dist-packages` of the Pythons that are installed under `prefix`.
void addSitePackages(const fs::path &prefix, std::vector<std::string> &to) {
  std::error_code error;
  for (fs::directory_iterator it(prefix / "lib", error), end; !error && it != end; it.increment(error)) {
    if (it->path().filename().string().rfind("python3", 0) != 0) continue;
    for (const char *leaf : {"site-packages", "dist-packages"}) {
      fs::path candidate = it->path() / leaf;
      std::error_code ignored;
      if (fs::is_directory(candidate, ignored) && std::find(to.begin(), to.end(), candidate.string()) == to.end())
        to.push_back(candidate.string());
    }
  }
}

class Reader {
public:
  Environment read() {
    readCacheDirectory();
    readBlessed();
    readJit();
    if (std::string device = variable("PHASEC_DEVICE", "auto"); !device.empty())
      problem("PHASEC_DEVICE", setDevice(device, env_.runtime));
    readSchedule();
    env_.runtime.dump_dir = variable("PHASEC_DUMP_DIR", "");
    env_.log_path = variable("PHASEC_LOG", "stderr");
    env_.runtime.nvrtc_path = variable("PHASEC_NVRTC", "");
    env_.runtime.cuda_path = variable("PHASEC_CUDA", "");
    env_.runtime.search_path = variable("PATH", "");
    env_.runtime.loader_dirs = directories(variable("LD_LIBRARY_PATH", ""));
    findSitePackages();
    findUnknown();
    env_.no_color = !get("NO_COLOR").empty() || get("TERM") == "dumb";
    return std::move(env_);
  }

private:
  /// A variable that is set to nothing counts as not set.
  static std::string get(const char *name) {
    const char *value = std::getenv(name);
    return value ? value : "";
  }

  std::string variable(const char *name, const std::string &otherwise) {
    std::string value = get(name);
    env_.settings.push_back({name, value.empty() ? otherwise : value, value.empty() ? "default" : "environment"});
    return env_.settings.back().value;
  }

  void problem(const std::string &where, const Status &status) {
    if (!status.ok()) env_.problems.push_back(where + ": " + status.text());
  }

  void readCacheDirectory() {
    auto use = [&](const std::string &value, const char *origin) {
      env_.settings.push_back({"PHASEC_CACHE_DIR", value, origin});
      env_.runtime.cache.user_dir = value;
    };
    if (std::string value = get("PHASEC_CACHE_DIR"); !value.empty()) return use(value, "environment");
    if (std::string value = get("XDG_CACHE_HOME"); !value.empty() && value[0] == '/') return use(value + "/phasec", "XDG_CACHE_HOME");
    if (std::string value = get("HOME"); !value.empty() && value[0] == '/') return use(value + "/.cache/phasec", "HOME");
    use("", "HOME is not set: work stays in memory");
  }

  void readBlessed() {
    for (const std::string &path : directories(variable("PHASEC_BLESSED", ""))) env_.runtime.cache.blessed.push_back({path, ""});
  }

  void readJit() {
    std::string value = variable("PHASEC_JIT", "on");
    if (value == "on") env_.runtime.jit = Jit::On;
    else if (value == "warn") env_.runtime.jit = Jit::Warn;
    else if (value == "off") env_.runtime.jit = Jit::Off;
    else problem("PHASEC_JIT", Status::usage("'" + value + "' is none of on, warn and off" + didYouMean(value, {"on", "warn", "off"})));
  }

  void readSchedule() {
    if (std::string value = variable("PHASEC_WO_SPLIT", ""); !value.empty())
      problem("PHASEC_WO_SPLIT", env_.schedule.set("wo_split", value, Origin::Environment));
    if (std::string path = variable("PHASEC_CONFIG", ""); !path.empty()) readConfigFile(path);
  }

  /// `knob = value` lines; `#` begins a comment.
  void readConfigFile(const std::string &path) {
    std::ifstream file(path);
    if (!file) return problem("PHASEC_CONFIG", Status::io(path + ": cannot be read"));
    std::string line;
    for (int number = 1; std::getline(file, line); number++) {
      std::string text = trimmed(line.substr(0, line.find('#')));
      if (text.empty()) continue;
      size_t equals = text.find('=');
      std::string where = path + ":" + std::to_string(number);
      if (equals == std::string::npos) {
        problem(where, Status::usage("expected `knob = value`, found `" + text + "`"));
        continue;
      }
      problem(where, env_.schedule.set(trimmed(text.substr(0, equals)), trimmed(text.substr(equals + 1)), Origin::ConfigFile));
    }
  }

  /// Where pip puts the nvidia-cuda-nvrtc wheel: the active environment, the user's directory, the Pythons on PATH, and the
  /// environment that the set-up script makes beside the binary.
  void findSitePackages() {
    std::vector<std::string> &sites = env_.runtime.site_packages;
    if (std::string active = get("VIRTUAL_ENV"); !active.empty()) addSitePackages(active, sites);
    if (std::string home = get("HOME"); !home.empty()) addSitePackages(home + "/.local", sites);
    for (const std::string &directory : directories(env_.runtime.search_path))
      if (fs::path path(directory); path.filename() == "bin") addSitePackages(path.parent_path(), sites);
    std::error_code error;
    fs::path self = fs::read_symlink("/proc/self/exe", error);
    if (!error) addSitePackages(self.parent_path() / "nvrtc-venv", sites);
  }

  /// By what follows the prefix, which says nothing.
  static std::string suggestion(const std::string &name) {
    std::vector<std::string> words;
    for (const char *variable : kVariables) words.push_back(std::string(variable).substr(std::string_view(kPrefix).size()));
    std::string word = nearest(name.substr(std::string_view(kPrefix).size()), words);
    return word.empty() ? word : kPrefix + word;
  }

  void findUnknown() {
    std::vector<std::string> known(std::begin(kVariables), std::end(kVariables));
    for (char **entry = environ; entry && *entry; entry++) {
      std::string_view text = *entry;
      if (text.rfind(kPrefix, 0) != 0) continue;
      std::string name(text.substr(0, text.find('=')));
      if (std::find(known.begin(), known.end(), name) == known.end()) env_.unknown.push_back({name, suggestion(name)});
    }
  }

  Environment env_;
};

} // namespace

Environment readEnvironment() { return Reader().read(); }

Status setDevice(std::string_view text, RuntimeOptions &options) {
  if (text == "auto") options.device = DeviceChoice::Auto;
  else if (text == "sim") options.device = DeviceChoice::Sim;
  else if (text == "none") options.device = DeviceChoice::None;
  else if (text == "cuda" || text.rfind("cuda:", 0) == 0) {
    options.device = DeviceChoice::Cuda;
    options.ordinal = 0;
    if (text == "cuda") return {};
    std::string_view number = text.substr(5);
    auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), options.ordinal);
    if (error != std::errc() || end != number.data() + number.size() || options.ordinal < 0)
      return Status::usage("'" + std::string(text) + "': expected a device number after cuda:, as in cuda:1");
  } else {
    return Status::usage("'" + std::string(text) + "' is no device; expected auto, cuda, cuda:N, sim or none" +
                         didYouMean(text, {"auto", "cuda", "sim", "none"}));
  }
  return {};
}

} // namespace phasec
