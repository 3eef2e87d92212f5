"""What the built site owes its readers, as files and in a browser (``make book`` builds it)."""

import io
import re
import subprocess
import time
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit
from zipfile import ZipFile

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import stylesheet
import yaml
from fontTools.ttLib import TTFont

import celib
from celib import plots
from celib.information import self_information
from conftest import same_figure
from website.built import (
    BOOK,
    CHAPTERS,
    CONFIG,
    OPENED,
    PAGES,
    SITE,
    every_chapter,
    every_page,
    every_source,
    html,
    ids,
    small_book,
    source,
)
from website.visits import PHONE, Compressed, served, visit

# The files


@every_source
def test_page_is_built_from_its_present_source(page):
    html(page)
    copy = SITE / "_sources" / source(page).relative_to(BOOK)
    assert copy.read_bytes() == source(page).read_bytes(), "the site is stale: make book"


def test_no_page_outside_the_toc():
    html("index")
    built = {file.relative_to(SITE).with_suffix("").as_posix() for file in SITE.rglob("*.html")}
    templates = {name for name in built if name.startswith("_static/")}
    assert built - templates == {*PAGES, "search", "404"}


def test_the_front_page_opens_every_chapter():
    rows = html("index").article.select("table tbody tr")
    links = [(row.find("a")["href"], [cell.text for cell in row.find_all("td")]) for row in rows]
    assert [address for address, _ in links] == [f"{page}.html" for page in CHAPTERS]
    for page, (_, (number, title, question, *_)) in zip(CHAPTERS, links, strict=True):
        assert html(page).article.h1.text.rstrip("#") == f"{number}. {title}"
        assert question.endswith("?")


def test_the_front_page_says_which_version_it_is():
    text = html("index").article.text
    cited = yaml.safe_load((BOOK.parent / "CITATION.cff").read_text("utf-8"))
    assert cited["version"] == celib.__version__
    assert f"version {cited['version']} of {cited['date-released']:%-d %B %Y}" in text
    assert f"version {cited['version']}, {cited['date-released']:%Y}" in text


@every_page
def test_a_chapter_that_is_named_by_number_is_the_one_that_opens(page):
    for link in html(page).select("a.reference.internal"):
        named = re.fullmatch(r"(?:[Cc]hapter )?(\d+)", link.text)
        if named and "chapters/" in urljoin(f"{page}.html", link["href"]):
            target = urljoin(f"{page}.html", link["href"]).removesuffix(".html")
            assert html(target).article.h1.text.startswith(f"{named[1]}. ")


def test_the_archive_is_the_site():
    html("index")
    with ZipFile(SITE / "cross-entropy-book.zip") as archive:
        packed = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    here = {file.relative_to(SITE).as_posix(): file for file in SITE.rglob("*") if file.is_file()}
    assert set(packed) == set(here) - {"cross-entropy-book.zip"}
    assert all(body == here[name].read_bytes() for name, body in packed.items())


def test_the_picture_of_the_front_page_is_drawn_by_the_library():
    p, other = np.array([1 / 2, 1 / 4, 1 / 8, 1 / 8]), np.array([1 / 8, 1 / 8, 1 / 4, 1 / 2])
    file = io.StringIO()
    with matplotlib.rc_context():
        plots.use_house_style()
        outcomes = "rain", "sun", "snow", "fog"
        ax = plots.bills(p, [self_information(x, base=2) for x in (p, other)], outcomes)
        ax.figure.savefig(file, format="svg", metadata={"Date": None})
        plt.close(ax.figure)
    assert same_figure(file.getvalue(), (BOOK / "_assets/bills.svg").read_text("utf-8"))


def test_titles_and_descriptions_tell_the_pages_apart():
    titles = [html(page).title.text for page in PAGES]
    descriptions = [html(page).find("meta", {"name": "description"})["content"] for page in PAGES]
    assert len(set(titles)) == len(set(descriptions)) == len(PAGES)


