"""test_bless_all_slow.py: all examples x 4 splits x 3 targets, twice: whole, and as two shards by another user from another
directory. The bytes must be the same. Then how two processes scale, where the machine is idle enough to say."""
import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile
import time

PHASEC, ROOT = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
LAYERS = sorted((ROOT / "examples" / "layers").glob("*.phase"))
TARGETS = "sm_90a,sm_100a,sm_120a"
NOBODY = 65534
SCALE_MIN = 1.6


def bless(*words, cwd="/", user=None):
    # NVRTC keeps a cache of its own where there is a driver; the second run shall compile like the first.
    env = dict(PATH=os.environ["PATH"], CUDA_CACHE_DISABLE="1", HOME="/nonexistent" if user else os.environ.get("HOME", "/"))
    for name in ("PHASEC_NVRTC", "LD_LIBRARY_PATH", "VIRTUAL_ENV"):
        if name in os.environ:
            env[name] = os.environ[name]
    begin = time.monotonic()
    command = [str(word) for word in (PHASEC, *words)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, user=user)
    if result.returncode == 5 and "NVRTC" in result.stderr:
        print("skipped: " + result.stderr.strip().splitlines()[-1])
        sys.exit(77)
    if result.returncode != 0:
        sys.exit(f"$ {' '.join(command)}\nexit status {result.returncode}\n{result.stdout}{result.stderr}")
    print(result.stdout.splitlines()[-1], flush=True)
    return time.monotonic() - begin


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def same_bytes(work):
    words = [*LAYERS, "--exact", "--set", "wo_split=1,2,4,8", "--target", TARGETS]
    bless("bless", *words, "--out", work / "whole.db", "--record", work / "ship.manifest")
    bless("bless", "--check", work / "ship.manifest", work / "whole.db")
    elsewhere = work / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    user = None
    if os.geteuid() == 0 and subprocess.run([PHASEC, "--version"], user=NOBODY, capture_output=True).returncode == 0:
        user = NOBODY
        os.chown(elsewhere, NOBODY, NOBODY)
    parts = [elsewhere / f"shard-{i}.db" for i in (1, 2)]
    for index, part in enumerate(parts, 1):
        bless("bless", *words, "--shard", f"{index}/2", "--out", part, cwd=elsewhere, user=user)
    bless("cache", "merge", *parts, "--out", work / "merged.db")
    if sha256(work / "whole.db") != sha256(work / "merged.db"):
        sys.exit("two runs of bless left different bytes; `phasec cache diff` says where")


def scaling(work):
    cpus = len(os.sched_getaffinity(0))
    if cpus < 2 or os.getloadavg()[0] > cpus / 4 + 2:
        print(f"scaling: not measured ({cpus} processors, load {os.getloadavg()[0]:.1f})")
        return
    layer = ROOT / "examples" / "layers" / "tiny_mlp_only.phase"
    words = ["bless", layer, "--exact", "--set", "tokens_max=1,2,3,4,5,6,7,8", "--target", "sm_90a", "--out", work / "scale.db"]
    one, two = bless(*words, "-j", "1"), bless(*words, "-j", "2")
    print(f"scaling: -j1 {one:.2f} s, -j2 {two:.2f} s: {one / two:.2f}x")
    if one / two < SCALE_MIN:
        sys.exit(f"-j2 scales {one / two:.2f}x, less than {SCALE_MIN}x")


def main():
    with tempfile.TemporaryDirectory(prefix="phasec-bless-all-") as folder:
        work = pathlib.Path(folder)
        work.chmod(0o755)
        scaling(work)
        same_bytes(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
