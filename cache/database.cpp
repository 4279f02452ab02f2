// database.cpp: SQLite connections as the cache wants them. The order of pragmas matters: the busy timeout comes first,
// because every later one may have to wait for another process.
#include "cache/database.h"

#include <sqlite3.h>

#include <sys/stat.h>
#include <sys/vfs.h>

namespace phasec {

namespace {

constexpr int kBusyMsLocal = 5'000;
constexpr int kBusyMsNetwork = 30'000;
/// No artefact comes near this; a damaged length field must not make SQLite allocate a gigabyte.
constexpr int kValueBytesMax = 256 << 20;

/// File names in a URI: everything but unreserved characters is percent-encoded.
std::string uriOf(const std::string &path, const char *query) {
  static const char digits[] = "0123456789abcdef";
  std::string uri = "file:";
  for (unsigned char c : path) {
    bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '/' || c == '-' ||
                 c == '_' || c == '.' || c == '~';
    if (plain) {
      uri += char(c);
    } else {
      uri += '%';
      uri += digits[c >> 4];
      uri += digits[c & 15];
    }
  }
  return uri + query;
}

} // namespace

Status databaseStatus(int code, std::string_view doing, const std::string &path, std::string_view detail) {
  std::string text = "cannot " + std::string(doing) + " " + path + ": " + std::string(detail);
  switch (code & 0xff) {
  case SQLITE_CORRUPT:
  case SQLITE_NOTADB:
  case SQLITE_FORMAT:
  case SQLITE_TOOBIG:
  case SQLITE_MISMATCH:
  case SQLITE_SCHEMA:
  case SQLITE_ERROR: // a table or column that our schema has and this file has not
    return {ErrorKind::CacheDamage, text};
  default: return Status::io(text);
  }
}

// ---- statements ------------------------------------------------------------------------------------------------

Statement &Statement::operator=(Statement &&other) noexcept {
  std::swap(statement_, other.statement_);
  std::swap(path_, other.path_);
  return *this;
}

Statement::~Statement() { sqlite3_finalize(statement_); }

Statement &Statement::bind(int index, int64_t value) {
  sqlite3_bind_int64(statement_, index, value);
  return *this;
}

Statement &Statement::bind(int index, std::string_view text) {
  // The empty view may have a null pointer, which SQLite would store as NULL.
  sqlite3_bind_text64(statement_, index, text.empty() ? "" : text.data(), text.size(), SQLITE_STATIC, SQLITE_UTF8);
  return *this;
}

Statement &Statement::bindBlob(int index, std::span<const uint8_t> bytes) {
  sqlite3_bind_blob64(statement_, index, bytes.empty() ? "" : static_cast<const void *>(bytes.data()), bytes.size(),
                      SQLITE_STATIC);
  return *this;
}

Result<bool> Statement::step() {
  int code = sqlite3_step(statement_);
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) {
    reset();
    return false;
  }
  Status status = databaseStatus(code, "read or write", *path_, sqlite3_errmsg(sqlite3_db_handle(statement_)));
  reset();
  return status;
}

Status Statement::run() {
  Result<bool> row = step();
  reset();
  return row.status();
}

void Statement::reset() {
  sqlite3_reset(statement_);
  sqlite3_clear_bindings(statement_);
}

int64_t Statement::integer(int column) const { return sqlite3_column_int64(statement_, column); }

std::string_view Statement::text(int column) const {
  const void *data = sqlite3_column_blob(statement_, column);
  int bytes = sqlite3_column_bytes(statement_, column);
  return data ? std::string_view(static_cast<const char *>(data), size_t(bytes)) : std::string_view();
}

std::span<const uint8_t> Statement::blob(int column) const {
  std::string_view bytes = text(column);
  return {reinterpret_cast<const uint8_t *>(bytes.data()), bytes.size()};
}

// ---- connections -----------------------------------------------------------------------------------------------

Database::Database(sqlite3 *database, const std::string &path)
    : database_(database), path_(std::make_unique<std::string>(path)) {}

Database::Database(Database &&other) noexcept
    : database_(other.database_), path_(std::move(other.path_)), identity_(other.identity_) {
  other.database_ = nullptr;
}

Database::~Database() { sqlite3_close_v2(database_); }

