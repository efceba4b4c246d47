"""What every op computes, in PyTorch: the table SPECS, a module per family. See reference.py.

A spec draws a case, computes it in f64 (integers in their own type), and says how large the terms
are that enter each element of the output and of the gradients, and how many they are.
"""

import warnings

import numpy
import torch

import elementwise  # noqa: F401 (these four add their rows to SPECS)
import reductions  # noqa: F401
import linear_ops  # noqa: F401
import creation  # noqa: F401
import norms
import quantize  # noqa: F401
from attention import rope, sdpa
from draw import FLOATS
from spec import SPECS, add

add("RMSNormImpl", norms.RMSNorm(FLOATS))
add("AddRMSNorm", norms.AddRMSNorm(FLOATS))
add("LayerNorm", norms.LayerNorm(FLOATS))
add("RoPE", rope(FLOATS))
add("SDPA", sdpa(FLOATS))
add("adamw_", norms.AdamW(FLOATS))
add("sgd_", norms.SGD(FLOATS))


# ---- f64 results are held against sums of 64 significant bits (long double on x86), where PyTorch's
# own f64 sums would be as far off as ours.

def wide_mean_square(x, attrs):
    axes = tuple(attrs.get("axes", [-1]))
    return (x * x).mean(axis=axes, keepdims=True) + attrs.get("eps", 1e-5)


def wide_reduce(run):
    def result(x, attrs):
        axes = tuple(attrs["axes"]) or None
        return run(x["input"], axis=axes, keepdims=attrs["keepdim"])
    return result


WIDE = {
    "sum": wide_reduce(numpy.sum),
    "mean": wide_reduce(numpy.mean),
    "cumsum": lambda x, attrs: numpy.cumsum(x["input"], attrs["axis"]),
    "sum_squares": lambda x, attrs: (x["input"] * x["input"]).sum(),
    "matmul": lambda x, attrs: x["input"] @ x["other"],
    "linear": lambda x, attrs: x["input"] @ x["weight"].T + x.get("bias", 0),
    "RMSNormImpl": lambda x, attrs:
        x["input"] / numpy.sqrt(wide_mean_square(x["input"], attrs)) * x["scale"],
}


def expect(case):
    expected = SPECS[case.op].expect(case)
    if case.dtype == torch.float64 and case.op in WIDE and expected[0].value.numel():
        x = {name: t.numpy().astype(numpy.longdouble) for name, t in case.inputs.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # means of nothing are NaN, as they should be
            y = numpy.asarray(WIDE[case.op](x, case.attrs)).astype(numpy.float64)
        expected[0].value = torch.from_numpy(y).reshape(expected[0].value.shape)
    return expected
