"""Codes: what an entropy promises, in bits that can be counted."""

import heapq
from bisect import bisect_right
from collections.abc import Callable, Iterable

import array_api_compat.numpy as xp
import numpy as np
from numpy.typing import ArrayLike

from celib.arguments.arrays import distributions, within
from celib.arguments.errors import integer, refuse, refuse_shape, refuse_type
from celib.arguments.samples import numbers

__all__ = ["arithmetic_decode", "arithmetic_encode", "huffman_code"]


def __dir__() -> list[str]:
    return sorted(__all__)


# Frequencies sum to at most 2**48 and the coder's interval is at least 2**95 wide, so dividing
# the one by the other loses less than one part in 2**47.
_FREQUENCY_BITS = 48
_WIDTH_BITS = 96

Model = Callable[[list[int]], ArrayLike]


def huffman_code(p: ArrayLike) -> list[str]:
    r"""A prefix code of least mean length, after Huffman.

    Use it where each symbol needs a word of its own. A message as a whole gets closer to its
    entropy with :func:`arithmetic_encode`.

    No prefix code has a smaller :math:`L=\sum_i p_i\,\ell_i`, and :math:`H_2(P)\le L\le H_2(P)+1`;
    the second inequality is strict where every probability is positive.

    Args:
        p: probabilities, shape ``(n,)`` with n at least 1.

    Returns:
        n words of ``"0"`` and ``"1"``. A symbol of probability 0 gets a word too, and a single
        symbol gets the empty one, so that the code is always complete: the sum of
        :math:`2^{-\ell_i}` is 1. Ties are broken in favour of what was there first, which makes
        the words the same on every run and the longest of them as short as possible.

    Raises:
        ValueError: if ``p`` is not a distribution.

    Source: Huffman (1952), doi:10.1109/JRPROC.1952.273898.

    Example:
        >>> huffman_code([0.5, 0.25, 0.125, 0.125])
        ['0', '10', '110', '111']
        >>> huffman_code([1.0])
        ['']
    """
    probabilities = _distribution(p, "p")
    words = [""] * len(probabilities)
    # The second entry is unique, so the leaves never decide a comparison.
    heap = [(weight, i, [i]) for i, weight in enumerate(probabilities.tolist())]
    heapq.heapify(heap)
    for made in range(len(words), 2 * len(words) - 1):
        weight0, _, leaves0 = heapq.heappop(heap)
        weight1, _, leaves1 = heapq.heappop(heap)
        for i in leaves0:
            words[i] = "0" + words[i]
        for i in leaves1:
            words[i] = "1" + words[i]
        heapq.heappush(heap, (weight0 + weight1, made, leaves0 + leaves1))
    return words


def arithmetic_encode(symbols: Iterable[int], model: Model) -> str:
    r"""Encode a message in about as many bits as the model finds it surprising.

    Use it to see that a model's cross-entropy is a length in bits: any sequential model is a code.
    For a code that gives each symbol a word of its own use :func:`huffman_code`. It is made for
    being read, not for speed.

    The message is a number in an interval that each symbol narrows by its probability. With m
    symbols from an alphabet of n, the bits number less than
    :math:`2+\sum_{t=1}^m-\log_2 q(s_t\mid s_1,\dots,s_{t-1})+m(n+2)\,2^{-47}`; the last term pays
    for rounding the probabilities to integer frequencies. No word of a message of m symbols is the
    beginning of another's.

    Args:
        symbols: the message: integers from 0 to n - 1.
        model: maps the list of the symbols so far (which it must not change) to the distribution
            of the next, shape ``(n,)``. Encoder and decoder must get the same floats from it.

    Returns:
        A string of ``"0"`` and ``"1"``.

    Raises:
        ValueError: if a symbol is outside the alphabet or has probability 0, or the model does
            not return a distribution.

    Source: Rissanen (1976), doi:10.1147/rd.203.0198; Witten, Neal and Cleary (1987),
    doi:10.1145/214762.214771.

    Example:
        A thousand symbols that were nearly certain; a Huffman code would take 1000 bits.

        >>> len(arithmetic_encode([0] * 1000, lambda past: [1 - 1e-6, 1e-6]))
        1
    """
    # Python's integers have no limit, so low carries into the bits already written by itself.
    low, width, position = 0, 1 << (_WIDTH_BITS - 1), _WIDTH_BITS - 1
    past: list[int] = []
    if not isinstance(symbols, Iterable):
        refuse_type("symbols", symbols, "a sequence of symbols")
    for t, given in enumerate(symbols):
        cumulative = _cumulative_frequencies(model, past)
        symbol = _symbol(given, t, len(cumulative) - 1)
        start, stop = cumulative[symbol : symbol + 2]
        if start == stop:
            refuse("symbols", (t,), symbol, "a symbol whose probability is not 0 under the model")
        step = width // cumulative[-1]
        low, width = low + step * start, step * (stop - start)
        shift = _WIDTH_BITS - width.bit_length()
        low, width, position = low << shift, width << shift, position + shift
        past.append(symbol)
    # The shortest word all of whose continuations lie in [low, low + width).
    for drop in range(min(position, _WIDTH_BITS), -1, -1):
        word = -(-low >> drop)
        if (word + 1) << drop <= low + width:
            break
    length = position - drop
    return f"{word:0{length}b}" if length else ""


