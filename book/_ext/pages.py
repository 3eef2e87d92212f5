"""Every page gets a description, every picture its size; a picture without words is a warning."""

import re
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.util import logging
from sphinx.util.images import get_image_size
from sphinx.writers.html5 import HTML5Translator

LENGTH = 160
PROOF = re.compile(r'(<div class="proof admonition"[^>]*>\s*<p>)(Proof\.)')
# What other extensions write amiss: an id that every box has, a label that differs from the words
# that it labels, roles that are not to be used.
AMISS = re.compile(
    r' id="(?:proof|exercise|solution)(?:-content)?"'
    r'| aria-label="Toggle hidden content"'
    r'| role="doc-biblioentry"'
    r'| role="list"(?= class="citation-list")'
)
BEHIND_A_TABLE = re.compile(r'<table class="table.*?</table>.*? id="([^"]+)"', re.DOTALL)

# pandas makes a heading of the corner of a table, where there is nothing to read.
CORNER = "<th></th>", "<td></td>"

logger = logging.getLogger(__name__)


def describe(doctree):
    """The first paragraph, cut after a sentence or else after a word."""
    paragraphs = [*doctree.findall(nodes.paragraph), nodes.paragraph()]
    first = next((p for p in paragraphs if isinstance(p.parent, nodes.section)), paragraphs[0])
    text = " ".join(first.astext().split())
    if len(text) <= LENGTH:
        return text
    sentences = re.match(rf"(.{{1,{LENGTH - 1}}}[.?!])\s", text)
    return sentences[1] if sentences else text[: LENGTH - 1].rsplit(" ", 1)[0] + "…"


def add_description(app, pagename, templatename, context, doctree):
    # The search page is the only one without a document.
    description = describe(doctree) if doctree else f"Search in {app.config.html_title}."
    title = re.sub(r"<[^>]+>", "", context.get("title", "Search"))
    tags = (
        f'<meta name="description" content="{escape(description)}">'
        # What a message shows of a link that is sent in it.
        f'<meta property="og:title" content="{escape(title)}">'
        f'<meta property="og:site_name" content="{escape(app.config.html_title)}">'
        f'<meta property="og:description" content="{escape(description)}">'
    )
    # The columns of a table have their widths when all of it is there: nothing is drawn before.
    # A browser is content with the opening tag of what it waits for, which is thus behind it.
    if behind := BEHIND_A_TABLE.search(context.get("body", "")):
        tags += f'<link rel="expect" href="#{behind[1]}" blocking="render">'
    context["metatags"] = context.get("metatags", "") + tags


def tidy(app, pagename, templatename, context, doctree):
    if doctree:
        body = AMISS.sub("", context["body"]).replace(*CORNER)
        context["body"] = PROOF.sub(r'\1<span class="proof-head">\2</span>', body)


def add_schemes(app, config):
    """Links to the repository, whose address the configuration has, and to files of the site."""
    address = config.html_theme_options["repository_url"]
    own = {"repository": address + "{{path}}", "site": "{{path}}"}
    config.myst_url_schemes = dict.fromkeys(config.myst_url_schemes) | own


def visit_image(self, node):
    if not node.get("alt", "").strip():
        place = node if node.line else node.parent
        logger.warning("image without alt text: %s", node["uri"], location=place, type="alt")
    size = get_image_size(Path(self.builder.srcdir, node["uri"]))
    node["loading"] = "lazy"
    drawing = Path(self.builder.srcdir, node["uri"])
    if drawing.suffix == ".svg" and "<image" in drawing.read_text("utf-8"):
        node["classes"].append("shaded")  # a photograph, or a map of colours
    HTML5Translator.visit_image(self, node)
    if size:
        sized = '<img width="{}" height="{}" '.format(*size)
        self.body[-1] = self.body[-1].replace("<img ", sized, 1)


def setup(app):
    app.add_node(nodes.image, override=True, html=(visit_image, HTML5Translator.depart_image))
    app.connect("config-inited", add_schemes)
    app.connect("html-page-context", tidy)
    app.connect("html-page-context", add_description)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
