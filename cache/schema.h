// schema.h: what a cache file looks like, and the test whether a file looks like that.
#pragma once

#include "cache/database.h"

namespace phasec {

constexpr int64_t kApplicationId = 0x70687363; // "phsc"
constexpr int64_t kSchemaVersion = 1;

enum class StoreRole {
  User,    ///< read-write: artefacts, and side tables of times, logs, counters and notes
  Blessed, ///< artefacts only
};

/// Creates the tables when the file is empty, then checks it. CacheDamage: foreign, newer, or with other tables.
Status prepareUserSchema(Database &database);

/// Creates a blessed file's tables in an empty database.
Status createBlessedSchema(Database &database);

/// Checks application id, schema version and the exact text of every table; says which role the file has.
Result<StoreRole> checkSchema(Database &database);

} // namespace phasec
