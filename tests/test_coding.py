"""Codes are checked against enumeration, Kraft's sum and their own inverse."""

from fractions import Fraction
from itertools import pairwise, product
from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celib.coding import arithmetic_decode, arithmetic_encode, huffman_code
from celib.data import python_topics
from celib.ngram import CharacterModel

fixed = settings(derandomize=True, deadline=None)


def entropy_in_bits(p):
    return -sum(x * log2(x) for x in p if x > 0)


def mean_length(p, words):
    return sum(x * len(word) for x, word in zip(p, words, strict=True))


def distributions(most):
    """Distributions with zeros, ties and tiny entries among them."""
    weight = st.one_of(st.integers(0, 6), st.sampled_from([1e-12, 1e-300, 1e6]))
    weights = st.lists(weight, min_size=1, max_size=most).filter(any)
    return weights.map(lambda w: (np.array(w, dtype=float) / np.sum(w)).tolist())


@given(distributions(12))
@fixed
def test_huffman_code_is_complete_and_prefix_free(p):
    words = huffman_code(p)
    assert sum(Fraction(1, 2 ** len(word)) for word in words) == 1
    for i, j in product(range(len(p)), repeat=2):
        assert i == j or not words[j].startswith(words[i])


@given(distributions(5))
@fixed
def test_huffman_code_is_optimal(p):
    # Every vector of lengths that satisfies Kraft's inequality belongs to a prefix code, and an
    # optimal code of n words needs none that is longer than n - 1.
    lengths = product(range(len(p)), repeat=len(p))
    best = min(
        sum(x * length for x, length in zip(p, vector, strict=True))
        for vector in lengths
        if sum(2.0**-length for length in vector) <= 1
    )
    assert mean_length(p, huffman_code(p)) == pytest.approx(best, abs=1e-12)


@given(distributions(30))
@fixed
def test_huffman_code_is_within_a_bit_of_the_entropy(p):
    length, entropy = mean_length(p, huffman_code(p)), entropy_in_bits(p)
    assert entropy - 1e-12 <= length <= entropy + 1
    # Where one symbol is all but certain, rounding hides how much less than 1 the excess is.
    assert length < entropy + 1 or max(p) > 1 - 1e-10


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        ([0.5, 0.25, 0.125, 0.125], 1.75),
        ([0.7, 0.2, 0.1], 1.3),
        ([0.99, 0.01], 1.0),
        ([1.0], 0.0),
        ([0.0, 1.0], 1.0),
    ],
)
def test_huffman_code_of_known_length(p, expected):
    assert mean_length(p, huffman_code(p)) == pytest.approx(expected, abs=1e-12)


def test_huffman_code_breaks_ties_for_a_short_longest_word():
    # Both (1, 2, 3, 4, 4) and (2, 2, 2, 3, 3) have the least mean length, 2.2.
    assert sorted(map(len, huffman_code([0.4, 0.2, 0.2, 0.1, 0.1]))) == [2, 2, 2, 3, 3]


def drifting(n, seed, sharpness):
    """A model that depends on the whole past; a large sharpness drives q towards 0 and 1."""
    weights = np.random.default_rng(seed).normal(size=(n + 1, n))

    def model(past):
        z = sharpness * weights[[-1, *past[-3:]]].sum(axis=0)
        q = np.exp(z - z.max())
        return q / q.sum()

    return model


def surprise_in_bits(symbols, model):
    return sum(-log2(model(symbols[:t])[s]) for t, s in enumerate(symbols))


def check_round_trip(symbols, model, n):
    bits = arithmetic_encode(symbols, model)
    assert arithmetic_decode(bits, model, len(symbols)) == symbols
    surprise = surprise_in_bits(symbols, model)
    assert len(bits) < surprise + 2 + len(symbols) * (n + 2) * 2.0**-47
    return len(bits), surprise


@given(st.data(), st.integers(1, 6), st.integers(0, 3), st.sampled_from([0.0, 1.0, 10.0, 60.0]))
@fixed
def test_arithmetic_code_round_trip_and_length(data, n, seed, sharpness):
    symbols = data.draw(st.lists(st.integers(0, n - 1), max_size=60))
    check_round_trip(symbols, drifting(n, seed, sharpness), n)


@pytest.mark.parametrize("favourite", [1 - 2.0**-53, 1 - 1e-9, 0.5, 1e-9, 5e-324])
@pytest.mark.parametrize("pattern", [[0], [1], [0, 1], [1, 0, 0, 0, 0, 0, 0]])
def test_arithmetic_code_at_the_edges_of_probability(favourite, pattern):
    q = [favourite, 1 - favourite]
    symbols = (pattern * 300)[:300]
    bits = arithmetic_encode(symbols, lambda past: q)
    assert arithmetic_decode(bits, lambda past: q, 300) == symbols


