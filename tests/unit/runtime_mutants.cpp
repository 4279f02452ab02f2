// runtime_mutants.cpp: the checks of runtime_layers.cpp are only worth what they catch: kernels with one thing wrong must
// not pass. Each mutant is an edit of one template, laid over the others.
#include "tests/unit/runtime_support.h"

#include <algorithm>
#include <functional>

using namespace runtimetest;

namespace {

const char *kMany = "many"; // so few segments an instance that the lanes of a feeder are in many
const char *kManyText = "layer @many_layer {\n  dims hidden = 80, ffn = 40\n  tokens 1..4\n  in %x : bf16[tokens, hidden]\n  weight %g : bf16[hidden]\n"
                        "  weight %w : bf16[2 * ffn, hidden]\n  weight %d : bf16[hidden, ffn]\n  %n = norm %x, %g\n  %u = fc1 %n, %w { act = silu }\n"
                        "  %y = fc2 %u, %d, %x\n  return %y\n}\nstack @many { @many_layer * 24 }\n";

struct Mutant {
  const char *file, *from, *to, *layer, *settings;
  int sim_ctas = 4;
  const char *report = nullptr; ///< what the finding must say
};

const char *kDeep = "deep"; // W_O with many segments a slot: see below
const char *kDeepText = "layer @deep {\n  dims hidden = 80, kv_heads = 2, k = 2048\n  tokens 1..4\n  in %a : bf16[tokens, k]\n  in %x : bf16[tokens, hidden]\n"
                        "  weight %w : bf16[hidden, k]\n  %p = wo %a, %w\n  %h = gather %p, %x { by = elected }\n  return %h\n}\n";

const char *kBlocks = "blocks"; // segments of seven and of eight granules, whose blocks have scales
const char *kBlocksText = "layer @blocks {\n  tokens 1..3\n  in %u : bf16[tokens, 1440]\n  weight %w : nvfp4[240, 1440] { scales = linear, global = multiply }\n"
                          "  %y = head %u, %w\n  return %y\n}\n";

const char *kChunks = "chunks"; // tiles whose rows are cut into chunks, which CTAs finish in any order
const char *kChunksText = "layer @chunks {\n  dims heads = 8, kv_heads = 2, head_dim = 32\n  tokens 1..4\n  in %q : bf16[tokens, heads * head_dim]\n"
                          "  cache %kv : bf16 paged(page = 16, order = nhd)\n  %a = attn %q, %kv\n  return %a\n}\n";

const char *kWide = "wide"; // rows of 256 bytes, as the large models have
const char *kWideText = "layer @wide {\n  dims heads = 6, kv_heads = 2, head_dim = 256\n  tokens 1..4\n  in %q : bf16[tokens, heads * head_dim]\n"
                        "  cache %kv : fp8_e4m3 paged(page = 16, order = nhd, kv = joint)\n  %a = attn %q, %kv\n  return %a\n}\n";

const char *kTall = "tall"; // heads are finished from words, and all warps' first rows are many bytes
const char *kTallText = "layer @tall {\n  dims hidden = 80, heads = 2, kv_heads = 1, head_dim = 256\n  tokens 1..4\n  in %x : bf16[tokens, hidden]\n"
                        "  cache %kv : fp8_e4m3 paged(page = 16, order = nhd, kv = joint)\n  weight %g : bf16[hidden]\n"
                        "  weight %w : bf16[(heads + 2 * kv_heads) * head_dim, hidden]\n  %n = norm %x, %g\n  %q = qkv %n, %w, %kv { append }\n"
                        "  %a = attn %q, %kv\n  return %a\n}\n";

const char *kGated = "gated"; // gates come in a pass of their own, and cuts divide the units of both
const char *kGatedText = "layer @gated {\n  dims hidden = 2048, heads = 2, kv_heads = 1, head_dim = 32\n  tokens 1..2\n  in %x : bf16[tokens, hidden]\n"
                         "  cache %kv : bf16 paged(page = 16, order = nhd)\n  weight %g : bf16[hidden]\n  weight %w : bf16[2 * (heads + kv_heads) * head_dim, hidden]\n"
                         "  %n = norm %x, %g\n  %q, %gate = qkv %n, %w, %kv { gate_rows = per_head, append }\n  %a = attn %q, %kv, %gate { gate = sigmoid }\n"
                         "  return %a\n}\n";

const char *kNormed = "normed"; // an eps that is not lost beside the mean
const char *kNormedText = "layer @normed {\n  dims hidden = 80, ffn = 40\n  tokens 1..4\n  in %x : bf16[tokens, hidden]\n  weight %g : bf16[hidden]\n"
                          "  weight %w : bf16[2 * ffn, hidden]\n  %n = norm %x, %g { eps = 0.25 }\n  %u = fc1 %n, %w { act = silu }\n  return %u\n}\n";

const char *kStep = "step"; // a model's ends in one layer, so that its own events order them
const char *kStepText = "layer @step {\n  dims hidden = 80, vocab = 1203\n  tokens 1..8\n  in %ids : i32[tokens]\n  weight %table : bf16[vocab, hidden]\n"
                        "  weight %g : bf16[hidden]\n  weight %w : bf16[vocab, hidden]\n  %x = embed %ids, %table\n  %n = norm %x, %g\n  %l = head %n, %w\n"
                        "  %t = argmax %l\n  return %t\n}\n";

const char *kRows = "rows"; // argmax as a step of its own, behind an event
const char *kRowsText = "layer @rows {\n  tokens 1..8\n  in %u : bf16[tokens, 80]\n  weight %w : bf16[1200, 80]\n  %y : f32 = fc2 %u, %w\n"
                        "  %t = argmax %y\n  return %t\n}\n";

const char *kChoose = "choose"; // argmax of the host's logits: ties, zeros of both signs, NaN
const char *kChooseText = "layer @choose {\n  tokens 1..8\n  in %l : f32[tokens, 300]\n  %t = argmax %l\n  return %t\n}\n";

std::string textOf(const std::string &name) {
  for (auto [known, text] : {std::pair{kDeep, kDeepText}, {kBlocks, kBlocksText}, {kChunks, kChunksText}, {kWide, kWideText}, {kNormed, kNormedText}, {kStep, kStepText}, {kRows, kRowsText}, {kChoose, kChooseText}, {kMany, kManyText}, {kGated, kGatedText}, {kTall, kTallText}})
    if (name == known) return text;
  return fileText(examplePath(name));
}

const Mutant kMutants[] = {
    // events
    {"gemv.cuh", "    G::await(cta, slot);\n    ptx::sync_workers(G::threads); // nobody reads", "    ptx::sync_workers(G::threads); // nobody reads", "tiny_qwen35_27b", "wo_split=2 handoff=events", 7},
    {"phases/gather.cuh", "H::await(cta, 0);", "", "tiny_wo_harness", "wo_split=4"},
    {"phases/attn.cuh", "  H::await(cta, u.head);\n", "", "tiny_qwen35_27b", "handoff=events", 7},
    {"cta.cuh", "(cta.round + 1u) * arrivals", "cta.round * arrivals", "tiny_wo_harness", "wo_split=4"},
    {"launch.cuh", "ptx::store_relaxed(cta.counters() + kCounterEpoch, sequences::arrays<L>()->epoch + 1u);", "", "tiny_wo_harness", "wo_split=4"},
    {"cta.cuh", "if (cta.lane == 0) old = ptx::turn_acq_rel(cta.counters() + counter, n - 1u);", "if (cta.lane == 0) old = ptx::add_acq_rel(cta.counters() + counter, 1u);", "step", ""},
    {"launch.cuh", "if (cta.runs(next)) event::spin", "if (false) event::spin", "tiny_stack", "wo_split=2", 7},
    {"gemv.cuh", "    G::await(cta, slot);\n    ptx::sync_workers(G::threads); // nobody reads", "    ptx::sync_workers(G::threads); // nobody reads", "step", "warps=1", 7},
    {"phases/argmax.cuh", "A::await(cta, 0);", "", "rows", ""},
    {"launch.cuh", "if (cta.runs(next)) event::spin", "if (false) event::spin", "tiny_llama32_1b", "", 7},
    {"phases/argmax.cuh", "|| !event::elect_warp(cta, A::election, u32(ptx::ctas()))", "|| cta.cta != 0", "step", ""},
    {"phases/argmax.cuh", "  ptx::sync_workers(A::threads);\n", "", "step", ""},
    // events that count row tiles and pairs: an arrival too few is a deadlock, one too many lets readers in early
    {"epilogue.cuh", "    }\n    H::signal(cta);", "    }\n    if (tile > 0) H::signal(cta);", "tiny_qwen35_27b", "handoff=events", 4, "deadlock"},
    {"phases/qkv.cuh", "H::signal(cta, heads::Rows<H>::kv_head(tile * gemv::kTileRows / H::head_dim));", "if (tile > 0) H::signal(cta, heads::Rows<H>::kv_head(tile * gemv::kTileRows / H::head_dim));", "tiny_qwen35_27b", "handoff=events", 4, "deadlock"},
    {"phases/attn.cuh", "(H::tokens - cta.tokens) * H::group : 0", "(H::tokens - cta.tokens) * H::group - 1 : 0", "tiny_qwen35_27b", "handoff=events", 4, "deadlock"},
    {"cta.cuh", "if (weight == 0) continue;", "if (weight == 0 || (cta.cta == 0 && E::counter == E::instance_counter)) continue;", "tiny_stack", "wo_split=2", 4, "deadlock"},
    {"cta.cuh", "    *n = 0;\n", "", "tiny_stack", "wo_split=2", 4},
    {"cta.cuh", "if ((ptx::shfl(before, 0) + 1u) % u32(G::warps) != 0) return;", "if (ptx::shfl(before, 0) % u32(G::warps) != 0) return;", "tiny_qwen35_27b", "handoff=events", 4, "deadlock"},
    {"cta.cuh", "  ptx::sync_warp();\n  if (cta.lane == 0) ptx::arrive_release(cta.counters() + E::counter + slice, weight);", "  ptx::arrive_release(cta.counters() + E::counter + slice, weight);", "tiny_qwen35_27b", "handoff=events", 7},
    {"cta.cuh", "if (cta.lane == 0) ptx::add_shared(owed<E>(E::counter + slice), weight);", "if (cta.lane == 0) ptx::add_shared(owed<E>(E::counter + slice), weight + u32(cta.cta == 1));", "tiny_qwen35_27b", "handoff=events", 7},
    // tags: who reads a slot waits for its tag, and for this round's
    {"gemv.cuh", "if (!there) ptx::spin_pause();", "there = true;", "deep", "wo_split=4"},
    {"gemv.cuh", "there = there && u32(v[e][s] >> 32) == cta.round + 1u;", "there = there && u32(v[e][s] >> 32) != 0u;", "deep", "wo_split=4"},
    {"gemv.cuh", "there = there && u32(v[e][s] >> 32) == cta.round + 1u;", "there = there && (s > 3 || u32(v[e][s] >> 32) == cta.round + 1u);", "deep", "wo_split=4 tokens_max=1", 7},
    {"gemv.cuh", "if constexpr (G::segments > 1) {", "if constexpr (G::segments > 64) {", "deep", "wo_split=1 math=fast"},
    {"gemv.cuh", "for (int s = 0; s < batch; s++) there = there &&", "for (int s = 0; s < batch - 1; s++) there = there &&", "deep", "wo_split=4"},
    {"gemv.cuh", "ptx::store_tagged((u64 *)G::Slots::at(cta) + at, v, cta.round + 1u);", "ptx::store_tagged((u64 *)G::Slots::at(cta) + at, v, cta.round);", "deep", "wo_split=4", 4, "deadlock"},
    // tags: whoever is handed a value waits for its word, and brings this round's
    {"cta.cuh", "while (!there(cta)) {", "while (false) {", "tiny_qwen35_27b", "wo_split=2", 7},
    {"cta.cuh", "ptx::store_tagged(to, numeric::load(&rounded), cta.round + 1u);", "ptx::store_tagged(to, numeric::load(&rounded), cta.round);", "tiny_qwen35_27b", "", 4, "deadlock"},
    {"cta.cuh", "return u32(word >> 32) == tag;", "return u32(word >> 32) != 0u;", "tiny_stack", "wo_split=2", 7},
    {"cta.cuh", "within >> 2 * i & 3", "0", "tiny_qwen35_27b", "wo_split=2"},
    {"cta.cuh", "return word.word[3] == tag;", "return word.word[3] != 0u;", "tiny_stack", "math=fast wo_split=2", 7},
    {"cta.cuh", "ptx::permute(b, c, 0x6532u)", "ptx::permute(b, c, 0x6552u)", "tiny_qwen35_27b", "math=fast"},
    {"cta.cuh", "ptx::permute(w[1], w[2], 0x4320u)", "ptx::permute(w[1], w[2], 0x3320u)", "tiny_qwen35_27b", "math=fast tokens_max=2"},
    {"epilogue.cuh", "(cta.lane + i) & 31", "(cta.lane + (i & 1)) & 31", "tiny_qwen35_27b", "math=fast"},
    {"core/fast/operand.cuh", "if (!x[i].there(cta)) x[i].load", "if (i > 0 && !x[i].there(cta)) x[i].load", "tiny_qwen35_27b", "math=fast wo_split=2", 7, "deadlock"},
    {"core/fast/operand.cuh", "for (int i = 0; i < together; i++) all = all && staging[i].there(cta);", "", "tiny_qwen35_27b", "math=fast wo_split=2", 7},
    {"core/fast/operand.cuh", "all = all && tagged::there(tag, words[i]);", "all = all && (i > 0 || tagged::there(tag, words[i]));", "tiny_qwen35_27b", "math=fast wo_split=2", 7},
    {"phases/fc1.cuh", "H::Act::apply(v[1]) * v[half + 1]", "H::Act::apply(v[0]) * v[half]", "tiny_qwen35_27b", ""},
    {"core/exact/attention.cuh", "while (!(tagged::there", "while (false && !(tagged::there", "chunks", "", 7},
    {"core/fast/attention.cuh", "if (!all) ptx::spin_pause();", "all = true;", "chunks", "math=fast", 7},
    // the feeder and its rings
    {"gemv.cuh", "        sums.take(R::wait(item), cta.lane);\n        if (sums.copies) R::release(cta, item);",
     "        const u8 *stage = R::wait(item);\n        if (sums.copies) R::release(cta, item);\n        for (int i = 0; i < 50; i++) ptx::sync_warp();\n        sums.take(stage, cta.lane);", "deep", "math=fast warps=2 ring=4"},
    {"gemv.cuh", "if (sums.copies) R::release(cta, item);", "R::release(cta, item);", "deep", "wo_split=2 warps=2 ring=4"},
    {"gemv.cuh", "        R::release(cta, item);\n        taken = true;", "        taken = true;", "tiny_stack", "math=fast tokens_max=1 ring=4", 4, "deadlock"},
    {"gemv.cuh", "        taken = true;\n", "", "tiny_stack", "math=fast tokens_max=1"},
    {"gemv.cuh", "      taken = false;\n      sums.add", "      sums.add", "tiny_qwen35_27b", "math=fast tokens_max=1 ctas=1", 1},
    {"stream.cuh", "constexpr int lanes = L::stages < 32 * L::feeders ? L::stages : 32 * L::feeders;", "constexpr int lanes = L::stages;", "tiny_qwen35_27b", "ctas=1 ring=40 warps=11", 4, "deadlock"},
    {"stream.cuh", "return i32(reads - n / L::stages) >= 0;", "return reads == n / L::stages;", "tiny_stack", "ring=2", 4, "deadlock"},
    {"stream.cuh", "if (landed) last = ~0u;", "", "tiny_qwen35_27b", "ring=8 window=3", 4, "deadlock"},
    {"stream.cuh", "(feeder<L>(cta) * kTables + instance % kTables)", "(instance % kTables)", "many", "math=fast warps=9 ring=40"},
    {"stream.cuh", "enum : int { kTables = 4 };", "enum : int { kTables = 1 };", "many", "math=fast warps=9 ring=40"},
    {"stream.cuh", "int id = cta.lane * L::feeders + feeder<L>(cta);", "int id = cta.lane;", "deep", "math=fast warps=9"},
    {"stream.cuh", "for (int i = cta.lane; cta.warp == 0 && i < L::stages; i += 32) {", "for (int i = cta.lane; cta.warp == 0 && i < 32 && i < L::stages; i += 32) {", "tiny_qwen35_27b", "ctas=1 ring=40"},
    {"stream.cuh", "ptx::stream_wait(full(n), (n / L::stages) & 1u);", "", "deep", "wo_split=2"},
    {"stream.cuh", "&& R::due(look, reads),", ",", "deep", "wo_split=2 warps=2 ring=4"},
    {"stream.cuh", "if (cta.lane == 0) ptx::publish(reads(n), n / L::stages + 1u, reads(m), m / L::stages + 1u);", "", "tiny_attn_only", "ring=4", 4, "deadlock"},
    {"stream.cuh", "if (cta.lane == 0) ptx::publish(reads(n), n / L::stages + 1u);", "", "deep", "wo_split=2 warps=2 ring=4", 4, "deadlock"},
    {"phases/attn.cuh", "R::release(cta, cache.number(cta, 2 * block), cache.number(cta, 2 * block + 1));", "R::release(cta, cache.number(cta, 2 * block));", "tiny_attn_only", "ring=4", 4, "deadlock"},
    {"phases/attn_rows.cuh", "copy(cta, known<H>(w), 0, n);", "copy(cta, known<H>(cta.warp), 0, n);", kTall, "tokens_max=1"},
    {"phases/attn_rows.cuh", "block == 0 ? of.pages", "true ? of.pages", "chunks", "kv_splits=1 warps=3 ring=8"},
    {"phases/attn.cuh", "if (cache.items > 0 && cache.filled == 0) cache.filled = 2;", "", kTall, "tokens_max=1"},
    {"phases/attn_rows.cuh", "shared_unit<H>(w).asked || ", "", "tiny_qwen35_27b", "tokens_max=2"},
    {"sequences.cuh", "(Out ? 1u : 0u)", "0u", "tiny_stack", "tokens_max=1", 7},
    {"sequences.cuh", "u32(Out ? L::instances - 1 : 0)", "u32(Out ? L::instances : 0)", "tiny_stack", "tokens_max=1"},
    {"sequences.cuh", "u32(Out ? L::instances - 1 : 0)", "u32(Out ? L::instances - 1 : 1)", "tiny_stack", "math=fast tokens_max=1"},
    {"phases/embed.cuh", "if (!E::Y::plain(cta)) {", "if (E::Y::plain(cta)) {", "tiny_llama32_1b", "tokens_max=1"},
    {"phases/attn.cuh", "if (index + ptx::ctas() >= units<H>()) break;", "if (index + ptx::ctas() + 1 >= units<H>()) break;", kChunks, "math=fast"},
    {"phases/attn_rows.cuh", "Stretch{n, 1, 0, units, 0, 0}", "Stretch{n, 1, 0, units - 1, 0, 0}", kChunks, "math=fast"},
    {"phases/attn_rows.cuh", "w < shared_unit<H>(cta).warps; w += step", "w < shared_unit<H>(cta).warps - 1; w += step", kTall, "tokens_max=1", 4, "deadlock"},
    {"phases/attn_rows.cuh", "w < shared_unit<H>(cta).warps; w += step", "w < shared_unit<H>(cta).warps - 1; w += step", kTall, "math=fast tokens_max=1", 4, "deadlock"},
    {"phases/attn_rows.cuh", "(w).id = -1;", "(w).id = 0;", "tiny_attn_only", ""},
    {"phases/attn_rows.cuh", "return 2 * u.warps * u.rounds;", "return 2 * (u.warps + 1) * u.rounds;", "tiny_qwen35_27b", "ring=4", 4, "deadlock"},
    {"phases/attn.cuh", "R::release(cta, cache.number(cta, 2 * block)", "R::release(cta, cache.number(cta, 2 * block + 2)", "chunks", "kv_splits=1 warps=3 ring=8", 4},
    {"core/fast/attention.cuh", "if (part % (2 * apart) == 0) group.append(other);", "if (part == 0 && apart == 1) group.append(other);", "chunks", "math=fast kv_splits=40 warps=1", 7},
    {"phases/attn.cuh", "v = R::wait(cache.number(cta, 2 * block + 1));\n", "v = R::wait(cache.number(cta, 2 * block));\n", "tiny_attn_only", ""},
    {"phases/attn.cuh", "  cache.pass(cta, shared_unit<H>(cta));\n", "", "tiny_qwen35_27b", "ring=4", 4, "deadlock"},
    {"gemv.cuh", "s.unit + turn / G::segments);", "s.unit + (turn / G::segments ^ 1));", "deep", "wo_split=2"},
    {"gemv.cuh", "slot += i / s.items, i %= s.items;", "i %= s.items;", "deep", "wo_split=4", 1},
    {"gemv.cuh", "last - first - 1, 0);", "last - first - 2, 0);", "deep", "wo_split=4", 1},
    {"gemv.cuh", "if (last > first) write(2, last, 1, 0);", "", "deep", "wo_split=2", 1, "deadlock"},
    {"stream.cuh", "*counted(ptx::warp()) += items;", "*counted(ptx::warp()) = items;", "tiny_qwen35_27b", "", 4, "deadlock"},
    {"gemv.cuh", "u.late_begin = others + share(late_tiles<G>, cta - first,", "u.late_begin = others + 1 + share(late_tiles<G>, cta - first,", "tiny_qwen35_27b", "tokens_max=2"},
    {"gemv.cuh", "if (unit >= G::late_begin) unit +=", "if (unit > G::late_begin) unit +=", "tiny_qwen35_27b", "tokens_max=2"},
    // runs of turns, and units that a cut divides
    {"gemv.cuh", "grain == 1 || i < least ? i * G::warps", "true ? i * G::warps", "deep", "wo_split=2"},
    {"gemv.cuh", "begin(n) + least :", "begin(n) :", "deep", "math=fast warps=11"},
    {"gemv.cuh", "for (int w = s.first + 1; w <= s.last; w++) v =", "for (int w = s.first + 2; w <= s.last; w++) v =", "deep", "math=fast"},
    {"gemv.cuh", "worker == first ? P::kBegun : P::kJoined", "P::kBegun", "deep", "math=fast wo_split=1 warps=3", 1},
    {"gemv.cuh", "while (cut.begin(last + 1) < end) last++;", "", "deep", "math=fast"},
    {"fold.cuh", "if (old == n - 1u) *arrived(i) = 0;", "", "deep", "math=fast wo_split=1 warps=3", 1},
    {"fold.cuh", "old = ptx::add_shared(arrived(i), 1u);", "old = n - 1u;", "deep", "math=fast"},
    {"core/exact/segment.cuh", "first ? sum : *at + sum", "sum", "deep", "wo_split=1"},
    {"core/fast/segment.cuh", "if (column / 2 != own || token >= cta.tokens)", "if (token >= cta.tokens)", "blocks", "math=fast tokens_max=2", 5},
    {"core/fast/segment.cuh", "if (column / 2 != own || token >= cta.tokens)", "if (column / 2 != own + 1 || token >= cta.tokens)", "blocks", "math=fast tokens_max=1", 5},
    {"core/fast/segment.cuh", "if (g >= G::segment_least && g >= e.count) continue;", "", "blocks", "math=fast tokens_max=1", 5},
    {"core/fast/segment.cuh", "v = v + ptx::from_bits(ptx::shfl_xor(ptx::bits(v), 2));", "", "blocks", "math=fast tokens_max=2", 5},
    {"core/fast/segment.cuh", "acc[t][1] = ptx::fma(d[2 + t], s.row8, acc[t][1])", "acc[t][1] = ptx::fma(d[2 + t], s.row, acc[t][1])", "blocks", "math=fast tokens_max=1", 5},
    {"core/fast/segment.cuh", "float v = total[t][i];", "float v = total[0][i];", "blocks", "math=fast tokens_max=2", 5},
    {"core/fast/nvfp4.cuh", "rest << 6 | rest << 1", "rest << 6 | rest << 2", "blocks", "math=fast", 5},
    {"core/fast/nvfp4.cuh", "rest * 516u", "x * 516u", "blocks", "math=fast", 5},
    {"core/fast/nvfp4.cuh", "i % 2 ? scale8 : scale", "scale", "blocks", "math=fast", 5},
    {"launch.cuh", "((u32 *)(ptx::shared_base() + L::zeros_offset))[i] = 0u;", "((u32 *)(ptx::shared_base() + L::zeros_offset))[i] = 0x3c003c00u;", "blocks", "math=fast tokens_max=1", 5},
    {"epilogue.cuh", "sums[cta.lane] + r[0]", "sums[cta.lane]", "tiny_qwen35_27b", "tokens_max=2"},
    {"core/fast/nvfp4.cuh", "ptx::from_f16(scales), ptx::from_f16_high(scales)", "ptx::from_f16(scales), ptx::from_f16(scales)", "blocks", "math=fast tokens_max=2", 5},
    // the choice
    {"phases/argmax.cuh", "magnitude > 0x7f800000u ? 0u :", "", "choose", ""},
    {"phases/argmax.cuh", "magnitude == 0u ? 0x80000000u :", "", "choose", ""},
    {"phases/argmax.cuh", "key(logits[token * stride + i], first + i)", "key(logits[token * stride + i], i)", "choose", ""},
    {"phases/argmax.cuh", "u32(v >> 32), mask", "u32(v >> 32), mask ^ 1", "choose", ""},
    {"phases/argmax.cuh", "&& first + i < A::cols;", ";", "choose", ""},
    // who owns what
    {"phases/embed.cuh", "cta.tokens * words; i +=", "cta.tokens * words - 1; i +=", "step", ""},
    {"cta.cuh", "(i > even ? i - even : 0)", "(i > even ? i - even - int(i == parts) : 0)", "tiny_mlp_only", ""},
    {"gemv.cuh", "int tile = (cta.warp + 1) * ptx::ctas() - 1 - cta.cta;", "int tile = (cta.warp + 1) * ptx::ctas() - cta.cta;", "tiny_mlp_only", "math=fast"},
    {"gemv.cuh", "part = cta / G::slots, parts = (ctas - slot + G::slots - 1) / G::slots;", "part = cta / G::slots, parts = ctas / G::slots;", "tiny_qwen35_27b", "math=fast", 9},
    {"cta.cuh", "int(u32(n) * u32(i) / u32(parts))", "int(u32(n) * u32(i) / u32(parts)) - int(i == parts)", "gated", "math=fast"},
    {"phases/attn_rows.cuh", "share(length, cta.warp + 1, u.warps) : length);", "share(length, cta.warp + 1, u.warps) - 1 : length);", "tiny_attn_only", ""},
    {"phases/attn.cuh", "if (cta.warp == H::warps - 1) blocks +=", "if (false) blocks +=", "tiny_qwen35_27b", ""},
    {"gemv.cuh", "tile < G::tiles; tile += G::warps * ptx::ctas()", "tile < G::tiles - 1; tile += G::warps * ptx::ctas()", "deep", "wo_split=2"},
    // attention: heads finished from raw sums, states merged
    {"heads.cuh", "if (k) Head<H>::template weights<typename H::KNorm>(cta, gamma);", "", "tiny_qwen35_27b", ""},
    {"heads.cuh", "rows.offset(position)", "rows.offset(position ^ 1)", "tiny_llama31_8b", ""},
    {"phases/attn.cuh", "if (job >= jobs) continue;", "if (job >= jobs - 1) continue;", "tiny_llama31_8b", ""},
    {"phases/attn.cuh", "int owner = all - 1 - share(all, group, groups);", "int owner = all - share(all, group, groups);", "tiny_llama31_8b", ""},
    {"phases/attn.cuh", "for (int head = 0; head < H::kv_heads && !awaited; head++) H::await(cta, head);", "", "tiny_llama31_8b", "handoff=events", 40},
    {"phases/attn.cuh", "if (cta.warp + half < H::warps) core.append(cta, mine);", "if (cta.warp + half < H::warps - 1) core.append(cta, mine);", "tiny_attn_only", ""},
    {"phases/attn.cuh", "end = share(groups, u.chunk + 1, u.chunks);", "end = share(groups, u.chunk + 1, u.chunks) - 1;", "chunks", "", 7},
    {"phases/attn_rows.cuh", "u.state += u.tile * u.chunks;", "", "chunks", "math=fast", 7},
    {"phases/attn.cuh", "if (u.id != i * H::steps + H::step) u = unit<H>(cta, i);", "", "chunks", "", 7},
    {"core/fast/attention.cuh", "i * 16 + c * 8 + g);", "i * 16 + g);", "wide", "math=fast"},
    {"core/fast/attention.cuh", "(n / per_piece * 16 + lane / 4 + n % 2 * 8)", "(n / per_piece * 8 + lane / 4 + n % 2 * 16)", "wide", "math=fast"},
    {"phases/attn_rows.cuh", "    u.state += tiles * u.chunks;\n", "", "chunks", "", 7},
    // order of sums
    {"gemv.cuh", "slots + ((i64)(first + s) * G::tokens", "slots + ((i64)(G::slots - 1 - first - s) * G::tokens", "deep", "wo_split=4"},
    {"rms.cuh", "ptx::div(sum, float(n)) + eps", "ptx::div(sum + eps, float(n))", "normed", ""},
    // synchronisation inside a CTA
    {"gemv.cuh", "    ptx::sync_workers(G::threads);\n    Units u", "    Units u", "deep", "wo_split=2"},
    {"gemv.cuh", "    ptx::sync_workers(G::threads); // nobody reads the previous slot's operand or pieces any more\n", "", "deep", "wo_split=8 partition=wide", 1},
    {"phases/attn.cuh", "  ptx::sync_workers(H::threads);\n  core.open(later(cta), u);", "  core.open(later(cta), u);", "tiny_qwen35_27b", ""},
    {"phases/attn.cuh", "  ptx::sync_workers(H::threads);\n  core.open(later(cta), u);", "  core.open(later(cta), u);", "tiny_llama31_8b", "", 7},
    {"phases/attn.cuh", "  ptx::sync_workers(H::threads);\n}\n\n/// A CTA stores", "}\n\n/// A CTA stores", "tiny_attn_only", ""},
    {"gemv.cuh", "        ptx::sync_workers(G::threads); // nor the previous pass's pieces\n", "", "gated", "math=fast warps=5", 1},
    // what may be written
    {"epilogue.cuh", "kTileRows && row < G::rows;", "kTileRows && row + 1 < G::rows;", "deep", "wo_split=2"},
    {"launch.cuh", "to->count = count;", "to->count = count - 1;", "tiny_attn_only", ""},
};

/// What a mutant's kernel runs.
Feed stepFor(const Mutant &m, const Session &session) {
  int most = session.kernel.plan().tokens_max;
  if (m.layer == kChunks) return {{1400, 700}, {1, 3}, 9, false};
  if (most < 3) return {{65}, {most}, 9, false};
  return most < 8 ? Feed{{65, 3}, {2, 1}, 9, false} : Feed{{65, 3, 64}, {2, 1, 5}, 9, false};
}

/// What a mutant's layer shows with templates of `folder` laid over the others ("": the layer as it is); "" when it passes.
Result<std::string> shown(const Mutant &m, uint64_t seed, const std::string &folder) {
  PHASEC_ASSIGN(Layers layers, Layers::parse(std::string(m.layer) + ".phase", textOf(m.layer)));
  Setup setup;
  setup.settings = m.settings;
  setup.sim_ctas = m.sim_ctas;
  setup.sim_seed = seed;
  setup.templates = folder;
  PHASEC_ASSIGN(Session session, Session::open(layers, setup));
  return runStep(session, stepFor(m, session));
}

/// Whether any of a few schedules shows the mutant; what it showed first.
std::string caught(const Mutant &m) {
  TemporaryDir dir;
  static const Templates embedded = Templates::embedded();
  const Template *file = embedded.find(m.file);
  size_t at = file ? file->text.find(m.from) : std::string::npos;
  if (at == std::string::npos) return ""; // the test below says so
  std::string changed(file->text);
  dir.write(m.file, changed.replace(at, std::string(m.from).size(), m.to));
  for (uint64_t seed : {1, 2, 3, 4}) {
    auto wrong = shown(m, seed, dir.text());
    if (!wrong.ok()) return ""; // a mutant that does not compile shows nothing
    if (!wrong->empty() && (!m.report || contains(*wrong, m.report))) return *wrong;
  }
  return "";
}

/// Calls `work` with 0 .. count - 1, two at a time.
void twoAtATime(size_t count, const std::function<void(size_t)> &work) {
  std::atomic<size_t> next{0};
  auto run = [&] {
    for (size_t i; (i = next++) < count;) work(i);
  };
  std::thread other(run);
  run();
  other.join();
}

} // namespace

