"""What every op computes, in PyTorch: the table SPECS. See reference.py.

A spec draws a case, computes it in f64 (integers in their own type), and says how large the terms
are that enter each element of the output and of the gradients, and how many they are.
"""

import math
import warnings

import numpy
import torch

import norms
import philox
from attention import rope, sdpa
from draw import FLOATS, INTS, LONG, SHORT
from spec import Elementwise, Multilinear, Spec

ALL = FLOATS + INTS + [torch.bool]
NUMBERS = FLOATS + INTS
SPECS = {}


def add(name, spec):
    SPECS[name] = spec


# ---- Elementwise, one input

def unary(name, run, fill="wide", dtypes=FLOATS, **more):
    add(name, Elementwise(run, [fill], dtypes, **more))


def gradient_of(term):
    """The size of the largest term of a gradient dy f'(x), given dy, y and x."""
    return lambda dy, y, x, **_: [dy.abs() * term(y, x).abs()]


unary("neg", torch.neg, dtypes=NUMBERS)
unary("abs", torch.abs, dtypes=NUMBERS)
unary("sign", lambda x: torch.sign(x) + 0 * x.nan_to_num(0, 0, 0) if x.is_floating_point()
      else torch.sign(x), dtypes=NUMBERS)
unary("exp", torch.exp, "normal")
unary("log", torch.log, "positive")
unary("sqrt", torch.sqrt, "positive")
unary("rsqrt", torch.rsqrt, "positive")
unary("sin", torch.sin)
unary("cos", torch.cos)
unary("tanh", torch.tanh, gradient=gradient_of(lambda y, x: torch.ones_like(y)))
unary("sigmoid", torch.sigmoid, gradient=gradient_of(lambda y, x: y))
unary("relu", torch.relu, dtypes=NUMBERS)
unary("erf", torch.erf, "normal",
      gradient=gradient_of(lambda y, x: torch.exp(-x * x) * (1 + 2 * x * x)))
unary("square", torch.square, dtypes=NUMBERS)
unary("reciprocal", torch.reciprocal, "apart")
unary("contiguous", lambda x: x + 0 if x.dtype != torch.bool else x, dtypes=ALL)
unary("alias", lambda x: x + 0 if x.dtype != torch.bool else x, dtypes=ALL)
unary("silu", lambda x: x * torch.sigmoid(x), odd=False,
      gradient=gradient_of(lambda y, x: torch.sigmoid(x) * (1 + x.abs())))


def gelu(x, approximate="none"):
    return torch.nn.functional.gelu(x, approximate=approximate)


def gelu_terms(dy, y, x, approximate="none"):
    if approximate == "tanh":  # 1 - t^2 cancels, and u' multiplies what is left
        return [dy.abs() * (1 + x.abs().clamp(max=6) * (0.4 + 0.06 * x.clamp(-6, 6)**2))]
    return [dy.abs() * (1 + x.abs() * torch.exp(-x * x / 2) * (1 + x**2))]


# 1 + erf cancels for negative x: the error is an ulp of x, not of the result.
unary("gelu", gelu, odd=False, attrs=lambda d: {"approximate": d.choice(["none", "tanh"])},
      forward=lambda y, x, **_: x.abs(), gradient=gelu_terms)


def whole(d, low, high):
    return d.integer(low, high) if d.dtype in INTS else d.number(low, high)


unary("pow", lambda x, value: torch.pow(x, int(value) if value == int(value) else value),
      "positive", NUMBERS, attrs=lambda d: {"value": d.integer(0, 3) if d.dtype in INTS else
                                            d.choice([2.0, 3.0, -1.0, 0.5, 0.0, 1.0, d.number(-2, 3)])},
      odd=False)
unary("add_scalar", lambda x, value: x + (int(value) if not x.is_floating_point() else value),
      dtypes=NUMBERS, attrs=lambda d: {"value": whole(d, 0, 9)})
unary("mul_scalar", lambda x, value: x * (int(value) if not x.is_floating_point() else value),
      dtypes=NUMBERS, attrs=lambda d: {"value": whole(d, 0, 9)})


def clamp_attrs(d):
    low, high = sorted([whole(d, 0, 5), whole(d, 0, 5)])
    attrs = {"min": low, "max": high}
    if d.chance(0.3):
        attrs.pop(d.choice(["min", "max"]))
    return attrs


