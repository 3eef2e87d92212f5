"""The notebook for whoever runs a chapter: on Colab, on Binder, in JupyterLab, downloaded.

A chapter's own notebook is written for Sphinx, and elsewhere its directives and roles would stand
as raw markup. The plain one has the same code cells, and text that any notebook shows: statements
as quoted blocks with their numbers, equations with tags, citations and references as links,
captions below figures, solutions below headings that are folded, checks as the call to make. The
numbers are read from the finished pages.
"""

import os
import re
from html import unescape
from pathlib import Path

import nbformat
from checks import WORDS, call
from pybtex.database import parse_file
from pybtex.richtext import Text
from sphinx.errors import ExtensionError

FOLDER = "notebooks"
BLOCK = re.compile(r"^:::\{([\w:-]+)\}[ ]*(.*)\n((?:.*\n)*?):::$", re.MULTILINE)
SOLUTION = re.compile(r"^```\{solution-(start|end)\}[ ]*(\S*)\n((?::.*\n)*)```$", re.MULTILINE)
EXPLORABLE = re.compile(r"^```\{explorable\}.*\n(?:.*\n)*?```$", re.MULTILINE)
FIGURE_OF = re.compile(r"^:figure:[ ]*(\S+)$", re.MULTILINE)
CHECK = re.compile(r"^```\{check\}[ ]*(\S+)\n```$", re.MULTILINE)
OPTION = re.compile(r"^:([\w-]+):[ ]*(.*)\n", re.MULTILINE)
DISPLAY = re.compile(r"\$\$((?:[^$]|\\\$)+)\$\$(?:[ ]*\((eq-[\w-]+)\))?")
ROLE = re.compile(r"\{([\w:]+)\}`([^`]+)`")
PAGE = re.compile(r"\[([^\]]*)\]\((?!https?:)((?:\.\./)*[\w/-]+)\.(?:ipynb|md)(#[\w-]+)?\)")
CODES = re.compile(r"\s*\(S\d-\d+(?:, S\d-\d+)*\)")
HEADING = re.compile(r"^(#{1,3}) (.*)$", re.MULTILINE)
# On a finished page: an id with the number or the title that it has there.
STATEMENT = re.compile(
    r' id="([^"]+)">\s*<p class="admonition-title"><span class="caption-number">([^<]+)</span>'
)
EQUATION = re.compile(
    r'<span class="eqno">\(([\d.]+)\)<a class="headerlink" href="#equation-(.*?)"'
)
FIGURE = re.compile(
    r'<figure[^>]* id="([^"]+)">.*?<span class="caption-number">([^<]+)</span>', re.S
)
LABEL = re.compile(r"^\([\w-]+\)=\n", re.M)
SECTION = re.compile(r'<h[1-3]>(?:<span class="section-number">([\d.]+?)\.? </span>)?')


class Page:
    """A finished page: what stands on it under which number."""

    def __init__(self, file, address):
        html = file.read_text("utf-8")
        article = html[html.index("<article") : html.index("</article>")]
        self.address = address
        self.titles = {name: unescape(title).strip() for name, title in STATEMENT.findall(article)}
        self.titles |= {name: unescape(title).strip() for name, title in FIGURE.findall(article)}
        self.equations = {label: number for number, label in EQUATION.findall(article)}
        self.sections = SECTION.findall(article)


class Book:
    """Where things are, and what they are called."""

    def __init__(self, app):
        self.root = site_address(app.config.html_theme_options["repository_url"])
        self.terms = terms(app, self.root)
        self.headings = app.env.get_domain("std").labels
        self.works = parse_file(Path(app.srcdir, "references.bib")).entries
        self.pages = {
            name: Page(Path(app.outdir, f"{name}.html"), f"{self.root}{name}.html")
            for name in sorted(app.env.found_docs)
        }
        self.numbered = set().union(*(page.titles for page in self.pages.values()))

    def find(self, table, name):
        for page in self.pages.values():
            if name in getattr(page, table):
                return page, getattr(page, table)[name]
        raise ExtensionError(f"{name} has no number on any page", modname="plain")