@every_page
def test_head_says_what_the_page_is(page):
    soup = html(page)
    assert soup.html["lang"] == "en"
    assert soup.h1.text.rstrip("#").split(". ")[-1] in soup.title.text
    assert 20 <= len(soup.find("meta", {"name": "description"})["content"]) <= 160


@every_page
def test_ids_are_unique(page):
    given = [tag["id"] for tag in html(page).find_all(id=True)]
    assert [name for name in ids(page) if given.count(name) > 1] == []


@every_page
def test_figures_are_drawings_with_captions_and_words(page):
    for image in html(page).article.find_all("img") if html(page).article else ():
        assert len(image.get("alt", "").split()) >= 8, image["src"]
        assert image["src"].endswith(".svg")
        assert image.has_attr("width")
        assert image.has_attr("height")
        assert image.find_parent("figure").find("figcaption").text.strip()
    assert all(image.get("alt") for image in html(page).find_all("img"))


@every_page
def test_internal_links_arrive(page):
    broken = []
    for link in html(page).find_all("a", href=True):
        address = urlsplit(urljoin(f"{page}.html", link["href"]))
        if address.scheme:
            continue
        target = SITE / unquote(address.path)
        if target.suffix != ".html":
            arrived = target.is_file()
        else:
            name = address.path.removesuffix(".html")
            arrived = target.is_file() and address.fragment in ids(name) | {""}
        if not arrived:
            broken.append(link["href"])
    assert not broken


@every_page
def test_what_a_page_loads_is_its_own(page):
    loads = html(page).select("script, img, source, iframe, video, audio, embed, object, link")
    for tag in loads:
        address = tag.get("src") or tag.get("href") or tag.get("data") or tag.get("srcset") or ""
        parts = urlsplit(urljoin(f"{page}.html", address))
        assert not parts.netloc, address
        assert (SITE / parts.path).is_file(), address
    scripts = " ".join(tag.get("src", "") + tag.text for tag in loads if tag.name == "script")
    assert not re.search(r"mathjax|thebe|https?://", scripts, re.IGNORECASE)


@every_chapter
def test_fonts_have_the_characters_that_are_set_in_them(page):
    folder = SITE / "_static/katex/fonts"
    for style, font in {
        ".mathnormal": "Math-Italic",
        ".mathbf, .textbf": "Main-Bold",
        ".mathbb, .amsrm": "AMS-Regular",
        ".mathcal": "Caligraphic-Regular",
        ".boldsymbol": "Math-BoldItalic",
        ".mathit, .textit": "Main-Italic",
        ".mathtt, .texttt": "Typewriter-Regular",
    }.items():
        drawn = "".join(tag.text for tag in html(page).select(f".katex-html :is({style})"))
        held = set(map(chr, TTFont(folder / f"KaTeX_{font}.woff2").getBestCmap() or ()))
        assert set(drawn) - {"\u200b"} <= held, font


def test_stylesheets_load_only_what_is_here():
    html("index")
    for sheet in SITE.rglob("*.css"):
        for address in re.findall(r"url\(['\"]?([^'\")]+)", sheet.read_text("utf-8")):
            if not address.startswith(("data:", "#")):
                file = (sheet.parent / address.split("?")[0].split("#")[0]).resolve()
                # The theme names a second format, which a browser of today does not ask for.
                assert file.is_file() or file.suffix == ".ttf", f"{sheet.name}: {address}"


@every_chapter
def test_launch_buttons_open_the_chapter(page):
    address, branch = CONFIG["repository"]["url"], CONFIG["repository"]["branch"]
    notebook = f"book/{page}.ipynb"
    assert (BOOK.parent / notebook).is_file()
    repository = address.removeprefix("https://github.com/")
    links = {link["href"] for link in html(page).select(".header-article-items a[href]")}
    assert {
        f"https://colab.research.google.com/github/{repository}/blob/{branch}/{notebook}",
        f"https://mybinder.org/v2/gh/{repository}/{branch}?urlpath=lab/tree/{notebook}",
        f"../notebooks/{page.removeprefix('chapters/')}.ipynb",
        address,
    } <= links


