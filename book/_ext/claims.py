"""The pages of the claims, and the links between a claim and the place that decides it.

The claims of ``claims/NAME.md`` are the rows of ``claims/NAME.yml``. A chapter names the ids of the
claims that it decides in the metadata of a cell, ``{"ledger": ["S0-05"]}``, or in the title of a
box, ``Often said (S1-13, S1-37)``.
"""

import json
import re
from pathlib import Path
from typing import ClassVar

import yaml
from docutils import nodes
from sphinx import addnodes
from sphinx.domains import Domain
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_id, make_refnode

# In the order of a page: what is amiss comes first.
VERDICTS = (
    "wrong",
    "broken code",
    "imprecise",
    "unsupported",
    "correct with a condition",
    "correct",
)
TITLE = re.compile(r"(.+) \((S\d-\d+(?:, S\d-\d+)*)\)")
# MyST-NB counts the lines of the first cell from here, those of the second from twice this number.
CELL = 10_000


def anchor(claim):
    return f"claim-{claim.lower()}"


def slug(verdict):
    return nodes.make_id(verdict)


def headed(node):
    return isinstance(node, nodes.section) and isinstance(node[0], nodes.title)


def link(kind, target, text=""):
    """A link that the domain resolves when all documents are read."""
    where = {"refdomain": "claim", "reftype": kind, "reftarget": target, "refwarn": True}
    return addnodes.pending_xref("", nodes.Text(text), **where)


def listed(parts):
    """The parts with a comma between two, and "and" before the last."""
    for index, part in enumerate(parts):
        if index:
            yield nodes.Text(" and " if index == len(parts) - 1 else ", ")
        yield part


class Rows(SphinxDirective):
    """Every claim of the page's subject, by verdict."""

    def run(self):
        path = Path(self.env.doc2path(self.env.docname)).with_suffix(".yml")
        self.env.note_dependency(str(path))
        text = path.read_text("utf-8")
        lines = [n for n, line in enumerate(text.splitlines(), 1) if line.startswith("- ")]
        groups = {verdict: [] for verdict in VERDICTS}
        for row, line in zip(yaml.safe_load(text), lines, strict=True):
            if row["verdict"] not in groups:
                raise self.error(f"{row['id']} has no verdict of the list: {row['verdict']}")
            groups[row["verdict"]].append(self.entry(row, path, line))
        self.env.get_domain("claim").pages.add(self.env.docname)
        groups = {verdict: entries for verdict, entries in groups.items() if entries}
        counts = [
            nodes.reference("", f"{len(entries)} {verdict}", refid=slug(verdict), internal=True)
            for verdict, entries in groups.items()
        ]
        total = nodes.Text(f"{len(lines)} claims: ")
        sections = [
            nodes.section("", nodes.title("", verdict.capitalize()), *entries, ids=[slug(verdict)])
            for verdict, entries in groups.items()
        ]
        return [nodes.paragraph("", "", total, *listed(counts), nodes.Text(".")), *sections]

    def entry(self, row, path, line):
        claim, verdict = row["id"], row["verdict"]
        words, _ = self.parse_inline(row["claim"])
        badge = nodes.inline("", verdict.capitalize(), classes=["verdict", slug(verdict)])
        section = nodes.section(
            "",
            nodes.title("", "", nodes.Text("“"), *words, nodes.Text("”")),
            nodes.paragraph("", "", badge),
            *self.parse_text_to_nodes(row["statement"]),
            nodes.paragraph("", "", link("places", claim), classes=["decided"]),
            ids=[anchor(claim)],
            classes=["claim"],
        )
        for node in section.findall():
            node.source, node.line = str(path), line
        self.env.get_domain("claim").rows[claim] = self.env.docname, verdict
        return section


class Counts(SphinxDirective):
    """How many claims of each verdict each subject has, as a table of links."""

    def run(self):
        subjects = self.env.external_site_map[self.env.docname].child_files()
        counts = [self.count(subject) for subject in subjects]
        header = self.row("Subject", *(verdict.capitalize() for verdict in VERDICTS), "All")
        body = [
            self.row(
                link("page", subject, self.env.external_site_map[subject].title),
                *(
                    link("group", f"{subject}#{slug(verdict)}", str(n)) if n else "0"
                    for verdict, n in of.items()
                ),
                str(sum(of.values())),
            )
            for subject, of in zip(subjects, counts, strict=True)
        ]
        totals = [sum(of[verdict] for of in counts) for verdict in VERDICTS]
        body.append(self.row("All", *map(str, totals), str(sum(totals))))
        columns = [nodes.colspec(colwidth=1, stub=not n) for n in range(len(VERDICTS) + 2)]
        group = nodes.tgroup("", *columns, cols=len(columns))
        group += [nodes.thead("", header), nodes.tbody("", *body)]
        self.env.get_domain("claim").pages.add(self.env.docname)
        return [nodes.table("", group, classes=["claims"])]

    def count(self, subject):
        path = Path(self.env.doc2path(subject)).with_suffix(".yml")
        self.env.note_dependency(str(path))
        found = [row["verdict"] for row in yaml.safe_load(path.read_text("utf-8"))]
        return {verdict: found.count(verdict) for verdict in VERDICTS}

    def row(self, *cells):
        texts = [nodes.Text(cell) if isinstance(cell, str) else cell for cell in cells]
        return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", text)) for text in texts))


