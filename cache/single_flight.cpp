// single_flight.cpp: see single_flight.h.
#include "cache/single_flight.h"
#include "cache/encode.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>

namespace phasec {

namespace {

constexpr int64_t kRecordBytes = 128;
constexpr int64_t kHousekeepingRecord = 0;
constexpr int64_t kFirstKeyRecord = 4096;
constexpr int64_t kKeyRecords = 65536;
constexpr int kHostGroups = 64; // 1 + 64 * 63 records fit below the keys
constexpr std::chrono::milliseconds kPollFirst{1}, kPollLast{20};
constexpr std::chrono::seconds kHousekeepingWait{5};
constexpr std::chrono::milliseconds kReportFirst{100}, kReportEvery{1'000};

} // namespace

RecordLock::Attempt RecordLock::tryLock(const std::string &lock_file, int64_t record, const std::string &what) {
#ifdef F_OFD_SETLK
  // A descriptor per lock: locks of one descriptor would merge, and closing it must release exactly this one.
  int fd = open(lock_file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return {Outcome::Unavailable, {}};
  struct flock range {};
  range.l_type = F_WRLCK;
  range.l_whence = SEEK_SET;
  range.l_start = record * kRecordBytes;
  range.l_len = 1;
  if (fcntl(fd, F_OFD_SETLK, &range) != 0) {
    bool busy = errno == EAGAIN || errno == EACCES;
    close(fd);
    return {busy ? Outcome::Busy : Outcome::Unavailable, {}};
  }
  char text[kRecordBytes] = {};
  std::snprintf(text, sizeof text, "%ld %.48s %.56s\n", long(getpid()), hostName().c_str(), what.c_str());
  // A full disk costs the waiters the holder's name, nothing else.
  ssize_t ignored = pwrite(fd, text, sizeof text, record * kRecordBytes);
  (void)ignored;
  Attempt attempt{Outcome::Held, {}};
  attempt.lock.fd_ = fd;
  attempt.lock.record_ = record;
  return attempt;
#else
  (void)lock_file, (void)record, (void)what;
  return {Outcome::Unavailable, {}};
#endif
}

RecordLock::~RecordLock() {
#ifdef F_OFD_SETLK
  if (fd_ < 0) return;
  // Unlock explicitly: after a fork the child's copy of the descriptor would keep the lock past our close().
  struct flock range {};
  range.l_type = F_UNLCK;
  range.l_whence = SEEK_SET;
  range.l_start = record_ * kRecordBytes;
  range.l_len = 1;
  (void)fcntl(fd_, F_OFD_SETLK, &range);
  close(fd_);
#endif
}

HolderRecord readHolder(const std::string &lock_file, int64_t record) {
  HolderRecord holder;
  int fd = open(lock_file.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return holder;
  char text[kRecordBytes + 1] = {};
  ssize_t bytes = pread(fd, text, kRecordBytes, record * kRecordBytes);
  close(fd);
  char host[kRecordBytes] = {}, what[kRecordBytes] = {};
  long pid = 0;
  if (bytes > 0 && std::sscanf(text, "%ld %127s %127[^\n]", &pid, host, what) >= 2 && pid > 0)
    holder = {pid, host, what};
  return holder;
}

const std::string &hostName() {
  static const std::string host = [] {
    char text[65] = {};
    if (gethostname(text, sizeof text - 1) != 0 || !text[0]) std::snprintf(text, sizeof text, "localhost");
    // Containers may share a host name and a directory but not process ids.
    struct stat space {};
    std::string name = std::string(text).substr(0, 32);
    if (stat("/proc/self/ns/pid", &space) == 0) name += "/" + std::to_string(space.st_ino);
    return name;
  }();
  return host;
}

int64_t slotRecord(const std::string &host, int slot) {
  return 1 + int64_t(hashOf(host) % kHostGroups) * kCompileSlotsMax + slot;
}

int64_t keyRecord(const Key &key) { return kFirstKeyRecord + int64_t(hashOf(key) % kKeyRecords); }

std::string Waiting::text() const {
  char head[64];
  std::snprintf(head, sizeof head, "waiting %.1f s for ", seconds);
  std::string out = head;
  if (for_slot) out += "one of the host's compile slots, ";
  if (pid == 0) return out + "another thread";
  return out + "pid " + std::to_string(pid) + (host.empty() ? "" : " on " + host.substr(0, host.find('/')));
}

namespace {

bool holderIsDead(const HolderRecord &holder) {
  return holder.pid > 0 && holder.host == hostName() && kill(pid_t(holder.pid), 0) != 0 && errno == ESRCH;
}

} // namespace

WaitResult waitForRecord(const std::string &lock_file, const std::vector<int64_t> &records, const std::string &what,
                         bool for_slot, std::chrono::steady_clock::time_point deadline, const ObtainHooks &hooks) {
  using Clock = std::chrono::steady_clock;
  WaitResult result;
  Clock::time_point start = Clock::now(), report = start + kReportFirst;
  std::chrono::milliseconds poll = kPollFirst;
  while (true) {
    for (int64_t record : records) {
      RecordLock::Attempt attempt = RecordLock::tryLock(lock_file, record, what);
      if (attempt.outcome == RecordLock::Outcome::Busy) continue;
      result.lock = std::move(attempt.lock);
      return result;
    }
    result.waited = true;
    if (hooks.cancelled && hooks.cancelled()) return result.outcome = WaitOutcome::Cancelled, std::move(result);
    Clock::time_point now = Clock::now();
    if (now >= deadline) return result.outcome = WaitOutcome::GaveUp, std::move(result);
    if (now >= report) {
      HolderRecord holder = readHolder(lock_file, records.front());
      if (!for_slot && holderIsDead(holder)) return result.outcome = WaitOutcome::GaveUp, std::move(result);
      double seconds = std::chrono::duration<double>(now - start).count();
      if (hooks.on_wait) hooks.on_wait({seconds, holder.pid, holder.host, for_slot});
      report = now + kReportEvery;
    }
    std::this_thread::sleep_for(std::min<Clock::duration>(poll, deadline - now));
    poll = std::min(2 * poll, kPollLast);
  }
}

std::string lockFileIn(const std::string &folder) { return folder + "/kernels.lock"; }

WaitResult waitForHousekeeping(const std::string &folder, const std::string &what) {
  return waitForRecord(lockFileIn(folder), {kHousekeepingRecord}, what, false,
                       std::chrono::steady_clock::now() + kHousekeepingWait, {});
}

} // namespace phasec
