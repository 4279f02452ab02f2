// faults.cpp: damage of every kind to user and blessed files, seeded and counted. After each trial: the right kernel or
// a typed error; never wrong bytes, never an abort, never a file that stays broken.
//
//   faults [--trials N] [--seed S] [--all] [KIND...]     default 20 trials a kind; --all 1000
//
// Kinds: flip truncate garbage zero enospc eio erofs full readonly eacces kill clock fork. A failing trial prints its kind
// and seed. enospc, eio and erofs come from a SQLite VFS that lies between SQLite and the disk and fails the n-th call;
// full and readonly are real file systems, mounted where this user may (else the kind is skipped by name).
#include "tests/cache/support.h"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <map>
#include <sched.h>
#include <sys/mount.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <thread>

using namespace phasec;
using namespace phasec::test;

namespace {

// ---- the VFS shim ----------------------------------------------------------------------------------------------

/// Counts calls that touch the disk; from `fail_from` on, `fail_count` of them fail with `error`.
struct Shim {
  int64_t calls = 0, fail_from = -1, fail_count = 0;
  int error = SQLITE_OK;
  bool writes_only = false;
  int64_t failed = 0;

  bool fails(bool writing) {
    if (fail_from < 0 || (writes_only && !writing)) return false;
    int64_t call = calls++;
    bool hit = call >= fail_from && call < fail_from + fail_count;
    failed += hit;
    return hit;
  }
} shim;

struct ShimFile {
  sqlite3_file base;
  sqlite3_file *real; // follows in the same allocation
};

sqlite3_file *realOf(sqlite3_file *file) { return reinterpret_cast<ShimFile *>(file)->real; }

int shimClose(sqlite3_file *f) { return realOf(f)->pMethods->xClose(realOf(f)); }
int shimRead(sqlite3_file *f, void *to, int bytes, sqlite3_int64 at) {
  if (shim.fails(false)) return SQLITE_IOERR_READ;
  return realOf(f)->pMethods->xRead(realOf(f), to, bytes, at);
}
int shimWrite(sqlite3_file *f, const void *from, int bytes, sqlite3_int64 at) {
  // A full disk takes half of it, as disks do.
  if (shim.fails(true)) return (void)realOf(f)->pMethods->xWrite(realOf(f), from, bytes / 2, at), shim.error;
  return realOf(f)->pMethods->xWrite(realOf(f), from, bytes, at);
}
int shimTruncate(sqlite3_file *f, sqlite3_int64 size) {
  if (shim.fails(true)) return shim.error == SQLITE_FULL ? SQLITE_IOERR_TRUNCATE : shim.error;
  return realOf(f)->pMethods->xTruncate(realOf(f), size);
}
int shimSync(sqlite3_file *f, int flags) {
  if (shim.fails(true)) return SQLITE_IOERR_FSYNC;
  return realOf(f)->pMethods->xSync(realOf(f), flags);
}
int shimSize(sqlite3_file *f, sqlite3_int64 *size) { return realOf(f)->pMethods->xFileSize(realOf(f), size); }
int shimLock(sqlite3_file *f, int level) { return realOf(f)->pMethods->xLock(realOf(f), level); }
int shimUnlock(sqlite3_file *f, int level) { return realOf(f)->pMethods->xUnlock(realOf(f), level); }
int shimReserved(sqlite3_file *f, int *out) { return realOf(f)->pMethods->xCheckReservedLock(realOf(f), out); }
int shimControl(sqlite3_file *f, int op, void *arg) { return realOf(f)->pMethods->xFileControl(realOf(f), op, arg); }
int shimSector(sqlite3_file *f) { return realOf(f)->pMethods->xSectorSize(realOf(f)); }
int shimTraits(sqlite3_file *f) { return realOf(f)->pMethods->xDeviceCharacteristics(realOf(f)); }
int shimShmMap(sqlite3_file *f, int page, int size, int extend, void volatile **out) {
  if (extend && shim.fails(true)) return SQLITE_IOERR_SHMSIZE;
  return realOf(f)->pMethods->xShmMap(realOf(f), page, size, extend, out);
}
int shimShmLock(sqlite3_file *f, int at, int n, int flags) {
  return realOf(f)->pMethods->xShmLock(realOf(f), at, n, flags);
}
void shimShmBarrier(sqlite3_file *f) { realOf(f)->pMethods->xShmBarrier(realOf(f)); }
int shimShmUnmap(sqlite3_file *f, int erase) { return realOf(f)->pMethods->xShmUnmap(realOf(f), erase); }

const sqlite3_io_methods kShimMethods = {2,          shimClose,  shimRead,    shimWrite,      shimTruncate, shimSync,
                                         shimSize,   shimLock,   shimUnlock,  shimReserved,   shimControl,  shimSector,
                                         shimTraits, shimShmMap, shimShmLock, shimShmBarrier, shimShmUnmap, nullptr,
                                         nullptr};

sqlite3_vfs *real_vfs = nullptr;
sqlite3_vfs shim_vfs;

int shimOpen(sqlite3_vfs *, const char *path, sqlite3_file *file, int flags, int *flags_out) {
  auto *mine = reinterpret_cast<ShimFile *>(file);
  mine->base.pMethods = nullptr;
  mine->real = reinterpret_cast<sqlite3_file *>(mine + 1);
  bool creating = (flags & SQLITE_OPEN_CREATE) != 0;
  if (creating && shim.fails(true)) return SQLITE_CANTOPEN;
  int code = real_vfs->xOpen(real_vfs, path, mine->real, flags, flags_out);
  if (mine->real->pMethods) mine->base.pMethods = &kShimMethods;
  return code;
}

void installShim() {
  sqlite3_initialize();
  real_vfs = sqlite3_vfs_find(nullptr);
  shim_vfs = *real_vfs;
  shim_vfs.zName = "phasec-test-shim";
  shim_vfs.szOsFile = int(sizeof(ShimFile)) + real_vfs->szOsFile;
  shim_vfs.xOpen = shimOpen;
  shim_vfs.pNext = nullptr;
  sqlite3_vfs_register(&shim_vfs, 1);
}

// ---- trials ----------------------------------------------------------------------------------------------------

using Random = std::mt19937_64;

struct Tally {
  int trials = 0, hits = 0, misses = 0, typed_errors = 0, warned = 0;
  int64_t damaged_rows = 0, set_aside = 0, degraded = 0; ///< the caches' own counters
};

/// A trial's complaint, empty when all is well.
using Complaint = std::string;

constexpr int kKernels = 6;

Compiled kernelOf(int index) {
  return makeKernel(index % 2 ? 8 : 1, uint64_t(index), 5'000 + 9'001u * unsigned(index));
}

/// A folder with a filled user file and a blessed file.
struct Scene {
  TempDir dir;
  std::string user = userFile(dir / "user"), blessed = dir / "b.db";
  bool complete = true; ///< all kernels are stored: a cache that misses one must be able to say why

