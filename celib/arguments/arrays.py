"""Arguments as arrays, of NumPy, of torch or of another library of the array API."""

from __future__ import annotations

import functools
import math
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_array_api_obj, is_numpy_array

from celib.arguments.errors import refuse, refuse_dtype, refuse_shape, refuse_type

Array = Any
Axis = int | Sequence[int] | None

# How far the sum of a distribution may be from 1: the spacing of bfloat16 at 1. The sums of
# softmax rows of bfloat16 that torch returns miss it by up to 0.0033, those of a softmax whose
# every step is rounded to bfloat16 by up to 0.0061.
SUM_TOLERANCE = 2.0**-7


def entry_tolerance(eps: float) -> float:
    """How far outside [0, 1] a probability may be, of a dtype whose spacing at 1 is ``eps``."""
    return max(2.0**-17, eps)


def place_of(a: Array) -> Any:
    """The device of an array."""
    return a.device if is_tensor(a) else device(a)


def is_tensor(a: Any) -> bool:
    """Whether it is a tensor of torch, which need not be installed.

    array-api-compat caches its answers, which torch's compiler warns of.
    """
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(a, torch.Tensor)


def quiet(function: Callable[..., Any]) -> Callable[..., Any]:
    """NumPy's warnings off: inf - inf, log(0) and underflow lead to documented results here."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        # torch warns of none of these, and its compiler cannot follow NumPy's settings.
        for a in (*args, *kwargs.values()):
            if is_tensor(a):
                return function(*args, **kwargs)
        with np.errstate(invalid="ignore", over="ignore", under="ignore", divide="ignore"):
            return function(*args, **kwargs)

    return call


# Containers.


def values(name: str, a: Any) -> Array:
    """The array in a container; what the container says beside it is refused where it matters."""
    if is_tensor(a):
        return _dense(name, a)
    if isinstance(a, np.ma.MaskedArray):
        hidden = np.ma.getmaskarray(a)
        if hidden.any():
            raise ValueError(
                f"{name} is a masked array, with {int(hidden.sum())} masked entries: expected all "
                f"entries to count; take {name}.compressed() or fill them"
            )
        return a.data
    library = _library(a)
    if library == "scipy" and hasattr(a, "toarray"):
        refuse_type(name, a, f"a dense array, not a sparse one, such as {name}.toarray()")
    if library == "pandas" and hasattr(a, "to_numpy"):
        return _of_pandas(a)
    if library == "polars":
        if not hasattr(a, "to_numpy"):
            refuse_type(name, a, f"values that are there, such as {name}.collect()")
        return a.to_numpy()
    if is_array_api_obj(a) and not is_numpy_array(a):
        return a
    if isinstance(a, (list, tuple)) and a and not isinstance(a[0], (int, float)):
        if all(map(is_tensor, a)):
            return _stacked(name, a)
        a = [values(name, row) if isinstance(row, np.ma.MaskedArray) else row for row in a]
    try:
        found = np.asarray(a)  # also of np.matrix and np.generic
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{name} is not an array of numbers: {error}") from error
    # Neither every ufunc nor torch takes another byte order than the machine's.
    return found if found.dtype.isnative else found.astype(found.dtype.newbyteorder("="))


def _library(a: Any) -> str:
    """Whose type it is: none of these libraries is imported for a question about it."""
    return type(a).__module__.partition(".")[0]


def _dense(name: str, a: Array) -> Array:
    torch = sys.modules["torch"]
    if a.layout is not torch.strided or getattr(a, "is_nested", False):
        refuse_type(name, a, f"a dense tensor of one shape, not one of layout {a.layout}")
    if hasattr(a, "get_mask"):  # torch.masked.MaskedTensor
        refuse_type(name, a, "a tensor without a mask")
    if a.is_floating_point() and a.dtype.itemsize < 2:  # a float8, which torch does not promote
        refuse_dtype(name, a.dtype)
    # The memory of a negated view holds other values than the view. A compiler has none to read.
    return a if torch.compiler.is_compiling() else a.resolve_neg()


def _stacked(name: str, rows: Sequence[Array]) -> Array:
    """Tensors as one, which keeps their gradients."""
    rows = [_dense(f"{name}[{i}]", row) for i, row in enumerate(rows)]
    for i, row in enumerate(rows):
        if row.device != rows[0].device:
            raise ValueError(f"{name}[{i}] is on {row.device}: expected {rows[0].device}")
        if row.shape != rows[0].shape:
            refuse_shape(f"{name}[{i}]", row.shape, f"that of {name}[0], {tuple(rows[0].shape)}")
    return sys.modules["torch"].stack(rows)


def _of_pandas(a: Any) -> Array:
    found = a.to_numpy()
    if found.dtype != object:
        return found
    # Columns of pandas' own dtypes, which know missing values. Text stays as it is, to be refused:
    # the conversion would read numbers from it.
    dtypes = [a.dtype] if a.ndim == 1 else list(a.dtypes)
    kinds = {getattr(d, "kind", "O") for d in dtypes}
    if kinds == {"b"} and not a.isna().to_numpy().any():
        return found.astype(bool)
    return a.to_numpy(dtype=np.float64, na_value=np.nan) if kinds <= set("biuf") else found


# Arguments that are spread over rows: a series of them is about the columns.
_BROADCAST = {"linear_bias", "pos_weight", "weight", "weights", "where"}


def same_labels(given: Mapping[str, Any]) -> None:
    """Refuse arguments of pandas whose labels differ: pandas itself would align them."""
    labelled = {
        name: a for name, a in given.items() if _library(a) == "pandas" and hasattr(a, "axes")
    }
    if len(labelled) < 2:
        return
    (known, reference), *others = labelled.items()
    for name, a in others:
        axes = list(zip(reference.axes, a.axes, ("index", "columns"), strict=False))
        if name in ("linear_weight", "negatives"):  # rows of their own, the columns of the input
            axes = [(reference.axes[-1], a.axes[-1], "columns")]
        elif name in _BROADCAST and a.ndim < reference.ndim:
            axes = [(reference.axes[-1], a.axes[0], "index")]
        for one, two, what in axes:
            if len(one) == len(two) and not one.equals(two):
                raise ValueError(
                    f"{name} has another {what} than {known}: expected the same labels in the "
                    f"same order, or .to_numpy() to go by position"
                )


def alike(given: Mapping[str, Any]) -> tuple[Any, list[Array]]:
    """The namespace, and the arguments as its arrays: tensors, if there is one among them."""
    same_labels(given)
    found = {name: values(name, a) for name, a in given.items()}
    tensors = [name for name, a in found.items() if is_tensor(a)]
    if tensors:
        known = tensors[0]
        place = found[known].device
        for name, a in found.items():
            if not is_tensor(a):
                found[name] = to_tensor(name, a, place)
            elif a.device != place:
                raise ValueError(f"{name} is on {a.device}: expected {place}, where {known} is")
        # Imported here, because importing it imports torch.
        import array_api_compat.torch as xp

        return xp, list(found.values())
    foreign = [a for a in found.values() if not is_numpy_array(a)]
    known_xp = array_namespace(*(foreign or found.values()))
    place = place_of(foreign[0]) if foreign else None
    return known_xp, [
        known_xp.asarray(a, device=place) if is_numpy_array(a) else a for a in found.values()
    ]


def to_tensor(name: str, a: Array, place: Any) -> Array:
    """A tensor of what is not one yet: torch takes neither every dtype nor every stride."""
    torch = sys.modules["torch"]
    a = np.asarray(a)
    if a.dtype.kind not in "biuf":
        refuse_dtype(name, a.dtype)
    dtype = np.float64 if a.dtype.itemsize > 8 else a.dtype
    return torch.from_numpy(np.array(a, dtype=dtype, order="C")).to(place)


# What nearly every call is given: arrays of float64 or float32 that need no conversion. For them
# the functions of stable and information have a short path, which takes a few microseconds for a
# hundred numbers. Everything else, and everything that is refused, takes the general path below,
# where questions of type, axis and masks cost ten times as much.

# A tensor of fewer numbers is read as the NumPy array that shares its memory: calls of NumPy cost
# half of what those of torch cost. For more numbers torch has its threads.
FEW = 2**13


def plain(*given: Any) -> tuple[Any, list[Array]] | None:
    """NumPy or torch itself, and the arguments as arrays of one shape to compute with.

    None unless all are NumPy arrays, or all are tensors on the CPU, contiguous, of at least one
    axis and one number, and of one shape and dtype, float64 or float32; and unless only their
    values matter: no gradient, no transform, no tracer. :func:`like` is the way back.

    A short tensor of float32 is computed in float64, where NumPy's functions are more accurate.
    """
    kind = type(given[0])
    tensors = kind is not np.ndarray
    found = _shared(given) if tensors else given
    if found is None:
        return None
    first = found[0]
    dtype, shape = first.dtype, first.shape
    if dtype.char not in "df" or not dtype.isnative or not shape or not first.size:
        return None
    for a in found:
        if type(a) is not np.ndarray or not a.flags.c_contiguous:
            return None
        if a is not first and (a.dtype != dtype or a.shape != shape):
            return None
    if not tensors:
        return np, list(found)
    if first.size >= FEW:
        return sys.modules["torch"], list(given)
    return np, list(found) if dtype.char == "d" else [a.astype(np.float64) for a in found]


def only_values(a: Any) -> bool:
    """Whether it is a tensor that has values, and nothing else matters.

    No gradient is wanted, and no compiler, transform, tracer or mode, such as that of fake tensors,
    looks on.
    """
    torch = sys.modules.get("torch")
    if torch is None or type(a) is not torch.Tensor or torch.compiler.is_compiling():
        return False
    c = torch._C
    return (
        not a.requires_grad
        and c._functorch.maybe_current_level() is None
        and not c._len_torch_dispatch_stack()
        and c._get_tracing_state() is None
        and torch.autograd.forward_ad._current_level < 0
    )


def _shared(given: Sequence[Any]) -> Sequence[Array] | None:
    """The memory of tensors as arrays of NumPy, if :func:`only_values` is true of all."""
    kind = type(given[0])
    if not only_values(given[0]) or any([type(a) is not kind or a.requires_grad for a in given]):
        return None
    try:
        return [a.numpy() for a in given]
    except (RuntimeError, TypeError):  # on another device, or of a dtype that NumPy lacks
        return None


def ready(a: Any) -> bool:
    """Whether it is an array of NumPy or torch that is only passed on: float64 or float32.

    Of a tensor also where values do not count, for functions that torch has itself.
    """
    if type(a) is np.ndarray:
        return a.dtype.char in "df" and bool(a.dtype.isnative)
    torch = sys.modules.get("torch")
    return (
        torch is not None
        and type(a) is torch.Tensor
        and (a.dtype is torch.float32 or a.dtype is torch.float64)
        and a.layout is torch.strided
        and not a.is_nested
    )


def plain_rows(axis: Axis, *given: Any) -> tuple[Any, list[Array]] | None:
    """The same, if the rows that are asked for are along the last axis."""
    if type(axis) is not int or (axis != -1 and axis != getattr(given[0], "ndim", 0) - 1):
        return None
    return plain(*given)


def like(given: Array, result: Array) -> Array:
    """A result of plain arguments as an array of their library and dtype."""
    if type(given) is np.ndarray:
        return result if result.dtype == given.dtype else given.dtype.type(result)
    torch = sys.modules["torch"]
    if type(result) is torch.Tensor:
        return result
    dtype = np.float32 if given.dtype is torch.float32 else np.float64
    return torch.from_numpy(np.asarray(result, dtype))


def extremes(a: Array) -> tuple[float, float]:
    """The smallest and the largest of some numbers, NaN if one is.

    By their places, which NumPy finds several times as fast as the numbers, and torch does not.
    """
    if not a.ndim:
        return float(a), float(a)
    found = a if type(a) is np.ndarray else a.numpy()
    return found.item(found.argmin()), found.item(found.argmax())


# Numbers.


def real(given: Mapping[str, Any]) -> tuple[Any, list[Array]]:
    """The namespace, and the arguments as real floating-point numbers, in their own dtypes."""
    xp, arrays = alike(given)
    for i, (name, a) in enumerate(zip(given, arrays, strict=True)):
        if xp.isdtype(a.dtype, ("bool", "integral")):
            arrays[i] = xp.astype(a, xp.float64)
        elif not xp.isdtype(a.dtype, "real floating"):
            refuse_dtype(name, a.dtype)
    return xp, arrays


def widened(xp: Any, arrays: Sequence[Array]) -> tuple[Any, list[Array]]:
    """The dtype of a result, and the arrays in the dtype to compute it in."""
    dtype = xp.result_type(*arrays)
    wide = xp.float32 if xp.finfo(dtype).bits < 32 else dtype
    return dtype, [xp.astype(a, wide, copy=False) for a in arrays]


def floating(**given: Any) -> tuple[Any, Any, list[Array]]:
    """The namespace, the dtype of the result, and the arguments in the dtype to compute in."""
    xp, arrays = real(given)
    return xp, *widened(xp, arrays)


def finish(xp: Any, value: Array, dtype: Any) -> Array:
    """The result in its own dtype; a NumPy array without axes becomes a scalar."""
    return xp.astype(value, dtype, copy=False)[()]


def readable(a: Array) -> bool:
    """Whether the values can be asked for, now and without waiting for a device."""
    if not is_tensor(a):
        return True
    torch = sys.modules["torch"]
    if torch.compiler.is_compiling() or a.device.type != "cpu":
        return False
    # torch.func wraps a tensor once for each transform; under vmap it stands for several.
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(a):
        if functorch.is_batchedtensor(a):
            return False
        a = functorch.get_unwrapped(a)
    keys = torch._C._TorchDispatchModeKey
    if any(torch._C._get_dispatch_mode(key) is not None for key in (keys.FAKE, keys.PROXY)):
        return False
    fakes = sys.modules.get("torch._subclasses.fake_tensor")
    return fakes is None or not isinstance(a, fakes.FakeTensor)


def first(xp: Any, flags: Array) -> tuple[int, ...] | None:
    """The index of the first true entry."""
    if not xp.any(flags):
        return None
    at = int(xp.argmax(xp.astype(xp.reshape(flags, (-1,)), xp.int8)))
    return tuple(int(i) for i in np.unravel_index(at, tuple(flags.shape)))


def check(xp: Any, name: str, a: Array, wrong: Array, expected: str) -> None:
    """Raise for the first entry that is wrong, where the values can be read."""
    if readable(wrong) and (index := first(xp, wrong)) is not None:
        refuse(name, index, a[index].item(), expected)


def spoil(xp: Any, result: Array, wrong: Array | None) -> Array:
    """NaN where something is wrong, in the gradient too."""
    if wrong is None:
        return result
    # In the dtype of the result: a default dtype of float64 would widen it.
    return result * xp.astype(xp.where(wrong, math.nan, 1.0), result.dtype)


def probabilities(
    xp: Any, name: str, p: Array, eps: float, axes: tuple[int, ...] | None = None
) -> Array | None:
    """Refuse entries that are not probabilities; where nothing can be raised, say which.

    ``eps`` is the spacing at 1 of the dtype in which p came. With ``axes``, the answer is about
    each row along them.
    """
    tolerance = entry_tolerance(eps)
    if not readable(p):
        low, high = (p, p) if axes is None else (xp.min(p, axis=axes), xp.max(p, axis=axes))
        return ~((low >= -tolerance) & (high <= 1.0 + tolerance))
    # A minimum of NaN is NaN, and nothing of the size of p is made for what is as it should be.
    if 0 not in p.shape and not (xp.min(p) >= 0.0 and xp.max(p) <= 1.0):
        bad = ~((p >= -tolerance) & (p <= 1.0 + tolerance))
        check(xp, name, p, bad, f"a probability in [0, 1] within {tolerance:.1g}")
    return None


def distributions(xp: Any, name: str, p: Array, eps: float, axes: tuple[int, ...]) -> Array | None:
    """The same of whole distributions along ``axes``."""
    wrong = probabilities(xp, name, p, eps, axes)
    wide = xp.float32 if xp.finfo(p.dtype).bits < 32 else p.dtype
    total = xp.sum(p, axis=axes, dtype=wide)
    off = ~(xp.abs(total - 1.0) <= SUM_TOLERANCE)
    if wrong is not None:
        return wrong | off
    check(xp, f"the sum of {name}", total, off, f"1 within {SUM_TOLERANCE:.1g}")
    return None


def clipped(xp: Any, x: Array, low: float | None, high: float | None) -> Array:
    """The clip of the array API; of a tensor torch's own, which every compiler of torch traces."""
    return x.clamp(low, high) if is_tensor(x) else xp.clip(x, low, high)


