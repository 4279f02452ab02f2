// embedded.h: files of this folder as text, put into the command line at build time (templates/embed.cmake).
#pragma once

#include <string_view>

namespace phasec {

std::string_view ceilingsSource(); ///< ceilings.cu

} // namespace phasec