def arithmetic_decode(bits: str, model: Model, n: int) -> list[int]:
    """Decode the first ``n`` symbols of a message that ``arithmetic_encode`` has encoded.

    Args:
        bits: what ``arithmetic_encode`` returned.
        model: the model that it was given.
        n: how many symbols to decode; a code does not say by itself where it ends.

    Returns:
        The n symbols, a list of integers.

    Raises:
        ValueError: if ``bits`` holds anything but 0 and 1 or cannot be a message of this model,
            or ``n`` is negative.

    Example:
        >>> model = lambda past: [0.9, 0.1] if sum(past) < 2 else [0.1, 0.9]
        >>> arithmetic_decode(arithmetic_encode([0, 1, 0, 1, 1], model), model, 5)
        [0, 1, 0, 1, 1]
    """
    n = integer("n", n, lambda n: n >= 0, "at least 0")
    if not isinstance(bits, str):
        refuse_type("bits", bits, "text of 0 and 1")
    wrong = next((i for i, bit in enumerate(bits) if bit not in "01"), None)
    if wrong is not None:
        refuse("bits", (wrong,), repr(bits[wrong]), "'0' or '1'")
    position = 0

    def read(count: int) -> int:
        # Past the end, zeros: the encoder chose a word all of whose continuations decode alike.
        nonlocal position
        chunk = bits[position : position + count].ljust(count, "0")
        position += count
        return int(chunk or "0", 2)

    width, window = 1 << (_WIDTH_BITS - 1), read(_WIDTH_BITS - 1)
    past: list[int] = []
    for t in range(n):
        cumulative = _cumulative_frequencies(model, past)
        step = width // cumulative[-1]
        target = window // step
        if target >= cumulative[-1]:
            raise ValueError(f"bits is not a message of the model: symbol {t} cannot be decoded")
        symbol = bisect_right(cumulative, target) - 1
        start, stop = cumulative[symbol : symbol + 2]
        window, width = window - step * start, step * (stop - start)
        shift = _WIDTH_BITS - width.bit_length()
        window, width = window << shift | read(shift), width << shift
        past.append(symbol)
    return past


def _cumulative_frequencies(model: Model, past: list[int]) -> list[int]:
    """The model's distribution after ``past``, as integers: symbol i owns [c[i], c[i + 1])."""
    q = _distribution(model(past), f"the model's distribution after {len(past)} symbols")
    spread = (1 << _FREQUENCY_BITS) - len(q)
    # One more than the floor: a symbol that is possible stays possible, however small its q.
    frequencies = np.where(q > 0, 1 + np.floor(q * spread), 0).astype(np.int64)
    return [0, *np.cumsum(frequencies).tolist()]


def _symbol(given: object, t: int, count: int) -> int:
    """A symbol as an integer: a label, in whatever dtype of whole numbers it comes."""
    value = numbers(f"symbols[{t}]", given)
    if value.ndim > 0:
        refuse_shape(f"symbols[{t}]", value.shape, "one number")
    if not (0 <= value < count and value == int(value)):
        refuse("symbols", (t,), value[()], f"a symbol from 0 to {count - 1}")
    return int(value)


def _distribution(p: ArrayLike, name: str) -> np.ndarray:
    """Check that ``p`` is a distribution, and remove the rounding error from its sum."""
    given = numbers(name, p)
    if given.ndim != 1:
        refuse_shape(name, given.shape, "(n), with n at least 1")
    eps = float(np.finfo(given.dtype).eps) if given.dtype.kind == "f" else 0.0
    exact = given.astype(np.float64)
    distributions(xp, name, exact, eps, (0,))
    exact = within(xp, exact)
    normalised: np.ndarray = exact / exact.sum()
    return normalised
