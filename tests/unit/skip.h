// skip.h: for tests that need what a machine may lack (a GPU, libnvrtc, a host compiler).
#pragma once

#include <string>

namespace phasec::test {

/// Says that the running test case cannot be run here and why (the loader's own message, for example); the caller
/// returns. A program whose test cases all did this, with no assertion made, exits 77, which CTest shows as skipped.
void skip(const std::string &reason);

} // namespace phasec::test
