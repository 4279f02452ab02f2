// cache.h: the kernel cache: artefacts under (wo_split, fingerprint), in memory, in blessed files and in a user file.
//
// The cache knows bytes, not CUDA. A caller (runtime/runtime.cpp) asks in this order:
//
//   if (auto hit = cache.lookup(query)) use(*hit);             // memory -> blessed files -> user file
//   Miss miss = cache.miss(query);                             // why; counted. jit = off ends here, with miss.text()
//   Result<Hit> got = cache.obtain(query, compile, hooks);     // single flight, publish; compile() may not run at all
//
// Nothing here prints, throws, or reads the environment. What the files hold is written down in cache/README.md.
#pragma once

#include "phasec/status.h"

#include <chrono>
#include <compare>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#pragma GCC visibility push(default) // public: the library is compiled with hidden visibility

namespace phasec {

// ---- keys ------------------------------------------------------------------------------------------------------

/// XXH3-128 of everything that reaches the compiler, in canonical (big-endian) byte order.
struct Fingerprint {
  uint64_t high = 0, low = 0;

  /// 32 lower-case hexadecimal digits.
  std::string hex() const;
  /// The inverse of hex(); nullopt unless `text` is exactly 32 hexadecimal digits.
  static std::optional<Fingerprint> parse(std::string_view text);
  auto operator<=>(const Fingerprint &) const = default;
};

/// What a kernel is stored under. A layer without a `wo` phase has wo_split 0.
struct Key {
  int64_t wo_split = 0;
  Fingerprint fingerprint;

  /// "(8, 3fa1...)" with all 32 digits; the form to copy and paste.
  std::string text() const;
  /// "(8, 3fa1c07b..)": for tables and log lines.
  std::string brief() const;
  /// The inverse of text(); spaces and parentheses may be left out. nullopt for a shortened fingerprint: findEntries().
  static std::optional<Key> parse(std::string_view text);
  auto operator<=>(const Key &) const = default;
};

/// One input of the key, kept beside it so that a miss explains itself. Sections hold inputs as they were asked for,
/// not what was derived from them: then a changed target is one difference and not also every knob whose default
/// follows it.
struct Section {
  std::string name;   ///< "ir", "knob:<knob>", "template:<file>", "target", "options", "abi", "kernel", ...
  std::string digest; ///< hexadecimal, 64 or 128 bits
  std::string text;   ///< the value itself when it is short ("8", "sm_90a"); else empty
  bool operator==(const Section &) const = default;
};

/// Sections as they are stored, one line each, by name. A hit takes the text as it is; who reads sections lists them.
class Sections {
public:
  Sections() = default;
  Sections(std::vector<Section> sections); // implicit: a list of sections is one
  static Sections stored(std::string_view text);

