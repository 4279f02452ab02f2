#!/usr/bin/env python3
"""torch_layer.py: a decode layer as PyTorch runs it in bf16, under a CUDA graph: eager, and with torch.compile.

    torch_layer.py SPEC.json            times every row; see layer.py
    torch_layer.py --error DIR...       the error of the same code in bf16 against the truth in each directory, which holds
                                        inputs.json and the files it names: what `phasec bench --error` wrote"""

import json
import math
import pathlib
import sys

import layer as common  # names what is missing, so it comes first

import torch
import torch.nn.functional as F

# torch.compile modes that leave the graph to us, fastest to compile first, and the seconds that one row may take in each.
COMPILE_MODES = {"default": 90, "max-autotune-no-cudagraphs": 150}
COMPILE_SECONDS_MIN = 5  # with less, a row is not begun
OPS = ("norm", "qkv", "attn", "wo", "gather", "fc1", "fc2")


# --- The layer: phases as functions of tensors, in whatever dtype the weights have ---------------------------------------
def wide(x):
    """fp32 at least: where PyTorch models compute norms and rotations."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def norm(x, gamma, attrs):
    if attrs["gamma"] == "plain":
        return F.rms_norm(x, (x.shape[-1],), gamma, attrs["eps"])
    y = wide(x)
    return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + attrs["eps"]) * (1 + wide(gamma))).to(x.dtype)


def rotate(x, table, attrs):
    """x: [tokens, heads, head_dim]; table: [tokens, 1, rotary], cosines, then sines."""
    rotary = attrs["rotary"]
    half = rotary // 2
    c, s = table[..., :half].to(wide(x).dtype), table[..., half:].to(wide(x).dtype)
    y = wide(x[..., :rotary])
    if attrs["pairing"] == "half":
        a, b = y[..., :half], y[..., half:]
        y = torch.cat([a * c - b * s, b * c + a * s], -1)
    else:
        a, b = y[..., 0::2], y[..., 1::2]
        y = torch.stack([a * c - b * s, b * c + a * s], -1).flatten(-2)
    return torch.cat([y.to(x.dtype), x[..., rotary:]], -1)


def split_rows(body, y, attrs, gated):
    """q [tokens, heads, head_dim], gate [tokens, heads * head_dim] or None, k and v [tokens, kv_heads, head_dim]."""
    heads, kv_heads, dim, tokens = body.dim("heads"), body.dim("kv_heads"), body.dim("head_dim"), y.shape[0]
    front, k, v = y.split([y.shape[1] - 2 * kv_heads * dim, kv_heads * dim, kv_heads * dim], 1)
    gate = None
    if gated and attrs["gate_rows"] == "per_head":
        front = front.view(tokens, heads, 2, dim)
        front, gate = front[:, :, 0], front[:, :, 1].reshape(tokens, heads * dim)
    elif gated:
        front, gate = front.split(heads * dim, 1)
    return front.reshape(tokens, heads, dim), gate, k.reshape(tokens, kv_heads, dim), v.reshape(tokens, kv_heads, dim)


def qkv(body, phase, env, cache):
    attrs = phase["attrs"]
    x, w = (env[name] for name in phase["operands"][:2])
    y = F.linear(x, w, env[attrs["bias"]] if attrs["bias"] else None)
    q, gate, k, v = split_rows(body, y, attrs, len(phase["results"]) == 2)
    if attrs["q_norm"]:
        q, k = norm(q, env[attrs["q_norm"]], attrs), norm(k, env[attrs["k_norm"]], attrs)
    if attrs["rope"]:
        table = env[attrs["rope"]].index_select(0, cache["position"])[:, None]
        q, k = rotate(q, table, attrs), rotate(k, table, attrs)
    for rows, values, scale in ((cache["k"], k, cache["scales"][0]), (cache["v"], v, cache["scales"][1])):
        if cache["dtype"] == torch.float8_e4m3fn:
            values = ((wide(values) / scale).to(cache["dtype"]).to(wide(values).dtype) * scale).to(values.dtype)
        else:  # attention sees what the cache keeps
            values = values.to(cache["dtype"]).to(values.dtype)
        rows.index_copy_(2, cache["position"], values[:, :, None])
    return (q.flatten(1), gate)[:len(phase["results"])]


def attn(body, phase, env, cache):
    heads, kv_heads, dim, q = body.dim("heads"), body.dim("kv_heads"), body.dim("head_dim"), env[phase["operands"][0]]
    # The query heads of a KV head as rows of one query: nothing is masked, and every SDPA backend reads K and V once.
    y = F.scaled_dot_product_attention(q.view(q.shape[0], kv_heads, heads // kv_heads, dim), cache["k"], cache["v"],
                                       scale=phase["attrs"]["scale"] or 1 / math.sqrt(dim)).reshape(q.shape)
    return (y * torch.sigmoid(env[phase["operands"][2]]) if len(phase["operands"]) > 2 else y,)


def fc1(phase, env):
    y = F.linear(*(env[name] for name in phase["operands"]))
    gate, up = y.chunk(2, 1)
    return ((F.silu(gate) if phase["attrs"]["act"] == "silu" else F.gelu(gate, approximate="tanh")) * up,)


def evaluate(body, weights, cache, inputs):
    """The values of the layer by name. `cache` gets this step's rows."""
    env = {**weights, **inputs}
    for phase in body.phases:
        op, names = phase["op"], phase["operands"]
        if op == "norm":
            out = (norm(env[names[0]], env[names[1]], phase["attrs"]),)
        elif op == "qkv":
            out = qkv(body, phase, env, cache)
        elif op == "attn":
            out = attn(body, phase, env, cache)
        elif op == "fc1":
            out = fc1(phase, env)
        elif op == "gather":
            out = (sum(env[name] for name in names[1:]) + env[names[0]],)
        else:  # wo, fc2
            y = F.linear(env[names[0]], env[names[1]])
            out = (y + env[names[2]] if len(names) > 2 else y,)
        env.update(zip(phase["results"], out))
    return env


