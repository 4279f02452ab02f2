// entries.h: finding kernels in the cache files by what a person types: "(8, 3fa1...)", "8,3fa1" or "3fa1".
#pragma once

#include "runtime/cli/cli.h"

namespace phasec::cli {

/// A row of one cache file.
struct FoundEntry {
  std::string path;
  EntryInfo info;
};

/// Whether `text` is meant as a key: digits and the punctuation of Key::text(), and no file of that name.
bool looksLikeKey(const std::string &text);
/// Cache files that exist: blessed ones in order, then the user's.
std::vector<std::string> cacheFiles(const RuntimeOptions &options);
/// The one kernel that `text` means. ErrorKind::Usage for text that is no key or fits several, Input when none has it.
Result<FoundEntry> findEntry(const RuntimeOptions &options, const std::string &text);

/// Key, layer, target, configuration, toolchain, sizes: one line each.
void printEntry(llvm::raw_ostream &out, const FoundEntry &entry);
void writeEntry(llvm::json::OStream &json, const EntryInfo &info);
/// The sections of a key as a table.
void printSections(llvm::raw_ostream &out, const std::vector<Section> &sections);
void writeSections(llvm::json::OStream &json, const std::vector<Section> &sections);

/// The largest figure of that name among the kernels of a `phasec.resources/1` document; 0 where it has none.
int64_t resourceFigure(const std::string &resources, const char *name);

/// Lines that differ, with two lines around them and marks as `diff -u` has; at most `lines_max` lines.
std::string lineDiff(const std::string &a, const std::string &b, size_t lines_max);

} // namespace phasec::cli
