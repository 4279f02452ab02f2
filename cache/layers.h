// layers.h: the inside of Cache: memory, blessed files, user file, flights. Private to layers.cpp and obtain.cpp.
#pragma once

#include "cache/user_file.h"

#include <condition_variable>
#include <deque>
#include <mutex>
#include <set>
#include <shared_mutex>
#include <unordered_map>

namespace phasec {

/// One compile in this process, and those who wait for it.
struct Flight {
  std::mutex mutex;
  std::condition_variable landed;
  bool done = false, cancelled = false;
  std::optional<Hit> hit;
  Status error;
};

/// A blessed file, or why it is not used.
struct BlessedLayer {
  std::string path;
  std::unique_ptr<Store> store;
  std::string problem;
};

struct Cache::Impl {
  explicit Impl(const CacheOptions &options);
  ~Impl();
  Impl(const Impl &) = delete;
  Impl &operator=(const Impl &) = delete;

  Status openBlessed();
  std::optional<Hit> lookup(const Query &query);
  /// Blessed files, then the user file. Caller does not hold `files`.
  std::optional<Hit> lookupFiles(const Query &query);
  Miss explain(const Query &query);
  Result<Hit> obtain(const Query &query, const CompileFn &compile, const ObtainHooks &hooks);
  Result<Hit> lead(const Query &query, const CompileFn &compile, const ObtainHooks &hooks);
  Result<Hit> compileAndPublish(const Query &query, const CompileFn &compile);
  Result<Hit> publish(Compiled compiled);

  void remember(const Hit &hit);
  /// Whose rows are `match`. Nothing known of the query's compiler yet: its own name, which no row has.
  const std::string &toolchainOf(const Query &query) const;
  /// Reads from the user file what it knows of the query's compiler. Caller holds `files_mutex`.
  void recallToolchain(const Query &query);
  void learnToolchain(const std::string &compiler, const std::string &toolchain);
  void count(int64_t CacheCounters::*counter, int64_t by = 1);
  /// One warning per cause and process; counted every time.
  void degrade(const std::string &cause, const std::string &text);
  std::map<std::string, int64_t> persistentCounters() const;
  void closeFiles();

  const CacheOptions options;
  const int64_t pid;

  struct KeyHash {
    size_t operator()(const Key &key) const { return size_t(key.fingerprint.low ^ uint64_t(key.wo_split)); }
  };
  // Memory. `layer` of a hit in here is where it came from first.
  mutable std::shared_mutex memory_mutex;
  std::unordered_map<Key, std::vector<Hit>, KeyHash> memory;
  std::deque<Key> memory_order;
  int64_t memory_bytes = 0;
  std::map<std::string, std::string> toolchains; ///< by compiler; entries never change

  // Files: one mutex for all of them, because SQLite connections are used by one thread at a time and nothing under the
  // mutex is slow. Taken before a fork, so that no connection is in use across it.
  std::mutex files_mutex;
  std::vector<BlessedLayer> blessed;
  UserFile user;
  std::map<Key, std::string> damaged; ///< rows that failed their checksum, for explain

  std::mutex flights_mutex;
  std::map<std::pair<Key, std::string>, std::shared_ptr<Flight>> flights;

  mutable std::mutex counters_mutex;
  CacheCounters counters;
  std::set<std::string> warned;
};

} // namespace phasec