class Claims(Domain):
    name = "claim"
    label = "claim"
    initial_data: ClassVar = {"rows": {}, "places": {}, "pages": set()}
    directives: ClassVar = {"rows": Rows, "counts": Counts}

    @property
    def rows(self):
        """The page and the verdict of each claim."""
        return self.data["rows"]

    @property
    def places(self):
        """Where each claim is decided: the document, the id of the section, that of the place."""
        return self.data["places"]

    @property
    def pages(self):
        return self.data["pages"]

    def clear_doc(self, docname):
        for claim in [claim for claim, (page, _) in self.rows.items() if page == docname]:
            del self.rows[claim]
        for claim, places in self.places.items():
            self.places[claim] = [place for place in places if place[0] != docname]
        self.pages.discard(docname)

    def process_doc(self, env, docname, document):
        """Find where a chapter decides claims, and take their ids out of the titles of boxes.

        A claim with a box is decided there, another one where the cell begins that names it.
        """
        path = Path(env.doc2path(docname))
        if path.suffix != ".ipynb":
            return
        boxed = set()
        for box in document.findall(nodes.admonition):
            if found := TITLE.fullmatch(box[0].astext()):
                claims = found[2].split(", ")
                boxed |= set(claims)
                self.place(env, docname, document, box, claims)
                box[0].children = []
                box[0] += [nodes.Text(f"{found[1]} "), self.links(claims)]
        cells = json.loads(path.read_text("utf-8"))["cells"]
        for number, cell in enumerate(cells, 1):
            claims = [claim for claim in cell["metadata"].get("ledger", ()) if claim not in boxed]
            if claims:
                elements = document.findall(nodes.Element)
                first = next(node for node in elements if (node.line or 0) // CELL == number)
                if isinstance(first, nodes.section):
                    while isinstance(first[1], nodes.section):
                        first = first[1]
                else:
                    while not headed(first.parent):
                        first = first.parent
                self.place(env, docname, document, first, claims)

    def place(self, env, docname, document, node, claims):
        if not node["ids"]:
            node["ids"].append(make_id(env, document, "decides", claims[0].lower()))
            document.set_id(node)
        section = node
        while not headed(section):
            section = section.parent
        for claim in claims:
            self.places.setdefault(claim, []).append((docname, section["ids"][0], node["ids"][0]))

    def links(self, claims):
        if len(claims) == 1:
            parts = [link("row", claims[0], "the claim and its verdict")]
        else:
            verdicts = [link("verdict", claim) for claim in claims]
            parts = [nodes.Text("the claims and their verdicts: "), *listed(verdicts)]
        return nodes.inline("", "", *parts, classes=["claim-links"])

    def resolve_xref(self, env, fromdocname, builder, typ, target, node, contnode):
        def to(page, anchor, *content):
            return make_refnode(builder, fromdocname, page, anchor, list(content))

        if typ == "places":
            return self.decided(env, self.places.get(target), to)
        if typ in {"page", "group"}:
            page, _, group = target.partition("#")
            return to(page, group, contnode) if page in self.pages else None
        if target not in self.rows:
            return None
        page, verdict = self.rows[target]
        return to(page, anchor(target), nodes.Text(verdict) if typ == "verdict" else contnode)

    def decided(self, env, places, to):
        if not places:
            return nodes.inline("", "The chapter that decides this claim is still to be written.")
        # One link for a section.
        firsts = {}
        for place in places:
            firsts.setdefault(place[:2], place)
        links = []
        for docname, section, place in firsts.values():
            headings = env.tocs[docname].findall(nodes.reference)
            here = [h for h in headings if h["anchorname"].removeprefix("#") in {"", section}][-1]
            number = env.toc_secnumbers.get(docname, {}).get(here["anchorname"])
            label = nodes.Text(".".join(map(str, number)) + " " if number else "")
            title = [child.deepcopy() for child in here.children]
            links.append(to(docname, place, label, *title))
        return nodes.inline("", "", nodes.Text("Decided in "), *listed(links), nodes.Text("."))

    def resolve_any_xref(self, env, fromdocname, builder, target, node, contnode):
        return []  # a link of Markdown never means a claim, and MyST asks every domain


def moved(app, env):
    """The documents with links to claims or to places, once one of these has moved."""
    claims = env.get_domain("claim")
    chapters = {docname for places in claims.places.values() for docname, *_ in places}
    headings = [
        (env.tocs[docname].astext(), env.toc_secnumbers.get(docname))
        for docname in sorted(chapters | claims.pages)
    ]
    now = claims.rows, claims.places, headings
    if getattr(env, "claims_linked", None) == repr(now):
        return []
    env.claims_linked = repr(now)
    return chapters | claims.pages


def setup(app):
    app.add_domain(Claims)
    app.connect("env-get-updated", moved)
    return {"env_version": 1, "parallel_read_safe": False, "parallel_write_safe": True}
