// compiler.h: compiles a rendered CUDA file for the sim: the same text, the host's C++ compiler, shim.h in front of it.
#pragma once

#include "phasec/status.h"

#include <cstdint>
#include <string>
#include <vector>

namespace phasec {

/// A shared object for Device::load on the sim, and what the compiler said (warnings) while making it.
struct SimObject {
  std::vector<uint8_t> image;
  std::string log;
};

/// The absolute path of the host C++ compiler. `requested`: a path or a name, or empty for the first of c++, g++,
/// clang++. Names are looked up in `search_path` (a PATH). ErrorKind::Toolchain when there is none.
Result<std::string> findHostCompiler(const std::string &requested, const std::string &search_path);

/// Compiles. `cxx` is a path from findHostCompiler. Works in a fresh directory below `temporary`, removed before
/// returning. Equal inputs give equal bytes. ErrorKind::Toolchain with the compiler's messages, which name the
/// template's file and line, when it fails. Thread-safe.
Result<SimObject> compileForSim(const std::string &rendered_source, const std::string &cxx,
                                const std::string &temporary = "/tmp");

/// What a cached object depends on besides the source: "<path>: <first line of --version>". Runs the compiler once per
/// path and process.
Result<std::string> simToolchain(const std::string &cxx);

/// The options, as passed, and the shim's digest: "-std=c++20 -O2 ... shim=<16 hex digits>".
std::string simOptions();

} // namespace phasec
