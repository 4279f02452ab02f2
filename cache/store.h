// store.h: one database file: find, publish, quarantine, list. Layers and waiting are elsewhere.
#pragma once

#include "cache/encode.h"
#include "cache/schema.h"

#include <functional>
#include <map>
#include <memory>

namespace phasec {

/// Not synchronised: Cache::Impl holds one mutex around all file work. Natural text order decides which of several
/// toolchains is the newest, for blessed rows carry no times.
class Store {
public:
  /// Read-write; created when absent. CacheDamage when the file is foreign or broken.
  static Result<std::unique_ptr<Store>> openUser(const std::string &path);
  /// Read-only with locks when the file may still change, and without when SQLite cannot lock it there.
  static Result<std::unique_ptr<Store>> openReadOnly(const std::string &path);
  /// immutable=1: no locks, no journal, works on read-only media. The file must be a blessed one.
  static Result<std::unique_ptr<Store>> openBlessed(const std::string &path);

  struct Found {
    std::shared_ptr<const Artefact> artefact; ///< null: not there
    int64_t id = 0;
    int damaged = 0, quarantined = 0; ///< rows of this key whose checksum failed
  };
  /// The newest row of `key` that the policy admits and whose checksum holds.
  Result<Found> find(const Key &key, const std::string &toolchain, ToolchainPolicy policy);
  /// ErrorKind::CacheDamage when find() missed a row that is there: its index is broken. Reads every row's head, so it is for
  /// misses, which cost a compile or an explanation anyway.
  Status expectAbsent(const Key &key, const std::string &toolchain, ToolchainPolicy policy);

  /// The row's texts; nullopt when the row is not there or its texts do not match their checksum.
  Result<std::optional<Listing>> listing(const Key &key, const std::string &toolchain);

  struct Published {
    std::shared_ptr<const Artefact> winner;
    bool inserted = false; ///< false: another one was there first, `winner` holds its bytes
    int64_t id = 0;
  };
  /// One transaction, then a re-read. User files only.
  Result<Published> publish(const Compiled &compiled);

  /// Adds uses (by row id) and counters, in one transaction. Nothing on a file that is not writable.
  Status flush(const std::map<int64_t, int64_t> &uses, const std::map<std::string, int64_t> &counters);

  Result<std::optional<std::string>> note(const std::string &kind, const std::string &subject);
  Status setNote(const std::string &kind, const std::string &subject, const std::string &text);

  Result<std::optional<Tuned>> tuned(const TunedKey &key);
  Status setTuned(const Tuned &winner);
  /// All of them, by key; none in a blessed file.
  Result<std::vector<Tuned>> allTuned();

  /// Metadata of every row in key order; `sections` is the encoded text. Does not read payloads.
  Status forEach(const std::function<void(const EntryInfo &, std::string_view sections)> &visit);

  /// Compares every row and its texts with their checksums, and calls `bad` for those that fail. Counts rows and bytes.
  Status verifyRows(const std::function<void(const std::string &row, const std::string &what)> &bad, int64_t &rows,
                    int64_t &bytes);

  /// An empty blessed file for bless.cpp to fill inside a transaction of its own.
  static Result<std::unique_ptr<Store>> createBlessed(const std::string &path);
  /// False: a row of this key and toolchain was there already. The caller has a transaction open.
  Result<bool> insertRow(const Compiled &compiled);

  StoreRole role() const { return role_; }
  bool writable() const { return writable_; }
  const std::string &path() const { return database_.path(); }
  std::pair<dev_t, ino_t> identity() const { return database_.identity(); }
  /// For upkeep.cpp, which runs its own statements.
  Database &database() { return database_; }

private:
  Store(Database database, StoreRole role, bool writable);
  Status prepareStatements();
  Result<std::vector<std::pair<std::string, int64_t>>> candidates(const Key &key, const std::string *toolchain); ///< null: of any
  Result<std::shared_ptr<const Artefact>> readRow(int64_t id);
  Result<bool> quarantine(const Key &key, int64_t id, const std::function<bool(const Artefact &)> &wanted);
  Result<bool> insert(const Compiled &compiled);

  Database database_;
  StoreRole role_;
  bool writable_;
  Statement candidates_, row_; // the two statements of a hit
};

/// Seconds since 1970.
int64_t nowSeconds();

} // namespace phasec
