// layers.cpp: asking the layers in order, explaining a miss, opening, closing and forking. Making what is missing:
// obtain.cpp.
#include "cache/layers.h"
#include "cache/explain.h"
#include "cache/trust.h"

#include <atomic>
#include <pthread.h>
#include <unistd.h>

namespace phasec {

// ---- fork ------------------------------------------------------------------------------------------------------
// SQLite remembers per inode which locks the process holds, and a child inherits that memory but not the locks. So no
// user connection is open across a fork: it is closed before and opened again when somebody needs it. A child made
// without fork handlers (raw clone) is recognised by the pid in every handle and does without the user file.

namespace {

struct Guarded {
  std::mutex *mutex;
  UserFile *user;
  bool operator<(const Guarded &other) const { return mutex < other.mutex; }
};

struct Forks {
  std::mutex mutex;
  std::set<Guarded> all;
  std::atomic<int> announced{0}; ///< forks whose handlers ran in the child
};

Forks &forks() {
  static Forks *const instance = [] {
    auto *made = new Forks; // never destroyed: handlers may run during exit
    pthread_atfork(
        [] {
          forks().mutex.lock();
          for (const Guarded &one : forks().all) {
            one.mutex->lock();
            one.user->close();
          }
        },
        [] {
          for (const Guarded &one : forks().all) one.mutex->unlock();
          forks().mutex.unlock();
        },
        [] {
          ++forks().announced;
          for (const Guarded &one : forks().all) one.mutex->unlock();
          forks().mutex.unlock();
        });
    return made;
  }();
  return *instance;
}

} // namespace

struct Cache::Holder {
  std::atomic<Impl *> impl;
  int announced;
};

Cache::Cache(Impl *impl) : holder_(new Holder{impl, forks().announced}) {}

Cache::~Cache() {
  Impl *last = holder_->impl.load();
  if (last->pid == getpid()) delete last;
}

Cache::Impl &Cache::impl() const {
  Impl *now = holder_->impl.load(std::memory_order_acquire);
  if (now->pid == getpid()) return *now;
  // In a child. The parent's state is left alone for good: its mutexes may be locked by threads that do not exist here.
  CacheOptions options = now->options;
  if (holder_->announced == forks().announced) options.user_dir.clear();
  Impl *fresh = new Impl(options);
  (void)fresh->openBlessed();
  if (holder_->impl.compare_exchange_strong(now, fresh)) return *fresh;
  delete fresh;
  return *now;
}

// ---- opening and closing ---------------------------------------------------------------------------------------

Cache::Impl::Impl(const CacheOptions &given)
    : options(given), pid(getpid()),
      user(given.user_dir, [this](const std::string &cause, const std::string &text) { degrade(cause, text); }) {
  std::lock_guard lock(forks().mutex);
  forks().all.insert({&files_mutex, &user});
}

Cache::Impl::~Impl() {
  {
    std::lock_guard lock(forks().mutex);
    forks().all.erase({&files_mutex, &user});
  }
  closeFiles();
}

Result<std::unique_ptr<Cache>> Cache::open(const CacheOptions &options) {
  auto impl = std::make_unique<Impl>(options);
  PHASEC_TRY(impl->openBlessed());
  return std::unique_ptr<Cache>(new Cache(impl.release()));
}

namespace {

/// Trust, then digest, then schema. Hashing costs milliseconds, so it happens when somebody asked for it.
Result<std::unique_ptr<Store>> openBlessedFile(const BlessedFile &file, bool strict) {
  PHASEC_TRY(checkTrustedFile(file.path));
  if (strict || !file.sha256.empty()) {
    PHASEC_ASSIGN(std::string digest, fileSha256(file.path));
    std::string wanted = file.sha256;
    if (wanted.empty()) {
      PHASEC_ASSIGN(wanted, readSidecar(file.path));
    }
    if (digest != wanted)
      return Status(ErrorKind::CacheDamage,
                    file.path + " has SHA-256 " + digest + ", but " +
                        (file.sha256.empty() ? sidecarPath(file.path) + " says " : "pinned is ") + wanted +
                        "; bless it again or correct the digest");
  }
  return Store::openBlessed(file.path);
}

} // namespace

Status Cache::Impl::openBlessed() {
  Status first;
  for (const BlessedFile &file : options.blessed) {
    BlessedLayer layer{file.path, nullptr, {}};
    Result<std::unique_ptr<Store>> store = openBlessedFile(file, options.strict);
    if (store.ok()) {
      layer.store = store.take();
    } else {
      layer.problem = store.status().text();
      degrade("blessed " + file.path, layer.problem + "; this blessed file is not used");
      bool fatal = options.strict || (!file.sha256.empty() && store.status().kind() == ErrorKind::CacheDamage);
      if (fatal && first.ok()) first = store.status();
    }
    blessed.push_back(std::move(layer));
  }
  return first;
}

void Cache::Impl::closeFiles() {
  std::lock_guard lock(files_mutex);
  if (!user.opened()) return;
  Status flushed = user.flush(persistentCounters());
  if (!flushed.ok()) degrade("flush", flushed.text() + "; last uses and counters of this process are lost");
  user.close();
  if (options.evict_policy.empty() || !flushed.ok()) return;
  Result<EvictReport> evicted = evict(user.path(), options.evict_policy);
  if (!evicted.ok()) degrade("evict", evicted.status().text());
}

// ---- counters --------------------------------------------------------------------------------------------------

void Cache::Impl::count(int64_t CacheCounters::*counter, int64_t by) {
  std::lock_guard lock(counters_mutex);
  counters.*counter += by;
}

void Cache::Impl::degrade(const std::string &cause, const std::string &text) {
  {
    std::lock_guard lock(counters_mutex);
    ++counters.degraded;
    if (!warned.insert(cause).second) return;
  }
  if (options.warn) options.warn(text);
}

std::map<std::string, int64_t> Cache::Impl::persistentCounters() const {
  std::lock_guard lock(counters_mutex);
  std::map<std::string, int64_t> out = {
      {"hits_memory", counters.hits_memory},     {"hits_blessed", counters.hits_blessed},
      {"hits_user", counters.hits_user},         {"misses", counters.misses},
      {"compiles", counters.compiles},           {"published", counters.published},
      {"races_lost", counters.races_lost},       {"waits", counters.waits},
      {"wait_timeouts", counters.wait_timeouts}, {"damaged_rows", counters.damaged_rows},
      {"quarantined", counters.quarantined},     {"files_set_aside", user.filesSetAside()},
      {"degraded", counters.degraded},
  };
  for (const auto &[reason, count] : counters.misses_by_reason) out["miss:" + reason] = count;
  std::erase_if(out, [](const auto &item) { return item.second == 0; });
  return out;
}

CacheCounters Cache::counters() const {
  Impl &self = impl();
  std::lock_guard files(self.files_mutex);
  std::lock_guard lock(self.counters_mutex);
  CacheCounters out = self.counters;
  out.files_set_aside = self.user.filesSetAside();
  return out;
}

std::vector<LayerState> Cache::layers() const {
  Impl &self = impl();
  std::lock_guard lock(self.files_mutex);
  std::vector<LayerState> out;
  for (const BlessedLayer &layer : self.blessed)
    out.push_back({CacheLayer::Blessed, layer.path, layer.store != nullptr, false, layer.problem});
  if (self.user.wanted()) {
    Store *store = self.user.store();
    out.push_back(
        {CacheLayer::User, self.user.path(), store != nullptr, store && store->writable(), self.user.problem()});
  }
  return out;
}

// ---- looking up ------------------------------------------------------------------------------------------------

namespace {

constexpr const char *kToolchainNote = "toolchain";

bool admits(ToolchainPolicy policy, const std::string &wanted, const std::string &toolchain) {
  return policy == ToolchainPolicy::Any || wanted.empty() || wanted == toolchain;
}

} // namespace

const std::string &Cache::Impl::toolchainOf(const Query &query) const {
  if (!query.toolchain.empty() || query.compiler.empty()) return query.toolchain;
  std::shared_lock lock(memory_mutex);
  auto known = toolchains.find(query.compiler);
  return known == toolchains.end() ? query.compiler : known->second;
}

void Cache::Impl::recallToolchain(const Query &query) {
  if (query.compiler.empty() || toolchainOf(query) != query.compiler || !user.store()) return;
  auto note = user.with<std::optional<std::string>>(
      false, [&](Store &store) { return store.note(kToolchainNote, query.compiler); });
  if (!note.ok() || !*note) return;
  std::unique_lock lock(memory_mutex);
  toolchains.emplace(query.compiler, **note);
}

void Cache::Impl::learnToolchain(const std::string &compiler, const std::string &toolchain) {
  {
    std::unique_lock lock(memory_mutex);
    if (!toolchains.emplace(compiler, toolchain).second) return;
  }
  std::lock_guard lock(files_mutex);
  if (!user.store() || !user.store()->writable()) return; // publishing says why
  Result<bool> noted = user.with<bool>(true, [&](Store &store) -> Result<bool> {
    PHASEC_TRY(store.setNote(kToolchainNote, compiler, toolchain));
    return true;
  });
  if (!noted.ok()) degrade("note", noted.status().text() + "; the compiler will be asked for its version again");
}

std::optional<Hit> Cache::lookup(const Query &query) { return impl().lookup(query); }

std::optional<Hit> Cache::Impl::lookup(const Query &query) {
  {
    const std::string &wanted = toolchainOf(query);
    std::shared_lock lock(memory_mutex);
    auto found = memory.find(query.key);
    if (found != memory.end()) {
      for (const Hit &hit : found->second) {
        ToolchainPolicy policy = hit.layer == CacheLayer::Blessed ? options.blessed_policy : options.user_policy;
        if (!admits(policy, wanted, hit.artefact->toolchain)) continue;
        count(&CacheCounters::hits_memory);
        return Hit{hit.artefact, CacheLayer::Memory, hit.path};
      }
    }
  }
  std::optional<Hit> hit = lookupFiles(query);
  if (hit) remember(*hit);
  return hit;
}

std::optional<Hit> Cache::Impl::lookupFiles(const Query &query) {
  std::lock_guard lock(files_mutex);
  auto judge = [&](const Result<Store::Found> &found, const std::string &path) {
    if (!found.ok()) {
      degrade("read " + path, found.status().text());
      damaged[query.key] = found.status().text();
      return false;
    }
    if (found->damaged) {
      count(&CacheCounters::damaged_rows, found->damaged);
      count(&CacheCounters::quarantined, found->quarantined);
      damaged[query.key] =
          "the row in " + path + " failed its checksum and was " + (found->quarantined ? "moved aside" : "ignored");
      degrade("damage " + path, damaged[query.key]);
    }
    return found->artefact != nullptr;
  };
  for (BlessedLayer &layer : blessed) {
    if (!layer.store) continue;
    Result<Store::Found> found = layer.store->find(query.key, toolchainOf(query), options.blessed_policy);
    if (!judge(found, layer.path)) continue;
    count(&CacheCounters::hits_blessed);
    return Hit{found->artefact, CacheLayer::Blessed, layer.path};
  }
  auto nobody = [&] {
    for (BlessedLayer &layer : blessed)
      if (layer.store && !damaged.count(query.key)) // told already
        if (Status s = layer.store->expectAbsent(query.key, toolchainOf(query), options.blessed_policy); !s.ok()) judge(s, layer.path);
    return std::nullopt;
  };
  if (!user.store()) return nobody();
  recallToolchain(query);
  Result<Store::Found> found = user.with<Store::Found>(false, [&](Store &store) -> Result<Store::Found> {
    PHASEC_ASSIGN(Store::Found found, store.find(query.key, toolchainOf(query), options.user_policy));
    if (!found.artefact && !found.damaged) PHASEC_TRY(store.expectAbsent(query.key, toolchainOf(query), options.user_policy));
    return found;
  });
  if (!judge(found, user.path())) return nobody();
  count(&CacheCounters::hits_user);
  user.touch(found->id);
  return Hit{found->artefact, CacheLayer::User, user.path()};
}

/// Oldest first out: kernels in use are held by their owners, this map only saves re-reading.
void Cache::Impl::remember(const Hit &hit) {
  std::unique_lock lock(memory_mutex);
  std::vector<Hit> &known = memory[hit.artefact->key];
  for (const Hit &other : known)
    if (other.artefact->toolchain == hit.artefact->toolchain) return;
  known.push_back(hit);
  memory_order.push_back(hit.artefact->key);
  memory_bytes += int64_t(hit.artefact->payload.size());
  while (memory_bytes > options.memory_bytes_max && memory_order.size() > 1) {
    auto oldest = memory.find(memory_order.front());
    memory_order.pop_front();
    if (oldest == memory.end()) continue;
    for (const Hit &gone : oldest->second) memory_bytes -= int64_t(gone.artefact->payload.size());
    memory.erase(oldest);
  }
}

// ---- explaining ------------------------------------------------------------------------------------------------

Miss Cache::explain(const Query &query) { return impl().explain(query); }

Miss Cache::Impl::explain(const Query &query) {
  Miss miss{query.key, {}, {}, {}};
  Described wanted{query.key.wo_split, {}, query.sections};
  sortSections(wanted.sections);
  int64_t best = INT64_MAX, best_created = 0;
  auto consider = [&](const EntryInfo &info, const Sections &sections, CacheLayer layer, const std::string &path) {
    ToolchainPolicy policy = layer == CacheLayer::Blessed ? options.blessed_policy : options.user_policy;
    wanted.toolchain = policy == ToolchainPolicy::Any ? std::string() : toolchainOf(query);
    // A row that should have been a hit is damaged; it explains nothing.
    if (info.key == query.key && admits(policy, wanted.toolchain, info.toolchain)) return;
    Described row{info.key.wo_split, info.toolchain, sections.list()};
    if (!sameKind(row, wanted)) return;
    std::vector<Reason> reasons = differences(row, wanted);
    int64_t distance = distanceOf(reasons);
    if (distance > best || (distance == best && info.created_s < best_created)) return;
    best = distance;
    best_created = info.created_s;
    miss.nearest = {info.key, info.toolchain, info.layer, info.target, layer, path};
    miss.reasons = std::move(reasons);
  };
  auto scan = [&](Store &store, CacheLayer layer) {
    return store.forEach([&](const EntryInfo &info, std::string_view sections) {
      consider(info, Sections::stored(sections), layer, store.path());
    });
  };
  {
    std::lock_guard lock(files_mutex);
    for (BlessedLayer &layer : blessed) {
      if (!layer.store) {
        miss.notes.push_back(layer.problem);
        continue;
      }
      Status status = scan(*layer.store, CacheLayer::Blessed);
      if (!status.ok()) miss.notes.push_back(status.text());
    }
    if (Store *store = user.store()) {
      recallToolchain(query);
      Status status = scan(*store, CacheLayer::User);
      if (!status.ok()) miss.notes.push_back(status.text());
    }
    if (!user.problem().empty()) miss.notes.push_back(user.problem());
    auto bad = damaged.find(query.key);
    if (bad != damaged.end()) miss.reasons.insert(miss.reasons.begin(), Reason{"damage", "", bad->second, false});
  }
  std::shared_lock lock(memory_mutex);
  for (const auto &[key, hits] : memory)
    for (const Hit &hit : hits) {
      EntryInfo info;
      info.key = key;
      info.toolchain = hit.artefact->toolchain;
      info.layer = hit.artefact->layer;
      info.target = hit.artefact->target;
      // Rows of a file were seen above; what lives in memory only is compared here.
      if (hit.path.empty()) consider(info, hit.artefact->sections, CacheLayer::Memory, hit.path);
    }
  return miss;
}

Miss Cache::miss(const Query &query) {
  Impl &self = impl();
  Miss miss = self.explain(query);
  std::lock_guard lock(self.counters_mutex);
  ++self.counters.misses;
  std::string group = miss.reasons.empty() ? (miss.nearest ? "unknown" : "empty") : reasonGroup(miss.reasons.front());
  ++self.counters.misses_by_reason[group];
  return miss;
}

// ---- listings, notes, tuned schedules --------------------------------------------------------------------------

Result<Listing> Cache::listing(const Key &key, const std::string &toolchain) {
  Impl &self = impl();
  std::lock_guard lock(self.files_mutex);
  for (BlessedLayer &layer : self.blessed) {
    if (!layer.store) continue;
    Result<std::optional<Listing>> found = layer.store->listing(key, toolchain);
    if (found.ok() && *found) return **found;
  }
  if (self.user.store()) {
    Result<std::optional<Listing>> found =
        self.user.with<std::optional<Listing>>(false, [&](Store &store) { return store.listing(key, toolchain); });
    if (found.ok() && *found) return **found;
  }
  return Status::input("no layer has source and PTX of " + key.text() + " by " + toolchain);
}

std::optional<std::string> Cache::note(const std::string &kind, const std::string &subject) {
  Impl &self = impl();
  std::lock_guard lock(self.files_mutex);
  if (!self.user.store()) return std::nullopt;
  Result<std::optional<std::string>> found =
      self.user.with<std::optional<std::string>>(false, [&](Store &store) { return store.note(kind, subject); });
  return found.ok() ? *found : std::nullopt;
}

Status Cache::setNote(const std::string &kind, const std::string &subject, const std::string &text) {
  Impl &self = impl();
  std::lock_guard lock(self.files_mutex);
  return self.user
      .with<bool>(true,
                  [&](Store &store) -> Result<bool> {
                    PHASEC_TRY(store.setNote(kind, subject, text));
                    return true;
                  })
      .status();
}

std::optional<Tuned> Cache::tuned(const TunedKey &key) {
  Impl &self = impl();
  std::lock_guard lock(self.files_mutex);
  // A question makes no file: where blessed files answer everything, there need not be one, nor a place for it.
  if (!self.user.wanted() || access(self.user.path().c_str(), F_OK) != 0 || !self.user.store()) return std::nullopt;
  Result<std::optional<Tuned>> found =
      self.user.with<std::optional<Tuned>>(false, [&](Store &store) { return store.tuned(key); });
  return found.ok() ? *found : std::nullopt;
}

Status Cache::setTuned(const Tuned &winner) {
  Impl &self = impl();
  std::lock_guard lock(self.files_mutex);
  return self.user
      .with<bool>(true,
                  [&](Store &store) -> Result<bool> {
                    PHASEC_TRY(store.setTuned(winner));
                    return true;
                  })
      .status();
}

} // namespace phasec