def site_address(repository):
    """Where GitHub Pages publishes a repository."""
    owner, name = repository.removeprefix("https://github.com/").split("/")[:2]
    return f"https://{owner.lower()}.github.io/{name}/"


def terms(app, root):
    found = app.env.get_domain("std").objects
    return {
        name.lower(): f"{root}{page}.html#{anchor}"
        for (kind, name), (page, anchor) in found.items()
        if kind == "term"
    }


def author(entry):
    people = [" ".join([*one.prelast_names, *one.last_names]) for one in entry.persons["author"]]
    if len(people) > 2:
        return f"{people[0]} et al."
    return " and ".join(people)


def cite(book, key, style):
    entry = book.works[key]
    name, year = str(Text.from_latex(author(entry))), entry.fields["year"]
    if "doi" in entry.fields:
        address = f"https://doi.org/{entry.fields['doi']}"
    elif "eprint" in entry.fields:
        address = f"https://arxiv.org/abs/{entry.fields['eprint']}"
    else:
        address = f"{book.root}bibliography.html#{key}"
    return f"[{name} ({year})]({address})" if style == "t" else f"[{name}, {year}]({address})"


def role(book, kind, text):
    words, _, target = text.partition(" <")
    target = target.removesuffix(">") or words
    if kind == "eq":
        page, number = book.find("equations", target)
        return f"[({number})]({page.address}#equation-{target})"
    if kind == "ref" and target not in book.numbered:
        name, anchor, title = book.headings[target]
        return f"[{title}]({book.pages[name].address}#{anchor})"
    if kind in {"prf:ref", "ref", "numref"}:
        page, title = book.find("titles", target)
        return f"[{words if words != target else title}]({page.address}#{target})"
    if kind == "term":
        return f"[{words}]({book.terms[target.lower()]})"
    works = [cite(book, key.strip(), kind[-1]) for key in text.split(",")]
    return ", ".join(works) if kind == "cite:t" else f"({'; '.join(works)})"


def inline(book, text):
    """Text without roles, with equations tagged, each on one line: a quoted block may hold it."""

    def equation(found):
        formula = " ".join(found[1].split())
        tag = rf" \tag{{{book.find('equations', found[2])[1]}}}" if found[2] else ""
        return f"$${formula}{tag}$$"

    def page(found):
        name = found[2].replace("../", "")
        name = name if name in book.pages else f"chapters/{name}"
        return f"[{found[1]}]({book.pages[name].address}{found[3] or ''})"

    text = DISPLAY.sub(equation, LABEL.sub("", text))
    text = PAGE.sub(page, text)
    return ROLE.sub(lambda found: role(book, found[1], found[2]), text)


def quoted(text):
    return "\n".join(f"> {line}".rstrip() for line in text.strip().splitlines())


def block(book, found):
    kind, title, body = found[1], found[2].strip(), found[3]
    options = {}
    while option := OPTION.match(body):
        options[option[1]] = option[2]
        body = body[option.end() :]
    body, title = inline(book, body).strip(), inline(book, title)
    if kind == "prf:proof":
        return f"*Proof.* {body} $\\square$"
    if kind == "hint":
        return f"<details>\n<summary>Hint</summary>\n\n{body}\n\n</details>"
    if kind == "admonition":
        return quoted(f"**{CODES.sub('', title)}**\n\n{body}")
    numbered = book.find("titles", options["label"])[1]
    named = f"{numbered} ({title})" if title else numbered
    if kind == "exercise":
        return f"#### {named}\n\n{body}"
    if kind in {"prf:definition", "prf:lemma", "prf:theorem", "prf:proposition"}:
        return quoted(f"**{named}.**\n\n{body}")
    raise ExtensionError(
        f"{kind}: a directive that a plain notebook has no form for", modname="plain"
    )


def movable(book, found):
    """The figure is in the notebook as it begins; under the hand it is on the page."""
    name = FIGURE_OF.search(found[0])[1]
    page, _ = book.find("titles", name)
    link = f"[this figure]({page.address}#{name})"
    return f"*On the page of this chapter {link} moves under your hand.*"


