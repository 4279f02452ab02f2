#!/usr/bin/env python3
"""Runs layers on the GPU through the command line: bit-exact against the reference, equal to the sim, the same bytes at
every launch, clean under compute-sanitizer. argv: phasec, source directory, ... Exit 77: no GPU here.

PHASEC_TESTS_ALL=1 adds the full-size layers: splits x contexts {1, 65, 4096} x tokens {1, 8}. PHASEC_TESTS_PARTS names the
parts to run instead, separated by commas: tiny, fast, repeated, second_process, sanitized, full."""

import concurrent.futures
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

PHASEC, SOURCE = sys.argv[1], pathlib.Path(sys.argv[2])
LAYERS = SOURCE / "examples" / "layers"
ALL = os.environ.get("PHASEC_TESTS_ALL") == "1"
ENV = dict(os.environ, PHASEC_CACHE_DIR=tempfile.mkdtemp(prefix="phasec-gpu-"))
rows, failures = [], 0


def command(*words, timeout=300):
    return subprocess.run([PHASEC, *map(str, words)], env=ENV, capture_output=True, text=True, timeout=timeout)


def run(layer, split, contexts, tokens, device="cuda", *more, math="exact"):
    words = ["run", LAYERS / f"{layer}.phase", "--device", device, "--set", f"math={math}", "--check", "--json", "--tokens", tokens,
             "--contexts", contexts, *more]
    if split:
        words += ["--set", f"wo_split={split}"]
    start = time.time()
    done = command(*words)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        report = {"check": {"bit_exact": False, "max_abs": None}, "error": done.stderr.strip()[:300]}
    report["seconds"] = time.time() - start
    return report


def note(name, good, text):
    global failures
    failures += not good
    rows.append(f"{'ok  ' if good else 'FAIL'} {name:<58} {text}")
    print(rows[-1], flush=True)


def exact(name, report):
    check = report["check"]
    good = check["bit_exact"] is True and check["max_abs"] == 0
    cache, times = report.get("cache", {}), report.get("time_us", {})
    note(name, good, report.get("error") or f"max_abs {check['max_abs']}, {cache.get('outcome')}, "
         f"launch {times.get('launch_median') or 0:.0f} us, {report['seconds']:.1f} s")


def bounded(name, report):
    check, findings = report["check"], report["check"].get("findings")
    note(name, findings == [], report.get("error") or f"rel_l2 {check['rel_l2']:.2g} of {check['rel_l2_bound']:.2g} {' '.join(findings or [])[:120]}")


def splits(layer):
    if "only" in layer:
        return [0]
    return [1, 2, 4, 8] if "seed" in layer or "harness" in layer else [1, 2, 4, 8, 16]


def tiny():
    def layer(path):
        digests = [r.get("outputs", [{}])[0].get("digest") for r in
                   (run(path.stem, splits(path.stem)[-1], "1,63,65", 3, d) for d in ("cuda", "sim"))]
        return [(split, run(path.stem, split, "64,300", 8)) for split in splits(path.stem)], digests

    paths = sorted(LAYERS.glob("tiny_*.phase"))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for path, (reports, digests) in zip(paths, pool.map(layer, paths)):
            for split, report in reports:
                exact(f"{path.stem} split {split or '-'} tokens 8", report)
            if shutil.which("c++") or shutil.which("g++"):
                note(f"{path.stem}: sim and cuda give the same bytes", digests[0] is not None and digests[0] == digests[1],
                     str(digests[0])[:16])


def fast():
    """One token, some, and hard inputs; sums that are added as they come."""
    jobs = [(path.stem, t, more) for path in sorted(LAYERS.glob("tiny_*.phase"))
            for t, more in ((1, ["--set", "tokens_max=1"]), (4, ["--set", "tokens_max=4"]), (8, ["--outliers"]))]
    jobs += [("tiny_qwen35_27b", 8, ["--set", "reduce=atomic", "--set", "wo_split=4"])]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        reports = pool.map(lambda j: run(j[0], None, "64,300" if j[1] > 1 else "300", j[1], "cuda", *j[2], math="fast"), jobs)
        for (layer, tokens, more), report in zip(jobs, reports):
            bounded(f"{layer} fast tokens {tokens} {more[-1]}", report)


