"""Holds ONNX files against onnx.checker and onnxruntime.

check.py FOLDER: for each NAME.onnx there, the checker (full) must accept it, and onnxruntime must give
the outputs in NAME.*.safetensors ("out.logits") for the inputs in it ("in.ids"), within the file's
metadata `tolerance`, absolute and relative; bf16, which it does not take, goes to ONNX's reference
implementation. Metadata `run` = "may" allows a runtime to lack a kernel.
Prints a line for each failure and a last line `N models, N runs, N without a kernel`."""
import glob
import json
import os
import struct
import sys
import warnings

import ml_dtypes
import numpy as np
import onnx
import onnx.reference
import onnxruntime

warnings.filterwarnings("ignore")
onnxruntime.set_default_logger_severity(4)
DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32,
          "U8": np.uint8, "BOOL": np.bool_}
counts = {"models": 0, "runs": 0, "lacking": 0, "failed": 0}


def read(path):
    with open(path, "rb") as file:
        data = file.read()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        raw = data[8 + size + begin:8 + size + end]
        if entry["dtype"] == "BF16":
            tensors[name] = np.frombuffer(raw, ml_dtypes.bfloat16).reshape(entry["shape"])
        else:
            tensors[name] = np.frombuffer(raw, DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return metadata, tensors


def fail(path, text):
    counts["failed"] += 1
    print(f"{os.path.basename(path)}: {' '.join(str(text).split())[:600]}")


class Reference:
    def __init__(self, path):
        self.evaluator = onnx.reference.ReferenceEvaluator(path)

    def get_outputs(self):
        return self.evaluator.proto_.graph.output

    def run(self, names, inputs):
        return self.evaluator.run(names, inputs)


def compare(path, session, metadata, tensors):
    inputs = {k[3:]: v for k, v in tensors.items() if k.startswith("in.")}
    names = [o.name for o in session.get_outputs()]
    for name, got in zip(names, session.run(names, inputs)):
        want = tensors["out." + name]
        if got.shape != want.shape or got.dtype != want.dtype:
            fail(path, f"{name}: got {got.dtype}{got.shape}, expected {want.dtype}{want.shape}")
            continue
        tolerance = float(metadata["tolerance"])
        got, want = got.astype(np.float64), want.astype(np.float64)
        if not np.allclose(got, want, rtol=tolerance, atol=tolerance, equal_nan=True):
            with np.errstate(invalid="ignore"):
                worst = np.nanmax(np.abs(got - want))
            fail(path, f"{name}: differs by {worst:.3g}, allowed {tolerance:g}")
    counts["runs"] += 1


def check(path):
    counts["models"] += 1
    try:
        onnx.checker.check_model(path, full_check=True)
    except Exception as error:
        fail(path, f"checker: {error}")
        return
    cases = sorted(glob.glob(path[:-5] + ".*.safetensors"))
    session = None
    for case in cases:
        metadata, tensors = read(case)
        try:
            if any(t.dtype == ml_dtypes.bfloat16 for t in tensors.values()):
                session = Reference(path)
            elif session is None:
                options = onnxruntime.SessionOptions()
                options.log_severity_level = 4
                options.intra_op_num_threads = 1
                session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            compare(case, session, metadata, tensors)
        except Exception as error:
            lacks = isinstance(session, Reference) or "NOT_IMPLEMENTED" in str(error) or "is not supported" in str(error)
            if metadata.get("run") == "may" and lacks:
                counts["lacking"] += 1
            else:
                fail(case, error)
            return


for model in sorted(glob.glob(os.path.join(sys.argv[1], "*.onnx"))):
    check(model)
print(f"{counts['models']} models, {counts['runs']} runs, {counts['lacking']} without a kernel")
sys.exit(counts["failed"] > 0)
