"""RMSNormImpl, LayerNorm and the optimizer steps for ops.py."""

import torch

from bounds import rounded, ulp
from draw import NARROW
from spec import Expected, Spec


def axes_of(attrs):
    return attrs.get("axes", [-1])


def eps_of(case_dtype, attrs):
    eps = attrs.get("eps", 1e-5)
    return eps if case_dtype == torch.float64 else float(torch.tensor(eps, dtype=torch.float32))


def draw_norm(d):
    """The input, the axes of the norm and a shape for its scale."""
    shape = d.rows(d.row()) if d.chance(0.7) else d.shape(1)
    attrs = {}
    if d.chance(0.25):
        attrs["axes"] = d.axes(len(shape)) or [-1]
    if d.chance(0.6):
        attrs["eps"] = d.choice([0.3, 0.1, 1e-3, 1e-6, 1e-7])
    scale = shape[-1:] if d.chance(0.5) else d.broadcasts_to(shape)
    return d.values(shape, "wide", odd=False), attrs, scale


def reduced(t, shape):
    return t.sum_to_size(shape) if t.shape != torch.Size(shape) else t


class RMSNorm(Spec):
    def draw(self, d):
        x, attrs, scale = draw_norm(d)
        kind = d.dtype if d.dtype == torch.float64 else d.choice(
            [d.dtype, torch.float32, torch.float16, torch.bfloat16])
        if d.chance(0.4):
            attrs["rounding"] = d.choice(["auto", "round_then_scale", "scale_then_round"])
        if d.chance(0.1) and axes_of(attrs) == [-1] and len(x.shape) == 1:
            scale = [d.integer(1, 3), 1] + scale  # larger than the input
        return {"input": x, "scale": d.values(scale, "normal", kind, odd=False)}, attrs

    def rounds_last(self, x, scale, attrs):
        order = attrs.get("rounding", "auto")
        if order == "auto":
            return x.dtype in NARROW and scale.dtype == torch.float32
        return order == "scale_then_round"

    def out_dtype(self, inputs, attrs):
        x, scale = inputs["input"], inputs["scale"]
        return x.dtype if self.rounds_last(x, scale, attrs) else torch.result_type(x, scale)

    def prepare(self, inputs, attrs):
        x = inputs["input"]
        self.dtype = x.dtype
        self.first = x.dtype in NARROW and not self.rounds_last(x, inputs["scale"], attrs)
        self.eps = eps_of(x.dtype, attrs)

    def parts(self, x, attrs):
        axes = axes_of(attrs)
        rstd = torch.rsqrt(x.square().mean(axes, True) + self.eps)
        return axes, rstd, x * rstd

    def compute(self, x, attrs):
        _, _, xhat = self.parts(x["input"], attrs)
        if self.first:  # the cast lets gradients through
            xhat = xhat + (rounded(xhat.detach(), self.dtype) - xhat.detach())
        return xhat * x["scale"]

    def terms(self, x, attrs, y, dy, grads):
        t, scale = x["input"], x["scale"]
        axes, rstd, xhat = self.parts(t, attrs)
        n = t.numel() // max(rstd.numel(), 1)
        # Where f32 and f64 round xhat to different neighbours the results differ by that much.
        flip = ulp(xhat, self.dtype) * self.first
        sizes = {"": (y, n / 64, flip * scale.abs())}
        if dy is None:
            return sizes
        dyg = reduced((dy * scale).abs(), t.shape)
        size = rstd * (dyg + xhat.abs() * (dyg * xhat.abs()).mean(axes, True))
        # rstd is off by less than the sum of squares; dx is what remains of two terms.
        sizes["input"] = (size, max(n, y.numel() / max(t.numel(), 1)), 0)
        summed = reduced((dy * xhat).abs().expand(y.shape), scale.shape)
        sizes["scale"] = (summed, y.numel() / max(scale.numel(), 1),
                          reduced((dy.abs() * flip).expand(y.shape), scale.shape))
        return sizes


class AddRMSNorm(RMSNorm):
    """Its first result; gradients, of two results at once, are in tests/ops/test_add_rms_norm.c."""
    forward_only = True

    def draw(self, d):
        inputs, attrs = super().draw(d)
        x, scale = inputs["input"], inputs["scale"]
        if scale.dim() > x.dim():
            scale = d.values([1], "normal", scale.dtype, odd=False)
        return {"input": x, "residual": d.values(list(x.shape), "wide", odd=False), "scale": scale}, attrs

    def summed(self, x):
        return {"input": rounded(x["input"].detach() + x["residual"].detach(), self.dtype),
                "scale": x["scale"].detach()}

    def compute(self, x, attrs):
        return super().compute(self.summed(x), attrs)

    def terms(self, x, attrs, y, dy, grads):
        return super().terms(self.summed(x), attrs, y, None, grads)

    def expect(self, case):
        x = self.leaves(case.inputs)
        total = (x["input"] + x["residual"]).detach()
        return super().expect(case) + [Expected("sum", "forward", self.dtype, total, total, 1, 0)]


