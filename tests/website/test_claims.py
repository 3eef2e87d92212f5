"""The claims that the book decides: their words, their verdicts, and the way from one to the other.

The rows are ``book/claims/*.yml``. The last tests read the built site (``make book`` builds it).
"""

import json
import re
from collections import Counter
from copy import copy
from functools import cache
from urllib.parse import urljoin, urlsplit

import pytest
import yaml

from website.built import BOOK, CHAPTERS, PAGES, every_chapter, html, small_book

SUBJECTS = sorted(BOOK.glob("claims/*.yml"))
ROWS = {path.stem: yaml.safe_load(path.read_text("utf-8")) for path in SUBJECTS}
ROW = {row["id"]: row for rows in ROWS.values() for row in rows}
PAGE = {row["id"]: f"claims/{subject}" for subject, rows in ROWS.items() for row in rows}
VERDICTS = {
    "correct": 168,
    "correct with a condition": 88,
    "imprecise": 94,
    "wrong": 59,
    "unsupported": 25,
    "broken code": 4,
}
# Claims whose chapter is still to be written. The number may fall, and is to be 0 in the end.
TO_BE_WRITTEN = 0

WRITTEN = {str(int(page.removeprefix("chapters/").split("-")[0])) for page in CHAPTERS}
every_subject = pytest.mark.parametrize("subject", ROWS)


def text(page):
    return (BOOK / f"{page}.md").read_text("utf-8")


def named(source):
    """The ids in the metadata of cells and in titles of boxes, each with the words of the heading
    above it, and whether it stands in a title. A cell that begins with headings belongs to them."""
    source = re.sub(
        r"^```.*?^```$", lambda code: "\n" * code[0].count("\n"), source, flags=re.M | re.S
    )
    heading = ""
    lines = source.splitlines()
    for number, line in enumerate(lines):
        if found := re.match(r"#+ (.*)", line):
            heading = found[1]
        if line.startswith("+++ {"):
            above = heading
            for following in lines[number + 1 :]:
                if following and not following.startswith("#"):
                    break
                above = following.lstrip("# ") or above
            for claim in re.findall(r"\bS\d-\d+\b", line):
                yield claim, above, False
        elif "{admonition}" in line:
            for claim in re.findall(r"\bS\d-\d+\b", line):
                yield claim, heading, True


def plain(words):
    """Letters and digits: what is left of a sentence, however it is marked up and quoted."""
    return re.sub(r"\W+", "", re.sub(r"\$[^$]*\$|\{[\w:]+\}|[*_`]", "", words))


def shown(element):
    """The same of an element of a page."""
    element = copy(element)
    for part in element.select(".math, .headerlink, .section-number"):
        part.decompose()
    return plain(element.text)


@cache
def elements(page):
    return {element["id"]: element for element in html(page).find_all(id=True)}


@cache
def places():
    """For each claim the chapters and headings that decide it, and whether they do it in a box.
    Where there is a box, it decides."""
    found = {}
    for page in CHAPTERS:
        for claim, heading, boxed in named(text(page)):
            at = found.setdefault(claim, {})
            at[page, plain(heading)] = boxed or at.get((page, plain(heading)), False)
    return {
        claim: {where: boxed for where, boxed in at.items() if boxed == any(at.values())}
        for claim, at in found.items()
    }


# The rows


def test_every_claim_has_one_row():
    counted = Counter(row["id"] for rows in ROWS.values() for row in rows)
    assert [claim for claim, times in counted.items() if times > 1] == []
    assert Counter(row["verdict"] for row in ROW.values()) == VERDICTS
    assert len(ROW) == 438


@every_subject
def test_no_row_without_words(subject):
    for row in ROWS[subject]:
        assert list(row) == ["id", "chapter", "verdict", "claim", "statement"], row["id"]
        assert re.fullmatch(r"S[0-4]-\d\d+", row["id"])
        assert row["chapter"] in {*map(str, range(1, 23))}, row["id"]
        for words in (row["claim"], row["statement"]):
            assert len(words.split()) >= 3 or "$" in words, row["id"]
            assert "TO BE WRITTEN" not in words, row["id"]
            assert words == words.strip(), row["id"]
            assert not re.search(r"\bS\d-\d+\b|\bE\d+\b", words), f"a code: {row['id']}"
        assert "\n" not in row["claim"], row["id"]
        quoted = row["claim"][0] in '"“' and row["claim"][-1] in '"”'
        assert not quoted, f"{row['id']}: the page sets the quotation marks"


@every_chapter
def test_every_id_in_a_chapter_has_a_row(page):
    claims = {claim for claim, _, _ in named(text(page))}
    number = str(int(page.removeprefix("chapters/").split("-")[0]))
    assert claims or number not in {row["chapter"] for row in ROW.values()}
    assert claims <= set(ROW)


def test_what_is_still_to_be_written_is_counted():
    undecided = set(ROW) - set(places())
    written = [claim for claim in undecided if ROW[claim]["chapter"] in WRITTEN]
    assert written == [], "their chapters are written and do not name them"
    assert len(undecided) == TO_BE_WRITTEN


# The pages