class Clamp(Elementwise):
    """The bounds are rounded to the input's dtype, as PyTorch's are."""

    def prepare(self, inputs, attrs):
        self.dtype = inputs["input"].dtype

    def draw(self, d):
        inputs, attrs = super().draw(d)
        # On a bound the gradient is a convention: ours passes it, as PyTorch did before 2.15.
        for bound in attrs.values():
            x = inputs["input"]
            x[x == torch.tensor(bound, dtype=x.dtype)] = 0
        return inputs, attrs

    def compute(self, x, attrs):
        at = {k: torch.tensor(v, dtype=self.dtype).item() for k, v in attrs.items()}
        return torch.clamp(x["input"], at.get("min"), at.get("max")) if at else x["input"] + 0


add("clamp", Clamp(None, ["wide"], NUMBERS, attrs=clamp_attrs, odd=False))


def cast(x, dtype):
    return x if x.is_floating_point() and LONG[dtype] in FLOATS else x.to(LONG[dtype])


unary("cast", cast, "normal", ALL, odd=False,
      attrs=lambda d: {"dtype": d.choice(["f64", "f32", "f16", "bf16", "i64", "i32", "bool"])},
      out=lambda inputs, attrs: LONG[attrs["dtype"]])


class Dropout(Elementwise):
    def compute(self, x, attrs):
        t, p = x["input"], attrs["p"]
        u = philox.uniform(t.numel(), attrs["seed"], attrs["offset"], wide=False)
        keep = torch.from_numpy(u).reshape(t.shape) >= float(torch.tensor(p))
        return torch.where(keep, t / (1 - p), torch.zeros_like(t))


add("dropout", Dropout(None, ["normal"], FLOATS, odd=False,
                       attrs=lambda d: {"p": d.choice([0.0, 0.1, 0.25, 0.5, 0.9]),
                                        "seed": d.integer(0, 2**40), "offset": d.integer(0, 2**33)}))


# ---- Elementwise, two and three inputs

def binary(name, run, fills=("normal", "normal"), dtypes=FLOATS, **more):
    add(name, Elementwise(run, list(fills), dtypes, names=["input", "other"], **more))


binary("add", torch.add, dtypes=ALL)
binary("sub", torch.sub, dtypes=NUMBERS)
binary("mul", torch.mul, dtypes=ALL)
# The rule's x / y overflows where the gradient does not, in PyTorch too: no odd values.
binary("div", torch.div, ("normal", "apart"), odd=False)
binary("maximum", torch.maximum, ("ties", "ties"), ALL)
binary("minimum", torch.minimum, ("ties", "ties"), ALL)
for op in ("eq", "ne", "lt", "le", "gt", "ge"):
    binary(op, getattr(torch, op), ("ties", "ties"), ALL, out=lambda i, a: torch.bool)
add("where", Elementwise(torch.where, ["bool", "normal", "normal"], ALL,
                         names=["condition", "input", "other"]))


class Swiglu(Elementwise):
    def draw(self, d):
        shape = d.shape()
        return {"gate": d.values(shape, "wide", odd=False), "up": d.values(shape, odd=False)}, {}


add("swiglu", Swiglu(lambda gate, up: gate * torch.sigmoid(gate) * up, ["wide", "normal"], FLOATS,
                     names=["gate", "up"],
                     gradient=lambda dy, y, g, u, **_: [
                         (dy * u).abs() * torch.sigmoid(g) * (1 + g.abs()),
                         dy.abs() * (g * torch.sigmoid(g)).abs()]))


# ---- Reductions

