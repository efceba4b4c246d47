"""examples/bobbin.py, as installed: memory shared in both directions, every op by name, gradients, errors as exceptions,
structs laid out as in C, and files that NumPy reads. Ends with "Python fine"; PyTorch joins where it is installed.

    consumer.py INCLUDE COMPILER      the folder of bobbin.h, a C compiler
"""

import copy
import ctypes
import gc
import itertools
import operator
import os
import pickle
import subprocess
import sys
import tempfile

import numpy as np

import bobbin


def refused(part, call):
    try:
        call()
    except bobbin.Error as e:
        assert part in str(e), f"expected '{part}' in: {e}"
        return
    raise AssertionError(f"expected an error with '{part}'")


def test_layouts(include, compiler):
    """The C compiler prints the offset of each field that the ctypes structs name, their sizes, and the constants."""
    structs = {"bb_shape": bobbin.Shape, "bb_ints": bobbin.Ints, "bb_attr": bobbin.Attr, "bb_op": bobbin.Op,
               "bb_options": bobbin.Options}
    expected = {}
    for name, struct in structs.items():
        if struct is not bobbin.Op:  # which holds the first fields only
            expected[f"sizeof({name})"] = ctypes.sizeof(struct)
        for field, _ in struct._fields_:
            expected[f"offsetof({name}, {field})"] = getattr(struct, field).offset
            expected[f"sizeof((({name} *)0)->{field})"] = getattr(struct, field).size
    expected.update({f"BB_{k}": getattr(bobbin, k) for k in dir(bobbin) if k.startswith(("MAX_", "ATTR_"))})
    expected.update({f"BB_{name.upper()}": i for i, name in enumerate((*bobbin.DTYPES, "dtype_count"))})
    expected.update({f"BB_PATH_{name.upper()}": i for i, name in enumerate(bobbin.Context.PATHS)})
    with tempfile.TemporaryDirectory() as folder:
        source, program = os.path.join(folder, "layout.c"), os.path.join(folder, "layout")
        with open(source, "w") as file:
            print('#include <stddef.h>\n#include <stdio.h>\n#include "bobbin.h"\nint main(void) {', file=file)
            for expression in expected:
                print(f'    printf("%zu\\n", (size_t)({expression}));', file=file)
            print("    return 0;\n}", file=file)
        subprocess.run([compiler, "-std=c11", "-I", include, source, "-o", program], check=True)
        lines = subprocess.run([program], check=True, stdout=subprocess.PIPE).stdout.split()
    wrong = [f"{e}: {c} in C, {expected[e]} here" for e, c in zip(expected, map(int, lines)) if c != expected[e]]
    assert len(lines) == len(expected) and not wrong, "; ".join(wrong)


def test_options():
    x = np.random.default_rng(2).standard_normal((256, 3000)).astype(np.float32)
    results = []
    for threads in (1, 2):
        with bobbin.Context(threads=threads, deterministic=True) as b:
            results.append((b.tensor(x) @ b.tensor(x.T)).numpy().tobytes())
    assert results[0] == results[1]
    refused("threads: expected an integer", lambda: bobbin.Context(threads=2**40))
    refused("seed: expected an integer", lambda: bobbin.Context(seed=-1))
    refused("path: expected one of auto, fused, composed, got 'x'", lambda: bobbin.Context(path="x"))


def test_memory(b):
    a = np.arange(12, dtype=np.float32).reshape(3, 4)
    x = b.tensor(a, copy=False)
    a[0, 0] = 50
    assert x.numpy()[0, 0] == 50 and x.numpy().ctypes.data == a.ctypes.data
    x.numpy()[2, 3] = -1
    assert a[2, 3] == -1
    part = b.tensor(a.T[1:3], copy=False)  # strides go along
    assert part.strides == (1, 4) and (part.numpy() == a.T[1:3]).all()
    assert np.allclose(b.exp(part).numpy(), np.exp(a.T[1:3]), rtol=1e-6)
    refused("stride", lambda: b.tensor(a[::-1], copy=False))
    assert (b.tensor(a[::-1]).numpy() == a[::-1]).all()  # copied
    a.flags.writeable = False
    locked = b.tensor(a)
    a.flags.writeable = True
    a[1, 1] = 99
    assert locked.numpy()[1, 1] == 5
    for dtype in ("f8", "f4", "f2", "i8", "i4", "u1", "?"):
        values = np.array([[0, 1, 1], [1, 0, 1]], dtype=dtype)
        assert (b.tensor(values, copy=False).numpy() == values).all()
    words = np.array([0x3F80, 0x4000, 0xC040], dtype=np.uint16)  # 1, 2, -3
    half = b.tensor(words, dtype="bf16")
    assert half.dtype == "bf16" and (half.numpy() == words).all()
    assert (half.cast(dtype="f32").numpy() == [1, 2, -3]).all()
    for dtype in (">f8", ">f4", ">i4", ">f2"):  # the other byte order: copied
        values = np.arange(3).astype(dtype)
        assert (b.tensor(values).numpy() == values).all()
    for dtype in bobbin.DTYPES:
        for values in ([0, 1, 1], np.array([0, 1, 1], np.float32)):
            t = b.tensor(values, dtype=dtype)
            assert t.dtype == dtype and (np.asarray(t) == values).all(), (dtype, t)
            assert b.tensor(t, copy=True).dtype == dtype
    assert b.tensor(np.float32([1, 2, -3]), dtype="bf16").numpy().tolist() == words.tolist()
    assert (np.asarray(half) == np.float32([1, 2, -3])).all()
    refused("dtype: expected one of", lambda: b.tensor([1], dtype="nonsense"))
    refused("copy=False cannot cast", lambda: b.tensor(np.ones(2), dtype="f32", copy=False))
    refused("dtype", lambda: b.tensor(words, dtype="bf16", copy=False))
    for part in (half, b):  # each holds a pointer, which is freed once
        for call in (copy.copy, copy.deepcopy, pickle.dumps):
            try:
                call(part)
                raise AssertionError(f"{call} of {part}")
            except TypeError as e:
                assert "neither copied nor pickled" in str(e)
    assert b.tensor(3.5).item() == 3.5 and b.tensor([1, 2]).dtype == "i64"
    assert b.tensor(np.zeros((0, 2), np.float32)).numpy().shape == (0, 2)


