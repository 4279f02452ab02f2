#!/usr/bin/env python3
"""`phasec tune` over a driver that computes nothing (fake_cuda.cpp): its launches leave what a sim computed, and take a time
that depends on the block alone. argv: phasec, source, build. Exit 77: no NVRTC here."""
import json
import pathlib
import shutil
import sys
import tempfile

import support

FAKE = pathlib.Path(sys.argv[3]).resolve() / "tests" / "libfake_cuda.so"
LAYER = support.LAYERS / "tiny_wo_harness.phase"
LARGE = support.LAYERS / "qwen35_27b.phase"
STEP = ("--tokens", "1", "--contexts", "64")
THREADS = {warps: (warps + 4) * 32 for warps in (8, 16)}  # four more feed the stream
SEARCHED = ("partition", "wo_split", "warps", "ring", "window", "kv_splits")


def knobs(schedule):
    return dict(word.split("=") for word in schedule.split())


class TuneTest(support.CliTest):
    kernels = None  # a blessed file with what the first search compiled: the others compile what they have besides

    def setUp(self):
        super().setUp()
        self.results = self.work / "results"
        self.phasec("run", LAYER, "--device", "sim", "--exact", "--set", "tokens_max=1", *STEP, "--save", self.results)
        if not self.kernels:
            self.tune()
            TuneTest.directory = tempfile.TemporaryDirectory(prefix="phasec-tune-")
            kernels = pathlib.Path(self.directory.name) / "kernels.db"
            self.phasec("cache", "export", "--out", kernels)
            TuneTest.kernels = kernels
            shutil.rmtree(self.cache)

    @classmethod
    def tearDownClass(cls):
        if cls.kernels:
            cls.directory.cleanup()

    def on_gpu(self, **variables):
        return {"PHASEC_CUDA": FAKE, "FAKE_CUDA_RESULT": self.results, "FAKE_CUDA_BEST": THREADS[16], "PHASEC_BLESSED": self.kernels,
                **{f"FAKE_CUDA_{name.upper()}": value for name, value in variables.items()}}

    def tune(self, *words, layer=LAYER, expect=0, **variables):
        """Few axes, so that a search ends within seconds."""
        pins = () if any("partition" in str(w) for w in words) else ("--set", "partition=wide", "--set", "wo_split=8")
        return self.json("tune", layer, "--device", "cuda", "--contexts", "64", *pins, *words, expect=expect, env=self.on_gpu(**variables))

    def test_the_fastest_that_passed_its_check_wins(self):
        report = self.tune()
        winner, trace = report["winner"], report["candidates"]
        self.assertEqual(knobs(winner["schedule"])["warps"], "16")
        self.assertEqual(winner["layer_us"], 125)
        self.assertEqual(winner["layer_us"], min(c["checked_us"] for c in trace if c["checked_us"]))
        self.assertEqual(trace[winner["candidate"]]["outcome"], "leads")
        self.assertTrue(all(c["checked_us"] for c in trace if c["outcome"] == "leads"), "who leads was checked")
        self.assertTrue(all(c["layer_us"] or c["reason"] for c in trace), "a time, or why there is none")
        self.assertEqual((report["complete"], report["verdict"], report["stored"], report["error"]), (True, "first", None, None))
        self.assertEqual((report["target"], report["ctas"], report["math"], report["tokens_max"]), ("sm_90a", 125, "fast", 1))
        default = next(c for c in trace if c["phase"] == "default")
        self.assertEqual((winner["default_us"], winner["speedup"]), (default["checked_us"], default["checked_us"] / 125))
        self.assertGreater(winner["speedup"], 1)

    def test_what_cannot_be_planned_is_skipped_and_counted(self):
        report = self.tune("--set", "partition=seed")
        dropped = [c for c in report["candidates"] if c["cause"] == "planner"]
        self.assertTrue(any("slice_ctas" in c["reason"] for c in dropped), "wo_split = 32 has more slots than CTAs")
        self.assertEqual(report["dropped"], {"planner": len(dropped), "compiler": 0, "device": 0, "check": 0})
        twins = [c for c in report["candidates"] if c["outcome"] == "same kernel"]
        self.assertTrue(any(knobs(c["schedule"])["kv_splits"] != "0" for c in twins), "without attention that knob changes nothing")

    def test_what_fails_its_check_never_wins(self):
        report = self.tune(wrong=THREADS[16])
        fast = [c for c in report["candidates"] if knobs(c["schedule"])["warps"] == "16"]
        self.assertEqual({c["outcome"] for c in fast if c["layer_us"] == 125}, {"dropped"})
        self.assertGreaterEqual(report["dropped"]["check"], 1)
        self.assertTrue(next(c for c in fast if c["cause"] == "check")["reason"])
        self.assertNotEqual(knobs(report["winner"]["schedule"])["warps"], "16")
        self.assertGreater(report["winner"]["layer_us"], 125)

    def test_nothing_is_stored_when_nothing_passes(self):
        self.results.write_bytes(b"\0" * 320)
        report = self.tune("--set", "ring=2", "--set", "warps=16", expect=3)
        self.assertEqual((report["winner"], report["verdict"]), (None, "none"))
        self.assertEqual(self.json("doctor", env=self.on_gpu())["tuned"], [])

    def test_pinned_knobs_stay(self):
        report = self.tune("--set", "partition=seed", "--set", "warps=8")
        self.assertEqual({(knobs(c["schedule"])["partition"], knobs(c["schedule"])["warps"]) for c in report["candidates"]}, {("seed", "8")})
        self.assertGreater(len({knobs(c["schedule"])["wo_split"] for c in report["candidates"]}), 3)

    def test_the_budget_ends_it(self):
        report = self.tune("--budget", "0.001s")
        self.assertEqual([c["phase"] for c in report["candidates"]], ["default"])
        self.assertFalse(report["complete"])
        self.assertEqual(report["winner"]["candidate"], 0, "the default is measured in any case")

    def test_a_second_search_reproduces_the_first(self):
        first = self.tune()
        again = self.tune()
        self.assertEqual(again["candidates"][0]["phase"], "stored")
        self.assertEqual(again["winner"]["candidate"], 0)
        self.assertEqual((again["verdict"], again["winner"]["schedule"]), ("reproduced", first["winner"]["schedule"]))
        self.assertEqual((again["stored"]["layer_us"], again["stored"]["band"]), (125, 0.01))
        self.assertEqual(self.tune(scale=1.009)["verdict"], "reproduced")
        self.assertEqual(self.tune(scale=2)["verdict"], "moved")
        self.assertEqual(self.tune(scale=2)["verdict"], "reproduced", "against the latest one")
        self.assertEqual(self.tune("--contexts", "64,128")["verdict"], "first", "times of other contexts say nothing")

    def test_winners_are_used_and_shown(self):
        self.tune()
        env = self.on_gpu()
        step = ("--device", "cuda", "--set", "tokens_max=1")
        run = self.json("run", LAYER, *step, *STEP, "--check", env=env)
        self.assertEqual((run["config"]["warps"], run["config"]["wo_split"], run["config"]["partition"]), (16, 8, "wide"))
        self.assertEqual(run["tuned"], list(sorted(SEARCHED, key=list(run["config"]).index)))
        out, _ = self.phasec("run", LAYER, *step, *STEP, env=env)
        self.assertMentions(out, "  tuned   ", "warps=16", "launch  125.0 us")
        bench = self.json("bench", LAYER, "--device", "cuda", "--no-gate", "--contexts", "64", env=env)
        self.assertEqual((bench["rows"][0]["config"]["warps"], "warps" in bench["rows"][0]["tuned"]), (16, True))
        explain = self.json("explain", LAYER, *step, env=env)
        self.assertEqual((explain["outcome"], explain["config"]["warps"], "warps" in explain["tuned"]), ("hit", 16, True))
        self.assertMentions(self.phasec("explain", LAYER, *step, "--set", "warps=13", env=env)[0], "--set partition=wide", "tuned: ", "to ship it")
        inspected = self.json("inspect", LAYER, *step, env=env)
        self.assertMentions(inspected["tuned"], "warps=16")
        doctor, = self.json("doctor", env=env)["tuned"]
        self.assertEqual((doctor["layer"], doctor["ctas"], doctor["tokens_max"], knobs(doctor["schedule"])["warps"]), ("tiny_wo_harness", 125, 1, "16"))
        self.assertMentions(self.phasec("doctor", env=env)[0], "@tiny_wo_harness sm_90a, 125 CTAs, math fast, tokens_max 1: ")

    def test_a_stronger_word_wins_and_other_work_has_no_winner(self):
        self.tune()
        env = self.on_gpu()

        def effective(*words, layer=LAYER, **more):
            document = self.json("explain", layer, "--device", "cuda", *words, env={**env, **more})
            return document["config"]["warps"], document["tuned"]

        one = ("--set", "tokens_max=1")
        self.assertEqual(effective(*one)[0], 16)
        warps, tuned = effective(*one, "--set", "warps=8")
        self.assertEqual((warps, "warps" in tuned, "partition" in tuned), (8, False, True))
        self.assertEqual(effective(*one, PHASEC_CONFIG=self.write("config", "warps = 8\n"))[0], 8)
        self.assertEqual(effective(*one, "--no-tuned"), (0, []))
        self.assertEqual(effective(), (0, []), "compiled for 8 rows")
        self.assertEqual(effective(*one, "--exact"), (0, []))
        self.assertEqual(effective(*one, "--set", "ctas=64"), (0, []))
        other = self.write("other.phase", LAYER.read_text().replace("hidden = 80", "hidden = 96"))
        self.assertEqual(effective(*one, layer=other), (0, []))
        same = self.write("same.phase", "// a comment\n" + LAYER.read_text())
        self.assertEqual(effective(*one, layer=same)[0], 16, "what a layer means counts, not its text")

    def test_an_error_about_what_nobody_typed_says_so(self):
        self.tune("--set", "partition=wide", "--set", "wo_split=32")
        _, err = self.phasec("explain", LAYER, "--device", "cuda", "--set", "tokens_max=1", "--set", "partition=seed", expect=1, env=self.on_gpu())
        self.assertMentions(err, "wo_split = 32", "`phasec tune` chose", "--no-tuned")

    def test_winners_never_leave_the_user_file(self):
        self.tune("--set", "warps=16")
        self.phasec("run", LAYER, "--device", "cuda", "--set", "tokens_max=1", *STEP, env={**self.on_gpu(), "PHASEC_BLESSED": None})
        user, = self.cache.glob("*.db")
        with_winner = self.work / "with.db"
        self.phasec("cache", "export", "--out", with_winner)
        self.assertNotIn(b"CREATE TABLE tuned", with_winner.read_bytes())
        self.assertIn(b"CREATE TABLE tuned", user.read_bytes())

    def test_talk(self):
        path = self.work / "trace.json"
        out, err = self.phasec("tune", LAYER, "--device", "cuda", "--contexts", "64", "--set", "partition=wide", "--set", "wo_split=8", "-o", path,
                               env=self.on_gpu())
        self.assertMentions(out, "winner    partition=wide wo_split=8 warps=16", "125.00 us per layer", "dropped: planner", "stored    used from now on")
        self.assertMentions(err, "1 default ", "leads", "not faster (best ", "/120 s]")
        self.assertEqual(err.count("cannot run many times"), 1)
        self.assertEqual(json.loads(path.read_text())["schema"], "phasec.tune/1")

    def test_misuse(self):
        for words, word in ((("--budget", "soon"), "--budget soon"), (("--budget", "0s"), "--budget"), (("--budget", "2000m"), "at most a day"),
                            (("--tokens", "17"), "--tokens"), (("--contexts=-1",), "--contexts"), (("--device", "sim"), "simulated times")):
            _, err = self.phasec("tune", LAYER, *words, expect=2, env=self.on_gpu())
            self.assertMentions(err, word)
        _, err = self.phasec("tune", LARGE, "--device", "cuda", "--tokens", "16", "--set", "warps=31", "--set", "ring=32", expect=1, env=self.on_gpu())
        self.assertMentions(err, "shared memory")
        self.phasec("tune", LAYER, expect=4, env={"PHASEC_CUDA": "/nowhere/libcuda.so"})

    def test_without_a_user_file_the_winner_is_told_and_not_kept(self):
        env = {**self.on_gpu(), "PHASEC_CACHE_DIR": None, "HOME": None, "XDG_CACHE_HOME": None}
        out, _ = self.phasec("tune", LAYER, "--device", "cuda", "--contexts", "64", "--budget", "0.001s", env=env)
        self.assertMentions(out, "stored    nowhere: ")


if __name__ == "__main__":
    probe = support.subprocess.run([support.PHASEC, "render", str(LAYER), "--emit=resources", "--target", "sm_90a"], capture_output=True, text=True)
    if probe.returncode == 5:
        print("skipped: " + probe.stderr.strip().splitlines()[-1])
        sys.exit(77)
    support.main()