  /// In the order of their names.
  std::vector<Section> list() const;
  const std::string &text() const { return text_; }

private:
  std::string text_;
};

// ---- what is stored --------------------------------------------------------------------------------------------

/// Bytes that resize() leaves as they are: a cubin is read into them once.
template <class T> struct Uninitialised : std::allocator<T> {
  template <class U> struct rebind { using other = Uninitialised<U>; };
  template <class U> void construct(U *) {}
  template <class U, class... Args> void construct(U *at, Args &&...args) { ::new (static_cast<void *>(at)) U(std::forward<Args>(args)...); }
};
using Bytes = std::vector<uint8_t, Uninitialised<uint8_t>>;

/// One compiled kernel. Every field is a function of key and toolchain, so that a row can be blessed byte for byte.
struct Artefact {
  Key key;
  std::string toolchain;         ///< identity of the compiler with its build, "nvrtc 13.0 (V13.0.88)"
  std::string layer;             ///< name of the layer or stack
  std::string target;            ///< "sm_90a", "sim"
  std::string config;            ///< the effective configuration, canonical text
  std::string resources;         ///< phasec.resources/1 as JSON
  Sections sections;             ///< inputs of the key
  Bytes payload;                 ///< cubin or shared object
};

/// Texts that belong to an artefact and that no launch reads.
struct Listing {
  std::string source; ///< the rendered source
  std::string ptx;
};

/// What happened when it was compiled: machine, time, raw log. Kept in the user file only, never blessed or merged.
struct Evidence {
  std::string host;
  int64_t compile_us = 0;
  std::string log;
};

/// All of it, as a compile hands it over.
struct Compiled {
  Artefact artefact;
  Listing listing;
  Evidence evidence;
};

// ---- questions and answers -------------------------------------------------------------------------------------

enum class CacheLayer { Memory, Blessed, User, Compiled };
/// "memory" | "blessed" | "user" | "compiled", as in the run JSON.
const char *name(CacheLayer layer);

/// What a caller wants. `sections` are needed for explaining a miss only.
struct Query {
  Key key;
  std::string toolchain; ///< empty: what is remembered of `compiler`; with no compiler either, any will do
  std::vector<Section> sections;
  /// Identity of the file that would compile (path, size, time). The first compile by it tells its toolchain, which the
  /// user file remembers, so that a hit need not open a compiler. Until then no row is by a matching toolchain.
  std::string compiler = {};
};

struct Hit {
  std::shared_ptr<const Artefact> artefact;
  CacheLayer layer = CacheLayer::Memory; ///< who answered
  std::string path;                      ///< the file the bytes came from; empty when compiled in this process
};

/// One section that differs between what was asked and the nearest entry.
struct Reason {
  std::string section; ///< "wo_split", "template gather.cuh", "target", "toolchain", "damage", ...
  std::string from;    ///< the nearest entry's value or digest; empty: it has no such section
  std::string to;      ///< what was asked for; empty: not asked for
  bool is_digest = false;

  /// "wo_split 1 -> 8" or "template gather.cuh changed (digest a1b2c3d4.. -> 9f..)".
  std::string text() const;
};

/// Why nothing was found.
struct Miss {
  Key key;
  struct Nearest {
    Key key;
    std::string toolchain, layer_name, target;
    CacheLayer layer = CacheLayer::User;
    std::string path;
  };
  std::optional<Nearest> nearest; ///< nullopt: the layers hold nothing at all
  std::vector<Reason> reasons;    ///< most specific first
  std::vector<std::string> notes; ///< layers that could not be asked, damaged rows

  /// Several lines for people: the key, the nearest entry, the reasons.
  std::string text() const;
  /// {"outcome": "miss", "key", "nearest": {"key", ...} | null, "reasons": [{"section", "from", "to", "text"}],
  /// "notes"}.
  std::string json() const;
};

/// Whom a caller of obtain() is waiting for.
struct Waiting {
  double seconds = 0;
  int64_t pid = 0; ///< 0: not known
  std::string host;
  bool for_slot = false; ///< waits for one of the host's compile slots, not for this key

