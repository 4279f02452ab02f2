"""test_source.py: the folders form the strict DAG of the architecture, and the words that belong to one file stay there.

The rules are first shown to find what they are for (SEEDED), then run over the repository."""
import pathlib
import subprocess
import sys

import rules
import source

TOP_LEVEL = {"CMakeLists.txt", "LICENSE", "README.md", "compiler", "templates", "runtime", "cache", "ir", "tests", "examples"}

# path, text, and a part of the finding that must come (None: there must be no finding)
SEEDED = [
    ("ir/a.cpp", '#include "compiler/plan.h"\n', "ir/ must not include compiler/"),
    ("ir/b.cpp", '#include "ir/layer.h"\n#include <phasec/status.h>\n#include "llvm/ADT/StringRef.h"\n', "write \"phasec/status.h\""),
    ("ir/c.cpp", '#include "ir/layer.h"\n#include "phasec/status.h"\n#include <llvm/ADT/StringRef.h>\n', None),
    ("cache/a.cpp", '#include "compiler/plan.h"\n', "cache/ must not include compiler/"),
    ("cache/b.cpp", '#include <sqlite3.h>\n#include "phasec/status.h"\n', None),
    ("compiler/a.cpp", '#include <sqlite3.h>\n', "must not include SQLite"),
    ("compiler/b.cpp", '  #  include "phasec/cache.h"\n', "compiler/ must not include cache/"),
    ("compiler/c.cpp", '#include "runtime/device.h"\n', "compiler/ must not include runtime/"),
    ("compiler/d.cpp", '// #include "runtime/device.h"\nconst char *s = "getenv(";\nint separator = 1\'000; // asm\n', None),
    ("compiler/e.cpp", '#include "no_such.h"\n', "no file of this repository"),
    ("runtime/a.cpp", '#include <nvrtc.h>\n', "must not include the CUDA toolkit"),
    ("runtime/b.cpp", '#include "tests/reference/reference.h"\n', "runtime/ must not include tests/reference/"),
    ("runtime/cli/a.cpp", '#include "tests/reference/reference.h"\n#include <llvm/Support/CommandLine.h>\n', None),
    ("runtime/cli/b.cpp", '#include "runtime/cli/cli.h"\n', None),
    ("runtime/h.cpp", '#include "runtime/cli/cli.h"\n', "runtime/ must not include runtime/cli/"),
    ("runtime/c.cpp", '#include <llvm/Support/CommandLine.h>\n', "must not include llvm::cl"),
    ("runtime/d.cpp", 'auto v = std::getenv("HOME");\n', "getenv"),
    ("runtime/options.cpp", 'auto v = getenv("HOME");\n', None),
    ("runtime/e.cpp", 'void f() { asm volatile("nop"); }\n', "inline assembly"),
    ("runtime/sim/fiber.cpp", 'void f() { asm volatile("nop"); }\n', None),
    ("runtime/f.cpp", 'void f() { printf("x"); }\n', "printing"),
    ("runtime/g.cpp", 'void f(char *b) { snprintf(b, 4, "x"); }\n', None),
    ("cache/c.cpp", 'void f() { std::abort(); }\n', "exit or abort"),
    ("ir/d.cpp", 'void f() { throw 1; }\n', "exceptions"),
    ("templates/a.cuh", '#include <cuda_fp8.h>\n', "no system includes"),
    ("templates/phases/b.cuh", '#include "base.cuh"\n', None),
    ("templates/c.cuh", 'PHASEC_DEVICE void f() { asm volatile("nop;"); }\n', "inline assembly"),
    ("tests/reference/a.cpp", '#include "ir/layer.h"\n', "tests/reference/ must not include ir/"),
    ("tests/reference/b.cpp", '#include "reference.h"\n#include <cmath>\n', None),
    ("ir/include/phasec/a.h", '#include "ir/layer.h"\n', "only include public headers"),
    ("ir/include/phasec/b.h", 'struct S { sqlite3 *db; };\n', "must not show sqlite3"),
    ("ir/include/phasec/c.h", '#include "phasec/status.h"\n// llvm::StringRef is not shown\n', None),
    ("ir/include/phasec/d.h", 'namespace phasec {\nint f();\n}\n', "visibility push"),
    ("runtime/include/phasec/e.h", '#pragma GCC visibility push(default)\nnamespace phasec {\nint cudaProblem();\n}\n'
                                   '#pragma GCC visibility pop\n', None),
    ("runtime/include/phasec/f.h", 'void launch(cudaStream_t stream);\n', "must not show cudaStream_t"),
    ("ir/long.cpp", "\n" * 501, "501 lines"),
]
EXISTING = {path: "" for path in ["ir/layer.h", "ir/include/phasec/status.h", "compiler/plan.h", "runtime/device.h",
                                  "cache/include/phasec/cache.h", "tests/reference/reference.h", "runtime/cli/cli.h",
                                  "templates/base.cuh"]}


def selfTest():
    failures = []
    for path, text, expected in SEEDED:
        found = [f for f in rules.check_tree({**EXISTING, path: text}) if f.startswith(path)]
        if expected is None and found:
            failures.append(f"rule too strict: {found} in {text!r}")
        if expected is not None and not any(expected in f for f in found):
            failures.append(f"rule blind: {path} {text!r} must give '{expected}', gave {found}")
    return failures


def topLevel(root):
    """The entries git would have; without git, everything but build directories."""
    git = subprocess.run(["git", "-C", root, "ls-files", "--cached", "--others", "--exclude-standard"],
                         capture_output=True, text=True)
    if git.returncode == 0:
        names = {line.split("/")[0] for line in git.stdout.splitlines()}
    else:
        names = {p.name for p in pathlib.Path(root).iterdir() if not p.name.startswith(("build", "install"))}
    return sorted(f"{name}: not one of the top level's entries; it belongs inside a folder"
                  for name in names if name not in TOP_LEVEL and not name.startswith("."))


def main():
    root = sys.argv[2]
    tree = dict(source.files(root))
    findings = selfTest() + topLevel(root) + list(rules.check_tree(tree))
    print(f"{len(tree)} files read")
    for finding in findings:
        print(finding)
    if len(tree) < 20:
        print(f"only {len(tree)} files below {root}: this is not the repository")
        return 1
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
