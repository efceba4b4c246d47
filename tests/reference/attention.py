"""RoPE and SDPA for ops.py."""

import math

import torch

from spec import Spec


class RoPE(Spec):
    def draw(self, d):
        width = 2 * d.integer(1, 4 if d.small else 20)
        shape = d.shape(1, 3, 12 if d.small else 100) + [width]
        attrs = {}
        if d.chance(0.4):
            attrs["dims"] = 2 * d.integer(1, width // 2)
        if d.chance(0.4):
            attrs["offset"] = d.integer(0, 500)
        if d.chance(0.5):
            attrs["interleaved"] = True
        if d.chance(0.3):
            attrs["base"] = d.choice([500000.0, 100.0])
        if d.chance(0.2):
            attrs["scale"] = d.choice([0.5, 0.25])
        return {"input": d.values(shape, odd=False)}, attrs

    def rotate(self, t, attrs, sizes=False):
        rows, width = t.shape[-2:]
        dims = attrs.get("dims", 0) or width
        half = torch.arange(dims // 2, dtype=torch.float64)
        position = attrs.get("offset", 0) + torch.arange(rows, dtype=torch.float64)
        angle = (attrs.get("scale", 1.0) * position[:, None]
                 * attrs.get("base", 10000.0) ** (-2 * half / dims))
        cosine, sine, minus = angle.cos(), angle.sin(), -1.0
        if sizes:  # an angle of hundreds of radians is off by an ulp of its own
            cosine, sine, minus = torch.ones_like(angle), torch.ones_like(angle), 1.0
        rotated, rest = t[..., :dims], t[..., dims:]
        if attrs.get("interleaved", False):
            first, second = rotated[..., 0::2], rotated[..., 1::2]
        else:
            first, second = rotated[..., :dims // 2], rotated[..., dims // 2:]
        a = first * cosine + minus * second * sine
        b = second * cosine + first * sine
        if attrs.get("interleaved", False):
            turned = torch.stack([a, b], -1).flatten(-2)
        else:
            turned = torch.cat([a, b], -1)
        return torch.cat([turned, rest], -1)

    def compute(self, x, attrs):
        return self.rotate(x["input"], attrs)

    def terms(self, x, attrs, y, dy, grads):
        sizes = {"": (self.rotate(x["input"].abs(), attrs, sizes=True), 1, 0)}
        if dy is not None:
            sizes["input"] = (self.rotate(dy.abs(), attrs, sizes=True), 1, 0)
        return sizes


class SDPA(Spec):
    def draw(self, d):
        rank = d.integer(2, 4)
        small = 3 if d.small else 9
        batch = [d.integer(1, 2)] * (rank == 4)
        heads = d.integer(1, 2) if rank > 2 else 1
        group = d.integer(1, 3) if rank > 2 else 1
        rows = d.integer(1, small) if d.small or d.chance(0.8) else d.choice([31, 33, 64])
        keys = rows if d.chance(0.5) else d.integer(1, small)
        width = d.integer(1, small) if d.small or d.chance(0.7) else d.choice([16, 31, 64])
        out = width if d.chance(0.7) else d.integer(1, small)
        lead = [heads] if rank > 2 else []
        x = {"query": d.values(batch + [heads * group] * (rank > 2) + [rows, width], odd=False),
             "key": d.values(batch + lead + [keys, width], odd=False),
             "value": d.values(batch + lead + [keys, out], odd=False)}
        if d.chance(0.4):
            mask = [batch + [heads * group] * (rank > 2) + [rows, keys], [rows, keys],
                    [1, keys]][d.integer(0, 2)]
            x["attn_mask"] = d.values(mask, "normal", d.choice([torch.bool, d.dtype]), odd=False)
        attrs = {}
        if d.chance(0.5):
            attrs["is_causal"] = True
        if d.chance(0.3):
            attrs["window_size"] = d.integer(1, 6)
        if d.chance(0.3):
            attrs["scale"] = d.choice([0.5, 0.25, 1.0])
        return x, attrs

    def spread(self, x):
        """key and value with query's heads."""
        q, k, v = x["query"], x["key"], x["value"]
        if q.dim() > 2:
            times = q.shape[-3] // k.shape[-3]
            k, v = (t.repeat_interleave(times, -3) for t in (k, v))
        return q, k, v

    def gather(self, t, shape):
        """The gradient of what spread repeated."""
        return t if t.shape == shape else t.unflatten(-3, (shape[-3], -1)).sum(-3)

    def scale(self, x, attrs):
        return attrs.get("scale", 0) or 1 / math.sqrt(x["query"].shape[-1])

    def scores(self, x, q, k, attrs):
        s = self.scale(x, attrs) * q @ k.mT
        rows, keys = s.shape[-2:]
        distance = (torch.arange(rows)[:, None] + keys - rows) - torch.arange(keys)
        seen = torch.ones(s.shape, dtype=torch.bool)
        if attrs.get("is_causal"):
            seen = seen & (distance >= 0)
        if attrs.get("window_size"):
            seen = seen & (distance < attrs["window_size"])
        mask = x.get("attn_mask")
        if mask is not None and mask.dtype == torch.bool:
            seen = seen & mask
        elif mask is not None:
            s = s + mask
        return s, seen

    def weights(self, s, seen):
        # A query that sees no key gives zeros and no gradient.
        any_key = seen.any(-1, True)
        s = torch.where(seen, s, torch.full_like(s, -math.inf))
        return torch.where(seen, torch.softmax(torch.where(any_key, s, 0.0), -1), 0.0)

    def compute(self, x, attrs):
        q, k, v = self.spread(x)
        return self.weights(*self.scores(x, q, k, attrs)) @ v

    def terms(self, x, attrs, y, dy, grads):
        q, k, v = self.spread(x)
        s, seen = self.scores(x, q, k, attrs)
        p = self.weights(s, seen)
        # A score's error is an ulp of its terms; exp passes it on as a relative one.
        size = self.scale(x, attrs) * q.abs() @ k.abs().mT
        if "attn_mask" in x and x["attn_mask"].is_floating_point():
            size = size + x["attn_mask"].abs()
        size = size + s.abs() + torch.where(seen, s.abs(), 0.0).amax(-1, True)
        grown = p * (1 + size + (p * size).sum(-1, True))
        keys, width = s.shape[-1], q.shape[-1]
        n = max(keys, width)
        sizes = {"": (grown @ v.abs(), n, 0)}
        if dy is None:
            return sizes
        dp = dy.abs() @ v.abs().mT
        ds = grown * (dp + (grown * dp).sum(-1, True))
        scale = self.scale(x, attrs)
        n = max(n, s.numel() / max(k.shape[:-2].numel() * keys, 1), s.shape[-2], v.shape[-1])
        sizes["query"] = (scale * ds @ k.abs(), n, 0)
        sizes["key"] = (self.gather(scale * ds.mT @ q.abs(), x["key"].shape), n, 0)
        sizes["value"] = (self.gather(grown.mT @ dy.abs(), x["value"].shape), n, 0)
        if "attn_mask" in grads:
            shape = x["attn_mask"].shape
            sizes["attn_mask"] = (ds.sum_to_size(shape) if ds.shape != shape else ds, n, 0)
        return sizes


def rope(dtypes):
    return RoPE(dtypes)


def sdpa(dtypes):
    return SDPA(dtypes)
