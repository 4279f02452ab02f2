#!/usr/bin/env python3
"""triton_layer.py: the same-format baseline: a decode layer of autotuned Triton kernels under a CUDA graph, whose GEMVs read
the weights as phasec does (NVFP4 W4A16, FP8 W8A16, bf16) and dequantise in the kernel. Attention is PyTorch's SDPA over a
bf16 cache.

    triton_layer.py SPEC.json           times every row; see layer.py

Before anything is timed, one layer is compared with torch_layer.py in fp32 on the dequantised weights."""

import json
import math
import pathlib
import sys

import layer as common  # names what is missing, so it comes first

import torch

triton = common.need("triton")
tl = common.need("triton.language")

import torch_layer

REL_L2_MAX = 0.02  # of the check: bf16 values between kernels
TOKENS_PADDED = 16  # columns of the smallest tensor-core product; a batch up to that costs the same


# --- GEMV ----------------------------------------------------------------------------------------------------------------
def config(rows, span, warps, stages, splits=1, dot=True):
    return triton.Config({"BLOCK_ROWS": rows, "BLOCK_SPAN": span, "SPLITS": splits, "DOT": dot}, num_warps=warps, num_stages=stages)


CONFIGS = [config(16, 256, 4, 4), config(32, 128, 4, 4), config(32, 256, 4, 4), config(64, 128, 4, 4), config(64, 256, 8, 3),
           config(128, 128, 8, 4), config(16, 256, 4, 4, 2), config(32, 256, 4, 4, 4), config(64, 128, 4, 4, 4), config(64, 256, 8, 3, 8),
           config(8, 512, 4, 3, dot=False), config(16, 256, 4, 4, dot=False), config(16, 512, 8, 3, dot=False),
           config(8, 512, 4, 3, 2, dot=False), config(16, 256, 4, 4, 4, dot=False)]


def usable(configs, arguments, **constants):
    """Splits need sums in memory; products without tensor cores take one token."""
    named = {**arguments, **constants}
    return [c for c in configs if (c.kwargs["SPLITS"] == 1 or named["ADD"]) and (c.kwargs["DOT"] or named["tokens"] == 1)]


def time_config(call, quantiles):
    return triton.testing.do_bench(call, warmup=5, rep=25, quantiles=quantiles)


@triton.jit
def load_x(x_ptr, k, inside, tokens, cols, DOT: tl.constexpr, TOKENS: tl.constexpr, TYPE: tl.constexpr):
    """Activations: [span, TOKENS], or [1, span] of the only token."""
    if DOT:
        m = tl.arange(0, TOKENS)
        return tl.load(x_ptr + m[None, :] * cols + k[:, None], mask=(m < tokens)[None, :] & inside[:, None], other=0.0).to(TYPE)
    else:
        return tl.load(x_ptr + k, mask=inside, other=0.0).to(tl.float32)[None, :]


@triton.jit
def multiply(w, x, acc, DOT: tl.constexpr):
    if DOT:
        return tl.dot(w, x, acc)
    else:
        return acc + w.to(tl.float32) * x


