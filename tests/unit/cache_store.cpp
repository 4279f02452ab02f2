// cache_store.cpp: rows go in and come out: round trips, provenance, checksums over every column, schemas.
#include "tests/cache/support.h"

#include "cache/encode.h"

#include <doctest/doctest.h>

using namespace phasec;
using namespace phasec::test;

TEST_CASE("keys print and parse") {
  Key key{8, {0x3fa1c07b00000001u, 0xfedcba9876543210u}};
  CHECK(key.text() == "(8, 3fa1c07b00000001fedcba9876543210)");
  CHECK(key.brief() == "(8, 3fa1c07b..)");
  CHECK(Key::parse(key.text()) == key);
  CHECK(Key::parse("8,3FA1C07B00000001FEDCBA9876543210") == key);
  for (const char *bad :
       {"", "8", "(8, 3fa1)", "(x, 3fa1c07b00000001fedcba9876543210)", "(, 3fa1c07b00000001fedcba9876543210)",
        "(8, 3fa1c07b00000001fedcba987654321g)", "(-8, 3fa1c07b00000001fedcba9876543210)",
        "(99999999999999999999, 3fa1c07b00000001fedcba9876543210)"})
    CHECK_MESSAGE(!Key::parse(bad), bad);
  CHECK(Fingerprint::parse("3fa1c07b00000001fedcba9876543210") == key.fingerprint);
}

TEST_CASE("the checksum's bytes are part of the format") {
  // Golden: changing this orphans every file. Field boundaries count: "ab" + "c" is not "a" + "bc".
  std::vector<uint8_t> payload = {0, 1, 2, 255};
  auto fingerprint = fingerprintBytes({1, 2});
  RowView row{8, fingerprint, "ab", "c", "", "", "", "", payload};
  CHECK(hexOf(checksumOf(row)) == "305aed37703c38abe9c5bf993bd2833d");
  RowView moved{8, fingerprint, "a", "bc", "", "", "", "", payload};
  CHECK(checksumOf(row) != checksumOf(moved));
}

TEST_CASE("sections survive tabs, newlines and backslashes") {
  std::vector<Section> sections = {{"a\tb", "1\n", "\\t"}, {"empty", "", ""}, {"z", "9", "line\nline\\"}};
  CHECK(Sections(sections).list() == sections);
  CHECK(Sections::stored(Sections(sections).text()).list() == sections);
  CHECK(Sections().list().empty());
  CHECK(Sections::stored("torn").list().size() == 1);
}

TEST_CASE("toolchains are ordered by number, not by letter") {
  CHECK(naturalLess("nvrtc 13.9", "nvrtc 13.10"));
  CHECK_FALSE(naturalLess("nvrtc 13.10", "nvrtc 13.9"));
  CHECK(naturalLess("nvrtc 12.8", "nvrtc 13.0"));
  CHECK_FALSE(naturalLess("nvrtc 13.0", "nvrtc 13.0"));
  CHECK(naturalLess("nvrtc 13.0", "nvrtc 13.0 (V13.0.88)"));
}

TEST_CASE("what is published comes back, in this process and in the next") {
  TempDir dir;
  Bench bench(dir / "user");
  Compiled kernel = makeKernel(8, 1), other = makeKernel(4, 1);
  {
    auto cache = bench.open();
    CHECK_FALSE(cache->lookup(queryOf(kernel)));
    auto published = cache->publish(kernel);
    REQUIRE(published.ok());
    CHECK(published->layer == CacheLayer::Compiled);
    CHECK(sameBytes(*published->artefact, kernel.artefact));
    auto hit = cache->lookup(queryOf(kernel));
    REQUIRE(hit);
    CHECK(hit->layer == CacheLayer::Memory);
    CHECK_FALSE(cache->lookup(queryOf(other))); // the same fingerprint digits under another split is another key
    CHECK(cache->counters().hits_memory == 1);
    CHECK(cache->counters().published == 1);
  }
  auto cache = bench.open();
  auto hit = cache->lookup(queryOf(kernel));
  REQUIRE(hit);
  CHECK(hit->layer == CacheLayer::User);
  CHECK(hit->path == userFile(dir / "user"));
  CHECK(sameBytes(*hit->artefact, kernel.artefact));
  CHECK(hit->artefact->sections.list() == kernel.artefact.sections.list());
  auto listing = cache->listing(kernel.artefact.key, kToolchain);
  REQUIRE(listing.ok());
  CHECK(listing->source == kernel.listing.source);
  CHECK(listing->ptx == kernel.listing.ptx);
  CHECK_FALSE(cache->listing(other.artefact.key, kToolchain).ok());
  CHECK(bench.warnings->empty());
  struct stat info {};
  REQUIRE(stat((dir / "user").c_str(), &info) == 0);
  CHECK((info.st_mode & 0777) == 0700);
}