def test_arithmetic_code_carries_through_a_long_run():
    # Just below one half, the word is 0111...: the symbol that tips over must carry through.
    third = [1 / 2 - 1e-9, 2e-9, 1 / 2 - 1e-9]
    for last in range(3):
        check_round_trip([1] * 40 + [last], lambda past: third, 3)
    half = [0.5, 0.5]
    assert arithmetic_encode([0] + [1] * 200, lambda past: half) == "0" + "1" * 200


@pytest.mark.parametrize("order", [0, 2, 4])
def test_arithmetic_code_meets_the_surprise_of_a_text(order):
    text = python_topics()
    language = CharacterModel(text[:40_000], order=order, alphabet=set(text))

    def model(past):
        context = past[max(len(past) - order, 0) :]
        return language.distribution("".join(language.alphabet[i] for i in context))

    message = [language.alphabet.index(c) for c in text[100_000:101_000]]
    bits, surprise = check_round_trip(message, model, len(language.alphabet))
    rows = language.surprisals(text[100_000:101_000]) / np.log(2)
    assert surprise == pytest.approx(rows[order].sum(), rel=1e-9)
    assert surprise <= bits


def test_arithmetic_code_of_all_messages_is_prefix_free():
    model = drifting(3, 1, 2.0)
    words = [arithmetic_encode(list(message), model) for message in product(range(3), repeat=4)]
    assert sum(Fraction(1, 2 ** len(word)) for word in words) <= 1
    words.sort()
    assert not any(b.startswith(a) for a, b in pairwise(words))


def test_an_impossible_symbol_takes_no_room():
    q = [0.5, 0.0, 0.5]
    bits = arithmetic_encode([0, 2] * 50, lambda past: q)
    assert len(bits) <= 101
    assert arithmetic_decode(bits, lambda past: q, 100) == [0, 2] * 50


def test_nothing_to_say_takes_no_bits():
    assert arithmetic_encode([], lambda past: [0.5, 0.5]) == ""
    assert arithmetic_encode([0] * 9, lambda past: [1.0]) == ""
    assert arithmetic_decode("", lambda past: [1.0], 9) == [0] * 9


@pytest.mark.parametrize(
    ("p", "message"),
    [
        ([], r"NAME has shape \(0,\): expected at least one number"),
        ([[0.5, 0.5]], r"NAME has shape \(1, 2\)"),
        ([0.5, -0.5, 1.0], r"NAME\[1\] = -0\.5: expected a probability"),
        ([0.5, float("nan")], r"NAME\[1\] = nan"),
        ([0.5, 0.4], r"the sum of NAME = 0\.9: expected 1 within 0\.008"),
        ([0.5, float("inf")], r"NAME\[1\] = inf"),
    ],
)
def test_what_is_not_a_distribution_is_refused(p, message):
    with pytest.raises(ValueError, match=message.replace("NAME", "p")):
        huffman_code(p)
    model = "the model's distribution after 0 symbols"
    with pytest.raises(ValueError, match=message.replace("NAME", model)):
        arithmetic_encode([0], lambda past: p)


def test_symbols_and_bits_outside_their_alphabets_are_refused():
    half = [0.5, 0.5]
    with pytest.raises(ValueError, match=r"symbols\[1\] = 2: expected a symbol from 0 to 1"):
        arithmetic_encode([0, 2], lambda past: half)
    with pytest.raises(ValueError, match=r"symbols\[0\] = -1: expected a symbol from 0 to 1"):
        arithmetic_encode([-1], lambda past: half)
    with pytest.raises(ValueError, match=r"symbols\[1\] = 0.5: expected a symbol from 0 to 1"):
        arithmetic_encode([1, 0.5], lambda past: half)
    with pytest.raises(ValueError, match=r"symbols\[0\] = 1: expected .* probability is not 0"):
        arithmetic_encode([1], lambda past: [1.0, 0.0])
    with pytest.raises(ValueError, match=r"after 1 symbols\[0\] = nan"):
        arithmetic_encode([0, 0], lambda past: [float("nan")] if past else [1.0])
    with pytest.raises(ValueError, match=r"bits\[2\] = '2': expected '0' or '1'"):
        arithmetic_decode("012", lambda past: half, 3)
    with pytest.raises(ValueError, match="n = -1: expected at least 0"):
        arithmetic_decode("01", lambda past: half, -1)
    # The topmost sliver of the interval is what rounding leaves to no symbol.
    with pytest.raises(ValueError, match="symbol 0 cannot be decoded"):
        arithmetic_decode("1" * 200, lambda past: [0.3, 0.7], 1)
