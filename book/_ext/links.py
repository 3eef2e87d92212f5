"""Where links lead, shown beside them: previews, permalinks of statements, and ways back.

Most of it works on the finished pages, where everything has its number and its final markup. A
preview of something on the same page is cloned by ``_assets/book.js``; what is on another page
travels in a ``<template>``, since a page from a folder may not read another one.
"""

import re
from collections import defaultdict
from functools import cache
from html import escape
from pathlib import Path
from posixpath import dirname, join, normpath, relpath

STATEMENT = re.compile(
    r'(<div class="(?:proof (\w+)|(exercise)) admonition" id="([^"]+)">\s*'
    r'<p class="admonition-title">.*?)(</p>)',
    re.DOTALL,
)
LINK = re.compile(r'<a class="reference internal" href="([^"#]*)#([^"]+)"')
OPENING = re.compile(r"<(dt|div|figure|table)\b[^>]*\sid=\"([^\"]+)\"")
PLACE = re.compile(
    r'<section id="(?P<id>[^"]+)">\s*(?:<span id="[^"]+"></span>\s*)*'
    r'<h[1-3]>(?:<span class="section-number">(?P<number>[\d.]+?)\.? </span>)?(?P<title>.*?)<a '
    r'class="headerlink"|href="(?P<page>[^"#]+)#(?P<anchor>[^"]+)"',
    re.DOTALL,
)
PREVIEWS = re.compile(r'<div id="previews" hidden>.*?</div><!-- previews -->', re.DOTALL)
WAYS_BACK = re.compile(r'\n?<p class="used">.*?</p>', re.DOTALL)
# An entry of the glossary ends with its <dd>, a work with the text after its label.
ENTRY = re.compile(r'(<dt id="([^"]+)">.*?)(</dd>)', re.DOTALL)
WORK = re.compile(r'(<div class="citation" id="([^"]+)">.*?</p>)(\s*</div>)', re.DOTALL)


def add_permalinks(app, pagename, templatename, context, doctree):
    def add(found):
        head, statement, exercise, name, end = found.groups()
        link = f'<a class="headerlink" href="#{name}" title="Link to this {statement or exercise}">'
        return f"{head}{link}#</a>{end}"

    if doctree:
        context["body"] = STATEMENT.sub(add, context["body"])


def element(html, start, tag):
    """The element that begins there, with what it holds."""
    depth = 0
    for found in re.compile(rf"<(/?){tag}\b").finditer(html, start):
        depth += -1 if found[1] else 1
        if depth == 0:
            return html[start : html.index(">", found.end()) + 1]
    raise ValueError(f"<{tag}> does not end: {html[start : start + 80]}")


def shown(html, name):
    """What a preview shows of the element with that id; None of a section or a page."""
    for found in OPENING.finditer(html):
        if found[2] == name:
            text = element(html, found.start(), found[1])
            if found[1] == "dt":
                text = f"<dl>{text}{element(html, html.index('<dd', found.end()), 'dd')}</dl>"
            return plain(text)
    return None


def plain(html):
    """Without what belongs to its page: permalinks, ways back, links and ids."""
    html = re.sub(r'<a class="headerlink".*?</a>', "", WAYS_BACK.sub("", html))
    return re.sub(r"</?a\b[^>]*>|\sid=\"[^\"]*\"", "", html)


def finish(app, exception):
    if exception or app.builder.format != "html":
        return
    site = Path(app.outdir)
    pages = {f"{name}.html": site / f"{name}.html" for name in app.env.found_docs}
    read = cache(lambda page: WAYS_BACK.sub("", PREVIEWS.sub("", pages[page].read_text("utf-8"))))
    used = defaultdict(dict)
    for page in sorted(pages):
        collect(page, read(page), used)
    preview = cache(lambda page, name: shown(read(page), name))
    for page, file in pages.items():
        html = ways_back(page, read(page), used)
        found = {}
        for target, name in sorted(set(LINK.findall(html))):
            address = normpath(join(dirname(page), target)) if target else page
            if address != page and address in pages and (text := preview(address, name)):
                found[f"{target}#{name}"] = text
        if found:
            held = "".join(
                f'<template data-for="{escape(link)}">{text}</template>'
                for link, text in found.items()
            )
            end = html.rindex("</body>")
            hidden = f'<div id="previews" hidden>{held}</div><!-- previews -->'
            html = html[:end] + hidden + html[end:]
        if html != file.read_text("utf-8"):
            file.write_text(html, "utf-8")


def collect(page, html, used):
    """Note for each entry that a chapter links to the sections that do."""
    if not page.startswith("chapters/"):
        return
    place = None
    for found in PLACE.finditer(html[html.index("<article") : html.index("</article>")]):
        if found["id"]:
            title = found["title"]  # in which a formula is read out, and not drawn
            while (drawn := title.find('<span class="katex-html"')) >= 0:
                title = title.replace(element(title, drawn, "span"), "", 1)
            title = re.sub(r"<[^>]+>", "", title)
            place = f"{page}#{found['id']}", found["number"] or title, title
        elif place:
            target = normpath(join(dirname(page), found["page"])), found["anchor"]
            used[target][place] = None


def ways_back(page, html, used):
    def add(found):
        places = used.get((page, found[2]))
        if not places:
            return found[0]
        links = ", ".join(
            f'<a class="reference internal" href="{relpath(address, dirname(page) or ".")}"'
            f' title="{escape(title)}">{escape(number)}</a>'
            for address, number, title in places
        )
        return f'{found[1]}\n<p class="used">Used in {links}.</p>{found[3]}'

    return WORK.sub(add, ENTRY.sub(add, html))


def setup(app):
    app.connect("html-page-context", add_permalinks)
    app.connect("build-finished", finish, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
