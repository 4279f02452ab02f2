// trust.cpp: see trust.h. SHA-256 comes from LLVM Support.
#include "cache/trust.h"
#include "phasec/cache.h"

#include <llvm/ADT/ArrayRef.h>
#include <llvm/ADT/StringExtras.h>
#include <llvm/Support/SHA256.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace phasec {

namespace {

std::string directoryOf(const std::string &path) {
  size_t slash = path.find_last_of('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

std::string baseName(const std::string &path) { return path.substr(path.find_last_of('/') + 1); }

} // namespace

Status ensurePrivateDirectory(const std::string &dir) {
  for (size_t slash = dir.find('/', 1); slash != std::string::npos; slash = dir.find('/', slash + 1))
    (void)mkdir(dir.substr(0, slash).c_str(), 0700); // what fails here fails below, with a reason
  if (mkdir(dir.c_str(), 0700) != 0 && errno != EEXIST)
    return Status::io("cannot create the cache directory " + dir + ": " + std::strerror(errno) +
                      "; set PHASEC_CACHE_DIR to a directory that you may write");
  return checkTrusted(dir);
}

Status checkTrusted(const std::string &path) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) return Status::io("cannot look at " + path + ": " + std::strerror(errno));
  if (info.st_uid != geteuid() && info.st_uid != 0)
    return {ErrorKind::CacheDamage, "not loading code from " + path + ": it belongs to uid " +
                                        std::to_string(info.st_uid) + ", not to uid " + std::to_string(geteuid()) +
                                        " or root; `chown " + std::to_string(geteuid()) + " " + path +
                                        "`, or use a file of your own"};
  bool sticky = S_ISDIR(info.st_mode) && (info.st_mode & S_ISVTX);
  if ((info.st_mode & (S_IWGRP | S_IWOTH)) && !sticky)
    return {ErrorKind::CacheDamage,
            "not loading code from " + path + ": others may write it; `chmod go-w " + path + "`"};
  return {};
}

Status checkTrustedFile(const std::string &path) {
  PHASEC_TRY(checkTrusted(path));
  return checkTrusted(directoryOf(path));
}

std::string sidecarPath(const std::string &path) { return path + ".sha256"; }

Status writeSidecar(const std::string &path, const std::string &sha256) {
  std::string sidecar = sidecarPath(path), staged = sidecar + "." + std::to_string(getpid());
  std::string line = sha256 + "  " + baseName(path) + "\n";
  int fd = open(staged.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  bool good = fd >= 0 && write(fd, line.data(), line.size()) == ssize_t(line.size());
  // The mode is stated, not left to the umask: a group-writable file would be refused later.
  good = good && fchmod(fd, 0644) == 0 && fsync(fd) == 0;
  if (fd >= 0) close(fd);
  if (good && rename(staged.c_str(), sidecar.c_str()) == 0) return {};
  std::string why = std::strerror(errno);
  (void)unlink(staged.c_str());
  return Status::io("cannot write " + sidecar + ": " + why);
}

Result<std::string> readSidecar(const std::string &path) {
  std::string sidecar = sidecarPath(path);
  int fd = open(sidecar.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return Status::io("cannot read " + sidecar + ": " + std::strerror(errno));
  char digest[64];
  ssize_t bytes = read(fd, digest, sizeof digest);
  close(fd);
  std::string text(digest, size_t(bytes < 0 ? 0 : bytes));
  if (text.size() != 64 || text.find_first_not_of("0123456789abcdef") != std::string::npos)
    return Status(ErrorKind::CacheDamage, sidecar + " does not begin with a SHA-256 digest");
  return text;
}

Result<std::string> fileSha256(const std::string &path) {
  int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return Status::io("cannot read " + path + ": " + std::strerror(errno));
  llvm::SHA256 hash;
  std::vector<uint8_t> buffer(size_t(1) << 20);
  ssize_t bytes = 0;
  while ((bytes = read(fd, buffer.data(), buffer.size())) > 0)
    hash.update(llvm::ArrayRef<uint8_t>(buffer.data(), size_t(bytes)));
  int error = errno;
  close(fd);
  if (bytes < 0) return Status::io("cannot read " + path + ": " + std::strerror(error));
  // final() returns a StringRef or an array, by LLVM version; both convert to bytes like this.
  auto digest = hash.final();
  return llvm::toHex(llvm::ArrayRef<uint8_t>(reinterpret_cast<const uint8_t *>(digest.data()), digest.size()), true);
}

} // namespace phasec
