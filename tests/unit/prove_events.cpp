// prove_events.cpp: the proof accepts what the planner makes and refuses every plan that lacks one of its events.
#include "tests/unit/layer_support.h"

using namespace layertest;

namespace {

/// The text of a layer file without its n-th `event` line; empty when it has fewer.
std::string withoutEvent(const std::string &text, int n, int *line) {
  std::istringstream in(text);
  std::string result, row;
  int seen = 0, number = 0;
  bool found = false;
  while (std::getline(in, row)) {
    number++;
    size_t first = row.find_first_not_of(' ');
    if (first != std::string::npos && row.compare(first, 6, "event ") == 0 && seen++ == n) {
      found = true;
      *line = number;
      continue;
    }
    result += row + "\n";
  }
  return found ? result : "";
}

} // namespace

TEST_CASE("every example proves, at every split and on every target") {
  for (const std::string &name : examples()) {
    Layers layers = readExample(name);
    for (const std::string &split : splitSettings(layers))
      for (const char *target : {"sm_80", "sm_86", "sm_90a", "sm_100a", "sm_121a"}) {
        auto p = tryPlan(layers, split, target);
        if (!p.ok()) continue; // too little shared memory: plan_layout.cpp
        Status s = prove(*p, layers.module());
        bool too_wide = p->ctas_pinned > p->target->sm_counts.front(); // the seed's 64 CTAs on a part of 48 SMs
        CHECK_MESSAGE(s.kind() == (too_wide ? ErrorKind::Proof : ErrorKind::Ok), name, " ", split, " ", std::string(target), ": ", s.text());
      }
  }
}

TEST_CASE("mutants: a plan that lacks one event is refused with a witness, whichever it is") {
  int mutants = 0;
  for (const std::string &name : examples()) {
    Layers layers = readExample(name);
    for (const std::string &split : splitSettings(layers)) {
      Plan p = planOf(layers, split + " handoff=events");
      for (size_t b = 0; b < p.bodies.size(); b++)
        for (size_t e = 0; e < p.bodies[b].events.size(); e++) {
          Plan mutant = p;
          mutant.bodies[b].events.erase(mutant.bodies[b].events.begin() + long(e));
          Status s = prove(mutant, layers.module());
          mutants++;
          INFO(name, " ", split, " without ", p.bodies[b].events[e].edge);
          REQUIRE(s.kind() == ErrorKind::Proof);
          CHECK(contains(s.text(), "witness: CTA "));
          CHECK(contains(s.text(), "write `event grid %"));
          CHECK(contains(s.text(), name + ".phase:"));
        }
    }
  }
  MESSAGE(mutants << " mutants");
  CHECK(mutants >= 100);
}

TEST_CASE("a witness names the CTA that has the last unit") {
  auto witnessOf = [](const char *layer, const std::string &settings) {
    Layers layers = readExample(layer);
    Plan p = planOf(layers, settings + " handoff=events");
    p.bodies[0].events.clear();
    return prove(p, layers.module()).text();
  };
  for (auto [layer, partition, owner] : {std::tuple{"tiny_wo_harness", "wide", "127"}, {"tiny_wo_harness", "2d", "127"}, {"tiny_wo_harness", "seed", "15"},
                                         {"wo_harness", "wide", "131"}}) { // of 132 CTAs and 16 slots, which are not dealt where that gives a CTA more
    std::string text = witnessOf(layer, std::string("math=exact wo_split=4 partition=") + partition);
    CHECK_MESSAGE(contains(text, std::string("wo.slots[slot 15] in `gather %p, %x` while CTA ") + owner + " may still"), layer, " ", partition, ": ", text);
  }
}

TEST_CASE("mutants: an event moved off its edge covers nothing") {
  for (const char *name : {"tiny_qwen35_27b", "qwen35_27b", "tiny_mixed_stack"}) {
    Layers layers = readExample(name);
    Plan p = planOf(layers, "handoff=events");
    for (size_t b = 0; b < p.bodies.size(); b++)
      for (size_t e = 0; e < p.bodies[b].events.size(); e++) {
        Plan early = p, late = p;
        early.bodies[b].events[e].from_step -= 1; // arrives before the writer has written
        early.bodies[b].events[e].to_step = early.bodies[b].events[e].from_step;
        late.bodies[b].events[e].to_step += 1; // waits behind the reader
        INFO(name, " ", p.bodies[b].events[e].edge);
        CHECK(prove(early, layers.module()).kind() == ErrorKind::Proof);
        CHECK(prove(late, layers.module()).kind() == ErrorKind::Proof);
      }
  }
}

