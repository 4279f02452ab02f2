// support.h: what the cache's unit tests and fault programs share: folders that vanish, kernels made of adversarial
// bytes, and a look into files behind the cache's back.
#pragma once

#include "phasec/cache.h"

#include <sqlite3.h>

#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>
#include <sys/stat.h>
#include <unistd.h>

namespace phasec::test {

/// A private folder, removed with what is in it. In memory where there is such a place: thousands of trials need no
/// disk.
class TempDir {
public:
  explicit TempDir(std::filesystem::path base = {}) {
    bool in_memory = !std::getenv("TMPDIR") && access("/dev/shm", W_OK) == 0;
    if (base.empty()) base = in_memory ? "/dev/shm" : std::filesystem::temp_directory_path();
    std::string pattern = (base / "phasec-cache-XXXXXX").string();
    path_ = mkdtemp(pattern.data()) ? pattern : std::string();
  }
  TempDir(const TempDir &) = delete;
  TempDir &operator=(const TempDir &) = delete;
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::permissions(path_, std::filesystem::perms::owner_all, ignored);
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string &path() const { return path_; }
  std::string operator/(const std::string &name) const { return path_ + "/" + name; }

private:
  std::string path_;
};

inline std::string readFile(const std::string &path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline void writeFile(const std::string &path, const std::string &bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
  chmod(path.c_str(), 0600);
}

inline const char *const kToolchain = "nvrtc 13.0 (V13.0.88)";

/// The fingerprint of test kernel `index`; spread over both halves, with bytes that read as text, zero and 0xff.
inline Fingerprint fingerprintOf(uint64_t index) {
  return {0xff00c0de00000000u ^ (index * 0x9e3779b97f4a7c15u), ~index * 0xbf58476d1ce4e5b9u};
}

/// A kernel whose every field is a function of (wo_split, index): two makers of one key must agree on the bytes. The
/// payload mixes runs, zeros, SQL-like text and noise, and its length is no multiple of anything.
inline Compiled makeKernel(int64_t wo_split, uint64_t index, size_t bytes = 20'011) {
  Compiled compiled;
  Artefact &artefact = compiled.artefact;
  artefact.key = {wo_split, fingerprintOf(index)};
  artefact.toolchain = kToolchain;
  artefact.layer = "layer_" + std::to_string(index);
  artefact.target = index % 3 ? "sm_90a" : "sm_120a";
  artefact.config = "wo_split=" + std::to_string(wo_split) + " kv_splits=8 partition=wide";
  artefact.resources = "{\"registers\": " + std::to_string(100 + index % 100) + ", \"spill_store_bytes\": 0}";
  artefact.sections = std::vector<Section>{{"ir", "0123456789abcdef" + std::to_string(index), artefact.layer},
                       {"knob:kv_splits", "1111", "8"},
                       {"knob:partition", "2222", "wide"},
                       {"knob:wo_split", "33" + std::to_string(wo_split), std::to_string(wo_split)},
                       {"template:phases/gather.cuh", "a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1", ""},
                       {"template:phases/wo.cuh", "b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2", ""},
                       {"options", "cccc", "--gpu-architecture=x\t-default-device\n\\"},
                       {"abi", "dddd", "1"},
                       {"target", "eeee", artefact.target},
                       {"kernel", "f0f0" + std::to_string(wo_split * 1000 + int64_t(index)), ""}};
  std::mt19937_64 random(index * 131 + uint64_t(wo_split));
  artefact.payload.resize(bytes);
  for (size_t i = 0; i < bytes; ++i) {
    size_t zone = (i / 97) % 4;
    artefact.payload[i] = zone == 0   ? 0
                          : zone == 1 ? uint8_t("'; DROP TABLE artefact; --"[i % 26])
                          : zone == 2 ? uint8_t(0xff)
                                      : uint8_t(random());
  }
  compiled.listing.source = "// layer " + std::to_string(index) + "\n" + std::string(3'000, char('a' + index % 26));
  compiled.listing.ptx = ".version 9.0\n" + std::string(5'000, char('A' + index % 26)) + std::string("\0nul", 4);
  compiled.evidence = {"", 25'000, "ptxas info: 168 registers"};
  return compiled;
}

inline Query queryOf(const Compiled &compiled) {
  return {compiled.artefact.key, compiled.artefact.toolchain, compiled.artefact.sections.list()};
}

inline bool sameBytes(const Artefact &a, const Artefact &b) {
  return a.key == b.key && a.toolchain == b.toolchain && a.layer == b.layer && a.target == b.target &&
         a.config == b.config && a.resources == b.resources && a.payload == b.payload;
}

/// Runs SQL on a file behind the cache's back. Returns the first column of the first row, "" if none.
inline std::string sql(const std::string &path, const std::string &text) {
  sqlite3 *database = nullptr;
  std::string out;
  sqlite3_open_v2(path.c_str(), &database, SQLITE_OPEN_READWRITE, nullptr);
  sqlite3_busy_timeout(database, 5'000);
  auto take = [](void *to, int columns, char **values, char **) {
    if (columns > 0 && values[0] && static_cast<std::string *>(to)->empty())
      *static_cast<std::string *>(to) = values[0];
    return 0;
  };
  char *error = nullptr;
  if (sqlite3_exec(database, text.c_str(), take, &out, &error) != SQLITE_OK)
    out = std::string("error: ") + (error ? error : "?");
  sqlite3_free(error);
  sqlite3_close(database);
  return out;
}

/// A cache with one user folder, collecting its warnings.
struct Bench {
  CacheOptions options;
  std::shared_ptr<std::vector<std::string>> warnings = std::make_shared<std::vector<std::string>>();

  explicit Bench(const std::string &user_dir) {
    options.user_dir = user_dir;
    options.warn = [warnings = warnings](const std::string &text) { warnings->push_back(text); };
  }
  std::unique_ptr<Cache> open() {
    Result<std::unique_ptr<Cache>> cache = Cache::open(options);
    if (!cache.ok()) std::fprintf(stderr, "cannot open: %s\n", cache.status().text().c_str());
    return cache.ok() ? cache.take() : nullptr;
  }
};

} // namespace phasec::test
