"""The library as a whole, and its modules beside the numerical core."""

import subprocess
import sys

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

import celib
from celib import data, plots
from celib.ngram import CharacterModel

IMPORT = """
import sys, time
start = time.perf_counter()
import celib
elapsed = time.perf_counter() - start
print(elapsed, *sorted({"torch", "matplotlib", "sympy", "scipy", "sklearn"} & set(sys.modules)))
"""


def test_import_is_light():
    printed = subprocess.run(
        [sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True
    ).stdout.split()
    assert float(printed[0]) < 0.3
    assert printed[1:] == []


def test_numerical_core_does_not_load_torch():
    core = "import celib.stable, celib.information, celib.coding, celib.ngram, sys; "
    check = "assert not {'torch', 'matplotlib', 'sympy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", core + check], check=True)


def test_subjects_are_found_and_others_are_not():
    assert celib.data is data
    assert set(celib._SUBJECTS) <= set(dir(celib))
    with pytest.raises(AttributeError, match="nothing"):
        _ = celib.nothing


def test_text_is_the_one_the_book_was_computed_with(monkeypatch):
    text = data.python_topics()
    assert (len(text), len(set(text))) == (465_048, 103)
    monkeypatch.setattr(data, "_TOPICS_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="SHA-256"):
        data.python_topics()


def test_images_and_digits():
    assert data.sample_image("china").shape == (427, 640, 3)
    assert data.sample_image("flower").dtype == np.uint8
    pixels, labels = data.digits()
    assert pixels.shape == (1797, 8, 8)
    assert (pixels.min(), pixels.max(), labels.max()) == (0, 16, 9)
    with pytest.raises(ValueError, match="'cat'"):
        data.sample_image("cat")


def counted(text, context, order, alphabet):
    """Witten and Bell's probabilities, counted by brute force from the definition."""
    q = {c: 1 / len(alphabet) for c in alphabet}
    for k in range(order + 1):
        h = context[len(context) - k :] if k else ""
        followers = [text[i + k] for i in range(len(text) - k) if text[i : i + k] == h]
        kinds = len(set(followers))
        if followers:
            total = len(followers) + kinds
            q = {c: (followers.count(c) + kinds * q[c]) / total for c in alphabet}
    return [q[c] for c in sorted(alphabet)]


@pytest.mark.parametrize("context", ["", "a", "br", "cad", "zab", "zz"])
def test_character_model_against_counting(context):
    text, alphabet = "abracadabra abracadabra", "abcdr z"
    model = CharacterModel(text, order=3, alphabet=alphabet)
    expected = counted(text, context[-3:], min(3, len(context)), alphabet)
    np.testing.assert_allclose(model.distribution(context), expected, rtol=1e-14)
    assert model.distribution(context).sum() == pytest.approx(1, abs=1e-14)


def test_surprisals_are_those_of_the_distributions():
    model = CharacterModel("to be or not to be", order=2, alphabet="abcdefghijklmnopqrstuvwxyz ")
    text = "be not to bob"
    surprisals = model.surprisals(text)
    assert surprisals.shape == (3, len(text))
    for k in range(3):
        lower = CharacterModel("to be or not to be", order=k, alphabet=model.alphabet)
        for i, character in enumerate(text):
            q = lower.distribution(text[max(0, i - k) : i])
            expected = -np.log(q[lower.alphabet.index(character)])
            assert surprisals[k, i] == pytest.approx(expected, rel=1e-13)


def test_character_model_refuses():
    with pytest.raises(ValueError, match="order must not be negative, got -1"):
        CharacterModel("abc", order=-1)
    with pytest.raises(ValueError, match=r"text\[1\] = 'x' is not in the alphabet"):
        CharacterModel("axb", order=1, alphabet="ab")
    with pytest.raises(ValueError, match=r"text\[2\] = 'z'"):
        CharacterModel("ab", order=1).surprisals("abz")


def test_figures_repeat_byte_for_byte(tmp_path):
    matplotlib.use("Agg")
    with matplotlib.rc_context():
        plots.use_house_style()
        drawn = []
        for name in ("one.svg", "two.svg"):
            ax = plots.loss_by_order(np.arange(3), np.ones((1, 3)), np.ones((2, 3)))
            ax.figure.savefig(tmp_path / name, metadata={"Date": None})
            plt.close(ax.figure)
            drawn.append((tmp_path / name).read_bytes())
    assert drawn[0] == drawn[1]
