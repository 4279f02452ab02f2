// heartbeat.h: a line every two seconds while something long runs, from a thread of its own: the compiler's callback
// comes when it likes, and the host compiler has none.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

namespace phasec {

class Heartbeat {
public:
  static constexpr std::chrono::milliseconds kPeriod{2000};

  /// Calls `beat` with the whole seconds since now, every `period` until destroyed. Without `beat` nothing happens.
  explicit Heartbeat(std::function<void(int seconds)> beat, std::chrono::milliseconds period = kPeriod) {
    if (!beat) return;
    thread_ = std::thread([this, beat = std::move(beat), period, begin = Clock::now()] {
      std::unique_lock lock(mutex_);
      for (int n = 1; !stopped_.wait_until(lock, begin + n * period, [this] { return stop_; }); n++)
        beat(int(std::chrono::duration_cast<std::chrono::seconds>(n * period).count()));
    });
  }
  ~Heartbeat() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    stopped_.notify_all();
    if (thread_.joinable()) thread_.join();
  }
  Heartbeat(const Heartbeat &) = delete;
  Heartbeat &operator=(const Heartbeat &) = delete;

private:
  using Clock = std::chrono::steady_clock;
  std::mutex mutex_;
  std::condition_variable stopped_;
  bool stop_ = false;
  std::thread thread_;
};

} // namespace phasec
