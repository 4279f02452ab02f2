"""rules.py: the house rules that can be read off the source text. Each rule is a function (path, text) -> findings."""
import posixpath
import re

import source

# Who may include whom. `tests/reference` is a folder of its own: it checks the others, so it must not lean on them.
MAY_INCLUDE = {
    "ir": {"ir"},
    "templates": {"templates"},
    "compiler": {"ir", "templates", "compiler"},
    "cache": {"ir", "cache"},
    "runtime": {"ir", "templates", "compiler", "cache", "runtime"},
    "runtime/cli": {"ir", "templates", "compiler", "cache", "runtime", "runtime/cli", "tests/reference"},
    "tests/reference": {"tests/reference"},
    "tests": {"ir", "templates", "compiler", "cache", "runtime", "tests", "tests/reference", "runtime/cli"},
    "examples": {"runtime"},
}

# Third parties, by how their headers are named, and the folders that may see them.
THIRD_PARTIES = [
    (re.compile(r"^llvm/Support/CommandLine\.h$"), "llvm::cl", {"runtime/cli"}),
    (re.compile(r"^(llvm|llvm-c)/"), "LLVM", 
     {"ir", "compiler", "cache", "runtime", "runtime/cli", "tests"}),
    (re.compile(r"^sqlite3(ext)?\.h$"), "SQLite", {"cache", "tests"}),
    (re.compile(r"^xxh(ash|3)\.h$"), "xxHash", {"compiler", "cache", "tests"}),
    (re.compile(r"^doctest/"), "doctest", {"tests"}),
    (re.compile(r"^(cuda|cuda_runtime|cuda_runtime_api|nvrtc|cooperative_groups|cuda_bf16|cuda_fp8|cuda_fp4)(\.h|/)"),
     "the CUDA toolkit", set()),
]

SUBFOLDERS = ["tests/reference", "runtime/cli"]  # with rules of their own
CONSUMERS = ("examples/", "tests/install/")  # host programs, which see an installed phasec
LINES_MAX = 500


def folder_of(path):
    for folder in SUBFOLDERS:
        if path.startswith(folder + "/"):
            return folder
    return path.split("/")[0]


def public_owners(paths):
    """"phasec/status.h" -> "ir", from the files that exist."""
    owners = {}
    for path in paths:
        match = re.match(r"^(\w+)/include/(phasec/.+)$", path)
        if match:
            owners[match.group(2)] = match.group(1)
    return owners


def target_of(path, name, owners, paths):
    """The repository file that a quoted include means, or None."""
    if name in owners:
        return owners[name] + "/include/" + name
    for base in (posixpath.dirname(path), "", "templates"):
        if base == "templates" and not path.startswith("templates/"):
            continue
        candidate = posixpath.normpath(posixpath.join(base, name))
        if candidate in paths:
            return candidate
    return None


def check_includes(path, text, owners, paths):
    folder = folder_of(path)
    allowed = MAY_INCLUDE[folder]
    for line, quoted, name in source.includes(text):
        where = f"{path}:{line}: "
        third_party = next((row for row in THIRD_PARTIES if row[0].match(name)), None)
        if third_party and folder not in third_party[2]:
            yield f"{where}{folder}/ must not include {third_party[1]} ({name})"
        if folder == "templates" and not path.endswith(".h") and (not quoted or third_party):
            yield f"{where}templates are flattened into one file for NVRTC: no system includes ({name})"
        if not quoted and name.startswith("phasec/") and not path.startswith(CONSUMERS):
            yield f"{where}write \"{name}\" in the repository's own files"
        if not quoted or third_party:
            continue
        target = target_of(path, name, owners, paths)
        if target is None:
            yield f"{where}\"{name}\" is no file of this repository; write <...> for a system header"
            continue
        to = folder_of(target)
        if to not in allowed:
            yield f"{where}{folder}/ must not include {to}/ ({name})"
        if "/include/phasec/" in path and "/include/phasec/" not in target:
            yield f"{where}a public header may only include public headers ({name})"


# (what, pattern, may this file?)
WORDS = [
    ("getenv", re.compile(r"\b(secure_)?getenv\s*\("),
     lambda path: path == "runtime/options.cpp" or path.startswith("tests/")),
    ("inline assembly", re.compile(r"\b(asm|__asm__|__asm)\b"),
     lambda path: path in ("templates/ptx.cuh", "runtime/cli/ceilings.cu") or path.startswith(("runtime/sim/fiber", "tests/reference/"))),
    ("printing", re.compile(r"\b(printf|puts|putchar|perror)\s*\(|\bstd::(cout|cerr|clog|print|println)\b"
                            r"|\bllvm::(outs|errs|dbgs)\s*\(|\bf(printf|puts)\s*\(\s*std(out|err)\b"),
     lambda path: not path.startswith(("ir/", "compiler/", "cache/", "runtime/")) or path.startswith("runtime/cli/")),
    ("exit or abort", re.compile(r"(?<![\w.>])(?:std::)?(exit|_exit|abort|quick_exit)\s*\("),
     lambda path: not path.startswith(("ir/", "compiler/", "cache/", "runtime/")) or path.startswith("runtime/cli/")
     or path == "runtime/sim/shim.h"),
    ("exceptions", re.compile(r"\b(throw|try)\b\s*[^_\w]|\bdynamic_cast\b"),
     lambda path: not path.startswith(("ir/", "compiler/", "cache/"))),
]


def check_words(path, text):
    code = source.strip(text)
    for what, pattern, allowed in WORDS:
        if allowed(path):
            continue
        for match in pattern.finditer(code):
            yield f"{path}:{code.count(chr(10), 0, match.start()) + 1}: {what} ({match.group(0).strip()}) does not belong here"


FOREIGN_TYPES = re.compile(r"\b(llvm::\w+|sqlite3\w*|XXH\w+|CU(stream|module|function|context|deviceptr|event)\b"
                           r"|cuda(Stream|Event|Error|Device|Graph|Kernel|Mem|Array|Func)\w*)")


def check_public(path, text):
    if "/include/phasec/" not in path:
        return
    code = source.strip(text)
    for match in FOREIGN_TYPES.finditer(code):
        yield f"{path}:{code.count(chr(10), 0, match.start()) + 1}: a public header must not show {match.group(0)}"


PUSH, POP = "#pragma GCC visibility push(default)", "#pragma GCC visibility pop"


def check_visibility(path, text):
    """The library is compiled hidden; what a public header declares must be visible, or no host can link it."""
    if "/include/phasec/" in path and "namespace phasec {" in text:
        if text.count(PUSH) != 1 or text.count(POP) != 1 or text.index(PUSH) > text.index("namespace phasec {"):
            yield f"{path}: put `{PUSH}` before `namespace phasec {{` and `{POP}` at the end"


def check_length(path, text):
    lines = text.count("\n")
    if lines > LINES_MAX and not path.startswith("tests/"):
        yield f"{path}: {lines} lines; files stay under {LINES_MAX}"


def check_tree(tree):
    """All findings for {path: text}."""
    owners = public_owners(tree)
    for path, text in tree.items():
        yield from check_includes(path, text, owners, tree)
        yield from check_words(path, text)
        yield from check_public(path, text)
        yield from check_visibility(path, text)
        yield from check_length(path, text)
