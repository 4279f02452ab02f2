"""What moves a key and what must not."""
import os
import shutil

import support
from support import LAYERS, SOURCE, TINY

EXPLAIN = ("--device", "sim", "--exact")


class Keys(support.CliTest):
    def keys(self, *words, env=None, cwd=None, layers=TINY, directory=LAYERS, program=None):
        def key(layer):  # whatever the exit status: under jit = off a miss is a finding
            return self.json("explain", directory / f"{layer}.phase", *EXPLAIN, *words, env=env, cwd=cwd, program=program, expect=None)["function_fingerprint"]
        return {layer: key(layer) for layer in layers}

    def test_place_and_user_do_not_matter(self):
        layer = ["tiny_qwen35_27b"]
        first = self.keys(layers=layer)
        self.assertEqual(self.keys(layers=layer, cwd="/", env={"HOME": "/nonexistent", "USER": "nobody"}), first)
        self.assertEqual(self.keys(layers=layer, env={"HOME": None, "USER": None, "LANG": "tr_TR.UTF-8", "TZ": "Asia/Tokyo", "TMPDIR": "/"}), first)
        shutil.copytree(LAYERS, self.work / "copy of layers")
        self.assertEqual(self.keys(layers=layer, directory=self.work / "copy of layers"), first)
        self.assertEqual(self.keys("--no-prove", layers=layer), first)

    def test_threads_do_not_matter(self):
        layer = ["tiny_qwen35_27b"]
        first = self.keys(layers=layer)
        self.assertEqual(self.keys(layers=layer, env={"OMP_NUM_THREADS": "3", "CMAKE_BUILD_PARALLEL_LEVEL": "1"}), first)
        everything = os.sched_getaffinity(0)
        self.addCleanup(os.sched_setaffinity, 0, everything)
        os.sched_setaffinity(0, {min(everything)})
        self.assertEqual(self.keys(layers=layer), first)

    def test_install_prefix_does_not_matter(self):
        first = self.keys()
        prefix = self.work / "some other prefix" / "bin"
        prefix.mkdir(parents=True)
        shutil.copy(support.PHASEC, prefix / "phasec")
        self.assertEqual(self.keys(program=prefix / "phasec"), first)

    def test_environment_does_not_matter(self):
        """Every variable that doctor lists, but for those that set knobs."""
        layer = ["tiny_qwen35_27b"]
        first = self.keys(layers=layer)
        known = [setting["name"] for setting in self.json("doctor", expect=None)["environment"]]
        variables = [name for name in known if name.startswith("PHASEC_") and name not in ("PHASEC_CONFIG", "PHASEC_WO_SPLIT")]
        self.assertGreaterEqual(len(variables), 8)
        values = {"PHASEC_JIT": "off", "PHASEC_DEVICE": "none"}
        for name in variables:
            value = values.get(name, self.work / "elsewhere")
            self.assertEqual(self.keys(layers=layer, env={name: value}), first, name)

    def test_comments_do_not_matter(self):
        first = self.keys()
        for layer in TINY:
            text = (LAYERS / f"{layer}.phase").read_text()
            self.write(f"{layer}.phase", "// another comment\n\n" + text.replace("\n  ", "\n\t   // more\n  "))
        self.assertEqual(self.keys(directory=self.work), first)
        gather = (SOURCE / "templates/phases/gather.cuh").read_text()
        self.write("overlay/phases/gather.cuh", "// a comment\n\n" + gather.replace(";\n", ";  // end\n\n"))
        self.assertEqual(self.keys("--templates", self.work / "overlay"), first)

    def test_logic_in_a_template_moves_its_users_only(self):
        first = self.keys()
        gather = (SOURCE / "templates/phases/gather.cuh").read_text()
        self.write("overlay/phases/gather.cuh", gather.rstrip() + "\nPHASEC_DEVICE inline int one_more() { return 1; }\n")
        second = self.keys("--templates", self.work / "overlay")
        moved = {layer for layer in TINY if first[layer] != second[layer]}
        users = {layer for layer in TINY if " gather " in (LAYERS / f"{layer}.phase").read_text()}
        self.assertEqual(moved, users)
        self.assertTrue(set(TINY) - users)

    def test_explain_names_what_moved(self):
        layer = LAYERS / "tiny_qwen35_27b.phase"
        self.phasec("run", layer, *EXPLAIN)
        self.assertEqual(self.json("explain", layer, *EXPLAIN)["outcome"], "hit")
        gather = (SOURCE / "templates/phases/gather.cuh").read_text()
        self.write("overlay/phases/gather.cuh", gather.rstrip() + "\nPHASEC_DEVICE inline int one_more() { return 1; }\n")
        for words, section in ((("--set", "wo_split=8"), "wo_split"), (("--set", "warps=8"), "knob warps"), (("--target", "sm_80"), "target"),
                               (("--templates", self.work / "overlay"), "template phases/gather.cuh")):
            document = self.json("explain", layer, *EXPLAIN, *words)
            self.assertEqual((document["outcome"], document["reasons"][0]["section"]), ("miss", section))
            self.assertIsNotNone(document["nearest"])
        out, _ = self.phasec("explain", layer, *EXPLAIN, "--set", "wo_split=8")
        self.assertMentions(out, "wo_split 1 -> 8", "phasec bless")
        out, _ = self.phasec("explain", layer, *EXPLAIN, "--set", "wo_split=8", "--diff", "--dump-key")
        self.assertMentions(out, "\n- ", "\n+ ", "template:phases/wo.cuh")

    def test_strength_of_settings(self):
        """Flag > configuration file > environment > layer file > default."""
        config = self.write("knobs.conf", "wo_split = 4  # four\n")

        def split(*words, layer=LAYERS / "tiny_wo_harness.phase", **env):
            return self.json("explain", layer, *EXPLAIN, *words, env=env)["wo_split"]

        in_file = self.edited("tiny_wo_harness", ("slice_ctas = 8", "slice_ctas = 8, wo_split = 8"))
        self.assertEqual(split(), 1)
        self.assertEqual(split(layer=in_file), 8)
        self.assertEqual(split(layer=in_file, PHASEC_WO_SPLIT="2"), 2)
        self.assertEqual(split(layer=in_file, PHASEC_WO_SPLIT="2", PHASEC_CONFIG=config), 4)
        self.assertEqual(split("--set", "wo_split=1", layer=in_file, PHASEC_WO_SPLIT="2", PHASEC_CONFIG=config), 1)


if __name__ == "__main__":
    os.umask(0o022)
    support.main()
