// measure.cpp: what the cache costs, each figure beside a baseline of the same run; median and best of all rounds.
//
//   measure [--bytes N] [--rounds N]      default 200 KB payloads, 2000 rounds
#include "tests/cache/support.h"

#include "cache/encode.h"
#include "cache/store.h"

#include <cstring>
#include <functional>
#include <unordered_map>

using namespace phasec;
using namespace phasec::test;

namespace {

using Clock = std::chrono::steady_clock;

struct Cost {
  double median_us, best_us;
  Cost operator/(double by) const { return {median_us / by, best_us / by}; }
  Cost operator*(double by) const { return {median_us * by, best_us * by}; }
};

Cost costOf(int rounds, const std::function<void(int)> &body) {
  std::vector<double> samples;
  for (int i = 0; i < rounds; ++i) {
    Clock::time_point start = Clock::now();
    body(i);
    samples.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
  }
  std::sort(samples.begin(), samples.end());
  return {samples[size_t(rounds / 2)], samples.front()};
}

void print(const char *what, Cost cost, Cost baseline, const char *baseline_name) {
  std::printf("%-36s %9.2f us (best %9.2f)  %6.1f x %s\n", what, cost.median_us, cost.best_us,
              cost.median_us / baseline.median_us, baseline_name);
}

constexpr int kEntries = 32;

} // namespace

int main(int argc, char **argv) {
  size_t bytes = 200'000;
  int rounds = 2'000;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (!std::strcmp(argv[i], "--bytes")) bytes = size_t(std::atoll(argv[i + 1]));
    if (!std::strcmp(argv[i], "--rounds")) rounds = std::atoi(argv[i + 1]);
  }
  TempDir dir;
  std::vector<Compiled> kernels;
  for (uint64_t i = 0; i < kEntries; ++i) kernels.push_back(makeKernel(8, i, bytes));
  Bench bench(dir / "user");
  std::string user = userFile(dir / "user"), blessed = dir / "b.db", raw = dir / "raw";
  Cost publish{};
  {
    auto cache = bench.open();
    (void)cache->publish(makeKernel(8, 99, bytes)).ok();
    publish = costOf(kEntries, [&](int i) { (void)cache->publish(kernels[size_t(i)]).ok(); });
  }
  (void)writeBlessed(blessed, kernels).ok();
  writeFile(raw, std::string(bytes, 'x'));

  std::vector<char> buffer(bytes);
  Cost raw_read = costOf(rounds, [&](int) {
    int fd = open(raw.c_str(), O_RDONLY);
    if (read(fd, buffer.data(), bytes) != ssize_t(bytes)) std::abort();
    close(fd);
  });
  Cost raw_write =
      costOf(kEntries, [&](int i) { writeFile(dir / ("w" + std::to_string(i)), std::string(bytes, 'x')); });
  std::unordered_map<uint64_t, std::string> map;
  for (uint64_t i = 0; i < kEntries; ++i) map[fingerprintOf(i).low] = "x";
  size_t sink = 0;
  Cost raw_map = costOf(rounds,
                        [&](int i) {
                          for (int n = 0; n < 100; ++n)
                            sink += map.find(fingerprintOf(uint64_t((i + n) % kEntries)).low)->second.size();
                        }) /
                 100;

  auto payloadOf = [&](int i) -> const Artefact & { return kernels[size_t(i % kEntries)].artefact; };
  Cost checksum = costOf(rounds, [&](int i) {
    RowView row;
    row.payload = payloadOf(i).payload;
    sink += checksumOf(row)[0];
  });
  std::unique_ptr<Store> store = Store::openUser(user).take();
  Cost user_hit = costOf(rounds, [&](int i) {
    sink += store->find(payloadOf(i).key, kToolchain, ToolchainPolicy::Match)->artefact->payload.size();
  });
  Key absent = makeKernel(8, 1'000).artefact.key;
  Cost user_miss =
      costOf(rounds, [&](int) { sink += size_t(store->find(absent, kToolchain, ToolchainPolicy::Match)->id); });
  store = Store::openBlessed(blessed).take();
  Cost blessed_hit = costOf(rounds, [&](int i) {
    sink += store->find(payloadOf(i).key, kToolchain, ToolchainPolicy::Any)->artefact->payload.size();
  });

  Bench serving("");
  serving.options.blessed = {{blessed, ""}};
  Cost blessed_open = costOf(rounds / 10, [&](int i) {
    auto cache = serving.open();
    sink += cache->lookup(queryOf(kernels[size_t(i % kEntries)]))->path.size();
  });
  Cost blessed_all = costOf(rounds / 100 + 1, [&](int) {
    auto cache = serving.open();
    for (const Compiled &kernel : kernels) sink += cache->lookup(queryOf(kernel))->path.size();
  });
  auto cache = serving.open();
  std::vector<Query> queries;
  for (const Compiled &kernel : kernels) queries.push_back(queryOf(kernel)), (void)cache->lookup(queries.back());
  Cost memory_hit = costOf(rounds,
                           [&](int i) {
                             for (int n = 0; n < 100; ++n)
                               sink += cache->lookup(queries[size_t((i + n) % kEntries)])->path.size();
                           }) /
                    100;
  Query strange = queries[0];
  strange.key.wo_split = 4;
  Cost explain = costOf(rounds / 10, [&](int) { sink += cache->explain(strange).reasons.size(); });

  std::printf("%zu KB payloads, %d entries, %d rounds, medians and best%s\n", bytes / 1'000, kEntries, rounds,
              sink ? "" : " ");
  print("(reading a plain file of that size)", raw_read, raw_read, "itself");
  print("look-up in memory", memory_hit, raw_map, "a map look-up");
  print("hit in the user file, checked", user_hit, raw_read, "reading a plain file");
  print("hit in a blessed file, checked", blessed_hit, raw_read, "reading a plain file");
  print("checksum of the payload", checksum, raw_read, "reading a plain file");
  print("miss in the user file", user_miss, raw_read, "reading a plain file");
  print("open a blessed file, first hit", blessed_open, raw_read, "reading a plain file");
  print("open a blessed file, hit all of it", blessed_all, raw_read * kEntries, "reading plain files");
  print("explain a miss", explain, raw_read, "reading a plain file");
  print("publish", publish, raw_write, "writing a plain file");
  return 0;
}
