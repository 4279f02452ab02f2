#!/usr/bin/env python3
"""table.py: from results of bench to tables. Python's standard library only.

    table.py join DIR [-o FILE]   the reports of `phasec bench -o DIR/<name>.json` as one file (default DIR/all.json)
    table.py show FILE            targets and rows of one such file, for people
    table.py write                the marked region of README.md: every run from the newest file in results/ that has it
    table.py check                exit 1 when README.md says something else than `write` would"""

import argparse
import datetime
import json
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
README = HERE.parent.parent / "README.md"
BEGIN, END = "<!-- bench: written by tests/bench/table.py -->", "<!-- bench: end -->"
NOTHING = "No results are committed yet: `tests/bench/results` is empty."


# --- One file of results -------------------------------------------------------------------------------------------------
def portable(text):
    """A file or a command without the places of the machine: paths inside the source tree begin there, others keep their name,
    and so does the program."""
    root = README.parent

    def word(w):
        path = pathlib.PurePosixPath(w)
        if not path.is_absolute():
            return w
        return str(path.relative_to(root)) if path.is_relative_to(root) else path.name

    first, *rest = text.split(" ")
    return " ".join([pathlib.PurePosixPath(first).name if rest else word(first), *map(word, rest)])


def join(folder, out):
    reports = {}
    for path in sorted(folder.glob("*.json")):
        try:
            document = json.loads(path.read_text())
        except ValueError as error:
            sys.exit(f"{path}: no JSON ({error}); was it cut off?")
        if document.get("schema") == "phasec.bench/1":
            reports[path.stem] = document | {name: portable(document[name]) for name in ("command", "file") if name in document}
    if not reports:
        sys.exit(f"{folder}: no report of phasec bench in it")
    commit = subprocess.run(["git", "-C", HERE, "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    when = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    out.write_text(json.dumps({"schema": "phasec.results/1", "when": when, "commit": commit or None, "runs": reports}, indent=1) + "\n")


class Results:
    def __init__(self, document):
        self.when, self.commit, self.runs = document["when"], document["commit"], document["runs"]
        self.device = next(iter(self.runs.values()))["device"]

    def row(self, run, tokens=1, context=1024):
        """The first row of a run for that step that has figures, or None."""
        for row in self.runs.get(run, {"rows": []})["rows"]:
            if (row["tokens"], row["context"]) == (tokens, context) and row["layer_us"]:
                return row
        return None

    def rows(self):
        for name, report in self.runs.items():
            for row in report["rows"]:
                yield name, report, row

    def ceilings(self):
        return [report["ceilings"]["read_tbs"] for report in self.runs.values()]


def fraction(run, **step):
    return lambda r: (row := r.row(run, **step)) and row["fraction_of_read"]


def speedup(run, peer, **step):
    return lambda r: (row := r.row(run, **step)) and (row.get("peers", {}).get(peer) or {}).get("speedup")


def launch(run, **step):
    return lambda r: (row := r.row(run, **step)) and row["launch_us"]["median"]


def over_batch_1(r):
    one, eight = r.row("qwen35_27b"), r.row("qwen35_27b", tokens=8)
    return one and eight and eight["layer_us"]["median"] / one["layer_us"]["median"]


def spilled(r):
    names = ("spill_store_bytes", "spill_load_bytes", "local_bytes")
    return max((kernel[name] for _, _, row in r.rows() for kernel in row.get("resources", {}).get("kernels", []) for name in names), default=None)


def error_ratio(r):
    means = [mean["ratio"] for report in r.runs.values() if report.get("error") and not report["error"]["problem"]
             for mean in report["error"]["mean"].values()]
    return max(means, default=None)


# What is to hold: text, figure, ship, goal. More is better where the goal is more than what ships.
TARGETS = [
    ("NVFP4 Qwen3.5-27B layer, 1k context: fraction of read ceiling", fraction("qwen35_27b"), 0.80, 0.90),
    ("  batch 8 over batch 1", over_batch_1, 1.12, 1.05),
    ("  8k context", fraction("qwen35_27b_long", context=8192), 0.78, 0.88),
    ("  32k context", fraction("qwen35_27b_long", context=32768), 0.78, 0.88),
    ("  times faster than PyTorch bf16", speedup("qwen35_27b", "torch"), 3.8, 4.4),
    ("  times faster than Triton, same format", speedup("qwen35_27b", "triton"), 1.5, 2.0),
    ("  single-layer launch: fraction of read ceiling", fraction("qwen35_27b_single"), 0.72, 0.80),
    ("BF16 Llama-3.1-8B layer: fraction of read ceiling", fraction("llama31_8b"), 0.86, 0.93),
    ("  times faster than PyTorch bf16", speedup("llama31_8b", "torch"), 1.3, 1.45),
    ("FP8 Llama-3.1-8B layer: fraction of read ceiling", fraction("llama31_8b_fp8"), 0.82, 0.90),
    ("BF16 Llama-3.2-1B layer: times faster than PyTorch bf16", speedup("llama32_1b_layer", "torch"), 1.7, 2.1),
    ("BF16 Llama-3.2-1B decode step with embedding and head: us", launch("llama32_1b"), 690, 600),
    ("spilled or local bytes, all rows", spilled, 0, 0),
    ("error over that of PyTorch bf16, worst mean", error_ratio, 1.05, 1.0),
]


def verdict(value, ship, goal):
    if value is None:
        return "not measured"
    reaches = [value >= bound if goal > ship else value <= bound for bound in (goal, ship)]
    return "goal" if reaches[0] else "ship" if reaches[1] else "MISSED"


# --- Tables --------------------------------------------------------------------------------------------------------------
def cells(name, report, row):
    """A row as text: run, step, time and ratios; "-" where there is nothing."""
    label = name + (f" {report['sweep_knob']}={row['sweep']}" if "sweep" in row else "")
    times = [f"{row['layer_us']['median']:.2f}", f"{row['tbs']:.3f}", f"{row['fraction_of_read']:.3f}"] if row["layer_us"] else ["-"] * 3
    peers = row.get("peers", {})
    ratios = [f"{p['speedup']:.2f}" if (p := peers.get(peer)) and p["speedup"] else "-" for peer in ("torch", "triton")]
    return [label, str(row["tokens"]), str(row["context"]), *times, *ratios]


def failed(row):
    """Why a row counts for nothing, or None."""
    if row["error"]:
        return row["error"].splitlines()[0]
    if row["check"] and not row["check"]["ok"]:
        return "check failed: " + row["check"]["findings"][0]
    return None if row["launches_alike"] else "launches left different bytes"


def between(values, digits):
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return low if low == high else f"{low} to {high}"


HEAD = ["run", "batch", "context", "us/layer", "TB/s", "of read", "x PyTorch", "x Triton"]


def show(results):
    lines = [f"{results.device['name']}, {results.device['driver']}, commit {results.commit}, {results.when}; read ceiling "
             f"{between(results.ceilings(), 3)} TB/s", ""]
    body = [cells(*row) for row in results.rows()]
    widths = [max(len(line[i]) for line in [HEAD, *body]) for i in range(len(HEAD))]
    for line, row in zip([HEAD, *body], [None, *[row for _, _, row in results.rows()]]):
        text = "  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths)))
        lines.append(text + (f"  {failed(row)}" if row and failed(row) else ""))
    for name, report in results.runs.items():
        for peer, problem in report.get("peer_problems", {}).items():
            if problem:
                lines.append(f"{name}: {peer}: {problem}")
    lines += ["", f"{'target':<62} {'measured':>9} {'ship':>6} {'goal':>6}"]
    for text, figure, ship, goal in TARGETS:
        value = figure(results)
        measured = "-" if value is None else f"{value:.3g}" if ship else f"{value:g}"
        lines.append(f"{text:<62} {measured:>9} {ship:>6} {goal:>6}  {verdict(value, ship, goal)}")
    return "\n".join(lines)


def committed():
    return [(path, Results(json.loads(path.read_text()))) for path in sorted(HERE.glob("results/*.json"))]


def newest(documents):
    """What to quote: files and their results, newest first; of each only the runs that no newer one of the same GPU has."""
    found, seen = [], set()
    for path, results in sorted(documents, key=lambda d: d[1].when, reverse=True):
        gpu = results.device["name"]
        results.runs = {name: run for name, run in results.runs.items() if (gpu, name) not in seen}
        seen |= {(gpu, name) for name in results.runs}
        if results.runs:
            found.append((path, results))
    return found


def markdown(found):
    if not found:
        return NOTHING + "\n"
    lines = []
    for path, r in found:
        lines += [f"{r.device['name']}, {r.device['driver']}, commit {r.commit}, read ceiling "
                  f"{between(r.ceilings(), 2)} TB/s, medians ([raw samples](tests/bench/results/{path.name})):", "",
                  "| " + " | ".join(HEAD) + " |", "|---|" + "--:|" * (len(HEAD) - 1)]
        lines += ["| " + " | ".join(cells(*row)) + " |" for row in r.rows() if not failed(row[2])]
        lines.append("")
    return "\n".join(lines)


def rewritten(text, region):
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        sys.exit(f"README.md: expected one line `{BEGIN}` and, below it, one line `{END}`")
    head, rest = text.split(BEGIN)
    return head + BEGIN + "\n" + region + END + rest.split(END)[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["join", "show", "write", "check"])
    parser.add_argument("path", nargs="?", type=pathlib.Path)
    parser.add_argument("-o", dest="out", type=pathlib.Path)
    arguments = parser.parse_args()
    if arguments.what in ("join", "show") and not arguments.path:
        parser.error(f"{arguments.what} takes a path")
    if arguments.what == "join":
        join(arguments.path, arguments.out or arguments.path / "all.json")
    elif arguments.what == "show":
        print(show(Results(json.loads(arguments.path.read_text()))))
    else:
        found, text = newest(committed()), README.read_text()
        if not found:
            print(NOTHING)
        wanted = rewritten(text, markdown(found))
        if arguments.what == "write":
            README.write_text(wanted)
        elif wanted != text:
            sys.exit("README.md's table is not what tests/bench/results says; run tests/bench/table.py write")
    return 0


if __name__ == "__main__":
    sys.exit(main())
