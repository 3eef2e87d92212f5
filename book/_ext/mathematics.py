"""KaTeX at build time: a page needs no script for its formulas, and a bad formula is a warning."""

import re
from base64 import b64encode
from functools import cache
from html import unescape
from pathlib import Path

from docutils import nodes
from py_mini_racer import JSEvalException, MiniRacer
from shell import built_pages, cut_font
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

KATEX = Path(__file__).parent / "katex"
# KaTeX numbers the unstarred environments itself, over the number that Sphinx gives.
NUMBERED = re.compile(r"\\(begin|end)\{(align|alignat|gather|equation)\}")
# The fonts of most formulas travel in the stylesheet and are read before the page is laid out, so
# that no line breaks anew when they arrive.
FIRST = ("Main-Regular", "Math-Italic", "Size1-Regular", "Size2-Regular")
READ_FIRST = """
document.fonts.load("1em KaTeX_Main"); document.fonts.load("italic 1em KaTeX_Math");
document.fonts.load("1em KaTeX_Size1"); document.fonts.load("1em KaTeX_Size2");
"""
# The classes of the characters that are set in a font. What is not named here takes any.
CLASSES = {
    "AMS-Regular": "amsrm|mathbb|textbb",
    "Caligraphic-Regular": "mathcal",
    "Main-Bold": "mathbf|textbf",
    "Main-Italic": "mathit|textit",
    "Math-BoldItalic": "boldsymbol",
    "Math-Italic": "mathnormal",
    "Typewriter-Regular": "mathtt|texttt",
}
SOURCE = re.compile(r"<annotation.*?</annotation>", re.DOTALL)
OTHER_FORMATS = re.compile(r',url\([^)]*\) format\("(?:woff|truetype)"\)')

logger = logging.getLogger(__name__)


@cache
def katex():
    context = MiniRacer()
    context.eval((KATEX / "katex.min.js").read_text("utf-8"))
    return context


@cache
def render(formula, display):
    options = {
        "displayMode": display,
        "output": "htmlAndMathml",
        "strict": "error",
        "throwOnError": True,
    }
    starred = NUMBERED.sub(r"\\\1{\2*}", formula)
    # The source of a formula stands in it as well, for scripts that the book does not have.
    return SOURCE.sub("", katex().call("katex.renderToString", starred, options))


def markup(node, display):
    try:
        return render(node.astext().strip(), display)
    except JSEvalException as error:
        message = str(error).partition("KaTeX parse error: ")[2] or str(error)
        logger.warning("KaTeX: %s", message, location=node, type="katex")
        return ""


def visit_inline(self, node):
    self.body.append(self.starttag(node, "span", "", CLASS="math"))
    self.body.append(markup(node, display=False) + "</span>")
    raise nodes.SkipNode


def visit_display(self, node):
    self.body.append(self.starttag(node, "div", CLASS="math"))
    self.body.append(f'<div class="formula">{markup(node, display=True)}</div>')
    if node["number"]:
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})')
        self.add_permalink_ref(node, "Link to this equation")
        self.body.append("</span>")
    self.body.append("</div>\n")
    raise nodes.SkipNode


def link_stylesheet(app, pagename, templatename, context, doctree):
    if 'class="katex"' in context.get("body", ""):
        app.add_css_file("katex/katex.css", priority=400)
        app.add_js_file(None, body=READ_FIRST)


def write_stylesheet(app, exception):
    """The stylesheet with its fonts, which hold the characters that the pages use."""
    if exception or app.builder.format != "html":
        return
    target = Path(app.outdir, "_static/katex")
    (target / "fonts").mkdir(parents=True, exist_ok=True)
    css = (KATEX / "katex.min.css").read_text("utf-8")
    css = OTHER_FORMATS.sub("", css).replace("@font-face{", "@font-face{font-display:swap;")
    pages = built_pages(app)
    everything = set(map(ord, pages))
    for font in (KATEX / "fonts").iterdir():
        cut = target / "fonts" / font.name
        classes = CLASSES.get(font.stem.removeprefix("KaTeX_"))
        cut_font(font, cut, characters(pages, classes) if classes else everything)
        if font.stem.removeprefix("KaTeX_") in FIRST:
            data = b64encode(cut.read_bytes()).decode()
            css = css.replace(f"fonts/{font.name}", f"data:font/woff2;base64,{data}")
    (target / "katex.css").write_text(css, "utf-8")
    (target / "LICENSE").write_bytes((KATEX / "LICENSE").read_bytes())


def characters(pages, classes):
    spans = re.findall(rf'<span class="[^"]*\b(?:{classes})\b[^"]*"[^>]*>([^<]+)<', pages)
    return set(map(ord, unescape("".join(spans))))


def close_katex(app, exception):
    """Left to the interpreter's end, closing waits for a thread that Python 3.13 has stopped."""
    if katex.cache_info().currsize:
        katex().close()
        katex.cache_clear()


def setup(app):
    app.add_html_math_renderer("katex", (visit_inline, None), (visit_display, None))
    app.connect("html-page-context", link_stylesheet)
    app.connect("build-finished", close_katex)
    app.connect("build-finished", write_stylesheet)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