Result<Database> Database::open(const std::string &path, Mode mode) {
  const char *query = mode == Mode::ReadWrite  ? "?mode=rwc"
                      : mode == Mode::ReadOnly ? "?mode=ro"
                                               : "?mode=ro&immutable=1";
  int flags = SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX |
              (mode == Mode::ReadWrite ? SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE : SQLITE_OPEN_READONLY);
  sqlite3 *handle = nullptr;
  int code = sqlite3_open_v2(uriOf(path, query).c_str(), &handle, flags, nullptr);
  Database database(handle, path);
  if (code != SQLITE_OK)
    return databaseStatus(code, "open", path, handle ? sqlite3_errmsg(handle) : sqlite3_errstr(code));
  // Asked for writing, SQLite falls back to reading on its own; we want to know.
  if (mode == Mode::ReadWrite && sqlite3_db_readonly(handle, "main") == 1)
    return Status::io("cannot open " + path + ": the file or its directory is not writable");

  sqlite3_extended_result_codes(handle, 1);
  sqlite3_busy_timeout(handle, onNetworkFileSystem(path) ? kBusyMsNetwork : kBusyMsLocal);
  sqlite3_limit(handle, SQLITE_LIMIT_LENGTH, kValueBytesMax);
  sqlite3_db_config(handle, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
  sqlite3_db_config(handle, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, nullptr);
  sqlite3_db_config(handle, SQLITE_DBCONFIG_ENABLE_VIEW, 0, nullptr);
  // mmap_size = 0: a file that another process truncates is an error code, never SIGBUS. The page cache holds a few
  // dozen kernels, which halves the cost of reading one again; of an immutable file each is read once, and a small cache
  // that turns its pages over is half the cost of touching fresh memory.
  PHASEC_TRY(database.execute("PRAGMA trusted_schema=OFF; PRAGMA cell_size_check=ON; PRAGMA mmap_size=0;"));
  PHASEC_TRY(database.execute(mode == Mode::Immutable ? "PRAGMA cache_size=-512;" : "PRAGMA cache_size=-16384;"));

  struct stat info {};
  if (stat(path.c_str(), &info) == 0) database.identity_ = {info.st_dev, info.st_ino};
  return database;
}

Status Database::execute(const char *sql) {
  int code = sqlite3_exec(database_, sql, nullptr, nullptr, nullptr);
  if (code == SQLITE_OK) return {};
  return databaseStatus(code, "use", *path_, sqlite3_errmsg(database_));
}

Result<Statement> Database::prepare(const char *sql) {
  sqlite3_stmt *statement = nullptr;
  int code = sqlite3_prepare_v3(database_, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, nullptr);
  if (code != SQLITE_OK) return databaseStatus(code, "read", *path_, sqlite3_errmsg(database_));
  return Statement(statement, path_.get());
}

Result<int64_t> Database::queryInteger(const char *sql) {
  PHASEC_ASSIGN(Statement statement, prepare(sql));
  PHASEC_ASSIGN(bool row, statement.step());
  return row ? statement.integer(0) : 0;
}

Status Database::readBlob(const char *table, const char *column, int64_t id, Bytes &bytes) {
  sqlite3_blob *blob = nullptr;
  int code = sqlite3_blob_open(database_, "main", table, column, id, 0, &blob);
  if (code == SQLITE_OK) {
    bytes.resize(size_t(sqlite3_blob_bytes(blob)));
    code = sqlite3_blob_read(blob, bytes.data(), int(bytes.size()), 0);
  }
  Status status = code == SQLITE_OK ? Status() : databaseStatus(code, "read", *path_, sqlite3_errmsg(database_));
  sqlite3_blob_close(blob);
  return status;
}

int64_t Database::changes() const { return sqlite3_changes(database_); }
int64_t Database::lastRowId() const { return sqlite3_last_insert_rowid(database_); }

// ---- transactions ----------------------------------------------------------------------------------------------

Result<Transaction> Transaction::begin(Database &database) {
  PHASEC_TRY(database.execute("BEGIN IMMEDIATE"));
  return Transaction(&database);
}

Transaction::~Transaction() {
  if (database_) (void)database_->execute("ROLLBACK");
}

Status Transaction::commit() {
  PHASEC_TRY(database_->execute("COMMIT"));
  database_ = nullptr;
  return {};
}

// ---- file systems ----------------------------------------------------------------------------------------------

bool onNetworkFileSystem(const std::string &path) {
  struct statfs info {};
  std::string directory = path.substr(0, path.find_last_of('/') + 1);
  if (directory.empty()) directory = ".";
  if (statfs(path.c_str(), &info) != 0 && statfs(directory.c_str(), &info) != 0) return false;
  switch (uint32_t(info.f_type)) {
  case 0x6969:     // NFS
  case 0x517b:     // SMB
  case 0xff534d42: // CIFS
  case 0xfe534d42: // SMB2
  case 0x5346414f: // AFS
  case 0x00c36400: // Ceph
  case 0x0bd00bd0: // Lustre
  case 0x47504653: // GPFS
  case 0x19830326: // BeeGFS
  case 0x01021997: // 9P
  case 0xaad7aaea: // PanFS
  case 0x65735546: // FUSE: sshfs and friends, and nothing tells them from local ones
    return true;
  default: return false;
  }
}

} // namespace phasec