TEST_CASE("mutants: an event that all that a step writes lies behind, cut into slices, is refused where they do not correspond") {
  int mutants = 0;
  for (const std::string &name : examples()) {
    Layers layers = readExample(name);
    Plan p = planOf(layers, "handoff=events");
    for (size_t b = 0; b < p.bodies.size(); b++)
      for (size_t e = 0; e < p.bodies[b].events.size(); e++) {
        const Event &event = p.bodies[b].events[e];
        if (event.slices > 1 || event.reason == "written") continue;
        Plan mutant = p;
        mutant.bodies[b].events[e].kind = ir::EventKind::Counter;
        mutant.bodies[b].events[e].slices = 2;
        mutant.bodies[b].events[e].arrivals = {1, 1};
        mutants++;
        INFO(name, " ", event.edge);
        CHECK(prove(mutant, layers.module()).kind() == ErrorKind::Proof);
      }
  }
  CHECK(mutants >= 6);
}

TEST_CASE("mutants: a counter of row tiles that does not count all of them is refused") {
  int mutants = 0;
  for (const std::string &name : examples()) {
    Layers layers = readExample(name);
    Plan p = planOf(layers, "handoff=events");
    for (size_t b = 0; b < p.bodies.size(); b++)
      for (size_t e = 0; e < p.bodies[b].events.size(); e++) {
        const Event &event = p.bodies[b].events[e];
        ir::Op from = p.bodies[b].steps[size_t(event.from_step)].op; // others count what a slice's readers need
        if (event.kind != ir::EventKind::Counter || (from != ir::Op::wo && from != ir::Op::fc2)) continue;
        CHECK(event.arrivals == std::vector<int64_t>{p.bodies[b].steps[size_t(event.from_step)].gemv.tiles});
        Plan mutant = p;
        mutant.bodies[b].events[e].arrivals[0]--;
        mutants++;
        INFO(name, " ", event.edge);
        CHECK(prove(mutant, layers.module()).kind() == ErrorKind::Proof);
      }
  }
  CHECK(mutants >= 8);
}

TEST_CASE("mutants: a counter with other slices than its reader's is refused") {
  Layers layers = readExample("qwen35_27b");
  Plan p = planOf(layers, "handoff=events");
  Event &columns = p.bodies[0].events.back();
  REQUIRE(columns.kind == ir::EventKind::Counter);
  REQUIRE(columns.edge == "%u fc1 -> %y fc2");
  columns.slices++;
  CHECK(prove(p, layers.module()).kind() == ErrorKind::Proof);
}

TEST_CASE("mutants: where tags carry the events, a region without them is refused, and so is an event that only seems to wait") {
  int mutants = 0;
  for (const std::string &name : examples(true)) {
    Layers layers = readExample(name);
    Plan p = planOf(layers);
    for (size_t b = 0; b < p.bodies.size(); b++) {
      const Body &body = p.bodies[b];
      bool carried = !body.events.empty() && body.events[0].carried;
      if (!carried) continue;
      for (const Event &e : body.events) CHECK(e.carried); // all or none: one that waits would lean on what the others order
      for (size_t r = 0; r < body.regions.size(); r++) {
        bool handed = false;
        for (const Step &w : body.steps)
          for (const Step &s : body.steps)
            for (const Access &write : w.writes)
              for (const Access &read : s.reads) handed |= w.id < s.id && write.region == int(r) && read.region == int(r);
        if (!handed) continue;
        INFO(name, " ", body.regions[r].name);
        CHECK(body.regions[r].tagged > 0);
        Plan mutant = p;
        mutant.bodies[b].regions[r].tagged = 0;
        mutants++;
        CHECK(prove(mutant, layers.module()).kind() == ErrorKind::Proof);
      }
    }
  }
  CHECK(mutants >= 20);
}