def check(body):
    body.refuse(OPS, act_quant=True)


# --- Timing --------------------------------------------------------------------------------------------------------------
def make_weights(body, device):
    weights = {v["name"]: torch.randn(v["shape"], device=device, dtype=torch.bfloat16) / math.sqrt(v["shape"][1]) for v in body.matrices()}
    weights.update({v["name"]: torch.ones(v["shape"], device=device, dtype=torch.bfloat16) for v in body.vectors()})
    return weights


def make_cache(body, row, device):
    """Dense K and V, [tokens, kv_heads, rows, head_dim]: every sequence has the same rows, the last one is this step's."""
    if not body.of_kind("cache"):
        return {}
    shape = (row["tokens"], body.dim("kv_heads"), row["context"] + 1, body.dim("head_dim"))
    position = torch.tensor([row["context"]], device=device)
    return {"position": position, "dtype": torch.bfloat16, "scales": (1, 1), **{n: torch.randn(shape, device=device, dtype=torch.bfloat16) for n in "kv"}}


def make_inputs(body, row, device):
    def one(value):
        if value["shape"][0] >= 0:  # a rotary table
            return common.rope_table(row["context"] + 1, value["shape"][1], device)
        return torch.randn((row["tokens"], value["shape"][1]), device=device, dtype=torch.bfloat16)

    return {v["name"]: one(v) for v in body.of_kind("input")}


