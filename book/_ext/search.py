"""The search of the book: a record for each heading, statement, exercise, term, work and function.

A record leads to its place on the page, so a reader does not land at the top of a long chapter.
All records are one classic script, ``_static/search-records.js``, because a page that is opened
from a folder may load a script and may not fetch a file. ``search.js`` ranks them, on its page.
"""

import json
import re
from pathlib import Path

from docutils import nodes
from docutils.utils.math import tex2unichar
from dropdowns import details
from sphinx import addnodes

SKIPPED = (nodes.Invisible, nodes.image, nodes.raw, nodes.label, addnodes.index)
# What belongs to the statement or exercise before it: the page shows them as one.
FOLLOWERS = {"hint", "solution", "proof"}
# A name in code that is no word of English: BCEWithLogitsLoss, ignore_index, log1p.
NAME = re.compile(r"\b[A-Za-z]+(?:_|[a-z](?=[A-Z])|\d(?=[a-z])|[A-Z](?=[A-Z][a-z]))\w+")

TABLES = ("alpha", "bin", "close", "fence", "op", "open", "ord", "punct", "rel")
SYMBOLS = {
    name: symbol
    for table in TABLES
    for name, symbol in getattr(tex2unichar, f"math{table}").items()
}
SYMBOLS |= {"rVert": "‖", "lVert": "‖", "rvert": "|", "lvert": "|", "mid": "|", "dots": "…"}
SYMBOLS |= {"!": ""} | dict.fromkeys((",", ";", " ", "quad", "qquad"), " ")
GROUP = r"\s*(\{(?:[^{}]|\{[^{}]*\})*\}|\\[A-Za-z]+|\w)"
FRACTION = re.compile(rf"\\[dt]?frac{GROUP}{GROUP}")
POWER = re.compile(r"\^(\{(?:[^{}]|\{[^{}]*\})*\})")
ACCENT = re.compile(rf"\\({'|'.join(tex2unichar.mathaccent)})(?![A-Za-z]){GROUP}")
STYLED = "operatorname|math[a-z]+|text[a-z]*|left|right|[Bb]igg?[lr]?"
STYLE = re.compile(rf"\\(?:{STYLED})(?![A-Za-z])\*?")
MACRO = re.compile(r"\\([A-Za-z]+|.)")


def bracketed(group):
    """A group of TeX, in brackets if it needs them on one line."""
    compound = re.search(r"[-+=]|\\sum|\w\s", group.replace(r"\partial ", ""))
    return f"({group[1:-1]})" if compound else group


def reading(latex):
    """A formula of one line as one would type it: p_i/q_i, −log p, p̂−y."""
    text = STYLE.sub("", latex)
    for _ in range(2):
        text = FRACTION.sub(lambda f: f"{{}}{bracketed(f[1])}/{bracketed(f[2])}", text)
    text = POWER.sub(lambda found: f"^{bracketed(found[1])}", text)
    text = ACCENT.sub(lambda f: f"{{}}{f[2].strip('{}')}{tex2unichar.mathaccent[f[1]]}", text)
    text = re.sub(r"(?<!\\)[{}]", "\0", text)
    # What has no symbol keeps its name: log, max.
    text = MACRO.sub(lambda found: SYMBOLS.get(found[1], f" {found[1]} "), text)
    text = text.replace("\0", "").replace("-", "−").replace("~", " ")
    return " ".join(re.sub(r"(?<=[(\[−+/|‖])\s+|\s+(?=[)\],_^|‖])", "", text).split())


class Record:
    def __init__(self, kind, number=(), title="", anchor=""):
        self.kind, self.number = kind, ".".join(map(str, number or ()))
        self.title, self.anchor = " ".join(title.split()), anchor
        self.text, self.code, self.terms = [], [], []

    def row(self):
        text = " ".join("".join(self.text).split())
        # Code is found by the names in it, and not quoted.
        names = {*NAME.findall(" ".join(self.code))} - {*NAME.findall(text)}
        row = [self.kind, self.number, self.title, self.anchor, text]
        return [*row, " ".join(sorted(names)), " ".join(self.terms)]


