#!/usr/bin/env python3
"""`phasec compare`: two reports of bench, written here. argv: phasec, source, build."""
import json

import support


def row(us, sd=0.0, **changes):
    figures = {"median": us, "min": us, "p99": us, "sd": sd}
    return {"tokens": 1, "context": 1024, "instances": 24, "sets": 1, "launches_per_sample": 1, "weight_bytes": 1000, "kv_bytes": 10,
            "layer_us": figures, **changes}


def report(*rows, **changes):
    return {"schema": "phasec.bench/1", "layer": "a", "device": {"name": "H200"}, "rows": list(rows), **changes}


class CompareTest(support.CliTest):
    def compare(self, old, new, expect):
        return self.json("compare", self.write("old.json", json.dumps(old)), self.write("new.json", json.dumps(new)), expect=expect)

    def verdict(self, old, new, expect):
        document = self.compare(report(old), report(new), expect)
        verdict, = document["rows"]
        self.assertEqual(document["verdict"], verdict["verdict"])
        return verdict

    def test_within_the_band_is_reproduced(self):
        for us in (50.0, 50.49, 49.51):
            v = self.verdict(row(50.0), row(us), 0)
            self.assertEqual((v["verdict"], v["band"]), ("reproduced", 0.01))
            self.assertAlmostEqual(v["delta"], us / 50 - 1)

    def test_the_band_is_measured(self):
        v = self.verdict(row(50.0, sd=0.3), row(52.0, sd=0.4), 3)
        self.assertAlmostEqual(v["band"], 3 * 0.5 / 50, msg="three deviations of both")
        self.assertEqual(v["verdict"], "moved", "4 % where 3 % are noise")
        self.assertEqual(self.verdict(row(50.0, sd=0.6), row(52.0, sd=0.8), 0)["verdict"], "reproduced", "6 % are noise here")

    def test_moved_in_both_directions(self):
        for us in (50.6, 49.4):
            self.assertEqual(self.verdict(row(50.0), row(us), 3)["verdict"], "moved")

    def test_other_work_is_not_comparable(self):
        for name in ("instances", "sets", "launches_per_sample", "weight_bytes", "kv_bytes"):
            v = self.verdict(row(50.0), row(50.0, **{name: 7}), 1)
            self.assertEqual(v["verdict"], "not comparable")
            self.assertMentions(v["reason"], name, "-> 7")
            self.assertIsNone(v["delta"])
        v = self.verdict(row(50.0), row(50.0, layer_us=None), 1)
        self.assertMentions(v["reason"], "no figures", "new.json")
        for changes, word in (({"layer": "b"}, "@b"), ({"device": {"name": "H100"}}, "H100")):
            document = self.compare(report(row(50.0)), report(row(50.0), **changes), 1)
            self.assertMentions(document["rows"][0]["reason"], word)

    def test_other_shapes_have_no_partner(self):
        document = self.compare(report(row(50.0), row(60.0, tokens=4)), report(row(50.0), row(60.0, context=8192)), 1)
        self.assertEqual([(v["row"], v["verdict"]) for v in document["rows"]],
                         [("tokens 1, context 1024", "reproduced"), ("tokens 4, context 1024", "not comparable"),
                          ("tokens 1, context 8192", "not comparable")])
        self.assertEqual(document["verdict"], "not comparable")

    def test_what_moved_is_the_news(self):
        document = self.compare(report(row(50.0), row(60.0, tokens=4)), report(row(80.0)), 3)
        self.assertEqual(document["verdict"], "moved")

    def test_sweeps_and_joined_results(self):
        rows = [row(50.0, sweep="1"), row(30.0, sweep="8")]
        document = self.compare(report(*rows, sweep_knob="wo_split"), report(*reversed(rows), sweep_knob="wo_split"), 0)
        self.assertEqual([v["row"] for v in document["rows"]], ["tokens 1, context 1024, wo_split 1", "tokens 1, context 1024, wo_split 8"])
        joined = {"schema": "phasec.results/1", "runs": {"llama": report(row(50.0)), "qwen": report(row(70.0))}}
        moved = {"schema": "phasec.results/1", "runs": {"llama": report(row(50.0)), "qwen": report(row(75.0))}}
        document = self.compare(joined, moved, 3)
        self.assertEqual([(v["row"], v["verdict"]) for v in document["rows"]],
                         [("llama: tokens 1, context 1024", "reproduced"), ("qwen: tokens 1, context 1024", "moved")])

    def test_text(self):
        old, new = self.write("old.json", json.dumps(report(row(50.0)))), self.write("new.json", json.dumps(report(row(55.0))))
        out, err = self.phasec("compare", old, new, expect=3)
        self.assertEqual(out, "tokens 1, context 1024: 50.00 -> 55.00 us per layer, +10.00 % (band 1.00 %): moved\nmoved\n")
        self.assertEqual(err, "")

    def test_what_is_no_report(self):
        good = self.write("good.json", json.dumps(report(row(50.0))))
        for text, word in (("{", "no JSON"), ("[]", "no report"), ('{"schema": "phasec.run/1"}', "phasec.run/1"),
                           (json.dumps(report()), "no rows"), ('{"schema": "phasec.bench/1", "rows": [7]}', "no rows")):
            _, err = self.phasec("compare", good, self.write("bad.json", text), expect=1)
            self.assertMentions(err, "bad.json", word)
        self.assertMentions(self.phasec("compare", good, self.work / "none.json", expect=1)[1], "none.json")
        self.phasec("compare", good, expect=2)


if __name__ == "__main__":
    support.main()