def test_the_address_stands_where_make_address_fills_it_in():
    address = CONFIG["repository"]["url"].removeprefix("https://").encode()
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=BOOK.parent, check=True, capture_output=True, text=True)
    tracked = [BOOK.parent / name for name in names.stdout.splitlines()]
    # The notebooks are made from it.
    holders = [
        file.relative_to(BOOK.parent).as_posix()
        for file in tracked
        if file.is_file() and file.suffix != ".ipynb" and address in file.read_bytes()
    ]
    assert holders == ["book/_config.yml", "pyproject.toml"]


def test_a_strict_build_refuses_damage(tmp_path):
    page = (
        "# Damage\n\nA formula $\\frac{1}$, a link [](nowhere.md), a term {term}`nothing`.\n\n"
        "Accents in a formula: $é$.\n\n![](drawing.svg)\n\n"
        "A work {cite:p}`unknown`, an equation {eq}`eq-none`, a theorem {prf:ref}`thm-none`.\n"
    )
    contents = {
        "_toc.yml": "format: jb-book\nroot: index\nchapters:\n- file: absent\n",
        "drawing.svg": '<svg xmlns="http://www.w3.org/2000/svg"/>',
        "index.md": page,
    }
    build = small_book(tmp_path, contents)
    assert build.returncode != 0
    said = build.stdout + build.stderr
    for complaint in (
        r"index\.md:3: WARNING: KaTeX: Unexpected end",
        r"index\.md:5: WARNING: KaTeX: .*unicodeTextInMathMode",
        r"index\.md:7: WARNING: image without alt text: drawing\.svg",
        r"nowhere\.md",
        r"term not in glossary: .nothing",
        r"could not find bibtex key .unknown",
        r"eq-none",
        r"thm-none",
        r"absent",
    ):
        assert re.search(complaint, said), f"{complaint}\n{said}"


def test_a_stylesheet_keeps_the_rules_that_can_apply():
    css = """@charset "utf-8"; .used, .gone { color: red } .used .gone, #gone { color: blue }
    :not(.gone) > a[href=".x"]:is(.gone, b) { color: green } @media print { .gone { x: y } }
    @media print { .used > #here { x: y } } @font-face { font-family: F }"""
    kept = stylesheet.trim(css, {"used", "here"})
    assert re.sub(r"\s+", " ", kept) == (
        '.used{ color: red } :not(.gone) > a[href=".x"]:is(.gone, b){ color: green } '
        "@media print {.used > #here{ x: y }} @font-face { font-family: F }"
    )


# The site in a browser


@pytest.fixture(scope="module", params=OPENED)
def desktop(request, browser, origin):
    html(request.param)
    with visit(browser, f"{origin}/{request.param}.html", color_scheme="light") as tab:
        tab.scroll_to_the_end()
        yield tab


@pytest.fixture(scope="module", params=OPENED)
def phone(request, browser, origin):
    html(request.param)
    address = f"{origin}/{request.param}.html"
    with visit(browser, address, PHONE, is_mobile=True, has_touch=True) as tab:
        tab.scroll_to_the_end()
        yield tab


def test_loads_in_silence_from_its_own_host(desktop):
    assert desktop.complaints == []


def test_first_visit_weighs_little(desktop):
    # The search page brings the records of all pages; a chapter may have three scripts of figures.
    most = 390_000 if desktop.page.url.endswith("/search.html") else 220_000
    assert 10_000 < desktop.weight < most


def test_nothing_moves(desktop):
    assert desktop.evaluate("shift") < 0.02


def test_what_is_out_of_sight_is_not_laid_out(browser, origin):
    with visit(browser, f"{origin}/{CHAPTERS[0]}.html") as tab:
        tab.page.wait_for_timeout(500)  # scripts that wait for an idle moment have had it
        session = tab.page.context.new_cdp_session(tab.page)
        session.send("Performance.enable")
        counts = {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}
    assert counts["LayoutObjects"] < 0.4 * counts["Nodes"]