TEST_CASE("mutants: instances that hand on tagged words, where one of them does not, an event is waited for or a step goes nowhere") {
  for (const char *name : {"tiny_stack", "tiny_mixed_stack", "tiny_llama32_1b", "llama32_1b"}) {
    Layers layers = readExample(name);
    const Plan p = planOf(layers, "tokens_max=1");
    INFO(name);
    REQUIRE(p.chains);
    CHECK_MESSAGE(prove(p, layers.module()).ok(), prove(p, layers.module()).text());
    CHECK_FALSE(planOf(layers, "tokens_max=2").chains);
    CHECK_FALSE(planOf(layers, "tokens_max=1 handoff=events").chains);
    auto refused = [&](const std::string &why, auto edit) {
      Plan mutant = p;
      edit(mutant);
      Status s = prove(mutant, layers.module());
      INFO(why, ": ", s.text());
      CHECK(s.kind() == ErrorKind::Proof);
      CHECK(contains(s.text(), why));
      CHECK(contains(s.text(), "set handoff = events"));
    };
    refused("a token may be", [](Plan &m) { m.tokens_max = 2; });
    int regions = 0, events = 0, steps = 0;
    for (size_t b = 0; b < p.bodies.size(); b++) {
      for (size_t r = 0; r < p.bodies[b].regions.size(); r++) {
        Region::Chain chain = p.bodies[b].regions[r].chain;
        if (chain == Region::Chain::None) continue;
        refused(chain == Region::Chain::In ? "reads plain ones" : "writes none", [&](Plan &m) { m.bodies[b].regions[r].chain = Region::Chain::None; });
        regions++;
      }
      for (size_t e = 0; e < p.bodies[b].events.size(); e++, events++)
        refused("the event " + p.bodies[b].events[e].edge, [&](Plan &m) { m.bodies[b].events[e].carried = false; });
      auto hands_on = [&](const Instance &i) { return i.body == int(b); };
      if (std::none_of(p.instances.begin(), p.instances.end() - 1, hands_on)) continue;
      for (size_t s = 0; s + 1 < p.bodies[b].steps.size(); s++, steps++)
        refused("goes into none", [&](Plan &m) { m.bodies[b].steps[s].writes.clear(); });
    }
    CHECK(regions >= 2);
    CHECK(events >= 1);
    CHECK(steps >= 1);
  }
}

TEST_CASE("instances keep their event where a step goes into nothing that is handed on: a CTA might still be in it") {
  auto stack = [](const char *weight, const char *rest) {
    auto layers = Layers::parse("side.phase", std::string("layer @l {\n  dims hidden = 64, ffn = 96\n  tokens 1..2\n  in %x : bf16[tokens, hidden]\n  weight %g : bf16[hidden]\n"
                                              "  weight %w_gate_up : bf16[2 * ffn, hidden]\n  weight %w_down : bf16[hidden, ffn]\n") + weight +
                                              "  %n = norm %x, %g\n  %u = fc1 %n, %w_gate_up { act = silu }\n  %y = fc2 %u, %w_down, %x\n" + rest + "}\nstack @s { repeat(3) { @l } }\n");
    REQUIRE_MESSAGE(layers.ok(), layers.status().text());
    Plan p = planOf(*layers, "tokens_max=1");
    Status s = prove(p, layers->module());
    CHECK_MESSAGE(s.ok(), s.text());
    return p.chains;
  };
  CHECK(stack("", "  return %y\n"));
  CHECK_FALSE(stack("  weight %w_head : bf16[80, hidden]\n", "  %l = head %n, %w_head\n  return %y, %l\n"));
}

