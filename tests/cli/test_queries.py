"""The commands that answer questions: what they print, as text and as JSON."""
import json
import os
import re
import stat
import subprocess

import support
from support import LAYERS, TINY

HARNESS = LAYERS / "tiny_wo_harness.phase"
SIM = ("--device", "sim", "--exact")


class Format(support.CliTest):
    def test_examples_are_canonical(self):
        self.phasec("fmt", "--check", *sorted(LAYERS.glob("*.phase")))

    def test_rewriting(self):
        path = self.write("x.phase", HARNESS.read_text().replace("  %p = wo     %a, %w_o", "     %p=wo %a,%w_o"))
        _, err = self.phasec("fmt", "--check", path, expect=3)
        self.assertRegex(err, r"x\.phase:13: not canonical")
        self.assertEqual(self.json("fmt", "--check", path, expect=3)["not_canonical"][0]["line"], 13)
        self.assertEqual(self.phasec("fmt", path)[0], HARNESS.read_text())
        self.phasec("fmt", "-w", path)
        self.assertEqual(path.read_text(), HARNESS.read_text())

    def test_explicit_events_give_the_same_kernel(self):
        for layer in TINY:
            with self.subTest(layer=layer):
                text, _ = self.phasec("fmt", "--explicit", LAYERS / f"{layer}.phase")
                path = self.write(f"{layer}.phase", text)
                self.assertIn("explicit", text)
                self.phasec("fmt", "--check", path)
                self.phasec("check", path)
                events = (*SIM, "--set", "handoff=events") # written events always wait: tags may carry those of `sync auto`
                keys = {self.json("explain", p, *events)["function_fingerprint"] for p in (path, LAYERS / f"{layer}.phase")}
                self.assertEqual(len(keys), 1)


class Render(support.CliTest):
    def test_stages(self):
        self.assertEqual(self.phasec("render", HARNESS, "--emit=ir")[0], HARNESS.read_text())
        self.assertIn("step 0: wo", self.phasec("render", HARNESS, "--emit=plan", "--exact")[0])
        out, _ = self.phasec("render", HARNESS, "--emit=plan", "--exact", "--json")
        self.assertEqual(json.loads(out)["schema"], "phasec.plan/1")
        out, _ = self.phasec("render", HARNESS, "--exact", "-o", self.work / "k.cu")
        self.assertEqual(out, "")
        source = (self.work / "k.cu").read_text()
        self.assertNotIn("#include", source)
        self.assertEqual(source, self.phasec("render", HARNESS, "--exact")[0])
        self.assertFalse(self.cache.exists())

    def test_proof_can_be_skipped(self):
        path = self.edited("tiny_wo_harness", ("  event grid %p -> %h", "  // event grid %p -> %h"))
        self.phasec("check", path, expect=1)
        self.phasec("check", "--no-prove", path)


class Output(support.CliTest):
    """-o writes through a temporary file, but never replaces what is no file."""

    def test_a_pipe_stays_a_pipe(self):
        pipe = self.write("pipe", "")
        pipe.unlink()
        os.mkfifo(pipe)
        with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True) as reader:
            self.phasec("render", HARNESS, "--emit=ir", "-o", pipe)
            self.assertEqual(reader.stdout.read(), HARNESS.read_text())
        self.assertTrue(stat.S_ISFIFO(pipe.stat().st_mode))

    def test_a_file_is_replaced_whole(self):
        path = self.write("x.phase", "old text that is longer than nothing\n" * 1000)
        self.phasec("render", HARNESS, "--emit=ir", "-o", path)
        self.assertEqual(path.read_text(), HARNESS.read_text())


