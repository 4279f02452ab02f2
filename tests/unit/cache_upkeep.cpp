// cache_upkeep.cpp: blessed files are a function of their contents; merge, diff, evict, clear, verify.
#include "tests/cache/support.h"

#include "cache/trust.h"

#include <doctest/doctest.h>

using namespace phasec;
using namespace phasec::test;

namespace {

std::vector<Compiled> someKernels() {
  std::vector<Compiled> kernels;
  for (uint64_t i = 0; i < 6; ++i)
    for (int64_t split : {1, 2, 16}) kernels.push_back(makeKernel(split, i, 3'000 + 7'919 * i));
  kernels[4].artefact.toolchain = "nvrtc 12.8";
  kernels[5].artefact.payload.clear();
  kernels[5].listing = {};
  return kernels;
}

} // namespace

TEST_CASE("equal contents are equal bytes") {
  TempDir dir;
  std::vector<Compiled> kernels = someKernels(), backwards(kernels.rbegin(), kernels.rend());
  for (Compiled &kernel : backwards) kernel.evidence = {"elsewhere", 1, "other log"}; // never reaches a blessed file
  backwards.push_back(backwards.front());
  REQUIRE(writeBlessed(dir / "a.db", kernels).ok());
  REQUIRE(writeBlessed(dir / "b.db", backwards).ok());
  REQUIRE(writeBlessed(dir / "a.db", kernels).ok()); // over an existing one
  CHECK(readFile(dir / "a.db") == readFile(dir / "b.db"));
  CHECK(*fileSha256(dir / "a.db") == *fileSha256(dir / "b.db"));
  CHECK(listEntries(dir / "a.db")->size() == kernels.size());
  CHECK(verifyStore(dir / "a.db")->sidecar == "ok");
  CHECK(std::distance(std::filesystem::directory_iterator(dir.path()), std::filesystem::directory_iterator()) == 4);
  for (const Compiled &kernel : kernels) {
    auto read = readEntry(dir / "b.db", kernel.artefact.key, kernel.artefact.toolchain);
    REQUIRE(read.ok());
    CHECK(sameBytes(read->artefact, kernel.artefact));
    CHECK(read->listing.ptx == kernel.listing.ptx);
    CHECK(read->evidence.host.empty());
  }
}

TEST_CASE("shards merged equal the whole; so does an exported user file") {
  TempDir dir;
  std::vector<Compiled> kernels = someKernels(), even, odd;
  for (size_t i = 0; i < kernels.size(); ++i) (i % 2 ? odd : even).push_back(kernels[i]);
  odd.push_back(kernels[0]); // in both
  REQUIRE(writeBlessed(dir / "whole.db", kernels).ok());
  REQUIRE(writeBlessed(dir / "odd.db", odd).ok());
  REQUIRE(writeBlessed(dir / "even.db", even).ok());
  auto merged = mergeStores({dir / "odd.db", dir / "even.db"}, dir / "merged.db");
  REQUIRE(merged.ok());
  CHECK(merged->entries == int64_t(kernels.size()));
  CHECK(merged->duplicates == 1);
  CHECK(merged->sha256 == *fileSha256(dir / "whole.db"));
  Bench bench(dir / "user");
  {
    auto cache = bench.open();
    for (const Compiled &kernel : odd) REQUIRE(cache->publish(kernel).ok());
    for (const Compiled &kernel : even) REQUIRE(cache->publish(kernel).ok());
    REQUIRE(cache->setNote("kind", "subject", "text").ok());
    REQUIRE(cache->setTuned({{"ir", "sm_90a", 132, "fast", 1}, "layer_1", "wo_split=8", "{}", 0}).ok());
  }
  auto exported = mergeStores({userFile(dir / "user")}, dir / "exported.db");
  REQUIRE(exported.ok());
  CHECK(exported->sha256 == merged->sha256);
  // Onto one of its own inputs.
  REQUIRE(mergeStores({dir / "odd.db", dir / "even.db"}, dir / "odd.db").ok());
  CHECK(*fileSha256(dir / "odd.db") == merged->sha256);
}

