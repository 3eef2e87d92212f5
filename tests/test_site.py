"""What the built site owes its readers, as files and in a browser (``make book`` builds it)."""

import functools
import gzip
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup
from playwright.sync_api import sync_playwright

BOOK = Path(__file__).parents[1] / "book"
SITE = BOOK / "_build/html"
CONFIG = yaml.safe_load((BOOK / "_config.yml").read_text("utf-8"))
TOC = yaml.safe_load((BOOK / "_toc.yml").read_text("utf-8"))
PAGES = [TOC["root"], *(entry["file"] for part in TOC["parts"] for entry in part["chapters"])]
CHAPTERS = [page for page in PAGES if page.startswith("chapters/")]
HAS_MATHEMATICS = "katex/katex.css"

every_page = pytest.mark.parametrize("page", [*PAGES, "search"])
every_source = pytest.mark.parametrize("page", PAGES)
every_chapter = pytest.mark.parametrize("page", CHAPTERS)


@functools.cache
def html(page):
    file = SITE / f"{page}.html"
    if not file.exists():
        pytest.fail(f"{file.relative_to(BOOK.parent)} is missing: make book")
    return BeautifulSoup(file.read_text("utf-8"), "html.parser")


def source(page):
    return next(path for end in (".ipynb", ".md") if (path := BOOK / (page + end)).exists())


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
    assert built - templates == {*PAGES, "search"}


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
    ids = [tag["id"] for tag in html(page).find_all(id=True)]
    assert len(ids) == len(set(ids)), sorted({name for name in ids if ids.count(name) > 1})


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
            ids = {address.fragment} & {tag["id"] for tag in html(name).find_all(id=True)}
            arrived = target.is_file() and (ids or not address.fragment)
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


def test_stylesheets_load_only_what_is_here():
    html("index")
    for sheet in SITE.rglob("*.css"):
        for address in re.findall(r"url\(['\"]?([^'\")]+)", sheet.read_text("utf-8")):
            if not address.startswith(("data:", "#")):
                file = (sheet.parent / address.split("?")[0].split("#")[0]).resolve()
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
        f"../_sources/{page}.ipynb",
        address,
    } <= links


def test_the_address_is_set_in_one_place():
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
    assert holders == ["book/_config.yml"]


def test_a_strict_build_refuses_damage(tmp_path):
    for name in ("_ext", "_assets", "_templates"):
        shutil.copytree(BOOK / name, tmp_path / name)
    for name in ("_config.yml", "references.bib"):
        shutil.copy(BOOK / name, tmp_path)
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: index\nchapters:\n- file: absent\n")
    (tmp_path / "drawing.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    (tmp_path / "index.md").write_text(
        "# Damage\n\nA formula $\\frac{1}$, a link [](nowhere.md), a term {term}`nothing`.\n\n"
        "Accents in a formula: $é$.\n\n![](drawing.svg)\n\n"
        "A work {cite:p}`unknown`, an equation {eq}`eq-none`, a theorem {prf:ref}`thm-none`.\n"
    )
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build"]
    build = subprocess.run(
        [*command, str(tmp_path), "-W", "-n", "--keep-going"], capture_output=True, text=True
    )
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


# The site in a browser

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # No other host is reached, whatever a page asks for.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
SHIFT = """
window.shift = 0;
new PerformanceObserver((list) => list.getEntries().forEach((entry) => { shift += entry.value; }))
  .observe({ type: "layout-shift", buffered: true });
"""
AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")


def chromium():
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope="module")
def browser():
    path = chromium()
    if path is None:
        refuse = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        refuse("no Chromium: apt install chromium, or set CHROMIUM to its path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


class Compressed(http.server.SimpleHTTPRequestHandler):
    """Serves the site as a host would, compressed: what the browser receives is what is weighed."""

    def do_GET(self):
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        body = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(path))
        if path.suffix != ".woff2":
            body = gzip.compress(body)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def origin():
    html("index")
    handler = functools.partial(Compressed, directory=str(SITE))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@dataclass
class Tab:
    page: object
    complaints: list
    received: list

    def assert_accessible(self, rules=None):
        self.page.evaluate(
            "for (const box of document.querySelectorAll('details')) box.open = true"
        )
        self.page.evaluate(AXE)
        options = {"resultTypes": ["violations"]} | ({"runOnly": rules} if rules else {})
        found = self.page.evaluate("(options) => axe.run(document, options)", options)["violations"]
        said = [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found]
        assert said == []

    def scroll_to_the_end(self):
        self.page.evaluate(
            """async () => {
                for (let y = 0; y < document.body.scrollHeight; y += innerHeight / 2) {
                    scrollTo(0, y);
                    await new Promise(requestAnimationFrame);
                }
                await Promise.all([...document.images].map((image) => image.decode()));
            }"""
        )


