// cache_layers.cpp: what goes wrong around the files: rights, foreign files, newer schemas, read-only places, forks.
#include "tests/cache/support.h"

#include "cache/schema.h"
#include "cache/trust.h"

#include <doctest/doctest.h>

#include <sys/wait.h>

using namespace phasec;
using namespace phasec::test;

namespace {

/// A cache must work, whatever lies under it: publish serves from memory at least.
void checkWorks(Cache &cache, uint64_t index = 1) {
  Compiled kernel = makeKernel(8, index);
  auto published = cache.publish(kernel);
  REQUIRE(published.ok());
  CHECK(sameBytes(*published->artefact, kernel.artefact));
  auto hit = cache.lookup(queryOf(kernel));
  REQUIRE(hit);
  CHECK(sameBytes(*hit->artefact, kernel.artefact));
}

bool contains(const std::string &text, const std::string &part) { return text.find(part) != std::string::npos; }

/// Runs `body` in a child without root's rights; true when it returned true. Root is never refused by a mode.
bool asNobody(const std::string &owned, const std::function<bool()> &body) {
  pid_t child = fork();
  if (child == 0) {
    if (geteuid() == 0) {
      if (!owned.empty() && chown(owned.c_str(), 65534, 65534) != 0) _exit(3);
      if (setgid(65534) != 0 || setuid(65534) != 0) _exit(4);
    }
    _exit(body() ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

} // namespace

TEST_CASE("no user directory: memory, silently") {
  Bench bench("");
  auto cache = bench.open();
  checkWorks(*cache);
  CHECK(bench.warnings->empty());
  CHECK(cache->layers().empty());
  CHECK(cache->counters().degraded == 0);
}

TEST_CASE("a directory that cannot be made: one warning, a counter, memory") {
  TempDir dir;
  writeFile(dir / "file", "x");
  Bench bench(dir / "file/user"); // below a file: nobody can make that, root neither
  auto cache = bench.open();
  checkWorks(*cache, 1);
  checkWorks(*cache, 2);
  CHECK(bench.warnings->size() == 1);
  CHECK(contains(bench.warnings->at(0), "PHASEC_CACHE_DIR"));
  CHECK(cache->counters().degraded >= 2);
  REQUIRE(cache->layers().size() == 1);
  CHECK_FALSE(cache->layers()[0].usable);
  CHECK(contains(cache->layers()[0].problem, "file/user"));
  CHECK_FALSE(cache->explain(queryOf(makeKernel(8, 9))).notes.empty());
}

TEST_CASE("a read-only directory serves what it holds") {
  TempDir dir;
  Compiled kernel = makeKernel(8, 1);
  Bench bench(dir / "user");
  REQUIRE(bench.open()->publish(kernel).ok());
  std::filesystem::permissions(dir.path(), std::filesystem::perms(0755));
  if (geteuid() == 0)
    for (const char *name : {"user", "user/kernels-v2.db", "user/kernels.lock"})
      REQUIRE(chown((dir / name).c_str(), 65534, 65534) == 0);
  std::filesystem::permissions(dir / "user", std::filesystem::perms(0500));
  CHECK(asNobody("", [&] {
    auto cache = bench.open();
    auto hit = cache->lookup(queryOf(kernel));
    bool good = hit && hit->layer == CacheLayer::User && sameBytes(*hit->artefact, kernel.artefact);
    Compiled fresh = makeKernel(8, 2);
    good = good && cache->publish(fresh).ok() && cache->lookup(queryOf(fresh));
    good = good && bench.warnings->size() == 1 && cache->layers()[0].usable && !cache->layers()[0].writable;
    return good;
  }));
  std::filesystem::permissions(dir / "user", std::filesystem::perms(0700));
}

TEST_CASE("places that others may write are refused, with the remedy") {
  TempDir dir;
  Compiled kernel = makeKernel(8, 1);
  Bench bench(dir / "user");
  REQUIRE(bench.open()->publish(kernel).ok());
  SUBCASE("user directory") {
    std::filesystem::permissions(dir / "user", std::filesystem::perms(0777));
    auto cache = bench.open();
    CHECK_FALSE(cache->lookup(queryOf(kernel)));
    REQUIRE(bench.warnings->size() == 1);
    CHECK(contains(bench.warnings->at(0), "chmod go-w " + dir.path() + "/user"));
    checkWorks(*cache);
  }
  SUBCASE("user file") {
    std::filesystem::permissions(userFile(dir / "user"), std::filesystem::perms(0660));
    CHECK_FALSE(bench.open()->lookup(queryOf(kernel)));
    CHECK(contains(bench.warnings->at(0), "chmod go-w"));
  }
  SUBCASE("blessed file") {
    REQUIRE(writeBlessed(dir / "b.db", {kernel}).ok());
    std::filesystem::permissions(dir / "b.db", std::filesystem::perms(0664));
    Bench blessed("");
    blessed.options.blessed = {{dir / "b.db", ""}};
    auto cache = blessed.open();
    CHECK_FALSE(cache->lookup(queryOf(kernel)));
    CHECK(contains(cache->layers()[0].problem, "chmod go-w"));
    checkWorks(*cache);
    blessed.options.strict = true;
    CHECK(Cache::open(blessed.options).status().kind() == ErrorKind::CacheDamage);
  }
  SUBCASE("somebody else's file") {
    if (geteuid() != 0) return;
    REQUIRE(chown(userFile(dir / "user").c_str(), 4711, 4711) == 0);
    CHECK_FALSE(bench.open()->lookup(queryOf(kernel)));
    CHECK(contains(bench.warnings->at(0), "uid 4711"));
  }
}

TEST_CASE("files of the user that are not ours are set aside, never changed, never lost") {
  TempDir dir;
  Bench bench(dir / "user");
  std::string path = userFile(dir / "user");
  REQUIRE(bench.open()->publish(makeKernel(8, 1)).ok());
  std::string expected_note;
  SUBCASE("text") { writeFile(path, "this is no database, but somebody's letter\n" + std::string(5'000, 'x')); }
  SUBCASE("another program's database") {
    writeFile(path, "");
    CHECK(sql(path, "CREATE TABLE mail(x); INSERT INTO mail VALUES(1)") == "");
  }
  SUBCASE("a newer schema") { CHECK(sql(path, "PRAGMA user_version=3") == ""); }
  SUBCASE("an older schema under a newer one's name") { CHECK(sql(path, "PRAGMA user_version=1; DROP TABLE tuned") == ""); }
  SUBCASE("a planted trigger") {
    CHECK(sql(path, "CREATE TRIGGER t AFTER INSERT ON artefact BEGIN DELETE FROM artefact; END") == "");
  }
  SUBCASE("an extra column") { CHECK(sql(path, "ALTER TABLE artefact ADD COLUMN mood TEXT") == ""); }
  SUBCASE("a blessed file in the wrong place") {
    std::filesystem::remove(path);
    REQUIRE(writeBlessed(path, {makeKernel(8, 1)}).ok());
  }
  std::string before = readFile(path);
  auto cache = bench.open();
  CHECK_FALSE(cache->lookup(queryOf(makeKernel(8, 1))));
  CHECK(readFile(path + ".aside-1") == before);
  CHECK(bench.warnings->size() == 1);
  CHECK(contains(bench.warnings->at(0), "aside-1"));
  CHECK(cache->counters().files_set_aside == 1);
  checkWorks(*cache);
  cache.reset();
  CHECK(bench.open()->lookup(queryOf(makeKernel(8, 1)))->layer == CacheLayer::User);
  CHECK(verifyStore(path)->ok());
}

TEST_CASE("zero bytes are an empty cache") {
  TempDir dir;
  Bench bench(dir / "user");
  REQUIRE(ensurePrivateDirectory(dir / "user").ok());
  writeFile(userFile(dir / "user"), "");
  checkWorks(*bench.open());
  CHECK(bench.warnings->empty());
}

TEST_CASE("a file that is deleted or cleared while we hold it open") {
  TempDir dir;
  Bench bench(dir / "user");
  auto cache = bench.open();
  checkWorks(*cache, 1);
  SUBCASE("deleted") { std::filesystem::remove_all(dir / "user"); }
  SUBCASE("cleared") { REQUIRE(clearStore(userFile(dir / "user")).ok()); }
  checkWorks(*cache, 2);
  cache.reset();
  auto again = bench.open();
  CHECK_FALSE(again->lookup(queryOf(makeKernel(8, 1))));
  CHECK(again->lookup(queryOf(makeKernel(8, 2))));
}

TEST_CASE("the open file turns to garbage: set aside, work goes on") {
  TempDir dir;
  Bench bench(dir / "user");
  for (uint64_t i = 0; i < 20; ++i) REQUIRE(bench.open()->publish(makeKernel(8, i)).ok());
  auto cache = bench.open();
  REQUIRE(cache->lookup(queryOf(makeKernel(8, 0))));
  std::string path = userFile(dir / "user"), bytes = readFile(path);
  {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(16'384); // leave the header page, so that nothing but the rows tells
    file << std::string(bytes.size() - 16'384, '\x5a');
  }
  for (uint64_t i = 1; i < 20; ++i) {
    auto hit = cache->lookup(queryOf(makeKernel(8, i)));
    if (hit) CHECK(sameBytes(*hit->artefact, makeKernel(8, i).artefact));
    checkWorks(*cache, i);
  }
  cache.reset();
  CHECK(bench.open()->lookup(queryOf(makeKernel(8, 19))));
  CHECK(verifyStore(path)->ok());
}

TEST_CASE("journal modes: WAL at home, and immutable where nothing may be written") {
  TempDir dir;
  Bench bench(dir / "user");
  auto cache = bench.open();
  checkWorks(*cache);
  CHECK(sql(userFile(dir / "user"), "PRAGMA journal_mode") == "wal");
  CHECK(std::filesystem::exists(userFile(dir / "user") + "-wal"));
  cache.reset();
  REQUIRE(writeBlessed(dir / "b.db", {makeKernel(8, 1)}).ok());
  CHECK(sql(dir / "b.db", "PRAGMA journal_mode") == "delete");
  CHECK(sql(dir / "b.db", "PRAGMA page_size") == "16384");
  CHECK(sql(dir / "b.db", "PRAGMA freelist_count") == "0");
  CHECK(sql(dir / "b.db", "PRAGMA application_id") == std::to_string(kApplicationId));
}

TEST_CASE("blessed digests: sidecar under strict, pinned always") {
  TempDir dir;
  std::string path = dir / "b.db";
  Compiled kernel = makeKernel(8, 1);
  REQUIRE(writeBlessed(path, {kernel}).ok());
  std::string digest = *fileSha256(path);
  CHECK(readFile(sidecarPath(path)) == digest + "  b.db\n");
  Bench bench("");
  bench.options.blessed = {{path, digest}};
  bench.options.strict = true;
  CHECK(bench.open()->lookup(queryOf(kernel)));
  bench.options.blessed = {{path, std::string(64, '0')}};
  bench.options.strict = false;
  Status refused = Cache::open(bench.options).status();
  CHECK(refused.kind() == ErrorKind::CacheDamage);
  CHECK(contains(refused.text(), digest));
  bench.options.blessed = {{path, ""}};
  bench.options.strict = true;
  CHECK(Cache::open(bench.options).ok());
  writeFile(sidecarPath(path), std::string(64, 'a') + "  b.db\n");
  CHECK(Cache::open(bench.options).status().kind() == ErrorKind::CacheDamage);
  CHECK_FALSE(verifyStore(path)->ok());
  CHECK(verifyStore(path)->sidecar == "mismatch");
  CHECK(verifyStore(path, digest)->ok());
  std::filesystem::remove(sidecarPath(path));
  CHECK_FALSE(Cache::open(bench.options).ok());
  CHECK(verifyStore(path)->sidecar == "absent");
  bench.options.blessed = {{dir / "absent.db", ""}};
  CHECK(Cache::open(bench.options).status().kind() == ErrorKind::Io);
  bench.options.strict = false;
  checkWorks(*bench.open());
}

TEST_CASE("a damaged blessed row is ignored, reported, and never written to") {
  TempDir dir;
  std::string path = dir / "b.db";
  REQUIRE(writeBlessed(path, {makeKernel(8, 1), makeKernel(8, 2)}).ok());
  std::string bytes = readFile(path);
  size_t at = bytes.find("layer_1"); // the value in the row
  REQUIRE(at != std::string::npos);
  bytes[at] ^= 0x20;
  writeFile(path, bytes);
  Bench bench(dir / "user");
  bench.options.blessed = {{path, ""}};
  auto cache = bench.open();
  CHECK_FALSE(cache->lookup(queryOf(makeKernel(8, 1))));
  CHECK(cache->lookup(queryOf(makeKernel(8, 2)))->layer == CacheLayer::Blessed);
  CHECK(cache->counters().damaged_rows == 1);
  CHECK(cache->counters().quarantined == 0);
  CHECK(bench.warnings->size() == 1);
  checkWorks(*cache, 1); // compiled again, into the user file
  CHECK(readFile(path) == bytes);
  CHECK(verifyStore(path)->findings.size() >= 2); // digest and row
}

TEST_CASE("a child of fork has connections of its own") {
  TempDir dir;
  Bench bench(dir / "user");
  auto cache = bench.open();
  checkWorks(*cache, 1);
  REQUIRE(cache->lookup(queryOf(makeKernel(8, 1))));
  pid_t child = fork();
  if (child == 0) {
    Compiled mine = makeKernel(8, 2);
    bool good = cache->lookup(queryOf(makeKernel(8, 1))) && cache->counters().hits_user == 1;
    good = good && cache->publish(mine).ok() && cache->counters().published == 1;
    cache.reset();
    _exit(good ? 0 : 1);
  }
  checkWorks(*cache, 3);
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  CHECK(cache->lookup(queryOf(makeKernel(8, 2)))->layer == CacheLayer::User); // the child's
  cache.reset();
  CHECK(listEntries(userFile(dir / "user"))->size() == 3);
  CHECK(verifyStore(userFile(dir / "user"))->ok());
}
