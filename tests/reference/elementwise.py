"""Ops that work on each element by itself, for ops.py."""

import torch

import philox
from draw import FLOATS, INTS, LONG, whole
from spec import ALL, Elementwise, NUMBERS, add


# ---- One input

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


# ---- Two and three inputs

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
