#!/usr/bin/env python3
"""Serves layers on the GPU from a blessed file that another machine made: argv: phasec, blessed file, layer file...
No HOME, no compiler, jit = off, an empty working folder. Every layer must be a hit in the blessed file, right, and leave the
file and the folder as they were. Exit 77: no GPU here."""

import concurrent.futures
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile

PHASEC, BLESSED = (pathlib.Path(word).resolve() for word in sys.argv[1:3])
LAYERS = [pathlib.Path(word).resolve() for word in sys.argv[3:]]
FOLDER = tempfile.mkdtemp(prefix="phasec-served-")
KEPT = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "PHASEC_CUDA") if name in os.environ}
ENV = dict(KEPT, PHASEC_BLESSED=str(BLESSED), PHASEC_JIT="off", PHASEC_NVRTC="/nonexistent/libnvrtc.so", LD_DEBUG="files")


def serve(layer):
    words = [str(PHASEC), "run", str(layer), "--device", "cuda", "--check", "--json"]
    return layer, subprocess.run(words, env=ENV, cwd=FOLDER, capture_output=True, text=True, timeout=300)


def main():
    before, failures = hashlib.sha256(BLESSED.read_bytes()).hexdigest(), 0
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for layer, done in pool.map(serve, LAYERS):
            if done.returncode == 4:
                print("skipped: no GPU here")
                return 77
            try:
                cache = json.loads(done.stdout)["cache"]
            except (ValueError, KeyError):
                cache = {"outcome": done.stderr.strip()[-200:]}
            nvrtc = any("libnvrtc" in line and "calling init" in line for line in done.stderr.splitlines())
            good = done.returncode == 0 and (cache["outcome"], cache.get("layer")) == ("hit", "blessed") and not nvrtc
            failures += not good
            print(f"{'ok  ' if good else 'FAIL'} {layer.stem:<24} {cache['outcome']} {cache.get('layer', '')}", flush=True)
    same = hashlib.sha256(BLESSED.read_bytes()).hexdigest() == before
    left = os.listdir(FOLDER)
    failures += not same or bool(left)
    print(f"\n{len(LAYERS)} layers, {failures} failures; blessed file {'unchanged' if same else 'CHANGED'}, "
          f"{'nothing' if not left else left} written")
    return 1 if failures or not LAYERS else 0


sys.exit(main())