class Chain:
    """Many layers, one after the other, each with weights and a cache of its own."""

    def __init__(self, order, device):
        weight_bytes = 2 * sum(v["shape"][0] * v["shape"][1] for body in order for v in body.matrices())
        self.order = order * common.copies_for(weight_bytes)
        self.weights = [make_weights(body, device) for body in self.order]
        self.passes = -(-common.LAYERS_PER_SAMPLE // len(self.order))
        self.layers = self.passes * len(self.order)
        self.device = device

    def prepare(self, row):
        self.caches = self.inputs = None  # before the next ones: long contexts are gigabytes
        self.caches = [make_cache(body, row, self.device) for body in self.order]
        self.inputs = {body.name: make_inputs(body, row, self.device) for body in self.order}

    def run(self, step):
        for _ in range(self.passes):
            x = None
            for body, weights, cache in zip(self.order, self.weights, self.caches):
                inputs = dict(self.inputs[body.name])
                if x is not None and x.shape == inputs[body.stream()].shape:
                    inputs[body.stream()] = x
                x = step(body, weights, cache, inputs)


def step(body, weights, cache, inputs):
    return evaluate(body, weights, cache, inputs)[body.returns[0]]


def time_compiled(chain, row, mode, budget, samples):
    """One compilation for each batch, which serves all contexts."""
    for body, cache in zip(chain.order, chain.caches):
        for value in body.of_kind("input"):
            if value["shape"][0] >= 0:
                torch._dynamo.mark_dynamic(chain.inputs[body.name][value["name"]], 0)
        for name in ("k", "v") if cache else ():
            torch._dynamo.mark_dynamic(cache[name], 2)
    compiled = torch.compile(step, mode=mode)
    work = lambda: common.measure(arm(mode), row, chain.layers, samples, lambda: chain.run(compiled))
    budget.limited(min(COMPILE_MODES[mode], budget.left()), work)


def arm(mode):
    return "torch.compile " + mode


def time_rows(spec):
    order = common.bodies(spec)
    for body in order:
        check(body)
    budget, chain = common.Budget(spec["seconds"]), Chain(order, "cuda")
    samples = spec["samples"]

    def eager(row):
        chain.prepare(row)
        common.measure("torch eager", row, chain.layers, samples, lambda: chain.run(step))

    def compiled(row, mode):
        chain.prepare(row)
        time_compiled(chain, row, mode, budget, samples)

    for row in spec["rows"]:  # what is certain first: a limit that strikes then costs the compiled arms only
        common.attempt("torch eager", row, lambda: eager(row))
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.automatic_dynamic_shapes = False  # a batch is what is measured, so it is compiled for
    for mode in COMPILE_MODES:
        torch._dynamo.reset()
        for row in spec["rows"]:
            if budget.left() < COMPILE_SECONDS_MIN or not common.attempt(arm(mode), row, lambda: compiled(row, mode)):
                break


# --- Error ---------------------------------------------------------------------------------------------------------------
E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]


