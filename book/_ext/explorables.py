"""Figures that answer under the reader's hand: the directive ``explorable`` of a chapter.

It stands after the figure that it makes movable, which stays the first frame. The script of an
explorable is ``_assets/explorables/NAME.js``; its first line lists the words that it draws, and
the directive brings them as a list, so that a translation finds them with the rest of the text. A
line ``With`` below it names a script of ``_assets/explorables/parts`` that it shares with others.
"""

import json
import re
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

SCRIPTS = Path(__file__).parents[1] / "_assets/explorables"
WORDS = re.compile(r"// Words: (.+?)(, \.\.\.)?\.\n")
WITH = re.compile(r"^// With: (\w+)\.$", re.MULTILINE)

logger = logging.getLogger(__name__)


class explorable(nodes.General, nodes.Element):
    """The instruction and the words; in its figure, where the search does not read them."""


def start(argument):
    return json.dumps(json.loads(argument), separators=(",", ":"))


class Explorable(SphinxDirective):
    required_arguments = 1
    has_content = True
    option_spec = {"figure": directives.unchanged_required, "start": start}  # noqa: RUF012

    def run(self):
        name = self.arguments[0]
        script = SCRIPTS / f"{name}.js"
        if not script.is_file():
            known = ", ".join(sorted(file.stem for file in SCRIPTS.glob("*.js")))
            raise self.error(f"no explorable is called {name}: there are {known}")
        if missing := {"figure", "start"} - set(self.options):
            raise self.error(f"explorable {name} has no {' and no '.join(sorted(missing))}")
        self.env.note_dependency(str(script))
        node = explorable(name=name, start=self.options["start"], figure=self.options["figure"])
        self.set_source_info(node)
        self.state.nested_parse(self.content, self.content_offset, node)
        kinds = [type(child) for child in node]
        if kinds != [nodes.paragraph, nodes.bullet_list]:
            raise self.error(f"explorable {name} holds one paragraph and one list of words")
        words, more = WORDS.match(script.read_text("utf-8")).groups()
        needed, given = words.count(",") + 1, len(node[1])
        if given < needed or (given > needed and not more):
            raise self.error(f"explorable {name} has {given} words in place of {needed}: {words}")
        return [node]


def place(app, doctree):
    """Put each explorable into its figure, between the picture and the caption."""
    for node in list(doctree.findall(explorable)):
        figures = doctree.findall(nodes.figure)
        figure = next((f for f in figures if node["figure"] in f["names"] + f["ids"]), None)
        if figure is None:
            message = "explorable %s: no figure of this page is called %s"
            logger.warning(message, node["name"], node["figure"], location=node)
            continue
        node.parent.remove(node)
        caption = figure.first_child_matching_class(nodes.caption)
        figure.insert(len(figure) if caption is None else caption, node)
        figure["classes"].append("movable")


def add_scripts(app, pagename, templatename, context, doctree):
    used = sorted({node["name"] for node in doctree.findall(explorable)}) if doctree else ()
    texts = [(SCRIPTS / f"{name}.js").read_text("utf-8") for name in used]
    shared = sorted({f"parts/{part}" for text in texts for part in WITH.findall(text)})
    for name in ("explorables", *(f"explorables/{name}" for name in shared + used)) if used else ():
        app.add_js_file(f"{name}.js", defer="defer")


def visit(self, node):
    data = {f"data-{kind}": node[kind] for kind in ("figure", "start")}
    data["data-explorable"] = node["name"]
    self.body.append(self.starttag(node, "div", CLASS="explorable", **data))


def depart(self, node):
    self.body.append("</div>\n")


def setup(app):
    app.add_node(explorable, html=(visit, depart))
    app.add_directive("explorable", Explorable)
    app.connect("doctree-read", place)
    app.connect("html-page-context", add_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