TEST_CASE("merge refuses conflicts, damage and shards that are not what their digest says") {
  TempDir dir;
  Compiled kernel = makeKernel(8, 1), twin = kernel;
  twin.artefact.payload.back() ^= 1;
  CHECK(writeBlessed(dir / "x.db", {kernel, twin}).kind() == ErrorKind::CacheDamage);
  CHECK_FALSE(std::filesystem::exists(dir / "x.db"));
  REQUIRE(writeBlessed(dir / "a.db", {kernel}).ok());
  REQUIRE(writeBlessed(dir / "b.db", {twin}).ok());
  auto refused = mergeStores({dir / "a.db", dir / "b.db"}, dir / "c.db");
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.status().kind() == ErrorKind::CacheDamage);
  for (const char *file : {"a.db", "b.db"}) {
    std::string digest = listEntries(dir / file)->at(0).checksum;
    CHECK(refused.status().text().find(digest) != std::string::npos);
    CHECK(refused.status().text().find(file) != std::string::npos);
  }
  twin = kernel;
  twin.listing.ptx += " ";
  REQUIRE(writeBlessed(dir / "b.db", {twin}).ok());
  CHECK_FALSE(mergeStores({dir / "a.db", dir / "b.db"}, dir / "c.db").ok());
  REQUIRE(writeSidecar(dir / "a.db", std::string(64, '0')).ok());
  CHECK(mergeStores({dir / "a.db"}, dir / "c.db").status().kind() == ErrorKind::CacheDamage);
  CHECK_FALSE(std::filesystem::exists(dir / "c.db"));
  CHECK(mergeStores({dir / "absent.db"}, dir / "c.db").status().kind() == ErrorKind::Io);
}

