// embedded.h: files as text, put into the command line at build time (templates/embed.cmake).
#pragma once

#include <string_view>

namespace phasec {

std::string_view ceilingsSource();   ///< ceilings.cu
std::string_view peerCommonSource(); ///< tests/bench/peers/layer.py
std::string_view torchPeerSource();  ///< torch_layer.py beside it
std::string_view tritonPeerSource(); ///< triton_layer.py beside it

} // namespace phasec