def test_lifetimes():
    a = np.ones(1000, dtype=np.float64)
    count = sys.getrefcount(a)
    b = bobbin.Context()
    with b.step():
        x = b.tensor(a, copy=False)
        y = (x + 1).numpy()
        z = x + 2
    assert sys.getrefcount(a) > count and (y == 2).all()
    refused("has ended", lambda: z.numpy())
    kept = x.numpy()
    b.close()
    assert (y == 2).all() and (kept == 1).all()  # arrays outlive the context
    for call in (x.numpy, lambda: b.tensor([1.0]), lambda: b.add(1, 2), b.ops, b.end_step, b.no_grad().__enter__):
        refused("the context has been closed", call)
    del x, z, kept
    gc.collect()
    y[:] = 3
    del y
    assert sys.getrefcount(a) == count, "the array is still held"


def test_gradients(b):
    rng = np.random.default_rng(1)
    x = b.tensor(rng.standard_normal((5, 3)), requires_grad=True)
    w = b.tensor(rng.standard_normal((3, 4)), requires_grad=True)
    loss = ((x @ w).tanh() * 2.0).sum()
    loss.backward()
    t = np.tanh(x.numpy() @ w.numpy())
    d = 2 * (1 - t * t)
    assert np.allclose(x.grad.numpy(), d @ w.numpy().T, rtol=1e-12)
    assert np.allclose(w.grad.numpy(), x.numpy().T @ d, rtol=1e-12)
    x.zero_grad()
    x.tanh().backward(np.ones((5, 3)))  # an array as the seed
    (g,) = b.gradients(x.tanh(), [x], seed=np.ones((5, 3)))
    assert np.allclose(g.numpy(), 1 - np.tanh(x.numpy()) ** 2) and (g.numpy() == x.grad.numpy()).all()
    b.end_step()
    (g,) = b.gradients((x * x * x).sum(), [x], create_graph=True)
    (gg,) = b.gradients(g.sum(), [x])
    assert np.allclose(gg.numpy(), 6 * x.numpy())
    with b.no_grad():
        assert not (x * 2.0).requires_grad
    with b.path("composed"):
        composed = b.softmax(x, axis=0).numpy()
    assert np.allclose(composed, b.softmax(x, axis=0).numpy(), rtol=1e-14)
    parts = b.cat(x, x, axis=1)  # any number of inputs
    assert parts.shape == (5, 6) and b.SDPA(*[b.tensor(np.ones((1, 2, 3, 4)))] * 3, is_causal=True).shape == (1, 2, 3, 4)
    assert b.RMSNormImpl(x, b.tensor(np.ones(3)), axes=-1, eps=0.0).shape == (5, 3)


def test_numbers(b):
    a = np.array([0.0, 1.0, 3.0, 10.0], np.float32)
    x = b.tensor(a)
    with np.errstate(divide="ignore", invalid="ignore"):
        for f in (lambda x: 1 - x, lambda x: 2 / x, lambda x: x / 3, lambda x: x / np.float32(0), lambda x: x - 0.5,
                  lambda x: np.float32(2) * x, lambda x: x + np.int64(3), lambda x: a * x, lambda x: a - x,
                  lambda x: x / a, lambda x: a @ x):
            result = f(x)
            assert isinstance(result, bobbin.Tensor) and result.dtype == "f32"
            assert np.array_equal(np.asarray(result), f(a), equal_nan=True), (np.asarray(result), f(a))
    assert np.isposinf((b.tensor([1.0]) / 0).item())
    assert (7 - b.tensor([1, 2])).numpy().tolist() == [6, 5] and (b.tensor([1, 2]) - 7).numpy().tolist() == [-6, -5]
    small = b.tensor([0, 1], dtype="u8")  # goes around, as NumPy's
    assert (small - np.uint8(1)).numpy().tolist() == [255, 0] and (small - -1).numpy().tolist() == [1, 2]
    for call in (lambda: b.tensor([4]) - 0.5, lambda: 0.5 - b.tensor([4])):
        refused("expected", call)  # no integers
    whole, single, wide = b.tensor([4, 6]), b.tensor(np.ones(2, np.float32)), b.tensor(np.ones(2), requires_grad=True)
    assert (whole / 2).dtype == (whole / whole).dtype == "f32" and (whole / 4).numpy().tolist() == [1, 1.5]
    assert (whole + single).dtype == "f32" and (single * wide).dtype == (np.ones(2) - single).dtype == "f64"
    assert (single + b.tensor(2.0)).dtype == "f32"  # without axes it does not widen
    (single * wide).sum().backward()
    assert wide.grad.dtype == "f64"
    refused("other: expected dtype f64, got f32", lambda: b.add(wide, single))  # ops by name promote nothing
    refused("expected a tensor, got NULL", lambda: single + None)


