// encode.h: the byte forms of keys, sections and rows, and the checksum over them. Part of the on-disk format.
#pragma once

#include "phasec/cache.h"

#include <array>
#include <span>

namespace phasec {

using Checksum = std::array<uint8_t, 16>;

/// What the artefact checksum covers: every column but id and the checksum itself. Views, so that a read hashes the
/// database's own buffers.
struct RowView {
  int64_t wo_split = 0;
  std::span<const uint8_t> fingerprint;
  std::string_view toolchain, layer, target, config, resources, sections;
  std::span<const uint8_t> payload;
};

/// XXH3-128, canonical byte order, over length-prefixed fields: no byte can move from one field to the next unseen.
Checksum checksumOf(const RowView &row);
/// The listing's checksum also covers the artefact's, so that listings cannot trade places.
Checksum listingChecksum(const Checksum &artefact, std::string_view source, std::string_view ptx);

std::array<uint8_t, 16> fingerprintBytes(const Fingerprint &fingerprint);
Fingerprint fingerprintFrom(std::span<const uint8_t> bytes);

std::string hexOf(std::span<const uint8_t> bytes);

/// A number that spreads keys: which lock byte a key uses.
uint64_t hashOf(const Key &key);
uint64_t hashOf(std::string_view text);

/// Compares "nvrtc 13.9" < "nvrtc 13.10": runs of digits by value, the rest by byte. Which toolchain is the newest?
bool naturalLess(std::string_view a, std::string_view b);

} // namespace phasec
