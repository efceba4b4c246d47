"""Bobbin from Python: one file, no build step, nothing needed but the shared library.

    import numpy as np, bobbin
    b = bobbin.Context()
    x = b.tensor(np.random.randn(4, 8).astype(np.float32), requires_grad=True)
    y = b.RMSNormImpl(x, b.tensor(np.ones(8, np.float32)), eps=1e-5)   # any op by its name
    y.sum().backward()
    x.grad.numpy()                                                     # a view, not a copy

Every op of `bobbin ops` is a method of Context: inputs in order, attributes by name. The operators + - * / promote
dtypes as PyTorch's do, an op by its name does not. Tensors share their memory with NumPy, PyTorch and whoever else
speaks DLPack, in both directions. A wrong call raises bobbin.Error with the library's message. Results live until
the end of the step, as in C: `with b.step():` around a training step gives its memory back; tensor() and keep() make
tensors that outlive it.

The library is looked for at BOBBIN_LIBRARY, beside this file, in ../build and ../../lib of it, and on the system.
Run this file itself to see it compared with NumPy, and with PyTorch where that is installed.
"""

import contextlib
import ctypes
import ctypes.util
import glob
import numbers
import operator
import os
import sys
from ctypes import POINTER, c_bool, c_char_p, c_double, c_int, c_int64, c_size_t, c_uint, c_uint64, c_void_p

# ---- The C structs of core/core.h ------------------------------------------------------------

DTYPES = ("f64", "f32", "f16", "bf16", "i64", "i32", "u8", "bool")
MAX_RANK, MAX_INTS, MAX_INPUTS, MAX_OUTPUTS, MAX_ATTRS = 8, 16, 8, 6, 8
ATTR_INT, ATTR_FLOAT, ATTR_BOOL, ATTR_INTS, ATTR_CHOICE = range(5)


class Shape(ctypes.Structure):
    _fields_ = [("rank", c_int), ("size", c_int64 * MAX_RANK)]


class Ints(ctypes.Structure):
    _fields_ = [("n", c_int), ("v", c_int64 * MAX_INTS)]


class Attr(ctypes.Structure):
    _fields_ = [("name", c_char_p), ("type", c_int), ("offset", c_size_t), ("value", c_double),
                ("ints", Ints), ("choices", c_char_p), ("required", c_bool)]


class Op(ctypes.Structure):  # its first fields; what follows are functions
    _fields_ = [("name", c_char_p), ("doc", c_char_p), ("inputs", c_char_p * (MAX_INPUTS + 1)),
                ("outputs", c_char_p * (MAX_OUTPUTS + 1)), ("attrs", Attr * (MAX_ATTRS + 1)),
                ("attrs_bytes", c_size_t), ("optional", c_uint), ("variadic", c_bool),
                ("hidden", c_int)]


class Options(ctypes.Structure):
    _fields_ = [("seed", c_uint64), ("threads", c_int), ("path", c_int), ("allocator", c_void_p),
                ("on_error", c_void_p), ("on_error_user", c_void_p), ("deterministic", c_bool)]


# ---- The library -----------------------------------------------------------------------------

_ctx, _t = c_void_p, c_void_p
_FUNCTIONS = {  # name: result, arguments
    "bb_version": (c_char_p, []),
    "bb_open": (_ctx, [POINTER(Options)]),
    "bb_close": (None, [_ctx]),
    "bb_end_step": (None, [_ctx]),
    "bb_error": (c_int, [_ctx]),
    "bb_error_message": (c_char_p, [_ctx]),
    "bb_clear_error": (None, [_ctx]),
    "bb_set_path": (None, [_ctx, c_int]),
    "bb_get_path": (c_int, [_ctx]),
    "bb_set_grad_enabled": (c_bool, [_ctx, c_bool]),
    "bb_find_op": (POINTER(Op), [_ctx, c_char_p]),
    "bb_op_count": (c_int, [_ctx]),
    "bb_op_at": (POINTER(Op), [_ctx, c_int]),
    "bb_op_default_attrs": (None, [POINTER(Op), c_void_p]),
    "bb_apply": (c_int, [_ctx, POINTER(Op), POINTER(_t), c_int, c_void_p, POINTER(_t)]),
    "bb_empty": (_t, [_ctx, c_int, Shape]),
    "bb_from": (_t, [_ctx, c_int, Shape, c_void_p]),
    "bb_keep": (_t, [_t]),
    "bb_drop": (None, [_t]),
    "bb_dtype_of": (c_int, [_t]),
    "bb_promote": (c_int, [_t, _t]),
    "bb_device_of": (c_int, [_t]),
    "bb_shape_of": (Shape, [_t]),
    "bb_stride": (c_int64, [_t, c_int]),
    "bb_data": (c_void_p, [_t]),
    "bb_item": (c_double, [_t]),
    "bb_set_requires_grad": (_t, [_t, c_bool]),
    "bb_requires_grad": (c_bool, [_t]),
    "bb_grad": (_t, [_t]),
    "bb_zero_grad": (None, [_t]),
    "bb_retain_grad": (None, [_t]),
    "bb_detach": (_t, [_t]),
    "bb_backward": (c_int, [_t, _t]),
    "bb_backward_retain": (c_int, [_t, _t]),
    "bb_gradients": (c_int, [_t, _t, POINTER(_t), c_int, c_bool, POINTER(_t)]),
    "bb_to_dlpack": (c_void_p, [_t, c_bool]),
    "bb_from_dlpack": (_t, [_ctx, c_void_p, c_bool]),
}


