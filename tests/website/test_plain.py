"""The notebooks for running, which are made with the site (``make book`` builds it)."""

import os
import re

import nbformat
import pytest
from markdown_it import MarkdownIt
from nbclient import NotebookClient

from website.built import BOOK, CHAPTERS, CONFIG, SITE, every_chapter, html, ids

MARKUP = re.compile(
    r":::|```\{|\{[\w:]+\}`|^\+\+\+|^\([\w-]+\)=|^:[\w-]+: |\(eq-|\]\([^)]*\.md", re.M
)
OWNER, NAME = CONFIG["repository"]["url"].removeprefix("https://github.com/").split("/")
ROOT = f"https://{OWNER.lower()}.github.io/{NAME}/"


def plain(page):
    html(page)
    return nbformat.read(SITE / f"{page.replace('chapters', 'notebooks')}.ipynb", 4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text(page):
    cells = plain(page).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


@every_chapter
def test_no_markup_is_left(page):
    notebook = plain(page)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            assert not MARKUP.search(cell.source), cell.source
            # A formula of a quoted block is on one line, or its marks would be part of it.
            assert cell.source.count("$$") % 2 == 0
            for line in cell.source.splitlines():
                assert not line.startswith(">") or line.count("$$") % 2 == 0, line


@every_chapter
def test_the_same_code_with_its_outputs(page):
    chapter = nbformat.read(BOOK / f"{page}.ipynb", 4)
    for one, other in zip(code_cells(chapter), code_cells(plain(page)), strict=True):
        assert one.source == other.source
        assert one.outputs == other.outputs


@every_chapter
def test_statements_equations_and_figures_have_the_numbers_of_the_page(page):
    found, article = text(page), html(page).article
    titles = article.select(".proof > .admonition-title .caption-number, .exercise .caption-number")
    assert titles
    for title in titles:
        # With its own name after it in brackets, if it has one.
        assert re.search(rf"(\*\*|#### ){re.escape(title.text.strip())}[ .]", found), title.text
    for number in article.select(".eqno"):
        assert rf"\tag{{{number.text.strip('#()')}}}$$" in found
    for caption in article.select("figcaption .caption-number"):
        assert f"*{caption.text.strip()}.* " in found
    for heading in article.select("h1, h2, h3"):
        if heading.select(".section-number"):
            assert f"# {heading.select_one('.section-number').text}" in found


@every_chapter
def test_links_arrive(page):
    links = re.findall(r"\]\((\S+?)\)", text(page))
    assert any("doi.org" in link or "arxiv.org" in link for link in links)
    for link in links:
        if link.startswith(ROOT):
            target, _, anchor = link.removeprefix(ROOT).partition("#")
            target = target.removesuffix(".html") or "index"
            assert (SITE / f"{target}.html").is_file(), link
            assert not anchor or anchor in ids(target), link
        else:
            assert link.startswith("https://"), link


@every_chapter
def test_it_reads_as_markdown(page):
    quotes = 0
    for cell in plain(page).cells:
        if cell.cell_type == "markdown":
            tokens = MarkdownIt().parse(cell.source)
            quotes += sum(token.type == "blockquote_open" for token in tokens)
            assert all(token.type != "code_block" for token in tokens), cell.source
    boxes = html(page).article.select(".proof:has(> .admonition-title), .admonition.often-said")
    assert quotes == len(boxes)


@every_chapter
def test_what_is_often_said_stands_in_a_box_of_its_own(page):
    written, found = (BOOK / f"{page}.md").read_text("utf-8"), text(page)
    said = written.count("{admonition} Often said")
    assert found.count("> **Often said**\n>\n> ") == said


@every_chapter
def test_a_check_is_the_call_to_make(page):
    names = re.findall(r"^```\{check\} (\S+)$", (BOOK / f"{page}.md").read_text("utf-8"), re.M)
    calls = re.findall(r'^from celib\.exercises import check\ncheck\("([^"]+)', text(page), re.M)
    assert calls == names


@every_chapter
def test_solutions_are_folded_up_to_the_next_heading(page):
    notebook, level = plain(page), None
    folded = set(notebook.metadata["colab"]["collapsed_sections"])
    solutions = 0
    for cell in notebook.cells:
        heading = re.match(r"(#+) ", cell.source) if cell.cell_type == "markdown" else None
        if heading and heading[1] == "#####":
            solutions += 1
            assert cell.metadata["jp-MarkdownHeadingCollapsed"]
            assert cell.metadata["id"] in folded
            level = 5
        elif level and heading:
            assert len(heading[1]) < level
            level = None
    assert solutions == len(html(page).article.select("details.solution")) == len(folded)


# All nine take as long as the comparison of all outputs does: the others have the same code.
@pytest.mark.parametrize("page", CHAPTERS[:1])
def test_it_runs_in_a_fresh_kernel(page, tmp_path):
    notebook = plain(page)
    outputs = [cell.outputs for cell in code_cells(notebook)]
    NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
    again = [cell.outputs for cell in code_cells(notebook)]
    assert list(map(len, again)) == list(map(len, outputs))


def test_the_library_is_recognised(tmp_path, monkeypatch):
    """PyPI has another package of the name celib: it does not count as this one."""
    source = code_cells(plain(CHAPTERS[0]))[0].source
    reference = os.environ.get("COMMIT", "published")
    assert f"{CONFIG['repository']['url']}/archive/{reference}.zip" in source
    asked = []
    code = source.replace("%pip install -q", "asked.append(") + ")"
    exec(code, {"asked": asked})
    assert asked == []
    (tmp_path / "celib").mkdir()
    (tmp_path / "celib/__init__.py").write_text("")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: FakeSpec(tmp_path / name))
    exec(code, {"asked": asked})
    assert len(asked) == 1


class FakeSpec:
    def __init__(self, folder):
        self.origin = str(folder / "__init__.py")
