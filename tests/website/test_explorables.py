"""Figures that answer under the hand, in a small book of their own with the real extensions."""

import io
import itertools
import json
import re
from fractions import Fraction

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from bs4 import BeautifulSoup
from matplotlib.patches import Circle, Polygon, Rectangle
from PIL import Image
from scipy import optimize, special, stats

from celib import plots
from celib.information import cross_entropy, entropy, kl_divergence, self_information
from website.built import BOOK, small_book
from website.visits import DESKTOP, PHONE, served, visit

BARS = """# Hand

How much does a message surprise? This page has nine figures that answer under the hand.

```{explorable} bars
:figure: fig-area
:start: {"p": [0.5, 0.25, 0.125, 0.125]}

Move a border between two outcomes, with the pointer or the arrow keys.

- Reset
- probability
- surprise
- area
- entropy
- bits
```
"""
CODER = """```{explorable} coder
:figure: fig-coder
:start: {"p": 0.7, "message": "001"}

Type up to eight flips of a coin, and move the border of the first bar.

- Reset
- message
- probability of 0
- begin
- width
- end
- surprise
- bits
- code word
```
"""
BILL = """```{explorable} bill
:figure: fig-bill
:start: {"p": [0.5, 0.25, 0.125, 0.125], "q": [0.125, 0.125, 0.25, 0.5]}

Move the borders of the strip, which are the beliefs.

- Reset
- bits
- probability
- price
- cross-entropy
- entropy
- divergence
- here
- there
```
"""
DIRECTIONS = """```{explorable} directions
:figure: fig-directions
:start: {"p": 0.5, "q": 0.9}

Move Q along the axis, with the lower bar.

- Reset
- bits
- heads
- P
- Q
- divergence
- D(P‖Q)
- D(Q‖P)
```
"""
TANGENT = """```{explorable} tangent
:figure: fig-tangent
:start: {"p": 0.5, "q": 0.9}

Move P along the tangent, with the upper bar.

- Reset
- bits
- heads
- P
- Q
- cross-entropy
- entropy
- divergence
```
"""
APART = """```{explorable} apart
:figure: fig-apart
:start: {"p": 0.5, "q": 0.9}

Make the coins more alike, with their bars.

- Reset
- bits
- heads
- P
- Q
- error
- tosses
- Chernoff
- D(P‖Q)
- D(Q‖P)
```
"""
ISING = """```{explorable} ising
:figure: fig-ising
:start: {"temperature": 3, "m": 0.78}

Move the temperature, and look for the magnetisation with the lowest bill.

- Reset
- temperature
- magnetisation
- probability of the energy
- divergence
- nats
- Gibbs
- product
- per spin
- energy
- entropy
- free energy
- |m|
```
"""
ATTEND = """```{explorable} attend
:figure: fig-attend
:start: {"angle": 20, "beta": 4}

Turn the query, and move β.

- Reset
- query
- β
- weights
- read-out
- entropy
- nats
- keys in use
```
"""
SATURATION = """```{explorable} saturation
:figure: fig-saturation
:start: {"m": 8, "n": 8}

Move the number of candidates, and that of the classes.

- Reset
- nats
- M
- N
- classes
- candidates
- information
- log N
- loss
- bound
```
"""
COINS = {
    "directions": (plots.two_directions, DIRECTIONS),
    "tangent": (plots.tangent_gap, TANGENT),
    "apart": (plots.told_apart, APART),
}
# Of these both numbers of the state are those of the function that draws the first frame.
OTHERS = {
    "ising": (plots.gibbs_law, ISING),
    "attend": (plots.soft_lookup, ATTEND),
    "saturation": (lambda m, n: plots.infonce_bound(2**m, 2**n), SATURATION),
}
EVERY = ["bars", "coder", "bill", *COINS, *OTHERS]
# A page whose figure shares nothing with others.
ALONE = """# Alone

```{figure} bars.svg
:name: fig-alone
:alt: Four bars.

A caption.
```

"""
ALONE += "```" + BARS.partition("```")[2].replace("fig-area", "fig-alone").replace("Move", "Drag")
FILLER = "\n\n".join(["A line of text that stands below the figures."] * 60)


def words_of(text):
    return re.findall("^- (.+)$", text, re.MULTILINE)


def start_of(text):
    return json.loads(re.search("^:start: (.+)$", text, re.MULTILINE)[1])


def drawing(draw):
    file = io.StringIO()
    with matplotlib.rc_context():
        plots.use_house_style()
        ax = draw()
        ax.figure.savefig(file, format="svg", metadata={"Date": None})
        plt.close(ax.figure)
    return file.getvalue()


