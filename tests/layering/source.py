"""source.py: what the layering tests share: the repository's C++ and CUDA files, without comments and strings."""
import pathlib
import re

SUFFIXES = {".h", ".cpp", ".cuh", ".cu", ".def", ".c", ".S"}
FOLDERS = ["ir", "templates", "compiler", "cache", "runtime", "tests", "examples"]

# One alternation, so that a quote inside a comment and a comment mark inside a string are both left alone.
TOKEN = re.compile(
    r'//[^\n]*|/\*.*?\*/'
    r'|R"(?P<tag>[^()\\\s]{0,16})\(.*?\)(?P=tag)"'
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'(?:\\.|[^'\\\n])+'",
    re.S)
DIGIT_SEPARATOR = re.compile(r"(?<=[0-9a-fA-F])'(?=[0-9a-fA-F])")


def files(root):
    """Every C++ or CUDA file below the folders, as (path relative to root, text), in a stable order."""
    root = pathlib.Path(root)
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if path.is_file() and path.suffix in SUFFIXES:
                yield path.relative_to(root).as_posix(), path.read_text(encoding="utf-8", errors="replace")


def strip(text, keep_strings=False):
    """The text with comments blanked, and strings too unless asked; line numbers stay."""
    def blank(match):
        token = match.group(0)
        if keep_strings and not token.startswith("/"):
            return token
        return '""' * (not token.startswith("/")) + "\n" * token.count("\n")
    return TOKEN.sub(blank, DIGIT_SEPARATOR.sub("", text))


INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"\n]+)[>"]', re.M)


def includes(text):
    """(line, quoted?, name) of every #include that is not in a comment."""
    code = strip(text, keep_strings=True)
    for match in INCLUDE.finditer(code):
        yield code.count("\n", 0, match.start()) + 1, match.group(1) == '"', match.group(2)
