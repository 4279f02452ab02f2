"""Bad input through the real binary: each has a located or named error, a remedy, and the documented exit code; none aborts."""
import os
import stat
import unittest

import support
from support import LAYERS, SOURCE

HARNESS = LAYERS / "tiny_wo_harness.phase"
SIM = ("--device", "sim", "--exact")


class Language(support.CliTest):
    def refused(self, path, *parts, line=None, unproved=False):
        """Every command refuses it; a plan that is only unproved can still be looked at."""
        _, err = self.phasec("check", path, expect=1)
        self.assertMentions(err, ": error: ", *parts)
        if line:
            self.assertRegex(err, rf"{path.name}:{line}:\d+: error: ")
            self.assertIn("^", err)
        document = self.json("check", path, expect=1)
        self.assertFalse(document["files"][0]["ok"])
        self.assertTrue(document["files"][0]["diagnostics"])
        for command in ("run", "inspect"):
            self.phasec(command, path, *SIM, expect=1)
        self.phasec("render", path, "--emit=cuda", "--exact", expect=0 if unproved else 1)
        self.phasec("explain", path, *SIM, expect=0 if unproved else 1)
        return err

    def test_syntax(self):
        self.refused(self.edited("tiny_wo_harness", ("%p = wo     %a, %w_o", "%p = wo     %a %w_o")), line=13)

    def test_unknown_operation(self):
        self.refused(self.edited("tiny_wo_harness", ("%h = gather", "%h = gahter")), "gather", line=15)

    def test_unknown_format(self):
        self.refused(self.edited("tiny_wo_harness", ("nvfp4[", "nvpf4[")), "nvfp4", line=11)

    def test_unknown_knob_in_file(self):
        self.refused(self.edited("tiny_wo_harness", ("partition = seed", "partiton = seed")), "partition", line=7)

    def test_shape(self):
        self.refused(self.edited("tiny_wo_harness", ("nvfp4[hidden, k]", "nvfp4[hidden, k + 16]")), "224", "208", line=13)

    def test_dtype(self):
        self.refused(self.edited("tiny_wo_harness", ("%a   : bf16[tokens, k]", "%a   : f32[tokens, k]")), "bf16", line=13)

    def test_event_deleted(self):
        path = self.edited("tiny_wo_harness", ("  event grid %p -> %h", "  // event grid %p -> %h"))
        self.assertMentions(self.refused(path, "witness", "event grid %p -> %h", line=15, unproved=True), "CTA")

    def test_not_text(self):
        path = self.work / "binary.phase"
        path.write_bytes(bytes(range(256)) * 40)
        self.phasec("check", path, expect=1)
        self.assertFalse(self.json("check", path, expect=1)["ok"])

    def test_names_that_are_not_utf8(self):
        path = os.fsencode(self.work) + b"/\xff\xfe.phase"
        with open(path, "wb") as file:
            file.write(b"layer @x { \xff }")
        self.phasec("check", os.fsdecode(path), expect=1)
        self.assertFalse(self.json("check", os.fsdecode(path), expect=1)["ok"])

    def test_several_files(self):
        bad = self.write("bad.phase", "layer\n")
        document = self.json("check", HARNESS, bad, expect=1)
        self.assertEqual([f["ok"] for f in document["files"]], [True, False])


