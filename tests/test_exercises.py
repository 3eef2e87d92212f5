"""The checks of a reader's answers, and the data that they are made of."""

import linecache
import math
import warnings
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import celib.exercises
from celib.exercises import asked as exercises
from celib.exercises import check
from celib.exercises.asked import Exercise
from celib.information import entropy

# The data


def said_of(asked, answer):
    return celib.exercises._judge(asked, answer)[1]


def faults(asked):
    """What is amiss with a table of the data, in words."""
    if asked.kind not in {"number", "array", "choice", "function"}:
        yield f"the kind {asked.kind}"
        return
    if len(asked.hints) != 3 or not all(hint.strip() for hint in asked.hints):
        yield "not three hints"
    options = {one["value"] for one in asked.wrong} | {asked.answer}
    if asked.kind == "choice" and options != set(asked.options):
        yield "an option without a sentence"
    if asked.kind == "function":
        results = [asked.right(*given) for given in asked.value(asked.inputs)]
        if any(np.isnan(result).any() for result in results):
            yield "a right result that is NaN"
    elif not all(
        np.isfinite(value).all() for value in [asked.right, *(v for v, _ in asked.mistakes)]
    ):
        yield "a value that cannot be typed"
        return
    given = handed_in(asked)
    if said_of(asked, given(asked.right)) != "Right.":
        yield "the right answer does not pass"
    for value, says in asked.mistakes:
        if not says.endswith("."):
            yield f"no sentence: {says}"
        if (found := said_of(asked, given(value))) != says:
            yield f"{says!r} gets {found!r}"
    if asked.kind in {"number", "array"}:
        digits = [f"{value:.3g}" for value in asked.right.ravel()]
        if said_of(asked, " ".join(digits)) != "Right.":
            yield "three digits are not enough"
        if any(len(text) > 3 and text in hint for text in digits for hint in asked.hints):
            yield "a hint that tells"


def handed_in(asked):
    """How a reader hands in a value of the data."""
    return (lambda place: asked.options[int(place)]) if asked.kind == "choice" else lambda v: v


@pytest.mark.parametrize("name", exercises.exercises())
def test_the_data_are_sound(name):
    assert list(faults(exercises.exercise(name))) == []


HINTS = ["one", "two", "three"]
WRONG = [{"value": "2", "say": "Two."}]


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ({"wrong": [{"value": "1.004", "say": "Near."}]}, "'Near.' gets 'Right.'"),
        ({"wrong": [*WRONG, {"value": "2.001", "say": "Again."}]}, "'Again.' gets 'Two.'"),
        ({"wrong": [{"value": "2", "say": "two"}]}, "no sentence: two"),
        ({"hints": ["one", "two"]}, "not three hints"),
        ({"answer": "0.123", "hints": ["one", "two", "It is 0.123."]}, "a hint that tells"),
        ({"answer": "1.2345", "tolerance": 1e-5}, "three digits are not enough"),
        ({"answer": "np.inf", "tolerance": 1.0}, "a value that cannot be typed"),
        ({"kind": "text"}, "the kind text"),
        (
            {"kind": "choice", "options": ["1", "2", "3"], "answer": "1"},
            "an option without a sentence",
        ),
        (
            {"kind": "function", "answer": "lambda x: x", "inputs": "[(np.nan,)]", "wrong": []},
            "a right result that is NaN",
        ),
    ],
)
def test_unsound_data_are_found(table, fault):
    sound = {"kind": "number", "ask": "?", "answer": "1", "hints": HINTS, "wrong": WRONG}
    assert list(faults(Exercise(**sound))) == []
    assert fault in list(faults(Exercise(**sound | table)))


# The checks, on exercises of every kind


@pytest.fixture(autouse=True)
def made_up(request, monkeypatch):
    """The data of the tests in place of those of the book."""
    if "name" in request.fixturenames:
        yield
        return
    monkeypatch.setattr(exercises, "FOLDER", Path(__file__).parent)
    monkeypatch.setattr(celib.exercises, "_given", {})
    exercises.exercises.cache_clear()
    yield
    exercises.exercises.cache_clear()


def test_the_made_up_data_are_sound():
    assert set(exercises.exercises()) >= {"ex-share", "ex-weights", "ex-rule", "ex-entropy"}
    for name in exercises.exercises():
        assert list(faults(exercises.exercise(name))) == [], name