def test_errors(b):
    x = b.tensor(np.zeros((2, 3), np.float32))
    refused("matmul", lambda: x @ x)
    refused("axis", lambda: b.softmax(x, axis=7))
    refused("eps: expected a number that a double holds, got 'small'", lambda: b.LayerNorm(x, None, None, eps="small"))
    refused("epsilon: expected one of", lambda: b.LayerNorm(x, None, None, epsilon=1))
    refused("expected one of", lambda: b.gelu(x, approximate="cubic"))
    refused("dtype", lambda: b.tensor(np.zeros(2, np.complex64)))
    refused("shape: expected at most 8 integers, got 9", lambda: b.empty((1,) * 9))
    refused("dtype: expected one of f64, f32", lambda: b.empty((1,), "q"))
    refused("axis: expected an integer", lambda: b.softmax(x, axis=2**64))
    refused("value: expected a number", lambda: b.tensor([1]) + (2**53 + 1))
    refused("value: expected a number", lambda: x * 10**400)
    refused("axes: expected an integer", lambda: b.sum(x, axes=[2**70]))
    refused("shape: expected an integer", lambda: b.reshape(x, shape=[2.7, 3]))
    refused("keepdim: expected one of False, True, got 2", lambda: b.sum(x, keepdim=2))
    assert (x + 1.0).numpy()[0, 0] == 1  # the context works on
    try:
        b.no_such_op(x)
        raise AssertionError("an op that does not exist")
    except AttributeError as e:
        assert "no_such_op" in str(e)
    assert len(b.ops()) > 60 and "RMSNormImpl" in b.ops() and "scale" in b.help_op("RMSNormImpl")


def test_files(b):
    """What numpy.save and numpy.load say of bb_npy_load and bb_npy_save."""
    c = bobbin._c
    c.bb_npy_load.restype, c.bb_npy_load.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
    c.bb_npy_save.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p]
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = os.path.join(folder, "ours.npy"), os.path.join(folder, "theirs.npy")
        for dtype in ("<f8", "<f4", "<f2", "<i8", "<i4", "|u1", "|b1"):
            for shape in ((), (3,), (2, 3), (0, 4), (2, 1, 3)):
                values = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
                for array in (values, values.copy(order="F")):
                    np.save(theirs, array)
                    t = b._wrap(c.bb_npy_load(b._ctx, theirs.encode(), 0))
                    assert t.shape == shape and (t.numpy() == values).all(), (dtype, shape, t)
                np.save(theirs, values)
                assert c.bb_npy_save(b._ctx, ours.encode(), t.handle, None) == 0
                with open(ours, "rb") as mine, open(theirs, "rb") as other:
                    assert mine.read() == other.read(), f"{dtype} {shape}: other bytes than numpy.save"


def test_torch(b):
    import torch

    x = torch.arange(6.0).reshape(2, 3)
    t = b.tensor(x, copy=False)
    x[1, 2] = 40
    back = torch.from_dlpack(t + 0.5)
    assert back[1, 2] == 40.5 and torch.from_dlpack(t).data_ptr() == x.data_ptr()
    types = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool)
    for x, y in itertools.product([torch.ones(s, dtype=d) for s in ((), (2,)) for d in types], repeat=2):
        for op in (operator.add, operator.sub, operator.mul, operator.truediv):
            try:
                theirs = op(x, y)
            except RuntimeError:  # a difference with bool
                continue
            got = torch.from_dlpack(op(b.tensor(x), b.tensor(y)))
            assert got.dtype == theirs.dtype and (got == theirs).all(), (op, x, y, got, theirs)
    half = torch.ones(3, dtype=torch.bfloat16)
    assert b.tensor(half, copy=False).dtype == "bf16"
    assert torch.from_dlpack(b.tensor(half, copy=False)).dtype == torch.bfloat16


def main():
    test_layouts(*sys.argv[1:3])
    test_options()
    b = bobbin.Context()
    test_memory(b)
    test_lifetimes()
    test_gradients(b)
    test_numbers(b)
    test_errors(b)
    test_files(b)
    try:
        import torch  # noqa: F401
    except ImportError:
        print("without PyTorch")
    else:
        test_torch(b)
    assert bobbin.main() == 0
    print("Python fine")


main()
