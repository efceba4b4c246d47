"""Values in few bits, for ops.py: the rules of ops/quantize.c in NumPy's f32, numbers encoded and
decoded by ml_dtypes. ml_dtypes does not saturate, so numbers are clipped first; NaN stays. Bytes,
scales and values are expected to be equal.

RMSNormQuantize is drawn so that its norm is exact (rows of one magnitude, a power of two, eps 0):
then the bytes are known whatever order a kernel sums in.
"""

import numpy
import torch

from draw import LONG, SHORT
from spec import Expected, Spec, add

try:
    import ml_dtypes
except ImportError:
    ml_dtypes = None

F32 = numpy.float32
NAMES = ("Quantize", "Dequantize", "RMSNormQuantize", "QuantizedLinear", "update_scale_")
LARGEST = F32(3.4028234663852886e38)
NARROW = [torch.float32, torch.float16, torch.bfloat16]
# block, multiple of sizes, columns transposed, packed, amax kept, dtype of scales
FORMS = {"fp8_delayed": (0, 1, True, False, True, torch.float32),
         "fp8_current": (0, 1, True, False, True, torch.float32),
         "mxfp8": (32, 32, False, False, False, torch.uint8),
         "fp8_block": (128, 1, True, False, False, torch.float32),
         "nvfp4": (16, 16, True, True, True, torch.uint8)}
MOST = {"e4m3": F32(448), "e5m2": F32(57344), "e2m1": F32(6)}


def kind_of(name):
    return {"e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2,
            "e2m1": ml_dtypes.float4_e2m1fn, "e8m0": ml_dtypes.float8_e8m0fnu}[name]


def encode(x, name):
    x = numpy.asarray(x, F32)
    bits = numpy.where(numpy.isnan(x), x.view(numpy.uint32),
                       numpy.clip(x, -MOST[name], MOST[name]).view(numpy.uint32))
    return bits.astype(numpy.uint32).view(F32).astype(kind_of(name)).view(numpy.uint8)


def decode(codes, name):
    return numpy.ascontiguousarray(codes).view(kind_of(name)).astype(F32)


def usable(amax):
    return amax != 0 and numpy.isfinite(amax)


def not_infinite(x):
    return LARGEST if numpy.isinf(x) else x


def amax_of(z):
    return F32(numpy.max(numpy.abs(z))) if z.size else F32(0)


class Recipe:
    """One scale of `a`'s recipe: (stored, multiplier) of a run."""

    def __init__(self, a, whole):
        self.name, self.form = a["recipe"], a.get("format", "e4m3")
        self.floor = F32(a.get("amax_floor", 0))
        scales = a.get("scales", "auto")
        self.two = scales == "power_of_two" or (scales == "auto" and self.name == "fp8_block")
        self.whole = F32(2688) / whole if usable(whole) else F32(1)
        self.whole = not_infinite(self.whole)
        self.kind = "e2m1" if self.name == "nvfp4" else self.form

    def scale(self, amax):
        if self.name == "mxfp8":
            x = F32(amax * (F32(1) / MOST[self.form]))
            code = 255 if numpy.isnan(x) else 254 if numpy.isinf(x) else next(
                e for e in range(255) if e == 254 or 2.0 ** (e - 127) >= float(x))
            return code, F32(1) if code == 255 else F32(2.0 ** (127 - code))
        if self.name == "nvfp4":
            code = encode(F32(F32(amax * self.whole) / F32(6)), "e4m3")[()]
            by = decode(numpy.array([code], numpy.uint8), "e4m3")[0]
            if numpy.isnan(by) or by == 0:
                return code, F32(0 if by == 0 else 1)
            return code, not_infinite(F32(self.whole / by))
        a = self.floor if amax < self.floor else amax
        scale = F32(1)
        if usable(a):
            scale = not_infinite(F32(MOST[self.form] / a))
            if self.two:
                scale = (scale.view(numpy.uint32) & numpy.uint32(0x7F800000)).view(F32)
        return F32(1) / scale, scale

    def run(self, z, amax=None):
        stored, multiplier = self.scale(amax_of(z) if amax is None else amax)
        return stored, encode(z * multiplier, self.kind)


