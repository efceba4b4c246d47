"""Random shapes, values and attributes for cases. See reference.py."""

import math
import random

import torch

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
INTS = [torch.int64, torch.int32, torch.uint8]
NARROW = (torch.float16, torch.bfloat16)
SHORT = {torch.float64: "f64", torch.float32: "f32", torch.float16: "f16",
         torch.bfloat16: "bf16", torch.int64: "i64", torch.int32: "i32", torch.uint8: "u8",
         torch.bool: "bool"}
LONG = {name: dtype for dtype, name in SHORT.items()}

SIZES = [1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65]
ROWS = [1, 2, 3, 5, 8, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 423]
LONG_ROWS = [1023, 1024, 1025, 2049, 4095, 4096, 4097]
ODD = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45, -1e-40, 6e-8, 1e-5, 60000.0, 1e20, -1e30]


class Draw:
    """One case's stream of numbers. `small`: for fixtures, few elements."""

    def __init__(self, seed, dtype, small=False):
        self.r = random.Random(seed)
        self.dtype, self.small = dtype, small
        self.odd = dtype in FLOATS and self.r.random() < 0.1
        self.zero_size = self.r.random() < 0.05
        self.generator = torch.Generator().manual_seed(self.r.getrandbits(60))

    def chance(self, p):
        return self.r.random() < p

    def choice(self, items):
        return self.r.choice(items)

    def integer(self, low, high):
        return self.r.randint(low, high)

    def number(self, low, high):
        """A float attribute; exact in f32, so that both sides use the same number."""
        return float(torch.tensor(self.r.uniform(low, high), dtype=torch.float32))

    # ---- Shapes

    def size(self):
        return self.r.choice([1, 2, 3, 4, 5] if self.small else SIZES)

    def shape(self, least=0, most=4, limit=None):
        limit = limit or (24 if self.small else 3000)
        shape = [self.size() for _ in range(self.r.randint(least, most))]
        while math.prod(shape) > limit:
            shape[shape.index(max(shape))] = self.r.randint(1, 3)
        if self.zero_size and shape:
            shape[self.r.randrange(len(shape))] = 0
        return shape

    def row(self):
        if self.small:
            return self.r.choice([1, 2, 3, 7, 9])
        return self.r.choice(LONG_ROWS if self.r.random() < 0.1 else ROWS)

    def rows(self, width, most=4):
        """A shape whose last axis is `width`."""
        limit = (32 if self.small else 12000) // max(width, 1)
        return self.shape(0, most - 1, max(limit, 1)) + [width]

    def broadcasts_to(self, shape):
        """A shape that broadcasts to `shape`: axes of size 1, leading axes left out."""
        part = [1 if self.chance(0.3) else n for n in shape]
        return part[self.r.randint(0, len(part)):] if self.chance(0.4) else part

    def broadcast(self, n):
        shape = self.shape()
        shapes = [shape if self.chance(0.5) else self.broadcasts_to(shape) for _ in range(n)]
        self.r.shuffle(shapes)
        return shapes

    def axis(self, rank):
        return self.r.randint(-rank, rank - 1)

    def axes(self, rank):
        """Some different axes, or none, which means all."""
        chosen = self.r.sample(range(rank), self.r.randint(0, rank))
        return [a - rank if self.chance(0.4) else a for a in chosen]

    # ---- Values

    def values(self, shape, fill="normal", dtype=None, odd=True):
        dtype = dtype or self.dtype
        if dtype == torch.bool:
            return torch.randint(0, 2, shape, generator=self.generator).bool()
        if dtype not in FLOATS:
            low = 0 if dtype == torch.uint8 or fill != "normal" else -9
            return torch.randint(low, 10, shape, generator=self.generator).to(dtype)
        x = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        if fill == "positive":
            x = 0.25 + x.abs()
        if fill == "apart":
            x = x + torch.copysign(torch.full_like(x, 0.1), x)
        if fill == "ties":
            x = torch.round(x * 2) / 2
        if fill == "wide":
            x = x * 10.0 ** self.r.uniform(-2, 1.2)
        if self.odd and odd and x.numel():
            for _ in range(self.r.randint(1, 3)):
                x.view(-1)[self.r.randrange(x.numel())] = self.r.choice(ODD)
        return x.to(dtype)

    def index(self, shape, limit):
        dtype = self.r.choice([torch.int64, torch.int32])
        return torch.randint(0, max(limit, 1), shape, generator=self.generator).to(dtype)


def whole(d, low, high):
    return d.integer(low, high) if d.dtype in INTS else d.number(low, high)
