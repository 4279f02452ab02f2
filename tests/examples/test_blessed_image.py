"""test_blessed_image.py: bless -> check -> shards -> image. The bytes of a blessed file depend on nothing but what is blessed;
what it lacks, and what breaks a budget, is a finding; the image of examples/blessed_image serves without compiler and HOME."""
import hashlib
import json
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys
import tempfile

PHASEC, ROOT = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
EXAMPLE = ROOT / "examples" / "blessed_image"
LAYER = ROOT / "examples" / "layers" / "tiny_mlp_only.phase"
KERNELS = ["--exact", "--target", "sm_90a", "--set", "tokens_max=1,2"]
failures = []


def run(*command, code=0, cwd=None, env=None):
    """The finished process; a wrong exit status is a failure of the test."""
    command = [str(word) for word in command]
    result = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env)
    if result.returncode != code:
        sys.exit(f"$ {' '.join(command)}\nexit status {result.returncode}, expected {code}\n{result.stdout}{result.stderr}")
    return result


def expect(condition, what):
    if not condition:
        failures.append(what)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def need_nvrtc():
    doctor = subprocess.run([PHASEC, "render", LAYER, "--emit=resources", "--exact", "--set", "tokens_max=1", "--target", "sm_90a", "-o", os.devnull],
                            capture_output=True, text=True)
    if doctor.returncode == 5:
        print("skipped: " + doctor.stderr.strip())
        sys.exit(77)


def same_bytes(work):
    """Two builds of one manifest, by one and by two processes, from two directories, with another HOME."""
    (work / "a").mkdir()
    shutil.copy(LAYER, work / "a" / "mlp.phase")
    first = run(PHASEC, "bless", "mlp.phase", *KERNELS, "-j", "1", "--out", "one.db", "--record", "ship.manifest", cwd=work / "a")
    for step in ("[1/2] sm_90a ", "[2/2] sm_90a "):
        expect(step in first.stderr, f"no progress line {step!r}: {first.stderr}")
    expect("@tiny_mlp_only" in first.stdout and " 2 kernels in " in first.stdout, "no coverage table: " + first.stdout)
    shutil.copytree(work / "a", work / "elsewhere", ignore=shutil.ignore_patterns("*.db*"))
    env = dict(os.environ, HOME="/nonexistent", PHASEC_CACHE_DIR=str(work / "unused"), PHASEC_WO_SPLIT="", PHASEC_JIT="off", TZ="Asia/Tokyo")
    report = json.loads(run(PHASEC, "bless", work / "elsewhere" / "ship.manifest", "-j2", "--json", "--out", work / "two.db", cwd="/", env=env).stdout)
    expect(sha256(work / "a" / "one.db") == sha256(work / "two.db"), "two bless runs differ")
    expect(report["sha256"] == sha256(work / "two.db"), "--json has another digest")
    expect((work / "two.db.sha256").read_text().split()[0] == report["sha256"], "the sidecar has another digest")
    expect(not (work / "unused").exists(), "bless made a user cache")
    expect([k["registers"] > 0 and k["shared_bytes"] > 0 for k in report["kernels"]] == [True, True], "no resources in --json")
    lines = (work / "a" / "ship.manifest").read_text().splitlines()
    expect(len(lines) == 3 and all(" key=0," in line for line in lines[1:]), f"unexpected manifest: {lines}")
    return work / "a" / "ship.manifest", work / "a" / "one.db", report