TEST_CASE("sim mutants: every kernel with one thing wrong fails its check or is reported stuck") {
  std::vector<std::string> findings(std::size(kMutants));
  twoAtATime(std::size(kMutants), [&](size_t i) { findings[i] = caught(kMutants[i]); });
  MESSAGE(std::size(kMutants) << " mutants");
  const Templates embedded = Templates::embedded();
  for (size_t i = 0; i < std::size(kMutants); i++) {
    const Mutant &m = kMutants[i];
    INFO(findings[i]);
    const Template *file = embedded.find(m.file);
    REQUIRE_MESSAGE(file, std::string(m.file));
    CHECK_MESSAGE(contains(std::string(file->text), m.from), std::string(m.file), " no longer says ", std::string(m.from));
    CHECK_MESSAGE(!findings[i].empty(), "not caught: ", std::string(m.layer), " ", std::string(m.file), ": ", std::string(m.from), " -> ", std::string(m.to));
  }
}

TEST_CASE("sim mutants: the unmutated kernels pass the same steps") {
  std::vector<const Mutant *> kernels; // a mutant of each: layer, settings and CTAs
  for (const Mutant &m : kMutants)
    if (std::none_of(kernels.begin(), kernels.end(), [&](const Mutant *k) {
          return std::string(k->layer) == m.layer && std::string(k->settings) == m.settings && k->sim_ctas == m.sim_ctas;
        }))
      kernels.push_back(&m);
  std::vector<std::string> findings(kernels.size());
  twoAtATime(kernels.size(), [&](size_t i) {
    auto wrong = shown(*kernels[i], 1, "");
    findings[i] = wrong.ok() ? *wrong : wrong.status().text();
  });
  MESSAGE(kernels.size() << " kernels");
  for (size_t i = 0; i < kernels.size(); i++)
    CHECK_MESSAGE(findings[i].empty(), std::string(kernels[i]->layer), " ", std::string(kernels[i]->settings), ": ", findings[i]);
}