def runs(z, recipe, block):
    """Codes like z, and scales (lines, blocks), of runs along the last axis."""
    lines, n = z.shape
    codes = numpy.zeros(z.shape, numpy.uint8)
    scales = numpy.zeros((lines, -(-n // block)), F32)
    for i in range(lines):
        for b in range(scales.shape[1]):
            at = slice(b * block, (b + 1) * block)
            scales[i, b], codes[i, at] = recipe.run(z[i, at])
    return codes, scales


def packed(codes):
    return codes[:, 0::2] | codes[:, 1::2] << 4


@numpy.errstate(all="ignore")
def quantized(z, a, scale, lead):
    """The outputs of Quantize for the matrix z; lead: the sizes before the last."""
    block, _, transposed, pack, measures, dtype = FORMS[a["recipe"]]
    recipe, amax = Recipe(a, amax_of(z)), amax_of(z)
    square = block == 128 and a.get("square", False)
    if block == 0:
        stored, multiplier = recipe.scale(amax)
        if scale is not None:
            stored, multiplier = F32(1) / scale, scale
        rows = columns = encode(z * multiplier, recipe.kind)
        columns, scales, down = columns.T, numpy.array([stored]), numpy.array([stored])
    elif square:
        rows = numpy.zeros(z.shape, numpy.uint8)
        scales = numpy.zeros((-(-z.shape[0] // 128), -(-z.shape[1] // 128)), F32)
        for r in range(scales.shape[0]):
            for c in range(scales.shape[1]):
                at = slice(128 * r, 128 * r + 128), slice(128 * c, 128 * c + 128)
                scales[r, c], rows[at] = recipe.run(z[at])
        columns, down = rows.T, scales.T
    else:
        rows, scales = runs(z, recipe, block)
        columns, down = runs(numpy.ascontiguousarray(z.T), recipe, block)
        if not transposed:
            columns, down = columns.T, down.T
        scales = scales.reshape(*lead, -1) if scales.size else scales.reshape(
            *lead, -(-z.shape[1] // block))
    if pack:
        rows, columns = packed(rows), packed(columns)
    rows = rows.reshape(*lead, rows.shape[-1])
    if not transposed:
        columns = columns.reshape(*lead, columns.shape[-1])
    none = numpy.zeros(0)
    want_rows, want_columns = a.get("rows", True), a.get("columns", False)
    return {"data": (rows if want_rows else none, torch.uint8),
            "scale_inv": (scales if want_rows else none, dtype),
            "columns": (columns if want_columns else none, torch.uint8),
            "columns_scale_inv": (down if want_columns else none, dtype),
            "amax": (numpy.array([amax]) if measures else none, torch.float32)}


def results(named):
    out = []
    for name, (value, dtype) in named.items():
        t = torch.from_numpy(numpy.array(value, numpy.float64))
        out.append(Expected(name, "forward", dtype,
                            t if dtype.is_floating_point else t.to(dtype), t.abs()))
    return out


def dequantized(data, scale, amax, a, columns=False):
    """What the bytes stand for: a matrix in f32, as it is stored."""
    block, _, transposed, pack, _, dtype = FORMS[a["recipe"]]
    if pack:
        data = numpy.stack([data & 15, data >> 4], axis=-1).reshape(data.shape[0], -1)
    values = decode(data, "e2m1" if pack else a.get("format", "e4m3"))
    if dtype == torch.float32:
        factor = scale.astype(F32)
    elif pack:
        factor = decode(scale, "e4m3") * (amax / F32(2688) if usable(amax) else F32(1))
    else:
        factor = decode(scale, "e8m0")
    if block and values.size:
        down = columns and not transposed
        factor = factor.reshape(-1, data.shape[1] if down else -(-data.shape[1] // block))
        if down or a.get("square", False) and block == 128:
            factor = numpy.repeat(factor, block, axis=0)[:data.shape[0]]
        if not down:
            factor = numpy.repeat(factor, block, axis=1)[:, :data.shape[1]]
    with numpy.errstate(all="ignore"):
        return values * factor if values.size else values


def floats(x):
    return x.float().numpy()


class Quantized(Spec):
    forward_only = True

    def attrs(self, d, recipe=None):
        few = ["fp8_delayed", "fp8_current", "fp8_block"] if d.small and d.chance(0.7) else FORMS
        a = {"recipe": recipe or d.choice(list(few)), "columns": d.chance(0.5)}
        a["rows"] = not a["columns"] or d.chance(0.7)
        if a["recipe"] != "nvfp4":
            a["format"] = d.choice(["e4m3", "e5m2"])
        if a["recipe"] in ("fp8_current", "fp8_block"):
            a["scales"] = d.choice(["auto", "any", "power_of_two"])
            a["amax_floor"] = d.choice([0.0, 0.5])
        if a["recipe"] == "fp8_block":
            a["square"] = d.chance(0.5)
        return a

    def sizes(self, d, a):
        step = FORMS[a["recipe"]][1]
        if step > 1:
            shape = [step * d.integer(1, 1 if d.small else 3) for _ in range(2)]
            return [d.integer(1, 2)] + shape if d.chance(0.3) and not d.small else shape
        return d.rows(d.row(), 3)


class Quantize(Quantized):
    def draw(self, d):
        a = self.attrs(d)
        x = {"input": d.values(self.sizes(d, a), "wide")}
        if a["recipe"] == "fp8_delayed":
            x["scale"] = torch.tensor([d.number(0.01, 50)])
        return x, a

    def expect(self, case):
        x = case.inputs["input"]
        z = floats(x).reshape(-1, x.shape[-1]) if x.numel() else numpy.zeros(
            (int(numpy.prod(x.shape[:-1])), x.shape[-1]), F32)
        scale = case.inputs["scale"].numpy()[0] if "scale" in case.inputs else None
        return results(quantized(z, case.attrs, scale, x.shape[:-1]))


class Dequantize(Quantized):
    def draw(self, d):
        a = self.attrs(d)
        columns = a["columns"]
        z = floats(d.values(self.sizes(d, a), "wide", torch.float32))
        scale = F32(3) if a["recipe"] == "fp8_delayed" else None
        named = quantized(z.reshape(-1, z.shape[-1]), {**a, "rows": not columns}, scale,
                          z.shape[:-1])
        take = {name: torch.from_numpy(numpy.array(v)).to(t) for name, (v, t) in named.items()}
        x = {"data": take["columns" if columns else "data"],
             "scale_inv": take["columns_scale_inv" if columns else "scale_inv"]}
        if a["recipe"] == "nvfp4":
            x["amax"] = take["amax"]
        b = {"recipe": a["recipe"], "columns": columns, "dtype": SHORT[d.choice(NARROW)]}
        b.update({k: a[k] for k in ("format", "square") if k in a})
        return x, b

    def expect(self, case):
        a, data = case.attrs, case.inputs["data"]
        block, _, transposed, pack, _, _ = FORMS[a["recipe"]]
        amax = case.inputs["amax"].numpy()[0] if "amax" in case.inputs else None
        rows = data.numpy().reshape(int(numpy.prod(data.shape[:-1])), data.shape[-1])
        y = dequantized(rows, case.inputs["scale_inv"].numpy(), amax, a, a["columns"])
        y = y.T if a["columns"] and transposed else y.reshape(
            *data.shape[:-1], data.shape[-1] * (2 if pack else 1))
        return results({"output": (y, LONG[a["dtype"]])})


class RMSNormQuantize(Quantized):
    def draw(self, d):
        a = {**self.attrs(d), "eps": 0.0}
        shape = self.sizes(d, a)
        sign = torch.where(d.values(shape, "normal", torch.float32, odd=False) < 0, -1.0, 1.0)
        power = torch.tensor(2.0 ** d.integer(-3, 3))
        x = {"input": (sign * power).to(d.dtype),
             "weight": d.values([shape[-1]], "wide", torch.float32, odd=False)}
        if a["recipe"] == "fp8_delayed":
            x["scale"] = torch.tensor([d.number(0.01, 50)])
        return x, a

    def expect(self, case):
        x, a = case.inputs["input"], case.attrs
        lead = x.shape[:-1]
        rows = int(numpy.prod(lead))
        wide = x.double().reshape(rows, x.shape[-1])
        mean = (wide * wide).mean(dim=1, keepdim=True)
        rstd = 1 / torch.sqrt(mean)
        z = (wide * rstd).float() * case.inputs["weight"]
        if a["recipe"] != "fp8_delayed":
            z = z.to(x.dtype).float()
        scale = case.inputs["scale"].numpy()[0] if "scale" in case.inputs else None
        named = quantized(z.numpy(), a, scale, lead)
        named["rstd"] = (rstd.reshape(*lead, 1).numpy(), torch.float32)
        return results(named)


class QuantizedLinear(Quantized):
    """f32 sums of exact products of dequantized values."""

    def draw(self, d):
        recipes = d.choice(list(FORMS)), d.choice(list(FORMS))
        step = max(FORMS[r][1] for r in recipes)
        size = lambda: step * d.integer(1, 1 if d.small else 2) if step > 1 else d.integer(1, 9)
        inner, x = size(), {}
        a = {"dtype": SHORT[d.dtype]}
        for name, prefix, recipe in zip(("input", "weight"), ("", "weight_"), recipes):
            b = {**self.attrs(d, recipe), "rows": True, "columns": False}
            z = floats(d.values([size(), inner], "normal", torch.float32, odd=False))
            named = quantized(z, b, F32(4) if recipe == "fp8_delayed" else None, z.shape[:-1])
            take = {n: torch.from_numpy(numpy.array(v)).to(t) for n, (v, t) in named.items()}
            x[name], x[name + "_scale_inv"] = take["data"], take["scale_inv"]
            if recipe == "nvfp4":
                x[name + "_amax"] = take["amax"]
            a.update({prefix + k: b[k] for k in ("recipe", "format", "square") if k in b})
        if d.chance(0.5):
            x["bias"] = d.values([x["weight"].shape[0]], "normal", odd=False)
        return x, a

    def expect(self, case):
        x, a, sides = case.inputs, case.attrs, []
        for name, prefix in (("input", ""), ("weight", "weight_")):
            b = {k: a[prefix + k] for k in ("recipe", "format", "square") if prefix + k in a}
            amax = x[name + "_amax"].numpy()[0] if name + "_amax" in x else None
            sides.append(torch.from_numpy(dequantized(
                x[name].numpy(), x[name + "_scale_inv"].numpy(), amax, b)).double())
        y, size = sides[0] @ sides[1].T, sides[0].abs() @ sides[1].abs().T
        if "bias" in x:
            y, size = y + x["bias"].double(), size + x["bias"].double().abs()
        return [Expected("output", "forward", LONG[a["dtype"]], y, size,
                         float(sides[0].shape[1] + 1))]


class UpdateScale(Quantized):
    def draw(self, d):
        odd = d.choice([0.0, float("inf"), float("nan"), 1e-40]) if d.chance(0.2) else None
        return {"scale": torch.tensor([d.number(0.1, 9)]),
                "history": d.values([d.row()], "positive", torch.float32, odd=False),
                "amax": torch.tensor([d.number(0.1, 9) if odd is None else odd])}, {
                    "format": d.choice(["e4m3", "e5m2"]), "margin": d.integer(-2, 4),
                    "most_recent": d.chance(0.3)}

    @numpy.errstate(all="ignore")
    def expect(self, case):
        a, x = case.attrs, {name: t.numpy() for name, t in case.inputs.items()}
        scale, history, amax = x["scale"], x["history"], x["amax"][0]
        if numpy.isfinite(amax):
            history = numpy.concatenate([[amax], history[:-1]]).astype(F32)
            top = amax if a["most_recent"] else history.max()
            if top > 0:
                scale = [not_infinite(F32(MOST[a["format"]] * F32(2.0 ** -a["margin"]) / top))]
        return results({"scale": (scale, torch.float32), "history": (history, torch.float32)})


if ml_dtypes:
    add("Quantize", Quantize(NARROW))
    add("Dequantize", Dequantize([torch.uint8]))
    add("RMSNormQuantize", RMSNormQuantize(NARROW))
    add("QuantizedLinear", QuantizedLinear(NARROW))
    add("update_scale_", UpdateScale([torch.float32]))
