"""The book as a PDF, ``_build/cross-entropy.pdf``, from the built site: ``make archive``.

The pages of the site are joined to one, in the order of the contents, with links that lead within
it; Chromium prints it, tagged and with an outline. Numbers are those of the site.
"""

import os
import re
import shutil
import sys
import time
from pathlib import Path
from posixpath import dirname, join, normpath

import yaml
from playwright.sync_api import sync_playwright

BOOK = Path(__file__).parent
SITE = BOOK / "_build/html"
TARGET = BOOK / "_build/cross-entropy.pdf"
PAGE = """<!DOCTYPE html>
<html lang="en" data-theme="light" data-code="shown">
<head>
<meta charset="utf-8">
<title>Cross-entropy</title>
<link rel="stylesheet" href="_static/styles/site.css">
<link rel="stylesheet" href="_static/katex/katex.css">
<style>
html[data-theme="light"][data-code] {{ --paper: #fff; }}
@page {{ size: A4; margin: 18mm 20mm 20mm; }}
body {{ display: block; }}
article {{ break-before: page; }}
article:first-of-type {{ break-before: auto; }}
h1, h2, h3, h4 {{ break-after: avoid; }}
/* The theme prints a title of its own in its place. */
.bd-article h1 {{ display: block !important; }}
</style>
</head>
<body>
<main class="bd-main"><div class="bd-content"><div class="bd-article-container">
{articles}
</div></div></main>
</body>
</html>
"""
FOOTER = (
    '<div style="width: 100%; font: 8pt sans-serif; text-align: center;">'
    '<span class="pageNumber"></span></div>'
)


def pages():
    toc = yaml.safe_load((BOOK / "_toc.yml").read_text("utf-8"))
    entries = [entry for part in toc["parts"] for entry in part["chapters"]]
    return [
        toc["root"],
        *(one["file"] for entry in entries for one in (entry, *entry.get("sections", ()))),
    ]


def anchor(page, name=""):
    return f"{page}--{name}".replace("/", "-") if name else f"page-{page}".replace("/", "-")


def joined(names):
    """The articles of the pages as one, in which each id begins with its page."""
    return "\n".join(article(name, set(names)) for name in names)


def article(page, known):
    html = (SITE / f"{page}.html").read_text("utf-8")
    text = html[html.index("<article") : html.index("</article>")] + "</article>"

    def moved(found):
        address, _, name = found[2].partition("#")
        if re.match(r"[a-z]+:", found[2]):
            return found[0]
        target = normpath(join(dirname(page), address)) if address else f"{page}.html"
        if target.removesuffix(".html") in known and target.endswith(".html"):
            return f'{found[1]}="#{anchor(target.removesuffix(".html"), name)}"'
        return f'{found[1]}="{target}{"#" + name if name else ""}"'

    text = re.sub(r'\b(href|src)="([^"]*)"', moved, text)
    text = re.sub(r'(<[^>]*?\s)id="([^"]+)"', lambda at: f'{at[1]}id="{anchor(page, at[2])}"', text)
    text = text.replace("<details", "<details open").replace(' loading="lazy"', "")
    return text.replace("<article", f'<article id="{anchor(page)}"', 1)


def chromium():
    """The path of a browser, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


def write(names, target, browser):
    """Print those pages of the site as one PDF."""
    whole = SITE / "whole.html"
    whole.write_text(PAGE.format(articles=joined(names)), "utf-8")
    page = browser.new_page()
    page.set_default_timeout(600_000)
    try:
        page.goto(whole.as_uri())
        page.evaluate("document.fonts.ready")
        page.pdf(
            path=target,
            prefer_css_page_size=True,
            print_background=True,
            tagged=True,
            outline=True,
            display_header_footer=True,
            header_template="<span></span>",
            footer_template=FOOTER,
        )
    finally:
        page.close()
        whole.unlink()


def main():
    if not (SITE / "index.html").exists():
        sys.exit("there is no site yet: make book")
    path = chromium()
    if path is None:
        sys.exit("no Chromium: apt install chromium, or set CHROMIUM to its path")
    print("Chromium lays the book out and prints it: a minute or two", flush=True)
    start = time.perf_counter()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        write(pages(), TARGET, browser)
        browser.close()
    print(f"{TARGET.relative_to(BOOK.parent)}: {time.perf_counter() - start:.0f} s")
    archive = shutil.copy(SITE / "cross-entropy-book.zip", TARGET.parent)
    print(Path(archive).relative_to(BOOK.parent))


if __name__ == "__main__":
    main()