class Schedules(support.CliTest):
    def test_unknown_knob(self):
        _, err = self.phasec("run", HARNESS, *SIM, "--set", "wo_spilt=2", expect=2)
        self.assertIn("wo_split", err)

    def test_knob_value(self):
        for text in ("partition=wied", "wo_split=x", "warps=-1", "wo_split", "=1"):
            self.phasec("run", HARNESS, *SIM, "--set", text, expect=2)

    def test_wo_split_out_of_range(self):
        _, err = self.phasec("run", HARNESS, *SIM, "--set", "wo_split=16", expect=1)  # seed: at most slice_ctas
        self.assertMentions(err, "16", "8")
        self.assertIn(self.phasec("run", HARNESS, *SIM, "--set", "wo_split=3", expect=None)[1].count("1, 2, 4, 8"), (1, 2))
        self.phasec("check", LAYERS / "tiny_mlp_only.phase", "--set", "wo_split=4", expect=1)  # nothing to split

    def test_what_is_for_comparison_and_tests_does_not_ship(self):
        for setting in ("reduce=atomic", "delay=3"):
            knob, value = setting.split("=")
            _, err = self.phasec("bless", LAYERS / "tiny_qwen35_27b.phase", "--set", setting, "--out", self.work / "no.db", expect=2)
            self.assertMentions(err, f"{knob} = {value}", "not for a file that ships")
            self.assertFalse((self.work / "no.db").exists())
        _, err = self.phasec("run", HARNESS, *SIM, "--set", "reduce=atomic", expect=1)
        self.assertMentions(err, "reduce = atomic", "math = exact", "drop reduce")

    def test_delays_change_no_result(self):
        plain, late = (self.json("run", HARNESS, *SIM, "--check", "--set", f"delay={n}") for n in (0, 7))
        self.assertEqual(plain["outputs"], late["outputs"])
        self.assertNotEqual(plain["function_fingerprint"], late["function_fingerprint"])

    def test_grid_that_cannot_be_resident(self):
        layer = LAYERS / "tiny_qwen35_27b.phase"
        self.phasec("check", layer, "--set", "ctas=5000", expect=2)  # beyond the knob
        _, err = self.phasec("check", layer, "--set", "ctas=4000", expect=1)
        self.assertMentions(err, "resident", "132")
        self.phasec("run", layer, *SIM, "--set", "ctas=4000", expect=1)

    def test_tokens_above_the_maximum(self):
        _, err = self.phasec("run", HARNESS, *SIM, "--tokens", "9", expect=1)
        self.assertMentions(err, "9 tokens", "at most 8")
        self.phasec("run", HARNESS, *SIM, "--set", "tokens_max=17", expect=2)

    def test_steps(self):
        layer = LAYERS / "tiny_attn_only.phase"
        self.phasec("run", layer, *SIM, "--contexts", "1,2,3", "--tokens", "2", expect=1)
        self.phasec("run", layer, *SIM, "--contexts", "1,2", "--tokens-per-seq", "1,1,1", expect=2)
        self.phasec("run", layer, *SIM, "--tokens", "-1", expect=2)
        self.phasec("run", layer, *SIM, "--contexts", "1,x", expect=2)
        self.phasec("run", LAYERS / "tiny_llama31_8b.phase", *SIM, "--contexts", "5000000", expect=1)

    def test_target(self):
        _, err = self.phasec("render", HARNESS, "--emit=plan", "--exact", "--target", "sm_91a", expect=2)
        self.assertIn("sm_90a", err)
        self.phasec("run", HARNESS, *SIM, "--target", "all", expect=2)


class Usage(support.CliTest):
    def test_commands(self):
        _, err = self.phasec("chekc", expect=2)
        self.assertIn("did you mean 'check'", err)
        self.phasec(expect=2)
        self.phasec("--exact", "run", HARNESS, expect=2)
        self.phasec("cache", "statz", expect=2)
        self.phasec("help", "nothing", expect=2)

    def test_flags(self):
        for words in (("run",), ("run", HARNESS, "--chekc"), ("run", HARNESS, HARNESS), ("render", HARNESS, "--emit=ptxx"),
                      ("run", HARNESS, "--tokens", "many"), ("run", HARNESS, "--device", "gpu"), ("run", HARNESS, "--device", "none", "--exact"),
                      ("check", HARNESS, "--prove", "--no-prove"), ("fmt", HARNESS, "--check", "-w"), ("doctor", "extra"),
                      ("render", HARNESS, "--emit=cuda", "--json", "--exact"), ("run", HARNESS, *SIM, "--sim-ctas", "0")):
            self.phasec(*words, expect=2)

    def test_help(self):
        out, _ = self.phasec("--help")
        self.assertMentions(out, "check", "doctor", "usage")
        for command in ("check", "fmt", "render", "run", "inspect", "explain", "cache", "doctor"):
            out, _ = self.phasec(command, "--help")
            self.assertMentions(out, f"usage: phasec {command}", "never")
        self.phasec("--version")

    def test_missing_file(self):
        for command in (("check",), ("fmt",), ("render", "--exact"), ("run", *SIM), ("explain", *SIM), ("inspect", *SIM)):
            _, err = self.phasec(*command, "no/such.phase", expect=1)
            self.assertIn("no/such.phase", err)
        self.phasec("check", self.work, expect=1)  # a directory
        self.json("run", "no/such.phase", *SIM, expect=1)

    def test_output_that_cannot_be_written(self):
        self.phasec("render", HARNESS, "--exact", "-o", "/nonexistent/x.cu", expect=1)
        if os.path.exists("/dev/full"):
            with open("/dev/full", "w") as full:
                import subprocess
                done = subprocess.run([support.PHASEC, "render", str(HARNESS), "--exact"], stdout=full, stderr=subprocess.PIPE,
                                      env=self.environment({}), text=True)
                self.assertEqual(done.returncode, 1, done.stderr)


