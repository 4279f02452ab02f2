"""test_headers.py: each public header compiles alone, warning-free, and draws in no third party.

The include path holds the public headers and the system's own. SQLite and xxHash live in the system's directory, so the
list of files that the compiler really read is checked as well."""
import pathlib
import re
import subprocess
import sys
import tempfile

FOREIGN = re.compile(r"/(llvm|llvm-c|sqlite3|sqlite3ext|xxhash|xxh3|cuda|nvrtc|doctest)[^/]*(/|\.h\b)")


def stage(root, to):
    """Copies the public headers as an install would, so that a header cannot reach its folder's private files."""
    headers = []
    for path in sorted(pathlib.Path(root).glob("*/include/phasec/*.h")):
        target = to / "phasec" / path.name
        if target.exists():
            raise SystemExit(f"two public headers are named {path.name}")
        target.parent.mkdir(exist_ok=True)
        target.write_text(path.read_text())
        headers.append(path)
    return headers


def check(compiler, language, standard, text, include):
    """None, or what is wrong with a one-line program."""
    run = subprocess.run([compiler, "-x", language, f"-std={standard}", "-Wall", "-Wextra", "-Wpedantic", "-Werror",
                          "-fsyntax-only", "-H", "-I", str(include), "-"], input=text, capture_output=True, text=True)
    if run.returncode != 0:
        return run.stderr
    read = [line.lstrip(". ") for line in run.stderr.splitlines() if line.startswith(".")]
    foreign = [path for path in read if FOREIGN.search(path)]
    return f"draws in {foreign[:3]}" if foreign else None


def main():
    root, compiler = sys.argv[2], sys.argv[4]
    with tempfile.TemporaryDirectory() as scratch:
        include = pathlib.Path(scratch)
        headers = stage(root, include)
        failures = []
        for path in headers:
            line = f"#include <phasec/{path.name}>\n"
            cases = [("c++", "c++20", line + line)]  # twice: guarded
            if path.name == "phasec.h":
                cases.append(("c", "c11", line + line))
            for language, standard, text in cases:
                problem = check(compiler, language, standard, text, include)
                print(f"{'FAIL' if problem else 'ok  '} {path.relative_to(root)} as {standard}")
                if problem:
                    failures.append(problem)
        # The check must be able to fail.
        (include / "phasec" / "seeded.h").write_text("#pragma once\nstd::string s;\n")
        if check(compiler, "c++", "c++20", "#include <phasec/seeded.h>\n", include) is None:
            failures.append("a header that needs <string> and does not include it was accepted")
        (include / "phasec" / "seeded.h").write_text("#pragma once\n#include <sqlite3.h>\n")
        if check(compiler, "c++", "c++20", "#include <phasec/seeded.h>\n", include) is None:
            failures.append("a header that includes SQLite was accepted")
    for failure in failures:
        print(failure)
    return 1 if failures or not headers else 0


if __name__ == "__main__":
    sys.exit(main())
