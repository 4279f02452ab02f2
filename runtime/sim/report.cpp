// report.cpp: what the engine says when a launch goes wrong: who waits where.
#include "runtime/sim/engine.h"

#include <bit>
#include <functional>

namespace phasec::sim {
namespace {

constexpr int kGroupsMax = 24; ///< CTA groups a report lists

/// "0-3, 7" for the set bits of n items.
std::string ranges(int n, const std::function<bool(int)> &has) {
  std::string text;
  for (int i = 0; i < n; i++) {
    if (!has(i)) continue;
    int last = i;
    while (last + 1 < n && has(last + 1)) last++;
    text += (text.empty() ? "" : ", ") + std::to_string(i) + (last > i ? "-" + std::to_string(last) : "");
    i = last;
  }
  return text;
}

std::string lanes(uint32_t mask) {
  if (mask == ~0u) return "";
  return (std::popcount(mask) == 1 ? " lane " : " lanes ") + ranges(32, [&](int i) { return mask >> i & 1u; });
}

struct Group {
  std::string text;
  std::vector<uint32_t> masks; ///< lanes, by warp
};

/// One line per wait: "warps 1-7: sync_cta ...".
std::string listing(const std::vector<Group> &groups) {
  std::string text;
  for (const Group &group : groups) {
    std::vector<uint32_t> left = group.masks;
    for (size_t w = 0; w < left.size(); w++) {
      uint32_t mask = left[w];
      if (!mask) continue;
      int n = int(left.size());
      std::string warps = ranges(n, [&](int i) { return left[size_t(i)] == mask; });
      text += "    warp " + warps + lanes(mask) + ": " + group.text + "\n";
      for (uint32_t &m : left)
        if (m == mask) m = 0;
    }
  }
  return text;
}

} // namespace

void Engine::fail(std::string text) {
  fault_ = "sim: " + std::move(text);
  phasec_sim_switch(&running().sp, main_sp_);
}

std::string Engine::where(const Fiber &fiber) const {
  return "cta " + std::to_string(fiber.self.cta) + ", warp " + std::to_string(fiber.self.thread / 32) + ", lane " +
         std::to_string(fiber.self.thread % 32) + ": ";
}

std::string Engine::waitText(const Fiber &fiber) const {
  const Warp &warp = *fiber.warp;
  uint32_t bit = 1u << (fiber.self.thread & 31);
  if (!(warp.live & bit)) return "has returned";
  if (warp.runnable & bit) return fiber.wait == Wait::Spin ? "spins in spin_pause" : "can run";
  switch (fiber.wait) {
  case Wait::Cta:
    return "sync_cta, where " + std::to_string(warp.cta->arrived) + " of " + std::to_string(warp.cta->awaited) +
           " threads have arrived";
  case Wait::Collective: {
    std::string missing = ranges(32, [&](int i) { return !(warp.arrived >> i & 1u); });
    return collectiveName(warp.kind, warp.what) + (", which lanes " + missing + " have not reached");
  }
  case Wait::Barrier: {
    Barrier b = Barrier::load(static_cast<const unsigned long long *>(fiber.address));
    auto offset = static_cast<const unsigned char *>(fiber.address) - fiber.self.shared;
    std::string text =
        "mbarrier at shared memory + " + std::to_string(offset) + ", parity " + std::to_string(fiber.value);
    if (!b.valid) return text + ", which was overwritten";
    return text + ", which lacks " + std::to_string(b.pending) + " of " + std::to_string(b.arrivals) +
           " arrivals and " + std::to_string(b.tx) + " bytes";
  }
  case Wait::Counter:
    return "event counter at " + memory_.describe(reinterpret_cast<uint64_t>(fiber.address)) + ", which holds " +
           std::to_string(*static_cast<const volatile uint32_t *>(fiber.address));
  default:
    return "has not started";
  }
}

Status Engine::deadlock() const {
  int warps = request_.shape.threads / 32, ctas = request_.shape.ctas;
  std::vector<std::string> listings;
  for (const Cta &cta : ctas_) {
    std::vector<Group> groups;
    for (int w = 0; w < warps; w++)
      for (int lane = 0; lane < 32; lane++) {
        std::string text = waitText(cta.warps[w].fibers[lane]);
        size_t g = 0;
        while (g < groups.size() && groups[g].text != text) g++;
        if (g == groups.size()) groups.push_back({text, std::vector<uint32_t>(size_t(warps))});
        groups[g].masks[size_t(w)] |= 1u << lane;
      }
    listings.push_back(listing(groups));
  }
  std::string text = "sim: deadlock: " + std::to_string(live_) + " of " +
                     std::to_string(ctas * request_.shape.threads) +
                     " threads wait, none can advance and no copy is in flight";
  int printed = 0;
  for (size_t c = 0; c < listings.size(); c++) {
    std::string body = listings[c];
    if (body.empty()) continue;
    if (printed++ == kGroupsMax) return Status::device(text + "\n  ... and other CTAs");
    text += "\n  cta " + ranges(ctas, [&](int i) { return listings[size_t(i)] == body; }) + ":\n" + body;
    text.pop_back();
    for (std::string &other : listings)
      if (other == body) other.clear();
  }
  return Status::device(text);
}

} // namespace phasec::sim