class Reader:
    """Collects the records of a document."""

    def __init__(self, env, docname, doctree):
        self.sections = env.toc_secnumbers.get(docname, {})
        self.numbered = env.toc_fignumbers.get(docname, {})
        self.records, self.box = [], None
        self.read(doctree, Record("document"), 0)

    def open(self, kind, number, title, anchor):
        if isinstance(title, nodes.Node):
            words = Record("words")
            self.read_all(title.children, words)
            title = "".join(words.text)
        self.records.append(Record(kind, number, title, anchor))
        return self.records[-1]

    def read_all(self, children, record, depth=3):
        for child in children:
            self.read(child, record, depth)

    def read(self, node, record, depth):
        """Adds what the node says to the record, or to one of its own."""
        if isinstance(node, nodes.Text):
            record.text.append(node.astext())
        elif isinstance(node, nodes.math):
            record.text.append(reading(node.astext()))
        elif isinstance(node, nodes.math_block):
            # A formula of several lines cannot be read on one.
            line = "…" if re.search(r"\\\\|&|\\begin", node.astext()) else reading(node.astext())
            record.text.append(f" {line} ")
        elif isinstance(node, nodes.literal_block):
            record.code.append(node.astext())
        elif isinstance(node, SKIPPED) or {"cell_output", "check"} & set(node["classes"]):
            pass
        elif isinstance(node, nodes.section) and isinstance(node[0], nodes.title) and depth < 3:
            number = self.sections.get(f"#{node['ids'][0]}" if depth else "")
            kind = "claim" if "claim" in node["classes"] else "section" if depth else "page"
            record, self.box = self.open(kind, number, node[0], node["ids"][0]), None
            self.read_all(node[1:], record, depth + 1)
        elif kind := node.get("realtype") or ("exercise" in node["classes"] and "exercise"):
            counter = self.numbered.get(node.get("countertype", kind), {})
            self.box = self.open(kind, counter.get(node["ids"][0]), node[0], node["ids"][0])
            self.box.title = self.box.title.removeprefix("(").removesuffix(")")
            self.read_all(node[1:], self.box)
        elif FOLLOWERS.intersection(node["classes"]):
            without_title = node[1:] if isinstance(node, details) else node.children
            self.read_all(without_title, self.box or record)
        elif isinstance(node, nodes.definition_list_item) and node[0]["ids"]:
            self.read_all(node[1:], self.open("term", (), node[0], node[0]["ids"][0]))
        elif isinstance(node, nodes.citation):
            work = node.astext().partition("\n\n")[2]
            self.open("work", (), re.sub(r"\s*(doi|arXiv|URL):.*", "", work), node["ids"][0])
        elif isinstance(node, addnodes.desc):
            self.read_object(node)
        else:
            if isinstance(node, nodes.emphasis):
                record.terms.append(node.astext())
            self.read_all(node.children, record, depth)
            if not isinstance(node, nodes.Inline):
                record.text.append(": " if isinstance(node, nodes.title) else " ")

    def read_object(self, node):
        """A function, class or method of the library, with its docstring."""
        signature, content = node[0], node[-1]
        if signature["ids"]:
            name = signature.get("fullname", signature.astext())
            path = ".".join(filter(None, (signature.get("module"), name)))
            record = self.open(node["objtype"], (), path, signature["ids"][0])
            self.read_all(content.children, record)


def keep(app, pagename, templatename, context, doctree):
    """The records of a page that is written, beside its doctree: later builds write fewer pages."""
    if doctree and app.builder.name == "html":
        rows = [record.row() for record in Reader(app.env, pagename, doctree).records]
        path = app.builder.get_target_uri(pagename)
        file = Path(app.doctreedir, f"{pagename}.search.json")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps([path, rows]), "utf-8")


def write_records(app, exception):
    if exception or app.builder.name != "html":
        return
    files = [Path(app.doctreedir, f"{name}.search.json") for name in sorted(app.env.found_docs)]
    pages = [json.loads(file.read_text("utf-8")) for file in files if file.exists()]
    script = "searchRecords=" + json.dumps(pages, ensure_ascii=False, separators=(",", ":")) + ";\n"
    Path(app.outdir, "_static/search-records.js").write_text(script, "utf-8")


def replace_sphinx_search(app):
    if app.builder.format == "html":
        app.builder.search = False


def drop_highlighting(app, pagename, templatename, context, doctree):
    """Without Sphinx's script that marks the words of a query on the page that it led to."""
    context["script_files"] = [
        file for file in context["script_files"] if "sphinx_highlight" not in str(file.filename)
    ]


def add_page(app):
    yield "search", {}, "search.html"


def setup(app):
    app.connect("builder-inited", replace_sphinx_search)
    app.connect("html-collect-pages", add_page)
    app.connect("html-page-context", drop_highlighting)
    app.connect("html-page-context", keep)
    app.connect("build-finished", write_records)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
