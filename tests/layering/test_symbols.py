"""test_symbols.py: libphasec.so shows phasec's own names and nothing else: hosts bring their own LLVM and SQLite."""
import pathlib
import subprocess
import sys

OURS = ("phasec::", "phasec_", "vtable for phasec::", "typeinfo for phasec::", "typeinfo name for phasec::")


def main():
    library = pathlib.Path(sys.argv[3]) / "libphasec.so"
    nm = subprocess.run(["nm", "-D", "-C", "--defined-only", str(library)], capture_output=True, text=True, check=True)
    names = [line.split(" ", 2)[2] for line in nm.stdout.splitlines()]
    foreign = [name for name in names if not name.startswith(OURS)]
    own = len(names) - len(foreign)
    print(f"{own} exported symbols, {len(foreign)} foreign")
    for name in foreign[:20]:
        print("foreign:", name)
    if own == 0:
        print("nothing is exported: the public headers' functions must be")
    # LLVM is inside: a library that needs libLLVM at run time would clash with the host's.
    needed = subprocess.run(["readelf", "-d", str(library)], capture_output=True, text=True, check=True).stdout
    bad = [line for line in needed.splitlines() if "NEEDED" in line and any(w in line for w in ("LLVM", "cuda", "nvrtc", "z3"))]
    for line in bad:
        print("needs:", line.strip())
    return 1 if foreign or own == 0 or bad else 0


if __name__ == "__main__":
    sys.exit(main())
