// pack_support.h: every weight of a kernel, of random codes and scales, packed on the device and on the host.
#pragma once

#include "tests/unit/runtime_support.h"

#include <random>

namespace runtimetest {

struct PackedAlike {
  int weights = 0;
  std::string wrong; ///< empty: all images are the same
};

/// Packs twice, so that a second one finds the packer.
inline PackedAlike packedAlike(Session &session) {
  PackedAlike result;
  std::mt19937_64 random(17);
  const Plan &plan = session.kernel.plan();
  Runtime &runtime = session.runtime;
  auto bytes = [&](int64_t n) {
    std::vector<uint8_t> v(static_cast<size_t>(n));
    for (uint8_t &b : v) b = uint8_t(random());
    return v;
  };
  auto fail = [&](const std::string &what, const Status &status) { result.wrong = what + ": " + status.text(); };
  for (size_t i = 0; i < plan.instances.size(); i++)
    for (const Step &step : plan.bodies[size_t(plan.instances[i].body)].steps) {
      const Gemv &g = step.gemv;
      if (!g.rows) continue;
      std::string name = std::to_string(i) + "/" + plan.bodies[size_t(plan.instances[i].body)].table[size_t(g.weight)].name;
      int bits = g.format == ir::Format::nvfp4 ? 4 : g.format == ir::Format::fp8_e4m3 ? 8 : 16;
      auto codes = bytes(g.rows * g.cols * bits / 8), scales = bytes((g.rows + 127) / 128 * 128 * ((g.cols / 16 + 3) / 4 * 4));
      auto on_host = session.kernel.pack(name, {codes.data(), scales.data()});
      if (!on_host.ok()) return fail(name, on_host.status()), result;
      if (*session.kernel.packedBytes(name) != int64_t(on_host->bytes.size())) return result.wrong = name + ": another size", result;
      auto there = [&](const std::vector<uint8_t> &v) {
        uint64_t at = *runtime.allocate(int64_t(v.size()));
        (void)runtime.upload(at, v.data(), int64_t(v.size())).ok();
        return at;
      };
      std::vector<uint8_t> image(on_host->bytes.size(), 0xa5);
      uint64_t at_codes = there(codes), at_scales = there(scales), at_image = there(image);
      for (int round = 0; round < 2; round++) {
        (void)runtime.upload(at_image, image.data(), int64_t(image.size())).ok(); // what was there shall not matter
        auto layout = session.kernel.packOnDevice(name, {reinterpret_cast<const void *>(at_codes), reinterpret_cast<const void *>(at_scales)}, at_image);
        if (!layout.ok()) return fail(name, layout.status()), result;
        if (*layout != on_host->layout) return result.wrong = name + ": layout " + *layout, result;
        std::vector<uint8_t> made(image.size());
        if (Status s = runtime.download(made.data(), at_image, int64_t(made.size())); !s.ok()) return fail(name, s), result;
        if (made != on_host->bytes) return result.wrong = name + ": the image differs from the host's", result;
      }
      for (uint64_t address : {at_codes, at_scales, at_image}) runtime.release(address);
      result.weights++;
    }
  return result;
}

/// Rows and columns that end inside a tile and a granule, both orders of scales, gates and ups in one tile.
inline std::vector<Layers> raggedLayers() {
  return {parse("layer @ragged_nvfp4 {\n  dims hidden = 208, ffn = 40\n  tokens 1..2\n  in %x : bf16[tokens, hidden]\n"
                "  weight %w : nvfp4[2 * ffn, hidden] { scales = linear, global = multiply }\n  %u = fc1 %x, %w { act = silu }\n  return %u\n}\n"),
          parse("layer @ragged_swizzled {\n  tokens 1..2\n  in %u : bf16[tokens, 1040]\n  weight %w : nvfp4[236, 1040] { scales = swizzled, global = divide }\n"
                "  %y = head %u, %w\n  return %y\n}\n"),
          parse("layer @ragged_fp8 {\n  dims hidden = 80, ffn = 24\n  tokens 1..2\n  in %x : bf16[tokens, hidden]\n  weight %w : fp8_e4m3[2 * ffn, hidden] { scale = tensor }\n"
                "  %u = fc1 %x, %w { act = silu }\n  return %u\n}\n"),
          parse("layer @ragged_bf16 {\n  tokens 1..2\n  in %u : bf16[tokens, 80]\n  weight %w : bf16[52, 80]\n  %y = head %u, %w\n  return %y\n}\n")};
}

} // namespace runtimetest
