// workers.cpp: see workers.h. Jobs and answers go over one socket pair per worker; the end of one end ends the other.
#include "runtime/cli/workers.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <optional>
#include <poll.h>
#include <string>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace phasec::cli {
namespace {

volatile std::sig_atomic_t interrupted = 0;
void onInterrupt(int) { interrupted = 1; }

/// Ctrl-C ends the workers and lets the caller tidy up, for as long as this lives.
class InterruptGuard {
public:
  InterruptGuard() {
    interrupted = 0;
    struct sigaction action = {};
    action.sa_handler = onInterrupt;
    sigaction(SIGINT, &action, &old_int_);
    sigaction(SIGTERM, &action, &old_term_);
  }
  ~InterruptGuard() { restore(); }
  void restore() const {
    sigaction(SIGINT, &old_int_, nullptr);
    sigaction(SIGTERM, &old_term_, nullptr);
  }

private:
  struct sigaction old_int_ = {}, old_term_ = {};
};

struct Answer {
  uint64_t job = 0, text_bytes = 0;
  double seconds = 0;
  int32_t kind = 0;
};

bool sendAll(int fd, const void *data, size_t bytes) {
  for (size_t done = 0; done < bytes;) {
    ssize_t n = send(fd, static_cast<const char *>(data) + done, bytes - done, MSG_NOSIGNAL);
    if (n <= 0 && errno != EINTR) return false;
    if (n > 0) done += size_t(n);
  }
  return true;
}

bool receiveAll(int fd, void *data, size_t bytes) {
  for (size_t done = 0; done < bytes;) {
    ssize_t n = recv(fd, static_cast<char *>(data) + done, bytes - done, 0);
    if (n == 0 || (n < 0 && errno != EINTR)) return false;
    if (n > 0) done += size_t(n);
  }
  return true;
}

/// The worker: jobs until the other end is closed.
void serve(int fd, const std::function<Result<Work>()> &make) {
  Result<Work> work = make();
  for (uint64_t job; receiveAll(fd, &job, sizeof job);) {
    auto start = std::chrono::steady_clock::now();
    Status status = work ? (*work)(job) : work.status();
    Answer answer{job, status.text().size(),
                  std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(),
                  int32_t(status.kind())};
    if (!sendAll(fd, &answer, sizeof answer) || !sendAll(fd, status.text().data(), status.text().size())) return;
  }
}

struct Worker {
  pid_t pid = 0;
  int fd = -1;
  std::optional<size_t> job;
};

class Pool {
public:
  Pool(size_t count, const std::function<void(const JobDone &)> &done) : count_(count), done_(done) {}
  ~Pool() {
    for (Worker &w : workers_) {
      if (w.fd >= 0) close(w.fd); // the worker sees the end and leaves
      if (interrupted && w.pid > 0) kill(w.pid, SIGTERM);
    }
    for (Worker &w : workers_) reap(w);
  }

  Status start(int workers, const std::function<Result<Work>()> &make) {
    for (int i = 0; i < workers; i++) {
      int ends[2];
      if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
        return Status::internal(std::string("cannot make a socket pair: ") + std::strerror(errno));
      pid_t pid = fork();
      if (pid == 0) {
        guard_.restore();
        close(ends[0]);
        for (Worker &other : workers_) close(other.fd);
        serve(ends[1], make);
        _exit(0);
      }
      close(ends[1]);
      if (pid < 0) {
        close(ends[0]);
        if (!workers_.empty()) return {}; // those there are will do
        return Status::internal(std::string("cannot start a worker process: ") + std::strerror(errno));
      }
      workers_.push_back({pid, ends[0], {}});
    }
    return {};
  }

  Status run() {
    for (Worker &w : workers_) give(w);
    while (finished_ < count_) {
      std::vector<pollfd> polls;
      for (Worker &w : workers_) polls.push_back({w.job ? w.fd : -1, POLLIN, 0});
      if (std::none_of(polls.begin(), polls.end(), [](const pollfd &p) { return p.fd >= 0; }))
        return Status::internal("all worker processes ended; " + std::to_string(count_ - finished_) +
                                " kernels were not built");
      int ready = poll(polls.data(), polls.size(), -1);
      if (interrupted) return Status::internal("interrupted; nothing was written");
      if (ready < 0 && errno != EINTR) return Status::internal(std::string("poll: ") + std::strerror(errno));
      for (size_t i = 0; ready > 0 && i < polls.size(); i++)
        if (polls[i].revents) receive(workers_[i]);
    }
    return {};
  }

private:
  void give(Worker &w) {
    w.job.reset();
    if (next_ == count_ || w.fd < 0) return;
    uint64_t job = next_++;
    w.job = job;
    (void)sendAll(w.fd, &job, sizeof job); // a worker that is gone shows at the next poll
  }

  void receive(Worker &w) {
    Answer answer;
    std::string text;
    bool sound = receiveAll(w.fd, &answer, sizeof answer);
    if (sound) {
      text.resize(answer.text_bytes);
      sound = receiveAll(w.fd, text.data(), text.size());
    }
    JobDone result{*w.job, {}, answer.seconds};
    if (!sound)
      result.status = Status::internal(lost(w));
    else if (answer.kind != int32_t(ErrorKind::Ok))
      result.status = {ErrorKind(answer.kind), text};
    finished_++;
    done_(result);
    give(w);
  }

  /// How a worker ended that gave no answer.
  std::string lost(Worker &w) {
    close(w.fd);
    w.fd = -1;
    int status = reap(w);
    if (WIFSIGNALED(status))
      return std::string("the compiler's process was ended by a signal: ") + strsignal(WTERMSIG(status));
    return "the compiler's process left with status " + std::to_string(WEXITSTATUS(status));
  }

  static int reap(Worker &w) {
    int status = 0;
    while (w.pid > 0 && waitpid(w.pid, &status, 0) < 0 && errno == EINTR) {
    }
    w.pid = 0;
    return status;
  }

  InterruptGuard guard_;
  size_t count_, next_ = 0, finished_ = 0;
  const std::function<void(const JobDone &)> &done_;
  std::vector<Worker> workers_;
};

} // namespace

Status runWorkers(size_t count, int workers, const std::function<Result<Work>()> &make,
                  const std::function<void(const JobDone &)> &done) {
  if (count == 0) return {};
  Pool pool(count, done);
  PHASEC_TRY(pool.start(std::clamp(workers, 1, int(std::min<size_t>(count, 1024))), make));
  return pool.run();
}

} // namespace phasec::cli