def figure(name, svg):
    """The cell of a figure as a chapter stores it."""
    data = {"image/svg+xml": svg, "text/plain": "<Figure>"}
    output = nbformat.v4.new_output("display_data", data)
    cell = nbformat.v4.new_code_cell("plt.show()", outputs=[output], execution_count=1)
    alt = "A drawing of bars whose widths and heights are those of the text beside it."
    cell.metadata["mystnb"] = {
        "figure": {"name": name, "caption": "A caption that stays."},
        "image": {"alt": alt},
    }
    return cell


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    areas = drawing(lambda: plots.surprise_areas(np.array([1 / 2, 1 / 4, 1 / 8, 1 / 8]), "ABCD"))
    low, width = np.array([0, 0, 0, 0.343]), np.array([1, 0.7, 0.49, 0.147])
    nested = drawing(
        lambda: plots.nested_intervals(low, width, np.array([0.7, 0.3]), [0, 0, 1], "0110")
    )
    p = np.array([1 / 2, 1 / 4, 1 / 8, 1 / 8])
    bill = drawing(lambda: plots.bill(p, p[::-1], "ABCD"))
    others = []
    for name, (draw, text) in (COINS | OTHERS).items():
        first = drawing(lambda draw=draw, text=text: draw(**start_of(text)))
        others += [figure(f"fig-{name}", first), nbformat.v4.new_markdown_cell(text)]
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell(BARS.partition("```")[0]),
            figure("fig-area", areas),
            nbformat.v4.new_markdown_cell("```" + BARS.partition("```")[2]),
            figure("fig-coder", nested),
            nbformat.v4.new_markdown_cell(CODER),
            figure("fig-bill", bill),
            nbformat.v4.new_markdown_cell(BILL),
            *others,
            nbformat.v4.new_markdown_cell(FILLER),
        ]
    )
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    notebook.metadata["language_info"] = {"name": "python"}
    folder = tmp_path_factory.mktemp("hand")
    built = small_book(
        folder,
        {
            "_toc.yml": "format: jb-book\nroot: index\nchapters:\n- file: chapters/01-hand\n"
            "- file: alone\n",
            "alone.md": ALONE,
            "bars.svg": areas,
            "index.md": "# Start\n\nA page that has no figure that moves.\n",
            "chapters/01-hand.ipynb": nbformat.writes(notebook),
        },
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "_build/html"


@pytest.fixture(scope="module")
def address(site):
    with served(site) as origin:
        yield f"{origin}/chapters/01-hand.html"


@pytest.fixture(scope="module")
def arithmetic(browser, address):
    with visit(browser, address) as tab:
        yield lambda name, states: tab.evaluate(
            "([name, states]) => states.map((state) => explorables[name].compute(state))",
            [name, states],
        )


@pytest.fixture
def desk(browser, address):
    with visit(browser, address, color_scheme="light") as tab:
        yield tab
        assert tab.complaints == []


@pytest.fixture
def hand(browser, address):
    with visit(browser, address, PHONE, is_mobile=True, has_touch=True) as tab:
        yield tab
        assert tab.complaints == []


def live(tab, name):
    """The figure, once its script has taken it over."""
    box = tab.page.locator(f"figure.live:has([data-explorable='{name}'])")
    tab.page.locator(f"figure:has([data-explorable='{name}'])").scroll_into_view_if_needed()
    box.wait_for()
    return box


def now(grip, name="valuenow"):
    value = grip.get_attribute(f"aria-{name}")
    return value if name == "valuetext" else float(value)


def centre(grip):
    box = grip.locator("circle").last.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def swipe(tab, start, end):
    """One finger, as the browser gets it from the screen: it may take it for scrolling."""
    session = tab.page.context.new_cdp_session(tab.page)

    def touch(kind, *points):
        points = [{"x": x, "y": y} for x, y in points]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        tab.page.wait_for_timeout(20)

    touch("touchStart", start)
    for t in np.linspace(0, 1, 9)[1:]:
        touch("touchMove", tuple((1 - t) * np.array(start) + t * np.array(end)))
    touch("touchEnd")


# The arithmetic


def test_areas_are_those_of_the_library(arithmetic):
    rng = np.random.default_rng(0)
    states = [[1.0, 0.0], [0.0, 0.0, 1.0], [0.5, 0.5], [1 / 6] * 6, [0.5, 0.0, 0.25, 0.25]]
    for size in rng.integers(2, 7, 200):
        p = rng.dirichlet(np.full(size, 0.5))
        p[rng.random(size) < 0.2] = 0
        states.append((p / p.sum()).tolist() if p.any() else [1.0, *[0.0] * (size - 1)])
    found = arithmetic("bars", [{"p": p} for p in states])
    for p, one in zip(states, found, strict=True):
        expected = self_information(np.array(p), base=2)
        np.testing.assert_allclose(one["surprise"], expected, rtol=1e-6, atol=1e-6)
        assert one["entropy"] == pytest.approx(float(entropy(p, base=2)), rel=1e-6, abs=1e-6)
        assert one["level"] == pytest.approx(np.log2(len(p)), rel=1e-6)


def coded(p, message):
    """The interval of a message and its shortest word, without rounding."""
    low, width = Fraction(0), Fraction(1)
    for symbol in message:
        low, width = (low, width * p) if symbol == "0" else (low + width * p, width * (1 - p))
    for k in range(200):
        first = -(-low * 2**k // 1)
        if first + 1 <= (low + width) * 2**k:
            return low, width, f"{first:0{k}b}" if k else ""
    return low, width, None


def test_the_coder_is_exact(arithmetic):
    rng = np.random.default_rng(1)
    grid = [Fraction(n, 64) for n in range(65)]
    cases = [(Fraction(1, 2), format(n, f"0{k}b")) for k in range(1, 6) for n in range(2**k)]
    cases += [(p, message) for p in grid for message in ("", "0", "1", "00000000", "11111111")]
    cases += [(Fraction(0.99), "001"), (Fraction(0.01), "11111111"), (Fraction(0.99), "11111111")]
    for p in [*rng.choice(grid, 200), *map(Fraction, np.round(rng.uniform(0.01, 0.99, 200), 2))]:
        cases.append((p, "".join(rng.choice(["0", "1"], rng.integers(0, 9)))))
    found = arithmetic("coder", [{"p": float(p), "message": message} for p, message in cases])
    for (p, message), one in zip(cases, found, strict=True):
        low, width, word = coded(p, message)
        assert one["low"] == pytest.approx(float(low), rel=1e-6, abs=1e-6)
        assert one["width"] == pytest.approx(float(width), rel=1e-6)
        surprise = -np.log2(float(width)) if width else np.inf
        assert one["surprise"] == pytest.approx(surprise, rel=1e-6, abs=1e-6)
        assert one["word"] == word, (p, message)


def test_the_bill_is_that_of_the_library(arithmetic):
    rng = np.random.default_rng(2)
    pairs = [([1, 0], [1, 0]), ([0.5, 0.5, 0], [1, 0, 0]), ([0, 1], [0.5, 0.5])]
    for size in rng.integers(2, 7, 200):
        p, q = rng.dirichlet(np.full(size, 0.5), size=2)
        near = p * (1 + 1e-3 * rng.normal(size=size))
        pairs += [(p.tolist(), q.tolist()), (p.tolist(), (near / near.sum()).tolist())]
    found = arithmetic("bill", [{"p": p, "q": q} for p, q in pairs])
    for (p, q), one in zip(pairs, found, strict=True):
        one = {name: np.inf if value is None else value for name, value in one.items()}
        assert one["total"] == pytest.approx(float(cross_entropy(p, q, base=2)), rel=1e-6, abs=1e-6)
        assert one["entropy"] == pytest.approx(float(entropy(p, base=2)), rel=1e-6, abs=1e-6)
        assert one["extra"] == pytest.approx(float(kl_divergence(p, q, base=2)), rel=1e-6, abs=1e-6)


def coin(heads):
    return [heads, 1 - heads]


def pairs_of_coins(seed, low=0.0):
    """Heads of two coins: at the ends, alike, nearly alike, on the grid of the grips, and any."""
    rng = np.random.default_rng(seed)
    ends = [low, 0.01, 0.5, 0.9, 0.99, 1 - low]
    pairs = [(p, q) for p in ends for q in ends]
    pairs += [(p, p + 1e-4 * rng.normal()) for p in rng.uniform(0.02, 0.98, 40)]
    pairs += map(tuple, np.round(rng.uniform(0.01, 0.99, (120, 2)), 2).tolist())
    return pairs + list(map(tuple, rng.uniform(low, 1 - low, (200, 2)).tolist()))


def states(pairs):
    return [{"p": float(p), "q": float(q)} for p, q in pairs]


def close(value):
    return pytest.approx(float(value), rel=1e-6, abs=1e-6)


def test_the_directions_are_those_of_the_library(arithmetic):
    pairs = pairs_of_coins(3)
    found = arithmetic("directions", states(pairs))
    for (p, q), one in zip(pairs, found, strict=True):
        assert one["forward"] == close(kl_divergence(coin(p), coin(q), base=2)), (p, q)
        assert one["backward"] == close(kl_divergence(coin(q), coin(p), base=2)), (p, q)


def test_the_tangent_is_that_of_the_library(arithmetic):
    pairs = pairs_of_coins(4)
    found = arithmetic("tangent", states(pairs))
    for (p, q), one in zip(pairs, found, strict=True):
        assert one["cross"] == close(cross_entropy(coin(p), coin(q), base=2)), (p, q)
        assert one["entropy"] == close(entropy(coin(p), base=2)), (p, q)
        assert one["divergence"] == close(kl_divergence(coin(p), coin(q), base=2)), (p, q)


def chernoff(p, q):
    """The Chernoff information by search, as it is defined."""
    result = optimize.minimize_scalar(
        lambda s: np.log2(p**s * q ** (1 - s) + (1 - p) ** s * (1 - q) ** (1 - s)),
        bounds=(0, 1),
        method="bounded",
        options={"xatol": 1e-10},
    )
    return -result.fun


def test_coins_are_told_apart_as_scipy_says(arithmetic):
    pairs = [*pairs_of_coins(5, low=0.01), (0.05, 0.95), (0.45, 0.55)]
    found = arithmetic("apart", states(pairs))
    n, k = np.arange(101)[:, None], np.arange(101)
    for (p, q), one in zip(pairs, found, strict=True):
        errors = np.minimum(stats.binom.pmf(k, n, p), stats.binom.pmf(k, n, q)).sum(axis=1) / 2
        np.testing.assert_allclose(one["errors"], errors, rtol=1e-6, atol=1e-12)
        enough = np.flatnonzero(errors <= 0.05 + 1e-12)
        assert one["tosses"] == (enough[0] if enough.size else None), (p, q)
        assert one["chernoff"] == close(chernoff(p, q)), (p, q)
        assert (errors <= 0.5 * 2 ** (-n[:, 0] * one["chernoff"]) + 1e-9).all()
        assert one["forward"] == close(kl_divergence(coin(p), coin(q), base=2)), (p, q)
        assert one["backward"] == close(kl_divergence(coin(q), coin(p), base=2)), (p, q)


SPINS = np.array(list(itertools.product([-1, 1], repeat=9)))
ENERGIES = np.zeros(512)
for i, j in itertools.product(range(3), range(3)):
    at = SPINS.reshape(-1, 3, 3)
    ENERGIES -= at[:, i, j] * (at[:, i, (j + 1) % 3] + at[:, (i + 1) % 3, j])


def test_the_magnet_is_that_of_all_its_states(arithmetic):
    rng = np.random.default_rng(6)
    cases = [(t, m) for t in (0.5, 3, 4, 6) for m in (0, 0.01, 0.5, 0.78, 0.99, 1)]
    cases += [(round(t, 2), round(m, 2)) for t, m in rng.uniform((0.5, 0), (6, 1), (100, 2))]
    cases += rng.uniform((0.5, 0), (6, 1), (200, 2)).tolist()
    found = arithmetic("ising", [{"temperature": t, "m": m} for t, m in cases])
    for (t, m), one in zip(cases, found, strict=True):
        gibbs = np.exp(-ENERGIES / t - special.logsumexp(-ENERGIES / t))
        trial = np.where(SPINS > 0, (1 + m) / 2, (1 - m) / 2).prod(axis=1)
        for law, name in ((gibbs, "gibbs"), (trial, "product")):
            mean, h = law @ ENERGIES / 9, float(entropy(law)) / 9
            assert one[name]["energy"] == close(mean), (t, m)
            assert one[name]["entropy"] == close(h), (t, m)
            assert one[name]["free"] == close(mean - t * h), (t, m)
            assert one[name]["magnet"] == close(law @ np.abs(SPINS.mean(axis=1))), (t, m)
            levels = [law[level == ENERGIES].sum() for level in np.unique(ENERGIES)]
            np.testing.assert_allclose(one[name]["levels"], levels, rtol=1e-6, atol=1e-9)
        free = -t * special.logsumexp(-ENERGIES / t) / 9
        assert one["gibbs"]["free"] == close(free)
        assert one["divergence"] == close(kl_divergence(trial, gibbs)), (t, m)
        # No product law reaches the least free energy.
        assert one["product"]["free"] > free
        assert one["product"]["energy"] == close(-2 * m**2)


@pytest.mark.parametrize(("t", "best"), [(3, 0.78), (3.5, 0.58), (4, 0), (5, 0)])
def test_the_best_trial_law_is_that_of_the_mean_field(arithmetic, t, best):
    means = np.arange(101) / 100
    bills = [
        one["divergence"]
        for one in arithmetic("ising", [{"temperature": t, "m": m} for m in means])
    ]
    assert means[np.argmin(bills)] == best
    # Each spin has four neighbours.
    assert best == pytest.approx(np.tanh(4 * best / t), abs=0.01)


def test_attention_is_a_softmax(arithmetic):
    rng = np.random.default_rng(7)
    keys = np.array([[0.8, 0.1], [0.25, 0.75], [-0.65, 0.45], [-0.45, -0.65], [0.15, -0.1]])
    cases = [
        (angle, beta) for angle in (0, 45, 90, 180, 270, 359) for beta in (0, 0.1, 1, 20, 2000)
    ]
    cases += rng.uniform((0, 0), (360, 20), (250, 2)).tolist()
    found = arithmetic("attend", [{"angle": angle, "beta": beta} for angle, beta in cases])
    for (angle, beta), one in zip(cases, found, strict=True):
        query = np.exp(1j * np.deg2rad(angle))
        weights = special.softmax(beta * (keys @ [query.real, query.imag]))
        np.testing.assert_allclose(one["weights"], weights, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(one["readOut"], weights @ keys, rtol=1e-6, atol=1e-6)
        assert one["entropy"] == close(entropy(weights)), (angle, beta)
        assert one["used"] == close(np.exp(float(entropy(weights)))), (angle, beta)
        assert np.argmax(weights) != 4 or beta == 0  # the key inside the others


def seen_by_infonce(classes, candidates):
    """The mean loss of the best critic, over all that the candidates may be."""
    losses = []
    # The first candidate is the copy; by symmetry it is in class 0.
    for others in itertools.product(range(classes), repeat=candidates - 1):
        ratios = np.where(np.array([0, *others]) == 0, classes, 0)  # p(x|y) / p(x)
        losses.append(-np.log(ratios[0] / ratios.sum()))
    return np.mean(losses)


def test_the_bound_is_that_of_infonce(arithmetic):
    cases = list(itertools.product(range(17), repeat=2))
    found = dict(
        zip(cases, arithmetic("saturation", [{"m": m, "n": n} for m, n in cases]), strict=True)
    )
    for (m, n), one in found.items():
        assert one["information"] == close(m * np.log(2))
        k = np.arange(2**n)
        loss = stats.binom.pmf(k, 2**n - 1, 0.5**m) @ np.log1p(k)
        assert one["loss"] == close(loss), (m, n)
        assert one["most"] == close(n * np.log(2))
        assert one["bound"] == close(n * np.log(2) - loss), (m, n)
        assert one["bound"] <= min(one["information"], one["most"]) + 1e-9
        if m and n:
            assert one["bound"] < min(one["information"], one["most"])
    for m, n in [(0, 0), (0, 3), (1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (1, 4), (3, 2), (5, 1)]:
        assert found[m, n]["loss"] == close(seen_by_infonce(2**m, 2**n)), (m, n)


def test_the_bound_is_that_of_a_simulation(arithmetic):
    rng = np.random.default_rng(8)
    for m, n in ((3, 3), (4, 7), (8, 8), (8, 5)):
        [one] = arithmetic("saturation", [{"m": m, "n": n}])
        drawn = rng.integers(2**m, size=(20000, 2**n))
        scores = np.where(drawn == drawn[:, :1], 0.0, -np.inf)  # the logarithm of the best critic
        losses = special.logsumexp(scores, axis=1) - scores[:, 0]
        error = losses.std() / np.sqrt(len(losses))
        assert one["loss"] == pytest.approx(losses.mean(), abs=5 * error)


DRAWN = """([name, state, words]) => {
    const shapes = explorables[name].draw(state, words, 614, 394).shapes;
    const those = (tag) => shapes.flatMap((one) =>
        [...(one.matches(tag) ? [one] : []), ...one.querySelectorAll(tag)]);
    const points = (one) =>
        one.getAttribute("points").split(" ").map((point) => point.split(",").map(Number));
    const numbers = (one, ...names) => names.map((key) => +one.getAttribute(key));
    return {
        texts: those("text").map((one) => [one.textContent, ...numbers(one, "x", "y")]),
        curves: those("polyline").map(points),
        shapes: those("polygon").map(points),
        dots: those("circle").map((one) => numbers(one, "cx", "cy")),
        bars: those("rect").map((one) => numbers(one, "x", "y", "width", "height")),
    };
}"""


PLACES = {
    "directions": [(0.5, 0.9), (0.4, 0.4), (0, 0), (0, 1), (1, 0.01), (0.3, 1)],
    "tangent": [(0.5, 0.9), (0.4, 0.4), (0, 0), (0, 1), (1, 0.01), (0.3, 1)],
    "apart": [(0.5, 0.9), (0.4, 0.4), (0.01, 0.99)],
    "ising": [(3, 0.78), (0.5, 0), (0.5, 1), (6, 0), (6, 1), (4, 0.01)],
    "attend": [(20, 4), (0, 0), (90, 20), (217, 0.1), (359, 11)],
    "saturation": [(8, 8), (0, 0), (0, 16), (16, 0), (16, 16), (1, 9), (12, 5)],
}


@pytest.mark.parametrize("name", PLACES)
def test_picture_and_drawing_have_the_same_places(desk, name):
    live(desk, name)
    draw, text = (COINS | OTHERS)[name]
    places = PLACES[name] + [(0.9, 0.5), (0.2, 0.22), (0.02, 0.6)] * (name in COINS)
    for values in places:
        state = dict(zip(start_of(text), values, strict=True))
        live_one = desk.evaluate(DRAWN, [name, state, words_of(text)])
        with matplotlib.rc_context():
            plots.use_house_style()
            ax = draw(**state)
        written = sorted((one.get_text(), *one.get_position()) for one in ax.texts)
        for one, other in zip(written, sorted(live_one["texts"]), strict=True):
            assert one[0] == other[0]
            assert one[1:] == pytest.approx(other[1:], abs=0.01), one
        lines = [np.transpose(line.get_data()) for line in ax.lines]
        dots = [line for one, line in zip(ax.lines, lines, strict=True) if one.get_marker() == "o"]
        dots = [tuple(dot[0]) for dot in dots]
        dots += [one.center for one in ax.patches if isinstance(one, Circle)]
        np.testing.assert_allclose(
            np.reshape(dots, (-1, 2)), np.reshape(live_one["dots"], (-1, 2)), atol=0.01
        )
        for curve in live_one["curves"]:
            same = [line for line in lines if line.shape == np.shape(curve)]
            assert any(np.allclose(line, curve, atol=0.01) for line in same), values
        shapes = [one.get_xy()[:-1] for one in ax.patches if isinstance(one, Polygon)]
        for shape in live_one["shapes"]:
            same = [one for one in shapes if one.shape == np.shape(shape)]
            assert any(np.allclose(one, shape, atol=0.01) for one in same), values
        bars = [one for one in ax.patches if isinstance(one, Rectangle)]
        bars = sorted((*bar.get_xy(), bar.get_width(), bar.get_height()) for bar in bars)
        np.testing.assert_allclose(bars, sorted(live_one["bars"]), atol=0.01)
        plt.close(ax.figure)


def test_beliefs_and_truth_move_apart(desk):
    box = live(desk, "bill")
    grips, said = box.get_by_role("slider"), box.get_by_role("status")
    assert grips.count() == 6
    assert said.text_content() == "cross-entropy 2.625 bits, divergence 0.875 bits"
    assert grips.nth(3).get_attribute("aria-label") == "there: probability A, B"
    grips.nth(3).focus()
    desk.page.keyboard.press("Home")
    assert said.text_content() == "cross-entropy ∞ bits, divergence ∞ bits"
    box.get_by_role("button").click()
    grips.nth(0).focus()
    desk.page.keyboard.press("End")
    assert now(grips.nth(0)) == 0.75
    assert now(grips.nth(3)) == 0.125
    assert "divergence" in said.text_content()


@pytest.mark.parametrize(
    ("name", "first", "alike", "far"),
    [
        (
            "directions",
            "D(P‖Q) 0.737 bits, D(Q‖P) 0.531 bits",
            "D(P‖Q) 0.000 bits, D(Q‖P) 0.000 bits",
            "D(P‖Q) ∞ bits, D(Q‖P) 1.000 bits",
        ),
        (
            "tangent",
            "cross-entropy 1.737 bits, entropy 1.000 bits, divergence 0.737 bits",
            "cross-entropy 1.000 bits, entropy 1.000 bits, divergence 0.000 bits",
            "cross-entropy ∞ bits, entropy 1.000 bits, divergence ∞ bits",
        ),
        (
            "apart",
            "tosses 12, Chernoff 0.162 bits, D(P‖Q) 0.737 bits, D(Q‖P) 0.531 bits",
            "tosses > 100, Chernoff 0.000 bits, D(P‖Q) 0.000 bits, D(Q‖P) 0.000 bits",
            "tosses 5, Chernoff 0.394 bits, D(P‖Q) 2.329 bits, D(Q‖P) 0.919 bits",
        ),
    ],
    ids=COINS,
)
def test_coins_are_moved_by_keyboard(desk, name, first, alike, far):
    box, press = live(desk, name), desk.page.keyboard.press
    grips, said = box.get_by_role("slider"), box.get_by_role("status")
    q, p = grips.nth(0), grips.nth(1)
    assert grips.count() == 2
    assert [one.get_attribute("aria-label") for one in (p, q)] == ["P: heads", "Q: heads"]
    assert [now(one, "valuetext") for one in (p, q)] == ["0.50", "0.90"]
    assert said.text_content() == first
    q.focus()
    for _ in range(4):
        press("PageDown")
    assert now(q) == 0.5
    assert said.text_content() == alike
    press("End")
    assert now(q) == now(q, "valuemax") == (0.99 if name == "apart" else 1)
    assert said.text_content() == far
    press("Tab")
    press("ArrowLeft")
    press("Shift+ArrowRight")
    assert now(p) == 0.59
    for one, bar in zip((p, q), box.locator("svg rect.part").all(), strict=True):
        side = bar.bounding_box()
        border = side["x"] + side["width"], side["y"] + side["height"] / 2
        assert centre(one) == pytest.approx(border, abs=1)
    press("Home")
    assert now(p) == now(p, "valuemin") == (0.01 if name == "apart" else 0)
    assert now(q) == now(q, "valuemax")
    box.get_by_role("button").click()
    assert said.text_content() == first


def by_keys(desk, name):
    """The figure's two grips, what it says, and what presses keys."""
    box = live(desk, name)
    grips, said = box.get_by_role("slider"), box.get_by_role("status")
    assert grips.count() == 2
    return box, grips.nth(0), grips.nth(1), said, desk.page.keyboard.press


def test_the_magnet_is_moved_by_keyboard(desk):
    box, hot, mean, said, press = by_keys(desk, "ising")
    assert [now(one, "valuetext") for one in (hot, mean)] == ["3.00", "0.78"]
    assert said.text_content() == "divergence 0.899 nats"
    mean.focus()
    press("ArrowRight")
    assert now(mean) == 0.79
    press("Home")
    assert now(mean) == 0
    hot.focus()
    for _ in range(2):
        press("PageUp")
    assert now(hot) == 4
    assert said.text_content() == "divergence 0.719 nats"
    press("Home")
    assert now(hot) == 0.5
    press("Tab")
    press("End")
    assert said.text_content() == "divergence 0.693 nats"  # log 2, for one of two signs
    box.get_by_role("button").click()
    assert said.text_content() == "divergence 0.899 nats"


def test_the_query_is_turned_by_keyboard(desk):
    box, scale, query, said, press = by_keys(desk, "attend")
    assert [one.get_attribute("aria-label") for one in (scale, query)] == ["β", "query"]
    first = said.text_content()
    scale.focus()
    press("Home")
    assert said.text_content() == "read-out 0.02, 0.11, entropy 1.609 nats, keys in use 5.000"
    press("PageUp")
    press("ArrowLeft")
    assert now(scale) == 0.9
    press("Tab")
    press("Home")
    assert now(query, "valuetext") == "0°"
    press("End")
    assert now(query, "valuetext") == "359°"
    press("PageDown")
    assert now(query) == 349
    box.get_by_role("button").click()
    assert said.text_content() == first


def test_the_candidates_are_moved_by_keyboard(desk):
    box, candidates, classes, said, press = by_keys(desk, "saturation")
    assert now(candidates, "valuetext") == now(classes, "valuetext") == "256"
    first = said.text_content()
    assert first == "information 5.545 nats, log N 5.545 nats, loss 0.572 nats, bound 4.973 nats"
    candidates.focus()
    press("ArrowLeft")
    assert now(candidates) == 7
    assert now(candidates, "valuetext") == "128"
    press("End")
    assert now(candidates, "valuetext") == "65536"
    press("Tab")
    press("Home")
    assert said.text_content() == (
        "information 0.000 nats, log N 11.090 nats, loss 11.090 nats, bound 0.000 nats"
    )
    box.get_by_role("button").click()
    assert said.text_content() == first


# By hand


def test_a_query_is_turned_by_mouse(desk):
    box, _, query, _, _ = by_keys(desk, "attend")
    box.evaluate("figure => figure.scrollIntoView({ block: 'center' })")
    ring = box.locator("svg circle.thin").bounding_box()
    middle = np.array([ring["x"] + ring["width"] / 2, ring["y"] + ring["height"] / 2])
    mouse = desk.page.mouse
    mouse.move(*centre(query))
    mouse.down()
    for angle in (90, 135, 200, 330, 10):
        turn = np.deg2rad(angle)
        # Nearer to the middle than the handle, which stays on its circle.
        mouse.move(*(middle + 90 * np.array([np.cos(turn), -np.sin(turn)])), steps=4)
        assert now(query) == pytest.approx(angle, abs=1)
        arm = np.array(centre(query)) - middle
        assert np.hypot(*arm) == pytest.approx(ring["width"] / 2, abs=1)
    mouse.up()


@pytest.mark.parametrize("name", ["ising", "saturation"])
def test_a_number_is_moved_at_the_curve(desk, name):
    box, *grips, _, _ = by_keys(desk, name)
    box.evaluate("figure => figure.scrollIntoView({ block: 'center' })")
    one, other = grips if name == "saturation" else grips[::-1]
    before, still, (x, y) = now(one), now(other), centre(one)
    desk.page.mouse.move(x, y - 120)
    desk.page.mouse.down()
    desk.page.mouse.move(x - 60, y - 120, steps=4)
    desk.page.mouse.up()
    assert now(one) < before
    assert now(other) == still


@pytest.mark.parametrize("name", ["directions", "tangent"])
def test_a_coin_is_dragged_by_its_line_and_passes_the_other(desk, name):
    box, mouse = live(desk, name), desk.page.mouse
    q, p = (box.get_by_role("slider").nth(i) for i in range(2))
    box.evaluate("figure => figure.scrollIntoView({ block: 'center' })")
    (p_x, p_y), (q_x, q_y) = centre(p), centre(q)

    def drag(start, across):
        mouse.move(*start)
        mouse.down()
        mouse.move(start[0] + across, start[1], steps=5)
        mouse.up()

    drag((q_x, q_y - 120), p_x - q_x)
    assert now(q) == 0.5
    # One above the other, either is taken.
    drag((p_x, p_y), -100)
    assert now(p) < 0.35
    assert now(q) == 0.5
    drag((p_x, q_y), -200)
    assert now(q) < now(p)


def test_a_border_is_dragged_by_mouse(desk):
    box = live(desk, "bars")
    grip, mouse = box.get_by_role("slider").first, desk.page.mouse
    x, y = centre(grip)
    mouse.move(x + 3, y - 2)  # a little beside its centre, which must not make it jump
    mouse.down()
    mouse.move(x + 3, y - 2)
    assert now(grip) == 0.5
    mouse.move(x - 100, y + 40, steps=4)
    assert 0.2 < now(grip) < 0.4
    assert centre(grip)[0] == pytest.approx(x - 103, abs=2)
    mouse.move(0, y)
    assert now(grip) == 0
    mouse.up()
    mouse.move(x, y)
    assert now(grip) == 0
    assert "∞" in now(grip, "valuetext")
    assert now(box.get_by_role("slider").nth(1)) == 0.75
    # By its line as well, above the grip.
    grip = box.get_by_role("slider").nth(2)
    x, y = centre(grip)
    mouse.move(x, y - 60)
    mouse.down()
    mouse.move(x + 20, y - 60)
    mouse.up()
    assert now(grip) > 0.125


def test_borders_that_meet_come_apart(desk):
    box = live(desk, "bars")
    grips = [box.get_by_role("slider").nth(i) for i in range(3)]
    for grip in reversed(grips):
        grip.focus()
        desk.page.keyboard.press("End")
    assert [now(grip) for grip in grips] == [1, 0, 0]
    x, y = centre(grips[2])
    assert centre(grips[0]) == (x, y)
    for to in (x - 120, x - 60, x - 30):
        desk.page.mouse.move(x, y)
        desk.page.mouse.down()
        desk.page.mouse.move(to, y, steps=5)
        desk.page.mouse.up()
    assert centre(grips[0])[0] < centre(grips[1])[0] < centre(grips[2])[0] < x


def test_a_border_is_moved_by_keyboard(desk):
    box = live(desk, "bars")
    grip, press = box.get_by_role("slider").first, desk.page.keyboard.press
    box.get_by_role("slider").nth(1).focus()
    press("Shift+Tab")
    assert grip.evaluate("grip => grip === document.activeElement")
    ring = grip.locator("circle").last.evaluate("c => getComputedStyle(c).outlineStyle")
    assert ring == "solid"
    for key, value in {
        "ArrowRight": 0.505,
        "ArrowUp": 0.51,
        "ArrowLeft": 0.505,
        "ArrowDown": 0.5,
        "Shift+ArrowRight": 0.55,
        "PageDown": 0.5,
        "PageUp": 0.55,
        "End": 0.75,
        "Home": 0,
    }.items():
        press(key)
        assert now(grip) == pytest.approx(value)
        assert grip.evaluate("grip => grip === document.activeElement")
    assert now(grip, "valuemin") == 0
    assert now(grip, "valuemax") == 0.75


def test_what_changes_is_said_and_reset(desk):
    box = live(desk, "bars")
    grip, said = box.get_by_role("slider").first, box.get_by_role("status")
    label = grip.get_attribute("aria-label")
    first = "A: probability 0.500, surprise 1.000 bits; B: probability 0.250, surprise 2.000 bits"
    assert label == "probability A, B"
    assert now(grip, "valuetext") == first
    assert said.text_content() == "entropy 1.750 bits"
    assert box.locator("svg").get_attribute("aria-label") == box.locator("img").get_attribute("alt")
    grip.focus()
    desk.page.keyboard.press("End")
    assert said.text_content() == "entropy 1.061 bits"
    assert "B: probability 0.000, surprise ∞ bits" in now(grip, "valuetext")
    box.get_by_role("button", name="Reset").click()
    assert now(grip, "valuetext") == first
    assert said.text_content() == "entropy 1.750 bits"


@pytest.mark.parametrize("name", EVERY)
def test_a_finger_drags(hand, name):
    box = live(hand, name)
    grip = box.get_by_role("slider").first
    grip.scroll_into_view_if_needed()
    before, (x, y) = now(grip), centre(grip)
    top = hand.evaluate("scrollY")
    swipe(hand, (x + 12, y), (x - 38, y - 80))  # as broad as a finger is
    assert now(grip) < before - 0.1
    pitch = 12 if name == "saturation" else 3  # whose numbers are doubled
    assert centre(grip)[0] == pytest.approx(x - 50, abs=pitch)
    assert hand.evaluate("scrollY") == top


def test_a_finger_beside_a_grip_scrolls(hand):
    box = live(hand, "bars")
    x, y = centre(box.get_by_role("slider").first)
    top = hand.evaluate("scrollY")
    swipe(hand, (x, y - 40), (x, y - 200))
    hand.page.wait_for_function("top => scrollY > top + 50", arg=top)
    assert now(box.get_by_role("slider").first) == 0.5


def test_a_message_is_typed(desk):
    box = live(desk, "coder")
    field, said = box.get_by_label("message"), box.get_by_role("status")
    assert field.input_value() == "001"
    assert said.text_content() == "width 0.147000 · surprise 2.766 bits · code word 0110, 4 bits"
    field.fill("")
    assert said.text_content() == "width 1.000000 · surprise 0.000 bits · code word , 0 bits"
    field.press_sequentially("0a12b010101011")
    assert field.input_value() == "01010101"
    assert box.locator(".beam").count() == 8
    grip = box.get_by_role("slider")
    assert grip.get_attribute("aria-label") == "probability of 0"
    grip.focus()
    desk.page.keyboard.press("ArrowRight")
    assert now(grip) == 0.71
    box.get_by_role("button", name="Reset").click()
    assert field.input_value() == "001"
    assert now(grip) == 0.7


OVERLAPS = """figure => {
    const words = [...figure.querySelectorAll("svg text")].filter((text) => text.textContent);
    const boxes = words.map((text) => [text.textContent, text.getBoundingClientRect()]);
    const frame = figure.querySelector("svg").getBoundingClientRect();
    return boxes.flatMap(([one, a], i) => [
        ...(a.left < frame.left - 2 || a.right > frame.right + 2 || a.top < frame.top - 2
            || a.bottom > frame.bottom + 2 ? [one] : []),
        ...boxes.slice(i + 1).filter(([, b]) => a.left < b.right - 1 && b.left < a.right - 1
            // The boxes of lines hold more than their letters.
            && a.top < b.bottom - 3.5 && b.top < a.bottom - 3.5).map(([two]) => `${one} | ${two}`),
    ]);
}"""


@pytest.mark.parametrize("width", [360, 390, 740, 1280])
def test_words_have_room(browser, address, width):
    size = {"width": width, "height": 800}
    with visit(browser, address, size, is_mobile=width < 600, has_touch=True) as tab:
        box, press = live(tab, "bars"), tab.page.keyboard.press
        assert box.evaluate(OVERLAPS) == []
        for grip, key in ((0, "End"), (2, "Home"), (0, "Home"), (1, "Home"), (2, "Home")):
            box.get_by_role("slider").nth(grip).focus()
            press(key)
            assert box.evaluate(OVERLAPS) == []
        sizes = "all => all.map((text) => parseFloat(getComputedStyle(text).fontSize))"
        assert min(box.locator("svg text").evaluate_all(sizes)) >= 11
        box = live(tab, "coder")
        for key in ("ArrowRight", "Home", "End"):
            for message in ("", "1", "01", "11111111", "00000000", "01010101"):
                box.get_by_label("message").fill(message)
                assert box.evaluate(OVERLAPS) == []
            box.get_by_role("slider").focus()
            press(key)
        for name in COINS:
            box = live(tab, name)
            assert box.evaluate(OVERLAPS) == []
            for grip, key in zip((0, 0, 1, 0, 1, 1), ("End", "Home") * 3, strict=True):
                box.get_by_role("slider").nth(grip).focus()
                press(key)
                assert box.evaluate(OVERLAPS) == []
            for key in ("PageUp",) * 10 + ("ArrowLeft",) * 10:
                press(key)
                assert box.evaluate(OVERLAPS) == []
            assert min(box.locator("svg text").evaluate_all(sizes)) >= 11
        for name in OTHERS:
            box = live(tab, name)
            assert box.evaluate(OVERLAPS) == []
            for first, second in itertools.product(("Home", "End"), repeat=2):
                for grip, key in enumerate((first, second)):
                    box.get_by_role("slider").nth(grip).focus()
                    press(key)
                    assert box.evaluate(OVERLAPS) == [], (name, first, second)
                    for _ in range(8):
                        press("PageUp" if key == "Home" else "PageDown")
                        assert box.evaluate(OVERLAPS) == []
                    press(key)
            assert min(box.locator("svg text").evaluate_all(sizes)) >= 11
        assert tab.evaluate("document.documentElement.scrollWidth") <= width


# What surrounds it


@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_nothing_moves_when_figures_become_live(browser, address, viewport):
    places = """() => [...document.querySelectorAll("article figure, article p")]
        .filter((box) => box.offsetHeight).map((box) => Math.round(box.getBoundingClientRect().top
            - document.querySelector("article h1").getBoundingClientRect().top))"""
    whole = "section { content-visibility: visible !important; }"
    with visit(browser, address, viewport) as tab:
        tab.page.add_style_tag(content=whole)
        for name in EVERY:
            live(tab, name)
        after = tab.evaluate(places)
        assert tab.evaluate("shift") < 0.005
    # The same page, whose figures do not become live.
    with visit(browser, "about:blank", viewport) as tab:
        tab.page.route("**/explorables*", lambda route: route.abort())
        tab.page.route("**/explorables/*", lambda route: route.abort())
        tab.page.goto(address)
        tab.page.add_style_tag(content=whole)
        tab.scroll_to_the_end()
        assert tab.page.locator("figure.live").count() == 0
        assert tab.evaluate(places) == after


def test_a_figure_far_away_waits(browser, address):
    size = {"width": 1280, "height": 300}
    with visit(browser, address, size) as tab:
        tab.page.locator("figure.movable").nth(8).wait_for(state="attached")
        assert tab.page.locator("figure.movable").count() == 9
        assert tab.page.locator("figure.live").count() < 3
        live(tab, "coder")


def test_without_scripts_the_picture_stands(browser, address):
    with visit(browser, address, java_script_enabled=False) as tab:
        assert tab.page.locator("figure.movable > img").first.is_visible()
        assert tab.page.locator("figure.movable figcaption").first.is_visible()
        assert not tab.page.locator(".explorable").first.is_visible()


def test_on_paper_the_picture_stands(desk):
    box = live(desk, "bars")
    assert box.locator("svg").is_visible()
    assert not box.locator("img").is_visible()
    desk.page.emulate_media(media="print")
    assert box.locator("img").is_visible()
    assert not box.locator("svg").is_visible()
    assert not box.locator(".explorable").is_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(browser, address, theme):
    with visit(browser, address, color_scheme=theme) as tab:
        for name in EVERY:
            live(tab, name)
        tab.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
        assert tab.violations() == []
        assert tab.complaints == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_drawing_has_the_colours_of_the_picture(browser, address, theme):
    """The first frame is the picture: where bars are, the two have nearly the same colours."""
    with visit(browser, address, color_scheme=theme) as tab:
        for name, kind in [*((name, ".part") for name in EVERY), ("tangent", ".gap")]:
            box = live(tab, name)
            box.evaluate("figure => figure.scrollIntoView({ block: 'center' })")
            part = box.locator(f"svg {kind}").first.bounding_box()
            x, y = part["x"] + 0.2 * part["width"], part["y"] + 0.5 * part["height"]
            clip = {"x": x, "y": y, "width": 4, "height": 4}
            if kind == ".gap":  # the middle of a line of five pixels
                clip |= {"x": part["x"] + part["width"] / 2 - 1, "width": 2}
            # The picture lets the dark paper through an opaque line, too.
            most = 32 if kind == ".gap" else 24
            shown = [tab.page.screenshot(clip=clip)]
            box.evaluate("figure => figure.classList.remove('live')")
            shown.append(tab.page.screenshot(clip=clip))
            tab.page.locator(f"figure:has([data-explorable='{name}'])").evaluate(
                "figure => figure.classList.add('live')"
            )
            first, second = (
                np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for png in shown
            )
            assert np.abs(first.astype(int) - second).max() < most


def test_scripts_are_light_and_come_where_they_are_used(site):
    assets = BOOK / "_assets"
    for script in (assets / "explorables.js", *(assets / "explorables").rglob("*.js")):
        most = 5000 if script.name == "explorables.js" else 4500
        assert script.stat().st_size < most, script.name
        text = script.read_text("utf-8")
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|animat|transition", text)
    there = (site / "chapters/01-hand.html").read_text("utf-8")
    names = re.findall(r'<script defer="defer" src="[^"]*?(explorables[\w/]*)\.js', there)
    kinds = ["parts/coins", "parts/plot", *sorted(EVERY)]
    assert names == ["explorables", *(f"explorables/{kind}" for kind in kinds)]
    alone = (site / "alone.html").read_text("utf-8")
    assert re.findall(r'src="[^"]*?(explorables[\w/]*)\.js', alone) == [
        "explorables",
        "explorables/bars",
    ]
    assert "explorables" not in (site / "index.html").read_text("utf-8")


def test_words_are_in_the_page_and_not_in_the_search(site):
    soup = BeautifulSoup((site / "chapters/01-hand.html").read_text("utf-8"), "html.parser")
    figure = soup.find(id="fig-area")
    kinds = [tag.name for tag in figure.find_all(recursive=False)]
    assert kinds == ["img", "div", "figcaption"]
    words = [word.text.strip() for word in figure.select(".explorable li")]
    assert words == ["Reset", "probability", "surprise", "area", "entropy", "bits"]
    records = (site / "_static/search-records.js").read_text("utf-8")
    assert "How much does a message surprise" in records
    assert "Move a border" not in records


def test_the_plain_notebook_has_a_line_in_its_place(site):
    notebook = nbformat.read(site / "notebooks/01-hand.ipynb", 4)
    text = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert "explorable" not in text
    assert ":start:" not in text
    lines = re.findall(
        r"On the page of this chapter \[this figure\]\(\S+/01-hand\.html#(.*?)\)", text
    )
    assert lines == [
        "fig-area",
        "fig-coder",
        "fig-bill",
        *(f"fig-{name}" for name in COINS | OTHERS),
    ]


def test_a_strict_build_refuses_what_is_amiss(tmp_path):
    words = "- Reset\n- probability\n- surprise\n- area\n- entropy\n- bits\n"
    state = ':start: {"p": [0.5, 0.5]}\n'
    blocks = [
        f"```{{explorable}} none\n:figure: fig\n{state}\nMove.\n\n{words}```\n",
        f"```{{explorable}} bars\n:figure: fig-none\n{state}\nMove.\n\n{words}```\n",
        f"```{{explorable}} bars\n:figure: fig\n:start: {{p\n\nMove.\n\n{words}```\n",
        f"```{{explorable}} bars\n:figure: fig\n{state}\nMove.\n\n- Reset\n```\n",
        f"```{{explorable}} bars\n:figure: fig\n{state}\nMove.\n```\n",
        f"```{{explorable}} bars\n:figure: fig\n\nMove.\n\n{words}```\n",
    ]
    page, lines = "# Damage\n\n", []
    for block in blocks:
        lines.append(page.count("\n") + 1)
        page += block + "\n"
    built = small_book(tmp_path, {"_toc.yml": "format: jb-book\nroot: index\n", "index.md": page})
    assert built.returncode != 0
    said = built.stdout + built.stderr
    for line, complaint in zip(
        lines,
        (
            f"no explorable is called none: there are {', '.join(sorted(EVERY))}",
            "explorable bars: no figure of this page is called fig-none",
            "start",
            "explorable bars has 1 words in place of 6: reset, probability",
            "explorable bars holds one paragraph and one list of words",
            "explorable bars has no start",
        ),
        strict=True,
    ):
        assert re.search(rf"index\.md:{line}: (WARNING|ERROR): .*{complaint}", said), (
            f"{line}: {complaint}\n{said}"
        )
