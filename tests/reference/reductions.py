"""Ops that sum or compare along axes, for ops.py."""

import math

import torch

from draw import FLOATS
from spec import ALL, Spec, add


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
