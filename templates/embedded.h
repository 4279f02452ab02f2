// embedded.h: the CUDA headers of this folder as text, put into the library at build time (embed.cmake), so that an
// installed phasec needs no data files.
#pragma once

#include <string_view>
#include <vector>

namespace phasec {

struct EmbeddedFile {
  std::string_view name; ///< relative to templates/, for example "phases/gather.cuh"
  std::string_view text;
};

/// Every template, sorted by name. The texts live as long as the program; safe from any thread.
const std::vector<EmbeddedFile> &embeddedTemplates();

} // namespace phasec
