// units_gemv.cpp: which units of a GEMV a CTA owns, as the kernel computes it, against the plan's own words: balanced,
// slots x parts, or one slot a CTA. Every unit belongs to one CTA, whatever their number; and every segment of its units to one
// worker.
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime/sim/shim.h"
#include "templates/core/exact/segment.cuh"
#include "templates/gemv.cuh"

using std::size_t;

namespace {

template <gemv::Assignment How, int Tiles, int Slots> struct Shape {
  static constexpr auto assignment = How;
  static constexpr int tokens = 16, tiles = Tiles, slots = Slots, late_begin = 0, late_end = 0;
};
/// Late tiles in the middle of a step.
template <int Tiles, int Begin, int End> struct Late : Shape<gemv::Assignment::Balanced, Tiles, 1> {
  static constexpr int late_begin = Begin, late_end = End;
};

/// What workers cut: units of so many segments, by runs of any length or of whole units.
template <int Warps, int Segments, bool Whole> struct Worked {
  static constexpr int warps = Warps, segments = Segments;
};

} // namespace
template <int Warps, int Segments, bool Whole> struct core::Sums<Worked<Warps, Segments, Whole>> {
  static constexpr bool whole = Whole;
};
namespace {

template <int Warps, int Segments, bool Whole> void checkWorked() {
  using G = Worked<Warps, Segments, Whole>;
  for (int units = 0; units <= 41; units++) {
    const int turns = gemv::turns<G>(units);
    CAPTURE(units);
    gemv::Cut<G> cut(turns);
    // The stream has every turn once, and each worker's in the order of its run.
    std::vector<int> seen(size_t(turns), 0);
    int begin = 0;
    for (int w = 0; w < Warps; w++) {
      REQUIRE(cut.begin(w) == begin);
      REQUIRE(cut.count(w) >= cut.count(Warps - 1));
      REQUIRE(cut.count(w) - cut.count(Warps - 1) <= (Whole ? Segments : 1));
      for (int i = 0; i < cut.count(w); i++) {
        REQUIRE(cut.place(w, i) < turns);
        REQUIRE(cut.at(cut.place(w, i)) == begin + i);
        seen[size_t(cut.place(w, i))]++;
      }
      begin += cut.count(w);
    }
    REQUIRE(begin == turns);
    for (int n : seen) REQUIRE(n == 1);
    // All who have a segment of a unit agree on who shares it.
    std::vector<std::vector<int>> has{size_t(units), std::vector<int>(Warps, 0)};
    std::vector<std::vector<int>> told{size_t(units), std::vector<int>()};
    for (int w = 0; w < Warps; w++)
      for (int d = cut.begin(w); d < cut.begin(w) + cut.count(w); d++) {
        int unit = d / Segments;
        gemv::Sharers s(cut, w, unit * Segments, unit * Segments + Segments);
        has[size_t(unit)][size_t(w)] = 1;
        REQUIRE((!Whole || s.count() == 1));
        std::vector<int> now{s.first, s.last};
        if (told[size_t(unit)].empty()) told[size_t(unit)] = now;
        REQUIRE(told[size_t(unit)] == now);
      }
    for (int u = 0; u < units; u++)
      for (int w = 0; w < Warps; w++) REQUIRE(has[size_t(u)][size_t(w)] == (w >= told[size_t(u)][0] && w <= told[size_t(u)][1]));
  }
}

/// How often each unit is owned, checked to be once; and the CTAs that own any.
template <class G> std::vector<gemv::Units> owners(int ctas) {
  std::vector<int> owned(size_t(G::tiles * G::slots), 0);
  std::vector<gemv::Units> all;
  for (int c = 0; c < ctas; c++) {
    gemv::Units u = gemv::share_units<G>(c, ctas);
    REQUIRE(u.begin <= u.end);
    REQUIRE(u.end <= G::tiles * G::slots);
    for (int i = u.begin; i < u.end; i++) owned[size_t(i)]++;
    all.push_back(u);
  }
  for (int n : owned) REQUIRE(n == 1);
  return all;
}

template <int Tiles, int Slots> void checkBalanced() {
  for (int ctas : {1, 2, 3, 4, 7, 31, 32, 132, 148, 1000}) {
    using G = Shape<gemv::Assignment::Balanced, Tiles, Slots>;
    const int most = (Tiles * Slots + ctas - 1) / ctas;
    const bool divided = Slots > 1 && ctas >= Slots && (Tiles + ctas / Slots - 1) / (ctas / Slots) <= most;
    auto all = owners<G>(ctas);
    for (int c = 0; c < ctas; c++) { // as even as whole units allow
      const gemv::Units &u = all[size_t(c)];
      REQUIRE(u.end - u.begin <= most);
      if (!divided) REQUIRE(u.end - u.begin >= Tiles * Slots / ctas);
      else if (u.begin < u.end) REQUIRE((u.begin / Tiles == c % Slots && (u.end - 1) / Tiles == c % Slots)); // one operand
      int before = c - (divided ? Slots : 1); // of the same slot: who comes later has no less
      if (before >= 0) REQUIRE(all[size_t(before)].count() <= u.count());
    }
  }
}

template <int Tiles, int Slots> void checkGrid() {
  for (int ctas : {1, 2, 3, 4, 7, 31, 32, 33, 63, 64, 132, 148, 1000}) {
    auto all = owners<Shape<gemv::Assignment::Grid, Tiles, Slots>>(ctas);
    if (ctas < Slots) continue; // falls back to the balanced map
    int parts = ctas / Slots;
    for (int c = 0; c < ctas; c++) {
      const gemv::Units &u = all[size_t(c)];
      if (u.begin == u.end) continue;
      REQUIRE(c < parts * Slots);
      REQUIRE(u.begin / Tiles == c / parts); // one slot a CTA, slot-major
      REQUIRE((u.end - 1) / Tiles == c / parts);
      REQUIRE(u.end - u.begin <= (Tiles + parts - 1) / parts);
    }
  }
}

template <int Tiles, int Slots> void checkSeed() {
  for (int ctas : {Slots, Slots + 1, 2 * Slots, 64 + Slots}) {
    auto all = owners<Shape<gemv::Assignment::SlotCta, Tiles, Slots>>(ctas);
    for (int c = 0; c < ctas; c++) {
      REQUIRE(all[size_t(c)].end - all[size_t(c)].begin == (c < Slots ? Tiles : 0));
      if (c < Slots) REQUIRE(all[size_t(c)].begin == c * Tiles);
    }
  }
}

/// Every tile belongs to one CTA; the others' are shared among all CTAs, the late ones among those behind the busy ones, if
/// these are at most half of all.
template <class G> void checkLate() {
  for (int ctas : {1, 2, 3, 7, 32, 132, 1000})
    for (int busy : {0, 1, ctas / 4, ctas / 2, ctas / 2 + 1, ctas - 1, ctas, 2 * ctas}) {
      std::vector<int> owned(size_t(G::tiles), 0);
      const int late = G::late_end - G::late_begin, idle = 2 * busy > ctas ? ctas : ctas - busy;
      for (int c = 0; c < ctas; c++) {
        gemv::Units u = gemv::share_units<G>(c, ctas, busy);
        int lates = 0;
        for (int i = 0; i < u.count(); i++) {
          gemv::Pass pass = gemv::pass_of<G>(u, 0, i >= u.end - u.begin);
          int tile = gemv::tile_of<G>(pass.unit + (i < u.end - u.begin ? i : i - (u.end - u.begin)));
          REQUIRE(tile >= 0);
          REQUIRE(tile < G::tiles);
          owned[size_t(tile)]++;
          bool is_late = tile >= G::late_begin && tile < G::late_end;
          REQUIRE(!(lates && !is_late)); // what others wait for comes first
          lates += is_late;
        }
        REQUIRE(u.count() - lates <= (G::tiles - late + ctas - 1) / ctas);
        REQUIRE(lates <= (idle == ctas || c >= busy ? (late + idle - 1) / idle : 0));
      }
      for (int n : owned) REQUIRE(n == 1);
    }
}

} // namespace