TEST_CASE("verify sees every changed byte of a blessed file") {
  TempDir dir;
  std::string path = dir / "b.db";
  REQUIRE(writeBlessed(path, {makeKernel(8, 1, 2'000), makeKernel(4, 1, 100)}).ok());
  std::string bytes = readFile(path);
  std::mt19937 random(7);
  for (int trial = 0; trial < 60; ++trial) {
    std::string damaged = bytes;
    size_t at = trial < 20 ? size_t(trial) * 5 : random() % bytes.size();
    damaged[at] = char(damaged[at] ^ (1 << random() % 8));
    writeFile(path, damaged);
    CAPTURE(at);
    auto report = verifyStore(path);
    REQUIRE(report.ok());
    CHECK_FALSE(report->ok());
  }
  writeFile(path, bytes);
  CHECK(verifyStore(path)->ok());
  CHECK(verifyStore(path)->entries == 2);
  for (size_t length : {size_t(0), size_t(10), size_t(16'384), bytes.size() - 1}) {
    writeFile(path, bytes.substr(0, length));
    CHECK_FALSE(verifyStore(path)->ok());
  }
  CHECK(verifyStore(dir / "absent.db").status().kind() == ErrorKind::Io);
}

TEST_SUITE("slow") {
TEST_CASE("verify sees a change of each single byte of a blessed file") {
  TempDir dir;
  std::string path = dir / "b.db";
  REQUIRE(writeBlessed(path, {makeKernel(8, 1, 2'000), makeKernel(4, 1, 100)}).ok());
  const std::string bytes = readFile(path);
  std::mt19937 random(9);
  size_t missed = 0;
  int file = open(path.c_str(), O_WRONLY);
  for (size_t at = 0; at < bytes.size(); ++at) {
    char other = char(bytes[at] ^ (1 + random() % 255));
    REQUIRE(pwrite(file, &other, 1, off_t(at)) == 1);
    missed += verifyStore(path)->ok();
    REQUIRE(pwrite(file, &bytes[at], 1, off_t(at)) == 1);
  }
  close(file);
  CHECK(missed == 0);
  CHECK(verifyStore(path)->ok());
  MESSAGE(bytes.size() << " bytes changed, " << bytes.size() - missed << " found");
}
}

TEST_CASE("diff: added, removed, moved resources, and renamed by an edit") {
  TempDir dir;
  Compiled same = makeKernel(8, 1), removed = makeKernel(8, 2), added = makeKernel(8, 3);
  Compiled before = makeKernel(4, 4), after = before;
  after.artefact.resources = "{\"registers\": 168, \"kernels\": [{\"spill\": 4, \"name\": \"k\"}], \"new\": true}";
  after.artefact.payload.push_back(1);
  Compiled old_text = makeKernel(2, 5), new_text = old_text;
  new_text.artefact.key.fingerprint.high ^= 5; // a template was edited: another key of the same configuration
  REQUIRE(writeBlessed(dir / "a.db", {same, removed, before, old_text}).ok());
  REQUIRE(writeBlessed(dir / "b.db", {same, added, after, new_text}).ok());
  auto diff = diffStores(dir / "a.db", dir / "b.db");
  REQUIRE(diff.ok());
  CHECK(diff->same == 1);
  REQUIRE(diff->added.size() == 1);
  CHECK(diff->added[0].key == added.artefact.key);
  REQUIRE(diff->removed.size() == 1);
  CHECK(diff->removed[0].key == removed.artefact.key);
  REQUIRE(diff->changed.size() == 2);
  std::vector<std::string> texts;
  for (const Reason &reason : diff->changed[0].changes) texts.push_back(reason.text());
  CHECK(texts == std::vector<std::string>{"registers 104 -> 168", "spill_store_bytes dropped: 0",
                                          "kernels.0.name added: k", "kernels.0.spill added: 4", "new added: true",
                                          "payload_bytes 20011 -> 20012"});
  REQUIRE(diff->changed[1].changes.size() == 1);
  CHECK(diff->changed[1].changes[0].section == "fingerprint");
  CHECK(diffStores(dir / "a.db", dir / "a.db")->same == 4);
  CHECK_FALSE(diffStores(dir / "a.db", dir / "absent.db").ok());
}

TEST_CASE("entries are found by prefix") {
  TempDir dir;
  REQUIRE(writeBlessed(dir / "a.db", someKernels()).ok());
  Key key = makeKernel(2, 3).artefact.key;
  CHECK(findEntries(dir / "a.db", key.fingerprint.hex().substr(0, 9))->size() == 3);
  CHECK(findEntries(dir / "a.db", key.fingerprint.hex().substr(0, 9), 2)->at(0).key == key);
  CHECK(findEntries(dir / "a.db", "zz")->empty());
}

TEST_CASE("eviction: by age, by size, by number, the oldest first, never what was just used") {
  TempDir dir;
  std::string path = userFile(dir / "user");
  Bench bench(dir / "user");
  {
    auto cache = bench.open();
    for (uint64_t i = 0; i < 10; ++i) REQUIRE(cache->publish(makeKernel(8, i, 100'000)).ok());
  }
  // Row i was last used i days ago; row 0 a minute into the future, as after a clock was set back.
  REQUIRE(
      sql(path, "UPDATE use SET used_s = CAST(strftime('%s','now') AS INTEGER) - 86400 * (id - 1) + 60 * (id = 1)") ==
      "");
  auto remaining = [&] {
    std::string ids;
    for (uint64_t i = 0; i < 10; ++i)
      if (readEntry(path, makeKernel(8, i).artefact.key, "").ok()) ids += std::to_string(i);
    return ids;
  };
  SUBCASE("age") {
    auto report = evict(path, "prune_after=36h");
    REQUIRE(report.ok());
    CHECK(report->entries == 8);
    CHECK(remaining() == "01");
  }
  SUBCASE("size") {
    CHECK(evict(path, "cache_size_bytes=350k")->kept_entries == 3);
    CHECK(remaining() == "012");
  }
  SUBCASE("number") {
    CHECK(evict(path, "prune_after=365d:cache_size_files=4")->entries == 6);
    CHECK(remaining() == "0123");
  }
  SUBCASE("what was just used stays, whatever the policy") {
    CHECK(evict(path, "cache_size_files=0:cache_size_bytes=0")->kept_entries == 1);
    CHECK(remaining() == "0");
  }
  SUBCASE("at close, and a use makes young") {
    bench.options.evict_policy = "prune_after=60h";
    auto cache = bench.open();
    REQUIRE(cache->lookup(queryOf(makeKernel(8, 9))));
    cache.reset();
    CHECK(remaining() == "0129");
  }
  SUBCASE("the file shrinks") {
    auto before = std::filesystem::file_size(path);
    REQUIRE(evict(path, "cache_size_files=1").ok());
    CHECK(std::filesystem::file_size(path) < before / 3);
    CHECK(verifyStore(path)->ok());
  }
  SUBCASE("bad policies change nothing") {
    for (const char *bad : {"prune_after=30", "prune_after=d", "size=1", "cache_size_bytes=1t", "cache_size_files=-1",
                            "prune_after=1d,cache_size_files=1", "cache_size_files", "cache_size_bytes=99999999999999"})
      CHECK_MESSAGE(evict(path, bad).status().kind() == ErrorKind::Usage, bad);
    CHECK(evict(path, "")->entries == 0);
    CHECK(remaining() == "0123456789");
  }
  SUBCASE("blessed files are not evicted or cleared") {
    REQUIRE(mergeStores({path}, dir / "b.db").ok());
    CHECK(evict(dir / "b.db", "cache_size_files=0").status().kind() == ErrorKind::Usage);
    CHECK(clearStore(dir / "b.db").kind() == ErrorKind::Usage);
    CHECK(verifyStore(dir / "b.db")->ok());
  }
  SUBCASE("clear") {
    REQUIRE(clearStore(path).ok());
    CHECK(remaining() == "");
    CHECK(storeStats(path)->counters.empty());
    writeFile(path, "garbage");
    REQUIRE(clearStore(path).ok());
    CHECK_FALSE(std::filesystem::exists(path));
    CHECK(clearStore(path).kind() == ErrorKind::Io);
  }
}