def test_a_label_has_one_table(tmp_path, monkeypatch):
    for name in ("one.toml", "two.toml"):
        (tmp_path / name).write_text('[ex-a]\nkind = "number"\nask = ""\nanswer = "1"\nhints = []')
    monkeypatch.setattr(exercises, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match=r"two\.toml has ex-a again: expected one table a label"):
        exercises.exercises()


def test_an_unknown_label_is_refused_with_its_neighbours():
    with pytest.raises(ValueError, match=r"name = 'ex-shar': expected 'ex-share'"):
        check("ex-shar", 1)
    with pytest.raises(ValueError, match="name = 3: expected 'ex-"):
        check(3)


RIGHT = [0.375, Fraction(3, 8), Decimal("0.375"), np.float32(0.375), np.array([0.375]), [0.375]]
RIGHT += ["0.375", ".375", "0,375", " 3/8 ", "3 / 8", "+375e-3", "37.5E-2", "1.5/4", "0.3743"]


@pytest.mark.parametrize("answer", RIGHT, ids=repr)
def test_a_number_in_any_form(answer):
    verdict = check("ex-share", answer)
    assert verdict
    assert repr(verdict) == "Right."


def test_commas_between_thousands():
    """They count only where the number is known: elsewhere a comma is a decimal point."""
    assert check("ex-share-words", "1,024")
    assert check("ex-share-words", " 1024 ")
    assert check("ex-share-words", "8,192").says == "That is three doublings too many."
    assert check("ex-share-words", "1,100").says == "Not yet: this is too small, by more than 10 %."
    assert check("ex-share", "0,375")


def test_numbers_of_other_libraries():
    sympy, torch = pytest.importorskip("sympy"), pytest.importorskip("torch")
    tensor = torch.tensor(0.375, dtype=torch.bfloat16, requires_grad=True)
    for answer in (sympy.Rational(3, 8), sympy.exp(sympy.log(3)) / 8, tensor, 3 * tensor / 3):
        assert check("ex-share", answer)
    assert check("ex-weights", torch.tensor([1 / 2, 1 / 4, 1 / 8, 1 / 8]))
    symbol = sympy.Symbol("x")
    assert check("ex-share", symbol).says.startswith("Your answer is of type Symbol, not a number")


class Trap:
    def __array__(self, dtype=None, copy=None):
        raise KeyError("trap")

    __float__ = __len__ = __array__


ONE = "Write one number, such as 0.375, 3/8 or 1e-3, without words or units."
NOT_NUMBERS = {
    "text": ("about a third", ONE),
    "a unit": ("0.375 nats", ONE),
    "per cent": ("37.5 %", ONE),
    "nothing": ("", ONE),
    "two": ("0.3 0.7", ONE),
    "a division by zero": ("3/0", ONE),
    "what is too large": ("1e999", ONE),
    "digits of another script": ("٣", ONE),
    "several": ([0.3, 0.7], ONE),
    "no numbers": ([], ONE),
    "NaN": (math.nan, "Your answer is NaN, not a number."),
    "a dictionary": ({"p": 1}, "Your answer is of type dict, not a number or an array of numbers."),
    "complex": (0.375 + 0j, "Your answer is of type complex, not"),
    "ragged": ([[1], [2, 3]], "Your answer is of type list, not"),
    "too large an integer": (10**400, "Your answer is of type int, not"),
    "a function": (math.log, "Your answer is of type builtin_function_or_method, not"),
    "bytes": (b"0.375", "Your answer is of type bytes, not"),
    "what raises when it is looked at": (Trap(), "Your answer is of type Trap, not"),
}


@pytest.mark.parametrize(("answer", "says"), NOT_NUMBERS.values(), ids=NOT_NUMBERS)
def test_what_is_not_a_number_gets_a_sentence_and_no_hint(answer, says):
    verdict = check("ex-share", answer)
    assert not verdict
    assert verdict.says.startswith(says)
    assert verdict.hint == ""


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (0.625, "That is the share of tails."),
        ("37,5", "That is in per cent."),
        (0.36, "Not yet: this is too small, by less than 10 %."),
        (0.3, "Not yet: this is too small, by more than 10 %."),
        (-0.375, "Not yet: this is too small, by more than 10 %."),
        (0.4, "Not yet: this is too large, by less than 10 %."),
        (math.inf, "Not yet: this is too large, by more than 10 %."),
    ],
)
def test_a_wrong_number_is_told_how_far_it_is(answer, says):
    assert check("ex-share", answer).says == says


