"""What a spec of ops.py is: how to draw a case, what PyTorch computes, how large its terms are."""

from dataclasses import dataclass, field

import torch

from draw import FLOATS, INTS

ALL = FLOATS + INTS + [torch.bool]
NUMBERS = FLOATS + INTS
SPECS = {}  # the rows of ops.py: op name to Spec


def add(name, spec):
    SPECS[name] = spec


@dataclass
class Case:
    op: str
    dtype: torch.dtype
    inputs: dict  # name: tensor, in the order of the op's inputs
    attrs: dict
    cotangent: object = None  # gradient of the output; None: forward only


@dataclass
class Expected:
    """One tensor that the op should give. Integers: exact, and only `value` counts."""
    name: str  # as in the file that bobbin writes
    kind: str  # forward or gradient
    dtype: torch.dtype
    value: torch.Tensor
    magnitude: object = None
    terms: float = 1
    extra: object = field(default=0)  # absolute, on top of the bound


class Spec:
    forward_only = False

    def __init__(self, dtypes):
        self.dtypes = dtypes

    # To be given: draw(d) -> inputs, attrs; compute(x, attrs) -> y with x in f64.

    def out_dtype(self, inputs, attrs):
        floats = [t.dtype for t in inputs.values() if t.dtype in FLOATS]
        return floats[0] if floats else None

    def prepare(self, inputs, attrs):
        """Notes what compute and terms cannot see in f64: the case's own dtypes."""

    def terms(self, x, attrs, y, dy, grads):
        """{"" or input: (magnitude, number of terms, extra)} of what is not (|value|, 1, 0)."""
        return {}

    def leaves(self, inputs):
        return {name: t.double().clone().requires_grad_() if t.is_floating_point() else t
                for name, t in inputs.items()}

    def shape_and_dtype(self, case):
        self.prepare(case.inputs, case.attrs)
        y = self.compute(self.leaves(case.inputs), case.attrs)
        dtype = self.out_dtype(case.inputs, case.attrs) if y.is_floating_point() else y.dtype
        return y.shape, dtype or y.dtype

    def expect(self, case):
        self.prepare(case.inputs, case.attrs)
        x = self.leaves(case.inputs)
        y = self.compute(x, case.attrs)
        out = self.out_dtype(case.inputs, case.attrs)
        if not y.is_floating_point():
            return [Expected("output", "forward", y.dtype, y)]
        floats = {name: t for name, t in x.items() if t.is_floating_point()}
        grads, dy = {}, None
        if case.cotangent is not None:
            dy = case.cotangent.double()
            given = torch.autograd.grad(y, list(floats.values()), dy, allow_unused=True)
            grads = {name: g if g is not None else torch.zeros_like(t)
                     for (name, t), g in zip(floats.items(), given)}
        y = y.detach().double()
        plain = {name: t.detach() for name, t in x.items()}
        sizes = self.terms(plain, case.attrs, y, dy, grads)
        results = [self.result("output", "forward", out, y, sizes.get(""))]
        for name, g in grads.items():
            results.append(self.result("grad." + name, "gradient", case.inputs[name].dtype, g,
                                       sizes.get(name)))
        return results

    def result(self, name, kind, dtype, value, size):
        size = size or (value, 1, 0)
        return Expected(name, kind, dtype, value.detach(), size[0].detach(), float(size[1]), size[2])


class Elementwise(Spec):
    """run(*inputs, **attrs). forward and gradient give the largest terms where they are not the
    result itself; gradients are looked at before broadcast axes are summed."""

    def __init__(self, run, fills, dtypes, names=("input",), attrs=None, forward=None,
                 gradient=None, odd=True, out=None):
        super().__init__(dtypes)
        self.run, self.fills, self.names = run, fills, list(names)
        self.attrs, self.odd, self.out = attrs, odd, out
        self.forward_terms, self.gradient_terms = forward, gradient

    def draw(self, d):
        shapes = d.broadcast(len(self.names))
        inputs = {}
        for name, fill, shape in zip(self.names, self.fills, shapes):
            dtype = torch.bool if fill == "bool" else None
            inputs[name] = d.values(shape, fill, dtype, self.odd)
        return inputs, self.attrs(d) if self.attrs else {}

    def out_dtype(self, inputs, attrs):
        return self.out(inputs, attrs) if self.out else super().out_dtype(inputs, attrs)

    def compute(self, x, attrs):
        return self.run(*x.values(), **attrs)

    def terms(self, x, attrs, y, dy, grads):
        sizes = {}
        wide = {name: t.expand(y.shape).clone() for name, t in x.items()}
        if self.forward_terms:
            sizes[""] = (self.forward_terms(y, *wide.values(), **attrs), 1, 0)
        if dy is None:
            return sizes
        floats = [name for name, t in wide.items() if t.is_floating_point()]
        for name in floats:
            wide[name].requires_grad_()
        again = self.compute(wide, attrs)
        each = torch.autograd.grad(again, [wide[n] for n in floats], dy, allow_unused=True)
        own = (self.gradient_terms(dy, y, *[t.detach() for t in wide.values()],
                                    **attrs)
               if self.gradient_terms else None)
        for i, name in enumerate(floats):
            size = each[i].abs() if each[i] is not None else torch.zeros_like(dy)
            if own:
                size = torch.maximum(size, own[i])
            shape = x[name].shape
            n = y.numel() / max(x[name].numel(), 1)
            sizes[name] = (size.sum_to_size(shape) if size.shape != shape else size, n, 0)
        return sizes


class Multilinear(Spec):
    """Linear in each floating input: the same op on magnitudes gives the magnitudes, and on ones
    the number of terms."""

    def __init__(self, run, draw, dtypes):
        super().__init__(dtypes)
        self.run, self.draw = run, draw

    def compute(self, x, attrs):
        return self.run(**x, **attrs)

    def terms(self, x, attrs, y, dy, grads):
        floats = [name for name, t in x.items() if t.is_floating_point()]

        def on(change):
            leaves = {n: change(t).requires_grad_() if n in floats else t for n, t in x.items()}
            out = self.compute(leaves, attrs)
            given = [None] * len(floats)
            if dy is not None:
                given = torch.autograd.grad(out, [leaves[n] for n in floats], change(dy),
                                            allow_unused=True)
            return [out.detach(), *given]

        sizes, counts = on(torch.abs), on(torch.ones_like)
        result = {}
        for name, size, count in zip(["", *floats], sizes, counts):
            if size is not None:
                n = count.max().item() if count.numel() else 1
                result[name] = (size, n, 0)
        return result
