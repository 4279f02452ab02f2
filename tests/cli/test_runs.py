"""Every tiny layer on the sim, bit for bit against the reference; and that the check can fail."""
import pathlib
import sys

import support
from support import LAYERS, SOURCE, TINY

SIM = ("--device", "sim", "--exact", "--check")
# One kernel serves all steps: what is in the cache, who is how long, in which order the simulator runs.
STEPS = [
    (),
    ("--tokens", "8", "--contexts", "1,63,64,65,300", "--outliers", "--seed", "7", "--sim-seed", "5", "--sim-ctas", "3"),
    ("--tokens", "1", "--contexts", "64", "--seed", "9", "--sim-seed", "2"),
]
SPLITS = (1, 2, 4, 8, 16) if pathlib.Path(sys.argv[0]).stem.endswith("_slow") else (1, 8)


class Runs(support.CliTest):
    def checked(self, layer, *words):
        run = self.json("run", LAYERS / f"{layer}.phase", *SIM, *words)
        check = run["check"]
        self.assertEqual((check["contract"], check["ok"], check["bit_exact"], check["max_abs"], check["rel_l2"]), ("exact", True, True, 0, 0))
        self.assertEqual(run["stream"]["planned"], run["stream"]["executed"])
        self.assertGreater(run["stream"]["executed"]["bytes"], 0)
        self.assertGreaterEqual(run["launches"], 2)
        return run

    def layer(self, name):
        splits = [s for s in SPLITS if s <= 8 or "partition = seed" not in (LAYERS / f"{name}.phase").read_text()]
        for split in splits if support.has_wo(name) else [0]:
            for step in STEPS:
                with self.subTest(layer=name, split=split, step=step):
                    self.checked(name, *step, "--set", f"wo_split={split}")


for tiny in TINY:
    setattr(Runs, f"test_{tiny}", lambda self, name=tiny: self.layer(name))


class Behaviour(support.CliTest):
    HARNESS = LAYERS / "tiny_wo_harness.phase"

    def test_fields(self):
        run = self.json("run", self.HARNESS, *SIM, "--set", "wo_split=4")
        for field in ("layer", "device", "target", "config", "wo_split", "function_fingerprint", "source_digest", "grid_ctas", "active_wo_ctas",
                      "gather_ctas", "cache", "check", "time_us", "stream"):
            self.assertIn(field, run)
        self.assertEqual((run["layer"], run["device"], run["wo_split"], run["config"]["wo_split"]), ("tiny_wo_harness", "sim", 4, 4))
        self.assertEqual((run["grid_ctas"], run["active_wo_ctas"], run["gather_ctas"]), (32, 16, 32))
        self.assertEqual(len(run["function_fingerprint"]), 32)
        self.assertEqual((run["cache"]["outcome"], run["cache"]["layer"]), ("miss", "compiled"))
        self.assertIsNone(run["time_us"]["launch_median"])
        again = self.json("run", self.HARNESS, *SIM, "--set", "wo_split=4")
        self.assertEqual((again["cache"]["outcome"], again["cache"]["layer"]), ("hit", "user"))
        self.assertEqual(again["time_us"]["compile"], 0)
        self.assertEqual(again["outputs"], run["outputs"])
        other = self.json("run", self.HARNESS, *SIM, "--set", "wo_split=4", "--seed", "2")
        self.assertNotEqual(other["outputs"], run["outputs"])

    def test_scheduler_seeds_and_grid_leave_the_same_bytes(self):
        layer = LAYERS / "tiny_qwen35_27b.phase"
        runs = [self.json("run", layer, "--device", "sim", "--exact", "--sim-seed", seed, "--sim-ctas", ctas) for seed, ctas in ((1, 4), (2, 1), (3, 7))]
        self.assertEqual(len({run["outputs"][0]["digest"] for run in runs}), 1)
        self.assertEqual([run["grid_ctas"] for run in runs], [4, 1, 7])
        self.assertEqual(len({run["function_fingerprint"] for run in runs}), 1)

    def test_save(self):
        run = self.json("run", self.HARNESS, "--device", "sim", "--exact", "--tokens", "5", "--save", self.work / "h.bin")
        self.assertEqual((self.work / "h.bin").stat().st_size, 5 * 80 * 4)
        self.assertEqual(run["outputs"][0]["shape"], [5, 80])

    def test_record(self):
        manifest = self.work / "manifest"
        for _ in range(2):
            self.phasec("run", self.HARNESS, "--device", "sim", "--exact", "--record", manifest)
        self.phasec("run", self.HARNESS, "--device", "sim", "--exact", "--set", "wo_split=2", "--record", manifest)
        lines = [line for line in manifest.read_text().splitlines() if not line.startswith("#")]
        self.assertEqual(len(lines), 2)

    def broken(self, name, old, new):
        text = (SOURCE / "templates" / name).read_text()
        self.assertIn(old, text)
        self.write(f"overlay/{name}", text.replace(old, new))
        return ("--templates", self.work / "overlay")

    def test_a_wrong_kernel_is_found(self):
        """The reference does not read the templates, so a wrong constant shows."""
        wrong = self.broken("math/exact.cuh", "0.240226507f", "0.3f")
        run = self.json("run", LAYERS / "tiny_mlp_only.phase", *SIM, "--set", "math=exact")
        self.assertTrue(run["check"]["bit_exact"])
        run = self.json("run", LAYERS / "tiny_attn_only.phase", *SIM, *wrong, expect=3)
        self.assertFalse(run["check"]["bit_exact"])
        self.assertTrue(run["check"]["findings"])
        out, _ = self.phasec("run", LAYERS / "tiny_attn_only.phase", *SIM, *wrong, expect=3)
        self.assertIn("FAILED", out)


if __name__ == "__main__":
    support.main()
