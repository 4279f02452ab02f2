// schema.h: what a cache file looks like, and the test whether a file looks like that.
#pragma once

#include "cache/database.h"

namespace phasec {

constexpr int64_t kApplicationId = 0x70687363; // "phsc"
// One version per role: what only the user file holds may change without a blessed file noticing.
constexpr int64_t kUserVersion = 2; ///< in the file's name, too
constexpr int64_t kBlessedVersion = 1;

enum class StoreRole {
  User,    ///< read-write: artefacts, and side tables of times, logs, counters, notes and tuned schedules
  Blessed, ///< artefacts only
};

/// Creates the tables when the file is empty, then checks it. CacheDamage: foreign, newer, or with other tables.
Status prepareUserSchema(Database &database);

/// Creates a blessed file's tables in an empty database.
Status createBlessedSchema(Database &database);

/// Checks application id, schema version and the exact text of every table; says which role the file has.
Result<StoreRole> checkSchema(Database &database);

} // namespace phasec
