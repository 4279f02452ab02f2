// consumer.cpp: a host that uses the public headers and links libphasec.so.
#include <phasec/config.h>
#include <phasec/status.h>

#include <cstdio>

int main() {
  phasec::Schedule schedule;
  phasec::Status good = schedule.set("wo_split", "8", phasec::Origin::Host);
  phasec::Status bad = schedule.set("no_such_knob", "1", phasec::Origin::Host);
  if (!good.ok() || bad.ok() || phasec::exitCode(bad.kind()) != 2) {
    std::fprintf(stderr, "good: '%s', bad: '%s'\n", good.text().c_str(), bad.text().c_str());
    return 1;
  }
  std::printf("phasec consumer: wo_split=%s\n", schedule.text("wo_split").c_str());
  return 0;
}
