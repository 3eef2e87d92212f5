"""Functions of float32 that LLVM turns into vector instructions, and rows in other dtypes.

A loop over a row is vectorised only if everything in it is arithmetic: ``math.exp`` is a call per
number. So the functions are written here, as polynomials, with their errors. The bits of float16
and bfloat16 are read and rounded by arithmetic on integers, since NumPy has no bfloat16, and numba
no float16 on a CPU.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.extending import intrinsic, overload

# In what a row is read: see ``single``.
BITS = {torch.float32: np.float32, torch.bfloat16: np.int16, torch.float16: np.uint16}
# Sums may be taken in any order, so that they are taken in vectors; NaN and inf keep their meaning.
SUMS = {"reassoc", "nsz", "contract"}
_ZERO, _HALF, _ONE, _TWO = (np.float32(x) for x in (0.0, 0.5, 1.0, 2.0))
_LOG2_E = np.float32(1.0 / math.log(2.0))
# The logarithm of 2 in two parts: the first has so few digits that its multiples are exact.
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(math.log(2.0) - 0.693359375)
_LOWEST = np.float32(-87.33654)  # the logarithm of the smallest normal number
# exp(r) = 1 + r + r^2 (1/2 + r/6 + ...), |r| <= log(2) / 2: Taylor's series, as far as float32.
_SERIES = tuple(np.float32(1.0 / math.factorial(k)) for k in range(7, 1, -1))
# Adding 1.5 2^23 to a float rounds it to an integer n, and leaves n in its last bits. With 127
# more, they are the exponent of 2^n once they are moved to their place.
_ROUNDING = np.float32(1.5 * 2**23 + 127)
_EXPONENT = np.int32(23)


@njit(fastmath={"contract"}, error_model="numpy", cache=True)
def _polynomial(coefficients, x):
    """Horner's scheme, the highest coefficient first; LLVM unrolls the loop."""
    p = coefficients[0]
    for k in range(1, len(coefficients)):
        p = p * x + coefficients[k]
    return p


@njit(fastmath={"contract"}, error_model="numpy", cache=True)
def _exp_near_0(r):
    """exp(r), |r| <= log(2) / 2."""
    return (_polynomial(_SERIES, r) * r * r + r) + _ONE


@njit(fastmath={"contract"}, error_model="numpy", cache=True)
def exp(x):
    """exp(x) for x <= 0, within 1.1 ulp; 0 where that is below the normal numbers."""
    k = np.float32(x * _LOG2_E + _ROUNDING)
    n = k - _ROUNDING
    y = _exp_near_0((x - n * _LN2_HIGH) - n * _LN2_LOW)
    y *= np.int32(np.float32(k).view(np.int32) << _EXPONENT).view(np.float32)
    return _ZERO if x < _LOWEST else y


_THIRD, _15, _315, _2835 = (np.float32(x) for x in (1 / 3, 2 / 15, 17 / 315, 62 / 2835))


# A function without fastmath of its own would inherit that of whoever calls it first.
@njit(fastmath=False, error_model="numpy", cache=True)
def tanh_and_slope(u):
    """tanh(u) and 1 / cosh(u)^2, each with its own digits."""
    t = abs(u)
    e = exp(np.float32(-_TWO) * t)
    v = t * t  # for a small t, 1 - e has few digits left: Taylor's series
    near = t - t * v * (_THIRD - v * (_15 - v * (_315 - v * _2835)))
    y = near if t < np.float32(0.25) else (_ONE - e) / (_ONE + e)
    q = _ONE + e
    return (-y if u < _ZERO else y), np.float32(4.0) * e / (q * q)


@intrinsic
def at(_context, address, dtype):
    """The address of numbers of that dtype, as a pointer to them."""
    pointer = types.CPointer(dtype.dtype)

    def generate(context, builder, _signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(pointer))

    return pointer(address, dtype), generate


@intrinsic
def _stream(_context, source, out, vectors, factor):
    """Copy so many vectors of 64 bytes, to an address that is a multiple of 64.

    If the factor is a float32, so are the numbers, and they are multiplied by it.
    """

    def generate(context, builder, signature, arguments):
        number = ir.FloatType() if signature.args[3] == types.float32 else ir.IntType(32)
        vector = ir.VectorType(number, 16)
        source, out = (builder.inttoptr(a, vector.as_pointer()) for a in arguments[:2])
        some = builder.insert_element(vector(ir.Undefined), arguments[3], ir.IntType(32)(0))
        lanes = ir.VectorType(ir.IntType(32), 16)([0] * 16)
        every = builder.shuffle_vector(some, vector(ir.Undefined), lanes)
        one = builder.module.add_metadata([ir.IntType(32)(1)])
        with cgutils.for_range(builder, arguments[2]) as loop:
            value = builder.load(builder.gep(source, [loop.index]), align=1)
            if number == ir.FloatType():
                value = builder.fmul(value, every)
            store = builder.store(value, builder.gep(out, [loop.index]), align=64)
            store.set_metadata("nontemporal", one)
        builder.fence("seq_cst")
        return context.get_dummy_value()

    given = types.float32 if factor == types.float32 else types.int32
    return types.void(types.int64, types.int64, types.int64, given), generate


