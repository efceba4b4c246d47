"""Writes the fixtures that tests/reference/test_fixtures.c reads, and the table of worst errors.
See reference.py."""

import hashlib
import json
import os

import torch

import bounds
import files
from draw import FLOATS, SHORT

HERE = os.path.dirname(os.path.abspath(__file__))
FOLDER = f"{HERE}/fixtures"


def write_table(path, table, specs, arguments, passed):
    with open(path, "w") as file:
        for op in specs:
            for kind in ("forward", "gradient"):
                cells = [f"{table[op, d, kind]:9.3g}" if (op, d, kind) in table else "        -" for d in ("f64", "f32", "f16", "bf16")]
                file.write(f"{op:14} {kind:9}" + " ".join(cells) + "\n")


def write_all(ops, specs, make_case):
    pass
