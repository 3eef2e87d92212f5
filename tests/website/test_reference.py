"""The library's pages: everything public is there, in words, and leads somewhere."""

import importlib
import inspect
import re

import pytest

from website.built import PAGES, every_chapter, html, ids

MODULES = [
    page.replace("reference/", "celib.")
    for page in PAGES
    if page.startswith("reference/") and page not in {"reference/index", "reference/arguments"}
]
each_module = pytest.mark.parametrize("module", MODULES)


def page_of(module):
    return module.replace("celib.", "reference/")


def test_every_subject_has_a_page():
    celib = importlib.import_module("celib")
    figures = {"plots"}  # of the book, which nobody calls elsewhere
    assert {f"celib.{name}" for name in set(celib._SUBJECTS) - figures} == set(MODULES)
    linked = {link["href"] for link in html("reference/index").article.select("table a")}
    assert {f"{name.removeprefix('celib.')}.html#module-{name}" for name in MODULES} <= linked


@each_module
def test_every_public_name_is_described(module):
    names = set(getattr(importlib.import_module(module), "__all__", ()))
    article = html(page_of(module)).article
    entries = {tag["id"]: tag for tag in article.select("dl.py > dt.sig[id]")}
    if module != "celib.kernels":
        top = {name for name in entries if name.count(".") == module.count(".") + 1}
        assert top == {f"{module}.{name}" for name in names}
    for name, entry in entries.items():
        assert not name.rpartition(".")[2].startswith("_"), name
        words = entry.find_next_sibling("dd").find("p").text
        assert len(words.split()) >= 2, name
    rows = {row.a["href"]: row for row in article.select("table tbody tr") if row.a}
    assert {f"#{module}.{name}" for name in names} <= set(rows)
    assert all(len(row.find_all("td")[1].text.split()) >= 2 for row in rows.values())


@pytest.mark.parametrize("module", ["calibration", "information", "losses", "scoring", "stable"])
def test_functions_say_when_to_use_them(module):
    found = importlib.import_module(f"celib.{module}")
    for name in found.__all__:
        if inspect.isfunction(value := getattr(found, name)):
            assert "\n\nUse it " in inspect.getdoc(value), name


@each_module
def test_signatures_are_those_of_python(module):
    found = importlib.import_module(module)
    for name in getattr(found, "__all__", ()):
        value = getattr(found, name)
        if callable(value) and not isinstance(value, type):
            shown = html(page_of(module)).find(id=f"{module}.{name}")
            written = [tag.select_one(".n") for tag in shown.select(".sig-param")]
            wanted = list(inspect.signature(value).parameters)
            assert [tag.text for tag in written if tag] == wanted, name


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("reference/")])
def test_nothing_raw_is_left(page):
    article = html(page).article
    for code in article.select("pre"):
        code.decompose()
    raw = r":[a-z:]+:`|``|^\s*(?:Args|Source):|^Example: |\.\. \w+::"
    assert not re.findall(raw, article.text, re.MULTILINE)
    # Names of equations are links to them: see test_pages.py for whether they arrive.
    assert not re.search(r"\beq-[a-z]", article.text)


def test_equations_and_works_are_links():
    article = html("reference/losses").article
    entry = article.find(id="celib.losses.cross_entropy").find_next_sibling("dd")
    assert entry.p.a["href"] == "../chapters/08-losses.html#equation-eq-loss"
    focal = article.find(id="celib.losses.focal_loss").find_next_sibling("dd")
    assert "https://arxiv.org/abs/1708.02002" in {a["href"] for a in focal.select("a.external")}


@every_chapter
def test_chapters_link_to_what_they_offer(page):
    heading = next(h for h in html(page).article.select("h2") if h.text.endswith("In celib#"))
    names = [link["href"] for link in heading.parent.select("a[href*='reference/']")]
    assert names
    for address in names:
        target, _, anchor = address.partition("#")
        assert anchor in ids(target.removeprefix("../").removesuffix(".html"))