def within(xp: Any, p: Array) -> Array:
    """Probabilities that are outside [0, 1] by rounding, at its ends."""
    if readable(p) and (0 in p.shape or (xp.min(p) >= 0.0 and xp.max(p) <= 1.0)):
        return p
    # As a constant that is added: the gradient of an entry does not depend on its rounding.
    change = clipped(xp, p, 0.0, 1.0) - p
    return p + (change.detach() if is_tensor(p) else change)


# Shapes.


def resolve_axis(axis: Axis, ndim: int) -> tuple[int, ...]:
    """The axes counted from 0; ValueError if one is out of range or named twice."""
    if axis is None:
        return tuple(range(ndim))
    try:
        axes = tuple(map(operator.index, axis if isinstance(axis, Sequence) else (axis,)))
    except TypeError:
        refuse_type("axis", axis, "an integer, several, or None")
    if any(not -ndim <= a < ndim for a in axes) or len({a % ndim for a in axes}) < len(axes):
        raise ValueError(f"axis = {axis}: expected distinct axes of an array of dimension {ndim}")
    return tuple(a % ndim for a in axes)


def _row_order(axes: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    return (*(i for i in range(ndim) if i not in axes), *axes)


def to_rows(xp: Any, x: Array, axes: tuple[int, ...]) -> Array:
    """The axes together as the last one, contiguous: NumPy sums pairwise only along such an axis,
    and adds up n rounding errors along any other."""
    batch = tuple(n for i, n in enumerate(x.shape) if i not in axes)
    length = math.prod([x.shape[i] for i in axes])
    flat = xp.reshape(xp.permute_dims(x, _row_order(axes, x.ndim)), (math.prod(x.shape),))
    return xp.reshape(flat, (*batch, length))


def from_rows(xp: Any, rows: Array, axes: tuple[int, ...], shape: Sequence[int]) -> Array:
    """The inverse of ``to_rows``."""
    order = _row_order(axes, len(shape))
    back = sorted(range(len(shape)), key=order.__getitem__)
    return xp.permute_dims(xp.reshape(rows, tuple(shape[i] for i in order)), tuple(back))


def broadcast(xp: Any, name: str, a: Array, shape: Sequence[int]) -> Array:
    """The array spread to a shape."""
    try:
        return xp.broadcast_to(a, tuple(shape))
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"{name} has shape {tuple(a.shape)}: expected to broadcast to {tuple(shape)}"
        ) from error


def mask(xp: Any, name: str, where: Any, x: Array) -> Array:
    """Booleans of the shape of x, on its device."""
    found = values(name, where)
    place = place_of(x) if is_tensor(x) else "cpu"
    if is_tensor(found):
        if str(found.device) != str(place):
            raise ValueError(f"{name} is on {found.device}: expected {place}, where the rest is")
        if str(found.dtype) != "torch.bool":
            refuse_dtype(name, found.dtype, "booleans")
    if not is_tensor(x):
        found = xp.asarray(found, device=place_of(x))
    elif not is_tensor(found):
        found = to_tensor(name, found, place)
    if not xp.isdtype(found.dtype, "bool"):
        refuse_dtype(name, found.dtype, "booleans")
    return broadcast(xp, name, found, x.shape)


def outcomes(name: str, shape: Sequence[int], axes: tuple[int, ...]) -> None:
    """Refuse distributions over nothing."""
    if 0 in [shape[i] for i in axes]:
        refuse_shape(name, shape, f"outcomes along {axes}")