def _find_library():
    here = glob.escape(os.path.dirname(os.path.abspath(__file__)))
    places = [os.path.join(here, folder, "libbobbin.so") for folder in (".", "../build", "../../lib*", "../../lib/*")]
    found = os.environ.get("BOBBIN_LIBRARY") or next((path for p in places for path in glob.glob(p)), None)
    found = found or ctypes.util.find_library("bobbin")
    if not found:
        raise ImportError(f"no {', '.join(places)}, BOBBIN_LIBRARY or bobbin on the system: "
                          "`cmake --build --preset default` makes build/libbobbin.so")
    return found


# PyDLL keeps Python's lock during a call: a context belongs to one thread at a time, and the garbage collector may
# drop tensors in any.
_c = ctypes.PyDLL(_find_library())
for _name, (_result, _arguments) in _FUNCTIONS.items():
    getattr(_c, _name).restype = _result
    getattr(_c, _name).argtypes = _arguments
version = _c.bb_version().decode()


class Error(RuntimeError):
    """The library's own message; `status` is its bb_status."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


# ctypes cuts numbers to the width of C's: values are checked before they get there.
def _integer(argument, value, low=-(2**63), high=2**63 - 1):
    if hasattr(value, "__index__") and low <= operator.index(value) <= high:
        return operator.index(value)
    raise Error(1, f"{argument}: expected an integer from {low} to {high}, got {value!r}")


def _integers(argument, values, most):
    """A list of integers; one alone is a list of one."""
    values = list(values) if hasattr(values, "__iter__") else [values]
    if len(values) > most:
        raise Error(1, f"{argument}: expected at most {most} integers, got {len(values)}")
    return [_integer(argument, v) for v in values]


def _number(argument, value):
    try:
        number = c_double(value).value
        if number == value or not isinstance(value, numbers.Integral):
            return number
    except (TypeError, OverflowError):
        pass
    raise Error(1, f"{argument}: expected a number that a double holds, got {value!r}")


def _index(argument, value, choices):
    if value not in choices:
        raise Error(1, f"{argument}: expected one of {', '.join(map(str, choices))}, got {value!r}")
    return choices.index(value)


def _no_copy(self):
    raise TypeError("tensors and contexts are neither copied nor pickled; Context.tensor(t, copy=True) copies a tensor")


# ---- DLPack capsules ---------------------------------------------------------------------------

_py = ctypes.pythonapi
_py.PyCapsule_New.restype, _py.PyCapsule_New.argtypes = ctypes.py_object, [c_void_p, c_char_p, c_void_p]
_py.PyCapsule_IsValid.restype, _py.PyCapsule_IsValid.argtypes = c_int, [c_void_p, c_char_p]
_py.PyCapsule_GetPointer.restype, _py.PyCapsule_GetPointer.argtypes = c_void_p, [c_void_p, c_char_p]
_py.PyCapsule_SetName.restype, _py.PyCapsule_SetName.argtypes = c_int, [c_void_p, c_char_p]
_NAMES = {True: b"dltensor_versioned", False: b"dltensor"}  # kept alive: a capsule does not copy its name
_USED = {True: b"used_dltensor_versioned", False: b"used_dltensor"}
_DELETER_AT = {True: 16, False: 56}  # offset of `deleter` in DLManagedTensorVersioned, DLManagedTensor


def _delete(pointer, versioned):
    deleter = c_void_p.from_address(pointer + _DELETER_AT[versioned]).value
    if deleter:
        ctypes.PYFUNCTYPE(None, c_void_p)(deleter)(pointer)


@ctypes.PYFUNCTYPE(None, c_void_p)
def _capsule_destructor(capsule):  # nobody took what is in it
    for versioned, name in _NAMES.items():
        if _py.PyCapsule_IsValid(capsule, name):
            _delete(_py.PyCapsule_GetPointer(capsule, name), versioned)


# ---- Tensors -----------------------------------------------------------------------------------


class Tensor:
    """A tensor of a Context. Never made directly: see Context.tensor and the ops."""

    def __init__(self, context, handle, kept=False):
        self.context, self._handle = context, handle
        self._step = None if kept else context._steps  # the step it dies with

    def __del__(self):
        context = getattr(self, "context", None)
        if context and context._open and self._step in (None, context._steps):
            _c.bb_drop(self._handle)  # what the tape needs of it stays

    __reduce__ = _no_copy

    @property
    def handle(self):
        self.context._ctx  # raises once it is closed
        # The library catches a use one step too late by itself; after two, the handle may be another tensor's.
        if self._step is not None and self._step != self.context._steps:
            raise Error(2, "tensor of a step that has ended (keep() carries one out)")
        return self._handle

    @property
    def shape(self):
        s = _c.bb_shape_of(self.handle)
        return tuple(s.size[: s.rank])

    @property
    def dtype(self):
        return DTYPES[_c.bb_dtype_of(self.handle)]

    @property
    def strides(self):
        """In elements."""
        return tuple(_c.bb_stride(self.handle, i) for i in range(len(self.shape)))

    @property
    def requires_grad(self):
        return _c.bb_requires_grad(self.handle)

    def requires_grad_(self, on=True):
        _c.bb_set_requires_grad(self.handle, on)
        self.context._check()
        return self

    @property
    def grad(self):
        """The accumulated gradient; None: none yet. It changes with the next backward."""
        handle = _c.bb_grad(self.handle)
        return _Borrowed(self.context, handle, self) if handle else None

    def zero_grad(self):
        _c.bb_zero_grad(self.handle)

    def retain_grad(self):
        _c.bb_retain_grad(self.handle)
        return self

    def detach(self):
        return self.context._wrap(_c.bb_detach(self.handle))

    def keep(self):
        """A tensor with this value that outlives the step."""
        return self.context._wrap(_c.bb_keep(self.handle), kept=True)

    def backward(self, seed=None, retain=False):
        run = _c.bb_backward_retain if retain else _c.bb_backward
        seed = self.context._input(seed)  # held until the call is over
        run(self.handle, None if seed is None else seed.handle)
        self.context._check()

    def item(self):
        value = _c.bb_item(self.handle)
        self.context._check()
        return value

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        versioned = max_version is not None and max_version[0] >= 1
        managed = _c.bb_to_dlpack(self.handle, versioned)
        self.context._check()
        return _py.PyCapsule_New(managed, _NAMES[versioned], ctypes.cast(_capsule_destructor, c_void_p))

    def __dlpack_device__(self):
        return (2 if _c.bb_device_of(self.handle) else 1, 0)  # kDLCUDA, kDLCPU

    def numpy(self):
        """A NumPy array on the same memory, which lives as long as the array. bf16 comes as uint16, bit for bit."""
        import numpy as np

        if self.dtype != "bf16":
            return np.from_dlpack(self)
        return np.zeros(self.shape, np.uint16) if 0 in self.shape else np.asarray(_Memory(self))

    __array_ufunc__ = None  # array * tensor comes to __rmul__ below

    def __array__(self, dtype=None, copy=None):
        """For np.asarray(t) and the like; bf16 as float32, which holds every value of it."""
        import numpy as np

        t = self.detach().cast(dtype="f32") if self.dtype == "bf16" else self
        return np.array(t.numpy(), dtype=dtype, copy=copy)

    def __repr__(self):
        return f"<bobbin.Tensor {self.dtype} {self.shape}>"

    # The few operators that notebooks want; everything else is an op of the context.
    __add__ = __radd__ = lambda self, other: self.context._binary("add", self, other)
    __sub__ = lambda self, other: self.context._binary("sub", self, other)
    __rsub__ = lambda self, other: -self + other
    __mul__ = __rmul__ = lambda self, other: self.context._binary("mul", self, other)
    __truediv__ = lambda self, other: self.context._binary("div", self, other)
    __rtruediv__ = lambda self, other: self.context._binary("div", other, self)
    __matmul__ = lambda self, other: self.context.matmul(self, other)
    __rmatmul__ = lambda self, other: self.context.matmul(other, self)
    __neg__ = lambda self: self.context.neg(self)

    def __getattr__(self, name):
        """x.sum(axes=[-1]) is context.sum(x, axes=[-1]), for every op."""
        if name.startswith("_"):
            raise AttributeError(name)
        self.context._op(name)
        return lambda *inputs, **attrs: self.context.apply(name, self, *inputs, **attrs)


class _Borrowed(Tensor):
    """A handle that belongs to another tensor, which is kept alive."""

    def __init__(self, context, handle, owner):
        super().__init__(context, handle, kept=owner._step is None)
        self._owner = owner

    def __del__(self):
        pass


class _Memory:
    """Elements that NumPy has no type for, offered as two-byte integers."""

    def __init__(self, tensor):
        self._managed = _c.bb_to_dlpack(tensor.handle, False)  # another library's use, like any
        tensor.context._check()
        self.__array_interface__ = {"shape": tensor.shape, "typestr": "<u2", "version": 3,
                                    "strides": tuple(2 * s for s in tensor.strides),
                                    "data": (_c.bb_data(tensor.handle), False)}

    def __del__(self):
        if getattr(self, "_managed", None):
            _delete(self._managed, False)


# ---- Contexts ------------------------------------------------------------------------------------


class Context:
    """A bb_context: tensors, the tape, the first error. Every op is a method; see `ops()` and `help_op(name)`."""

    PATHS = ("auto", "fused", "composed")

    def __init__(self, seed=0, threads=0, path="auto", deterministic=False):
        self._steps, self._open = 0, None
        self._open = _c.bb_open(Options(
            seed=_integer("Context: seed", seed, 0, 2**64 - 1),
            threads=_integer("Context: threads", threads, 0, 2**31 - 1),
            path=_index("Context: path", path, self.PATHS), deterministic=deterministic))
        if not self._open:
            raise Error(5, "bb_open: out of memory")

    __reduce__ = _no_copy

    @property
    def _ctx(self):
        if not self._open:
            raise Error(2, "the context has been closed")
        return self._open

    def close(self):
        if self._open:
            _c.bb_close(self._open)  # memory that arrays still look at stays until they are gone
        self._open = None

    def __del__(self):
        if getattr(self, "_open", None):
            self.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _check(self):
        status = _c.bb_error(self._ctx)
        if status:
            message = _c.bb_error_message(self._ctx).decode(errors="replace")
            _c.bb_clear_error(self._ctx)
            raise Error(status, message)

    def _wrap(self, handle, kept=False):
        self._check()
        return Tensor(self, handle, kept)

    # -- making tensors

    def empty(self, shape, dtype="f32"):
        return self._wrap(_c.bb_empty(self._ctx, _index("empty: dtype", dtype, DTYPES), _shape(shape)))

    def tensor(self, values, requires_grad=False, dtype=None, copy=None):
        """From an array of any DLPack library, sharing its memory where it can be (contiguous or not, on the
        CPU, writable, no negative strides); from lists and numbers by way of NumPy. copy=True never shares,
        copy=False raises where it cannot. dtype casts; "bf16" takes uint16 words as they are. Outlives the step."""
        if dtype is not None:
            _index("tensor: dtype", dtype, DTYPES)
        elif isinstance(values, Tensor):
            dtype = values.dtype  # NumPy, which copies, has no bf16
        if not hasattr(values, "__dlpack__"):
            import numpy as np

            values = np.asarray(values)
        if copy or (copy is None and dtype == "bf16" and str(values.dtype) == "uint16"):
            t = self._copy(values, dtype)
        else:
            t = self._share(values, must=copy is False)
        if dtype not in (None, t.dtype):
            if copy is False:
                raise Error(1, f"tensor: dtype: expected {t.dtype}, as copy=False cannot cast, got {dtype}")
            t = self.cast(t, dtype=dtype)
        kept = t.keep()
        return kept.requires_grad_() if requires_grad else kept

    def _share(self, values, must):
        try:
            try:
                capsule, versioned = values.__dlpack__(max_version=(1, 0)), True
            except TypeError:
                capsule, versioned = values.__dlpack__(), False
            versioned = versioned and bool(_py.PyCapsule_IsValid(id(capsule), _NAMES[True]))
            pointer = _py.PyCapsule_GetPointer(id(capsule), _NAMES[versioned])
            t = self._wrap(_c.bb_from_dlpack(self._ctx, pointer, versioned))
            _py.PyCapsule_SetName(id(capsule), _USED[versioned])  # it is ours now
            return t
        except (Error, BufferError):
            if must:
                raise
            return self._copy(values, None)

    def _copy(self, values, dtype):
        import numpy as np

        values = np.ascontiguousarray(values).reshape(np.shape(values))
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        names = {"float64": "f64", "float32": "f32", "float16": "f16", "int64": "i64", "int32": "i32",
                 "uint8": "u8", "bool": "bool", "uint16": "bf16" if dtype == "bf16" else None,
                 "bfloat16": "bf16"}
        name = names.get(values.dtype.name)
        if not name:
            raise Error(1, f"tensor: dtype: expected one of {', '.join(DTYPES)}, got {values.dtype}")
        return self._wrap(_c.bb_from(self._ctx, DTYPES.index(name), _shape(values.shape), values.ctypes.data))

    def _input(self, value):
        return value if value is None or isinstance(value, Tensor) else self.tensor(value)

    # -- ops

    def ops(self):
        return [_c.bb_op_at(self._ctx, i).contents.name.decode() for i in range(_c.bb_op_count(self._ctx))]

    def help_op(self, name):
        op = self._op(name).contents
        attrs = [a.name.decode() for a in op.attrs if a.name]
        inputs = [i.decode() for i in op.inputs if i]
        return f"{name}({', '.join(inputs)}; {', '.join(attrs)}): {op.doc.decode()}"

    def _op(self, name):
        op = _c.bb_find_op(self._ctx, name.encode())
        if not op:
            raise AttributeError(f"bobbin has no op '{name}' (Context.ops() lists them)")
        return op

    def _binary(self, name, a, b):
        """Promotes as PyTorch does. One of the two may be a number, which takes the dtype of the other."""
        if name == "sub" and isinstance(b, numbers.Real):
            name, b = "add", -_number("sub", b)
        if name in ("add", "mul") and isinstance(b, numbers.Real):
            return self.apply(name + "_scalar", a, value=b)
        dtype = (a if isinstance(a, Tensor) else b).dtype
        a, b = (self.full(shape=[], value=v, dtype=dtype) if isinstance(v, numbers.Real) else self._input(v)
                for v in (a, b))
        dtype = DTYPES[_c.bb_promote(*(t and t.handle for t in (a, b)))]
        if name == "div" and dtype in DTYPES[4:]:  # a quotient is of floating numbers
            dtype = "f32"
        return self.apply(name, *(self.cast(t, dtype=dtype) if t and t.dtype != dtype else t for t in (a, b)))

    def apply(self, name, *inputs, **attrs):
        """One op: its result, or a tuple where it has several."""
        op = self._op(name)
        record = op.contents
        tensors = [self._input(t) for t in inputs]
        count = sum(1 for i in record.inputs if i)
        if not record.variadic:
            tensors += [None] * (count - len(tensors))
        handles = (_t * max(1, len(tensors)))(*(t.handle if t is not None else None for t in tensors))
        packed = ctypes.create_string_buffer(max(1, record.attrs_bytes))
        _c.bb_op_default_attrs(op, packed)
        _pack(name, record, packed, attrs)
        out = (_t * MAX_OUTPUTS)()
        _c.bb_apply(self._ctx, op, handles, len(tensors), packed if record.attrs_bytes else None, out)
        self._check()
        visible = sum(1 for o in record.outputs if o) - record.hidden
        results = tuple(Tensor(self, out[i]) for i in range(visible))
        return results[0] if visible == 1 else results

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        self._op(name)
        return lambda *inputs, **attrs: self.apply(name, *inputs, **attrs)

    # -- gradients and steps

    def gradients(self, output, inputs, seed=None, create_graph=False):
        """d(output)/d(inputs), touching no .grad; None where output does not depend on one."""
        seed = self._input(seed)  # held until the call is over
        handles = (_t * len(inputs))(*(t.handle for t in inputs))
        found = (_t * len(inputs))()
        _c.bb_gradients(output.handle, None if seed is None else seed.handle, handles, len(inputs), create_graph,
                        found)
        self._check()
        return [Tensor(self, h) if h else None for h in found]

    @contextlib.contextmanager
    def no_grad(self):
        former = _c.bb_set_grad_enabled(self._ctx, False)
        try:
            yield
        finally:
            _c.bb_set_grad_enabled(self._ctx, former)

    @contextlib.contextmanager
    def path(self, name):
        """How composite ops run inside: auto, fused or composed."""
        former = _c.bb_get_path(self._ctx)
        _c.bb_set_path(self._ctx, _index("path", name, self.PATHS))
        try:
            yield
        finally:
            _c.bb_set_path(self._ctx, former)

    def end_step(self):
        """Every tensor made since the last one dies; gradients of kept tensors stay."""
        _c.bb_end_step(self._ctx)
        self._steps += 1

    @contextlib.contextmanager
    def step(self):
        try:
            yield
        finally:
            self.end_step()


def _shape(sizes):
    sizes = _integers("tensor: shape", sizes, MAX_RANK)
    return Shape(len(sizes), (c_int64 * MAX_RANK)(*sizes))


def _pack(name, record, packed, attrs):
    """Writes attributes into the op's struct, by the table of the record."""
    table = {a.name.decode(): a for a in record.attrs if a.name}
    for key in attrs:
        if key not in table:
            raise Error(1, f"{name}: {key}: expected one of {', '.join(table) or 'no attributes'}")
    for key, a in table.items():
        if key not in attrs:
            if a.required:
                raise Error(1, f"{name}: {key}: expected a value, as it has no default")
            continue
        value, address, argument = attrs[key], ctypes.addressof(packed) + a.offset, f"{name}: {key}"
        if a.type == ATTR_CHOICE:
            c_int.from_address(address).value = _index(argument, value, a.choices.decode().split("|"))
        elif a.type == ATTR_INTS:
            sizes = _integers(argument, value, MAX_INTS)
            Ints.from_address(address).n = len(sizes)
            Ints.from_address(address).v[: len(sizes)] = sizes
        elif a.type == ATTR_INT:
            c_int64.from_address(address).value = _integer(argument, value)
        elif a.type == ATTR_FLOAT:
            c_double.from_address(address).value = _number(argument, value)
        else:
            c_bool.from_address(address).value = _index(argument, value, (False, True))


