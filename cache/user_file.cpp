// user_file.cpp: see user_file.h. Opening and replacing happen under a lock between processes, so that nobody opens a
// fresh database beside the write-ahead log of the one that is being moved away.
#include "cache/user_file.h"
#include "cache/trust.h"

#include <cerrno>
#include <cstring>
#include <sys/stat.h>
#include <unistd.h>

namespace phasec {

namespace {

constexpr int kAsideFilesMax = 8;

bool exists(const std::string &path) { return access(path.c_str(), F_OK) == 0; }

} // namespace

// The schema's version is part of the name: two versions of phasec share a directory without moving each other's files.
std::string userFile(const std::string &user_dir) {
  return user_dir + "/kernels-v" + std::to_string(kUserVersion) + ".db";
}

Store *UserFile::store() {
  if (state_ == State::Open) return store_.get();
  if (state_ == State::Failed || !wanted()) return nullptr;
  Status status = open();
  state_ = status.ok() ? State::Open : State::Failed;
  if (!status.ok()) {
    problem_ = status.text();
    warn_("user file", problem_ + "; going on without a user file: kernels live in this process's memory only");
  } else if (!store_->writable()) {
    warn_("user file", problem_ + "; kernels are read from there, new ones live in this process's memory only");
  }
  return store_.get();
}

Status UserFile::open() {
  problem_.clear();
  Status directory = ensurePrivateDirectory(dir_);
  if (!directory.ok()) return directory;
  WaitResult housekeeping = waitForHousekeeping(dir_, "opening");
  if (exists(path())) PHASEC_TRY(checkTrusted(path()));
  Status writing = openOrReplace();
  if (writing.ok()) return {};
  if (writing.kind() == ErrorKind::CacheDamage || !exists(path())) return writing;
  // A read-only directory or medium still serves what it holds.
  Result<std::unique_ptr<Store>> reading = Store::openReadOnly(path());
  if (!reading.ok() || reading->get()->role() != StoreRole::User) return writing;
  store_ = reading.take();
  problem_ = writing.text();
  return {};
}

Status UserFile::openOrReplace() {
  Result<std::unique_ptr<Store>> store = Store::openUser(path());
  if (!store.ok() && store.status().kind() == ErrorKind::CacheDamage) {
    PHASEC_TRY(setAside(store.status()));
    store = Store::openUser(path());
  }
  if (!store.ok()) return store.status();
  store_ = store.take();
  return {};
}

/// Renames database, log and shared memory together. The caller holds the housekeeping lock.
Status UserFile::setAside(const Status &why) {
  std::string aside;
  for (int n = 1; n <= kAsideFilesMax; ++n) {
    aside = path() + ".aside-" + std::to_string(n);
    if (!exists(aside)) break;
  }
  for (const char *suffix : {"-shm", "-wal", "-journal", ""})
    if (rename((path() + suffix).c_str(), (aside + suffix).c_str()) != 0 && errno != ENOENT)
      return {ErrorKind::CacheDamage, why.text() + "; and it cannot be moved aside: " + std::strerror(errno)};
  ++set_aside_;
  uses_.clear();
  warn_("set aside", why.text() + "; moved to " + aside + ", starting an empty one");
  return {};
}

bool UserFile::replaced() const {
  struct stat info {};
  if (stat(path().c_str(), &info) != 0) return errno == ENOENT;
  return store_->identity() != std::pair(info.st_dev, info.st_ino);
}

/// The open file turned out to be broken. False: there is nothing better to go on with.
bool UserFile::replace(const Status &why) {
  WaitResult housekeeping = waitForHousekeeping(dir_, "replacing");
  bool another_did = replaced();
  close(); // before the rename: a closing connection deletes its log by name
  if (!another_did && !setAside(why).ok()) return false;
  Status status = openOrReplace();
  state_ = status.ok() ? State::Open : State::Failed;
  if (!status.ok()) problem_ = status.text();
  return status.ok();
}

Status UserFile::flush(const std::map<std::string, int64_t> &counters) {
  if (state_ != State::Open && state_ != State::Closed) return {};
  Result<bool> done = with<bool>(true, [&](Store &store) -> Result<bool> {
    PHASEC_TRY(store.flush(uses_, counters));
    return true;
  });
  uses_.clear();
  return done.status();
}

void UserFile::close() {
  store_.reset();
  if (state_ == State::Open) state_ = State::Closed;
}

} // namespace phasec