def test_the_tolerance_ends_where_it_says():
    assert check("ex-share", 0.375 * 1.00499)
    assert not check("ex-share", 0.375 * 1.00501)
    assert check("ex-share-drift", -2.625)
    assert not check("ex-share-drift", -2.6251)
    assert check("ex-share-drift", "\N{MINUS SIGN}2,4")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ([[1 / 2, 1 / 4], [1 / 8, 1 / 8]], "Right."),
        ("[1/2, 1/4; .125 0.125]", "Right."),
        ((0.5, 0.25, 0.125, 0.125), "Right."),
        ([1, 2, 3, 3], "Those are the lengths, not the weights."),
        ("0.5 0.25 0.125", "The last weight is missing."),
        ([0.5, 0.25, 0.25, 0], "Not yet. Right so far: 2 of 4 numbers."),
        ("0.5 0.25", "There should be 4 numbers, and there are 2."),
        (0.5, "There should be 4 numbers, and there are 1."),
        ("0.5, a, b, c", "Write numbers such as 0.375, 3/8 or 1e-3, separated by"),
        ([0.5, math.nan, 0, 0], "Your answer contains NaN, which is not a number."),
    ],
)
def test_several_numbers(answer, says):
    assert check("ex-weights", answer).says.startswith(says)


def test_a_choice_by_its_words_or_its_place():
    for answer in ("The log score", " the LOG score", 1, "1", np.int64(1)):
        assert check("ex-rule", answer)
    assert check("ex-rule", 3).says == "The absolute error rewards exaggeration."
    for answer in (0, 4, 1.5, "log", None.__class__, [1]):
        verdict = check("ex-rule", answer)
        assert verdict.says.startswith("Choose one of the answers.\nWhich rule")
        assert "\n3. $|y-p|$" in verdict.says


def test_hints_come_one_by_one():
    asked = exercises.exercise("ex-share")
    first = check("ex-share")
    assert not first
    assert repr(first) == "Share of heads\nHint 1 of 3: Count."
    assert first._repr_markdown_() == "Share of heads\n\nHint 1 of 3: Count."
    assert check("ex-share", "what").hint == ""
    assert check("ex-share", 0.375).hint == ""
    steps = [check("ex-share", answer).hint for answer in (0.625, 0.2, 0.3)]
    assert steps == [f"Hint {n} of 3: {asked.hints[n - 1]}" for n in (2, 3, 3)]
    assert check("ex-rule").hint.startswith("Hint 1 of 3")


# Functions


def test_a_right_function_passes():
    assert check("ex-entropy", entropy)

    def mine(p):
        positive = np.where(p > 0, p, 1)
        return -(p * np.log(positive)).sum(-1).tolist() if p.ndim == 1 else entropy(p).tolist()

    assert repr(check("ex-entropy", mine)) == "Right."


def test_a_right_function_that_prints_is_right(capsys):
    def loud(p):
        print(p)
        return entropy(p)

    verdict = check("ex-entropy", loud)
    assert verdict
    assert verdict.says == "Right. It also prints, which was not shown here."
    assert capsys.readouterr().out == ""


def prints(p):
    print(entropy(p))


def forgets(p):
    entropy(p)


def overwrites(p):
    p[p == 0] = 1
    return -(p * np.log(p)).sum(-1)


def raises(p):
    total = 0
    for share in p:
        total -= share * math.log(share)
    return total


def helper(p):
    raise RuntimeError("two\nlines")


def raises_below(p):
    return helper(p)


def raises_in_numpy(p):
    return np.dot(p, np.ones(7))


def raises_in_celib(p):
    return entropy(2 * p)


def quits(p):
    raise SystemExit


def recurses(p):
    return recurses(p)


def line(function, offset):
    return function.__code__.co_firstlineno + offset


