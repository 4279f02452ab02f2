// fc2.cuh: the down projection plus the residual.
#pragma once
#include "../epilogue.cuh"

namespace fc2 {

template <class H> using Finish = epilogue::Finish<H>;

} // namespace fc2
