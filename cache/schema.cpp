// schema.cpp: the tables. A file is ours only when sqlite_master holds exactly these texts: a planted trigger or view
// is "foreign" like any other surprise. Artefact and listing are two tables so that a hit never walks over source and
// PTX.
#include "cache/schema.h"

#include <set>

namespace phasec {

namespace {

constexpr const char *kArtefact =
    "CREATE TABLE artefact(id INTEGER PRIMARY KEY, wo_split INTEGER NOT NULL, fingerprint BLOB NOT NULL, "
    "toolchain TEXT NOT NULL, checksum BLOB NOT NULL, layer TEXT NOT NULL, target TEXT NOT NULL, config TEXT NOT NULL, "
    "resources TEXT NOT NULL, sections TEXT NOT NULL, payload BLOB NOT NULL)";
constexpr const char *kArtefactKey = "CREATE UNIQUE INDEX artefact_key ON artefact(wo_split, fingerprint, toolchain)";
// Texts as blobs: length() of a blob does not read its pages.
constexpr const char *kListing =
    "CREATE TABLE listing(id INTEGER PRIMARY KEY, checksum BLOB NOT NULL, source BLOB NOT NULL, ptx BLOB NOT NULL)";

constexpr const char *kUse = "CREATE TABLE use(id INTEGER PRIMARY KEY, created_s INTEGER NOT NULL, used_s INTEGER NOT "
                             "NULL, uses INTEGER NOT NULL, "
                             "host TEXT NOT NULL, compile_us INTEGER NOT NULL, log TEXT NOT NULL)";
constexpr const char *kQuarantine = "CREATE TABLE quarantine(id INTEGER PRIMARY KEY, found_s INTEGER NOT NULL, why "
                                    "TEXT NOT NULL, wo_split, fingerprint, "
                                    "toolchain, layer, target, payload)";
constexpr const char *kCounter = "CREATE TABLE counter(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID";
constexpr const char *kNote =
    "CREATE TABLE note(kind TEXT NOT NULL, subject TEXT NOT NULL, text TEXT NOT NULL, PRIMARY KEY(kind, subject)) "
    "WITHOUT ROWID";
constexpr const char *kTuned =
    "CREATE TABLE tuned(layer TEXT NOT NULL, target TEXT NOT NULL, ctas INTEGER NOT NULL, math TEXT NOT NULL, "
    "tokens_max INTEGER NOT NULL, name TEXT NOT NULL, schedule TEXT NOT NULL, evidence TEXT NOT NULL, "
    "tuned_s INTEGER NOT NULL, PRIMARY KEY(layer, target, ctas, math, tokens_max)) WITHOUT ROWID";

const std::set<std::string> kBlessedTexts = {kArtefact, kArtefactKey, kListing};
const std::set<std::string> kUserTexts = {kArtefact, kArtefactKey, kListing, kUse, kQuarantine, kCounter, kNote, kTuned};

Status createTables(Database &database, int64_t version, std::initializer_list<const char *> texts) {
  PHASEC_ASSIGN(Transaction transaction, Transaction::begin(database));
  // Another process may have been here between our look and our lock.
  PHASEC_ASSIGN(int64_t tables, database.queryInteger("SELECT count(*) FROM sqlite_master"));
  if (tables != 0) return {};
  for (const char *text : texts) PHASEC_TRY(database.execute(text));
  PHASEC_TRY(database.execute(("PRAGMA application_id=" + std::to_string(kApplicationId)).c_str()));
  PHASEC_TRY(database.execute(("PRAGMA user_version=" + std::to_string(version)).c_str()));
  return transaction.commit();
}

Status foreign(const Database &database, const std::string &what) {
  return {ErrorKind::CacheDamage, database.path() + " is not a cache file of this phasec: " + what};
}

} // namespace

Status prepareUserSchema(Database &database) {
  PHASEC_ASSIGN(int64_t id, database.queryInteger("PRAGMA application_id"));
  PHASEC_ASSIGN(int64_t version, database.queryInteger("PRAGMA user_version"));
  PHASEC_ASSIGN(int64_t tables, database.queryInteger("SELECT count(*) FROM sqlite_master"));
  bool fresh = id == 0 && version == 0 && tables == 0;
  if (!fresh) {
    // Look before the pragmas below write to it: a foreign file is renamed, never changed.
    PHASEC_ASSIGN(StoreRole role, checkSchema(database));
    if (role != StoreRole::User) return foreign(database, "it is a blessed file where the user file belongs");
  }
  if (fresh) PHASEC_TRY(database.execute("PRAGMA page_size=16384"));
  if (onNetworkFileSystem(database.path()))
    PHASEC_TRY(database.execute("PRAGMA journal_mode=DELETE; PRAGMA synchronous=FULL"));
  else
    PHASEC_TRY(database.execute("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL"));
  if (!fresh) return {};
  PHASEC_TRY(createTables(database, kUserVersion, {kArtefact, kArtefactKey, kListing, kUse, kQuarantine, kCounter, kNote, kTuned}));
  return checkSchema(database).status();
}

Status createBlessedSchema(Database &database) {
  PHASEC_TRY(database.execute("PRAGMA page_size=16384; PRAGMA journal_mode=DELETE"));
  return createTables(database, kBlessedVersion, {kArtefact, kArtefactKey, kListing});
}

Result<StoreRole> checkSchema(Database &database) {
  PHASEC_ASSIGN(int64_t id, database.queryInteger("PRAGMA application_id"));
  if (id != kApplicationId) return foreign(database, "its application id is " + std::to_string(id));
  PHASEC_ASSIGN(int64_t version, database.queryInteger("PRAGMA user_version"));
  if (version != kUserVersion && version != kBlessedVersion) return foreign(database, "its schema version is " + std::to_string(version));
  // Automatic indices have no text of their own; the table's text implies them.
  PHASEC_ASSIGN(Statement statement, database.prepare("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL"));
  std::set<std::string> texts;
  while (true) {
    PHASEC_ASSIGN(bool row, statement.step());
    if (!row) break;
    texts.insert(std::string(statement.text(0)));
  }
  if (version == kUserVersion && texts == kUserTexts) return StoreRole::User;
  if (version == kBlessedVersion && texts == kBlessedTexts) return StoreRole::Blessed;
  return foreign(database, "its tables differ");
}

} // namespace phasec