TEST_CASE("late tiles belong to CTAs that are not waited for") {
  checkLate<Late<896, 384, 768>>();
  checkLate<Late<10, 4, 8>>();
  checkLate<Late<7, 0, 3>>();
  checkLate<Late<7, 3, 7>>();
}
TEST_CASE("workers cut a pass's turns into equal runs, and know who shares a unit") {
  checkWorked<11, 5, false>();
  checkWorked<9, 1, false>();
  checkWorked<3, 16, false>();
  checkWorked<1, 3, false>();
  checkWorked<12, 10, false>();
}
TEST_CASE("a unit that must be one worker's is") {
  checkWorked<11, 5, true>();
  checkWorked<3, 16, true>();
}
TEST_CASE("balanced units") {
  checkBalanced<1, 1>();
  checkBalanced<5, 8>();
  checkBalanced<12, 16>();
  checkBalanced<320, 32>();
  checkBalanced<320, 4>();
  checkBalanced<128, 8>();
  checkBalanced<256, 8>();
}
TEST_CASE("2d units") {
  checkGrid<1, 1>();
  checkGrid<5, 4>();
  checkGrid<12, 16>();
  checkGrid<320, 32>();
}
TEST_CASE("seed units") {
  checkSeed<5, 4>();
  checkSeed<12, 16>();
  checkSeed<320, 32>();
}

TEST_CASE("rising shares tile [0, n), and the larger ones are the last") {
  for (int n : {0, 1, 7, 320, 2176, 32000000})
    for (int parts : {1, 3, 132, 4096}) {
      int at = 0;
      for (int i = 0; i < parts; i++) {
        REQUIRE(share_rising(n, i, parts) == at);
        at = share_rising(n, i + 1, parts);
        REQUIRE(at - share_rising(n, i, parts) == n / parts + (i >= parts - n % parts));
      }
      REQUIRE(at == n);
    }
}

TEST_CASE("share: parts tile [0, n) and differ by one at most, up to n * parts = 2^32") {
  for (int n : {0, 1, 7, 5120, 1048575, 32000000})
    for (int parts : {1, 3, 132, 4096}) {
      if (uint64_t(n) * uint64_t(parts) >= uint64_t(1) << 32) continue;
      int at = 0;
      for (int i = 0; i < parts; i++) {
        REQUIRE(share(n, i, parts) == at);
        at = share(n, i + 1, parts);
        REQUIRE(at - share(n, i, parts) - n / parts <= 1);
        REQUIRE(at - share(n, i, parts) >= n / parts);
      }
      REQUIRE(at == n);
    }
}
