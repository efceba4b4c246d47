"""examples/bobbin.py, as installed: memory shared in both directions, every op by name, gradients, errors as exceptions,
and files that NumPy reads. Ends with "Python fine"; PyTorch joins where it is installed."""

import ctypes
import gc
import os
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
    refused("closed", lambda: x.numpy())
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


def test_errors(b):
    x = b.tensor(np.zeros((2, 3), np.float32))
    refused("matmul", lambda: x @ x)
    refused("axis", lambda: b.softmax(x, axis=7))
    refused("eps: expected a number, got 'small'", lambda: b.LayerNorm(x, None, None, eps="small"))
    refused("epsilon: expected one of", lambda: b.LayerNorm(x, None, None, epsilon=1))
    refused("expected one of", lambda: b.gelu(x, approximate="cubic"))
    refused("dtype", lambda: b.tensor(np.zeros(2, np.complex64)))
    refused("axes", lambda: b.empty((1,) * 9))
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
    half = torch.ones(3, dtype=torch.bfloat16)
    assert b.tensor(half, copy=False).dtype == "bf16"
    assert torch.from_dlpack(b.tensor(half, copy=False)).dtype == torch.bfloat16


def main():
    b = bobbin.Context()
    test_memory(b)
    test_lifetimes()
    test_gradients(b)
    test_errors(b)
    test_files(b)
    try:
        import torch  # noqa: F401
    except ImportError:
        print("without PyTorch")
    else:
        test_torch(b)
    with open(sys.argv[1]) as readme:
        exec(readme.read().split("```python\n")[1].split("```")[0], {})
    assert bobbin.main() == 0
    print("Python fine")


main()