  /// "waiting 1.2 s for pid 4711 on build7".
  std::string text() const;
};

using CompileFn = std::function<Result<Compiled>()>;

struct ObtainHooks {
  std::function<void(const Waiting &)> on_wait; ///< about once a second while waiting
  std::function<bool()> cancelled;              ///< polled while waiting; true ends the wait with ErrorKind::CacheMiss
};

// ---- tuned schedules -------------------------------------------------------------------------------------------
// What a search on this machine found fastest. A measurement, no function of a key: the rows live in the user file, and
// nothing that makes a blessed file copies them.

/// What a search was for.
struct TunedKey {
  std::string layer;      ///< digest of what the layer means
  std::string target;     ///< "sm_90a"
  int64_t ctas = 0;       ///< of the grid
  std::string math;       ///< "fast" | "exact"
  int64_t tokens_max = 0; ///< rows that the kernels were compiled for
  auto operator<=>(const TunedKey &) const = default;
};

struct Tuned {
  TunedKey key;
  std::string name;     ///< of the layer, for people
  std::string schedule; ///< "partition=wide wo_split=8 ...": the knobs that were searched
  std::string evidence; ///< what was measured, as JSON
  int64_t tuned_s = 0;  ///< seconds since 1970
};

// ---- the cache -------------------------------------------------------------------------------------------------

/// Which rows of an equal key will do: those of the caller's toolchain, or any (the newest wins).
enum class ToolchainPolicy { Match, Any };

struct BlessedFile {
  std::string path;
  std::string sha256; ///< pinned digest; empty: not pinned
};

struct CacheOptions {
  std::string user_dir; ///< created with mode 0700; empty: no user file, work stays in memory
  std::vector<BlessedFile> blessed;
  ToolchainPolicy blessed_policy = ToolchainPolicy::Any;
  ToolchainPolicy user_policy = ToolchainPolicy::Match;
  bool strict = false;   ///< a blessed file that is absent, untrusted or unlike its .sha256 fails open()
  int compile_slots = 0; ///< compiles at a time on this host, over all processes; 0: one per processor
  std::chrono::milliseconds wait_max{120'000}; ///< then compile oneself
  int64_t memory_bytes_max = int64_t(512) << 20;
  std::string evict_policy;                      ///< applied to the user file at close, see evict()
  std::function<void(const std::string &)> warn; ///< one line per cause, from any thread; must not call the cache
};

struct CacheCounters {
  int64_t hits_memory = 0, hits_blessed = 0, hits_user = 0;
  int64_t misses = 0;
  int64_t compiles = 0;   ///< compile functions run
  int64_t published = 0;  ///< rows written to the user file
  int64_t races_lost = 0; ///< another process published first; its bytes were used
  int64_t waits = 0;      ///< obtain() calls that waited for another thread or process
  int64_t wait_timeouts = 0;
  int64_t damaged_rows = 0; ///< checksum failures, any layer
  int64_t quarantined = 0;  ///< of those, moved aside in the user file
  int64_t files_set_aside = 0;
  int64_t degraded = 0;                            ///< operations that fell back to memory
  std::map<std::string, int64_t> misses_by_reason; ///< by the section of the first reason; "empty" where nothing like it is cached
};

/// A layer as `phasec doctor` shows it.
struct LayerState {
  CacheLayer layer;
  std::string path;
  bool usable = false;
  bool writable = false;
  std::string problem; ///< why it is not usable or not writable, with the remedy
};

/// All layers. Every method may be called from any thread. After fork() a child gets its own connections and an empty
/// memory layer; nothing that the parent holds is used or closed.
class Cache {
public:
  /// A user file that cannot be used is no error: one warning, a counter, and work goes on in memory. Errors are
  /// CacheDamage and Io, for a pinned digest that differs and, with `strict`, for any unusable blessed file.
  static Result<std::unique_ptr<Cache>> open(const CacheOptions &options);
  /// Writes the batched last-used times and counters, then evicts. Errors there are warnings.
  ~Cache();
  Cache(const Cache &) = delete;
  Cache &operator=(const Cache &) = delete;

  /// Memory, then blessed files in order, then the user file. Bytes are checked on every read from a file. Writes
  /// nothing.
  std::optional<Hit> lookup(const Query &query);

  /// The nearest entry and what differs. Reads metadata only, changes no counter.
  Miss explain(const Query &query);
  /// explain(), and counts the miss under its first reason.
  Miss miss(const Query &query);

  /// Finds or makes. One compile() per key among all threads and all processes that share the user directory; the
  /// others wait, at most wait_max. A failed compile's error goes to everybody who waited in this process.
  Result<Hit> obtain(const Query &query, const CompileFn &compile, const ObtainHooks &hooks = {});

  /// Stores without compiling (import, tuning). The hit holds the winner's bytes when another process was first.
  Result<Hit> publish(const Compiled &compiled);

  /// Source and PTX of a stored artefact, from whichever layer has them. ErrorKind::Input when none has.
  Result<Listing> listing(const Key &key, const std::string &toolchain);

  /// Small durable facts beside the kernels. Lost without a user file.
  std::optional<std::string> note(const std::string &kind, const std::string &subject);
  Status setNote(const std::string &kind, const std::string &subject, const std::string &text);

  /// The winner of the latest search for exactly this. Of the user file alone; nullopt without one.
  std::optional<Tuned> tuned(const TunedKey &key);
  /// Replaces the winner of an earlier search; the time is set here.
  Status setTuned(const Tuned &winner);