TEST_CASE("a hit writes nothing before close") {
  TempDir dir;
  Bench bench(dir / "user");
  Compiled kernel = makeKernel(8, 1);
  REQUIRE(bench.open()->publish(kernel).ok());
  std::string path = userFile(dir / "user");
  std::string before = readFile(path);
  {
    auto cache = bench.open();
    REQUIRE(cache->lookup(queryOf(kernel)));
    CHECK(readFile(path) == before);
    CHECK(readFile(path + "-wal").empty());
  }
  auto entries = listEntries(path);
  REQUIRE(entries.ok());
  REQUIRE(entries->size() == 1);
  CHECK((*entries)[0].uses == 2);
  CHECK((*entries)[0].payload_bytes == int64_t(kernel.artefact.payload.size()));
  CHECK((*entries)[0].ptx_bytes == int64_t(kernel.listing.ptx.size()));
}

TEST_CASE("every stored column is covered by a checksum") {
  // Each statement changes one stored value; a hit must never carry the change, and the row must heal.
  const char *kDamages[] = {
      "UPDATE artefact SET payload = CAST(x'00' || substr(payload, 2) AS BLOB) WHERE substr(payload, 1, 1) <> x'00'",
      "UPDATE artefact SET payload = substr(payload, 1, length(payload) - 1)",
      "UPDATE artefact SET payload = payload || x'00'",
      "UPDATE artefact SET payload = x''",
      "UPDATE artefact SET layer = 'layer_2'",
      "UPDATE artefact SET target = 'sm_120a' WHERE target <> 'sm_120a'",
      "UPDATE artefact SET config = replace(config, '8', '4')",
      "UPDATE artefact SET resources = replace(resources, '0', '1')",
      "UPDATE artefact SET sections = replace(sections, 'wide', 'seed')",
      "UPDATE artefact SET checksum = zeroblob(16)",
      "UPDATE artefact SET checksum = x''",
      "UPDATE artefact SET layer = CAST(x'ff00fe' AS TEXT)",
  };
  int seen = 0;
  for (const char *damage : kDamages) {
    CAPTURE(damage);
    TempDir dir;
    Bench bench(dir / "user");
    Compiled kernel = makeKernel(8, 1), bystander = makeKernel(8, 2);
    kernel.artefact.payload[0] = 0x7f;
    REQUIRE(bench.open()->publish(kernel).ok());
    REQUIRE(sql(userFile(dir / "user"), damage) == "");
    REQUIRE(bench.open()->publish(bystander).ok());
    auto verified = verifyStore(userFile(dir / "user"));
    REQUIRE(verified.ok());
    CHECK(verified->findings.size() == 1);
    auto cache = bench.open();
    CHECK_FALSE(cache->lookup(queryOf(kernel)));
    CHECK(cache->counters().damaged_rows == 1);
    CHECK(cache->counters().quarantined == 1);
    CHECK(bench.warnings->size() == 1);
    Miss miss = cache->miss(queryOf(kernel));
    REQUIRE_FALSE(miss.reasons.empty());
    CHECK(miss.reasons[0].section == "damage");
    CHECK(cache->lookup(queryOf(bystander)));
    REQUIRE(cache->publish(kernel).ok());
    cache.reset();
    CHECK(bench.open()->lookup(queryOf(kernel)));
    CHECK(verifyStore(userFile(dir / "user"))->ok());
    auto stats = storeStats(userFile(dir / "user"));
    REQUIRE(stats.ok());
    CHECK(stats->quarantined == 1);
    CHECK(stats->counters["damaged_rows"] == 1);
    ++seen;
  }
  CHECK(seen == int(std::size(kDamages)));
}

