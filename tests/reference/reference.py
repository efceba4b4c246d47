#!/usr/bin/env python3
"""Bobbin's ops against PyTorch. README.md beside this file says how and why.

    reference.py live [--cases N] [--seed S] [--op NAME] [--table FILE]
                        draws N cases, runs each with `bobbin op`, compares, prints the worst case of
                        each op as a line that repeats it
    reference.py live --seed S --only K --keep DIR
                        repeats case K and leaves its input and output files in DIR
    reference.py fixtures
                        writes fixtures/*.safetensors and SHA256SUMS for the C tests

Needs PyTorch 2.7 or newer and NumPy. The program is build/bobbin, or what BOBBIN names.
Modules: ops.py (what is computed; a module per family of ops), bounds.py (what it may be off),
spec.py, draw.py, philox.py, files.py, fixtures.py.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, HERE)

try:
    import torch
except ImportError:
    sys.exit("reference.py: expected PyTorch 2.7 or newer, got none (pip install torch numpy)")

import bounds  # noqa: E402
import files  # noqa: E402
import fixtures  # noqa: E402
import quantize  # noqa: E402
from draw import FLOATS, SHORT, Draw  # noqa: E402
from ops import SPECS, expect  # noqa: E402
from spec import Case  # noqa: E402


def program():
    given = os.environ.get("BOBBIN")
    for path in [given] if given else [f"{ROOT}/build/bobbin", f"{ROOT}/build-test/bobbin"]:
        if os.path.exists(path):
            return path
    sys.exit("reference.py: expected the program at build/bobbin (or BOBBIN=path), got none")


def listed_ops(bobbin):
    """name: entry of `bobbin ops --json`. Every op must have a spec, and every spec an op."""
    text = subprocess.run([bobbin, "ops", "--json"], check=True, capture_output=True).stdout
    ops = {entry["name"]: entry for entry in json.loads(text)}
    if not quantize.ml_dtypes:
        print(f"left out, for want of ml_dtypes: {', '.join(quantize.NAMES)}")
        ops = {name: entry for name, entry in ops.items() if name not in quantize.NAMES}
    if set(ops) != set(SPECS):
        sys.exit(f"reference.py: ops without a spec or specs without an op: {set(ops) ^ set(SPECS)}")
    return ops


def unsupported():
    """(op, dtype): reason, from unsupported.txt."""
    rows = {}
    with open(f"{HERE}/unsupported.txt") as file:
        for line in file:
            if line.strip() and not line.startswith("#"):
                op, dtype, reason = line.split(maxsplit=2)
                rows[op, dtype] = reason.strip()
    return rows


def make_case(op, entry, seed, dtype, small=False, zero_size=None):
    d = Draw(seed, dtype, small)
    if zero_size is not None:
        d.zero_size = zero_size
    inputs, attrs = SPECS[op].draw(d)
    case = Case(op, dtype, inputs, attrs)
    if entry["gradient"] != "no" and not SPECS[op].forward_only and d.chance(0.85):
        shape, out = SPECS[op].shape_and_dtype(case)
        if out in FLOATS and any(t.dtype in FLOATS for t in inputs.values()):
            g = torch.randn(shape, generator=d.generator, dtype=torch.float64)
            case.cotangent = g.to(out)
    return case


def draw_case(ops, seed, index, only_op=None):
    """Case `index` of the stream `seed`: ops in turn, dtypes at random."""
    names = [only_op] if only_op else list(ops)
    op = names[index % len(names)]
    r = Draw(f"{seed}/{index}/dtype", torch.float32)
    return make_case(op, ops[op], f"{seed}/{index}", r.choice(SPECS[op].dtypes))


class Failed(Exception):
    pass


def run_bobbin(bobbin, case, path, folder, device="cpu"):
    """The tensors that `bobbin op` writes."""
    given = dict(case.inputs)
    command = [bobbin, "op", case.op, "--output", f"{folder}/out.safetensors", "--path", path,
               "--device", device, "--attrs", json.dumps(case.attrs)]
    if case.cotangent is not None:
        given["grad.output"] = case.cotangent
        command.append("--grad")
    if given:
        files.save(f"{folder}/in.safetensors", given)
        command += ["--input", f"{folder}/in.safetensors"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"exit {done.returncode}: {done.stderr.strip()}")
    return files.load(f"{folder}/out.safetensors")


def compare(case, expected, got):
    """By (kind, dtype of the result): the worst error in units and as a share of the bound. And the
    first fault."""
    worst, share, fault = {}, {}, None
    for e in expected:
        t = got.get(e.name)
        if t is None:
            fault = fault or f"{e.name}: missing"
            continue
        if t.dtype != e.dtype or t.shape != e.value.shape:
            fault = fault or (f"{e.name}: expected {SHORT[e.dtype]} {tuple(e.value.shape)}, "
                              f"got {SHORT[t.dtype]} {tuple(t.shape)}")
            continue
        if e.dtype not in FLOATS:
            wrong, error, bound = t != e.value.to(t.dtype), torch.zeros(t.shape), torch.zeros(t.shape)
            unit = torch.ones(t.shape)
        else:
            bound, unit = bounds.allowed(case.op, e.kind, e.dtype, e.value, e.magnitude, e.terms)
            unit = unit * (1 + e.extra / bound.clamp(min=1e-320))
            bound = bound + e.extra
            error, wrong = bounds.judge(t, e.value, bound, e.dtype)
        if t.numel():
            key = (e.kind, SHORT[e.dtype])
            worst[key] = max(worst.get(key, 0), (error / unit).nan_to_num(0).max().item())
            part = torch.where(bound > 0, error / bound, torch.zeros_like(error)).max().item()
            share[key] = max(share.get(key, 0), part)
        if wrong.any() and not fault:
            i = wrong.flatten().nonzero()[0].item()
            fault = (f"{e.name}[{i}]: got {t.flatten()[i].item()!r}, expected "
                     f"{e.value.flatten()[i].item()!r} within {bound.flatten()[i].item():.3g} "
                     f"({(error / unit).flatten()[i].item():.3g} units)")
    return worst, share, fault


def paths_of(entry):
    return ["auto", "composed"] if entry["kind"] == "composite" else ["auto"]


def describe(case):
    shapes = " ".join(f"{name}:{SHORT[t.dtype]}{list(t.shape)}" for name, t in case.inputs.items())
    return f"{shapes} {json.dumps(case.attrs)}"


def live(arguments):
    bobbin, skip = program(), unsupported()
    if arguments.device != "cpu":
        bounds.TABLE.update(bounds.TENSOR_CORES)
    ops = listed_ops(bobbin)
    passed = failed = left_out = 0
    table, record = {}, {}
    start = time.time()
    indices = [arguments.only] if arguments.only is not None else range(arguments.cases)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as temp:
        folder = arguments.keep or temp
        os.makedirs(folder, exist_ok=True)
        for index in indices:
            case = draw_case(ops, arguments.seed, index, arguments.op)
            again = (f"reference.py live --seed {arguments.seed} --only {index}"
                     + (f" --op {arguments.op}" if arguments.op else "")
                     + (f" --device {arguments.device}" if arguments.device != "cpu" else ""))
            expected = expect(case)
            for path in paths_of(ops[case.op]):
                try:
                    worst, share, fault = compare(case, expected,
                                                  run_bobbin(bobbin, case, path, folder,
                                                             arguments.device))
                except Failed as error:
                    worst, share, fault = {}, {}, str(error)
                    if (case.op, SHORT[case.dtype]) in skip:
                        left_out += 1
                        continue
                if fault:
                    failed += 1
                    print(f"FAILED: {case.op} {SHORT[case.dtype]} {path}: {fault}\n"
                          f"    {describe(case)}\n    {again}", flush=True)
                else:
                    passed += 1
                for (kind, dtype), units in worst.items():
                    key = (case.op, dtype, kind)
                    table[key] = max(table.get(key, 0), units)
                    part = share[kind, dtype]
                    if part >= record.get(case.op, (0,))[0]:
                        record[case.op] = (part, kind, units, dtype, path, again)
    for op, (share, kind, units, dtype, path, again) in record.items():
        print(f"{op:14} {share:5.2f} of the bound ({units:.3g} units, {kind} {dtype} {path})  {again}")
    print(f"{len(indices)} cases against PyTorch {torch.__version__}, "
          f"seed {arguments.seed}, {time.time() - start:.0f} s")
    print(f"{passed} passed, {failed} failed, {left_out} skipped")
    if arguments.table:
        fixtures.write_table(arguments.table, table, arguments)
    return 1 if failed else 0


def write_fixtures(_):
    ops = listed_ops(program())
    fixtures.write_all(ops, SPECS, make_case, expect)
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    modes = parser.add_subparsers(dest="mode", required=True)
    run = modes.add_parser("live")
    run.add_argument("--cases", type=int, default=2000)
    run.add_argument("--seed", type=int, default=1)
    run.add_argument("--op", choices=SPECS)
    run.add_argument("--device", default="cpu", help="where bobbin computes: cpu, cuda")
    run.add_argument("--only", type=int, help="this case alone")
    run.add_argument("--keep", help="folder that keeps the files")
    run.add_argument("--table", help="writes the worst errors as Markdown")
    modes.add_parser("fixtures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sys.exit({"live": live, "fixtures": write_fixtures}[arguments.mode](arguments))


if __name__ == "__main__":
    main()