  /// Of this process, since open.
  CacheCounters counters() const;
  std::vector<LayerState> layers() const;

private:
  struct Impl;
  explicit Cache(Impl *impl);
  Impl &impl() const;
  struct Holder;
  std::unique_ptr<Holder> holder_;
};

// ---- upkeep of one file ----------------------------------------------------------------------------------------
// `path` is a user or a blessed file. Errors: Io when it cannot be read, CacheDamage when it is not a cache file.

/// The user file's path in a cache directory.
std::string userFile(const std::string &user_dir);

struct EntryInfo {
  Key key;
  std::string toolchain, layer, target, config, resources;
  int64_t payload_bytes = 0, source_bytes = 0, ptx_bytes = 0;
  std::string checksum, listing_checksum;      ///< XXH3-128 of the row, and of its source and PTX
  int64_t created_s = 0, used_s = 0, uses = 0; ///< user file only; seconds since 1970
};

/// All rows in key order, metadata only.
Result<std::vector<EntryInfo>> listEntries(const std::string &path);
/// One row with everything, checked. `key` must be complete. An empty toolchain takes the newest.
Result<Compiled> readEntry(const std::string &path, const Key &key, const std::string &toolchain);
/// Keys whose hexadecimal digits start with `prefix` ("3fa1"), and, when given, with that wo_split.
Result<std::vector<EntryInfo>> findEntries(const std::string &path, std::string_view prefix,
                                           std::optional<int64_t> wo_split = std::nullopt);

struct StoreStats {
  int64_t entries = 0, payload_bytes = 0, file_bytes = 0, quarantined = 0;
  std::map<std::string, int64_t> counters; ///< since the file was made, all processes: "hits_user", "miss:target", ...
};
Result<StoreStats> storeStats(const std::string &path);

struct VerifyReport {
  int64_t entries = 0, bytes = 0;
  std::string sha256;                ///< of the file as it is
  std::string sidecar;               ///< "ok" | "absent" | "mismatch" | "pinned ok" | "pinned mismatch"
  std::vector<std::string> findings; ///< one line per damaged row or rule; empty: sound
  bool ok() const { return findings.empty(); }
};
/// Every row's checksum, SQLite's own check, and the digest beside a blessed file (or the pinned one).
Result<VerifyReport> verifyStore(const std::string &path, const std::string &pinned_sha256 = {});

/// The tuned schedules of a user file, by key; none in a blessed file.
Result<std::vector<Tuned>> listTuned(const std::string &path);

/// Removes all entries, notes, tuned schedules and counters of a user file.
Status clearStore(const std::string &path);

struct EvictReport {
  int64_t entries = 0, bytes = 0, kept_entries = 0, kept_bytes = 0;
};
/// Policy text after LLVM's: "prune_after=30d:cache_size_bytes=1g:cache_size_files=5000"; any subset; durations s, m,
/// h, d; sizes k, m, g. By last use, oldest first; what was used within the last minute stays. ErrorKind::Usage for bad
/// text.
Result<EvictReport> evict(const std::string &path, const std::string &policy);

// ---- blessed files ---------------------------------------------------------------------------------------------

/// Writes a blessed file and its `.sha256`. The same entries give the same bytes, in any order of `entries`.
/// ErrorKind::CacheDamage when two entries share key and toolchain but not their bytes.
Status writeBlessed(const std::string &path, const std::vector<Compiled> &entries);

struct MergeReport {
  int64_t entries = 0, duplicates = 0;
  std::string sha256;
};
/// Merges user or blessed files into a blessed one; one input exports it. Refuses (CacheDamage) damaged rows, an input
/// that does not match its .sha256, and equal key and toolchain with different bytes: both digests are named.
Result<MergeReport> mergeStores(const std::vector<std::string> &inputs, const std::string &out);

struct EntryChange {
  EntryInfo from, to;
  std::vector<Reason> changes; ///< fingerprint, toolchain, each resource that moved, payload size
};
struct StoreDiff {
  std::vector<EntryInfo> added, removed;
  std::vector<EntryChange>
      changed; ///< same key and other bytes, or same layer, target and configuration under another key
  int64_t same = 0;
};
Result<StoreDiff> diffStores(const std::string &a, const std::string &b);

/// Lower-case hexadecimal SHA-256 of a file.
Result<std::string> fileSha256(const std::string &path);

} // namespace phasec

#pragma GCC visibility pop
