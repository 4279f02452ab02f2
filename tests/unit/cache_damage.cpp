// cache_damage.cpp: damage of a user file that no checksum of a row can show: a key that leads nowhere, and pages that
// only a listing would read. tests/cache/faults.cpp finds such places by chance; here each is aimed at.
#include "tests/cache/support.h"

#include "cache/encode.h"
#include "cache/store.h"

#include <doctest/doctest.h>

#include <set>

using namespace phasec;
using namespace phasec::test;

namespace {

constexpr uint64_t kKernels = 6;
constexpr size_t kPageBytes = 16'384;

/// A closed user file of kKernels kernels.
std::string filled(const TempDir &dir) {
  auto cache = Bench(dir / "user").open();
  for (uint64_t i = 0; i < kKernels; ++i) REQUIRE(cache->publish(makeKernel(8, i)).ok());
  return userFile(dir / "user");
}

std::vector<size_t> occurrences(const std::string &bytes, const std::string &part) {
  std::vector<size_t> all;
  for (size_t at = bytes.find(part); at != std::string::npos; at = bytes.find(part, at + 1)) all.push_back(at);
  return all;
}

/// What a process that needs every kernel does; all bytes must be right. Counts the kernels that had to be made again.
int64_t obtainAll(Cache &cache) {
  for (uint64_t i = 0; i < kKernels; ++i) {
    Compiled kernel = makeKernel(8, i);
    auto hit = cache.obtain(queryOf(kernel), [&]() -> Result<Compiled> { return kernel; });
    REQUIRE(hit.ok());
    CHECK(sameBytes(*hit->artefact, kernel.artefact));
  }
  return cache.counters().compiles;
}

/// Everything that was stored is stored again, and can be read.
void checkHealed(const TempDir &dir) {
  for (int process = 0; process < 2; ++process) obtainAll(*Bench(dir / "user").open());
  auto cache = Bench(dir / "user").open();
  CHECK(obtainAll(*cache) == 0);
  CHECK(listEntries(userFile(dir / "user"))->size() == kKernels);
  for (uint64_t i = 0; i < kKernels; ++i) {
    Compiled kernel = makeKernel(8, i);
    auto listing = cache->listing(kernel.artefact.key, kToolchain);
    REQUIRE(listing.ok());
    CHECK(listing->source == kernel.listing.source);
    CHECK(listing->ptx == kernel.listing.ptx);
  }
}

} // namespace

TEST_CASE("a flipped bit of a key, in a row or in the index, hides no kernel without a word") {
  // The last bytes of a toolchain and of a fingerprint, so that the index keeps its order and SQLite sees nothing.
  auto fingerprint = fingerprintBytes(makeKernel(8, 3).artefact.key.fingerprint);
  for (const std::string &part : {std::string(fingerprint.begin(), fingerprint.end()), std::string(kToolchain)}) {
    size_t places = 0, place = 0;
    do {
      TempDir dir;
      std::string path = filled(dir), bytes = readFile(path);
      std::vector<size_t> at = occurrences(bytes, part);
      places = at.size();
      REQUIRE(places >= 2); // the row and its index entry
      bytes[at[place] + part.size() - 1] ^= 1;
      writeFile(path, bytes);
      CAPTURE(place);
      auto cache = Bench(dir / "user").open();
      int64_t made = obtainAll(*cache);
      CacheCounters told = cache->counters();
      CHECK(made > 0);
      CHECK(told.damaged_rows + told.files_set_aside > 0);
      cache.reset();
      checkHealed(dir);
    } while (++place < places);
  }
}

TEST_CASE("a listing's page is garbage: every kernel is a hit, and the close that finds it sets the file aside") {
  TempDir dir;
  std::string path = filled(dir), bytes = readFile(path);
  std::set<size_t> pages;
  for (uint64_t i = 0; i < kKernels; ++i)
    for (size_t at : occurrences(bytes, makeKernel(8, i).listing.source)) pages.insert(at / kPageBytes);
  REQUIRE(pages.size() > 1);
  for (size_t page : pages) {
    CAPTURE(page);
    std::string damaged = bytes;
    damaged.replace(page * kPageBytes, 8, "\x5a\x5a\x5a\x5a\x5a\x5a\x5a\x5a");
    writeFile(path, damaged);
    Bench bench(dir / "user");
    auto cache = bench.open();
    CHECK(obtainAll(*cache) == 0);
    CHECK(bench.warnings->empty());
    cache.reset();
    REQUIRE(bench.warnings->size() == 1);
    CHECK(bench.warnings->front().find(".aside-1") != std::string::npos);
    CHECK(readFile(path + ".aside-1").substr(page * kPageBytes, 8) == std::string(8, '\x5a'));
    checkHealed(dir);
    std::filesystem::remove(path + ".aside-1");
  }
}

TEST_CASE("a row that another process publishes during a look-up is no damage") {
  TempDir dir;
  std::string path = filled(dir);
  Compiled late = makeKernel(8, kKernels);
  const Key &key = late.artefact.key;
  auto store = Store::openUser(path), other = Store::openUser(path);
  REQUIRE(store.ok());
  REQUIRE(other.ok());
  for (const char *toolchain : {kToolchain, ""}) {
    CAPTURE(toolchain);
    auto found = store->get()->find(key, toolchain, ToolchainPolicy::Match);
    REQUIRE(found.ok());
    CHECK((found->artefact != nullptr) == !*toolchain); // the second time round it is there
    REQUIRE(other->get()->publish(late).ok());
    CHECK(store->get()->expectAbsent(key, toolchain, ToolchainPolicy::Match).ok());
  }
}
