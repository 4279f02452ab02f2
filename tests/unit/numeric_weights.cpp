// numeric_weights.cpp: granules: what is put comes back, from every place, and no two places share a bit.
#include "templates/weights/bf16.cuh"
#include "templates/weights/fp8_e4m3.cuh"
#include "templates/weights/nvfp4.cuh"

#include <doctest/doctest.h>

#include <bit>
#include <cstring>
#include <set>
#include <vector>

namespace {

template <class Format> u32 codeOf(int row, int k, u32 mask) { return (u32(row) * 2654435761u ^ u32(k) * 40503u ^ u32(row * k)) >> 3 & mask; }

/// Places of every bit that a full-ones code sets.
template <class Format> std::set<int> bitsOf(int row, int k, u32 ones) {
  alignas(16) u8 granule[Format::granule_bytes] = {};
  Format::put(granule, row, k, ones);
  std::set<int> bits;
  for (int i = 0; i < Format::granule_bytes * 8; i++)
    if (granule[i / 8] >> (i % 8) & 1) bits.insert(i);
  return bits;
}

template <class Format> void checkGranule(u32 ones, int code_bytes) {
  alignas(16) u8 granule[Format::granule_bytes] = {};
  for (int row = 0; row < weights::kTileRows; row++)
    for (int k = 0; k < weights::kGranuleK; k++) Format::put(granule, row, k, codeOf<Format>(row, k, ones));
  std::set<int> all;
  for (int row = 0; row < weights::kTileRows; row++)
    for (int k = 0; k < weights::kGranuleK; k++) {
      REQUIRE(Format::code(granule, row, k) == codeOf<Format>(row, k, ones));
      std::set<int> mine = bitsOf<Format>(row, k, ones);
      REQUIRE(int(mine.size()) == std::popcount(ones));
      for (int bit : mine) REQUIRE_MESSAGE(all.insert(bit).second, "row ", row, " k ", k, " shares bit ", bit);
    }
  CHECK(int(all.size()) == code_bytes * 8); // and none is left over
  CHECK(*all.rbegin() < code_bytes * 8);
}

} // namespace

TEST_CASE("bf16 granules: 2048 bytes, every bit one code's") { checkGranule<weights::bf16>(0xffff, 2048); }
TEST_CASE("e4m3 granules: 1024 bytes, every bit one code's") { checkGranule<weights::fp8_e4m3>(0xff, 1024); }
TEST_CASE("nvfp4 granules: 512 bytes of codes, every bit one code's") { checkGranule<weights::nvfp4>(0xf, 512); }

TEST_CASE("nvfp4 scales: one byte per row and 16 k, behind the codes") {
  std::set<int> places;
  for (int row = 0; row < 16; row++)
    for (int block = 0; block < 4; block++) {
      int at = weights::nvfp4::scale_offset(row, block * 16);
      CHECK(at >= 512);
      CHECK(at < 576);
      CHECK(places.insert(at).second);
      for (int k = 1; k < 16; k++) CHECK(weights::nvfp4::scale_offset(row, block * 16 + k) == at);
    }
}

TEST_CASE("a lane's data stands in whole 16-byte pieces: rows r and r + 8, sixteen k") {
  for (int row = 0; row < 16; row++)
    for (int k = 0; k < 64; k++) {
      CHECK(weights::owner(row, k) == row % 8 * 4 + k / 16);
      CHECK(weights::bf16::offset(row, k) / 16 % 32 == weights::owner(row, k));
      CHECK(weights::fp8_e4m3::offset(row, k) / 16 % 32 == weights::owner(row, k));
      CHECK(weights::nvfp4::place(row, k).word / 4 == weights::owner(row, k));
    }
}
