// cache.cpp: `phasec cache`: what cache files hold, whether they are sound, and upkeep.
#include "runtime/cli/entries.h"

#include "ir/suggest.h"

#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Format.h"

#include <algorithm>

namespace phasec::cli {
namespace {

#define CACHE cl::sub(cacheCommand()), cl::cat(ownOptions())

cl::list<std::string> words(cl::Positional, cl::OneOrMore, cl::desc("stats|ls|verify|clear|gc|merge|diff|export [DB...]"),
                            cl::sub(cacheCommand()));
cl::opt<std::string> out_path("out", cl::desc("merge, export: the blessed file to write"), cl::value_desc("DB"), CACHE);
cl::opt<std::string> policy("policy", cl::desc("gc: for example prune_after=30d:cache_size_bytes=1g:cache_size_files=5000"),
                            cl::value_desc("P"), CACHE);
cl::opt<std::string> pinned("sha256", cl::desc("verify: the digest that the file must have"), cl::value_desc("HEX"), CACHE);

constexpr const char *kDefaultPolicy = "prune_after=30d:cache_size_bytes=1g";

using Json = llvm::json::OStream;

struct Call {
  Session session;
  std::vector<std::string> files; ///< as given behind the action
};

std::string mebibytes(int64_t bytes) {
  std::string text;
  llvm::raw_string_ostream out(text);
  out << llvm::format("%.1f MiB", double(bytes) / (1 << 20));
  return out.str();
}

/// The files that an action without arguments is about: those in use.
std::vector<std::string> given(const Call &call) { return call.files.empty() ? cacheFiles(call.session.options) : call.files; }

Result<std::string> oneFile(const Call &call) {
  if (call.files.size() > 1) return Status::usage("expected one file, got " + std::to_string(call.files.size()));
  if (!call.files.empty()) return call.files[0];
  if (call.session.options.cache.user_dir.empty())
    return Status::usage("there is no user cache (HOME and PHASEC_CACHE_DIR are not set); name a file");
  return userFile(call.session.options.cache.user_dir);
}

void nothingThere(const Call &call) {
  if (!wantJson()) llvm::outs() << "no cache files yet; the first `phasec run` makes " << userFile(call.session.options.cache.user_dir) << "\n";
}

Result<int> stats(const Call &call) {
  std::vector<std::pair<std::string, StoreStats>> all;
  for (const std::string &path : given(call)) {
    PHASEC_ASSIGN(StoreStats s, storeStats(path));
    all.emplace_back(path, std::move(s));
  }
  if (wantJson()) {
    printJson("cache_stats", [&](Json &json) {
      json.attributeArray("files", [&] {
        for (const auto &[path, s] : all)
          json.object([&, &path = path, &s = s] {
            json.attribute("path", clean(path));
            json.attribute("entries", s.entries);
            json.attribute("payload_bytes", s.payload_bytes);
            json.attribute("file_bytes", s.file_bytes);
            json.attribute("quarantined", s.quarantined);
            json.attributeObject("counters", [&] {
              for (const auto &[key, n] : s.counters) json.attribute(key, n);
            });
          });
      });
    });
    return 0;
  }
  if (all.empty()) nothingThere(call);
  for (const auto &[path, s] : all) {
    llvm::outs() << path << "\n  " << s.entries << " kernels, " << mebibytes(s.payload_bytes) << " of binaries in " << mebibytes(s.file_bytes);
    if (s.quarantined) llvm::outs() << ", " << s.quarantined << " damaged rows set aside";
    llvm::outs() << "\n";
    for (const auto &[key, n] : s.counters) llvm::outs() << llvm::format("  %-28s %lld\n", key.c_str(), static_cast<long long>(n));
  }
  return 0;
}

Result<int> list(const Call &call) {
  std::vector<FoundEntry> all;
  for (const std::string &path : given(call)) {
    PHASEC_ASSIGN(std::vector<EntryInfo> entries, listEntries(path));
    for (EntryInfo &info : entries) all.push_back({path, std::move(info)});
  }
  if (wantJson()) {
    printJson("cache_ls", [&](Json &json) {
      json.attributeArray("entries", [&] {
        for (const FoundEntry &e : all)
          json.object([&] {
            json.attribute("file", clean(e.path));
            writeEntry(json, e.info);
          });
      });
    });
    return 0;
  }
  if (all.empty()) nothingThere(call);
  std::string file;
  for (const FoundEntry &e : all) {
    if (e.path != file) llvm::outs() << (file = e.path) << "\n";
    llvm::outs() << llvm::format("  %-39s %-12s %7lld B  ", e.info.key.text().c_str(), e.info.target.c_str(),
                                 static_cast<long long>(e.info.payload_bytes))
                 << "@" << e.info.layer << "\n";
  }
  return 0;
}

Result<int> verify(const Call &call) {
  if (!pinned.empty() && given(call).size() != 1) return Status::usage("--sha256 goes with one file");
  std::vector<std::pair<std::string, VerifyReport>> all;
  bool sound = true;
  for (const std::string &path : given(call)) {
    PHASEC_ASSIGN(VerifyReport report, verifyStore(path, pinned));
    sound &= report.ok();
    all.emplace_back(path, std::move(report));
  }
  if (wantJson()) {
    printJson("cache_verify", [&](Json &json) {
      json.attribute("ok", sound);
      json.attributeArray("files", [&] {
        for (const auto &[path, r] : all)
          json.object([&, &path = path, &r = r] {
            json.attribute("path", clean(path));
            json.attribute("ok", r.ok());
            json.attribute("entries", r.entries);
            json.attribute("sha256", r.sha256);
            json.attribute("sidecar", r.sidecar);
            json.attributeArray("findings", [&] {
              for (const std::string &f : r.findings) json.value(f);
            });
          });
      });
    });
  } else {
    if (all.empty()) nothingThere(call);
    for (const auto &[path, r] : all) {
      llvm::outs() << path << ": " << (r.ok() ? "sound" : "DAMAGED") << ", " << r.entries << " kernels, sha256 sidecar " << r.sidecar << "\n";
      for (const std::string &f : r.findings) llvm::outs() << "  " << f << "\n";
    }
  }
  return sound ? 0 : kFinding;
}

Result<int> clear(const Call &call) {
  PHASEC_ASSIGN(std::string path, oneFile(call));
  int64_t entries = 0;
  if (llvm::sys::fs::exists(path)) {
    if (Result<StoreStats> before = storeStats(path)) entries = before->entries;
    PHASEC_TRY(clearStore(path));
  } else if (!call.files.empty()) {
    return Status::io(path + ": no such file");
  }
  if (wantJson())
    printJson("cache_clear", [&](Json &json) {
      json.attribute("path", clean(path));
      json.attribute("removed", entries);
    });
  else llvm::outs() << path << ": " << entries << " kernels removed\n";
  return 0;
}

Result<int> collect(const Call &call) {
  PHASEC_ASSIGN(std::string path, oneFile(call));
  EvictReport report;
  if (llvm::sys::fs::exists(path) || !call.files.empty()) {
    PHASEC_ASSIGN(report, evict(path, policy.empty() ? kDefaultPolicy : policy.getValue()));
  }
  if (wantJson())
    printJson("cache_gc", [&](Json &json) {
      json.attribute("path", clean(path));
      json.attribute("removed", report.entries);
      json.attribute("removed_bytes", report.bytes);
      json.attribute("kept", report.kept_entries);
      json.attribute("kept_bytes", report.kept_bytes);
    });
  else
    llvm::outs() << path << ": " << report.entries << " kernels removed (" << mebibytes(report.bytes) << "), " << report.kept_entries
                 << " kept (" << mebibytes(report.kept_bytes) << ")\n";
  return 0;
}

Result<int> mergeInto(const Call &call, const std::vector<std::string> &inputs) {
  if (out_path.empty()) return Status::usage("--out DB says which file to write");
  PHASEC_ASSIGN(MergeReport report, mergeStores(inputs, out_path));
  if (wantJson())
    printJson("cache_merge", [&](Json &json) {
      json.attribute("path", clean(out_path.getValue()));
      json.attribute("entries", report.entries);
      json.attribute("duplicates", report.duplicates);
      json.attribute("sha256", report.sha256);
    });
  else
    llvm::outs() << out_path << ": " << report.entries << " kernels from " << inputs.size() << (inputs.size() == 1 ? " file" : " files") << ", "
                 << report.duplicates << " twice; sha256 " << report.sha256 << "\n";
  (void)call;
  return 0;
}

Result<int> merge(const Call &call) {
  if (call.files.empty()) return Status::usage("cache merge A.db B.db ... --out C.db");
  return mergeInto(call, call.files);
}

Result<int> exportUser(const Call &call) {
  PHASEC_ASSIGN(std::string path, oneFile(call));
  return mergeInto(call, {path});
}

Result<int> compare(const Call &call) {
  if (call.files.size() != 2) return Status::usage("cache diff A.db B.db");
  PHASEC_ASSIGN(StoreDiff diff, diffStores(call.files[0], call.files[1]));
  bool moved = !diff.added.empty() || !diff.removed.empty() || !diff.changed.empty();
  if (wantJson()) {
    auto entries = [](Json &json, const char *key, const std::vector<EntryInfo> &list) {
      json.attributeArray(key, [&] {
        for (const EntryInfo &i : list) json.object([&] { writeEntry(json, i); });
      });
    };
    printJson("cache_diff", [&](Json &json) {
      json.attribute("same", diff.same);
      entries(json, "added", diff.added);
      entries(json, "removed", diff.removed);
      json.attributeArray("changed", [&] {
        for (const EntryChange &c : diff.changed)
          json.object([&] {
            json.attribute("from", c.from.key.text());
            json.attribute("to", c.to.key.text());
            writeReasons(json, c.changes);
          });
      });
    });
    return moved ? kFinding : 0;
  }
  auto line = [](const char *mark, const EntryInfo &i) { llvm::outs() << mark << i.key.text() << " " << i.target << " @" << i.layer << "\n"; };
  for (const EntryInfo &i : diff.removed) line("- ", i);
  for (const EntryInfo &i : diff.added) line("+ ", i);
  for (const EntryChange &c : diff.changed) {
    line("~ ", c.to);
    for (const Reason &r : c.changes) llvm::outs() << "    " << r.text() << "\n";
  }
  llvm::outs() << diff.same << " the same, " << diff.changed.size() << " changed, " << diff.added.size() << " added, " << diff.removed.size()
               << " removed\n";
  return moved ? kFinding : 0;
}

struct Action {
  const char *name;
  Result<int> (*run)(const Call &);
};
const Action kActions[] = {{"stats", stats},   {"ls", list},     {"verify", verify}, {"clear", clear},
                           {"gc", collect},    {"merge", merge}, {"diff", compare},  {"export", exportUser}};

} // namespace

Result<int> cacheMain() {
  Call call;
  PHASEC_ASSIGN(call.session, openSession());
  call.files.assign(words.begin() + 1, words.end());
  std::vector<std::string> names;
  for (const Action &action : kActions) {
    if (words[0] == action.name) return action.run(call);
    names.push_back(action.name);
  }
  return Status::usage("cache " + words[0] + ": no such action" + didYouMean(words[0], names) + " (" + listWords(names) + ")");
}

} // namespace phasec::cli