@pytest.fixture
def visit(browser):
    """Opens an address as a first visit; another host, a failure or a console error is noted."""
    contexts = []

    def visit(address, viewport=DESKTOP, **options):
        context = browser.new_context(viewport=viewport, **options)
        contexts.append(context)
        tab = Tab(context.new_page(), [], [])
        own = urlsplit(address).netloc

        def look(request):
            if urlsplit(request.url).netloc != own:
                tab.complaints.append(f"another host: {request.url}")

        def hear(message):
            if message.type in {"error", "warning"}:
                tab.complaints.append(message.text)

        tab.page.on("request", look)
        tab.page.on("console", hear)
        tab.page.on("pageerror", lambda error: tab.complaints.append(str(error)))
        tab.page.on("requestfailed", lambda request: tab.complaints.append(f"lost: {request.url}"))
        tab.page.on("response", lambda response: tab.received.append(response))
        tab.page.add_init_script(SHIFT)
        tab.page.goto(address, wait_until="load")
        tab.page.evaluate("document.fonts.ready")
        return tab

    yield visit
    for context in contexts:
        context.close()


@every_page
def test_a_first_visit(visit, origin, page):
    tab = visit(f"{origin}/{page}.html")
    weight = 0
    for response in tab.received:
        assert response.ok, response.url
        sizes = response.request.sizes()
        weight += sizes["responseBodySize"] + sizes["responseHeadersSize"]
    tab.scroll_to_the_end()
    assert tab.complaints == []
    assert weight < 300_000
    assert tab.page.evaluate("shift") < 0.02
    formulas = tab.page.locator(".katex").count()
    assert formulas == len(html(page).select(".math"))
    assert bool(formulas) == (HAS_MATHEMATICS in str(html(page).head))
    if formulas:
        assert tab.page.evaluate("document.fonts.check('16px KaTeX_Main')")
        assert tab.page.locator(".katex-error").count() == 0


@every_page
def test_on_a_phone(visit, origin, page):
    tab = visit(f"{origin}/{page}.html", viewport=PHONE, has_touch=True, is_mobile=True)
    tab.scroll_to_the_end()
    wide = tab.page.evaluate(
        """[...document.querySelectorAll("article *")].filter((e) =>
             e.getBoundingClientRect().right > innerWidth + 1
             && !e.closest("pre, .formula, .pst-scrollable-table-container, .katex-mathml"))
           .map((e) => e.outerHTML.slice(0, 120))"""
    )
    assert wide == []
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert tab.page.evaluate("shift") < 0.02
    assert tab.complaints == []
    tab.assert_accessible()


@every_page
def test_axe_finds_nothing(visit, origin, page):
    tab = visit(f"{origin}/{page}.html", color_scheme="light", reduced_motion="reduce")
    tab.assert_accessible()
    tab.page.evaluate("document.documentElement.dataset.theme = 'dark'")
    tab.assert_accessible(rules=["color-contrast", "link-in-text-block"])


@every_chapter
def test_mathematics_is_there_without_scripts(visit, origin, page):
    tab = visit(f"{origin}/{page}.html", java_script_enabled=False)
    first = tab.page.locator("article .katex-html").first
    assert first.is_visible()
    assert first.bounding_box()["width"] > 5
    solutions = tab.page.locator("details.solution")
    assert solutions.count() > 0
    assert not solutions.first.locator("p").first.is_visible()


@pytest.mark.parametrize("place", ["served", "on disk"])
def test_search_finds_entropy(visit, origin, place):
    html("index")
    start = origin if place == "served" else SITE.as_uri()
    tab = visit(f"{start}/index.html")
    tab.page.locator(".search-button__button >> visible=true").click()
    tab.page.keyboard.type("entropy")
    tab.page.keyboard.press("Enter")
    tab.page.get_by_text("Search finished").wait_for()
    results = tab.page.locator("#search-results li a").all()
    found = {urlsplit(link.get_attribute("href")).path for link in results}
    assert {f"{page}.html" for page in CHAPTERS} <= found
    assert tab.complaints == []


@every_page
def test_reads_from_a_folder(visit, page):
    html(page)
    tab = visit((SITE / f"{page}.html").as_uri())
    tab.scroll_to_the_end()
    assert tab.complaints == []
    if HAS_MATHEMATICS in str(html(page).head):
        assert tab.page.evaluate("document.fonts.check('16px KaTeX_Main')")


def test_the_reader_chooses_dark(visit, origin):
    tab = visit(f"{origin}/index.html", color_scheme="light")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = tab.page.evaluate(paper)
    button = tab.page.locator(".theme-switch-button")
    while tab.page.evaluate("document.documentElement.dataset.mode") != "dark":
        button.click()
    assert sum(map(int, re.findall(r"\d+", light))) > 3 * 230
    assert sum(map(int, re.findall(r"\d+", tab.page.evaluate(paper)))) < 3 * 50
    tab.page.goto(f"{origin}/{CHAPTERS[0]}.html")
    assert tab.page.evaluate("document.documentElement.dataset.theme") == "dark"
