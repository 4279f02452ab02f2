"""support.py: what the command-line tests share. A test is called as: test.py PHASEC SOURCE_DIR BUILD_DIR [CXX]."""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

PHASEC = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else "build/phasec"
SOURCE = pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else ".").resolve()
LAYERS = SOURCE / "examples" / "layers"
TINY = sorted(path.stem for path in LAYERS.glob("tiny_*.phase"))


def has_wo(layer):
    return " wo " in (LAYERS / f"{layer}.phase").read_text()


class CliTest(unittest.TestCase):
    """Every test has a directory and a cache of its own, and an environment without any PHASEC_ variable but that cache's."""

    def setUp(self):
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="phasec-cli-"))
        self.addCleanup(shutil.rmtree, self.work, ignore_errors=True)
        self.cache = self.work / "cache"

    def environment(self, changes):
        keep = {k: v for k, v in os.environ.items() if not k.startswith("PHASEC_") or k == "PHASEC_NVRTC"}
        keep["PHASEC_CACHE_DIR"] = str(self.cache)
        keep["NO_COLOR"] = "1"
        for name, value in changes.items():
            if value is None:
                keep.pop(name, None)
            else:
                keep[name] = str(value)
        return keep

    def phasec(self, *words, expect=0, env=None, cwd=None, program=None):
        """Runs phasec (or a copy of it), checks its exit status, returns (stdout, stderr)."""
        done = subprocess.run([program or PHASEC, *map(str, words)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              env=self.environment(env or {}), cwd=cwd or self.work, timeout=240, text=True, errors="surrogateescape")
        context = f"phasec {' '.join(map(str, words))}\nstdout: {done.stdout[-3000:]}\nstderr: {done.stderr[-3000:]}"
        self.assertGreaterEqual(done.returncode, 0, f"ended by signal {-done.returncode}\n{context}")
        if expect is not None:
            self.assertEqual(done.returncode, expect, context)
        return done.stdout, done.stderr

    def json(self, command, *words, expect=0, env=None, cwd=None, program=None):
        """Runs a command with --json, checks the schema, returns the document."""
        out, err = self.phasec(command, *words, "--json", expect=expect, env=env, cwd=cwd, program=program)
        try:
            document = json.loads(os.fsencode(out).decode("utf-8", "strict"))
        except ValueError as error:
            self.fail(f"no JSON from {command} {words}: {error}\n{out[:2000]}\n{err[:2000]}")
        self.assertTrue(document["schema"].startswith(f"phasec.{command}"), document["schema"])
        return document

    def write(self, name, text):
        path = self.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def edited(self, layer, *replacements, name=None):
        """A copy of an example with texts replaced, each of which must be there."""
        text = (LAYERS / f"{layer}.phase").read_text()
        for old, new in replacements:
            self.assertIn(old, text)
            text = text.replace(old, new)
        return self.write(name or f"{layer}.phase", text)

    def assertMentions(self, text, *parts):
        for part in parts:
            self.assertIn(part, text)


def main():
    unittest.main(argv=[sys.argv[0]], verbosity=1)
