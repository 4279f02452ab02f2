// embedded.h: the text of shim.h, put into the library at build time: the sim device hands it to the host compiler in
// front of the rendered kernel.
#pragma once

#include <string_view>

namespace phasec {

/// The bytes of runtime/sim/shim.h. Lives as long as the program; safe from any thread.
std::string_view simShim();

} // namespace phasec
