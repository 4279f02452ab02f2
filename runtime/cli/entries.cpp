// entries.cpp: see entries.h.
#include "runtime/cli/entries.h"

#include "llvm/ADT/SmallVector.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Format.h"

#include <algorithm>
#include <optional>

namespace phasec::cli {
namespace {

constexpr size_t kDigitsMin = 2;

struct Wanted {
  std::optional<int64_t> wo_split;
  std::string digits;
};

std::optional<Wanted> parseWanted(llvm::StringRef text) {
  Wanted wanted;
  text = text.trim("() ");
  auto [left, right] = text.split(',');
  int64_t split = 0;
  if (text.contains(',') && !left.trim().getAsInteger(10, split)) wanted.wo_split = split;
  else if (text.contains(',')) return std::nullopt;
  else right = left;
  right = right.trim().rtrim('.');
  bool hex = std::all_of(right.begin(), right.end(), [](char c) { return llvm::isHexDigit(c); });
  if (!hex || right.size() < kDigitsMin || right.size() > 32) return std::nullopt;
  wanted.digits = right.lower();
  return wanted;
}

} // namespace

bool looksLikeKey(const std::string &text) { return !llvm::sys::fs::exists(text) && parseWanted(text).has_value(); }

std::vector<std::string> cacheFiles(const RuntimeOptions &options) {
  std::vector<std::string> paths;
  for (const BlessedFile &file : options.cache.blessed) paths.push_back(file.path);
  if (!options.cache.user_dir.empty()) paths.push_back(userFile(options.cache.user_dir));
  paths.erase(std::remove_if(paths.begin(), paths.end(), [](const std::string &p) { return !llvm::sys::fs::exists(p); }), paths.end());
  return paths;
}

Result<FoundEntry> findEntry(const RuntimeOptions &options, const std::string &text) {
  std::optional<Wanted> wanted = parseWanted(text);
  if (!wanted) return Status::usage("'" + text + "' is neither a file nor a key such as \"(8, 3fa1c07b)\" (phasec cache ls has them)");
  std::vector<FoundEntry> found;
  for (const std::string &path : cacheFiles(options)) {
    PHASEC_ASSIGN(std::vector<EntryInfo> entries, findEntries(path, wanted->digits, wanted->wo_split));
    for (EntryInfo &info : entries) {
      bool known = std::any_of(found.begin(), found.end(), [&](const FoundEntry &f) { return f.info.key == info.key; });
      if (!known) found.push_back({path, std::move(info)}); // the first file to have a key is the one that is used
    }
  }
  if (found.empty()) return Status::input("no cache file has the key " + text + "; phasec cache ls shows what there is");
  if (found.size() == 1) return std::move(found[0]);
  std::string several;
  for (size_t i = 0; i < std::min<size_t>(found.size(), 8); i++) several += "\n  " + found[i].info.key.text() + " @" + found[i].info.layer;
  return Status::usage("'" + text + "' fits " + std::to_string(found.size()) + " kernels; give more digits:" + several);
}

void printEntry(llvm::raw_ostream &out, const FoundEntry &entry) {
  const EntryInfo &i = entry.info;
  out << "@" << i.layer << " for " << i.target << "\n  key        " << i.key.text() << "\n  config     " << i.config << "\n  toolchain  "
      << i.toolchain << "\n  size       " << i.payload_bytes << " bytes binary, " << i.source_bytes << " source, " << i.ptx_bytes
      << " PTX\n";
  if (!i.checksum.empty()) out << "  checksum   " << i.checksum << "\n";
  if (!entry.path.empty()) out << "  file       " << entry.path << "\n";
  if (i.uses) out << "  uses       " << i.uses << "\n";
}

void writeEntry(llvm::json::OStream &json, const EntryInfo &i) {
  json.attribute("key", i.key.text());
  json.attribute("wo_split", i.key.wo_split);
  json.attribute("function_fingerprint", i.key.fingerprint.hex());
  json.attribute("layer", i.layer);
  json.attribute("target", i.target);
  json.attribute("config", i.config);
  json.attribute("toolchain", i.toolchain);
  json.attribute("payload_bytes", i.payload_bytes);
  json.attribute("source_bytes", i.source_bytes);
  json.attribute("ptx_bytes", i.ptx_bytes);
  json.attribute("checksum", i.checksum);
  json.attribute("created_s", i.created_s);
  json.attribute("used_s", i.used_s);
  json.attribute("uses", i.uses);
}

void printSections(llvm::raw_ostream &out, const std::vector<Section> &sections) {
  for (const Section &s : sections)
    out << llvm::format("  %-34s ", s.name.c_str()) << s.digest << (s.text.empty() ? "" : "  " + s.text) << "\n";
}

void writeSections(llvm::json::OStream &json, const std::vector<Section> &sections) {
  json.attributeArray("sections", [&] {
    for (const Section &s : sections)
      json.object([&] {
        json.attribute("section", s.name);
        json.attribute("digest", s.digest);
        json.attribute("text", s.text);
      });
  });
}

int64_t resourceFigure(const std::string &resources, const char *name) {
  auto root = llvm::json::parse(resources);
  if (!root) return llvm::consumeError(root.takeError()), 0;
  const llvm::json::Object *object = root->getAsObject();
  const llvm::json::Array *kernels = object ? object->getArray("kernels") : nullptr;
  int64_t most = 0;
  for (size_t i = 0; kernels && i < kernels->size(); i++)
    if (const llvm::json::Object *kernel = (*kernels)[i].getAsObject()) most = std::max(most, int64_t(kernel->getInteger(name).getValueOr(0)));
  return most;
}

std::string lineDiff(const std::string &a, const std::string &b, size_t lines_max) {
  llvm::SmallVector<llvm::StringRef, 0> x, y;
  llvm::StringRef(a).split(x, '\n');
  llvm::StringRef(b).split(y, '\n');
  size_t n = x.size(), m = y.size();
  std::vector<uint16_t> length((n + 1) * (m + 1), 0); // of the longest common part of x[i..] and y[j..]
  auto common = [&](size_t i, size_t j) -> uint16_t & { return length[i * (m + 1) + j]; };
  for (size_t i = n; i-- > 0;)
    for (size_t j = m; j-- > 0;)
      common(i, j) = x[i] == y[j] ? uint16_t(common(i + 1, j + 1) + 1) : std::max(common(i + 1, j), common(i, j + 1));
  constexpr size_t kAround = 2;
  std::vector<std::string> lines;
  std::vector<bool> changed;
  for (size_t i = 0, j = 0; i < n || j < m;) {
    bool same = i < n && j < m && x[i] == y[j];
    bool removed = !same && i < n && (j == m || common(i + 1, j) >= common(i, j + 1));
    lines.push_back((same ? "  " : removed ? "- " : "+ ") + (same || removed ? x[i] : y[j]).str());
    changed.push_back(!same);
    i += same || removed;
    j += same || !removed;
  }
  std::string text;
  size_t shown = 0, last = 0;
  for (size_t at = 0; at < lines.size(); at++) {
    size_t begin = at < kAround ? 0 : at - kAround, end = std::min(lines.size(), at + kAround + 1);
    if (std::find(changed.begin() + long(begin), changed.begin() + long(end), true) == changed.begin() + long(end)) continue;
    if (shown && at > last + 1) text += "  ...\n";
    if (shown++ == lines_max) return text + "  (and more)\n";
    text += lines[at] + "\n";
    last = at;
  }
  return text;
}

} // namespace phasec::cli
