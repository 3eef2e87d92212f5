"""The library as a whole, and its modules beside the numerical core."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import celib
from celib import data
from celib.ngram import CharacterModel

ROOT = Path(__file__).parents[1]

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


def test_figures_do_not_load_what_they_draw():
    pytest.importorskip("matplotlib")
    check = "import celib.plots, sys; assert not {'scipy', 'sklearn', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_subjects_are_found_and_others_are_not():
    assert celib.data is data
    for subject in celib._SUBJECTS:
        assert hasattr(celib, subject) == (subject in dir(celib))
    with pytest.raises(AttributeError, match="nothing"):
        _ = celib.nothing


@pytest.mark.parametrize("subject", celib._SUBJECTS)
def test_dir_shows_what_is_public(subject):
    if subject not in dir(celib):
        pytest.skip(celib._missing(f"celib.{subject}"))
    module = getattr(celib, subject)
    if subject == "kernels":
        public = {path.stem for path in Path(module.__file__).parent.glob("[!_]*.py")}
    elif subject == "plots":
        parts = [part for name, part in sys.modules.items() if name.startswith("celib.plots.")]
        public = {name for part in parts for name in part.__all__}
    else:
        public = set(module.__all__)
    # Without an extra, what needs it is not there.
    assert set(dir(module)) == {name for name in public if hasattr(module, name)}


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Runs code in a Python that has celib, NumPy, SciPy and array-api-compat, and nothing else."""
    folder = tmp_path_factory.mktemp("bare")
    for name in ("array_api_compat", "numpy", "scipy"):
        package = Path(find_spec(name).origin).parent
        # Wheels keep shared libraries in a folder beside the package.
        for path in (package, package.with_name(f"{name}.libs")):
            if path.exists():
                (folder / path.name).symlink_to(path)
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}

    def run(code):
        # -S: without the folder in which packages are installed.
        command = [sys.executable, "-S", "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_the_version_is_the_same_everywhere(bare):
    version = bare("import celib; print(celib.__version__)").strip()
    cited = (ROOT / "CITATION.cff").read_text("utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    [cited_version] = re.findall(r"^version: (.+)$", cited, re.MULTILINE)
    [date] = re.findall(r"^date-released: (.+)$", cited, re.MULTILINE)
    assert cited_version == version
    assert re.findall(r"^## \[(\d.*)\] - (.+)$", changes, re.MULTILINE)[0] == (version, date)


EXPLORE = """
import inspect, pydoc, celib
assert hasattr(celib, "stable") and not hasattr(celib, "losses") and not hasattr(celib, "plots")
assert "celib.losses" in pydoc.render_doc(celib)
for module in [celib, *map(celib.__getattr__, set(dir(celib)) - {"__version__"})]:
    assert [name for name, _ in inspect.getmembers(module)] == dir(module)
    assert all(hasattr(module, name) for name in dir(module))
print(*dir(celib))
"""


def test_explored_without_extras(bare):
    needs_one = {"diagnosis", "distributed", "kernels", "losses", "plots", "symbolic", "testing"}
    assert set(bare(EXPLORE).split()) == {"__version__", *celib._SUBJECTS} - needs_one


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import celib; celib.losses", "celib.losses needs torch: [torch]"),
        ("import celib.losses", "celib.losses needs torch: [torch]"),
        ("from celib import losses", "celib.losses needs torch: [torch]"),
        ("from celib.losses import cross_entropy", "celib.losses needs torch: [torch]"),
        ("import celib.kernels.linear", "celib.kernels needs torch: [torch]"),
        ("from celib import plots", "celib.plots needs matplotlib: [plots]"),
        ("import celib; celib.symbolic", "celib.symbolic needs sympy: [symbolic]"),
        ("import celib.testing", "celib.testing needs mpmath: [testing]"),
        (
            "import celib; celib.calibration.TemperatureScaling",
            "celib.calibration.TemperatureScaling needs scikit-learn: [calibration]",
        ),
        (
            "from celib.calibration import PlattScaling",
            "celib.calibration.PlattScaling needs scikit-learn: [calibration]",
        ),
        (
            "import celib; celib.data.digits()",
            "celib.data.digits needs scikit-learn: [calibration]",
        ),
    ],
)
def test_missing_extra_is_named(bare, code, message):
    message = message.replace("[", 'pip install "cross-entropy[').replace("]", ']"')
    body = f"try:\n    {code}\nexcept (AttributeError, ImportError) as error:\n    print(error)"
    assert bare(body).strip() == message


def test_text_is_the_one_the_book_was_computed_with(monkeypatch):
    text = data.python_topics()
    assert (len(text), len(set(text))) == (465_048, 103)
    monkeypatch.setattr(data, "_TOPICS_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="SHA-256"):
        data.python_topics()


def test_images_and_digits():
    pytest.importorskip("sklearn")
    pytest.importorskip("PIL")
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
    with pytest.raises(ValueError, match="order = -1: expected at least 0"):
        CharacterModel("abc", order=-1)
    with pytest.raises(ValueError, match=r"text\[1\] = 'x': expected a character"):
        CharacterModel("axb", order=1, alphabet="ab")
    with pytest.raises(ValueError, match=r"text\[2\] = 'z'"):
        CharacterModel("ab", order=1).surprisals("abz")


def test_figures_repeat_byte_for_byte(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    from celib import plots

    with matplotlib.rc_context():
        plots.use_house_style()
        drawn = []
        for name in ("one.svg", "two.svg"):
            ax = plots.loss_by_order(np.arange(3), np.ones((1, 3)), np.ones((2, 3)))
            ax.figure.savefig(tmp_path / name, metadata={"Date": None})
            plt.close(ax.figure)
            drawn.append((tmp_path / name).read_bytes())
    assert drawn[0] == drawn[1]