def unpack_nvfp4(value, codes, scales, scale):
    """Values in double from checkpoint bytes: even k in the low nibble, e4m3 scales per 16 (linear, or 128x4-swizzled)."""
    rows, cols = value["shape"]
    table = torch.tensor(E2M1 + [-x for x in E2M1], dtype=torch.float64, device=codes.device)
    values = table[torch.stack([codes & 15, codes >> 4], -1).long()].view(rows, cols // 16, 16)
    columns = cols // 16
    if value["scales"] == "swizzled":
        row_tiles, column_tiles = -(-rows // 128), -(-columns // 4)
        scales = scales.view(row_tiles, column_tiles, 32, 4, 4).permute(0, 3, 2, 1, 4).reshape(row_tiles * 128, column_tiles * 4)[:rows, :columns]
    block = scales.reshape(rows, columns).contiguous().view(torch.float8_e4m3fn).double()
    factor = scale.double() if value["global"] == "multiply" else 1 / scale.double()
    return (values * block[..., None]).view(rows, cols) * factor


class Case:
    """One directory: the inputs of instance 0 in checkpoint layouts, and the truth."""

    def __init__(self, directory, device):
        self.directory, self.device = pathlib.Path(directory), device
        self.about = json.loads((self.directory / "inputs.json").read_text())
        self.body = common.bodies(self.about)[0]

    def file(self, name, dtype):
        data = bytearray((self.directory / name).read_bytes())
        return torch.frombuffer(data, dtype=dtype).to(self.device)

    def array(self, name, dtype=torch.uint8):
        return self.file(self.about["arrays"][name], dtype)

    def matrix(self, value):
        name, (rows, cols) = value["name"], value["shape"]
        if value["format"] == "bf16":
            return self.array(name, torch.bfloat16).view(rows, cols).double()
        scale = self.array(name + ".scale", torch.float32)
        if value["format"] == "fp8_e4m3":
            return self.array(name, torch.float8_e4m3fn).view(rows, cols).double() * scale.double()[:, None]
        return unpack_nvfp4(value, self.array(name), self.array(name + ".scales"), scale)

    def vector(self, value):
        return self.array(value["name"], torch.float32 if value["format"] == "f32" else torch.bfloat16).double()

    def input(self, value):
        rows, width = value["shape"]
        data = self.array(value["name"], torch.float32 if value["dtype"] == "f32" else torch.bfloat16)
        return data.view(-1, width)[:self.about["tokens"] if rows < 0 else rows].double()

    def cache(self, value):
        """The paged cache as dense K and V in double, with room for this step's rows."""
        about, kv_heads, dim = self.about["caches"][value["name"]], self.body.dim("kv_heads"), self.body.dim("head_dim")
        context, page = self.about["context"], about["page"]
        table = torch.tensor(self.about["page_table"], device=self.device).view(self.about["tokens"], -1)[:, :context // page + 1]
        fp8 = about["dtype"] == "fp8_e4m3"
        dtype = torch.float8_e4m3fn if fp8 else torch.bfloat16
        scales = self.file(about["scales"], torch.float32).tolist() if fp8 else (1, 1)
        sides = {}
        for name, file, offset, scale in (("k", about["k"], 0, scales[0]), ("v", about["v"], about["v_offset"], scales[1])):
            raw = self.file(file, torch.uint8)
            paged = raw.as_strided((about["pages"], page, kv_heads, about["row_bytes"]),
                                   (about["page_stride"], about["row_stride"], about["head_stride"], 1), offset)
            rows = paged[table].flatten(1, 2)[:, :context + 1].transpose(1, 2).contiguous()
            rows = rows.view(dtype).double()
            if any(phase["op"] == "qkv" for phase in self.body.phases):
                rows[:, :, context] = 0  # not a number until this step writes it
            sides[name] = rows * scale
        return {"position": torch.tensor([context], device=self.device), "dtype": dtype, "scales": scales, **sides}

    def run(self, dtype):
        narrow = lambda tensors: {name: tensor.to(dtype) for name, tensor in tensors.items()}
        weights = narrow({**{v["name"]: self.matrix(v) for v in self.body.matrices()}, **{v["name"]: self.vector(v) for v in self.body.vectors()}})
        inputs = {v["name"]: self.input(v).to(torch.float64 if v["shape"][0] >= 0 else dtype) for v in self.body.of_kind("input")}
        cache = {}
        for value in self.body.of_kind("cache"):
            cache = self.cache(value)
            cache.update(narrow({name: cache[name] for name in "kv"}))
        return evaluate(self.body, weights, cache, inputs)

    def truth(self, name):
        return self.file(self.about["truth"][name], torch.float64)


def rel_l2(mine, truth):
    return ((mine.double().flatten() - truth).norm() / truth.norm()).item()


def errors(directories):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for directory in directories:
        case = Case(directory, device)
        check(case.body)
        narrow, double = case.run(torch.bfloat16), case.run(torch.float64)
        for name in case.body.returns:
            # `self_rel_l2` says whether this file and the reference mean the same layer: it is rounding of double.
            common.emit(seed=case.about["seed"], value=name, rel_l2=rel_l2(narrow[name], case.truth(name)),
                        self_rel_l2=rel_l2(double[name], case.truth(name)))


def main(arguments):
    torch.manual_seed(0)
    # bf16 sums are kept in fp32 throughout: PyTorch at its most accurate, which is what an error is judged by.
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    try:
        with torch.no_grad():
            if arguments[:1] == ["--error"]:
                errors(arguments[1:])
            else:
                time_rows(json.loads(pathlib.Path(arguments[0]).read_text()))
    except common.Unsupported as why:
        common.emit(error=str(why))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
