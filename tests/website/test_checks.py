"""The check of an answer in the page, which says what ``celib.exercises.check`` says."""

import json
from pathlib import Path

import numpy as np
import pytest

import celib.exercises
from celib.exercises import asked as exercises
from celib.exercises import check
from website.built import BOOK, CHAPTERS, html, small_book
from website.visits import PHONE, visit

DATA = Path(__file__).parents[1]
BUILD = """
import sys
from pathlib import Path
from celib.exercises import asked as exercises
exercises.FOLDER = Path(sys.argv.pop(1))
from jupyter_book.cli.main import main
main()
"""
NONSENSE = ["", " ", "abc", "0.3 0.7", "37.5 %", "3/0", "1e999", "0x1", "--1", "1/2/3", "٣", "."]
TEXTS = [
    "0,375",
    " 3 / 8 ",
    ".375",
    "+3.75E-1",
    "\N{MINUS SIGN}2,5",
    "[1/2, 1/4; .125 1/8]",
    "1 2 3",
    "1,024",
    " 8,192 ",
    "1,025",
    "0,375,000",
]


def built(folder, text):
    """The page of a book of one page, with the exercises of the tests; or what the build said."""
    contents = {"_toc.yml": "format: jb-book\nroot: index\n", "index.md": text}
    build = small_book(folder, contents, BUILD, DATA)
    return folder / "_build/html/index.html", build.stdout + build.stderr


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    names = "ex-share", "ex-share-drift", "ex-share-words", "ex-weights", "ex-rule", "ex-entropy"
    text = "# Checks\n\nOf every kind.\n\n" + "".join(f"```{{check}} {n}\n```\n\n" for n in names)
    page, said = built(tmp_path_factory.mktemp("checks"), text)
    assert "build succeeded." in said, said
    return page.as_uri()


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No test leaves hints behind that it was given."""
    monkeypatch.setattr(celib.exercises, "_given", {})


@pytest.fixture
def made_up(monkeypatch):
    monkeypatch.setattr(exercises, "FOLDER", DATA)
    exercises.exercises.cache_clear()
    yield
    exercises.exercises.cache_clear()


@pytest.fixture
def desk(browser, address, made_up):
    with visit(browser, address, color_scheme="light") as tab:
        yield tab.page
        assert tab.complaints == []


def form(page, name):
    return page.locator(f"form#check-{name}")


def said(box, answer):
    """The verdict of the page on what is typed, or on the option that is chosen."""
    if box.locator("fieldset").count():
        box.locator("input").nth(int(answer)).check()
    else:
        box.locator("input").fill(answer)
    box.get_by_role("button", name="Check").click()
    return box.get_by_role("status").text_content()


# All verdicts on a list of answers at once, and the sentences on mistakes.
TRIED = """(box, answers) => {
    const fields = [...box.elements.answer.length ? box.elements.answer : [box.elements.answer]];
    const verdicts = answers.map((answer) => {
        if (fields.length > 1) fields[answer - 1].checked = true;
        else fields[0].value = answer;
        box.requestSubmit();
        return box.querySelector("output").textContent;
    });
    const templates = [...box.querySelectorAll("template")];
    return [verdicts, templates.map((template) => template.content.textContent)];
}"""


def near_the_edge(asked):
    """The right values and those of the mistakes, and what is just within or outside of them."""
    absolute, relative = asked.margin
    for value in [asked.right, *(value for value, _ in asked.mistakes)]:
        edge = absolute + relative * np.abs(value)
        for share in (0, 0.999999, 1.000001, -0.999999, -1.000001, 10, -30, 300):
            yield " ".join(map(repr, (value + share * edge).ravel().tolist()))


def compare(page, name):
    asked = exercises.exercise(name)
    if asked.kind == "choice":
        answers = [str(place) for place in range(1, len(asked.options) + 1)]
    else:
        answers = [*near_the_edge(asked), *NONSENSE, *TEXTS]
    verdicts, sentences = form(page, name).evaluate(TRIED, answers)
    # The page has set the sentences of the data, with their formulas.
    as_set = dict(zip([says for _, says in asked.mistakes], sentences, strict=True))
    for answer, verdict in zip(answers, verdicts, strict=True):
        says = check(name, answer).says
        assert verdict == as_set.get(says, says), f"{name}: {answer!r}"
    assert {"Right.", *sentences} <= set(verdicts)


MADE_UP = ["ex-share", "ex-share-drift", "ex-share-words", "ex-weights", "ex-rule"]


@pytest.mark.parametrize("name", MADE_UP)
def test_the_page_says_what_python_says(desk, name):
    compare(desk, name)


@pytest.mark.parametrize("page", [page for page in CHAPTERS if html(page).select("form.check")])
def test_the_chapters_say_what_python_says(browser, origin, page):
    with visit(browser, f"{origin}/{page}.html") as tab:
        for box in html(page).select("form.check"):
            compare(tab.page, box["id"].removeprefix("check-"))
        assert tab.complaints == []


def test_right_wrong_and_nonsense(desk):
    box = form(desk, "ex-share")
    verdict = box.get_by_role("status")
    assert verdict.text_content() == ""
    for text, says, kind in (
        ("0.625", "That is the share of tails.", "wrong"),
        ("0.9", "Not yet: this is too large, by more than 10 %.", "wrong"),
        ("a third", "Write one number, such as 0.375, 3/8 or 1e-3, without words or", "wrong"),
        ("3/8", "Right.", "right"),
    ):
        assert said(box, text).startswith(says)
        assert verdict.get_attribute("data-verdict") == kind
    colours = [verdict.evaluate("v => getComputedStyle(v).color")]
    said(box, "1")
    colours += [verdict.evaluate("v => getComputedStyle(v).color")]
    assert len(set(colours)) == 2


def test_a_sentence_has_its_formulas(desk):
    box = form(desk, "ex-share-drift")
    said(box, "2.5")
    assert box.locator("output .katex").count() == 1


def test_nothing_is_chosen_at_first(desk):
    box = form(desk, "ex-rule")
    box.get_by_role("button", name="Check").click()
    assert box.get_by_role("status").text_content() == exercises.WORDS["choose"]
    assert said(box, 2) == "The absolute error rewards exaggeration."


def test_hints_open_one_by_one(desk):
    box = form(desk, "ex-weights")
    button, hints = box.get_by_role("button", name="Hint"), box.locator("li >> visible=true")
    for shown in (0, 1, 2, 3, 3):
        assert hints.count() == shown
        assert (button.get_attribute("aria-disabled") == "true") == (shown == 3)
        button.click(force=True)  # also when it says that it has no more
    assert hints.all_text_contents() == exercises.exercise("ex-weights").hints
    assert box.get_by_role("status").text_content() == ""


def test_by_keyboard_alone(desk):
    keys, focused = desk.keyboard, desk.locator(":focus")
    form(desk, "ex-share").locator("input").focus()
    keys.type("0.625")
    keys.press("Enter")
    status = form(desk, "ex-share").get_by_role("status")
    assert status.text_content() == "That is the share of tails."
    for name in ("Check", "Hint"):
        keys.press("Tab")
        assert focused.text_content() == name
        assert focused.evaluate("b => getComputedStyle(b).outlineStyle") != "none"
    keys.press("Space")
    assert form(desk, "ex-share").locator("li >> visible=true").count() == 1
    form(desk, "ex-rule").locator("input").first.focus()
    keys.press("ArrowDown")
    assert focused.evaluate("b => getComputedStyle(b).outlineStyle") != "none"
    keys.press("Enter")
    status = form(desk, "ex-rule").get_by_role("status")
    assert status.text_content() == "The error rate does not see the probability."


def test_every_control_is_named(desk):
    for name, label in (("ex-share", "Share of heads"), ("ex-weights", "The four weights")):
        assert form(desk, name).get_by_role("textbox", name=label).count() == 1
    assert form(desk, "ex-rule").get_by_role("group", name="Which rule is proper?").count() == 1
    assert form(desk, "ex-rule").get_by_role("radio", name="The error rate").count() == 1
    fields = desk.locator("input[inputmode]")
    modes = fields.evaluate_all("all => all.map((field) => field.inputMode)")
    assert modes == [
        "decimal",
        "text",
        "decimal",
        "text",
    ]  # the pad of a phone has no minus and no space


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(browser, address, theme):
    with visit(browser, address, color_scheme=theme) as tab:
        for answer, name in (("0.375", "ex-share"), ("2.5", "ex-share-drift")):
            said(form(tab.page, name), answer)
        form(tab.page, "ex-weights").get_by_role("button", name="Hint").click(click_count=3)
        assert tab.violations() == []


def test_a_phone_has_room_for_fingers(browser, address):
    with visit(browser, address, PHONE, is_mobile=True, has_touch=True) as tab:
        box = form(tab.page, "ex-weights")
        box.locator("input").fill("1 2 3 3")
        box.get_by_role("button", name="Check").tap()
        assert box.get_by_role("status").text_content().startswith("Those are the lengths")
        for control in tab.page.locator(
            "form.check :is(button, label:has(input), input[id])"
        ).all():
            place = control.bounding_box()
            assert place["height"] >= 36
            assert place["x"] + place["width"] <= PHONE["width"]
        # Below 16 pixels a phone magnifies the page when a field is touched.
        assert box.locator("input").evaluate("i => parseFloat(getComputedStyle(i).fontSize)") >= 16
        assert tab.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        assert tab.complaints == []


def test_without_scripts_the_page_names_the_call(browser, address):
    with visit(browser, address, java_script_enabled=False) as tab:
        assert tab.page.locator("form.check >> visible=true").count() == 0
        calls = tab.page.locator("p.check code:last-child >> visible=true").all_text_contents()
    assert calls[0] == 'check("ex-share", your_answer)'
    assert calls[-1] == 'check("ex-entropy", your_function)'
    assert len(calls) == 6


def test_with_scripts_only_a_function_needs_the_notebook(desk):
    calls = desk.locator("p.check code:last-child >> visible=true").all_text_contents()
    assert calls == ['check("ex-entropy", your_function)']


def test_paper_has_no_forms(desk):
    desk.emulate_media(media="print")
    assert desk.locator(".check >> visible=true").count() == 0


def test_only_pages_with_checks_load_the_script():
    assert (BOOK / "_assets/checks.js").stat().st_size < 4000
    for page in [*CHAPTERS, "index"]:
        loads = [tag for tag in html(page).select("script[src]") if "checks.js" in tag["src"]]
        assert len(loads) == bool(html(page).select("form.check"))
        assert all(json.loads(tag["data-words"]) == exercises.WORDS for tag in loads)


def test_a_build_refuses_an_unknown_label(tmp_path):
    _, text = built(tmp_path, "# Damage\n\nOne check.\n\n```{check} ex-shar\n```\n")
    assert "index.md:5" in text
    assert "name = 'ex-shar': expected 'ex-share'" in text
