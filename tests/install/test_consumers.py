"""test_consumers.py: installs into the build directory, then builds and runs a consumer twice: through find_package and
through pkg-config; and examples/embed, which runs a kernel. The install tree is moved before use, because packages and
wheels are."""
import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent


def run(command, **more):
    print("+", " ".join(map(str, command)), flush=True)
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, **more)
    if result.returncode != 0:
        raise SystemExit(f"{result.stdout}{result.stderr}\nexit status {result.returncode}")
    return result.stdout


def expect(output):
    if output.strip() != "phasec consumer: wo_split=8":
        raise SystemExit(f"the consumer printed {output!r}")


def libdir(prefix):
    return next(prefix.rglob("libphasec.so")).parent


def embed(root, work, prefix, compiler):
    """The README's host program: the first run compiles, the second one hits the cache of the first."""
    text = (root / "examples" / "embed" / "main.cpp").read_text()
    if text[text.index("Status run("):text.index("int main(")].strip() not in (root / "README.md").read_text():
        raise SystemExit("the README quotes another examples/embed/main.cpp")
    run(["cmake", "-S", root / "examples" / "embed", "-B", work / "embed", f"-DCMAKE_PREFIX_PATH={prefix}",
         f"-DCMAKE_CXX_COMPILER={compiler}", f"-DCMAKE_CXX_FLAGS={os.environ.get('CONSUMER_FLAGS', '')}"])
    run(["cmake", "--build", work / "embed"])
    program = [work / "embed" / "embed", root / "examples" / "layers" / "tiny_wo_harness.phase", work / "embed-cache"]
    for expected in ("compiled", "hit"):
        print("+", " ".join(map(str, program)), flush=True)
        result = subprocess.run(list(map(str, program)), capture_output=True, text=True)
        if result.returncode == 5 and "simulating" not in result.stderr:
            print("a GPU without NVRTC: the example's launch is skipped:", result.stderr.strip())
            return
        if result.returncode != 0 or f", {expected}, " not in result.stdout or not result.stdout.endswith(": h = 105\n"):
            raise SystemExit(f"expected '{expected}' and h = 105\n{result.stdout}{result.stderr}\nexit status {result.returncode}")


def main():
    root = pathlib.Path(sys.argv[2])
    build, compiler = pathlib.Path(sys.argv[3]), sys.argv[4]
    work = build / "tests" / "install"
    shutil.rmtree(work, ignore_errors=True)
    run(["cmake", "--install", build, "--prefix", work / "staged"])
    prefix = work / "moved here"  # a space, too
    (work / "staged").rename(prefix)

    # find_package(phasec CONFIG) -> phasec::phasec
    run(["cmake", "-S", HERE / "consumer", "-B", work / "consumer", f"-DCMAKE_PREFIX_PATH={prefix}",
         f"-DCMAKE_CXX_COMPILER={compiler}", f"-DCMAKE_CXX_FLAGS={os.environ.get('CONSUMER_FLAGS', '')}"])
    run(["cmake", "--build", work / "consumer"])
    expect(run([work / "consumer" / "consumer"]))
    embed(root, work, prefix, compiler)

    # pkg-config
    if not shutil.which("pkg-config"):
        print("pkg-config is not on this machine: that half is skipped")
        return 0
    library = libdir(prefix)
    environment = {**os.environ, "PKG_CONFIG_PATH": str(library / "pkgconfig")}
    flags = run(["pkg-config", "--cflags", "--libs", "phasec"], env=environment)
    # pkg-config escapes blanks with a backslash, as a shell wants them.
    import shlex
    run([compiler, "-std=c++20", HERE / "consumer" / "consumer.cpp", "-o", work / "pc_consumer", *shlex.split(flags)])
    expect(run([work / "pc_consumer"], env={**os.environ, "LD_LIBRARY_PATH": str(library)}))
    version = run(["pkg-config", "--modversion", "phasec"], env=environment).strip()
    print("installed version", version)
    return 0


if __name__ == "__main__":
    sys.exit(main())
