// single_flight.h: locks between processes: one byte of a file that is never deleted, per key and per compile slot.
//
// Open-file-description locks: the kernel drops them when their holder dies, however it dies, and two descriptors of
// one process exclude each other. The file is a table of 128-byte records; a record's first byte is the lock, its text
// says who holds it. Record 0 guards the opening and replacing of the user file, then come compile slots, then keys.
#pragma once

#include "phasec/cache.h"

namespace phasec {

/// A held lock; released by the destructor, or by the kernel.
class RecordLock {
public:
  enum class Outcome {
    Held,
    Busy,        ///< somebody has it
    Unavailable, ///< this file system or directory cannot lock: go on without
  };
  struct Attempt;

  /// Does not wait. `who` is written into the record for those who wait.
  static Attempt tryLock(const std::string &lock_file, int64_t record, const std::string &what);

  RecordLock() = default;
  RecordLock(RecordLock &&other) noexcept : fd_(other.fd_), record_(other.record_) { other.fd_ = -1; }
  RecordLock &operator=(RecordLock &&other) noexcept {
    std::swap(fd_, other.fd_);
    std::swap(record_, other.record_);
    return *this;
  }
  ~RecordLock();
  bool held() const { return fd_ >= 0; }

private:
  int fd_ = -1;
  int64_t record_ = 0;
};

struct RecordLock::Attempt {
  Outcome outcome;
  RecordLock lock;
};

/// What a lock's record says.
struct HolderRecord {
  int64_t pid = 0;
  std::string host, what;
};
HolderRecord readHolder(const std::string &lock_file, int64_t record);

constexpr int kCompileSlotsMax = 63;
/// The record of a compile slot. Hosts that share a directory have slots of their own.
int64_t slotRecord(const std::string &host, int slot);
int64_t keyRecord(const Key &key);

/// Name of this machine (and pid namespace), as in the records.
const std::string &hostName();

enum class WaitOutcome { Held, GaveUp, Cancelled };
struct WaitResult {
  WaitOutcome outcome = WaitOutcome::Held; ///< Held also stands for "cannot lock here": the caller goes on either way
  RecordLock lock;
  bool waited = false;
};
/// Waits for any one of `records`, until `deadline`, asking `hooks`. Gives up early when the recorded holder is dead:
/// then a child of it inherited the descriptor and nobody will ever unlock. (With `for_slot` any other holder may still
/// do so.)
WaitResult waitForRecord(const std::string &lock_file, const std::vector<int64_t> &records, const std::string &what,
                         bool for_slot, std::chrono::steady_clock::time_point deadline, const ObtainHooks &hooks);

/// The lock file of the folder that a user file lies in.
std::string lockFileIn(const std::string &folder);
/// Who makes, replaces or removes the folder's user file holds this; who meets a file that looks foreign asks again under it.
/// Waits five seconds at most, then goes on without.
WaitResult waitForHousekeeping(const std::string &folder, const std::string &what);

} // namespace phasec