class LayerNorm(Spec):
    def draw(self, d):
        x, attrs, scale = draw_norm(d)
        inputs = {"input": x}
        for name in ("weight", "bias"):
            if d.chance(0.75):
                inputs[name] = d.values(scale, "normal", d.choice([d.dtype, torch.float32]),
                                        odd=False)
        if d.dtype == torch.float64:
            inputs = {name: t.double() for name, t in inputs.items()}
        return inputs, attrs

    def compute(self, x, attrs):
        t, axes = x["input"], axes_of(attrs)
        centred = t - t.mean(axes, True)
        y = centred * torch.rsqrt(centred.square().mean(axes, True) + self.eps)
        y = y * x["weight"] if "weight" in x else y
        return y + x["bias"] if "bias" in x else y

    def prepare(self, inputs, attrs):
        self.eps = eps_of(inputs["input"].dtype, attrs)

    def terms(self, x, attrs, y, dy, grads):
        t, axes = x["input"], axes_of(attrs)
        weight = x.get("weight", torch.ones((), dtype=torch.float64))
        centred = t - t.mean(axes, True)
        rstd = torch.rsqrt(centred.square().mean(axes, True) + self.eps)
        xhat = centred * rstd
        n = t.numel() // max(rstd.numel(), 1)
        # x - mean loses what mean and x have in common; rstd inherits it.
        size = (t.abs() + t.abs().mean(axes, True)) * rstd
        size = size + xhat.abs() * (size * xhat.abs()).mean(axes, True)
        bias = x["bias"].abs() if "bias" in x else 0
        sizes = {"": (size * weight.abs() + bias, n / 16, 0)}
        if dy is None:
            return sizes
        dyg = (dy * weight).abs()
        back = (dyg * size).mean(axes, True)
        grown = 1 + (size * xhat.abs()).mean(axes, True)
        sizes["input"] = (rstd * (grown * (dyg + dyg.mean(axes, True)) + size * back), n, 0)
        for name, terms in (("weight", dy.abs() * size), ("bias", dy.abs())):
            if name in x:
                sizes[name] = (reduced(terms, x[name].shape),
                               t.numel() / max(x[name].numel(), 1), 0)
        return sizes


# ---- Optimizer steps: in place, several results, no gradient

class Step(Spec):
    def state_dtype(self, d):
        return torch.float64 if d.dtype == torch.float64 else torch.float32

    def scalar(self, value):
        return torch.tensor([value], dtype=torch.float32)

    def param(self, d):
        shape = d.shape()
        state = self.state_dtype(d)
        return shape, {"param": d.values(shape, odd=False), "grad": d.values(shape, odd=False)}, state

    def results(self, case, **named):
        """lr and its like have the shape (1); they do not broadcast a parameter of rank 0."""
        shape = case.inputs["param"].shape
        return [Expected(name, "forward", case.inputs[name].dtype, value.reshape(shape),
                         size.reshape(shape)) for name, (value, size) in named.items()]


class AdamW(Step):
    def draw(self, d):
        shape, x, state = self.param(d)
        x["m"] = d.values(shape, "normal", state, odd=False)
        x["v"] = d.values(shape, "positive", state, odd=False).abs()
        x["lr"] = self.scalar(10.0 ** d.number(-4, -1))
        x["step"] = self.scalar(float(d.integer(1, 1000)))
        if d.chance(0.5):
            x["grad_scale"] = self.scalar(d.number(0.1, 2))
        attrs = {"beta1": d.choice([0.9, 0.0, 0.5]), "beta2": d.choice([0.999, 0.95]),
                 "eps": d.choice([1e-8, 1e-6]), "weight_decay": d.choice([0.0, 0.01, 0.1])}
        return x, attrs

    def expect(self, case):
        x = {name: t.double() for name, t in case.inputs.items()}
        a = case.attrs
        b1, b2 = a["beta1"], a["beta2"]
        g = x["grad"] * x.get("grad_scale", torch.ones(1, dtype=torch.float64))
        m = b1 * x["m"] + (1 - b1) * g
        v = b2 * x["v"] + (1 - b2) * g * g
        lr, step = x["lr"], x["step"]
        move = lr / (1 - b1**step) * m / (v.sqrt() / (1 - b2**step).sqrt() + a["eps"])
        kept = x["param"] * (1 - lr * a["weight_decay"])
        m_size = x["m"].abs() + g.abs()  # m moves towards g: m + (1 - beta1) (g - m)
        p_size = kept.abs() + move.abs() * (m_size / m.abs().clamp(min=1e-300))
        return self.results(case, param=(kept - move, p_size), m=(m, m_size), v=(v, v))


class SGD(Step):
    def draw(self, d):
        shape, x, state = self.param(d)
        attrs = {"momentum": d.choice([0.0, 0.9]), "weight_decay": d.choice([0.0, 0.01])}
        if attrs["momentum"]:
            attrs["nesterov"] = d.chance(0.5)
            x["velocity"] = d.values(shape, "normal", state, odd=False)
        x["lr"] = self.scalar(10.0 ** d.number(-4, -1))
        if d.chance(0.5):
            x["grad_scale"] = self.scalar(d.number(0.1, 2))
        return x, attrs

    def expect(self, case):
        x = {name: t.double() for name, t in case.inputs.items()}
        a, p = case.attrs, x["param"]
        g = x["grad"] * x.get("grad_scale", torch.ones(1, dtype=torch.float64))
        size = g.abs() + (a["weight_decay"] * p).abs()
        g = g + a["weight_decay"] * p
        named = {}
        if a["momentum"]:
            u = a["momentum"] * x["velocity"] + g
            u_size = (a["momentum"] * x["velocity"]).abs() + size
            named["velocity"] = (u, u_size)
            g, size = (g + a["momentum"] * u, size + u_size) if a["nesterov"] else (u, u_size)
        named = {"param": (p - x["lr"] * g, p.abs() + x["lr"] * size), **named}
        return self.results(case, **named)