def test_mathematics_is_set(desktop):
    written, drawn = (desktop.page.locator(query).count() for query in (".math", ".math .katex"))
    assert written == drawn
    assert desktop.page.locator(".katex-error").count() == 0
    styled = desktop.page.locator("link[href*='katex.css']").count()
    assert styled == bool(drawn)
    assert not drawn or desktop.evaluate("document.fonts.check('16px KaTeX_Main')")
    assert drawn or desktop.page.url.split("/", 3)[3].removesuffix(".html") not in CHAPTERS


def test_axe_finds_nothing(desktop):
    of_looks = ("color-contrast", "link-in-text-block")
    assert desktop.violations(rules={rule: {"enabled": False} for rule in of_looks}) == []
    assert desktop.contrast() == []


def test_axe_finds_nothing_in_the_dark(desktop):
    desktop.evaluate("document.documentElement.dataset.theme = 'dark'")
    assert desktop.contrast() == []


def test_fits_a_phone(phone):
    wide = phone.evaluate(
        """[...document.querySelectorAll("article *")].filter((e) =>
             e.getBoundingClientRect().right > innerWidth + 1
             && !e.closest("pre, svg, .formula, .text_html, .pst-scrollable-table-container")
             && !e.closest(".katex-mathml"))
           .map((e) => e.outerHTML.slice(0, 120))"""
    )
    assert wide == []
    assert phone.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_nothing_moves_on_a_phone(phone):
    assert phone.evaluate("shift") < 0.02
    assert phone.complaints == []


class Halting(Compressed):
    """A slow network, or a slow telephone: half of the first table comes a second later."""

    def do_GET(self):
        path = Path(self.translate_path(self.path))
        if path.suffix != ".html":
            super().do_GET()
            return
        body = path.read_bytes()
        start, end = (body.index(tag) for tag in (b"<table", b"</table>"))
        half = body.index(b"<tr", (start + end) // 2)
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(body[:half])
        self.wfile.flush()
        time.sleep(1)
        self.wfile.write(body[half:])


def test_a_table_is_drawn_when_all_of_it_is_there(browser):
    page = next(page for page in CHAPTERS if page.endswith("-calling"))
    with served(handler=Halting) as origin:
        address = f"{origin}/{page}.html"
        with visit(browser, address, PHONE, is_mobile=True, has_touch=True) as tab:
            assert tab.evaluate("shift") < 0.005
            assert tab.evaluate("performance.getEntriesByType('paint')[0].startTime") > 1000


def test_axe_finds_nothing_on_a_phone(phone):
    assert phone.violations(rules={"color-contrast": {"enabled": False}}) == []


@every_chapter
def test_reads_without_scripts(browser, origin, page):
    with visit(browser, f"{origin}/{page}.html", java_script_enabled=False) as tab:
        formula = tab.page.locator("article .katex-html").first
        assert formula.is_visible()
        assert formula.bounding_box()["width"] > 5
        solutions = tab.page.locator("details.solution")
        assert solutions.count() > 0
        assert not solutions.first.locator("p").first.is_visible()


@pytest.mark.parametrize("page", OPENED)
def test_reads_from_a_folder(browser, page):
    html(page)
    with visit(browser, (SITE / f"{page}.html").as_uri()) as tab:
        assert tab.complaints == []
        assert tab.page.locator("h1 >> visible=true").count() == 1


def test_the_reader_chooses_dark(browser, origin):
    def brightness(tab):
        paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", paper))) / 3

    with visit(browser, f"{origin}/index.html", color_scheme="light") as tab:
        assert brightness(tab) > 230
        while tab.evaluate("document.documentElement.dataset.mode") != "dark":
            tab.page.locator(".theme-switch-button").click()
        assert brightness(tab) < 50
        tab.page.goto(f"{origin}/{CHAPTERS[0]}.html")
        assert brightness(tab) < 50
