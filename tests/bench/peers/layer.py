"""layer.py: what the peers of `phasec bench` share. A peer is called as `peer.py SPEC.json`, prints one JSON object per line
and runs the layer that the spec describes; no model is known by name here.

SPEC: {"plan": a plan as `phasec render --emit=plan --json` prints it, "rows": [{"tokens", "context"}, ...], "samples": timed
samples per row, "seconds": how long the peer may take}. With --error it is a list of directories instead (torch_layer.py)."""

import importlib
import json
import signal
import sys
import time

COLD_BYTES = 800_000_000  # distinct weights between two uses of an address; L2 holds far less
LAYERS_PER_SAMPLE = 24
COPIES_MIN, COPIES_MAX = 4, 64
WARMUPS = 3


def emit(**figures):
    print(json.dumps(figures), flush=True)


def need(package):
    try:
        return importlib.import_module(package)
    except ImportError as error:
        emit(error=f"needs the Python package {package} ({error}): pip install {package}")
        sys.exit(0)


torch = need("torch")


class Unsupported(Exception):
    """The layer has something that this peer does not express."""


class Body:
    """One kind of layer of the plan: its dims, values by name, phases and returns."""

    def __init__(self, body):
        self.name, self.dims, self.phases, self.returns = body["layer"], body["dims"], body["phases"], body["returns"]
        self.values = {value["name"]: value for value in body["values"]}

    def dim(self, name):
        return self.dims[name]

    def of_kind(self, kind):
        return [value for value in self.values.values() if value["kind"] == kind]

    def matrices(self):
        return [value for value in self.of_kind("weight") if len(value["shape"]) == 2]

    def vectors(self):
        return [value for value in self.of_kind("weight") if len(value["shape"]) == 1]

    def stream(self):
        """The input that takes what the instance before returns."""
        return self.of_kind("input")[0]["name"]

    def refuse(self, ops, **attributes):
        """Unsupported when a phase is none of `ops`, or has one of the attributes (True: set at all)."""
        for phase in self.phases:
            if phase["op"] not in ops:
                raise Unsupported(f"`{phase['op']}` is not expressed by this peer")
            for name in attributes:
                if phase["attrs"].get(name):
                    raise Unsupported(f"{name} is not expressed by this peer")


def bodies(spec):
    """The bodies of the launch, in the order of its instances, without the repetitions of a launch of many alike."""
    plan = spec["plan"]
    kinds = [Body(body) for body in plan["bodies"]]
    order = [kinds[instance["body"]] for instance in plan["instances"]]
    return order[:1] if len(kinds) == 1 else order


def rope_table(positions, rotary, device):
    angle = torch.arange(positions, device=device, dtype=torch.float64)[:, None] * \
        10000.0 ** (-torch.arange(rotary // 2, device=device, dtype=torch.float64) * 2 / rotary)
    return torch.cat([angle.cos(), angle.sin()], 1).float()


def talk(text):
    print(text, file=sys.stderr, flush=True)


class Budget:
    """Seconds that are left, and a limit on one piece of work that may never end (compilers)."""

    def __init__(self, seconds):
        self.end = time.monotonic() + seconds

    def left(self):
        return self.end - time.monotonic()

    def limited(self, seconds, work):
        def stop(*_):
            raise TimeoutError(f"not done after {seconds:.0f} s")

        before = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
        try:
            return work()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def copies_for(weight_bytes):
    return min(max(-(-COLD_BYTES // max(weight_bytes, 1)), COPIES_MIN), COPIES_MAX)


def time_graph(work, samples):
    """Microseconds of `samples` replays of a CUDA graph of work(). The replays are enqueued without waiting, so that the GPU
    never idles because the host is late."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARMUPS):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    for _ in range(WARMUPS):
        graph.replay()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(samples + 1)]
    events[0].record()
    for event in events[1:]:
        graph.replay()
        event.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) * 1e3 for a, b in zip(events, events[1:])]


def measure(arm, row, layers, samples, work):
    """Times work(), which runs `layers` layers, and prints the figures."""
    us = time_graph(work, samples)
    emit(arm=arm, tokens=row["tokens"], context=row["context"], layers=layers, samples_us=us)
    talk(f"{arm}: tokens {row['tokens']}, context {row['context']}: {sorted(us)[len(us) // 2] / layers:.2f} us per layer")


def attempt(arm, row, work):
    """Whether work() came to an end: out of memory, out of time or a compiler's failure costs one row of one arm."""
    try:
        work()
        return True
    except Unsupported:
        raise
    except Exception as error:
        emit(arm=arm, tokens=row["tokens"], context=row["context"], error=f"{type(error).__name__}: {error}".splitlines()[0][:300])
        return False