def checked(found):
    """Not a cell of its own: the code of a chapter is what was executed and compared."""
    lines = "from celib.exercises import check", call(found[1])
    return "\n".join([WORDS["elsewhere"], "", "```python", *lines, "```"])


def text_cells(book, cell, headings):
    """A cell of text as one or more: the heading of a solution is a cell, which is folded."""
    source = cell.source

    def number(found):
        section = next(headings)
        level = found[1]
        return f"{level} {section}. {found[2]}" if section else found[0]

    source = HEADING.sub(number, source)
    parts = SOLUTION.split(source + "\n" if not source.endswith("\n") else source)
    texts = [parts[0]]
    for kind, label, _, rest in zip(*[iter(parts[1:])] * 4, strict=True):
        if kind == "start":
            exercise = book.find("titles", label)[1]
            texts.append(f"##### Solution to {exercise}")
        texts.append(rest)
    done = 0
    for text in texts:
        text = EXPLORABLE.sub(lambda found: movable(book, found), text)
        text = BLOCK.sub(lambda found: block(book, found), text)
        text = CHECK.sub(checked, inline(book, text)).strip()
        if not text:
            continue
        new = nbformat.v4.new_markdown_cell(text)
        new["id"] = cell["id"] if not done else f"{cell['id']}-s{done}"
        new.metadata["id"] = new["id"]
        if text.startswith("##### Solution"):
            new.metadata["jp-MarkdownHeadingCollapsed"] = True
        done += 1
        yield new


def convert(book, name, notebook, reference):
    page = book.pages[name]
    headings = iter(page.sections)
    cells, folded = [], []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            made = list(text_cells(book, cell, headings))
            folded += [new["id"] for new in made if "jp-MarkdownHeadingCollapsed" in new.metadata]
            cells += made
            continue
        new = nbformat.from_dict(cell)
        figure = cell.metadata.get("mystnb", {}).get("figure")
        new.metadata = nbformat.from_dict({"id": cell["id"]})
        new.source = new.source.replace("/archive/published.zip", f"/archive/{reference}.zip")
        cells.append(new)
        if figure:
            title = page.titles[figure["name"]]
            caption = nbformat.v4.new_markdown_cell(
                f"*{title}.* {inline(book, figure['caption'])}", id=f"{cell['id']}-c"
            )
            caption.metadata["id"] = caption["id"]
            cells.append(caption)
    first = cells[0]
    link = f"*From [Cross-entropy]({book.root}), where [this chapter is a page]({page.address}).*"
    title, _, rest = first.source.partition("\n")
    first.source = f"{title}\n\n{link}\n{rest}"
    plain = nbformat.v4.new_notebook(cells=cells)
    plain.metadata = nbformat.from_dict(
        {
            "kernelspec": notebook.metadata["kernelspec"],
            "language_info": notebook.metadata["language_info"],
            "colab": {"collapsed_sections": folded, "provenance": []},
        }
    )
    nbformat.validate(plain)
    return plain


def write(app, exception):
    if exception or app.builder.format != "html":
        return
    sources = sorted(Path(app.srcdir, "chapters").glob("*.ipynb"))
    names = [f"chapters/{source.stem}" for source in sources]
    if not set(names) <= set(app.env.found_docs):
        return  # a build of something else, with the same extensions
    book = Book(app)
    folder = Path(app.outdir, FOLDER)
    folder.mkdir(exist_ok=True)
    # What is installed is what the notebook was tested with, if whoever publishes says what it is.
    reference = os.environ.get("COMMIT", "published")
    for name, source in zip(names, sources, strict=True):
        notebook = nbformat.read(source, as_version=4)
        nbformat.write(convert(book, name, notebook, reference), folder / source.name)


def offer(app, pagename, templatename, context, doctree):
    """The download button gives the plain notebook."""
    if pagename.startswith("chapters/"):
        url = context["pathto"](f"{FOLDER}/{pagename.removeprefix('chapters/')}.ipynb", 1)
        for group in context["header_buttons"]:
            for button in group.get("buttons", ()):
                if button.get("label") == "download-source-button":
                    button["url"] = url


def setup(app):
    app.connect("html-page-context", offer, priority=900)
    app.connect("build-finished", write, priority=450)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
