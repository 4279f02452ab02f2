// status.cpp: names and exit codes of error kinds.
#include "phasec/status.h"

namespace phasec {

const char *name(ErrorKind kind) {
  switch (kind) {
  case ErrorKind::Ok: return "ok";
  case ErrorKind::Input: return "input";
  case ErrorKind::Proof: return "proof";
  case ErrorKind::Usage: return "usage";
  case ErrorKind::Mismatch: return "mismatch";
  case ErrorKind::CacheMiss: return "cache_miss";
  case ErrorKind::CacheDamage: return "cache_damage";
  case ErrorKind::Device: return "device";
  case ErrorKind::Refused: return "refused";
  case ErrorKind::Toolchain: return "toolchain";
  case ErrorKind::Io: return "io";
  case ErrorKind::Internal: return "internal";
  }
  return "internal";
}

int exitCode(ErrorKind kind) {
  switch (kind) {
  case ErrorKind::Ok: return 0;
  case ErrorKind::Input:
  case ErrorKind::Proof:
  case ErrorKind::Io: return 1;
  case ErrorKind::Usage: return 2;
  case ErrorKind::Mismatch:
  case ErrorKind::CacheMiss:
  case ErrorKind::CacheDamage: return 3;
  case ErrorKind::Device:
  case ErrorKind::Refused: return 4;
  case ErrorKind::Toolchain:
  case ErrorKind::Internal: return 5;
  }
  return 5;
}

} // namespace phasec
