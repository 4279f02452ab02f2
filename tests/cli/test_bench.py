#!/usr/bin/env python3
"""`phasec bench --host`: every figure has a baseline of the same run; misuse is a usage error. argv: phasec, source, ...
Exit 77: no NVRTC here (the kernel that is measured with must be compiled)."""

import json
import pathlib
import subprocess
import sys

PHASEC, SOURCE = sys.argv[1], pathlib.Path(sys.argv[2])
LAYER = str(SOURCE / "examples" / "layers" / "tiny_wo_harness.phase")


def bench(*words):
    return subprocess.run([PHASEC, "bench", LAYER, "--exact", *words], capture_output=True, text=True, timeout=120)


for words in (["--host", "--rounds=3"], ["--host", "--no-such-flag"]):
    refused = bench(*words)
    assert refused.returncode == 2, (words, refused)
    assert "phasec:" in refused.stderr and not refused.stdout, (words, refused)

done = bench("--host", "--rounds=20", "--json")
if done.returncode == 5 and "NVRTC" in done.stderr:
    print("skipped: " + done.stderr.strip().splitlines()[-1])
    sys.exit(77)
assert done.returncode == 0, done
report = json.loads(done.stdout)
assert report["schema"] == "phasec.bench/1", report["schema"]
figures = {f["what"]: f for f in report["host"]}
for word in ("parse to key", "publish", "user file", "blessed file", "look-up in memory", "explain", "prepared launch", "nvrtcCompileProgram"):
    assert any(word in what for what in figures), (word, list(figures))
for what, f in figures.items():
    assert f["median_us"] > 0 and f["baseline_us"] > 0 and f["samples_us"], what
    ordered = sorted(f["samples_us"])
    assert ordered[0] <= f["median_us"] <= ordered[-1], what
print(f"{len(figures)} figures, each with its baseline")
