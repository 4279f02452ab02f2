// resources.h: what a compiled kernel takes of the machine: registers, spills, stack, static shared memory, code. Read
// from the cubin (an ELF file) and from ptxas's verbose log, which alone knows spills.
#pragma once

#include "phasec/status.h"

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace phasec {

/// One kernel's needs. Registers and local bytes are per thread, shared bytes per CTA (static shared memory: the
/// dynamic part is the plan's), spills are bytes of spill code in the kernel's text.
struct Resources {
  int registers = 0;
  int64_t spill_store_bytes = 0;
  int64_t spill_load_bytes = 0;
  int64_t local_bytes = 0;
  int64_t shared_bytes = 0;
  int64_t code_bytes = 0;
};

struct KernelResources {
  std::string kernel; ///< entry point, unmangled
  Resources resources;
};

/// OK when every header, section and name of the ELF file lies inside `cubin`. The driver is given no length when it
/// loads an image, so a cut-off file must be refused before it gets there. ErrorKind::Toolchain.
Status validateCubin(std::span<const uint8_t> cubin);

/// Kernels of `cubin` in the order of their names. `log` is the compiler's log with `--ptxas-options=-v`; with an empty
/// log spills read 0. Pure. ErrorKind::Toolchain when the cubin is not a sound CUDA ELF file.
Result<std::vector<KernelResources>> readResources(std::span<const uint8_t> cubin, std::string_view log);

/// `phasec.resources/1`: {"schema", "target", "kernels": [{"kernel", "registers", ...}]}.
std::string resourcesJson(std::string_view target, const std::vector<KernelResources> &kernels);

} // namespace phasec
