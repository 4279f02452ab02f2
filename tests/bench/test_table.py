#!/usr/bin/env python3
"""README.md's table is what tests/bench/results says, and table.py says when it is not. argv: phasec, source, build."""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

SOURCE = pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else ".").resolve()
sys.path.insert(0, str(SOURCE / "tests" / "bench"))
import table


def row(tokens, us, fraction, torch=None, **more):
    return {"tokens": tokens, "context": 1024, "error": None, "check": None, "launches_alike": True, "tbs": 4.0, "fraction_of_read": fraction,
            "layer_us": {"median": us}, "peers": {"torch": torch and {"speedup": torch}, "triton": None},
            "resources": {"kernels": [{"spill_store_bytes": 0, "spill_load_bytes": 0, "local_bytes": 0}]}, **more}


def report(*rows):
    return {"schema": "phasec.bench/1", "device": {"name": "Fake", "driver": "CUDA 13.0"}, "ceilings": {"read_tbs": 4.6}, "rows": list(rows)}


class TableTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory(prefix="phasec-table-")
        self.addCleanup(directory.cleanup)
        self.work = pathlib.Path(directory.name)

    def results(self, **runs):
        for name, document in runs.items():
            (self.work / f"{name}.json").write_text(json.dumps(document))
        table.join(self.work, self.work / "all.json")
        return table.Results(json.loads((self.work / "all.json").read_text()))

    def test_targets_are_judged(self):
        r = self.results(qwen35_27b=report(row(1, 50, 0.85, 4.5), row(8, 57, 0.7)), llama31_8b=report(row(1, 100, 0.5)))
        text = table.show(r)
        lines = {line.split("  ")[0].strip() + str(i): line for i, line in enumerate(text.splitlines())}
        wanted = {"NVFP4 Qwen3.5-27B layer, 1k context": "ship", "batch 8 over batch 1": "MISSED", "8k context": "not measured",
                  "BF16 Llama-3.1-8B layer: fraction": "MISSED", "spilled or local": "goal"}
        for start, verdict in wanted.items():
            line = next(line for line in lines.values() if line.strip().startswith(start))
            self.assertTrue(line.endswith(verdict), line)
        self.assertTrue(next(line for line in text.splitlines() if "PyTorch bf16" in line and "4.5" in line).endswith("goal"))
        r = self.results(qwen35_27b=report(row(1, 50, 0.9, resources={"kernels": [{"spill_store_bytes": 0, "spill_load_bytes": 4, "local_bytes": 0}]})))
        self.assertEqual(table.spilled(r), 4)

    def test_every_target_is_measured_by_bench_all(self):
        script = (SOURCE / "tests" / "gpu" / "bench_all.sh").read_text()
        asked = {words[1]: words for words in map(str.split, script.splitlines()) if words[:1] == ["bench"] and len(words) > 3}

        class Asking:  # stands for results: notes what a target looks at
            runs = {}

            def rows(self):
                return iter(())

            def row(self, run, tokens=1, context=1024):
                self.seen.append((run, str(tokens), str(context)))

        for text, figure, _, _ in table.TARGETS:
            results = Asking()
            results.seen = []
            figure(results)
            for run, tokens, context in results.seen:
                self.assertIn(run, asked, text)
                words = asked[run]
                of = lambda flag, default: words[words.index(flag) + 1].split(",") if flag in words else [default]
                self.assertIn(tokens, of("--tokens", "1"), text)
                self.assertIn(context, of("--contexts", "1024"), text)
                if "PyTorch" in text or "Triton" in text:
                    self.assertIn("--peers", words, text)
                    self.assertNotIn("= embed ", (SOURCE / "examples" / "layers" / f"{words[3]}.phase").read_text(), f"{text}: no peer expresses it")

    def test_results_name_no_place_of_the_machine(self):
        layer = table.README.parent / "examples" / "layers" / "mlp_only.phase"
        document = report(row(1, 50, 0.9)) | {"command": f"{table.README.parent}/build/phasec bench {layer} -o /some/where/a.json --tokens 1", "file": str(layer)}
        run = self.results(a=document).runs["a"]
        self.assertEqual(run["command"], "phasec bench examples/layers/mlp_only.phase -o a.json --tokens 1")
        self.assertEqual(run["file"], "examples/layers/mlp_only.phase")

    def test_committed_results_name_none_either(self):
        for path in (SOURCE / "tests" / "bench" / "results").glob("*.json"):
            for run in json.loads(path.read_text())["runs"].values():
                self.assertEqual([w for w in (run["command"] + " " + run["file"]).split() if w.startswith("/")], [], path.name)

    def test_what_failed_is_no_figure(self):
        bad = row(1, 50, 0.9, error="no memory\nmore", layer_us=None)
        r = self.results(qwen35_27b=report(bad, row(8, 57, 0.8)))
        self.assertIsNone(table.fraction("qwen35_27b")(r))
        self.assertIn("no memory", table.show(r))
        self.assertNotIn("| 1 | 1024", table.markdown([(self.work / "all.json", r)]))

    def test_the_region_is_rewritten_and_nothing_else(self):
        r = self.results(qwen35_27b=report(row(1, 50, 0.9, 4.5)))
        text = f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n"
        new = table.rewritten(text, table.markdown([(self.work / "all.json", r)]))
        self.assertTrue(new.startswith("before\n" + table.BEGIN) and new.endswith(table.END + "\nafter\n"))
        self.assertIn("| qwen35_27b | 1 | 1024 | 50.00 | 4.000 | 0.900 | 4.50 | - |", new)
        self.assertNotIn("old", new)
        with self.assertRaises(SystemExit):
            table.rewritten("no region", "x")

    def test_a_run_is_quoted_from_the_newest_results_that_have_it(self):
        old = {"when": "2026-01-01 00:00 UTC", "commit": "a", "runs": {"x": report(row(1, 50, 0.9)), "y": report(row(1, 60, 0.9))}}
        new = {"when": "2026-01-02 00:00 UTC", "commit": "b", "runs": {"x": report(row(1, 40, 0.9))}}
        found = table.newest([(self.work / "old.json", table.Results(old)), (self.work / "new.json", table.Results(new))])
        self.assertEqual([(r.commit, list(r.runs)) for _, r in found], [("b", ["x"]), ("a", ["y"])])

    def test_readme_agrees_with_the_results(self):
        done = subprocess.run([sys.executable, SOURCE / "tests" / "bench" / "table.py", "check"], capture_output=True, text=True)
        print(done.stdout.strip())
        self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]])
