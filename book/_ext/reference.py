"""The library's reference: a page a module, made from its docstrings.

The source is read and not imported, because the site is built without torch. A page lists what its
module makes public, in ``__all__``, under its public name. Names of equations become links into the
chapters, and names of the library that a chapter mentions become links to here.
"""

import ast
import re
from functools import cache
from pathlib import Path
from textwrap import indent

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.ext.napoleon import Config, GoogleDocstring
from sphinx.util.docutils import SphinxDirective

LIBRARY = Path(__file__).parents[2] / "celib"
STYLE = Config(napoleon_use_rtype=False, napoleon_use_ivar=True)
FIELDS = re.compile("NamedTuple|dataclass")
# Names that share what is said of them, over more than one line.
NAMES = re.compile(r"^    \w[\w, ]*,\n(?: {8}[\w, ]+,\n)* {8}[\w, ]+(?=:)", re.MULTILINE)
HEAD = re.compile(r"^(Source|Example): (.+(?:\n    (?!>>>).+)*)$", re.MULTILINE)
SIGNATURE = re.compile(r"<dl>\n<dd>.*?</dl>", re.DOTALL)
WORK = re.compile(r"(arXiv:(\d{4}\.\d{4,5})|doi:(10\.\d{4,9}/[^\s,;)]*[^\s,;).]))")


@cache
def lines_of(module):
    path = LIBRARY.parent / module.replace(".", "/")
    file = path.with_suffix(".py")
    return (file if file.exists() else path / "__init__.py").read_text("utf-8").splitlines()


@cache
def tree(module):
    return ast.parse("\n".join(lines_of(module)))


@cache
def public(module):
    """What ``__all__`` lists, by name: the module that it is written in, and its node there."""
    for node in tree(module).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names = sorted(ast.literal_eval(node.value), key=str.lower)
            return {name: definition(module, name) for name in names}
    return {}


def definition(module, name):
    for node in tree(module).body:
        if getattr(node, "name", None) == name:
            return module, node
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if getattr(target, "id", None) == name:
                return module, node
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(LIBRARY.name):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return definition(node.module, alias.name)
    # Loaded when it is named, from one of the package's own modules.
    folder = LIBRARY.parent / module.replace(".", "/")
    for file in sorted(folder.glob("*.py")) if folder.is_dir() else ():
        inner = f"{module}.{file.stem}"
        if any(getattr(node, "name", None) == name for node in tree(inner).body):
            return definition(inner, name)
    raise LookupError(f"{module} makes {name} public, and does not define it")


def docstring(node):
    return (
        ast.get_docstring(node) or "" if not isinstance(node, (ast.Assign, ast.AnnAssign)) else ""
    )


def meaning(module, node):
    """In one line, what a name is for."""
    words = docstring(node) or comment(module, node)
    return " ".join(words.partition("\n\n")[0].split())


def comment(module, node):
    """What ``#:`` says beside a field, or above it."""
    lines = lines_of(module)
    beside = lines[node.end_lineno - 1].partition("#:")[2].strip()
    above, line = [], node.lineno - 2
    while line >= 0 and lines[line].strip().startswith("#:"):
        above.insert(0, lines[line].strip().removeprefix("#:").strip())
        line -= 1
    return " ".join([*above, beside]).strip()


def prepared(text):
    """A docstring as napoleon reads them: its arguments by line, what stands after a head below."""
    text = NAMES.sub(lambda found: " ".join(found[0].split()).join(("    ", "")), text)
    return HEAD.sub(lambda found: f"**{found[1]}.** {' '.join(found[2].split())}\n", text)


def described(kind, signature, text, *inside):
    """A directive of Sphinx's domain of Python, with a docstring and what belongs to it."""
    body = GoogleDocstring(prepared(text), STYLE).lines()
    return [f".. py:{kind}:: {signature}", "", *indent_all(body), "", *indent_all(inside), ""]


def indent_all(lines):
    return [indent(line, "   ") for line in lines]


def arguments(node, skip=0):
    given = ast.parse("lambda: 0", mode="eval").body.args
    for part in ("posonlyargs", "args", "vararg", "kwonlyargs", "kw_defaults", "kwarg", "defaults"):
        setattr(given, part, getattr(node.args, part))
    given.args = given.args[skip:]  # without self
    returned = f" -> {ast.unparse(node.returns)}" if node.returns and not skip else ""
    return f"({ast.unparse(given)}){returned}"


def entry(module, name, node):
    if isinstance(node, ast.ClassDef):
        return class_entry(module, name, node)
    if isinstance(node, ast.FunctionDef):
        return described("function", f"{name}{arguments(node)}", docstring(node))
    return described("data", name, comment(module, node))


