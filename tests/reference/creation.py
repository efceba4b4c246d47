"""Ops that make a tensor of nothing, for ops.py."""

import math

import torch

import philox
from draw import FLOATS, LONG, SHORT, whole
from spec import ALL, NUMBERS, Spec, add


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
