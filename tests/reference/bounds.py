"""What a result may be off, in one table. README.md explains it.

A bound is a number of units: ulps, in the result's dtype, of a magnitude. The magnitude is the
largest term that enters the element (ops.py gives it), the element itself where nothing cancels.
"""

import torch

# dtype: significand bits, exponent of the smallest normal number, largest number
FORMATS = {
    torch.float64: (53, -1022, 1.7976931348623157e308),
    torch.float32: (24, -126, 3.4028234663852886e38),
    torch.float16: (11, -14, 65504.0),
    torch.bfloat16: (8, -126, 3.3895313892515355e38),
}
NARROW = (torch.float16, torch.bfloat16)
F64_RELATIVE = 1e-12

# Units of: forward in f32, forward in f16 and bf16, gradient in f32, gradient in f16 and bf16.
# All are held against the f64 result rounded to the type: 1 means a neighbour, 0 equal. Sums add to
# it (growth). A primitive's gradient is made of ops that round each once; in f16 and bf16 the last
# number counts those roundings, the one of the saved output as often as the rule uses it.
DEFAULT = (4, 1, 4, 1)
EXACT = (0, 0, 0, 0)
SUMMED = (0, 0, 0, 1)  # values move, gradients of the same element add up

TABLE = {name: EXACT for name in (
    "neg", "abs", "sign", "relu", "contiguous", "alias", "clamp", "cast", "amax", "amin",
    "reshape", "permute", "transpose", "slice", "select", "cat", "stack", "pad", "full", "arange", "rand", "Quantize", "Dequantize", "RMSNormQuantize",
    "update_scale_")}
TABLE.update({name: SUMMED for name in (
    "add", "sub", "maximum", "minimum", "where", "expand", "gather", "index_select",
    "embedding")})
TABLE.update({
    # With a number that f16 and bf16 do not hold: the f32 result, which is rounded, is rounded again.
    "add_scalar": (0, 1, 0, 0),
    "mul_scalar": (0, 1, 0, 1),
    "mul": (0, 0, 4, 2),  # each product, and their sum where an input was broadcast
    "square": (0, 0, 4, 1),
    "div": (0, 0, 4, 3),
    "sqrt": (0, 0, 4, 2),
    "reciprocal": (0, 0, 4, 4),
    "rsqrt": (4, 1, 4, 3),
    "exp": (4, 1, 4, 2),
    "log": (4, 1, 4, 1),
    "sin": (4, 1, 4, 2),
    "cos": (4, 1, 4, 2),
    "tanh": (4, 1, 4, 4),
    "sigmoid": (4, 1, 4, 4),
    "erf": (4, 1, 4, 4),
    "pow": (4, 1, 4, 3),
    "cumsum": (0, 1, 0, 1),
    "matmul": (4, 1, 6, 2),  # each batch's product, and their sum
    "sum": (0, 1, 0, 0),
    "mean": (1, 1, 2, 1),
    "sum_squares": (1, 1, 2, 1),
    "scatter_add": (0, 1, 0, 1),
    # The contract's order for narrow types rounds xhat, then the product: twice.
    "RMSNormImpl": (4, 2, 6, 4),
    "AddRMSNorm": (4, 2, 6, 4),
    # The sum is rounded, then its activation.
    "LinearActivation": (6, 2, 0, 0),
    # Backward reads the rounded output, as PyTorch's does.
    "softmax": (4, 1, 6, 3),
    "log_softmax": (4, 1, 6, 3),
    "SDPA": (4, 1, 6, 2),
    "cross_entropy": (4, 1, 6, 1),
})

# On a GPU: tensor cores take probabilities, and what backward makes of them, in f16 or bf16, so there is
# one more rounding, of terms. Every fused attention does that (backends/cuda/DESIGN.md).
TENSOR_CORES = {"SDPA": (4, 2, 6, 2)}


def growth(n):
    """Units that a sum of n terms adds: half an ulp for each of n - 1 additions at worst, and
    about sqrt(n) when they do not conspire (Higham and Mary, 2019); 2 sqrt(n) is never reached."""
    return 0.0 if n <= 1 else 2.0 * n**0.5


def ulp(magnitude, dtype):
    digits, smallest, _ = FORMATS[dtype]
    _, exponent = torch.frexp(magnitude.double())
    exponent = torch.clamp(exponent - 1, min=smallest)
    return torch.ldexp(torch.ones_like(magnitude, dtype=torch.float64), exponent - (digits - 1))


def rounded(x, dtype):
    """x to nearest in dtype, as f64. By arithmetic, so that f16 and bf16 round once, from f64."""
    digits, _, largest = FORMATS[dtype]
    if dtype == torch.float64:
        return x
    quantum = ulp(x, dtype)
    y = torch.where(torch.isfinite(x), torch.round(x / quantum) * quantum, x)
    return torch.where(y.abs() > largest, torch.copysign(torch.full_like(y, torch.inf), y), y)


def units(op, kind, dtype):
    return TABLE.get(op, DEFAULT)[(2 if kind == "gradient" else 0) + (dtype in NARROW)]


def allowed(op, kind, dtype, expected, magnitude, terms):
    """The absolute bound of each element, and the unit it is counted in."""
    magnitude = torch.maximum(magnitude.abs(), expected.abs())
    magnitude = torch.where(torch.isfinite(magnitude), magnitude, torch.zeros_like(magnitude))
    if dtype == torch.float64:
        return F64_RELATIVE * magnitude + 1e-320, magnitude * 2.0**-52 + 5e-324
    wide = (units(op, kind, torch.float32) + growth(terms)) * ulp(magnitude, torch.float32)
    if dtype == torch.float32:
        return wide, ulp(magnitude, dtype)
    # Computed and gathered in f32, then rounded: once where the table says 1 (an ulp of the result
    # itself), in each step of a rule where it says more (ulps of the largest term).
    steps = units(op, kind, dtype)
    if steps == 0:
        return torch.zeros_like(wide), ulp(magnitude, dtype)
    unit = ulp(magnitude if steps > 1 else expected.abs().nan_to_num(0, 0, 0), dtype)
    unit = unit + wide / steps
    return steps * unit, unit


def judge(got, expected, bound, dtype):
    """Errors of all elements, and which of them are wrong. inf and NaN must be in their places;
    beyond the largest number infinity is right."""
    target = expected = rounded(expected, dtype)
    got = got.double()
    finite = torch.isfinite(got) & torch.isfinite(expected)
    error = torch.where(finite, (got - expected).abs(), torch.zeros_like(got))
    same = (got == target) | (torch.isnan(got) & torch.isnan(target))
    # At the very end of the range the bound decides which side rounds to infinity.
    largest = FORMATS[dtype][2]
    at_the_end = (torch.isinf(got) & (got * torch.sign(expected) > 0)
                  & (expected.abs() + bound >= largest))
    wrong = torch.where(finite, error > bound, ~(same | at_the_end))
    return error, wrong
