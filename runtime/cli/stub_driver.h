// stub_driver.h: a CUDA driver that does nothing, for measuring what phasec adds to a launch where there is no GPU.
#pragma once

#include "runtime/cuda/driver.h"

namespace phasec::cli {

/// Every call that opening, loading, binding and launching make succeeds at once; the device is an H200's shape.
cuda::DriverApi stubDriver();

} // namespace phasec::cli