TEST_CASE("damaged key columns are misses, and verify finds them") {
  for (const char *damage : {"UPDATE artefact SET wo_split = 16", "UPDATE artefact SET fingerprint = zeroblob(16)",
                             "UPDATE artefact SET toolchain = 'nvrtc 99'", "UPDATE artefact SET fingerprint = x'01'"}) {
    CAPTURE(damage);
    TempDir dir;
    Bench bench(dir / "user");
    Compiled kernel = makeKernel(8, 1);
    REQUIRE(bench.open()->publish(kernel).ok());
    REQUIRE(sql(userFile(dir / "user"), damage) == "");
    auto cache = bench.open();
    CHECK_FALSE(cache->lookup(queryOf(kernel)));
    // Asked for under its false name the row is not believed either.
    Query false_name = queryOf(kernel);
    false_name.key.wo_split = 16;
    CHECK_FALSE(cache->lookup(false_name));
    false_name = queryOf(kernel);
    false_name.toolchain = "nvrtc 99";
    CHECK_FALSE(cache->lookup(false_name));
    auto verified = verifyStore(userFile(dir / "user"));
    REQUIRE(verified.ok());
    if (cache->counters().quarantined == 0) CHECK_FALSE(verified->ok());
  }
}

TEST_CASE("damaged listings do not hurt the kernel") {
  TempDir dir;
  Bench bench(dir / "user");
  Compiled kernel = makeKernel(8, 1);
  REQUIRE(bench.open()->publish(kernel).ok());
  REQUIRE(sql(userFile(dir / "user"), "UPDATE listing SET ptx = CAST('.version 1.0' AS BLOB)") == "");
  auto cache = bench.open();
  CHECK(cache->lookup(queryOf(kernel)));
  CHECK_FALSE(cache->listing(kernel.artefact.key, kToolchain).ok());
  CHECK(readEntry(userFile(dir / "user"), kernel.artefact.key, "").status().kind() == ErrorKind::CacheDamage);
  CHECK_FALSE(verifyStore(userFile(dir / "user"))->ok());
}

TEST_CASE("toolchain policies") {
  TempDir dir;
  Bench bench(dir / "user");
  Compiled old_one = makeKernel(8, 1), new_one = makeKernel(8, 1);
  old_one.artefact.toolchain = "nvrtc 13.9";
  new_one.artefact.toolchain = "nvrtc 13.10";
  new_one.artefact.payload.push_back(1);
  {
    auto cache = bench.open();
    REQUIRE(cache->publish(new_one).ok());
    REQUIRE(cache->publish(old_one).ok());
  }
  REQUIRE(mergeStores({userFile(dir / "user")}, dir / "blessed.db").ok());
  Query query = queryOf(old_one);
  SUBCASE("match takes the equal one") {
    CHECK(bench.open()->lookup(query)->artefact->toolchain == "nvrtc 13.9");
    query.toolchain = "nvrtc 14.0";
    auto cache = bench.open();
    CHECK_FALSE(cache->lookup(query));
    Miss miss = cache->explain(query);
    REQUIRE(miss.reasons.size() == 1);
    CHECK(miss.reasons[0].section == "toolchain");
    CHECK(miss.reasons[0].to == "nvrtc 14.0");
  }
  SUBCASE("any takes the newest, also from a blessed file, also when ours is not known") {
    bench.options.user_policy = ToolchainPolicy::Any;
    query.toolchain = "nvrtc 14.0";
    CHECK(bench.open()->lookup(query)->artefact->toolchain == "nvrtc 13.10");
    Bench blessed("");
    blessed.options.blessed = {{dir / "blessed.db", ""}};
    CHECK(blessed.open()->lookup(query)->artefact->toolchain == "nvrtc 13.10");
    blessed.options.blessed_policy = ToolchainPolicy::Match;
    CHECK_FALSE(blessed.open()->lookup(query));
    query.toolchain.clear();
    CHECK(blessed.open()->lookup(query)->artefact->toolchain == "nvrtc 13.10");
  }
}

