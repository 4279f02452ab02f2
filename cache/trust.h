// trust.h: may code be loaded from here? Owners, modes and digests.
#pragma once

#include "phasec/status.h"

#include <string>

namespace phasec {

/// Creates `dir` (and missing parents) with mode 0700 and checks it like checkTrusted().
Status ensurePrivateDirectory(const std::string &dir);

/// Kernels are code: a directory or file that others may write, or that belongs to somebody else than this user or
/// root, is refused (CacheDamage) with the line that repairs it. A sticky directory such as /tmp may hold a trusted
/// file.
Status checkTrusted(const std::string &path);

/// checkTrusted() of a file and of the directory it lies in.
Status checkTrustedFile(const std::string &path);

/// `X.db.sha256` holds "<digest>  X.db", the form that sha256sum -c reads.
std::string sidecarPath(const std::string &path);
Status writeSidecar(const std::string &path, const std::string &sha256);
/// The digest that the sidecar states; Io when there is none, CacheDamage when it is not a digest.
Result<std::string> readSidecar(const std::string &path);

} // namespace phasec
