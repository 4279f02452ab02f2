// layout.cuh: what all weight images share. An image is row tiles of 16 rows; a tile is a run of granules of 64 k; a granule
// lies in memory in the order in which the lanes of a warp read it: lane = (row mod 8) * 4 + (k / 16), its two rows r and
// r + 8 and its 16 values of k, so that one 16-byte load feeds m16n8k16 fragments without a shuffle. The image does not
// depend on the schedule: a sweep over wo_split never repacks. Rows and k beyond the matrix are zero.
#pragma once
#include "../base.cuh"

namespace weights {

enum : int { kTileRows = 16, kGranuleK = 64 };

/// The lane that owns (row, k) of a granule.
PHASEC_DEVICE int owner(int row, int k) { return (row & 7) * 4 + (k >> 4); }

} // namespace weights
