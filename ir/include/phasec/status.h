// status.h: errors as values. Nothing in the library throws, prints or aborts on bad input.
#pragma once

#include <cassert>
#include <memory>
#include <string>
#include <utility>
#include <variant>

#pragma GCC visibility push(default) // public: the library is compiled with hidden visibility

namespace phasec {

/// What went wrong, for callers that branch. The command line maps kinds to exit codes with exitCode().
enum class ErrorKind {
  Ok,         ///< no error
  Input,      ///< the layer, a buffer or a value is wrong (exit 1)
  Proof,      ///< the plan cannot be shown to be safe: uncovered read, grid that cannot be resident (exit 1)
  Usage,      ///< the command or the call is wrong (exit 2)
  Mismatch,   ///< a check failed: results differ from the reference (exit 3)
  CacheMiss,  ///< jit = off (or a stream capture) and no cache layer has the kernel (exit 3)
  CacheDamage,///< a cache file or row is not what it claims to be (exit 3)
  Device,     ///< no device, no driver, or the driver failed (exit 4)
  Refused,    ///< the device cannot take this launch (not resident, not cooperative) (exit 4)
  Toolchain,  ///< NVRTC or the host compiler is absent or failed (exit 5)
  Io,         ///< a file cannot be read or written (exit 1)
  Internal,   ///< a bug in phasec (exit 5)
};

/// Stable lower-case name of a kind ("input", "cache_miss", ...), as printed in JSON.
const char *name(ErrorKind kind);

/// Process exit code of a kind: 0 ok, 1 input, 2 usage, 3 finding, 4 device, 5 toolchain or internal.
int exitCode(ErrorKind kind);

/// The outcome of an operation: OK, or a kind and a text that says what, where, and the remedy.
/// Cheap when OK (one null pointer). Value type; a const Status may be read from any thread.
class [[nodiscard]] Status {
public:
  Status() = default;
  Status(ErrorKind kind, std::string text)
      : error_(std::make_shared<const Error>(Error{kind, std::move(text)})) {}

  static Status input(std::string text) { return {ErrorKind::Input, std::move(text)}; }
  static Status usage(std::string text) { return {ErrorKind::Usage, std::move(text)}; }
  static Status io(std::string text) { return {ErrorKind::Io, std::move(text)}; }
  static Status device(std::string text) { return {ErrorKind::Device, std::move(text)}; }
  static Status toolchain(std::string text) { return {ErrorKind::Toolchain, std::move(text)}; }
  static Status internal(std::string text) { return {ErrorKind::Internal, std::move(text)}; }

  bool ok() const { return !error_; }
  explicit operator bool() const { return ok(); }
  ErrorKind kind() const { return error_ ? error_->kind : ErrorKind::Ok; }
  /// Human-readable text, possibly several lines; empty when OK.
  const std::string &text() const {
    static const std::string empty;
    return error_ ? error_->text : empty;
  }

private:
  struct Error {
    ErrorKind kind;
    std::string text;
  };
  std::shared_ptr<const Error> error_;
};

/// A value or the Status that explains its absence.
template <class T> class [[nodiscard]] Result {
public:
  Result(T value) : state_(std::move(value)) {}
  Result(Status status) : state_(std::move(status)) { assert(!std::get<Status>(state_).ok()); }

  bool ok() const { return std::holds_alternative<T>(state_); }
  explicit operator bool() const { return ok(); }
  /// OK when a value is present.
  Status status() const { return ok() ? Status() : std::get<Status>(state_); }

  T &operator*() { return std::get<T>(state_); }
  const T &operator*() const { return std::get<T>(state_); }
  T *operator->() { return &std::get<T>(state_); }
  const T *operator->() const { return &std::get<T>(state_); }
  /// Moves the value out. Requires ok().
  T take() { return std::move(std::get<T>(state_)); }

private:
  std::variant<T, Status> state_;
};

/// Returns from the enclosing function when `expr` (a Status) is an error.
#define PHASEC_TRY(expr)                                                                           \
  do {                                                                                             \
    if (::phasec::Status try_status_ = (expr); !try_status_.ok()) return try_status_;              \
  } while (0)

/// Declares `decl` from a Result, or returns its error from the enclosing function.
#define PHASEC_CONCAT_(a, b) a##b
#define PHASEC_CONCAT(a, b) PHASEC_CONCAT_(a, b)
#define PHASEC_ASSIGN(decl, expr)                                                                  \
  auto PHASEC_CONCAT(try_result_, __LINE__) = (expr);                                              \
  if (!PHASEC_CONCAT(try_result_, __LINE__).ok())                                                  \
    return PHASEC_CONCAT(try_result_, __LINE__).status();                                          \
  decl = PHASEC_CONCAT(try_result_, __LINE__).take()

} // namespace phasec

#pragma GCC visibility pop