# ---- An example: RMSNorm and its gradients, held against others -----------------------------------


def main():
    import numpy as np

    b = Context(seed=1)
    rng = np.random.default_rng(0)
    x_values, w_values = rng.standard_normal((4, 6)), rng.standard_normal(6)
    seed = rng.standard_normal((4, 6))
    x, w = b.tensor(x_values, requires_grad=True), b.tensor(w_values, requires_grad=True)
    y = b.RMSNormImpl(x, w, eps=1e-5)
    y.backward(seed)

    got = (y.numpy(), x.grad.numpy(), w.grad.numpy())

    inverse = 1 / np.sqrt((x_values**2).mean(-1, keepdims=True) + 1e-5)
    d = seed * w_values
    of_numpy = (x_values * inverse * w_values,
                inverse * d - x_values * inverse**3 * (d * x_values).mean(-1, keepdims=True),
                (seed * x_values * inverse).sum(0))
    others = {"NumPy": of_numpy}
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed: not compared")
    else:
        tx, tw = torch.tensor(x_values, requires_grad=True), torch.tensor(w_values, requires_grad=True)
        ty = torch.nn.functional.rms_norm(tx, (6,), tw, 1e-5)
        ty.backward(torch.tensor(seed))
        others[f"PyTorch {torch.__version__}"] = (ty.detach().numpy(), tx.grad.numpy(), tw.grad.numpy())

    worst = {name: max(np.abs(g - o).max() for g, o in zip(got, theirs)) for name, theirs in others.items()}
    for name, difference in worst.items():
        print(f"bobbin {version}: RMSNormImpl and its gradients against {name}: largest difference {difference:.1e}")
    return 0 if max(worst.values()) < 1e-12 else 1


if __name__ == "__main__":
    sys.exit(main())
