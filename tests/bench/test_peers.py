#!/usr/bin/env python3
"""torch_layer.py runs the layer that the reference defines: in fp64 it agrees with the reference to rounding of double, on
inputs that `phasec bench --error` hands over. Needs PyTorch (the CPU's will do). argv: phasec, source, build. Exit 77: no
PyTorch or no NVRTC here."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

PHASEC, SOURCE, BUILD = (pathlib.Path(p).resolve() for p in sys.argv[1:4])
LAYERS = ("tiny_qwen35_27b", "tiny_llama31_8b", "tiny_llama31_8b_fp8", "tiny_qwen3_8b", "tiny_mlp_only", "tiny_attn_only", "tiny_wo_harness")
ROUNDING = 1e-12


def bench(layer, cache):
    words = [PHASEC, "bench", SOURCE / "examples" / "layers" / f"{layer}.phase", "--device", "cuda", "--no-gate", "--repeat", "1", "--contexts", "65",
             "--tokens", "3", "--error", "1", "--json"]
    env = dict(os.environ, PHASEC_CUDA=str(BUILD / "tests" / "libfake_cuda.so"), PHASEC_CACHE_DIR=cache)
    return subprocess.run(list(map(str, words)), env=env, capture_output=True, text=True)


def main():
    probe = subprocess.run(["python3", "-c", "import torch"], capture_output=True, text=True)
    if probe.returncode:
        print("skipped: python3 has no torch: " + probe.stderr.strip().splitlines()[-1])
        return 77
    failures = 0
    with tempfile.TemporaryDirectory(prefix="phasec-peers-") as cache:
        for layer in LAYERS:
            done = bench(layer, cache)
            if done.returncode == 5:
                print("skipped: " + done.stderr.strip().splitlines()[-1])
                return 77
            error = json.loads(done.stdout)["error"]  # the fake GPU computes nothing, so the kernel's own error is no matter
            good = not error["problem"] and all(r["torch_fp64"] < ROUNDING < r["torch"] for r in error["rows"])
            failures += not good
            print("ok  " if good else "FAIL", layer, error["problem"] or error["rows"])
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