class Machine(support.CliTest):
    def test_no_libcuda(self):
        _, err = self.phasec("run", HARNESS, "--device", "cuda", "--exact", env={"PHASEC_CUDA": "/nonexistent"}, expect=4)
        self.assertMentions(err, "/nonexistent", "sim")
        self.phasec("run", HARNESS, "--exact", env={"PHASEC_CUDA": "/nonexistent"})  # auto goes on with the sim

    def test_no_libnvrtc(self):
        env = {"PHASEC_NVRTC": "/nonexistent"}
        for words in (("render", HARNESS, "--exact", "--emit=ptx"), ("render", HARNESS, "--exact", "--emit=resources"),
                      ("inspect", HARNESS, "--exact", "--device", "none")):
            _, err = self.phasec(*words, env=env, expect=5)
            self.assertIn("PHASEC_NVRTC", err)
        self.phasec("run", HARNESS, *SIM, env=env)

    def test_no_host_compiler(self):
        _, err = self.phasec("run", HARNESS, *SIM, env={"PATH": "/nonexistent"}, expect=5)
        self.assertIn("compiler", err)
        self.phasec("render", HARNESS, "--exact", "--emit=cuda", env={"PATH": "/nonexistent"})

    def overlay(self, name, old, new):
        text = (SOURCE / "templates" / name).read_text()
        self.assertIn(old, text)
        self.write(f"overlay/{name}", text.replace(old, new, 1))
        line = text[:text.index(old)].count("\n") + 1
        return self.work / "overlay", line

    def test_broken_template(self):
        directory, line = self.overlay("phases/gather.cuh", "template <class", "this is no C++;\ntemplate <class")
        for words in (("run", HARNESS, *SIM), ("render", HARNESS, "--exact", "--emit=ptx")):
            if "render" in words and not os.environ.get("PHASEC_NVRTC") and self.phasec("render", HARNESS, "--exact", "--emit=resources", expect=None)[1]:
                continue  # no NVRTC here
            _, err = self.phasec(*words, "--templates", directory, expect=5)
            self.assertRegex(err, rf"phases/gather\.cuh:{line}\b")

    def test_templates_directory(self):
        self.phasec("run", HARNESS, *SIM, "--templates", "/nonexistent", expect=1)
        self.write("overlay/phases/gahter.cuh", "")
        _, err = self.phasec("run", HARNESS, *SIM, "--templates", self.work / "overlay", expect=1)
        self.assertIn("gahter.cuh", err)

    def test_unwritable_cache(self):
        for directory in ("/dev/null/cache", "/proc/cache"):
            _, err = self.phasec("run", HARNESS, *SIM, "--check", env={"PHASEC_CACHE_DIR": directory})
            self.assertEqual(err.count("warning: "), 1, err)
        _, err = self.phasec("run", HARNESS, *SIM, env={"PHASEC_CACHE_DIR": None, "HOME": None, "XDG_CACHE_HOME": None})
        self.assertNotIn("error", err)

    @unittest.skipIf(os.geteuid() == 0, "root may write anywhere")
    def test_read_only_directory(self):
        self.cache.mkdir(mode=0o700)
        os.chmod(self.cache, stat.S_IRUSR | stat.S_IXUSR)
        _, err = self.phasec("run", HARNESS, *SIM, "--check")
        self.assertEqual(err.count("warning: "), 1, err)

    def test_damaged_cache(self):
        self.phasec("run", HARNESS, *SIM)
        for path in self.cache.glob("*.db"):
            path.write_bytes(b"no database" * 1000)
        out, _ = self.phasec("run", HARNESS, *SIM, "--check")
        self.assertIn("bit-exact", out)

    def test_jit_off(self):
        _, err = self.phasec("run", HARNESS, *SIM, env={"PHASEC_JIT": "off"}, expect=3)
        self.assertIn("jit = off", err)
        self.phasec("explain", HARNESS, *SIM, env={"PHASEC_JIT": "off"}, expect=3)
        self.phasec("run", HARNESS, *SIM)
        self.phasec("run", HARNESS, *SIM, env={"PHASEC_JIT": "off"})

    def test_environment(self):
        for name, value in (("PHASEC_JIT", "maybe"), ("PHASEC_DEVICE", "tpu"), ("PHASEC_WO_SPLIT", "5x"), ("PHASEC_CONFIG", "/nonexistent")):
            _, err = self.phasec("run", HARNESS, *SIM, env={name: value}, expect=2)
            self.assertIn(name, err)
            out, _ = self.phasec("doctor", env={name: value}, expect=3)
            self.assertIn(name, out)
        config = self.write("knobs.conf", "# knobs\nwo_split = 2\nwarp = 4\n")
        _, err = self.phasec("run", HARNESS, *SIM, env={"PHASEC_CONFIG": config}, expect=2)
        self.assertMentions(err, "knobs.conf:3", "warps")


if __name__ == "__main__":
    support.main()
