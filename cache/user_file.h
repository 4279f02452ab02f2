// user_file.h: the user file as the layers see it: opened late, replaced when broken, given up quietly when it must be.
#pragma once

#include "cache/single_flight.h"
#include "cache/store.h"

namespace phasec {

/// Tells the host something once per `cause`.
using WarnOnce = std::function<void(const std::string &cause, const std::string &text)>;

/// Not synchronised; Cache::Impl holds its file mutex around every call.
class UserFile {
public:
  UserFile(std::string dir, WarnOnce warn) : dir_(std::move(dir)), warn_(std::move(warn)) {}

  bool wanted() const { return !dir_.empty(); }
  bool opened() const { return state_ != State::Untried; }
  std::string path() const { return userFile(dir_); }
  std::string lockFile() const { return lockFileIn(dir_); }

  /// Opens on first use. Null when there is no usable file; problem() says why.
  Store *store();
  /// Why it is not usable, or not writable.
  const std::string &problem() const { return problem_; }
  int64_t filesSetAside() const { return set_aside_; }

  /// Runs `work` on the store. A broken file is set aside once and the work repeated on a fresh one; a file that was
  /// replaced behind our back is opened again. Errors: Io when there is no (writable) file, else what `work` says.
  template <class T> Result<T> with(bool for_writing, const std::function<Result<T>(Store &)> &work) {
    for (int attempt = 0;; ++attempt) {
      if (for_writing && store_ && replaced()) close();
      Store *store = this->store();
      if (!store || (for_writing && !store->writable())) return Status::io(problem_);
      Result<T> result = work(*store);
      bool broken = !result.ok() && result.status().kind() == ErrorKind::CacheDamage && store->writable();
      if (!broken || attempt > 0 || !replace(result.status())) return result;
    }
  }

  /// Adds a use of a row, written by flush(). A replaced file forgets them.
  void touch(int64_t id) { ++uses_[id]; }
  Status flush(const std::map<std::string, int64_t> &counters);

  /// Closes the connection; the next use opens a new one. Before a fork, and at the end.
  void close();

private:
  enum class State { Untried, Open, Closed, Failed };

  Status open();
  Status openOrReplace();
  bool replace(const Status &why);
  bool replaced() const;
  Status setAside(const Status &why);

  std::string dir_;
  WarnOnce warn_;
  State state_ = State::Untried;
  std::unique_ptr<Store> store_;
  std::string problem_;
  int64_t set_aside_ = 0;
  std::map<int64_t, int64_t> uses_;
};

} // namespace phasec
