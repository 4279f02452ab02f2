// store.cpp: rows in and out of one database file. A row leaves here only after its checksum was compared; what fails
// is moved to the quarantine table when the file is ours to write, and is treated as absent either way.
#include "cache/store.h"

#include <algorithm>
#include <chrono>

namespace phasec {

namespace {

constexpr int kQuarantineRowsMax = 32;

constexpr const char *kCandidates = "SELECT id, toolchain FROM artefact WHERE wo_split=?1 AND fingerprint=?2";
constexpr const char *kRow = "SELECT wo_split, fingerprint, toolchain, layer, target, config, resources, sections, "
                             "checksum FROM artefact WHERE id=?1";

std::span<const uint8_t> bytesOf(std::string_view text) {
  return {reinterpret_cast<const uint8_t *>(text.data()), text.size()};
}

/// All but the payload.
RowView viewOf(const Statement &row) {
  RowView view;
  view.wo_split = row.integer(0);
  view.fingerprint = row.blob(1);
  view.toolchain = row.text(2);
  view.layer = row.text(3);
  view.target = row.text(4);
  view.config = row.text(5);
  view.resources = row.text(6);
  view.sections = row.text(7);
  return view;
}

RowView viewOf(const Artefact &artefact, std::span<const uint8_t> fingerprint) {
  return {artefact.key.wo_split, fingerprint,        artefact.toolchain,       artefact.layer,  artefact.target,
          artefact.config,       artefact.resources, artefact.sections.text(), artefact.payload};
}

std::shared_ptr<const Artefact> artefactOf(const RowView &view, Bytes payload) {
  auto artefact = std::make_shared<Artefact>();
  artefact->key = {view.wo_split, fingerprintFrom(view.fingerprint)};
  artefact->toolchain = view.toolchain;
  artefact->layer = view.layer;
  artefact->target = view.target;
  artefact->config = view.config;
  artefact->resources = view.resources;
  artefact->sections = Sections::stored(view.sections);
  artefact->payload = std::move(payload);
  return artefact;
}

} // namespace

int64_t nowSeconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

Store::Store(Database database, StoreRole role, bool writable)
    : database_(std::move(database)), role_(role), writable_(writable) {}

Status Store::prepareStatements() {
  PHASEC_ASSIGN(candidates_, database_.prepare(kCandidates));
  PHASEC_ASSIGN(row_, database_.prepare(kRow));
  return {};
}

Result<std::unique_ptr<Store>> Store::openUser(const std::string &path) {
  PHASEC_ASSIGN(Database database, Database::open(path, Database::Mode::ReadWrite));
  PHASEC_TRY(prepareUserSchema(database));
  std::unique_ptr<Store> store(new Store(std::move(database), StoreRole::User, true));
  PHASEC_TRY(store->prepareStatements());
  return store;
}

Result<std::unique_ptr<Store>> Store::openReadOnly(const std::string &path) {
  // A WAL file in a directory that we may not write opens with immutable=1 only.
  Status first;
  for (Database::Mode mode : {Database::Mode::ReadOnly, Database::Mode::Immutable}) {
    auto attempt = [&]() -> Result<std::unique_ptr<Store>> {
      PHASEC_ASSIGN(Database database, Database::open(path, mode));
      PHASEC_ASSIGN(StoreRole role, checkSchema(database));
      std::unique_ptr<Store> store(new Store(std::move(database), role, false));
      PHASEC_TRY(store->prepareStatements());
      return store;
    };
    Result<std::unique_ptr<Store>> store = attempt();
    if (store.ok()) return store;
    if (first.ok()) first = store.status();
    if (first.kind() == ErrorKind::CacheDamage) break;
  }
  return first;
}

Result<std::unique_ptr<Store>> Store::openBlessed(const std::string &path) {
  PHASEC_ASSIGN(Database database, Database::open(path, Database::Mode::Immutable));
  PHASEC_ASSIGN(StoreRole role, checkSchema(database));
  if (role != StoreRole::Blessed)
    return Status(ErrorKind::CacheDamage, path + " is a user cache, not a blessed one; make one with "
                                                 "`phasec cache export` or `phasec bless`");
  std::unique_ptr<Store> store(new Store(std::move(database), role, false));
  PHASEC_TRY(store->prepareStatements());
  return store;
}

Result<std::unique_ptr<Store>> Store::createBlessed(const std::string &path) {
  PHASEC_ASSIGN(Database database, Database::open(path, Database::Mode::ReadWrite));
  PHASEC_TRY(createBlessedSchema(database));
  std::unique_ptr<Store> store(new Store(std::move(database), StoreRole::Blessed, true));
  PHASEC_TRY(store->prepareStatements());
  return store;
}

// ---- reading ---------------------------------------------------------------------------------------------------

/// Rows of a key, by toolchain; of one toolchain there is one at most, and behind it the statement stays open: while it
/// does, what follows reads under its lock.
Result<std::vector<std::pair<std::string, int64_t>>> Store::candidates(const Key &key, const std::string *toolchain) {
  std::vector<std::pair<std::string, int64_t>> rows;
  auto fingerprint = fingerprintBytes(key.fingerprint);
  candidates_.bind(1, key.wo_split).bindBlob(2, fingerprint);
  while (true) {
    PHASEC_ASSIGN(bool row, candidates_.step());
    if (!row) return rows;
    std::string_view of = candidates_.text(1);
    if (toolchain && of != *toolchain) continue;
    rows.emplace_back(std::string(of), candidates_.integer(0));
    if (toolchain) return rows;
  }
}

Status Store::expectAbsent(const Key &key, const std::string &toolchain, ToolchainPolicy policy) {
  auto fingerprint = fingerprintBytes(key.fingerprint);
  // Both ways to a row in one statement, which sees one state of the file: what another process published since find()
  // looked is no damage.
  constexpr const char *sql = "SELECT 1 FROM artefact NOT INDEXED WHERE wo_split=?1 AND fingerprint=?2 AND (?3='' OR toolchain=?3) "
                              "AND id NOT IN (SELECT id FROM artefact INDEXED BY artefact_key "
                              "WHERE wo_split=?1 AND fingerprint=?2 AND (?3='' OR toolchain=?3))";
  PHASEC_ASSIGN(Statement rows, database_.prepare(sql));
  rows.bind(1, key.wo_split).bindBlob(2, fingerprint);
  rows.bind(3, policy == ToolchainPolicy::Any ? std::string_view() : std::string_view(toolchain));
  PHASEC_ASSIGN(bool hidden, rows.step());
  return hidden ? Status(ErrorKind::CacheDamage, path() + ": its index does not lead to " + key.text()) : Status();
}

/// Null when the row is there but its checksum is not.
Result<std::shared_ptr<const Artefact>> Store::readRow(int64_t id) {
  row_.bind(1, id);
  PHASEC_ASSIGN(bool row, row_.step());
  std::shared_ptr<const Artefact> artefact;
  if (row) {
    RowView view = viewOf(row_);
    Bytes payload;
    if (Status s = database_.readBlob("artefact", "payload", id, payload); !s.ok()) {
      row_.reset(); // a file that has to be set aside must not be in use
      return s;
    }
    view.payload = payload;
    Checksum sum = checksumOf(view);
    std::span<const uint8_t> stored = row_.blob(8);
    if (std::equal(stored.begin(), stored.end(), sum.begin(), sum.end())) artefact = artefactOf(view, std::move(payload));
  }
  row_.reset();
  return artefact;
}

Result<Store::Found> Store::find(const Key &key, const std::string &toolchain, ToolchainPolicy policy) {
  bool any = policy == ToolchainPolicy::Any || toolchain.empty();
  PHASEC_ASSIGN(auto rows, candidates(key, any ? nullptr : &toolchain));
  std::sort(rows.begin(), rows.end(), [](const auto &a, const auto &b) { return naturalLess(b.first, a.first); });
  // The index led here; the checksum holds; the key must still be the one that was asked for.
  auto wanted = [&](const Artefact &row) { return row.key == key && (any || row.toolchain == toolchain); };
  Found found;
  for (const auto &[row_toolchain, id] : rows) {
    Result<std::shared_ptr<const Artefact>> artefact = readRow(id);
    candidates_.reset();
    PHASEC_ASSIGN(found.artefact, std::move(artefact));
    if (found.artefact && wanted(*found.artefact)) {
      found.id = id;
      return found;
    }
    found.artefact = nullptr;
    ++found.damaged;
    if (!writable_) continue;
    Result<bool> moved = quarantine(key, id, wanted);
    if (moved.ok() && *moved) ++found.quarantined;
  }
  return found;
}

Result<std::optional<Listing>> Store::listing(const Key &key, const std::string &toolchain) {
  PHASEC_ASSIGN(Found found, find(key, toolchain, ToolchainPolicy::Match));
  if (!found.artefact) return std::optional<Listing>();
  PHASEC_ASSIGN(Statement texts, database_.prepare("SELECT l.source, l.ptx, l.checksum, a.checksum FROM listing l "
                                                   "JOIN artefact a ON a.id = l.id WHERE l.id=?1 AND a.wo_split=?2 "
                                                   "AND a.fingerprint=?3")); // ids are used again
  auto fingerprint = fingerprintBytes(key.fingerprint);
  texts.bind(1, found.id).bind(2, key.wo_split).bindBlob(3, fingerprint);
  PHASEC_ASSIGN(bool row, texts.step());
  if (!row || texts.blob(3).size() != sizeof(Checksum)) return std::optional<Listing>();
  Checksum artefact;
  std::copy_n(texts.blob(3).begin(), artefact.size(), artefact.begin());
  Checksum sum = listingChecksum(artefact, texts.text(0), texts.text(1));
  std::span<const uint8_t> stored = texts.blob(2);
  if (!std::equal(stored.begin(), stored.end(), sum.begin(), sum.end())) return std::optional<Listing>();
  return std::optional(Listing{std::string(texts.text(0)), std::string(texts.text(1))});
}

Status Store::forEach(const std::function<void(const EntryInfo &, std::string_view)> &visit) {
  std::string sql = "SELECT a.wo_split, a.fingerprint, a.toolchain, a.layer, a.target, a.config, a.resources, "
                    "length(a.payload), a.checksum, a.sections, length(l.source), length(l.ptx), l.checksum";
  sql += role_ == StoreRole::User ? ", u.created_s, u.used_s, u.uses" : ", 0, 0, 0";
  sql += " FROM artefact a LEFT JOIN listing l ON l.id = a.id";
  if (role_ == StoreRole::User) sql += " LEFT JOIN use u ON u.id = a.id";
  sql += " ORDER BY a.wo_split, a.fingerprint, a.toolchain";
  PHASEC_ASSIGN(Statement rows, database_.prepare(sql.c_str()));
  while (true) {
    PHASEC_ASSIGN(bool row, rows.step());
    if (!row) return {};
    EntryInfo info;
    info.key = {rows.integer(0), fingerprintFrom(rows.blob(1))};
    info.toolchain = rows.text(2);
    info.layer = rows.text(3);
    info.target = rows.text(4);
    info.config = rows.text(5);
    info.resources = rows.text(6);
    info.payload_bytes = rows.integer(7);
    info.checksum = hexOf(rows.blob(8));
    info.source_bytes = rows.integer(10);
    info.ptx_bytes = rows.integer(11);
    info.listing_checksum = hexOf(rows.blob(12));
    info.created_s = rows.integer(13);
    info.used_s = rows.integer(14);
    info.uses = rows.integer(15);
    visit(info, rows.text(9));
  }
}

Status Store::verifyRows(const std::function<void(const std::string &, const std::string &)> &bad, int64_t &count,
                         int64_t &bytes) {
  PHASEC_ASSIGN(
      Statement rows,
      database_.prepare("SELECT a.wo_split, a.fingerprint, a.toolchain, a.layer, a.target, a.config, a.resources, "
                        "a.sections, a.payload, a.checksum, l.source, l.ptx, l.checksum, a.id FROM artefact a "
                        "NOT INDEXED LEFT JOIN listing l ON l.id = a.id ORDER BY a.id"));
  while (true) {
    PHASEC_ASSIGN(bool row, rows.step());
    if (!row) break;
    RowView view = viewOf(rows);
    view.payload = rows.blob(8);
    Checksum sum = checksumOf(view), texts = listingChecksum(sum, rows.text(10), rows.text(11));
    std::span<const uint8_t> sum_stored = rows.blob(9), texts_stored = rows.blob(12);
    std::string id =
        "row " + std::to_string(rows.integer(13)) + " " + Key{view.wo_split, fingerprintFrom(view.fingerprint)}.text();
    if (!std::equal(sum_stored.begin(), sum_stored.end(), sum.begin(), sum.end()))
      bad(id, "checksum " + hexOf(sum_stored) + " stored, " + hexOf(sum) + " computed");
    else if (!std::equal(texts_stored.begin(), texts_stored.end(), texts.begin(), texts.end()))
      bad(id, "source or PTX differ from their checksum");
    ++count;
    bytes += int64_t(view.payload.size());
  }
  PHASEC_ASSIGN(
      int64_t strays,
      database_.queryInteger("SELECT count(*) FROM listing WHERE id NOT IN (SELECT id FROM artefact NOT INDEXED)"));
  if (strays) bad("listing", std::to_string(strays) + " rows without an artefact");
  return {};
}

// ---- writing ---------------------------------------------------------------------------------------------------

/// Moves a bad row aside, keeping its bytes for whoever wants to know what happened, and drops the oldest such rows. False
/// when another process was quicker: good rows may have come since, and ids are used again.
Result<bool> Store::quarantine(const Key &key, int64_t id, const std::function<bool(const Artefact &)> &wanted) {
  PHASEC_ASSIGN(Transaction transaction, Transaction::begin(database_));
  PHASEC_ASSIGN(auto rows, candidates(key, nullptr));
  if (std::none_of(rows.begin(), rows.end(), [&](const auto &row) { return row.second == id; })) return false;
  PHASEC_ASSIGN(std::shared_ptr<const Artefact> row, readRow(id));
  if (row && wanted(*row)) return false;
  PHASEC_ASSIGN(
      Statement copy,
      database_.prepare("INSERT INTO quarantine(found_s, why, wo_split, fingerprint, toolchain, layer, target, "
                        "payload) SELECT ?2, 'checksum', wo_split, fingerprint, toolchain, layer, target, "
                        "payload FROM artefact WHERE id=?1"));
  copy.bind(1, id).bind(2, nowSeconds());
  PHASEC_TRY(copy.run());
  if (database_.changes() == 0) return false;
  for (const char *sql :
       {"DELETE FROM artefact WHERE id=?1", "DELETE FROM listing WHERE id=?1", "DELETE FROM use WHERE id=?1"}) {
    PHASEC_ASSIGN(Statement remove, database_.prepare(sql));
    remove.bind(1, id);
    PHASEC_TRY(remove.run());
  }
  PHASEC_ASSIGN(Statement trim,
                database_.prepare("DELETE FROM quarantine WHERE id <= (SELECT max(id) FROM quarantine) - ?1"));
  trim.bind(1, kQuarantineRowsMax);
  PHASEC_TRY(trim.run());
  PHASEC_TRY(transaction.commit());
  return true;
}

Result<bool> Store::insertRow(const Compiled &compiled) {
  const Artefact &artefact = compiled.artefact;
  auto fingerprint = fingerprintBytes(artefact.key.fingerprint);
  Checksum sum = checksumOf(viewOf(artefact, fingerprint));
  PHASEC_ASSIGN(
      Statement row,
      database_.prepare("INSERT OR IGNORE INTO artefact(wo_split, fingerprint, toolchain, checksum, layer, "
                        "target, config, resources, sections, payload) VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10)"));
  row.bind(1, artefact.key.wo_split).bindBlob(2, fingerprint).bind(3, artefact.toolchain).bindBlob(4, sum);
  row.bind(5, artefact.layer).bind(6, artefact.target).bind(7, artefact.config).bind(8, artefact.resources);
  row.bind(9, artefact.sections.text()).bindBlob(10, artefact.payload);
  PHASEC_TRY(row.run());
  if (database_.changes() == 0) return false;
  int64_t id = database_.lastRowId();

  Checksum listing_sum = listingChecksum(sum, compiled.listing.source, compiled.listing.ptx);
  PHASEC_ASSIGN(Statement texts, database_.prepare("INSERT OR REPLACE INTO listing VALUES(?1,?2,?3,?4)"));
  texts.bind(1, id).bindBlob(2, listing_sum);
  texts.bindBlob(3, bytesOf(compiled.listing.source)).bindBlob(4, bytesOf(compiled.listing.ptx));
  PHASEC_TRY(texts.run());
  if (role_ == StoreRole::Blessed) return true;
  PHASEC_ASSIGN(Statement use, database_.prepare("INSERT OR REPLACE INTO use VALUES(?1,?2,?2,0,?3,?4,?5)"));
  use.bind(1, id).bind(2, nowSeconds()).bind(3, compiled.evidence.host).bind(4, compiled.evidence.compile_us);
  use.bind(5, compiled.evidence.log);
  PHASEC_TRY(use.run());
  return true;
}

Result<bool> Store::insert(const Compiled &compiled) {
  PHASEC_ASSIGN(Transaction transaction, Transaction::begin(database_));
  PHASEC_ASSIGN(bool inserted, insertRow(compiled));
  PHASEC_TRY(transaction.commit());
  return inserted;
}

Result<Store::Published> Store::publish(const Compiled &compiled) {
  Published published;
  // Twice: a damaged row of the same key makes the first insert a no-op, and the re-read moves it aside.
  for (int attempt = 0; attempt < 2; ++attempt) {
    PHASEC_ASSIGN(published.inserted, insert(compiled));
    PHASEC_ASSIGN(Found found, find(compiled.artefact.key, compiled.artefact.toolchain, ToolchainPolicy::Match));
    published.winner = found.artefact;
    published.id = found.id;
    if (found.artefact) return published;
  }
  return Status(ErrorKind::CacheDamage, path() + " does not give back what was written to it");
}

Status Store::flush(const std::map<int64_t, int64_t> &uses, const std::map<std::string, int64_t> &counters) {
  if (!writable_ || (uses.empty() && counters.empty())) return {};
  // Damage that no look-up meets is found by who closes, and the file is then set aside: counting meets every page of rows.
  PHASEC_TRY(database_.queryInteger("SELECT (SELECT count(*) FROM artefact NOT INDEXED) + (SELECT count(*) FROM artefact) + "
                                    "(SELECT count(*) FROM listing)").status());
  PHASEC_ASSIGN(Transaction transaction, Transaction::begin(database_));
  PHASEC_ASSIGN(Statement use, database_.prepare("UPDATE use SET used_s=max(used_s, ?2), uses=uses+?3 WHERE id=?1"));
  for (const auto &[id, count] : uses) {
    use.bind(1, id).bind(2, nowSeconds()).bind(3, count);
    PHASEC_TRY(use.run());
  }
  PHASEC_ASSIGN(Statement add, database_.prepare("INSERT INTO counter VALUES(?1,?2) "
                                                 "ON CONFLICT(name) DO UPDATE SET value=value+excluded.value"));
  for (const auto &[counter, value] : counters) {
    add.bind(1, counter).bind(2, value);
    PHASEC_TRY(add.run());
  }
  return transaction.commit();
}

// ---- notes -----------------------------------------------------------------------------------------------------

Result<std::optional<std::string>> Store::note(const std::string &kind, const std::string &subject) {
  PHASEC_ASSIGN(Statement statement, database_.prepare("SELECT text FROM note WHERE kind=?1 AND subject=?2"));
  statement.bind(1, kind).bind(2, subject);
  PHASEC_ASSIGN(bool row, statement.step());
  return row ? std::optional(std::string(statement.text(0))) : std::optional<std::string>();
}

Status Store::setNote(const std::string &kind, const std::string &subject, const std::string &text) {
  PHASEC_ASSIGN(Statement statement, database_.prepare("INSERT OR REPLACE INTO note VALUES(?1,?2,?3)"));
  statement.bind(1, kind).bind(2, subject).bind(3, text);
  return statement.run();
}

// ---- tuned schedules -------------------------------------------------------------------------------------------

namespace {

constexpr const char *kTunedColumns = "SELECT layer, target, ctas, math, tokens_max, name, schedule, evidence, tuned_s FROM tuned ";

Tuned tunedFrom(const Statement &row) {
  Tuned t;
  t.key = {std::string(row.text(0)), std::string(row.text(1)), row.integer(2), std::string(row.text(3)), row.integer(4)};
  t.name = row.text(5);
  t.schedule = row.text(6);
  t.evidence = row.text(7);
  t.tuned_s = row.integer(8);
  return t;
}

} // namespace

Result<std::optional<Tuned>> Store::tuned(const TunedKey &key) {
  std::string sql = std::string(kTunedColumns) + "WHERE layer=?1 AND target=?2 AND ctas=?3 AND math=?4 AND tokens_max=?5";
  PHASEC_ASSIGN(Statement row, database_.prepare(sql.c_str()));
  row.bind(1, key.layer).bind(2, key.target).bind(3, key.ctas).bind(4, key.math).bind(5, key.tokens_max);
  PHASEC_ASSIGN(bool found, row.step());
  return found ? std::optional(tunedFrom(row)) : std::optional<Tuned>();
}

Status Store::setTuned(const Tuned &t) {
  PHASEC_ASSIGN(Statement row, database_.prepare("INSERT OR REPLACE INTO tuned VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9)"));
  row.bind(1, t.key.layer).bind(2, t.key.target).bind(3, t.key.ctas).bind(4, t.key.math).bind(5, t.key.tokens_max);
  row.bind(6, t.name).bind(7, t.schedule).bind(8, t.evidence).bind(9, nowSeconds());
  return row.run();
}

Result<std::vector<Tuned>> Store::allTuned() {
  std::vector<Tuned> all;
  if (role_ != StoreRole::User) return all;
  PHASEC_ASSIGN(Statement rows, database_.prepare(kTunedColumns));
  while (true) {
    PHASEC_ASSIGN(bool row, rows.step());
    if (!row) return all;
    all.push_back(tunedFrom(rows));
  }
}

} // namespace phasec
