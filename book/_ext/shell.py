"""The site made light: fonts cut to the characters in use, and nothing that no page asks for."""

import re
import shutil
from pathlib import Path

import pydata_sphinx_theme
from fontTools import subset
from sphinx.errors import ExtensionError

FONTS = Path(pydata_sphinx_theme.__file__).parent.joinpath(
    "theme/pydata_sphinx_theme/static/vendor/fontawesome/webfonts"
)
UNUSED = (
    *("**/*.map", "**/*.LICENSE.txt", "**/*.ttf", "scripts/fontawesome.js", "locales"),
    # The book has a search of its own.
    *("searchtools.js", "language_data.js", "sphinx_highlight.js"),
)
# It stands in a menu that is closed, and would be loaded all the same.
LOGO = re.compile(r'<img (?=alt="Colab logo")')
# The theme asks these boxes for their widths as soon as a page is there, for which the browser has
# to lay out all of it. book.js asks each when it is in sight.
ASKED = '["pre",".nboutput > .output_area",".cell_output > .output",".jp-RenderedHTMLCommon",'
ASKED += '".pst-scrollable-table-container"].join(", ")'
ICON_RULE = re.compile(r'((?:\.fa-[a-z0-9-]+:before,?)+)\{content:"\\([0-9a-f]+)"\}')
# Other rules name an icon by its code, as an escape or as the character itself.
ICON_CODE = re.compile(r"\\([ef][0-9a-f]{3})\b|([\ue000-\uf8ff])")


def built_pages(app):
    return "".join(file.read_text("utf-8") for file in Path(app.outdir).rglob("*.html"))


def cut_font(source, target, codes):
    options = subset.Options(flavor="woff2", notdef_outline=True)
    font = subset.load_font(source, options)
    cutter = subset.Subsetter(options)
    cutter.populate(unicodes=codes)
    cutter.subset(font)
    subset.save_font(font, target, options)


def lighten(app, exception):
    if exception or app.builder.format != "html":
        return
    static = Path(app.outdir, "_static")
    for file in [file for pattern in UNUSED for file in static.glob(pattern)]:
        shutil.rmtree(file) if file.is_dir() else file.unlink()

    for page in Path(app.outdir).rglob("*.html"):
        html = page.read_text("utf-8")
        if LOGO.search(html):
            page.write_text(LOGO.sub('<img loading="lazy" ', html), "utf-8")

    theme = static / "styles/pydata-sphinx-theme.css"
    if not theme.exists():  # no page was written, and so nothing was copied
        return
    script = static / "scripts/pydata-sphinx-theme.js"
    before, asked, after = script.read_text("utf-8").partition(ASKED)
    if not asked:
        raise ExtensionError(f"{script.name} does not ask for widths as it did: see shell.py")
    script.write_text(f'{before}":not(*)"{after}', "utf-8")

    classes = set(re.findall(r"\bfa-[a-z0-9-]+", built_pages(app)))
    theme.write_text(
        ICON_RULE.sub(
            lambda rule: rule[0] if classes & set(re.findall(r"fa-[a-z0-9-]+", rule[1])) else "",
            theme.read_text("utf-8"),
        ),
        "utf-8",
    )
    css = "".join(file.read_text("utf-8") for file in static.rglob("*.css"))
    codes = {int(escape, 16) if escape else ord(raw) for escape, raw in ICON_CODE.findall(css)}
    for font in FONTS.glob("*.woff2"):
        cut_font(font, static / "vendor/fontawesome/webfonts" / font.name, codes)


def setup(app):
    app.connect("build-finished", lighten)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
