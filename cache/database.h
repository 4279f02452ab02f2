// database.h: a thin, value-returning skin over SQLite: connections with the cache's pragmas, and statements.
// The only header of this folder that knows SQLite's types; they stay forward declarations here.
#pragma once

#include "phasec/cache.h"

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <sys/types.h>

struct sqlite3;
struct sqlite3_stmt;

namespace phasec {

/// SQLite's result code as a Status: CacheDamage for what only a broken or foreign file explains, Io for the rest.
Status databaseStatus(int code, std::string_view doing, const std::string &path, std::string_view detail);

/// A prepared statement. Bind, step() until it says Done, then reset() before the next use.
class Statement {
public:
  Statement() = default;
  Statement(sqlite3_stmt *statement, const std::string *path) : statement_(statement), path_(path) {}
  Statement(Statement &&other) noexcept : statement_(other.statement_), path_(other.path_) {
    other.statement_ = nullptr;
  }
  Statement &operator=(Statement &&other) noexcept;
  ~Statement();

  Statement &bind(int index, int64_t value);
  Statement &bind(int index, std::string_view text);
  Statement &bindBlob(int index, std::span<const uint8_t> bytes);

  /// True: a row is there. False: done, and the statement is reset.
  Result<bool> step();
  /// Runs a statement that returns no row.
  Status run();
  void reset();

  int64_t integer(int column) const;
  /// Valid until the next step(), reset() or another conversion of the same column.
  std::string_view text(int column) const;
  std::span<const uint8_t> blob(int column) const;

private:
  sqlite3_stmt *statement_ = nullptr;
  const std::string *path_ = nullptr;
};

/// One connection. Not thread-safe; its owner holds a mutex.
class Database {
public:
  enum class Mode {
    ReadWrite, ///< created when absent
    ReadOnly,  ///< the file may change under us: SQLite's locks are used
    Immutable, ///< nobody changes the file: no locks, no journal, also on read-only media
  };
  static Result<Database> open(const std::string &path, Mode mode);
  /// An anonymous database in memory or in a temporary file is never wanted; all connections name a file.
  Database(Database &&other) noexcept;
  Database &operator=(Database &&) = delete;
  ~Database();

  Status execute(const char *sql);
  Result<Statement> prepare(const char *sql);
  Result<int64_t> queryInteger(const char *sql);
  /// A blob of the row `id`, read into `bytes` without a copy in between. In whatever transaction is open.
  Status readBlob(const char *table, const char *column, int64_t id, Bytes &bytes);
  int64_t changes() const;
  int64_t lastRowId() const;
  const std::string &path() const { return *path_; }
  /// Device and inode at open, so that a file that was replaced since is recognised.
  std::pair<dev_t, ino_t> identity() const { return identity_; }

private:
  Database(sqlite3 *database, const std::string &path);
  sqlite3 *database_ = nullptr;
  std::unique_ptr<std::string> path_; // its address is shared with the statements
  std::pair<dev_t, ino_t> identity_{};
};

/// BEGIN IMMEDIATE now, ROLLBACK unless commit() succeeded.
class Transaction {
public:
  static Result<Transaction> begin(Database &database);
  Transaction(Transaction &&other) noexcept : database_(other.database_) { other.database_ = nullptr; }
  Transaction &operator=(Transaction &&) = delete;
  ~Transaction();
  Status commit();

private:
  explicit Transaction(Database *database) : database_(database) {}
  Database *database_;
};

/// Does a network serve this path? WAL needs shared memory between all users of a file, which only one host has.
bool onNetworkFileSystem(const std::string &path);

} // namespace phasec