class Stored(support.CliTest):
    def setUp(self):
        super().setUp()
        self.run_json = self.json("run", HARNESS, *SIM, "--set", "wo_split=2")
        self.key = self.run_json["cache"]["key"]

    def test_inspect(self):
        for words in ((self.key,), (self.key.strip("()"),), (self.run_json["function_fingerprint"][:6],), (HARNESS, *SIM, "--set", "wo_split=2")):
            document = self.json("inspect", *words)
            self.assertEqual(document["key"], self.key)
            self.assertEqual(document["target"], "sim:sm_90a")
            self.assertIn("ir", [s["section"] for s in document["sections"]])
        self.assertIn(self.key, self.phasec("inspect", self.key)[0])
        self.assertIn("phasec_layer", self.phasec("inspect", self.key, "--source")[0])
        self.phasec("inspect", self.key, "--ptx", expect=1)
        self.phasec("inspect", "(2, 00)", expect=1)
        self.assertEqual(self.json("explain", self.key)["outcome"], "hit")

    def test_cache(self):
        self.assertEqual(self.json("cache", "stats")["files"][0]["entries"], 1)
        self.assertEqual(self.json("cache", "ls")["entries"][0]["key"], self.key)
        self.assertIn(self.key, self.phasec("cache", "ls")[0])
        self.assertTrue(self.json("cache", "verify")["ok"])
        blessed = self.work / "blessed.db"
        self.phasec("cache", "export", "--out", blessed)
        self.phasec("cache", "verify", blessed)
        self.assertEqual(self.json("cache", "diff", blessed, blessed)["same"], 1)
        self.phasec("cache", "merge", blessed, blessed, "--out", self.work / "merged.db")
        self.phasec("cache", "gc")
        self.assertEqual(self.json("cache", "clear")["removed"], 1)
        self.assertEqual(self.json("cache", "ls")["entries"], [])
        hit = self.json("run", HARNESS, *SIM, "--set", "wo_split=2", env={"PHASEC_BLESSED": blessed})
        self.assertEqual((hit["cache"]["outcome"], hit["cache"]["layer"]), ("hit", "blessed"))
        good = blessed.read_bytes()
        for at in [*range(0, 100, 7), *range(100, len(good), len(good) // 40), len(good) - 1]:
            blessed.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1:])
            self.assertFalse(self.json("cache", "verify", blessed, expect=3)["ok"], at)
        self.phasec("cache", "verify", self.work / "absent.db", expect=1)


class Doctor(support.CliTest):
    def test_report(self):
        env = {"PHASEC_WO_SPLT": "2", "PHASEC_XYZZY": "1", "PHASEC_WO_SPLIT": "4"}
        document = self.json("doctor", "--set", "warps=8", env=env, expect=None)
        self.assertEqual({u["name"]: u["suggestion"] for u in document["unknown_variables"]}, {"PHASEC_WO_SPLT": "PHASEC_WO_SPLIT", "PHASEC_XYZZY": ""})
        knobs = {k["name"]: (k["value"], k["origin"]) for k in document["knobs"]}
        self.assertEqual((knobs["wo_split"], knobs["warps"], knobs["math"]), (("4", "environment"), ("8", "flag"), ("fast", "default")))
        self.assertIn("sm_90a", document["targets"])
        self.assertEqual(document["refusals"], [], "every weight format renders under both contracts")
        settings = {s["name"]: s for s in document["environment"]}
        self.assertEqual(settings["PHASEC_CACHE_DIR"]["value"], str(self.cache))
        out, _ = self.phasec("doctor", env=env, expect=None)
        self.assertMentions(out, "did you mean PHASEC_WO_SPLIT", "refused", str(self.cache))
        self.assertFalse(re.search("\033", out))

    def test_remedies(self):
        document = self.json("doctor", env={"PHASEC_NVRTC": "/nonexistent", "PHASEC_CUDA": "/nonexistent", "PATH": "/nonexistent"}, expect=3)
        for finding in document["findings"]:
            if finding["state"] != "ok":
                self.assertGreater(len(finding["text"]), 20)
        self.assertIn("nvrtc", [f["name"] for f in document["findings"] if f["state"] == "unusable"])

    def test_changes_nothing(self):
        self.phasec("doctor", expect=None)
        self.assertFalse(list(self.work.glob("cache/*.db")))


if __name__ == "__main__":
    support.main()
