#!/usr/bin/env python3
"""`phasec bench FILE` over a driver that computes nothing (fake_cuda.cpp): what is timed, how often, over which memory, and
what is reported. Kernels do not run there, so a check must fail. argv: phasec, source, build. Exit 77: no NVRTC here."""

import csv
import json
import pathlib
import sys
import unittest

import support

FAKE = pathlib.Path(sys.argv[3]).resolve() / "tests" / "libfake_cuda.so"
CTAS = 125  # of the fake device; a launch takes as many microseconds


class BenchTest(support.CliTest):
    def bench(self, layer, *words, expect=0, env=None):
        return self.json("bench", support.LAYERS / f"{layer}.phase", "--exact", "--no-gate", *words, expect=expect,
                         env={"PHASEC_CUDA": FAKE, **(env or {})})

    def refused(self, *words, expect=2, env=None):
        out, err = self.phasec("bench", support.LAYERS / "tiny_qwen35_27b.phase", "--exact", *words, expect=expect,
                               env={"PHASEC_CUDA": FAKE, **(env or {})})
        self.assertEqual(out, "")
        return err

    def test_a_single_layer_runs_many_times_in_one_launch(self):
        report = self.bench("tiny_qwen35_27b", "--tokens", "1,4", "--contexts", "64,300", "--launches", "16", "--repeat", "30")
        self.assertEqual([(r["tokens"], r["context"]) for r in report["rows"]], [(1, 64), (1, 300), (4, 64), (4, 300)])
        for row in report["rows"]:
            self.assertIsNone(row["error"])
            self.assertIsNone(row["check"], "not asked for")
            self.assertEqual((row["instances"], row["sets"], row["launches_per_sample"]), (30, 1, 1))
            self.assertEqual(row["samples_us"], [CTAS] * 16)
            self.assertEqual(row["launch_us"]["median"], CTAS)
            self.assertAlmostEqual(row["layer_us"]["median"], CTAS / 30)
            self.assertEqual(row["config"]["tokens_max"], row["tokens"], "a kernel for the batch at hand")
            self.assertEqual(row["grid_ctas"], CTAS)
            self.assertFalse(row["cold"], "a tiny layer stays in L2, and the report says so")
            bytes_moved = row["weight_bytes"] + row["kv_bytes"]
            self.assertAlmostEqual(row["tbs"], bytes_moved / row["layer_us"]["median"] / 1e6)
            self.assertAlmostEqual(row["fraction_of_read"], row["tbs"] / report["ceilings"]["read_tbs"])
            # 2 heads of 32 dims in fp8, K and V, the cached rows and the new one
            self.assertEqual(row["kv_bytes"], row["tokens"] * (row["context"] + 1) * self.kv_row())
        one, four = report["rows"][0], report["rows"][2]
        self.assertEqual(one["weight_bytes"], four["weight_bytes"])
        ceilings = report["ceilings"]
        self.assertEqual(ceilings["read_bytes"], 1 << 27, "half of the memory, as a power of two")
        self.assertEqual(ceilings["read_ctas"], CTAS, "the fastest grid of the fake is the smallest")
        self.assertAlmostEqual(ceilings["read_tbs"], (1 << 27) / CTAS / 1e6)
        self.assertEqual(ceilings["nothing_us"], CTAS)
        self.assertEqual(report["device"]["name"], "Fake H200")
        self.assertIn("--repeat 30", report["command"])

    def kv_row(self):
        text = (support.LAYERS / "tiny_qwen35_27b.phase").read_text()
        dims = {k: int(v) for k, v in (pair.split("=") for pair in text[text.index("dims") + 4:].splitlines()[0].replace(" ", "").split(","))}
        return 2 * dims["kv_heads"] * dims["head_dim"]

    def test_the_default_repeat_outgrows_the_cache_or_says_that_it_does_not(self):
        row, = self.bench("tiny_qwen35_27b", "--contexts", "64")["rows"]
        self.assertEqual(row["instances"], 64, "never more copies than that")
        self.assertEqual(len(row["samples_us"]), 31)

    def test_launches_of_one_layer_rotate_over_sets(self):
        row, = self.bench("tiny_qwen35_27b", "--contexts", "64", "--repeat", "1")["rows"]
        self.assertEqual((row["instances"], row["sets"]), (1, 64))
        self.assertEqual(row["launches_per_sample"], 64, "every set as often as the others, 24 layers at least")
        self.assertEqual(row["samples_us"][0], 64 * CTAS)
        self.assertAlmostEqual(row["layer_us"]["median"], CTAS)

    def test_a_layer_that_cannot_be_chained_is_measured_alone(self):
        words = [support.LAYERS / "tiny_wo_harness.phase", "--exact", "--no-gate", "--device", "cuda"]
        out, err = self.phasec("bench", *words, "--json", env={"PHASEC_CUDA": FAKE})
        self.assertEqual(json.loads(out)["rows"][0]["instances"], 1)
        self.assertMentions(err, "cannot run many times in one launch", "--repeat 1")
        out, err = self.phasec("bench", *words, "--repeat", "3", expect=1, env={"PHASEC_CUDA": FAKE})
        self.assertMentions(out, "error: @tiny_wo_harness cannot run many times", "use --repeat 1")

    def test_a_stack_is_taken_as_it_is(self):
        row, = self.bench("tiny_stack", "--contexts", "64")["rows"]
        self.assertEqual((row["instances"], row["launches_per_sample"]), (3, 8))
        self.assertAlmostEqual(row["layer_us"]["median"], CTAS / 3)
        _, err = self.phasec("bench", support.LAYERS / "tiny_stack.phase", "--exact", "--repeat", "3", expect=2, env={"PHASEC_CUDA": FAKE})
        self.assertMentions(err, "drop --repeat")

    def test_a_sweep_has_a_row_per_value(self):
        report = self.bench("tiny_qwen35_27b", "--contexts", "64", "--sweep", "wo_split=1,2,4", "--set", "partition=seed", "--repeat", "2")
        self.assertEqual([(r["sweep"], r["config"]["wo_split"], r["config"]["partition"]) for r in report["rows"]],
                         [("1", 1, "seed"), ("2", 2, "seed"), ("4", 4, "seed")])
        self.assertEqual(report["sweep_knob"], "wo_split")
        self.assertEqual(len({r["key"] for r in report["rows"]}), 3)
        self.assertLess(report["rows"][0]["active_wo_ctas"], report["rows"][2]["active_wo_ctas"])

    def test_a_sweep_says_what_each_value_gains_and_what_bounds_it(self):
        words = ("--contexts", "64,128", "--sweep", "ctas=100,20", "--repeat", "64")
        report = self.bench("tiny_qwen35_27b", *words)
        self.assertEqual([round(r["speedup_over_first"], 6) for r in report["rows"]], [1, 5] * 2, "over the first value of the same step")
        for row in report["rows"]:
            self.assertEqual(row["bound_by"], "memory-bound" if row["fraction_of_read"] >= 0.5 else "latency-limited")
        self.assertEqual({r["bound_by"] for r in report["rows"]}, {"memory-bound", "latency-limited"}, "the fake reaches both")
        words = ("bench", support.LAYERS / "tiny_qwen35_27b.phase", "--exact", "--no-gate", *words)
        rows = list(csv.DictReader(self.phasec(*words, "--csv", env={"PHASEC_CUDA": FAKE})[0].splitlines()))
        self.assertEqual([r["speedup_over_first"] for r in rows], ["1.0000", "5.0000"] * 2)
        self.assertEqual([r["bound_by"] for r in rows], [r["bound_by"] for r in report["rows"]])
        self.assertMentions(self.phasec(*words, env={"PHASEC_CUDA": FAKE})[0], "bound by", "speed-up", "5.00x", "memory-bound")
        self.assertNotIn("speedup_over_first", self.bench("tiny_qwen35_27b", "--contexts", "64", "--repeat", "2")["rows"][0])
        errors = self.phasec(*words, "--tokens", "16", "--csv", expect=1, env={"PHASEC_CUDA": FAKE})[0]
        rows = list(csv.DictReader(errors.splitlines()))
        self.assertEqual([(r["speedup_over_first"], r["bound_by"], r["check"]) for r in rows], [("", "", "error")] * 4)

    def test_what_is_wrong_is_never_timed(self):
        out, err = self.phasec("bench", support.LAYERS / "tiny_qwen35_27b.phase", "--exact", "--json", "--repeat", "2", "--contexts", "64",
                               expect=3, env={"PHASEC_CUDA": FAKE})
        row, = json.loads(out)["rows"]
        self.assertFalse(row["check"]["ok"])
        self.assertEqual((row["check"]["contract"], row["check"]["instances"]), ("exact", 1))
        self.assertTrue(row["check"]["findings"])
        self.assertEqual((row["samples_us"], row["launch_us"], row["fraction_of_read"]), ([], None, None))
        self.assertMentions(err, "FAILED, and not timed")

    def test_a_row_that_fails_does_not_take_the_others_with_it(self):
        path = self.work / "rows.json"
        words = ["bench", support.LAYERS / "tiny_qwen35_27b.phase", "--exact", "--no-gate", "--repeat", "2", "--contexts", "64,9000000",
                 "--tokens", "1,16", "--csv", "-o", path]
        out, _ = self.phasec(*words, expect=1, env={"PHASEC_CUDA": FAKE})
        rows = list(csv.DictReader(out.splitlines()))
        self.assertEqual(rows[0]["check"], "not checked")
        self.assertEqual(float(rows[0]["layer_us"]), CTAS / 2)
        self.assertEqual([r["check"] for r in rows[1:]], ["error"] * 3, "beyond the rotary table, beyond `tokens`")
        written = json.loads(path.read_text())
        self.assertEqual(written["schema"], "phasec.bench/1")
        self.assertEqual(len(written["rows"]), 4)
        self.assertMentions(written["rows"][1]["error"], "rotary table")
        self.assertMentions(written["rows"][2]["error"], "tokens_max")

    def test_the_table_shows_ratios_beside_times(self):
        out, _ = self.phasec("bench", support.LAYERS / "tiny_qwen35_27b.phase", "--exact", "--no-gate", "--repeat", "2", "--contexts", "64",
                             env={"PHASEC_CUDA": FAKE})
        self.assertMentions(out, "read ceiling", "of read", "not checked", "warm L2", "62.50")

    def peers(self, body):
        """A directory whose python3 runs `body` with `peer` (a file's name), `arguments` and emit(**figures)."""
        script = self.write("fake_peer.py", "import json, os, sys\npeer, arguments = os.path.basename(sys.argv[1]), sys.argv[2:]\n"
                            "def emit(**figures): print(json.dumps(figures))\n" + body)
        python = self.write("bin/python3", f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
        python.chmod(0o755)
        return {"PATH": f"{python.parent}:/usr/bin:/bin"}

    def test_peers_stand_beside_the_rows(self):
        env = self.peers("""
spec = json.load(open(arguments[0]))
assert spec["plan"]["bodies"][0]["layer"] == "tiny_qwen35_27b" and os.path.exists(os.path.join(os.path.dirname(arguments[0]), "layer.py"))
for row in spec["rows"]:
    if peer == "torch_layer.py":
        emit(arm="eager", layers=24, samples_us=[24 * 250.0] * 3, **row)
        emit(arm="compiled", layers=24, samples_us=[24 * 125.0] * 2 + [9e9], **row)
    if peer == "triton_layer.py" and row["tokens"] == 1:
        emit(arm="triton", error="out of time", **row)
""")
        words = ("--tokens", "1,2", "--contexts", "64", "--repeat", "2", "--peers", "--sweep", "wo_split=1,2")
        report = self.bench("tiny_qwen35_27b", *words, env=env)
        self.assertEqual(report["peer_problems"], {"torch": None, "triton": None})
        self.assertEqual(len(report["rows"]), 4)
        for row in report["rows"]:
            torch = row["peers"]["torch"]
            self.assertEqual((torch["arm"], torch["layer_us"]), ("compiled", 125), "the faster one, by its median")
            self.assertAlmostEqual(torch["speedup"], 125 / (CTAS / 2))
            self.assertEqual([len(a["samples_us"]) for a in torch["arms"]], [3, 3])
            self.assertIsNone(row["peers"]["triton"])
        out, _ = self.phasec("bench", support.LAYERS / "tiny_qwen35_27b.phase", "--exact", "--no-gate", *words, env={"PHASEC_CUDA": FAKE, **env})
        self.assertMentions(out, "torch   triton", "2.00x        -")
        out, _ = self.phasec("bench", support.LAYERS / "tiny_qwen35_27b.phase", "--exact", "--no-gate", "--csv", *words,
                             env={"PHASEC_CUDA": FAKE, **env})
        row = next(csv.DictReader(out.splitlines()))
        self.assertEqual((row["torch_layer_us"], row["triton_layer_us"], row["check"]), ("125.000", "", "not checked"))

    def test_a_peer_that_cannot_run_is_named(self):
        env = self.peers("""
if peer == "torch_layer.py":
    emit(error="needs the Python package torch")
    sys.exit(0)
print("no JSON")
sys.exit(1)
""")
        report = self.bench("tiny_qwen35_27b", "--contexts", "64", "--repeat", "2", "--peers", env=env)
        row, = report["rows"]
        self.assertEqual(row["peers"], {"torch": None, "triton": None})
        self.assertEqual(report["peer_problems"]["torch"], "needs the Python package torch")
        self.assertMentions(report["peer_problems"]["triton"], "no JSON")
        self.assertTrue(row["samples_us"], "phasec's own figures stand")
        report = self.bench("tiny_qwen35_27b", "--contexts", "64", "--repeat", "2", "--peers", env={"PATH": str(self.work)})
        self.assertEqual(set(report["peer_problems"].values()), {"python3 is not on PATH"})

    def test_errors_are_judged_by_their_means(self):
        # The fake GPU leaves the pattern 0xa5, so the kernel's error is what it is; the peer's decides.
        body = """
for directory in arguments[1:]:
    about = json.load(open(directory + "/inputs.json"))
    for name in list(about["arrays"].values()) + list(about["truth"].values()) + [about["caches"]["kv"][n] for n in ("k", "v", "scales")]:
        assert os.path.getsize(os.path.join(directory, name)) > 0
    emit(seed=about["seed"], value="y", rel_l2=%s, self_rel_l2=%s)
"""
        words = ("--contexts", "64", "--repeat", "2", "--error", "3")
        report = self.bench("tiny_qwen35_27b", *words, env=self.peers(body % ("[0.5, 1.0, 1.5][about['seed'] - 1]", "1e-15")))
        error = report["error"]
        self.assertEqual([(r["seed"], r["value"], r["torch"]) for r in error["rows"]], [(1, "y", 0.5), (2, "y", 1.0), (3, "y", 1.5)])
        mine = sum(r["phasec"] for r in error["rows"]) / 3
        self.assertAlmostEqual(error["mean"]["y"]["phasec"], mine)
        self.assertAlmostEqual(error["mean"]["y"]["ratio"], mine)
        self.assertTrue(error["ok"])
        error = self.bench("tiny_qwen35_27b", *words, env=self.peers(body % (0.9 * mine, "1e-15")), expect=3)["error"]
        self.assertFalse(error["ok"], "more than 1.05 of PyTorch's")
        error = self.bench("tiny_qwen35_27b", *words, env=self.peers(body % (1, 0.5)))["error"]
        self.assertMentions(error["problem"], "another layer")

    def test_misuse(self):
        self.assertMentions(self.refused("--error", "0"), "--error")
        self.assertMentions(self.refused("--peer-seconds", "0"), "--peer-seconds")
        self.assertMentions(self.refused("--device", "sim"), "simulated times say nothing", "--host")
        self.assertMentions(self.refused("--tokens", "0"), "--tokens takes numbers from 1 to 16")
        self.assertMentions(self.refused("--tokens", "17"), "--tokens")
        self.assertMentions(self.refused("--launches", "14"), "from 15 to 255")
        self.assertMentions(self.refused("--repeat", "0"), "--repeat")
        self.assertMentions(self.refused("--sweep", "wo_split"), "knob=value")
        self.assertMentions(self.refused("--sweep", "wo_splt=1,2"), "wo_split")
        self.assertMentions(self.refused("--sweep", "wo_split=1,3"), "1, 2, 4")
        self.assertMentions(self.refused(expect=4, env={"PHASEC_CUDA": "/nowhere/libcuda.so"}), "/nowhere/libcuda.so")


if __name__ == "__main__":
    probe = support.subprocess.run([support.PHASEC, "render", str(support.LAYERS / "tiny_wo_harness.phase"), "--exact", "--emit=resources",
                                    "--target", "sm_90a"], capture_output=True, text=True)
    if probe.returncode == 5:
        print("skipped: " + probe.stderr.strip().splitlines()[-1])
        sys.exit(77)
    support.main()