  explicit Scene(const std::string &base = {}) : dir(base) {
    std::vector<Compiled> kernels;
    for (int i = 0; i < kKernels; ++i) kernels.push_back(kernelOf(i));
    Bench bench(dir / "user");
    auto cache = bench.open();
    for (const Compiled &kernel : kernels) (void)cache->publish(kernel).ok();
    (void)writeBlessed(blessed, kernels).ok();
  }
  void removeUserFile() {
    std::filesystem::remove(user);
    complete = false;
  }
};

/// Uses everything a running program uses, and complains about any byte that is not right.
Complaint exercise(const Scene &scene, bool with_blessed, Random &random, Tally &tally) {
  Bench bench(scene.dir / "user");
  if (with_blessed) bench.options.blessed = {{scene.blessed, ""}};
  auto cache = bench.open();
  if (!cache) return "open failed";
  int lost = 0;
  for (int i = 0; i < kKernels; ++i) {
    Compiled kernel = kernelOf(i);
    std::optional<Hit> hit = cache->lookup(queryOf(kernel));
    lost += !hit;
    if (hit && !sameBytes(*hit->artefact, kernel.artefact)) return "WRONG BYTES from a look-up";
    ++(hit ? tally.hits : tally.misses);
    Miss miss = cache->miss({makeKernel(4, 99).artefact.key, kToolchain, kernel.artefact.sections.list()});
    if (miss.text().empty() || miss.json().empty()) return "no explanation";
    Result<Listing> listing = cache->listing(kernel.artefact.key, kToolchain);
    if (listing.ok() && (listing->source != kernel.listing.source || listing->ptx != kernel.listing.ptx))
      return "WRONG TEXT from a listing";
    if (!listing.ok()) ++tally.typed_errors;
    Result<Hit> made = cache->obtain(queryOf(kernel), [&]() -> Result<Compiled> { return kernel; });
    if (!made.ok()) return "obtain failed: " + made.status().text();
    if (!sameBytes(*made->artefact, kernel.artefact)) return "WRONG BYTES from obtain";
  }
  if (random() % 2) (void)cache->setNote("k", "s", "t").ok();
  tally.warned += !bench.warnings->empty();
  CacheCounters told = cache->counters();
  tally.damaged_rows += told.damaged_rows;
  tally.set_aside += told.files_set_aside;
  tally.degraded += told.degraded;
  if (scene.complete && lost && told.damaged_rows + told.files_set_aside + told.degraded == 0)
    return "a stored kernel was missed, and no counter says why";
  cache.reset();
  for (const std::string &path : {scene.user, scene.blessed}) {
    tally.typed_errors += !verifyStore(path).ok();
    tally.typed_errors += !listEntries(path).ok();
    tally.typed_errors += !storeStats(path).ok();
    tally.typed_errors += !mergeStores({path}, scene.dir / "merged.db").ok();
    tally.typed_errors += !diffStores(path, scene.blessed).ok();
  }
  tally.typed_errors += !evict(scene.user, "cache_size_bytes=1g").ok();
  return {};
}

/// After the fault is over the kernels must be right at once, and the user file sound and full in the end: damage in a
/// side table may show itself only when the first process writes its counters at close, so a second one follows.
Complaint expectHealed(const Scene &scene, bool damaged_user) {
  for (int process = 0; process < 2; ++process) {
    Bench bench(scene.dir / "user");
    auto cache = bench.open();
    for (int i = 0; i < kKernels; ++i) {
      Compiled kernel = kernelOf(i);
      Result<Hit> hit = cache->obtain(queryOf(kernel), [&]() -> Result<Compiled> { return kernel; });
      if (!hit.ok() || !sameBytes(*hit->artefact, kernel.artefact)) return "not healed: wrong kernel";
    }
  }
  auto entries = listEntries(scene.user);
  if (!entries.ok()) return "not healed: " + entries.status().text();
  if (entries->size() < kKernels) return "not healed: " + std::to_string(entries->size()) + " entries";
  auto report = verifyStore(scene.user);
  // A flipped bit in a listing, an index or a free page hurts no kernel; verify names it, and `cache clear` ends it.
  if (!damaged_user && !report->ok()) return "not sound: " + report->findings.front();
  return {};
}

Complaint damageTrial(const std::string &kind, Random &random, Tally &tally) {
  Scene scene;
  bool user = random() % 2;
  std::string path = user ? scene.user : scene.blessed;
  if (user && random() % 4 == 0 && std::filesystem::exists(scene.user + "-wal")) path = scene.user + "-wal";
  std::string bytes = readFile(path);
  if (kind == "flip")
    for (uint64_t n = 1 + random() % 8; n > 0; --n) bytes[random() % bytes.size()] ^= char(1 << random() % 8);
  if (kind == "truncate") bytes.resize(random() % bytes.size());
  if (kind == "zero") bytes.clear();
  scene.complete = !bytes.empty(); // an empty file is an empty cache
  if (kind == "garbage") {
    size_t from = random() % 3 ? random() % bytes.size() : 0;
    size_t count = 1 + random() % (random() % 2 ? bytes.size() : 4'096);
    for (size_t i = from; i < std::min(bytes.size(), from + count); ++i) bytes[i] = char(random());
  }
  struct stat before {};
  stat(path.c_str(), &before);
  writeFile(path, bytes);
  bool detected = user || !verifyStore(scene.blessed)->ok() || bytes == readFile(scene.user);
  if (!detected) return "verify did not see a damaged blessed file";
  Complaint complaint = exercise(scene, !user, random, tally);
  if (!complaint.empty()) return complaint;
  if (!user && readFile(scene.blessed) != bytes) return "a blessed file was written to";
  return expectHealed(scene, user);
}

Complaint diskTrial(const std::string &kind, Random &random, Tally &tally) {
  Scene scene;
  if (random() % 3 == 0) scene.removeUserFile(); // also while a file is being made
  shim = {};
  shim.error = kind == "enospc" ? SQLITE_FULL : kind == "erofs" ? SQLITE_READONLY : SQLITE_IOERR_WRITE;
  shim.writes_only = kind != "eio";
  shim.fail_count = random() % 2 ? 1 : kind == "eio" ? int64_t(1 + random() % 20) : INT32_MAX;
  shim.fail_from = int64_t(random() % (kind == "eio" ? 300 : 60));
  Complaint complaint = exercise(scene, random() % 2, random, tally);
  shim = {};
  return complaint.empty() ? expectHealed(scene, false) : complaint;
}

/// A small file system of this process's own. Mounts are seen by nobody else and vanish with the process.
class Mounted {
public:
  /// Why nothing can be mounted here; empty: it can.
  static std::string problem() {
    static const std::string why = [] {
      bool alone = unshare(CLONE_NEWNS) == 0 && mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
      return alone && Mounted().mounted_ ? std::string() : std::string("cannot mount a file system: ") + std::strerror(errno);
    }();
    return why;
  }
  Mounted() : mounted_(mount("phasec", dir_.path().c_str(), "tmpfs", 0, kOptions) == 0) {}
  ~Mounted() {
    if (mounted_) umount2(dir_.path().c_str(), MNT_DETACH);
  }
  const std::string &path() const { return dir_.path(); }
  bool readOnly(bool on) { return mount("phasec", path().c_str(), nullptr, MS_REMOUNT | (on ? MS_RDONLY : 0), kOptions) == 0; }
  /// Fills it up but for `bytes`; 0 frees everything again.
  bool leave(int64_t bytes) {
    std::string ballast = path() + "/ballast";
    std::filesystem::remove(ballast);
    struct statfs info {};
    if (bytes == 0 || statfs(path().c_str(), &info) != 0) return bytes == 0;
    int fd = open(ballast.c_str(), O_WRONLY | O_CREAT, 0600);
    bool filled = fd >= 0 && posix_fallocate(fd, 0, int64_t(info.f_bavail) * info.f_bsize - bytes) == 0;
    if (fd >= 0) close(fd);
    return filled;
  }

private:
  static constexpr const char *kOptions = "size=4m,mode=0700";
  TempDir dir_;
  bool mounted_;
};

/// A disk with a few pages left, or none.
Complaint fullTrial(const std::string &, Random &random, Tally &tally) {
  Mounted disk;
  Scene scene(disk.path());
  if (random() % 2) scene.removeUserFile();
  if (!disk.leave(1 + int64_t(random() % (random() % 2 ? 4'096 * 4 : 400'000)))) return "cannot fill the disk";
  Complaint complaint = exercise(scene, random() % 2, random, tally);
  disk.leave(0);
  return complaint.empty() ? expectHealed(scene, false) : complaint;
}

/// A medium that may not be written, whatever the modes say.
Complaint readOnlyTrial(const std::string &, Random &random, Tally &tally) {
  Mounted disk;
  Scene scene(disk.path());
  if (random() % 3 == 0) scene.removeUserFile();
  if (!disk.readOnly(true)) return "cannot make the disk read-only";
  Complaint complaint = exercise(scene, random() % 2, random, tally);
  if (!disk.readOnly(false)) return "cannot make the disk writable";
  return complaint.empty() ? expectHealed(scene, false) : complaint;
}

/// Real modes, without root's rights.
Complaint accessTrial(const std::string &, Random &random, Tally &tally) {
  Scene scene;
  const int kModes[] = {0000, 0100, 0400, 0500, 0300};
  int mode = kModes[random() % 5], file_mode = random() % 2 ? 0400 : 0000;
  bool on_file = random() % 2;
  for (const auto &item : std::filesystem::recursive_directory_iterator(scene.dir.path()))
    if (geteuid() == 0 && chown(item.path().c_str(), 65534, 65534) != 0) return "chown failed";
  if (geteuid() == 0 && chown(scene.dir.path().c_str(), 65534, 65534) != 0) return "chown failed";
  chmod((on_file ? scene.user : scene.dir / "user").c_str(), mode_t(on_file ? file_mode : mode));
  std::fflush(stdout);
  int reports[2];
  if (pipe(reports) != 0) return "no pipe";
  pid_t child = fork();
  if (child == 0) {
    if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)) _exit(4);
    Complaint complaint = exercise(scene, random() % 2, random, tally);
    if (!complaint.empty()) std::printf("  %s\n", complaint.c_str());
    std::fflush(stdout);
    bool reported = write(reports[1], &tally, sizeof tally) == sizeof tally;
    _exit(complaint.empty() && reported ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  close(reports[1]);
  if (status == 0 && read(reports[0], &tally, sizeof tally) != sizeof tally) return "no report";
  close(reports[0]);
  chmod((scene.dir / "user").c_str(), 0700);
  return status == 0 ? Complaint() : "the child ended with status " + std::to_string(status);
}

/// A writer is killed at a random moment; what it leaves must be sound.
Complaint killTrial(const std::string &, Random &random, Tally &tally) {
  Scene scene;
  uint64_t delay_us = random() % 20'000;
  pid_t child = fork();
  if (child == 0) {
    for (uint64_t i = 0;; ++i) {
      Bench bench(scene.dir / "user");
      auto cache = bench.open();
      for (uint64_t k = 0; k < 5; ++k) {
        Compiled kernel = makeKernel(16, 1'000 + (i * 5 + k) % 40, 30'000);
        (void)cache->obtain(queryOf(kernel), [&]() -> Result<Compiled> { return kernel; }).ok();
      }
      (void)evict(scene.user, "cache_size_files=20").ok();
      (void)mergeStores({scene.user}, scene.dir / "b.db").ok();
    }
  }
  std::this_thread::sleep_for(std::chrono::microseconds(delay_us));
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  Complaint complaint = exercise(scene, true, random, tally);
  return complaint.empty() ? expectHealed(scene, false) : complaint;
}

/// Times from another age in the side table, and a file of the future.
Complaint clockTrial(const std::string &, Random &random, Tally &tally) {
  Scene scene;
  scene.complete = false; // eviction goes by time
  int64_t when = int64_t(random() % 2 ? random() : random() % 4'000'000'000u);
  sql(scene.user, "UPDATE use SET used_s = " + std::to_string(when) + ", created_s = " + std::to_string(-when) +
                      " WHERE id % 2 = " + std::to_string(random() % 2));
  Result<EvictReport> report = evict(scene.user, random() % 2 ? "prune_after=1d" : "cache_size_files=2");
  if (!report.ok()) return report.status().text();
  Complaint complaint = exercise(scene, random() % 2, random, tally);
  return complaint.empty() ? expectHealed(scene, false) : complaint;
}

/// All kernels through one cache, and a new one. Empty when all bytes were right.
Complaint useAll(Cache &cache, uint64_t fresh) {
  for (int i = 0; i <= kKernels; ++i) {
    Compiled kernel = i < kKernels ? kernelOf(i) : makeKernel(2, fresh, 3'000);
    Result<Hit> made = cache.obtain(queryOf(kernel), [&]() -> Result<Compiled> { return kernel; });
    if (!made.ok()) return made.status().text();
    if (!sameBytes(*made->artefact, kernel.artefact)) return "WRONG BYTES beside a fork";
  }
  return {};
}

/// A process forks while another of its threads uses the cache; all go on with the cache that they have, and what any of
/// them stores is there in the end.
Complaint forkTrial(const std::string &, Random &random, Tally &tally) {
  Scene scene;
  CacheOptions options;
  options.user_dir = scene.dir / "user";
  options.memory_bytes_max = 1; // the files shall be asked
  auto cache = Cache::open(options).take();
  if (random() % 2) (void)cache->lookup(queryOf(kernelOf(0)));
  std::atomic<bool> stop{false};
  Complaint of_thread, complaint;
  uint64_t stored = kKernels, of_thread_stored = 0;
  std::thread other([&] {
    for (; !stop && of_thread.empty(); ++of_thread_stored) of_thread = useAll(*cache, 10'000 + of_thread_stored);
  });
  std::vector<pid_t> children;
  for (uint64_t n = 1 + random() % 3; n > 0; --n) {
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 3'000));
    constexpr uint64_t kRounds = 4;
    auto rounds = [&](uint64_t first) {
      Complaint bad;
      for (uint64_t r = 0; r < kRounds && bad.empty(); ++r) bad = useAll(*cache, first + 100 * n + r);
      return bad;
    };
    pid_t child = fork();
    if (child == 0) _exit(rounds(2'000).empty() ? 0 : 1);
    children.push_back(child);
    if (complaint.empty()) complaint = rounds(1'000);
    stored += 2 * kRounds;
  }
  for (pid_t child : children) {
    int status = 0, waited_ms = 0;
    while (waitpid(child, &status, WNOHANG) == 0 && ++waited_ms < 20'000) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    if (waited_ms >= 20'000) kill(child, SIGKILL), waitpid(child, &status, 0);
    if (status != 0 && complaint.empty()) complaint = "a child ended with status " + std::to_string(status);
  }
  stop = true;
  other.join();
  CacheCounters told = cache->counters();
  tally.hits += int(told.hits_memory + told.hits_blessed + told.hits_user);
  tally.misses += int(told.compiles);
  tally.degraded += told.degraded;
  cache.reset();
  if (complaint.empty()) complaint = of_thread;
  size_t found = listEntries(scene.user)->size(), wanted = stored + of_thread_stored;
  if (complaint.empty() && found != wanted) complaint = std::to_string(found) + " kernels stored, not " + std::to_string(wanted);
  return complaint.empty() ? expectHealed(scene, false) : complaint;
}

struct Kind {
  const char *name;
  Complaint (*trial)(const std::string &kind, Random &random, Tally &tally);
};
const Kind kKinds[] = {{"flip", damageTrial},   {"truncate", damageTrial},    {"garbage", damageTrial}, {"zero", damageTrial},
                       {"enospc", diskTrial},   {"eio", diskTrial},           {"erofs", diskTrial},     {"full", fullTrial},
                       {"readonly", readOnlyTrial}, {"eacces", accessTrial}, {"kill", killTrial},      {"clock", clockTrial},
                       {"fork", forkTrial}};

/// Runs the trials of one kind and prints what came of them; the number of failures.
int runKind(const Kind &kind, int trials, uint64_t seed) {
  int failures = 0;
  if ((kind.trial == fullTrial || kind.trial == readOnlyTrial) && !Mounted::problem().empty()) {
    std::printf("%-8s skipped: %s\n", kind.name, Mounted::problem().c_str());
    return 0;
  }
  Tally tally;
  for (; tally.trials < trials; ++tally.trials) {
    uint64_t trial_seed = seed + uint64_t(tally.trials);
    Random random(trial_seed * 1'000'003 + std::hash<std::string>()(kind.name));
    Complaint complaint = kind.trial(kind.name, random, tally);
    if (complaint.empty()) continue;
    ++failures;
    std::printf("FAILED: %s, --seed %llu --trials 1: %s\n", kind.name, (unsigned long long)trial_seed, complaint.c_str());
  }
  std::printf("%-8s %5d trials: %6d hits, %5d misses, %5d typed errors, %4d warned; counted: %lld damaged rows, %lld files aside, %lld degraded\n",
              kind.name, tally.trials, tally.hits, tally.misses, tally.typed_errors, tally.warned, (long long)tally.damaged_rows,
              (long long)tally.set_aside, (long long)tally.degraded);
  std::fflush(stdout);
  return failures;
}

} // namespace

int main(int argc, char **argv) {
  std::vector<Kind> kinds;
  int trials = 20;
  uint64_t seed = 1;
  for (int i = 1; i < argc; ++i) {
    std::string arg = argv[i];
    auto named = std::find_if(std::begin(kKinds), std::end(kKinds), [&](const Kind &kind) { return kind.name == arg; });
    if (arg == "--all")
      trials = 1'000;
    else if (arg == "--trials" && i + 1 < argc)
      trials = std::atoi(argv[++i]);
    else if (arg == "--seed" && i + 1 < argc)
      seed = std::strtoull(argv[++i], nullptr, 10);
    else if (named != std::end(kKinds))
      kinds.push_back(*named);
    else
      return std::printf("usage: faults [--trials N] [--seed S] [--all] [KIND...]\n"), 2;
  }
  if (kinds.empty()) kinds.assign(std::begin(kKinds), std::end(kKinds));
  installShim();
  int failures = 0;
  for (const Kind &kind : kinds) failures += runKind(kind, trials, seed);
  std::printf("%s\n", failures ? "faults: FAILED" : "faults: ok");
  return failures ? 1 : 0;
}