def full():
    jobs = []
    for layer in ("wo_harness", "qwen35_27b", "llama31_8b", "llama32_1b_layer", "qwen3_8b", "qwen35_27b_seed", "attn_only", "mlp_only"):
        contexts = (1,) if layer in ("wo_harness", "mlp_only") else (1, 65, 4096)
        jobs += [(layer, s, c, t) for s in splits(layer) for c in contexts for t in (1, 8)]
    jobs += [("llama32_1b", 1, 65, t) for t in (1, 8)]  # a whole step: 16 layers and the ends of the model
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for job, report in zip(jobs, pool.map(lambda j: run(*j), jobs)):
            exact(f"{job[0]} split {job[1] or '-'} context {job[2]} tokens {job[3]}", report)


def repeated():
    report = run("tiny_qwen35_27b", 4, "64,300", 8, "cuda", "--repeat", 10000)
    exact("tiny_qwen35_27b: 10,000 launches alike", report)
    bounded("tiny_qwen35_27b fast: 10,000 launches alike", run("tiny_qwen35_27b", 4, "64,300", 8, "cuda", "--repeat", 10000, math="fast"))
    for math, judge in (("exact", exact), ("fast", bounded)): # every CTA stands still before every call, each time for another while
        for most in (4, 8):
            report = run("tiny_qwen35_27b", 4, "64,300", 4, "cuda", "--repeat", 1000, "--set", "delay=20", "--set", f"tokens_max={most}", math=math)
            judge(f"tiny_qwen35_27b {math} to {most} tokens: 1,000 launches with delays alike", report)


def second_process():
    words = ["run", LAYERS / "tiny_wo_harness.phase", "--device", "cuda", "--exact", "--json"]
    command(*words)
    strace = subprocess.run([PHASEC, *map(str, words)], env=dict(ENV, LD_DEBUG="files"), capture_output=True, text=True)
    opened = "libnvrtc" in strace.stderr
    outcome = json.loads(strace.stdout)["cache"]["outcome"]
    note("second process: a hit that maps no libnvrtc", outcome == "hit" and not opened, f"{outcome}, libnvrtc {'mapped' if opened else 'not mapped'}")


MORE = {"racecheck": ["--racecheck-report", "hazard"],
        "synccheck": ["--num-cuda-barriers", "8192"]}  # every stage of every CTA has one; the tool follows fewer by itself


def sanitized():
    tool = shutil.which("compute-sanitizer")
    if not tool:
        print("skip compute-sanitizer: not installed")
        return

    def check(job):
        layer, kind, math = job
        words = [tool, "--tool", kind, "--error-exitcode", "9", *MORE.get(kind, []), PHASEC, "run", str(LAYERS / f"{layer}.phase"),
                 "--device", "cuda", "--set", f"math={math}", "--check", "--tokens", "3", "--contexts", "1,65"]
        try:
            done = subprocess.run(words, env=ENV, capture_output=True, text=True, timeout=200)
        except subprocess.TimeoutExpired:
            return False, "timed out after 200 s"
        last = [line for line in done.stdout.splitlines() if "SUMMARY" in line]
        return done.returncode == 0, last[-1].strip("= ") if last else done.stderr[-200:]

    jobs = [(layer, kind, math) for layer in ("tiny_qwen35_27b", "tiny_qwen3_8b", "tiny_wo_harness")
            for kind in ("memcheck", "racecheck", "synccheck") for math in ("exact", "fast")]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for (layer, kind, math), (good, text) in zip(jobs, pool.map(check, jobs)):
            note(f"compute-sanitizer {kind} {layer} {math}", good, text)


def main():
    probe = command("run", LAYERS / "tiny_wo_harness.phase", "--device", "cuda", "--exact", "--json")
    if probe.returncode == 4:
        print("skipped: " + probe.stderr.strip().splitlines()[-1])
        return 77
    parts = [tiny, fast, repeated, second_process, sanitized] + [full] * ALL
    if chosen := os.environ.get("PHASEC_TESTS_PARTS"):
        parts = [globals()[name] for name in chosen.split(",")]
    for part in parts:
        part()
    print(f"\n{len(rows)} checks, {failures} failed")
    return 1 if failures else 0


sys.exit(main())