class Reduce(Spec):
    def __init__(self, run, terms, fill="normal", dtypes=ALL):
        super().__init__(dtypes)
        self.run, self.size_of_terms, self.fill = run, terms, fill

    def draw(self, d):
        shape = d.rows(d.row()) if d.chance(0.5) else d.shape()
        attrs = {"axes": d.axes(len(shape)), "keepdim": d.chance(0.5)}
        reduced = attrs["axes"] or range(len(shape))
        if self.size_of_terms is None and any(shape[a] == 0 for a in reduced):
            shape = [max(n, 1) for n in shape]
        return {"input": d.values(shape, self.fill, odd=False)}, attrs

    def compute(self, x, attrs):
        t = x["input"]
        axes = attrs["axes"] or list(range(t.dim()))
        if not axes:
            return self.run(t.reshape(1), [0], False)
        return self.run(t, axes, attrs["keepdim"])

    def terms(self, x, attrs, y, dy, grads):
        t, result = x["input"], {}
        n = max(t.numel() // max(y.numel(), 1), 1)
        if self.size_of_terms:
            result[""] = (self.size_of_terms(self, t, attrs), n, 0)
        return result


add("sum", Reduce(torch.sum, lambda s, t, a: s.compute({"input": t.abs()}, a)))
add("mean", Reduce(torch.mean, lambda s, t, a: s.compute({"input": t.abs()}, a), dtypes=FLOATS))
add("amax", Reduce(torch.amax, None, "ties"))
add("amin", Reduce(torch.amin, None, "ties"))


class AlongAxis(Spec):
    def __init__(self, run, dtypes, fill="normal", terms=None, least=1, fits=None):
        super().__init__(dtypes)
        self.run, self.fill, self.terms_of, self.least, self.fits = run, fill, terms, least, fits

    def draw(self, d):
        shape = d.rows(d.row()) if d.chance(0.5) else d.shape(self.least)
        axis = d.axis(len(shape))
        if self.fits == "not empty":
            shape[axis] = max(shape[axis], 1)
        return {"input": d.values(shape, self.fill, odd=False)}, self.more(d, {"axis": axis})

    def more(self, d, attrs):
        return attrs

    def compute(self, x, attrs):
        return self.run(x["input"], attrs["axis"])

    def terms(self, x, attrs, y, dy, grads):
        return self.terms_of(x["input"], attrs["axis"], y, dy) if self.terms_of else {}


class Argmax(AlongAxis):
    def more(self, d, attrs):
        return {**attrs, "keepdim": d.chance(0.5)}

    def compute(self, x, attrs):
        # The first of equals, which torch.argmax does not promise.
        t = x["input"].to(torch.float64 if x["input"].is_floating_point() else torch.int64)
        largest = t.amax(attrs["axis"], True)
        index = torch.arange(t.shape[attrs["axis"]])
        shape = [1] * t.dim()
        shape[attrs["axis"]] = -1
        return torch.where(t == largest, index.reshape(shape), t.shape[attrs["axis"]]).amin(
            attrs["axis"], attrs["keepdim"])


add("argmax", Argmax(None, ALL, "ties", fits="not empty"))


def cumsum_terms(x, axis, y, dy):
    terms = {"": (x.abs().cumsum(axis), x.shape[axis], 0)}
    if dy is not None:
        terms["input"] = (dy.abs().flip(axis).cumsum(axis).flip(axis), x.shape[axis], 0)
    return terms


add("cumsum", AlongAxis(torch.cumsum, ALL, terms=cumsum_terms))


def softmax_terms(x, axis, y, dy):
    if x.numel() == 0:
        return {}
    grown = y * (1 + (x - x.amax(axis, True)).abs())
    terms = {"": (grown, x.shape[axis] / 16, 0)}
    if dy is not None:
        terms["input"] = (grown * (dy.abs() + (dy.abs() * grown).sum(axis, True)), x.shape[axis], 0)
    return terms


def log_softmax_terms(x, axis, y, dy):
    if x.numel() == 0:
        return {}
    shifted = (x - x.amax(axis, True)).abs()
    size = shifted + torch.logsumexp(x - x.amax(axis, True), axis, True).abs() + 1
    terms = {"": (size, x.shape[axis] / 16, 0)}
    if dy is not None:
        terms["input"] = (dy.abs() + torch.exp(y) * size * dy.abs().sum(axis, True), x.shape[axis], 0)
    return terms


add("softmax", AlongAxis(torch.softmax, FLOATS, "wide", softmax_terms))
add("log_softmax", AlongAxis(torch.log_softmax, FLOATS, "wide", log_softmax_terms))


class SumSquares(Spec):
    def draw(self, d):
        return {"input": d.values(d.rows(d.row()), odd=False)}, {}

    def out_dtype(self, inputs, attrs):
        return torch.float64 if inputs["input"].dtype == torch.float64 else torch.float32

    def compute(self, x, attrs):
        return x["input"].square().sum()

    def terms(self, x, attrs, y, dy, grads):
        return {"": (y, x["input"].numel(), 0)}


add("sum_squares", SumSquares(FLOATS))


class CrossEntropy(Spec):
    def draw(self, d):
        classes = max(d.row(), 1)
        shape = d.rows(classes, 3)
        target = d.index(shape[:-1], classes)
        attrs = {"reduction": d.choice(["mean", "sum", "none"])}
        if d.chance(0.5):
            attrs["ignore_index"] = d.integer(0, classes - 1) if d.chance(0.5) else -1
            target[torch.rand(target.shape, generator=d.generator) < 0.3] = attrs["ignore_index"]
        return {"logits": d.values(shape, "wide", odd=False), "target": target}, attrs

    def weights(self, x, attrs):
        return (x["target"] != attrs.get("ignore_index", -100)).double()

    def compute(self, x, attrs):
        logits, used = x["logits"], self.weights(x, attrs)
        target = torch.where(used > 0, x["target"].long(), 0)
        loss = torch.logsumexp(logits, -1) - logits.gather(-1, target[..., None])[..., 0]
        loss = torch.where(used > 0, loss, torch.zeros_like(loss))
        if attrs["reduction"] == "none":
            return loss
        total = loss.sum()
        return total / used.sum() if attrs["reduction"] == "mean" else total

    def terms(self, x, attrs, y, dy, grads):
        logits, used = x["logits"], self.weights(x, attrs)
        classes = logits.shape[-1]
        size = 1 + logits.abs().amax(-1) * 2 + math.log(classes)
        # The gradient of a row's loss, scaled by how the losses are reduced.
        mean = attrs["reduction"] == "mean"
        each = used / used.sum() if mean else used
        whole = attrs["reduction"] != "none"
        result = {"": ((each * size).sum() if whole else size * used, max(used.numel(), classes / 16), 0)}
        if dy is not None:
            p = torch.softmax(logits, -1) * size[..., None]
            target = torch.where(used > 0, x["target"].long(), 0)[..., None]
            p = p.scatter_add(-1, target, torch.ones_like(target, dtype=torch.float64))
            result["logits"] = (p * (each * dy.abs())[..., None], classes / 16, 0)
        return result


add("cross_entropy", CrossEntropy(FLOATS))


# ---- Products, views, joins, indices: linear in each input

def linear_op(name, run, draw, dtypes=ALL):
    add(name, Multilinear(run, draw, dtypes))


def draw_matmul(d):
    k = d.row() if d.chance(0.5) else d.size()
    kind = d.choice(["mm", "mv", "vm", "vv", "batched"])
    m, n = d.integer(1, 9), d.integer(1, 9)
    left, right = [m, k], [k, n]
    if kind in ("vm", "vv"):
        left = [k]
    if kind in ("mv", "vv"):
        right = [k]
    if kind == "batched" and k < 100:
        batch = d.shape(1, 2, 6)
        left, right = d.broadcasts_to(batch) + left, d.broadcasts_to(batch) + right
    if d.zero_size:
        left[-1] = 0
        right[0 if len(right) == 1 else -2] = 0
    return {"input": d.values(left, odd=False), "other": d.values(right, odd=False)}, {}


def draw_linear(d):
    n_in, n_out = (d.row() if d.chance(0.5) else d.size()), d.integer(1, 9)
    x = {"input": d.values(d.rows(n_in), odd=False),
         "weight": d.values([n_out, n_in], odd=False)}
    if d.chance(0.6):
        x["bias"] = d.values([n_out], odd=False)
    return x, {}


linear_op("matmul", lambda input, other: torch.matmul(input, other), draw_matmul, NUMBERS)
linear_op("linear", lambda input, weight, bias=None: input @ weight.mT + (0 if bias is None else bias),
          draw_linear, FLOATS)


def one(d, attrs, least=0):
    """One input of any shape, and attributes that follow from it."""
    shape = d.shape(least)
    return {"input": d.values(shape)}, attrs(d, shape)


def regroup(d, shape):
    n = 1
    for size in shape:
        n *= size
    new = [n] if d.chance(0.3) else list(reversed(shape)) if d.chance(0.5) else [1] + shape
    if n and new and d.chance(0.3):
        new[d.integer(0, len(new) - 1)] = -1
    return {"shape": new}


def spread(d, shape):
    new = [n if n != 1 else d.integer(1, 3) for n in shape]
    return {"shape": [d.integer(1, 3)] * d.integer(0, 2) +
            [-1 if d.chance(0.3) else n for n in new]}


def cut(d, shape):
    axis = d.axis(len(shape))
    n = shape[axis]
    attrs = {"axis": axis, "start": d.integer(-n - 1, n), "step": d.integer(1, 3)}
    if d.chance(0.7):
        attrs["stop"] = d.integer(-n - 1, n + 2)
    return attrs


def slices(x, axis, start, step, stop=None):
    where = [slice(None)] * x.dim()
    where[axis] = slice(start, stop, step)
    return x[tuple(where)]


linear_op("reshape", lambda input, shape: input.reshape(shape), lambda d: one(d, regroup))
linear_op("permute", lambda input, axes: input.permute(axes), lambda d: one(
    d, lambda d, s: {"axes": d.r.sample(range(len(s)), len(s))}, 1))
linear_op("transpose", lambda input, axis0, axis1: input.transpose(axis0, axis1), lambda d: one(
    d, lambda d, s: {"axis0": d.axis(len(s)), "axis1": d.axis(len(s))}, 1))
linear_op("expand", lambda input, shape: input.expand(shape), lambda d: one(d, spread))
linear_op("slice", lambda input, **a: slices(input, **a), lambda d: one(d, cut, 1))


def draw_select(d):
    shape = [max(n, 1) for n in d.shape(1)]
    axis = d.axis(len(shape))
    return {"input": d.values(shape)}, {"axis": axis,
                                        "index": d.integer(-shape[axis], shape[axis] - 1)}


linear_op("select", lambda input, axis, index: input.select(axis, index), draw_select)


def draw_join(d, same):
    shape = d.shape(0 if same else 1, 3)
    axis = d.integer(-len(shape) - 1, len(shape)) if same else d.axis(len(shape))
    x = {}
    for i in range(d.integer(1, 10 if d.chance(0.1) else 4)):
        each = list(shape)
        if not same:
            each[axis] = d.integer(0, 4)
        x[f"input.{i}"] = d.values(each)
    return x, {"axis": axis}


linear_op("cat", lambda axis, **x: torch.cat(list(x.values()), axis), lambda d: draw_join(d, False))
linear_op("stack", lambda axis, **x: torch.stack(list(x.values()), axis),
          lambda d: draw_join(d, True))


def pad(input, before, after, value=0.0):
    shape = [b + n + a for b, n, a in zip(before, input.shape, after)]
    y = torch.full(shape, int(value) if not input.is_floating_point() else value, dtype=input.dtype)
    inside = tuple(slice(b, b + n) for b, n in zip(before, input.shape))
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[inside] = True
    pieces = input
    for axis, (b, a) in enumerate(zip(before, after)):
        for at, width in ((0, b), (1, a)):
            side = list(pieces.shape)
            side[axis] = width
            zeros = torch.zeros(side, dtype=input.dtype)
            pieces = torch.cat([zeros, pieces] if at == 0 else [pieces, zeros], axis)
    return torch.where(mask, pieces, y)


linear_op("pad", pad, lambda d: one(d, lambda d, s: {
    "before": [d.integer(0, 2) for _ in s], "after": [d.integer(0, 2) for _ in s],
    "value": 1 if d.dtype == torch.bool else whole(d, 0, 3)}))


def draw_gather(d, scatter):
    shape = [max(n, 1) for n in d.shape(1)]
    axis = d.axis(len(shape))
    at = list(shape)
    at[axis] = d.integer(0, 6)
    x = {"input": d.values(shape, odd=False), "index": d.index(at, shape[axis])}
    if scatter:
        x["source"] = d.values(at, odd=False)
    return x, {"axis": axis}


def draw_index_select(d):
    shape = [max(n, 1) for n in d.shape(1)]
    axis = d.axis(len(shape))
    return {"input": d.values(shape, odd=False),
            "index": d.index([d.integer(0, 7)], shape[axis])}, {"axis": axis}


def draw_embedding(d):
    rows = d.integer(1, 9)
    return {"weight": d.values([rows, d.size()], odd=False),
            "index": d.index(d.shape(0, 3, 20), rows)}, {}


linear_op("gather", lambda input, index, axis: torch.gather(input, axis, index.long()),
          lambda d: draw_gather(d, False))
linear_op("index_select", lambda input, index, axis: torch.index_select(input, axis, index.long()),
          draw_index_select)
linear_op("scatter_add", lambda input, index, source, axis:
          input.scatter_add(axis, index.long(), source), lambda d: draw_gather(d, True), NUMBERS)
linear_op("embedding", lambda weight, index: weight[index.long()], draw_embedding)


# ---- Made of nothing

class Create(Spec):
    """An op without inputs; its dtype is an attribute."""

    def __init__(self, run, draw, dtypes):
        super().__init__(dtypes)
        self.run, self.attrs = run, draw

    def draw(self, d):
        return {}, {**self.attrs(d), "dtype": SHORT[d.dtype]}

    def out_dtype(self, inputs, attrs):
        return LONG[attrs["dtype"]]

    def compute(self, x, attrs):
        return self.run(attrs, LONG[attrs["dtype"]])


def random_attrs(d):
    return {"shape": d.shape(), "seed": d.integer(0, 2**50), "offset": d.integer(0, 2**40)}


def uniform(a, dtype):
    n = torch.Size(a["shape"]).numel()
    u = philox.uniform(n, a["seed"], a["offset"], dtype == torch.float64)
    largest = {torch.float16: 1 - 2.0**-11, torch.bfloat16: 1 - 2.0**-8}.get(dtype, 1.0)
    return torch.from_numpy(u).clamp(max=largest).reshape(a["shape"])


def normal(a, dtype):
    n = torch.Size(a["shape"]).numel()
    z = philox.normal(n, a["seed"], a["offset"], dtype == torch.float64)
    return torch.from_numpy(z).reshape(a["shape"])


def filled(a, dtype):
    return torch.full(a["shape"], a["value"], dtype=torch.float64 if dtype in FLOATS else dtype)


def arange(a, dtype):
    n = max(math.ceil((a["stop"] - a["start"]) / a["step"]), 0)
    x = a["start"] + torch.arange(n, dtype=torch.float64) * a["step"]
    return x if dtype in FLOATS else x.to(dtype)


add("full", Create(filled, lambda d: {"shape": d.shape(), "value": 1 if d.dtype == torch.bool else
                                      whole(d, 0, 9)}, ALL))
add("arange", Create(arange, lambda d: {"start": d.integer(0, 9), "stop": d.integer(0, 99),
                                        "step": d.choice([1, 2, 3, 0.5] if d.dtype in FLOATS else
                                                         [1, 2, 3])}
                     if d.chance(0.7) or d.dtype == torch.uint8 else
                     {"start": d.integer(0, 9), "stop": -d.integer(0, 9), "step": -1}, NUMBERS))
add("rand", Create(uniform, random_attrs, FLOATS))


class Randn(Create):
    """f32 reads an angle of up to 2 pi rounded to f32: the error is an ulp of the radius."""

    def terms(self, x, attrs, y, dy, grads):
        return {"": (torch.full_like(y, 6.0), 1, 0)}


add("randn", Randn(normal, random_attrs, FLOATS))

add("RMSNormImpl", norms.RMSNorm(FLOATS))
add("AddRMSNorm", norms.AddRMSNorm(FLOATS))
add("LayerNorm", norms.LayerNorm(FLOATS))
add("RoPE", rope(FLOATS))
add("SDPA", sdpa(FLOATS))
add("adamw_", norms.AdamW(FLOATS))
add("sgd_", norms.SGD(FLOATS))


# ---- f64 results are held against sums of 64 significant bits (long double on x86), where PyTorch's
# own f64 sums would be as far off as ours.

def wide_mean_square(x, attrs):
    axes = tuple(attrs.get("axes", [-1]))
    return (x * x).mean(axis=axes, keepdims=True) + attrs.get("eps", 1e-5)


def wide_reduce(run):
    def result(x, attrs):
        axes = tuple(attrs["axes"]) or None
        return run(x["input"], axis=axes, keepdims=attrs["keepdim"])
    return result


WIDE = {
    "sum": wide_reduce(numpy.sum),
    "mean": wide_reduce(numpy.mean),
    "cumsum": lambda x, attrs: numpy.cumsum(x["input"], attrs["axis"]),
    "sum_squares": lambda x, attrs: (x["input"] * x["input"]).sum(),
    "matmul": lambda x, attrs: x["input"] @ x["other"],
    "linear": lambda x, attrs: x["input"] @ x["weight"].T + x.get("bias", 0),
    "RMSNormImpl": lambda x, attrs:
        x["input"] / numpy.sqrt(wide_mean_square(x["input"], attrs)) * x["scale"],
}


def expect(case):
    expected = SPECS[case.op].expect(case)
    if case.dtype == torch.float64 and case.op in WIDE and expected[0].value.numel():
        x = {name: t.numpy().astype(numpy.longdouble) for name, t in case.inputs.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # means of nothing are NaN, as they should be
            y = numpy.asarray(WIDE[case.op](x, case.attrs)).astype(numpy.float64)
        expected[0].value = torch.from_numpy(y).reshape(expected[0].value.shape)
    return expected
