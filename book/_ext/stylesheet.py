"""One stylesheet in place of nine, with the rules that some page of the site can use."""

import re
from itertools import pairwise
from os.path import relpath
from pathlib import Path

import tinycss2
from shell import built_pages

TARGET = "_static/styles/site.css"
# That of the formulas is its own file, which pages without formulas do not load.
SHEETS = re.compile(r'[ \t]*<link (?=[^>]*rel="stylesheet")(?![^>]*katex\.css)[^>]*>\n?')
ADDRESS = re.compile(r'href="(?P<way>(?:\.\./)*)(?P<file>_static/[^"?]*)')
FILE = re.compile(r"""url\(["']?(?!data:|#)([^)"']+)["']?\)""")
CLASSES = re.compile(r'(?:class|id)="([^"]*)"')
WORDS = re.compile(r"-?[A-Za-z_][\w-]*")


def unite(app, exception):
    if exception or app.builder.format != "html":
        return
    site = Path(app.outdir)
    found = (page for page in site.rglob("*.html") if "_static" not in page.parts)
    pages = {page: html for page in found if SHEETS.search(html := page.read_text("utf-8"))}
    # A page that was not written anew has its one stylesheet already.
    pages = {page: html for page, html in pages.items() if TARGET not in html}
    names = {}
    for html in pages.values():
        for link in SHEETS.findall(html):
            names[ADDRESS.search(link)["file"]] = None
    if not names:
        return
    html = built_pages(app)
    words = {word for names in CLASSES.findall(html) for word in names.split()}
    for script in (*site.rglob("*.js"), *re.findall(r"<script>.*?</script>", html, re.DOTALL)):
        words |= set(
            WORDS.findall(script if isinstance(script, str) else script.read_text("utf-8"))
        )
    target = site / TARGET
    united = "\n".join(trim(read(site / name, target.parent), words) for name in names)
    target.write_text(united, "utf-8")
    for page, html in pages.items():
        way = ADDRESS.search(SHEETS.search(html)[0])["way"]
        link = f'<link rel="stylesheet" href="{way}{TARGET}">\n'
        first, *_ = SHEETS.findall(html)
        before, after = html.split(first, 1)
        page.write_text(before + link + SHEETS.sub("", after), "utf-8")
    for name in names:
        (site / name).unlink()
    (site / "_static/basic.css").unlink(missing_ok=True)


def read(file, folder):
    """A stylesheet, with what it imports in the place of the import, as seen from the folder."""

    def seen(found):
        return f"url({relpath(file.parent / found[1], folder)})"

    css = FILE.sub(seen, file.read_text("utf-8"))
    return re.sub(r'@import "([^"]+)";?', lambda found: read(file.parent / found[1], folder), css)


def trim(css, words):
    """The rules whose selectors name no class or id that no page and no script knows."""
    kept = []
    for rule in tinycss2.parse_stylesheet(css, skip_comments=True, skip_whitespace=True):
        content = rule.content and tinycss2.serialize(rule.content)
        if rule.type == "qualified-rule":
            selectors = [s for s in split(rule.prelude) if classes(s) <= words]
            if selectors and content.strip():
                kept.append(f"{','.join(map(tinycss2.serialize, selectors)).strip()}{{{content}}}")
        elif rule.at_keyword in {"media", "supports"}:
            if inside := trim(content, words):
                kept.append(f"@{rule.at_keyword}{tinycss2.serialize(rule.prelude)}{{{inside}}}")
        elif rule.at_keyword != "charset":
            kept.append(rule.serialize())
    return "\n".join(kept)


def split(prelude):
    """The selectors of a rule, as lists of tokens."""
    selectors = [[]]
    for token in prelude:
        if token == ",":
            selectors.append([])
        else:
            selectors[-1].append(token)
    return selectors


def classes(selector):
    """The classes and ids that all must be there for the selector to find something."""
    named = {b.value for a, b in pairwise(selector) if a == "." and b.type == "ident"}
    return named | {token.value for token in selector if token.type == "hash"}


def setup(app):
    app.connect("build-finished", unite, priority=700)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