def class_entry(module, name, node):
    fields, methods, start = [], [], None
    for part in node.body:
        if isinstance(part, ast.AnnAssign) and not part.target.id.startswith("_"):
            fields.append(part)
        elif isinstance(part, ast.FunctionDef) and part.name == "__init__":
            start = part
        elif isinstance(part, ast.FunctionDef) and not part.name.startswith("_"):
            methods.append(part)
    signature = name
    if start is not None:
        signature += arguments(start, skip=1)
    elif FIELDS.search(" ".join(map(ast.unparse, [*node.bases, *node.decorator_list]))):
        signature += f"({', '.join(ast.unparse(field) for field in fields)})"
    inside = []
    for field in fields:
        if words := comment(module, field):
            inside += described("attribute", field.target.id, words)
    for method in methods:
        if words := docstring(method):
            decorators = {ast.unparse(one) for one in method.decorator_list}
            if {"property", "cached_property"} & decorators:
                inside += described("property", method.name, words)
            else:
                inside += described("method", f"{method.name}{arguments(method, skip=1)}", words)
    return described("class", signature, docstring(node), *inside)


class Reference(SphinxDirective):
    """``.. reference:: celib.losses``: the module's own words, a table, and each of its names.

    Names in the content are shown as well, of a module that lists none.
    """

    required_arguments = 1
    has_content = True

    def run(self):
        module = self.arguments[0]
        lines = [f".. py:module:: {module}", "", *ast.get_docstring(tree(module)).splitlines(), ""]
        names = public(module) | {name: definition(module, name) for name in self.content}
        if names:
            lines += [".. list-table::", "   :header-rows: 1", "   :widths: auto", ""]
            lines += ["   * - name", "     - what it is for"]
        for name, (home, node) in names.items():
            self.env.note_dependency(str(LIBRARY.parent / f"{home.replace('.', '/')}.py"))
            lines += [f"   * - :py:obj:`~{module}.{name}`", f"     - {meaning(home, node)}"]
        lines += [""]
        for name, (home, node) in names.items():
            lines += entry(home, name, node)
        box = nodes.section(document=self.state.document)
        self.state.nested_parse(StringList(lines, source=module), self.content_offset, box)
        return box.children


def link(app, doctree, docname):
    if docname.startswith("reference/"):
        link_equations(app, doctree, docname)
        link_works(doctree)
    elif docname.startswith("chapters/"):
        link_names(app, doctree, docname)


def link_equations(app, doctree, docname):
    known = app.env.get_domain("math").equations
    for literal in list(doctree.findall(nodes.literal)):
        label = literal.astext()
        if label in known:
            page, anchor = known[label][0], f"equation-{label}"
            number = ".".join(map(str, app.env.toc_fignumbers[page]["displaymath"][anchor]))
            literal.replace_self(reference(app, docname, page, anchor, nodes.Text(f"({number})")))


def link_works(doctree):
    for text in list(doctree.findall(nodes.Text)):
        if WORK.search(text) and not isinstance(text.parent, nodes.reference):
            new, end = [], 0
            for found in WORK.finditer(text):
                host = "arxiv.org/abs" if found[2] else "doi.org"
                address = f"https://{host}/{found[2] or found[3]}"
                new += [nodes.Text(text[end : found.start()])]
                new += [nodes.reference("", found[1], refuri=address, internal=False)]
                end = found.end()
            text.parent.replace(text, [*new, nodes.Text(text[end:])])


def link_names(app, doctree, docname):
    """Full names, wherever they stand; and in the section "In celib" the short ones, too."""
    objects = app.env.get_domain("py").objects
    for section in doctree.findall(nodes.section):
        inside = [*section.findall(nodes.literal)]
        literals = [
            one for one in inside if not isinstance(one.parent, nodes.title | nodes.reference)
        ]
        names = {one: one.astext().removesuffix("()") for one in literals}
        modules = dict.fromkeys(
            name if objects[name].objtype == "module" else name.rpartition(".")[0]
            for name in names.values()
            if name in objects
        )
        short = section[0].astext() == "In celib"
        for one, name in names.items():
            full = [name, *(f"{module}.{name}" for module in modules if short)]
            if found := next((objects[name] for name in full if name in objects), None):
                one.replace_self(reference(app, docname, *found[:2], one.deepcopy()))


def reference(app, docname, page, anchor, *content):
    uri = f"{app.builder.get_relative_uri(docname, page)}#{anchor}"
    return nodes.reference("", "", *content, refuri=uri, internal=True)


def tidy(app, pagename, templatename, context, doctree):
    """Sphinx writes the parameters of a long signature as a list of definitions without terms."""

    def lines(found):
        opened = found[0].replace("dl>", "span>").replace("<dd>", '<span class="sig-line">')
        return opened.replace("</dd>", "</span>")

    if pagename.startswith("reference/") and doctree:
        context["body"] = SIGNATURE.sub(lines, context["body"])


def setup(app):
    app.add_directive("reference", Reference)
    app.connect("doctree-resolved", link)
    app.connect("html-page-context", tidy)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
