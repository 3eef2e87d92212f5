"""Admonitions of class dropdown become <details>: closed until asked for, without a script."""

from docutils import nodes
from sphinx.locale import admonitionlabels


class details(nodes.General, nodes.Element):
    pass


class summary(nodes.TextElement):
    pass


def fold(app, doctree, docname):
    for box in [box for box in doctree.findall(nodes.Element) if "dropdown" in box["classes"]]:
        if isinstance(box[0], nodes.title):
            title, *content = box.children
        else:
            title, content = nodes.title("", str(admonitionlabels[box.tagname])), box.children
        # A link inside a summary would be a button inside a button.
        for link in list(title.findall(nodes.reference)):
            link.replace_self(link.children)
        folded = details(ids=box["ids"], classes=["admonition", box.tagname, *box["classes"]])
        box.replace_self(folded)
        folded += [summary("", "", *title.children), *content]


def visit(self, node):
    self.body.append(self.starttag(node, node.tagname))


def depart(self, node):
    self.body.append(f"</{node.tagname}>\n")


def setup(app):
    app.add_node(details, html=(visit, depart))
    app.add_node(summary, html=(visit, depart))
    app.connect("doctree-resolved", fold)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