@triton.jit
def scaled(bits, scales_ptr, groups, SPAN: tl.constexpr, ROWS: tl.constexpr, rows_mask, columns):
    """e2m1 codes as fp16 bits (their values times 2^-14, exactly) times their block's e4m3 scale: exact in fp16."""
    codes = tl.load(scales_ptr, mask=rows_mask[:, None] & (groups < columns)[None, :], other=0)
    scale = codes.to(tl.float8e4nv, bitcast=True).to(tl.float16)
    values = tl.reshape(bits.to(tl.float16, bitcast=True), (ROWS, SPAN // 16, 16))
    return tl.reshape(values * scale[:, :, None], (ROWS, SPAN))


@triton.autotune(CONFIGS, key=["tokens", "rows", "cols", "FORMAT", "ADD"], restore_value=["out_ptr"], do_bench=time_config,
                 prune_configs_by={"early_config_prune": usable})
@triton.jit(do_not_specialize=["tokens"])
def gemv(x_ptr, w_ptr, block_ptr, scale_ptr, out_ptr, tokens, rows, cols, columns, FORMAT: tl.constexpr, ROW_SCALE: tl.constexpr, ADD: tl.constexpr,
         TOKENS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_SPAN: tl.constexpr, SPLITS: tl.constexpr, DOT: tl.constexpr):
    """out[m, n] (ADD: +)= sum over k of x[m, k] * w[n, k]. nvfp4: a byte of w holds k in its low and k + cols / 2 in its high
    nibble, so that both activation tiles are contiguous; `columns` is half the scales of a row, an argument so that Triton
    sees what divides it."""
    n = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    real = n < rows
    if FORMAT == "nvfp4":
        span = cols // 2
    else:
        span = cols
    if DOT:
        acc = tl.zeros((BLOCK_ROWS, TOKENS), tl.float32)
    else:
        acc = tl.zeros((BLOCK_ROWS, BLOCK_SPAN), tl.float32)
    for block in range(tl.program_id(1), tl.cdiv(span, BLOCK_SPAN), SPLITS):
        k = block * BLOCK_SPAN + tl.arange(0, BLOCK_SPAN)
        inside = k < span
        w = tl.load(w_ptr + n.to(tl.int64)[:, None] * span + k[None, :], mask=real[:, None] & inside[None, :], other=0)
        if FORMAT == "nvfp4":
            g = block * (BLOCK_SPAN // 16) + tl.arange(0, BLOCK_SPAN // 16)
            scales = block_ptr + n[:, None] * (2 * columns) + g[None, :]
            bits = w.to(tl.uint16)
            low = scaled(((bits & 0x07) << 9) | ((bits & 0x08) << 12), scales, g, BLOCK_SPAN, BLOCK_ROWS, real, columns)
            high = scaled(((bits & 0x70) << 5) | ((bits & 0x80) << 8), scales + columns, g, BLOCK_SPAN, BLOCK_ROWS, real, columns)
            acc = multiply(low, load_x(x_ptr, k, inside, tokens, cols, DOT, TOKENS, tl.float16), acc, DOT)
            acc = multiply(high, load_x(x_ptr + span, k, inside, tokens, cols, DOT, TOKENS, tl.float16), acc, DOT)
        elif FORMAT == "fp8_e4m3":
            values = w.to(tl.float8e4nv, bitcast=True).to(tl.float16)
            acc = multiply(values, load_x(x_ptr, k, inside, tokens, cols, DOT, TOKENS, tl.float16), acc, DOT)
        else:
            acc = multiply(w, load_x(x_ptr, k, inside, tokens, cols, DOT, TOKENS, tl.bfloat16), acc, DOT)
    if ROW_SCALE:
        scale = tl.load(scale_ptr + n, mask=real, other=0.0)
    else:
        scale = tl.load(scale_ptr + n * 0)
    if DOT:
        m = tl.arange(0, TOKENS)
        to = out_ptr + m[None, :] * rows + n[:, None]
        sums = acc * scale[:, None]
        mask = real[:, None] & (m < tokens)[None, :]
    else:
        to = out_ptr + n
        sums = tl.sum(acc, 1) * scale
        mask = real
    if ADD:
        tl.atomic_add(to, sums, mask=mask, sem="relaxed")
    else:
        tl.store(to, sums.to(out_ptr.dtype.element_ty), mask=mask)


# --- What lies between the GEMVs -----------------------------------------------------------------------------------------
@triton.jit
def rms_norm(x_ptr, gamma_ptr, out_ptr, width, eps, ONE_PLUS: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    inside = i < width
    x = tl.load(x_ptr + tl.program_id(0) * width + i, mask=inside, other=0.0).to(tl.float32)
    gamma = tl.load(gamma_ptr + i, mask=inside, other=0.0).to(tl.float32)
    if ONE_PLUS:
        gamma += 1.0
    y = x * tl.rsqrt(tl.sum(x * x, 0) / width + eps) * gamma
    tl.store(out_ptr + tl.program_id(0) * width + i, y.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def finish_heads(y_ptr, q_ptr, k_ptr, v_ptr, rope_ptr, q_gamma_ptr, k_gamma_ptr, position_ptr, width, head_stride, rows, eps,
                 HEADS: tl.constexpr, KV_HEADS: tl.constexpr, DIM: tl.constexpr, ROTARY: tl.constexpr, HALF: tl.constexpr,
                 NORM: tl.constexpr, ONE_PLUS: tl.constexpr, BLOCK: tl.constexpr):
    """One (token, head): q/k-norm, rotary embedding; q to q_ptr, k and v to row `position` of the cache."""
    token, head = tl.program_id(0), tl.program_id(1)
    is_q, is_v = head < HEADS, head >= HEADS + KV_HEADS
    d = tl.arange(0, BLOCK)
    inside = d < DIM
    position = tl.load(position_ptr)
    start = token * width + tl.where(is_q, head * head_stride, width - (2 * KV_HEADS - (head - HEADS)) * DIM)
    v = tl.load(y_ptr + start + d, mask=inside, other=0.0).to(tl.float32)
    # The other element of each rotated pair; the element itself where nothing rotates.
    rotates = d < ROTARY
    if HALF:
        first = d < ROTARY // 2
        pair = tl.where(rotates, tl.where(first, d + ROTARY // 2, d - ROTARY // 2), d)
        angle = tl.where(first, d, d - ROTARY // 2)
    else:
        first = d % 2 == 0
        pair = tl.where(rotates, tl.where(first, d + 1, d - 1), d)
        angle = d // 2
    other = tl.load(y_ptr + start + pair, mask=inside, other=0.0).to(tl.float32)
    if NORM:
        gammas = tl.where(is_q, q_gamma_ptr, k_gamma_ptr)
        g = tl.load(gammas + d, mask=inside, other=0.0).to(tl.float32)
        g_other = tl.load(gammas + pair, mask=inside, other=0.0).to(tl.float32)
        if ONE_PLUS:
            g += 1.0
            g_other += 1.0
        factor = tl.rsqrt(tl.sum(v * v, 0) / DIM + eps)
        v = tl.where(is_v, v, v * factor * g)
        other = other * factor * g_other
    if ROTARY > 0:
        turned = rotates & (is_v == 0)
        c = tl.load(rope_ptr + position * ROTARY + angle, mask=turned, other=1.0)
        s = tl.load(rope_ptr + position * ROTARY + ROTARY // 2 + angle, mask=turned, other=0.0)
        v = v * c + tl.where(first, -other, other) * s
    out = v.to(q_ptr.dtype.element_ty)
    kv_head = (head - HEADS) % KV_HEADS
    row = ((token * KV_HEADS + kv_head).to(tl.int64) * rows + position) * DIM + d
    tl.store(q_ptr + (token * HEADS + head) * DIM + d, out, mask=inside & is_q)
    tl.store(k_ptr + row, out, mask=inside & (is_q == 0) & (is_v == 0))
    tl.store(v_ptr + row, out, mask=inside & is_v)


@triton.jit
def gate_heads(a_ptr, y_ptr, width, head_stride, gate_offset, HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr):
    """a *= sigmoid(gate), in place; the gate lies in the projection's rows."""
    token, head, d = tl.program_id(0), tl.program_id(1), tl.arange(0, BLOCK)
    inside = d < DIM
    to = a_ptr + (token * HEADS + head) * DIM + d
    gate = tl.load(y_ptr + token * width + head * head_stride + gate_offset + d, mask=inside, other=0.0).to(tl.float32)
    a = tl.load(to, mask=inside, other=0.0).to(tl.float32)
    tl.store(to, (a * tl.sigmoid(gate)).to(a_ptr.dtype.element_ty), mask=inside)


@triton.jit
def activate(y_ptr, u_ptr, width, GELU: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = i < width
    row = y_ptr + tl.program_id(0) * 2 * width
    gate = tl.load(row + i, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(row + width + i, mask=inside, other=0.0).to(tl.float32)
    if GELU:  # tanh(z) = 2 sigmoid(2 z) - 1
        act = gate * tl.sigmoid(1.5957691216057308 * (gate + 0.044715 * gate * gate * gate))
    else:
        act = gate * tl.sigmoid(gate)
    tl.store(u_ptr + tl.program_id(0) * width + i, (act * up).to(u_ptr.dtype.element_ty), mask=inside)


# --- The layer -----------------------------------------------------------------------------------------------------------
class Matrix:
    """Random weights of a format as the kernel reads them."""

    def __init__(self, value, device):
        self.format, (self.rows, self.cols) = value["format"], value["shape"]
        norm = 1 / math.sqrt(self.cols)
        shape, empty = (self.rows, self.cols), torch.zeros(1, device=device)
        self.block, self.scale, self.row_scale = empty, empty + 1, False
        if self.format == "bf16":
            self.data = torch.randn(shape, device=device, dtype=torch.bfloat16) * norm
        elif self.format == "fp8_e4m3":
            self.data = torch.randn(shape, device=device, dtype=torch.bfloat16).to(torch.float8_e4m3fn).view(torch.uint8)
            self.row_scale = value["fp8_scale"] == "row"
            self.scale = torch.full((self.rows if self.row_scale else 1,), norm, device=device)
        else:
            if self.cols % 32:
                raise common.Unsupported(f"nvfp4 with {self.cols} columns is not expressed by this peer")
            self.data = torch.randint(0, 256, (self.rows, self.cols // 2), device=device, dtype=torch.uint8)
            self.block = torch.randint(0x30, 0x40, (self.rows, self.cols // 16), device=device, dtype=torch.uint8)  # 0.5 .. 1.9
            self.scale = torch.full((1,), norm / 3 * 2.0 ** 14, device=device)  # see scaled()

    def bytes(self):
        return self.data.nbytes + (self.block.nbytes if self.format == "nvfp4" else 0)

    def dequantised(self):
        if self.format == "bf16":
            return self.data.float()
        if self.format == "fp8_e4m3":
            return self.data.view(torch.float8_e4m3fn).float() * self.scale[:, None]
        table = torch.tensor(torch_layer.E2M1 + [-x for x in torch_layer.E2M1], device=self.data.device)
        codes = table[torch.cat([self.data & 15, self.data >> 4], 1).long()].view(self.rows, -1, 16)
        return (codes * self.block.view(torch.float8_e4m3fn).float()[..., None]).view(self.rows, self.cols) * self.scale / 2.0 ** 14

    def apply(self, x, out, add):
        """`out` is bf16 and written, or fp32 and added to."""
        grid = lambda c: (triton.cdiv(self.rows, c["BLOCK_ROWS"]), c["SPLITS"])
        gemv[grid](x, self.data, self.block, self.scale, out, x.shape[0], self.rows, self.cols, self.cols // 32,
                   FORMAT=self.format, ROW_SCALE=self.row_scale, ADD=add, TOKENS=TOKENS_PADDED)
        return out


class Layer:
    """One instance: its weights, and its phases as launches."""

    def __init__(self, body, device):
        body.refuse(torch_layer.OPS, act_quant=True, bias=True)
        self.body = body
        self.matrices = {v["name"]: Matrix(v, device) for v in body.matrices()}
        self.vectors = {v["name"]: torch.randn(v["shape"], device=device, dtype=torch.bfloat16) * 0.1 + 1 for v in body.vectors()}

    def run(self, cache, inputs):
        """The first returned value. The residual stream is fp32, and what is added to it is added in place."""
        env = {**self.vectors, **inputs}
        for phase in self.body.phases:
            out = getattr(self, phase["op"])(phase, env, cache, *phase["operands"])
            env.update(zip(phase["results"], out if isinstance(out, tuple) else (out,)))
        return env[self.body.returns[0]]

    def new(self, x, width):
        return torch.empty((x.shape[0], width), device=x.device, dtype=torch.bfloat16)

    def norm(self, phase, env, cache, x, gamma):
        x, attrs = env[x], phase["attrs"]
        out = self.new(x, x.shape[1])
        rms_norm[(x.shape[0],)](x, env[gamma], out, x.shape[1], attrs["eps"], ONE_PLUS=attrs["gamma"] == "one_plus",
                                BLOCK=triton.next_power_of_2(x.shape[1]), num_warps=8)
        return out

    def qkv(self, phase, env, cache, x, w, kv):
        attrs, x, matrix = phase["attrs"], env[x], self.matrices[w]
        heads, kv_heads, dim = (self.body.dim(n) for n in ("heads", "kv_heads", "head_dim"))
        y = matrix.apply(x, self.new(x, matrix.rows), False)
        per_head = attrs["gate_rows"] == "per_head" and len(phase["results"]) == 2
        stride, gate = (2 * dim, dim) if per_head else (dim, heads * dim)
        q = self.new(x, heads * dim)
        absent = y  # of a pointer that the kernel does not read
        finish_heads[(x.shape[0], heads + 2 * kv_heads)](
            y, q, cache["k"], cache["v"], env[attrs["rope"]] if attrs["rope"] else absent, env[attrs["q_norm"]] if attrs["q_norm"] else absent,
            env[attrs["k_norm"]] if attrs["k_norm"] else absent, cache["position"], y.shape[1], stride, cache["k"].shape[2], attrs["eps"],
            HEADS=heads, KV_HEADS=kv_heads, DIM=dim, ROTARY=attrs["rotary"], HALF=attrs["pairing"] == "half", NORM=bool(attrs["q_norm"]),
            ONE_PLUS=attrs["gamma"] == "one_plus", BLOCK=triton.next_power_of_2(dim), num_warps=1)
        return q, (y, stride, gate)

    def attn(self, phase, env, cache, q, kv, gate=None):
        heads, kv_heads, dim, x = self.body.dim("heads"), self.body.dim("kv_heads"), self.body.dim("head_dim"), env[q].to(torch.bfloat16)
        a = torch.nn.functional.scaled_dot_product_attention(x.view(-1, kv_heads, heads // kv_heads, dim), cache["k"], cache["v"],
                                                             scale=phase["attrs"]["scale"] or 1 / math.sqrt(dim)).reshape(x.shape)
        if gate:
            y, stride, offset = env[gate] if isinstance(env[gate], tuple) else (env[gate], dim, 0)
            gate_heads[(x.shape[0], heads)](a, y, y.shape[1], stride, offset, HEADS=heads, DIM=dim, BLOCK=triton.next_power_of_2(dim), num_warps=1)
        return a

    def wo(self, phase, env, cache, a, w):
        return (lambda out: self.matrices[w].apply(env[a], out, True)),  # gather says what it is added to

    def gather(self, phase, env, cache, partials, residual=None):
        rows = env[phase_operand_rows(self.body, partials)]
        return env[partials](self.residual(env, residual, rows, self.body.dim("hidden")))

    def fc1(self, phase, env, cache, x, w):
        x, matrix = env[x], self.matrices[w]
        y = matrix.apply(x, self.new(x, matrix.rows), False)
        u = self.new(x, matrix.rows // 2)
        activate[(x.shape[0], triton.cdiv(u.shape[1], 1024))](y, u, u.shape[1], GELU=phase["attrs"]["act"] != "silu", BLOCK=1024)
        return u

    def fc2(self, phase, env, cache, u, w, residual=None):
        return self.matrices[w].apply(env[u], self.residual(env, residual, env[u], self.matrices[w].rows), True)

    def residual(self, env, name, like, width):
        return env[name] if name else torch.zeros((like.shape[0], width), device=like.device)


def phase_operand_rows(body, partials):
    """The operand of the `wo` that defines `partials`."""
    return next(phase["operands"][0] for phase in body.phases if partials in phase["results"])


class Chain:
    """Many layers, one after the other, each with weights and a cache of its own."""

    def __init__(self, order, device):
        first = [Layer(body, device) for body in order]
        copies = common.copies_for(sum(m.bytes() for l in first for m in l.matrices.values()))
        self.order = first + [Layer(body, device) for _ in range(copies - 1) for body in order]
        self.passes = -(-common.LAYERS_PER_SAMPLE // len(self.order))
        self.layers, self.device = self.passes * len(self.order), device

    def prepare(self, row):
        self.caches = self.inputs = None
        self.caches = [torch_layer.make_cache(l.body, row, self.device) for l in self.order]
        self.inputs = {l.body.name: torch_layer.make_inputs(l.body, row, self.device) for l in self.order}

    def first_inputs(self, body):
        """Residuals are added to in place, so each use has a copy of its own, in fp32."""
        inputs = self.inputs[body.name]
        return {name: x.float() if v["shape"][0] < 0 else x for v in body.of_kind("input") for name, x in [(v["name"], inputs[v["name"]])]}

    def run(self):
        for _ in range(self.passes):
            x = None
            for layer, cache in zip(self.order, self.caches):
                inputs = self.inputs[layer.body.name]
                if x is None or x.shape != inputs[layer.body.stream()].shape:
                    inputs = self.first_inputs(layer.body)
                else:
                    inputs = {**inputs, layer.body.stream(): x}
                x = layer.run(cache, inputs)

    def check(self):
        """rel_l2 of every kind of layer against torch_layer.py in fp32."""
        worst = 0.0
        for layer, cache in {l.body.name: (l, c) for l, c in zip(self.order, self.caches)}.values():
            weights = {**{n: m.dequantised() for n, m in layer.matrices.items()}, **{n: v.float() for n, v in layer.vectors.items()}}
            inputs = {n: x.float() for n, x in self.inputs[layer.body.name].items()}
            wide = {**cache, "k": cache["k"].float(), "v": cache["v"].float()} if cache else cache
            expected = torch_layer.evaluate(layer.body, weights, wide, inputs)[layer.body.returns[0]]
            got = layer.run(cache, self.first_inputs(layer.body))
            worst = max(worst, torch_layer.rel_l2(got, expected.double().flatten()))
        return worst


def time_rows(spec, device="cuda"):
    order = common.bodies(spec)
    budget, chain = common.Budget(spec["seconds"]), Chain(order, device)

    def one(row):
        chain.prepare(row)
        if row is spec["rows"][0]:
            error = chain.check()
            common.emit(check_rel_l2=error)
            if not error <= REL_L2_MAX:
                raise common.Unsupported(f"its check failed: rel_l2 {error:.3g} against PyTorch in fp32")
        budget.limited(budget.left(), lambda: common.measure("triton", row, chain.layers, spec["samples"], chain.run))

    for row in spec["rows"]:
        common.attempt("triton", row, lambda: one(row))


def main(arguments):
    torch.manual_seed(0)
    try:
        with torch.no_grad():
            time_rows(json.loads(pathlib.Path(arguments[0]).read_text()))
    except common.Unsupported as why:
        common.emit(error=str(why))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
