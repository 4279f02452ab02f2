// upkeep.cpp: questions about one file, and the two operations that remove rows from it: clear and evict.
#include "cache/single_flight.h"
#include "cache/store.h"
#include "cache/trust.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <sys/stat.h>
#include <unistd.h>

namespace phasec {

namespace {

/// What a process that is running right now has just read or written is not evicted under its feet.
constexpr int64_t kEvictGraceSeconds = 60;
constexpr int kIntegrityFindingsMax = 20;

std::string folderOf(const std::string &path) {
  std::string folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

Result<std::unique_ptr<Store>> openForReading(const std::string &path) {
  if (access(path.c_str(), R_OK) != 0)
    return Status::io("cannot read the cache file " + path + ": " + std::strerror(errno));
  Result<std::unique_ptr<Store>> store = Store::openReadOnly(path);
  const std::string folder = folderOf(path);
  if (store.ok() || store.status().kind() != ErrorKind::CacheDamage || access(lockFileIn(folder).c_str(), W_OK) != 0)
    return store;
  // A process may be making it, or a new one in its place.
  WaitResult housekeeping = waitForHousekeeping(folder, "reading");
  return Store::openReadOnly(path);
}

Result<std::unique_ptr<Store>> openForRemoving(const std::string &path) {
  if (access(path.c_str(), F_OK) != 0) return Status::io("there is no cache file " + path);
  // Look first: opening a blessed or foreign file for writing would be an error with a worse text.
  PHASEC_ASSIGN(std::unique_ptr<Store> reading, openForReading(path));
  if (reading->role() != StoreRole::User)
    return Status::usage(path + " is a blessed file; nothing is removed from those, make a new one");
  return Store::openUser(path);
}

/// Gives freed pages back to the file system. Somebody else at work in the file only postpones that.
void compact(Store &store) {
  (void)store.database().execute("VACUUM");
  (void)store.database().execute("PRAGMA wal_checkpoint(TRUNCATE)");
}

} // namespace

// ---- questions -------------------------------------------------------------------------------------------------

Result<std::vector<EntryInfo>> listEntries(const std::string &path) {
  PHASEC_ASSIGN(std::unique_ptr<Store> store, openForReading(path));
  std::vector<EntryInfo> entries;
  PHASEC_TRY(store->forEach([&](const EntryInfo &info, std::string_view) { entries.push_back(info); }));
  return entries;
}

Result<std::vector<EntryInfo>> findEntries(const std::string &path, std::string_view prefix,
                                           std::optional<int64_t> wo_split) {
  PHASEC_ASSIGN(std::vector<EntryInfo> entries, listEntries(path));
  std::erase_if(entries, [&](const EntryInfo &info) {
    return info.key.fingerprint.hex().rfind(prefix, 0) != 0 || (wo_split && info.key.wo_split != *wo_split);
  });
  return entries;
}

Result<Compiled> readEntry(const std::string &path, const Key &key, const std::string &toolchain) {
  PHASEC_ASSIGN(std::unique_ptr<Store> store, openForReading(path));
  PHASEC_ASSIGN(Store::Found found, store->find(key, toolchain, ToolchainPolicy::Match));
  if (!found.artefact && found.damaged)
    return Status(ErrorKind::CacheDamage, path + " holds " + key.text() + ", but the row fails its checksum");
  if (!found.artefact) return Status::input(path + " holds no " + key.text());
  Compiled compiled;
  compiled.artefact = *found.artefact;
  PHASEC_ASSIGN(std::optional<Listing> listing, store->listing(key, found.artefact->toolchain));
  if (!listing)
    return Status(ErrorKind::CacheDamage, path + ": source and PTX of " + key.text() + " fail their checksum");
  compiled.listing = std::move(*listing);
  if (store->role() == StoreRole::Blessed) return compiled;
  PHASEC_ASSIGN(Statement use, store->database().prepare("SELECT host, compile_us, log FROM use WHERE id=?1"));
  use.bind(1, found.id);
  PHASEC_ASSIGN(bool row, use.step());
  if (row) compiled.evidence = {std::string(use.text(0)), use.integer(1), std::string(use.text(2))};
  return compiled;
}

Result<std::vector<Tuned>> listTuned(const std::string &path) {
  PHASEC_ASSIGN(std::unique_ptr<Store> store, openForReading(path));
  return store->allTuned();
}

Result<StoreStats> storeStats(const std::string &path) {
  PHASEC_ASSIGN(std::unique_ptr<Store> store, openForReading(path));
  Database &database = store->database();
  StoreStats stats;
  PHASEC_ASSIGN(stats.entries, database.queryInteger("SELECT count(*) FROM artefact"));
  PHASEC_ASSIGN(stats.payload_bytes, database.queryInteger("SELECT total(length(payload)) FROM artefact"));
  struct stat info {};
  if (stat(path.c_str(), &info) == 0) stats.file_bytes = info.st_size;
  if (store->role() == StoreRole::Blessed) return stats;
  PHASEC_ASSIGN(stats.quarantined, database.queryInteger("SELECT count(*) FROM quarantine"));
  PHASEC_ASSIGN(Statement counters, database.prepare("SELECT name, value FROM counter"));
  while (true) {
    PHASEC_ASSIGN(bool row, counters.step());
    if (!row) return stats;
    stats.counters[std::string(counters.text(0))] = counters.integer(1);
  }
}

namespace {

/// Compares the digest with the pinned one, else with the one beside the file. A user file has none: it changes.
void verifyDigest(VerifyReport &report, const std::string &path, const std::string &pinned) {
  if (!pinned.empty()) {
    report.sidecar = report.sha256 == pinned ? "pinned ok" : "pinned mismatch";
    if (report.sha256 != pinned) report.findings.push_back("SHA-256 is " + report.sha256 + ", pinned is " + pinned);
    return;
  }
  Result<std::string> stated = readSidecar(path);
  if (!stated.ok() && stated.status().kind() == ErrorKind::Io) {
    report.sidecar = "absent";
    return;
  }
  bool same = stated.ok() && *stated == report.sha256;
  report.sidecar = same ? "ok" : "mismatch";
  if (!stated.ok())
    report.findings.push_back(stated.status().text());
  else if (!same)
    report.findings.push_back("SHA-256 is " + report.sha256 + ", " + sidecarPath(path) + " says " + *stated);
}

Status verifyContents(Store &store, VerifyReport &report) {
  std::string sql = "PRAGMA integrity_check(" + std::to_string(kIntegrityFindingsMax) + ")";
  PHASEC_ASSIGN(Statement check, store.database().prepare(sql.c_str()));
  while (true) {
    PHASEC_ASSIGN(bool row, check.step());
    if (!row) break;
    if (check.text(0) != "ok") report.findings.push_back("sqlite: " + std::string(check.text(0)));
  }
  return store.verifyRows(
      [&](const std::string &row, const std::string &what) { report.findings.push_back(row + ": " + what); },
      report.entries, report.bytes);
}

} // namespace

Result<VerifyReport> verifyStore(const std::string &path, const std::string &pinned_sha256) {
  VerifyReport report;
  PHASEC_ASSIGN(report.sha256, fileSha256(path));
  Result<std::unique_ptr<Store>> store = openForReading(path);
  if (pinned_sha256.empty() && store.ok() && (*store)->role() == StoreRole::User)
    report.sidecar = "absent";
  else
    verifyDigest(report, path, pinned_sha256);
  // What a broken file does to SQLite is a finding here; only what keeps us from reading it at all is an error.
  Status status = store.ok() ? verifyContents(**store, report) : store.status();
  if (!status.ok() && status.kind() != ErrorKind::CacheDamage && report.findings.empty()) return status;
  if (!status.ok()) report.findings.push_back(status.text());
  return report;
}

// ---- removing --------------------------------------------------------------------------------------------------

Status clearStore(const std::string &path) {
  Result<std::unique_ptr<Store>> store = openForRemoving(path);
  if (!store.ok() && store.status().kind() == ErrorKind::CacheDamage) {
    // Nothing in it can be trusted to be deleted row by row; the caller asked for it to be gone.
    WaitResult housekeeping = waitForHousekeeping(folderOf(path), "clearing");
    if (Store::openReadOnly(path).status().kind() == ErrorKind::CacheDamage) {
      for (const char *suffix : {"-shm", "-wal", "-journal", ""})
        if (unlink((path + suffix).c_str()) != 0 && errno != ENOENT)
          return Status::io("cannot remove " + path + suffix + ": " + std::strerror(errno));
      return {};
    }
    store = openForRemoving(path); // another process has put a good one in its place
  }
  if (!store.ok()) return store.status();
  Database &database = (*store)->database();
  PHASEC_ASSIGN(Transaction transaction, Transaction::begin(database));
  for (const char *sql : {"DELETE FROM artefact", "DELETE FROM listing", "DELETE FROM use", "DELETE FROM quarantine",
                          "DELETE FROM counter", "DELETE FROM note", "DELETE FROM tuned"})
    PHASEC_TRY(database.execute(sql));
  PHASEC_TRY(transaction.commit());
  compact(**store);
  return {};
}

namespace {

struct EvictPolicy {
  int64_t after_s = INT64_MAX, bytes = INT64_MAX, files = INT64_MAX;
};

/// A number with one of `units`' suffixes; -1 when it is not one.
int64_t scaled(std::string_view text, const std::vector<std::pair<char, int64_t>> &units, bool suffix_needed) {
  int64_t scale = 1;
  bool suffixed = false;
  for (const auto &[suffix, factor] : units)
    if (!text.empty() && text.back() == suffix) {
      scale = factor;
      suffixed = true;
      text.remove_suffix(1);
      break;
    }
  bool digits = !text.empty() && text.size() <= 12 && text.find_first_not_of("0123456789") == text.npos;
  if (!digits || (suffix_needed && !suffixed)) return -1;
  int64_t value = std::stoll(std::string(text));
  return value > INT64_MAX / scale ? INT64_MAX : value * scale;
}

Result<EvictPolicy> parsePolicy(const std::string &policy) {
  EvictPolicy out;
  std::string_view rest = policy;
  while (!rest.empty()) {
    size_t end = std::min(rest.find(':'), rest.size());
    std::string_view item = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    size_t equal = std::min(item.find('='), item.size());
    std::string_view key = item.substr(0, equal), value = item.substr(std::min(equal + 1, item.size()));
    int64_t *field = nullptr, number = -1;
    if (key == "prune_after") {
      field = &out.after_s;
      number = scaled(value, {{'s', 1}, {'m', 60}, {'h', 3'600}, {'d', 86'400}}, true);
    } else if (key == "cache_size_bytes") {
      field = &out.bytes;
      number = scaled(value, {{'k', 1 << 10}, {'m', 1 << 20}, {'g', 1 << 30}}, false);
    } else if (key == "cache_size_files") {
      field = &out.files;
      number = scaled(value, {}, false);
    }
    if (!field || number < 0)
      return Status::usage("cache policy: \"" + std::string(item) + "\" is not one of prune_after=<n>s|m|h|d, " +
                           "cache_size_bytes=<n>[k|m|g], cache_size_files=<n>, separated by ':'");
    *field = number;
  }
  return out;
}

struct Candidate {
  int64_t id, used_s, bytes;
};

Result<std::vector<Candidate>> evictionOrder(Database &database) {
  PHASEC_ASSIGN(
      Statement rows,
      database.prepare("SELECT a.id, u.used_s, length(a.payload) + length(a.sections) + length(l.source) + "
                       "length(l.ptx) + length(u.log) FROM artefact a NOT INDEXED LEFT JOIN use u ON u.id=a.id "
                       "LEFT JOIN listing l ON l.id=a.id ORDER BY u.used_s, a.id"));
  std::vector<Candidate> out;
  while (true) {
    PHASEC_ASSIGN(bool row, rows.step());
    if (!row) return out;
    out.push_back({rows.integer(0), rows.integer(1), rows.integer(2)});
  }
}

} // namespace

Result<EvictReport> evict(const std::string &path, const std::string &policy_text) {
  PHASEC_ASSIGN(EvictPolicy policy, parsePolicy(policy_text));
  PHASEC_ASSIGN(std::unique_ptr<Store> store, openForRemoving(path));
  Database &database = store->database();
  EvictReport report;
  {
    PHASEC_ASSIGN(Transaction transaction, Transaction::begin(database));
    PHASEC_ASSIGN(std::vector<Candidate> rows, evictionOrder(database));
    report.kept_entries = int64_t(rows.size());
    for (const Candidate &row : rows) report.kept_bytes += row.bytes;
    int64_t now = nowSeconds();
    for (const Candidate &row : rows) {
      // A clock that was set back makes rows of the future; they count as used now.
      int64_t age = std::max<int64_t>(0, now - row.used_s);
      bool over = report.kept_bytes > policy.bytes || report.kept_entries > policy.files;
      if (age < kEvictGraceSeconds || (age <= policy.after_s && !over)) continue;
      for (const char *sql :
           {"DELETE FROM artefact WHERE id=?1", "DELETE FROM listing WHERE id=?1", "DELETE FROM use WHERE id=?1"}) {
        PHASEC_ASSIGN(Statement remove, database.prepare(sql));
        remove.bind(1, row.id);
        PHASEC_TRY(remove.run());
      }
      ++report.entries;
      report.bytes += row.bytes;
      --report.kept_entries;
      report.kept_bytes -= row.bytes;
    }
    PHASEC_TRY(transaction.commit());
  }
  if (report.entries) compact(*store);
  return report;
}

} // namespace phasec