@njit(nogil=True, error_model="numpy", cache=True)
def streamed(x, factor, out):
    """out = factor x for float32, and for other numbers out = x, past the caches.

    An ordinary store first reads the line of the cache that it changes. For an array larger than
    the caches, where the line will be gone before anyone reads it, that is a third pass over memory
    beside the two that are needed (Intel 64 and IA-32 Architectures Optimization Reference Manual,
    "Non-temporal stores").
    """
    size = x.itemsize
    head = min(x.size, (-out.ctypes.data % 64) // size)
    for k in range(head):
        out[k] = factor * x[k]
    vectors = (x.size - head) * size // 64
    _stream(x.ctypes.data + head * size, out.ctypes.data + head * size, vectors, factor)
    for k in range(head + vectors * (64 // size), x.size):
        out[k] = factor * x[k]


def single(row, buffer):
    """The row in float32: itself, or converted into the buffer.

    An int16 holds the bits of a bfloat16, the upper half of a float32; a uint16 those of a float16.
    """


@overload(single)
def _(row, buffer):
    def itself(row, buffer):
        return row

    def of_bfloat16(row, buffer):
        for k in range(row.size):
            buffer[k] = np.int32(np.int32(row[k]) << np.int32(16)).view(np.float32)
        return buffer

    def of_float16(row, buffer):
        # The exponent and the digits, moved to their places, make a number that is too small by
        # 2^112, the difference of the two biases; so subnormal numbers come out right. For inf and
        # NaN all bits of the exponent are set.
        for k in range(row.size):
            h = np.int32(row[k])
            bits = np.int32((h & np.int32(0x7FFF)) << np.int32(13))
            x = np.float32(bits.view(np.float32) * np.float32(2.0**112)).view(np.int32)
            special = np.int32(bits | np.int32(0x7F800000))
            x = special if bits >= np.int32(0x0F800000) else x
            sign = np.int32(np.int32(h & np.int32(0x8000)) << np.int32(16))
            buffer[k] = np.int32(x | sign).view(np.float32)
        return buffer

    return {types.float32: itself, types.int16: of_bfloat16, types.uint16: of_float16}[row.dtype]


def like(row, x):
    """The float32 x as a row holds it: rounded to nearest, ties to even."""


@overload(like)
def _(row, x):
    def itself(row, x):
        return x

    def to_bfloat16(row, x):
        # NaN separately, because the addition could carry over its bits.
        bits = np.float32(x).view(np.int32)
        even = np.int32((bits >> np.int32(16)) & np.int32(1))
        nearest = np.int32(np.int32(bits + np.int32(0x7FFF)) + even) >> np.int32(16)
        return np.int16(nearest if x == x else np.int32(0x7FC0))

    def to_float16(row, x):
        bits = np.float32(x).view(np.int32)
        sign = np.int32(np.int32(bits >> np.int32(16)) & np.int32(0x8000))
        size = np.int32(bits & np.int32(0x7FFFFFFF))
        # A normal number: the exponent with the other bias, and 13 digits fewer.
        even = np.int32(np.int32(size >> np.int32(13)) & np.int32(1))
        normal = np.int32(np.int32(np.int32(size + np.int32(0xFFF)) + even) >> np.int32(13))
        normal = np.int32(normal - np.int32(112 << 10))
        # A subnormal one, below 2^-14: adding 1/2 leaves its 10 digits, rounded, in the last bits.
        small = np.float32(size.view(np.float32) + _HALF).view(np.int32)
        small = np.int32(small - np.int32(0x3F000000))
        y = small if size < np.int32(0x38800000) else normal
        y = np.int32(0x7C00) if size >= np.int32(0x477FF000) else y  # 65520 rounds to inf
        y = np.int32(0x7E00) if size > np.int32(0x7F800000) else y
        return np.uint16(np.int32(y | sign))

    return {types.float32: itself, types.int16: to_bfloat16, types.uint16: to_float16}[row.dtype]


@njit(nogil=True, cache=True)
def key(bits):
    """An integer for the bits of a float32, in the order of the floats; its own inverse."""
    return np.int32(bits ^ np.int32(np.int32(bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))


LEAST = np.int32(-2139095041)  # the key of -inf


@njit(nogil=True, cache=True)
def largest_key(x):
    """The key of the largest number.

    Integers, because LLVM does not vectorise a comparison that has to think of NaN. A NaN has the
    largest of keys, or with a minus sign the smallest; then a sum finds it.
    """
    bits = x.view(np.int32)
    best = LEAST
    for k in range(bits.size):
        best = np.int32(max(best, key(bits[k])))
    return best


@njit(nogil=True, cache=True)
def of_key(best):
    return np.int32(key(best)).view(np.float32)


# Logarithms and powers, for the losses of a sigmoid.


def _interpolated(function, low, high, degree):
    """Coefficients of a polynomial, the highest first: through the points of Chebyshev."""
    middle, half = (low + high) / 2, (high - low) / 2
    scaled = np.polynomial.chebyshev.chebinterpolate(lambda u: function(middle + half * u), degree)
    line = np.polynomial.Polynomial([-middle / half, 1 / half])
    found = np.polynomial.Polynomial(np.polynomial.chebyshev.cheb2poly(scaled))(line)
    return tuple(np.float32(c) for c in found.coef[::-1])


def _curvature(x):
    """(x - log(1 + x)) / x^2: from x to its logarithm, log(1 + x) = x - x^2 times this."""
    return (x - np.log1p(x)) / (x * x)


# To 1 in 10^8 of the logarithm, a sixth of the rounding that a float32 has anyway.
_LOG_TO_2 = _interpolated(_curvature, 0.0, 1.0, 9)
# Between the roots of 1/2 and of 2, less 1.
_LOG_NEAR_1 = _interpolated(_curvature, math.sqrt(0.5) - 1.0, math.sqrt(2.0) - 1.0, 9)
_LOG_2 = math.log(2.0)
_LOWEST_OF_ALL = np.float32(-104.0)  # exp of it rounds to 0, among the subnormal numbers too
_BITS_OF_ROUNDING = np.int32(_ROUNDING.view(np.int32))
_TINY = np.float32(2.0**-126)
_ROOT_HALF = np.int32(np.float32(math.sqrt(0.5)).view(np.int32))
_ROUNDING_64 = 1.5 * 2.0**52  # as _ROUNDING, for float64


@njit(error_model="numpy", cache=True)
def _scaled(y, n):
    """2^n y, rounded once if it is subnormal: y is close to 1, and -152 <= n <= 1."""
    most = np.int32(max(n, np.int32(-100)))
    y *= np.int32(np.int32(most + np.int32(127)) << _EXPONENT).view(np.float32)
    return y * np.int32(np.int32(np.int32(n - most) + np.int32(127)) << _EXPONENT).view(np.float32)


@njit(fastmath={"contract"}, error_model="numpy", cache=True)
def exp_with_subnormals(x):
    """exp(x) for x <= 0, within 1.1 ulp, among the subnormal numbers too."""
    x = _LOWEST_OF_ALL if x < _LOWEST_OF_ALL else x
    k = np.float32(x * _LOG2_E + _ROUNDING)
    n = k - _ROUNDING
    y = _exp_near_0((x - n * _LN2_HIGH) - n * _LN2_LOW)
    return _scaled(y, np.int32(np.float32(k).view(np.int32) - _BITS_OF_ROUNDING))


@njit(fastmath={"contract"}, error_model="numpy", cache=True)
def log1p(e):
    """log(1 + e) for 0 <= e <= 1, within 1.5 ulp."""
    return e - (e * e) * _polynomial(_LOG_TO_2, e)


@njit(fastmath={"contract"}, error_model="numpy", cache=True)
def power(x, exponent):
    """x^exponent for 0 <= x <= 1 and a float64 above 0, within 1 + exponent / 3 ulp.

    It is exp(exponent log x). The logarithm may be as large as 100, and what is lost of it would be
    multiplied; so its whole part, that of a power of 2, is added in float64.
    """
    small = x < _TINY
    normal = x * np.float32(2.0**24) if small else x
    bits = np.float32(normal).view(np.int32)
    k = np.int32(np.int32(bits - _ROOT_HALF) >> _EXPONENT)
    f = np.int32(bits - np.int32(k << _EXPONENT)).view(np.float32) - _ONE
    p = _polynomial(_LOG_NEAR_1, f)
    whole = np.int32(k - (np.int32(24) if small else np.int32(0)))
    a = exponent * (float(whole) * _LOG_2 + float(f - (f * f) * p))
    a = float(_LOWEST_OF_ALL) if a < float(_LOWEST_OF_ALL) else a
    n = (a * (1.0 / _LOG_2) + _ROUNDING_64) - _ROUNDING_64
    y = _scaled(_exp_near_0(np.float32(a - n * _LOG_2)), np.int32(n))
    y = x if x != x else y
    return _ZERO if x == _ZERO else y