TEST_CASE("explicit layers: deleting any event line is refused at the reader's line, with the line to add") {
  for (const char *name : {"tiny_wo_harness", "wo_harness", "tiny_qwen35_27b_seed", "qwen35_27b_seed"}) {
    std::string text = fileText(examplePath(name));
    int events = 0, line = 0;
    for (std::string cut; !(cut = withoutEvent(text, events, &line)).empty(); events++) {
      INFO(name, " without event ", events);
      auto layers = Layers::parse("cut.phase", cut);
      Status s = layers.status();
      if (layers.ok()) {
        auto p = tryPlan(*layers);
        s = p.ok() ? prove(*p, layers->module()) : p.status();
      }
      REQUIRE_FALSE(s.ok());
      CHECK((s.kind() == ErrorKind::Proof || s.kind() == ErrorKind::Input));
      CHECK_MESSAGE(contains(s.text(), "cut.phase:"), s.text());
      CHECK_MESSAGE(contains(s.text(), "event grid %"), s.text());
      // The place is a phase behind the deleted line, and the line to add, put there, satisfies the proof.
      size_t place = s.text().find("cut.phase:"), remedy = s.text().find("`event grid %") + 1;
      int at_line = std::stoi(s.text().substr(place + 10));
      CHECK(at_line >= line);
      std::istringstream rows(cut);
      std::string mended, row;
      for (int n = 1; std::getline(rows, row); n++)
        mended += (n == at_line ? s.text().substr(remedy, s.text().find('`', remedy) - remedy) + "\n" : "") + row + "\n";
      auto again = Layers::parse("mended.phase", mended);
      REQUIRE_MESSAGE(again.ok(), again.status().text());
      Status proved = prove(planOf(*again), again->module());
      CHECK_MESSAGE(proved.ok(), mended, proved.text());
    }
    CHECK(events >= 1);
  }
}

TEST_CASE("explicit layers: a counter where only a grid event will do is refused") {
  std::string text = fileText(examplePath("tiny_qwen35_27b_seed"));
  size_t at = text.find("event grid %h -> %hn");
  REQUIRE(at != std::string::npos);
  text.replace(at, 10, "event counter");
  auto layers = Layers::parse("weak.phase", text);
  Status s = layers.status();
  if (layers.ok()) {
    auto p = tryPlan(*layers);
    s = p.ok() ? prove(*p, layers->module()) : p.status();
  }
  CHECK_FALSE(s.ok());
  CHECK_MESSAGE(contains(s.text(), "event grid %h -> %hn"), s.text());
}

TEST_CASE("explicit layers: embed without the event behind it, and an event inside the head") {
  auto verdict = [](const std::string &behind_norm, const std::string &behind_head) {
    auto layers = Layers::parse("step.phase", "layer @step {\n  tokens 1..8\n  sync explicit\n  in %ids : i32[tokens]\n  weight %table : bf16[100, 64]\n  weight %g : bf16[64]\n"
                                "  weight %w : bf16[100, 64]\n  %x = embed %ids, %table\n  %n = norm %x, %g\n" + behind_norm + "  %l = head %n, %w\n" + behind_head +
                                "  %t = argmax %l\n  return %t\n}\n");
    if (!layers.ok()) return layers.status();
    auto p = tryPlan(*layers);
    return p.ok() ? prove(*p, layers->module()) : p.status();
  };
  Status lost = verdict("", "");
  CHECK(lost.kind() == ErrorKind::Proof);
  CHECK_MESSAGE(contains(lost.text(), "write `event grid %x -> %l`"), lost.text());
  CHECK_MESSAGE(contains(lost.text(), "witness: CTA "), lost.text());
  Status proved = verdict("  event grid %x -> %l\n", "");
  CHECK_MESSAGE(proved.ok(), proved.text());
  Status inside = verdict("  event grid %x -> %l\n", "  event grid %l -> %t\n");
  CHECK(inside.kind() == ErrorKind::Input);
  CHECK_MESSAGE(contains(inside.text(), "one step"), inside.text());
}

TEST_CASE("a grid that no part of the target can hold is refused, the largest part's is not") {
  Layers layers = readExample("tiny_qwen35_27b");
  Plan p = planOf(layers);
  int most = p.target->sm_counts.front();
  p.ctas_pinned = most;
  CHECK(prove(p, layers.module()).ok());
  for (int ctas : {most + 1, 5000}) {
    p.ctas_pinned = ctas;
    Status s = prove(p, layers.module());
    REQUIRE(s.kind() == ErrorKind::Proof);
    CHECK(contains(s.text(), "ctas = " + std::to_string(ctas)));
    CHECK(contains(s.text(), "set ctas <= " + std::to_string(most)));
  }
}
