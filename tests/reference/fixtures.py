"""Writes the fixtures that tests/reference/test_fixtures.c reads, and the table of worst errors.
See reference.py.

A fixture file holds the cases of one op. Metadata "N" is the attributes of case N as JSON. Tensors
are N.<input>, N.grad.output (the cotangent), N.expect.<result>: the f64 result rounded to its
dtype, and N.bound.<result>: what an element may be off (absent: nothing). A result is output,
grad.<input>, or an input that the op changes.
"""

import glob
import hashlib
import json
import os

import torch

import bounds
import files
from draw import FLOATS, SHORT

HERE = os.path.dirname(os.path.abspath(__file__))
FOLDER = f"{HERE}/fixtures"
SEED = "fixtures 1"
CASES = {"RMSNormImpl": 40, "LayerNorm": 20, "SDPA": 20}


def upwards(t):
    """t in f32, never smaller: a bound must not shrink."""
    low = t.float()
    return torch.where(low.double() < t, torch.nextafter(low, torch.full_like(low, torch.inf)), low)


def case_tensors(prefix, case, expected):
    tensors = {f"{prefix}.{name}": t for name, t in case.inputs.items()}
    if case.cotangent is not None:
        tensors[f"{prefix}.grad.output"] = case.cotangent
    for e in expected:
        value = e.value
        if e.dtype in FLOATS:
            bound, _ = bounds.allowed(case.op, e.kind, e.dtype, value, e.magnitude, e.terms)
            bound = bound + e.extra
            value = bounds.rounded(value, e.dtype)
            if value.numel() and bound.max() > 0:
                tensors[f"{prefix}.bound.{e.name}"] = upwards(bound)
        tensors[f"{prefix}.expect.{e.name}"] = value.to(e.dtype)
    return tensors


def write_op(op, entry, spec, make_case, expect):
    tensors, metadata = {"reference": torch.zeros(0)}, {}
    for dtype in spec.dtypes:
        count = CASES.get(op, 10) if dtype in FLOATS else 3
        for k in range(count):
            prefix = str(len(metadata))
            case = make_case(op, entry, f"{SEED}/{op}/{SHORT[dtype]}/{k}", dtype, True, k == 1)
            tensors.update(case_tensors(prefix, case, expect(case)))
            metadata[prefix] = json.dumps(case.attrs)
    metadata["cases"] = str(len(metadata))
    metadata["reference"] = f"torch {torch.__version__}, {SEED}"
    del tensors["reference"]
    files.save(f"{FOLDER}/{op}.safetensors", tensors, metadata)


def write_all(ops, specs, make_case, expect):
    os.makedirs(FOLDER, exist_ok=True)
    for old in glob.glob(f"{FOLDER}/*"):
        os.remove(old)
    lines, total = [], 0
    for op, spec in specs.items():
        write_op(op, ops[op], spec, make_case, expect)
    for path in sorted(glob.glob(f"{FOLDER}/*.safetensors")):
        with open(path, "rb") as file:
            data = file.read()
        total += len(data)
        lines.append(f"{hashlib.sha256(data).hexdigest()}  {os.path.basename(path)}\n")
    with open(f"{FOLDER}/SHA256SUMS", "w") as file:
        file.writelines(lines)
    print(f"{len(lines)} files, {total} bytes")


# ---- The table of worst errors

def cell(table, key):
    if key not in table:
        return ""
    return "0" if table[key] == 0 else f"{table[key]:.2g}"


def write_table(path, table, arguments):
    """ERRORS.md: one row an op; forward and gradient per dtype, in the units of bounds.py."""
    dtypes = ["f64", "f32", "f16", "bf16"]
    head = [f"{kind} {dtype}" for kind in ("y", "dx") for dtype in dtypes]
    lines = [
        "# Worst errors against PyTorch\n",
        "Written by a command, not by hand:\n",
        f"    tests/reference/reference.py live --cases {arguments.cases} --seed {arguments.seed} "
        "--table tests/reference/ERRORS.md\n",
        f"{arguments.cases} random cases, PyTorch {torch.__version__}, computed in f64. `y` is the "
        "output, `dx` the worst gradient of any input. An\nempty cell means that nothing of the "
        "kind exists (integer results are equal or fail). Units are those of\n`bounds.py`: f32 in "
        "ulps, f16 and bf16 in ulps off the f64 result rounded to the type, f64 in 2^-52, each of "
        "the\nlargest term of the element; README.md beside this file has the bounds.\n",
        "| op | " + " | ".join(head) + " |",
        "|---|" + "---:|" * len(head),
    ]
    for op in dict.fromkeys(key[0] for key in sorted(table)):
        row = [cell(table, (op, d, kind)) for kind in ("forward", "gradient") for d in dtypes]
        if any(row):
            lines.append(f"| `{op}` | " + " | ".join(row) + " |")
    with open(path, "w") as file:
        file.write("\n".join(lines) + "\n")