def shards(work, manifest, whole):
    """The array job with its index set by hand; merged in the wrong order."""
    script = EXAMPLE / "slurm_bless.sh"
    for index in ("1", "2"):
        env = dict(os.environ, BINARY=str(PHASEC), SLURM_ARRAY_TASK_ID=index, SLURM_ARRAY_TASK_COUNT="2", SLURM_CPUS_PER_TASK="1")
        run("bash", script, manifest, work / "shards", env=env)
    parts = [work / "shards" / f"shard-{i}.db" for i in (2, 1)]
    run("bash", script, "--merge", work / "shards", work / "merged.db", env=dict(os.environ, BINARY=str(PHASEC)))
    run(PHASEC, "cache", "merge", *parts, "--out", work / "backwards.db")
    for merged in (work / "merged.db", work / "backwards.db"):
        expect(sha256(merged) == sha256(whole), f"{merged.name} is not the whole")
    run(PHASEC, "cache", "diff", whole, work / "merged.db")
    expect("1 removed" in run(PHASEC, "cache", "diff", whole, parts[0], code=3).stdout, "cache diff misses the missing kernel")

    missing = run(PHASEC, "bless", "--check", manifest, parts[0], code=3).stdout
    expect(missing.count("missing: ") == 1, "--check does not name one missing line: " + missing)
    damaged = bytearray(parts[0].read_bytes())
    damaged[len(damaged) // 2] ^= 1
    parts[0].write_bytes(damaged)
    refused = run(PHASEC, "cache", "merge", *parts, "--out", work / "never.db", code=3)
    expect("shard-2.db" in refused.stderr and not (work / "never.db").exists(), "a damaged shard was merged")


def kubernetes(work, manifest, whole):
    """The command of the README's indexed job, with its index set by hand and the image's paths put here."""
    readme = (EXAMPLE / "README.md").read_text()
    job = readme[readme.index("kind: Job"):]
    shards_count = int(re.search(r"completions: (\d+)", job).group(1))
    command = " ".join(job[job.index("- >") + 3:job.index("volumeMounts")].split())
    ship = work / "ship"
    ship.mkdir()
    for name in ("ship.manifest", "mlp.phase"):
        shutil.copy(manifest.parent / name, ship)
    for image_path, here in (("/opt/phasec/bin/phasec", PHASEC), ("/src/", f"{ROOT}/"), ("/ship/", f"{ship}/")):
        expect(image_path in command, f"the job does not name {image_path}: {command}")
        command = re.sub(rf"(?<=[ =]){image_path}", str(here), command)
    for index in range(shards_count):
        run("bash", "-c", command, env=dict(os.environ, JOB_COMPLETION_INDEX=str(index)))
    parts = sorted((ship / "shards").glob("shard-*.db"))
    expect(len(parts) == shards_count, f"{len(parts)} shards of {shards_count}")
    run("bash", EXAMPLE / "slurm_bless.sh", "--merge", ship / "shards", ship / "blessed.db", env=dict(os.environ, BINARY=str(PHASEC)))
    expect(sha256(ship / "blessed.db") == sha256(whole), "the shards of the Kubernetes job are not the whole")


def dockerfile():
    """No daemon runs it here, so what can be read off it: files that it copies and runs, libraries that the binary needs."""
    text = (EXAMPLE / "Dockerfile").read_text()
    first, second = text.split("FROM debian:12-slim")
    for path in re.findall(r"examples/[\w/.]+", first):
        expect((ROOT / path).exists(), f"the Dockerfile names {path}")
    flags = re.findall(r" (--[a-z-]+)", first[first.index("blessed_image.sh"):])
    usage = run("bash", EXAMPLE / "blessed_image.sh", "--help").stdout
    for flag in flags:
        expect(flag in usage, f"blessed_image.sh has no {flag}")
    libraries = re.findall(r"=> (/\S+)", run("ldd", PHASEC).stdout)
    for library in libraries if shutil.which("dpkg") else []:
        owner = subprocess.run(["dpkg", "-S", os.path.realpath(library)], capture_output=True, text=True).stdout.split(":")[0]
        known = owner in ("", "libc6", "libgcc-s1") or re.sub(r"t64$", "", owner) in second.split()
        expect(known, f"the image lacks {owner}, which {library} is from")


def findings(work, manifest, whole, report):
    run(PHASEC, "bless", "--check", manifest, whole)
    most = lambda field: max(kernel[field] for kernel in report["kernels"])  # whatever their order, which is the keys'
    budgets = {"--registers-max": most("registers"), "--shared-max": most("shared_bytes"), "--spill-max": most("spill_bytes")}
    flags = [word for flag, value in budgets.items() for word in (flag, value + 64)]
    run(PHASEC, "bless", "--check", manifest, whole, *flags)
    broken = run(PHASEC, "bless", LAYER, *KERNELS[:3], "--set", "tokens_max=1", "--registers-max", "8", "--out", work / "no.db", code=3)
    expect("registers per thread; the budget is 8" in broken.stdout and "@tiny_mlp_only sm_90a" in broken.stdout, "no name: " + broken.stdout)
    expect(not (work / "no.db").exists(), "a file that breaks a budget was written")

    copy = work / "changed"
    copy.mkdir()
    shutil.copy(manifest, copy / "ship.manifest")
    (copy / "mlp.phase").write_text("// a comment\n" + LAYER.read_text())
    run(PHASEC, "bless", "--check", copy / "ship.manifest", whole)  # a comment is no change
    (copy / "mlp.phase").write_text(LAYER.read_text().replace("1e-6", "1e-5"))
    changed = run(PHASEC, "bless", copy / "ship.manifest", "--out", work / "no.db", code=3)
    expect("is not the layer that was recorded" in changed.stdout, "a changed layer was blessed: " + changed.stdout)
    text = manifest.read_text()
    (copy / "mlp.phase").write_text(LAYER.read_text())
    (copy / "ship.manifest").write_text(text.replace("key=0,", "key=0,f")[: text.index("key=0,") + 6] + "0" * 32 + "\n")
    stale = run(PHASEC, "bless", copy / "ship.manifest", "--out", work / "no.db", code=3)
    expect("--rekey" in stale.stdout, "a stale key was blessed: " + stale.stdout)
    run(PHASEC, "bless", copy / "ship.manifest", "--shard", "3/2", "--out", work / "no.db", code=2)
    run(PHASEC, "bless", LAYER, "--target", "sm_91", "--out", work / "no.db", code=2)


def refusal_names_the_line(work, whole):
    """jit = off: the refused miss holds a manifest line, and that line blesses what was refused."""
    env = dict(PATH="/nonexistent", PHASEC_JIT="off", PHASEC_BLESSED=str(whole), PHASEC_NVRTC="/nonexistent/libnvrtc.so")
    refused = run(PHASEC, "inspect", LAYER, "--device", "none", "--exact", "--target", "sm_90a", "--set", "tokens_max=3", env=env, code=3).stderr
    line = next(row.strip() for row in refused.splitlines() if " ir=" in row)
    (work / "missing.manifest").write_text(line + "\n")
    check = run(PHASEC, "bless", "--check", work / "missing.manifest", whole, code=3).stdout
    expect("missing: " + line.split(" ir=")[0] in check and line.split("key=")[1] in check, "the line means another kernel: " + check)


def image(work):
    output = run("bash", EXAMPLE / "blessed_image.sh", "--phasec", PHASEC, "--exact", "--set", "tokens_max=1", "--packers", work / "out").stdout
    expect("blessed.db has all 1 kernels and 2 packers" in output, "the image has no packers: " + output)
    served = work / "out" / "image"
    expect(": hit (blessed, " in output, "the image did not serve: " + output)
    # As somebody who may not write there even as the superuser: the folder must not have changed.
    before = sorted((str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in served.rglob("*"))
    for path in [served, *served.rglob("*")]:
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    env = dict(PATH="/nonexistent", PHASEC_JIT="off", PHASEC_NVRTC="/nonexistent/libnvrtc.so", PHASEC_BLESSED=str(served / "blessed" / "blessed.db"))
    flags = ["--device", "none", "--exact", "--target", "sm_90a"]
    layer = served / "blessed" / "layers" / LAYER.name
    found = json.loads(run(served / "bin" / "phasec", "inspect", layer, *flags, "--set", "tokens_max=1", "--json", cwd="/", env=env).stdout)
    expect(found["origin"].startswith("blessed, "), f"served from {found['origin']}")
    expect(sorted((str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in served.rglob("*")) == before, "serving wrote into the image")
    run(served / "bin" / "phasec", "inspect", layer, *flags, "--set", "tokens_max=8", cwd="/", env=env, code=3)
    for path in [served, *served.rglob("*")]:
        path.chmod(path.stat().st_mode | stat.S_IWUSR)


def packers(work):
    """What packs weights on the device is blessed when asked for, held to the budgets, and missed when it is not there."""
    kernels = ["--exact", "--target", "sm_90a", "--set", "tokens_max=1,2"]
    for name in ("packed", "again"):
        made = run(PHASEC, "bless", LAYER, *kernels, "--packers", "--out", work / f"{name}.db").stdout
        expect(" 2 kernels and 2 packers in " in made, "not the packers of fc1 and fc2, each once: " + made)
    expect(sha256(work / "packed.db") == sha256(work / "again.db"), "packers make a file irreproducible")
    for shard in ("1", "2"):
        run(PHASEC, "bless", LAYER, *kernels, "--packers", "--shard", f"{shard}/2", "--out", work / f"part{shard}.db")
    run(PHASEC, "cache", "merge", work / "part2.db", work / "part1.db", "--out", work / "parts.db")
    expect(sha256(work / "parts.db") == sha256(work / "packed.db"), "shards with packers are not the whole")
    check = ["bless", "--check", LAYER, *kernels, "--packers"]
    expect(json.loads(run(PHASEC, *check, "--json", work / "packed.db").stdout)["packers"] == 2, "packers are there and not found")
    run(PHASEC, "bless", LAYER, *kernels, "--out", work / "bare.db")
    missed = run(PHASEC, *check, work / "bare.db", code=3).stdout
    expect(missed.count("missing: packers of ") == 1 and missed.count("no cache layer has @pack_") == 2, "missing packers are not named, each once: " + missed)
    run(PHASEC, "bless", "--check", LAYER, *kernels, work / "bare.db")
    for budget, most in (("--registers-max", "1"), ("--shared-max", "100")):
        built = run(PHASEC, "bless", LAYER, *kernels, "--packers", budget, most, "--out", work / "over.db", code=3).stdout
        for over in (built, run(PHASEC, *check, budget, most, work / "packed.db", code=3).stdout):
            expect(len(re.findall("FAILED: pack_.* sm_90a ", over)) == 2 and "FAILED: @tiny_mlp_only" in over, f"packers are not held to {budget}: " + over)
    expect(not (work / "over.db").exists(), "a file over its budget was written")


def main():
    need_nvrtc()
    with tempfile.TemporaryDirectory(prefix="phasec-image-") as folder:
        work = pathlib.Path(folder)
        manifest, whole, report = same_bytes(work)
        shards(work, manifest, whole)
        kubernetes(work, manifest, whole)
        dockerfile()
        findings(work, manifest, whole, report)
        refusal_names_the_line(work, whole)
        packers(work)
        image(work)
    for failure in failures:
        print("FAILED: " + failure)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