TEST_CASE("layers answer in order and say so") {
  TempDir dir;
  Compiled in_first = makeKernel(1, 1), in_second = makeKernel(2, 2), in_user = makeKernel(4, 3);
  REQUIRE(writeBlessed(dir / "first.db", {in_first}).ok());
  REQUIRE(writeBlessed(dir / "second.db", {in_first, in_second}).ok());
  Bench bench(dir / "user");
  bench.options.blessed = {{dir / "first.db", ""}, {dir / "second.db", ""}};
  std::string before = readFile(dir / "first.db") + readFile(dir / "second.db");
  {
    auto cache = bench.open();
    auto hit = cache->lookup(queryOf(in_first));
    REQUIRE(hit);
    CHECK(hit->layer == CacheLayer::Blessed);
    CHECK(hit->path == dir / "first.db");
    CHECK(cache->lookup(queryOf(in_second))->path == dir / "second.db");
    CHECK(cache->lookup(queryOf(in_second))->layer == CacheLayer::Memory);
    CHECK_FALSE(std::filesystem::exists(dir / "user")); // blessed hits do not even open the user file
    REQUIRE(cache->publish(in_user).ok());
    CHECK(cache->listing(in_second.artefact.key, kToolchain)->ptx == in_second.listing.ptx);
  }
  CHECK(bench.open()->lookup(queryOf(in_user))->layer == CacheLayer::User);
  CHECK(readFile(dir / "first.db") + readFile(dir / "second.db") == before);
  CHECK(storeStats(userFile(dir / "user"))->counters["hits_blessed"] == 2);
}

TEST_CASE("notes last") {
  TempDir dir;
  Bench bench(dir / "user");
  {
    auto cache = bench.open();
    CHECK_FALSE(cache->note("toolchain", "/usr/lib/libnvrtc.so|1|2"));
    REQUIRE(cache->setNote("toolchain", "/usr/lib/libnvrtc.so|1|2", "nvrtc 12").ok());
    REQUIRE(cache->setNote("toolchain", "/usr/lib/libnvrtc.so|1|2", kToolchain).ok());
  }
  CHECK(bench.open()->note("toolchain", "/usr/lib/libnvrtc.so|1|2") == std::string(kToolchain));
  Bench memory("");
  CHECK_FALSE(memory.open()->setNote("a", "b", "c").ok());
}

TEST_CASE("tuned schedules: the latest winner of exactly what was searched; cleared with the rest") {
  TempDir dir;
  Bench bench(dir / "user");
  const TunedKey key{"ir", "sm_90a", 132, "fast", 1};
  CHECK_FALSE(bench.open()->tuned(key));
  CHECK_FALSE_MESSAGE(std::filesystem::exists(dir / "user"), "a question makes no file");
  REQUIRE(bench.open()->setTuned({key, "@a", "wo_split=4", "{\"us\": 3}", 0}).ok());
  REQUIRE(bench.open()->setTuned({key, "@a", "wo_split=8 ring=2", "{\"us\": 2}", 0}).ok());
  auto found = bench.open()->tuned(key);
  REQUIRE(found);
  CHECK(found->key == key);
  CHECK(found->name == "@a");
  CHECK(found->schedule == "wo_split=8 ring=2");
  CHECK(found->evidence == "{\"us\": 2}");
  CHECK(found->tuned_s > 1'700'000'000);
  for (TunedKey other : {TunedKey{"ri", "sm_90a", 132, "fast", 1}, TunedKey{"ir", "sm_120a", 132, "fast", 1},
                         TunedKey{"ir", "sm_90a", 114, "fast", 1}, TunedKey{"ir", "sm_90a", 132, "exact", 1},
                         TunedKey{"ir", "sm_90a", 132, "fast", 2}}) {
    CHECK_FALSE(bench.open()->tuned(other));
    REQUIRE(bench.open()->setTuned({other, "@b", "", "{}", 0}).ok());
  }
  CHECK(listTuned(userFile(dir / "user"))->size() == 6);
  CHECK(storeStats(userFile(dir / "user"))->entries == 0);
  REQUIRE(clearStore(userFile(dir / "user")).ok());
  CHECK(listTuned(userFile(dir / "user"))->empty());
  CHECK_FALSE(Bench("").open()->setTuned({key, "@a", "", "{}", 0}).ok());
}

TEST_CASE("the memory layer is bounded") {
  TempDir dir;
  Bench bench("");
  bench.options.memory_bytes_max = 100'000;
  auto cache = bench.open();
  for (uint64_t i = 0; i < 20; ++i) REQUIRE(cache->publish(makeKernel(8, i)).ok());
  int kept = 0;
  for (uint64_t i = 0; i < 20; ++i) kept += cache->lookup(queryOf(makeKernel(8, i))).has_value();
  CHECK(kept == 4);
  CHECK(cache->lookup(queryOf(makeKernel(8, 19))));
}
