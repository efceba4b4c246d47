"""Products, views, joins and indices for ops.py: linear in each input."""

import torch

from draw import FLOATS, whole
from spec import ALL, Expected, Multilinear, NUMBERS, Spec, add


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


def draw_linear_add(d):
    x, attrs = draw_linear(d)
    x["residual"] = d.values(list(x["input"].shape[:-1]) + [x["weight"].shape[0]], odd=False)
    return x, attrs


linear_op("matmul", lambda input, other: torch.matmul(input, other), draw_matmul, NUMBERS)
linear_op("linear", lambda input, weight, bias=None: input @ weight.mT + (0 if bias is None else bias),
          draw_linear, FLOATS)
linear_op("LinearAdd", lambda input, weight, residual, bias=None:
          input @ weight.mT + (0 if bias is None else bias) + residual, draw_linear_add, FLOATS)


class LinearActivation(Spec):
    """Both results; gradients, of two results at once, are in tests/ops/test_linear_activation.c.
    Slopes of the activations are at most 1.2."""
    forward_only = True
    ACTIVATIONS = {"relu": torch.relu, "silu": torch.nn.functional.silu, "sigmoid": torch.sigmoid,
                   "tanh": torch.tanh,
                   "gelu": lambda x: torch.nn.functional.gelu(x, approximate="tanh")}

    def draw(self, d):
        x, attrs = draw_linear(d)
        return x, attrs | {"activation": d.choice(list(self.ACTIVATIONS))}

    def total(self, x):
        return x["input"] @ x["weight"].mT + x.get("bias", 0)

    def compute(self, x, attrs):
        return self.ACTIVATIONS[attrs["activation"]](self.total(x))

    def sizes(self, x):
        return self.total({name: t.detach().abs() for name, t in x.items()}), x["weight"].shape[-1] + 1

    def terms(self, x, attrs, y, dy, grads):
        magnitude, n = self.sizes(x)
        return {"": (1.2 * magnitude + y.abs(), n, 0)}

    def expect(self, case):
        x = self.leaves(case.inputs)
        dtype = case.inputs["input"].dtype
        return super().expect(case) + [
            Expected("sum", "forward", dtype, self.total(x).detach(), *self.sizes(x), 0)]


add("LinearActivation", LinearActivation(FLOATS))


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