FIRST = "`p = [0.25, 0.75]`"
BROKEN = {
    "not a function": (0.5, "This exercise asks for a function, and this is of type float. Give"),
    "text": ("entropy", "This exercise asks for a function, and this is of type str. Give"),
    "prints": (prints, "Your function prints its result and returns None: let it return"),
    "returns nothing": (forgets, f"For {FIRST} your function returns None: let it end with"),
    "changes its input": (
        overwrites,
        "Your function changes its argument p: for `p = [1., 0.]` it leaves [1., 1.] in it.",
    ),
    "raises": (
        raises,
        "For `p = [1., 0.]` your function raises ValueError: REASON "
        f"(line {line(raises, 3)} of test_exercises.py): `total -= share * math.log(share)`",
    ),
    "raises in a helper": (
        raises_below,
        f"For {FIRST} your function raises RuntimeError: two lines "
        f"(line {line(helper, 1)} of test_exercises.py): `raise RuntimeError(",
    ),
    "raises in NumPy": (
        raises_in_numpy,
        f"For {FIRST} your function raises ValueError: REASON "
        f"(line {line(raises_in_numpy, 1)} of test_exercises.py): `return np.dot(p, np.ones(7))`",
    ),
    "raises in the library": (
        raises_in_celib,
        f"For {FIRST} your function raises ValueError: REASON "
        f"(line {line(raises_in_celib, 1)} of test_exercises.py): `return entropy(2 * p)`",
    ),
    "raises in C": (math.sin, f"For {FIRST} your function raises TypeError: REASON."),
    "quits": (quits, f"For {FIRST} your function raises SystemExit (line "),
    "never ends": (recurses, f"For {FIRST} your function raises RecursionError: REASON (line "),
    "takes too much": (
        lambda p, q: 0,
        "Your function cannot be called with one argument: missing a required argument: 'q'.",
    ),
    "takes nothing": (
        lambda: 0,
        "Your function cannot be called with one argument: too many positional arguments.",
    ),
    "returns text": (
        lambda p: "much",
        f"For {FIRST} the result of your function is of type str, not a number",
    ),
    "returns a generator": (
        lambda p: (x for x in p),
        f"For {FIRST} the result of your function is of type generator, not a number",
    ),
}


@pytest.mark.parametrize(("function", "says"), BROKEN.values(), ids=BROKEN)
def test_a_broken_function_gets_a_sentence_and_no_hint(function, says):
    verdict = check("ex-entropy", function)
    assert not verdict
    before, _, after = says.partition("REASON")
    assert verdict.says.startswith(before)
    assert after in verdict.says
    assert verdict.hint == ""
    assert "Traceback" not in repr(verdict)


def test_an_error_in_a_cell_is_told_with_its_line():
    source = "import math\ndef f(p):\n    return math.log(p[1])\n"
    file = "/tmp/ipykernel_1/2.py"
    linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file
    cell = {}
    exec(compile(source, file, "exec"), cell)
    assert check("ex-entropy", cell["f"]).says.endswith(
        "(line 3 of your cell): `return math.log(p[1])`"
    )


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda p: entropy(p, base=2), "That is in bits."),
        (lambda p: -np.sum(p * np.log(p), axis=-1), "It is NaN where a probability is 0."),
        (lambda p: np.sum(entropy(p)), "It adds up the rows of a batch."),
        (
            lambda p: entropy(p)[..., None],
            f"Not yet: your function is right on 0 of 5 inputs. For {FIRST} it returns an array of "
            "shape (1,), where () is expected.",
        ),
        (
            lambda p: entropy(p) if p.size > 1 else np.nan,
            "Not yet: your function is right on 4 of 5 inputs. For `p = [1.]` it returns NaN, "
            "which is not a number.",
        ),
        (
            lambda p: entropy(p) + (p.size == 1),
            "Not yet: your function is right on 4 of 5 inputs. For `p = [1.]` it returns 1, which "
            "is too large.",
        ),
        (
            lambda p: entropy(p) if p.ndim == 1 else np.zeros(3),
            "Not yet: your function is right on 4 of 5 inputs. For `p = [[",
        ),
    ],
)
def test_a_wrong_function_is_told_where(function, says):
    verdict = check("ex-entropy", function)
    assert not verdict
    assert verdict.says.startswith(says)
    assert verdict.hint.startswith("Hint 1 of 3")


def test_a_reader_hears_no_warnings(recwarn):
    check("ex-entropy", lambda p: -(p * np.log(p)).sum(-1))
    assert check("ex-entropy", lambda p: warnings.warn("slow", stacklevel=1) or entropy(p))
    assert recwarn.list == []


def test_small_results_count():
    rare = exercises.exercise("ex-entropy").value("[(np.array([1 - 1e-9, 1e-9]),)]")[0][0]
    says = check("ex-entropy", lambda p: entropy(p) * (1.01 if np.array_equal(p, rare) else 1)).says
    assert says.startswith("Not yet: your function is right on 4 of 5 inputs.")