@every_subject
def test_every_row_is_an_entry_of_its_page(subject):
    entries = {entry["id"]: entry for entry in html(f"claims/{subject}").select("section.claim")}
    assert set(entries) == {f"claim-{row['id'].lower()}" for row in ROWS[subject]}
    for row in ROWS[subject]:
        entry = entries[f"claim-{row['id'].lower()}"]
        assert shown(entry.h3) == plain(row["claim"])
        assert entry.select_one(".verdict").text == row["verdict"].capitalize()
        assert entry.find_parent("section").h2.text.rstrip("#") == row["verdict"].capitalize()
        statement = re.sub(
            r"\$+[^$]*\$+|\{[\w:]+\}`[^`]*`|\]\([^)]*\)|```\w*", "", row["statement"]
        )
        for word in re.findall(r"\b[A-Za-z]{4,}\b", statement):
            assert word in entry.text, row["id"]


@every_subject
def test_every_entry_leads_to_the_place_that_decides_it(subject):
    for row in ROWS[subject]:
        entry = elements(f"claims/{subject}")[f"claim-{row['id'].lower()}"]
        decided = entry.select_one(".decided")
        wanted = places().get(row["id"], {})
        links = decided.select("a")
        assert len(links) == len(wanted), row["id"]
        assert bool(wanted) != ("still to be written" in decided.text), row["id"]
        for link in links:
            address = urlsplit(urljoin(f"claims/{subject}.html", link["href"]))
            page = address.path.removesuffix(".html")
            target = elements(page).get(address.fragment)
            assert target, f"{row['id']}: {link['href']}"
            look = target.find if target.name == "section" else target.find_previous
            heading = look(re.compile("h[1-6]"))
            assert (page, shown(heading)) in wanted, row["id"]
            number = heading.select_one(".section-number")
            assert link.text.startswith(number.text.strip(" .") if number else ""), row["id"]
            assert shown(link).endswith(shown(heading)), row["id"]
            if wanted[page, shown(heading)]:
                assert "often-said" in target["class"], row["id"]


@every_chapter
def test_a_box_leads_to_the_claims_that_it_decides(page):
    titles = re.findall(r"\{admonition\} (.+) \((S.*)\)", text(page))
    boxes = html(page).select(".often-said:has(.claim-links)")
    assert len(boxes) == len(titles)
    for box, (title, claims) in zip(boxes, titles, strict=True):
        head = box.select_one(".admonition-title")
        assert head.text.startswith(title)
        links = head.select("a")
        wanted = [f"../{PAGE[c]}.html#claim-{c.lower()}" for c in claims.split(", ")]
        assert [link["href"] for link in links] == wanted
        if len(links) == 1:
            assert links[0].text == "the claim and its verdict"
        else:
            verdicts = [ROW[claim]["verdict"] for claim in claims.split(", ")]
            assert [link.text for link in links] == verdicts


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith(("ch", "claims"))])
def test_no_page_shows_a_code(page):
    assert not re.search(r"\bS\d-\d\d+\b", html(page).article.text)


def test_the_table_counts_what_the_pages_hold():
    rows = html("claims/index").select("table.claims tr")
    *verdicts, _ = (cell.text.lower() for cell in rows[0].select("th")[1:])
    assert set(verdicts) == set(VERDICTS)
    linked = [urlsplit(row.a["href"]).path.removesuffix(".html") for row in rows[1:-1]]
    assert sorted(linked) == sorted(ROWS)
    for subject, row in zip(linked, rows[1:-1], strict=True):
        *cells, all_of_them = row.select("td")
        assert int(all_of_them.text) == len(ROWS[subject])
        for verdict, cell in zip(verdicts, cells, strict=True):
            count = sum(of["verdict"] == verdict for of in ROWS[subject])
            assert int(cell.text) == count
            if count:
                group = elements(f"claims/{subject}")[urlsplit(cell.a["href"]).fragment]
                assert len(group.select("section.claim")) == count
            else:
                assert not cell.a
    assert [int(cell.text) for cell in rows[-1].select("td")] == [*map(VERDICTS.get, verdicts), 438]


NOTEBOOK = """
# One

## First

The first of a cell.

+++ {"ledger": ["S0-01"]}

## Second

:::{admonition} Often said (S9-99)
:class: often-said

A box for a claim without a row.
:::
"""
DATA = r"""
- id: S0-01
  chapter: "1"
  verdict: {verdict}
  claim: A claim.
  statement: |-
    A formula $\frac{{1}}$ that is not finished.
"""


@pytest.mark.parametrize(
    ("verdict", "complaints"),
    [
        ("wrong", [r"claim:row reference target not found: S9-99", r"a\.yml:2: WARNING: KaTeX"]),
        ("right", [r"S0-01 has no verdict of the list: right"]),
    ],
)
def test_a_strict_build_refuses_damage(tmp_path, verdict, complaints):
    cells = [
        {"cell_type": "markdown", "metadata": metadata, "source": source}
        for metadata, source in zip(
            ({}, {"ledger": ["S0-01"]}), re.split(r"\n\+\+\+.*", NOTEBOOK), strict=True
        )
    ]
    notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
    contents = {
        "_toc.yml": "format: jb-book\nroot: index\nchapters:\n- file: a\n- file: one\n",
        "index.md": "# Damage\n\nA book.\n",
        "a.md": "# Claims\n\nA page.\n\n```{claim:rows}\n```\n",
        "a.yml": DATA.format(verdict=verdict),
        "one.ipynb": json.dumps(notebook),
    }
    build = small_book(tmp_path, contents)
    assert build.returncode != 0
    for complaint in complaints:
        assert re.search(complaint, build.stdout + build.stderr), build.stdout + build.stderr
