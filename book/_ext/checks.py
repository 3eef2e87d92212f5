"""The check of one's own answer to an exercise, below it: ``{check} ex-units``.

What is asked, the right value, the usual mistakes and the hints are those of ``celib.exercises``,
which computes the values while the site is built. ``_assets/checks.js`` compares a reader's answer
with them by the same rule. Without scripts, and for a function, the page names the call instead.
"""

import json
import sys
from importlib import import_module
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

# The library of this repository, installed or not.
sys.path.insert(0, str(Path(__file__).parents[2]))
exercises = import_module("celib.exercises.asked")

WORDS = exercises.WORDS | {
    "check": "Check",
    "hint": "Hint",
    "separate": "Separate the numbers by commas or spaces, and write decimals with a point.",
    "elsewhere": "Check your answer in the notebook, with `celib.exercises`:",
}


class tag(nodes.General, nodes.TextElement):
    """An element of HTML: its name is its kind."""


def element(kind, /, *children, classes=(), ids=(), **attributes):
    attributes = {key.strip("_").replace("_", "-"): value for key, value in attributes.items()}
    return tag("", "", *children, kind=kind, attributes=attributes, classes=[*classes], ids=[*ids])


def call(name):
    kind = exercises.exercise(name).kind
    return f'check("{name}", your_{"function" if kind == "function" else "answer"})'


class Check(SphinxDirective):
    """A form for the answer, and the sentence that stands in its place without scripts."""

    required_arguments = 1

    def run(self):
        name = self.arguments[0]
        try:
            asked = exercises.exercise(name)
        except ValueError as error:
            raise self.error(str(error)) from error
        for file in exercises.FOLDER.glob("*.toml"):
            self.env.note_dependency(str(file))
        code = nodes.literal("", call(name))
        words = [*self.words(WORDS["elsewhere"]), nodes.Text(" "), code]
        elsewhere = element("p", *words, classes=["check"])
        return [elsewhere] if asked.kind == "function" else [self.form(name, asked), elsewhere]

    def words(self, text):
        return self.parse_inline(text)[0]

    def form(self, name, asked):
        place = f"check-{name}"
        answers = {
            "many": asked.kind == "array",
            "right": asked.right.ravel().tolist(),
            "wrong": [value.ravel().tolist() for value, _ in asked.mistakes],
            "margin": asked.margin,
        }
        buttons = [
            element("button", *self.words(WORDS["check"])),
            element(
                "button", *self.words(WORDS["hint"]), type="button", aria_controls=f"{place}-hints"
            ),
        ]
        hints = [element("li", *self.words(hint), hidden="") for hint in asked.hints]
        return element(
            "form",
            *(self.choice(asked) if asked.kind == "choice" else self.field(place, asked, answers)),
            element("div", *buttons),
            element("output", ids=[f"{place}-verdict"], role="status"),
            element("ol", *hints, ids=[f"{place}-hints"], aria_live="polite"),
            *(element("template", *self.words(says)) for _, says in asked.mistakes),
            classes=["check"],
            ids=[place],
            data_answers=json.dumps(answers),
            autocomplete="off",
        )

    def choice(self, asked):
        options = [
            element(
                "label",
                element("input", type="radio", name="answer", value=place),
                element("span", *self.words(option)),
            )
            for place, option in enumerate(asked.options)
        ]
        return [element("fieldset", element("legend", *self.words(asked.ask)), *options)]

    def field(self, place, asked, answers):
        # The keys of a phone's decimal pad are the digits and one sign: no minus, and no space.
        plain = not answers["many"] and min(map(min, [answers["right"], *answers["wrong"]])) >= 0
        yield element("label", *self.words(asked.ask), _for=f"{place}-answer")
        if answers["many"]:
            yield element("small", *self.words(WORDS["separate"]), ids=[f"{place}-note"])
        yield element(
            "input",
            ids=[f"{place}-answer"],
            name="answer",
            inputmode="decimal" if plain else "text",
            aria_describedby=" ".join([f"{place}-note"] * answers["many"] + [f"{place}-verdict"]),
            spellcheck="false",
        )


def visit(self, node):
    self.body.append(self.starttag(node, node["kind"], "", **node["attributes"]))


def depart(self, node):
    if node["kind"] != "input":
        self.body.append(f"</{node['kind']}>")


def add_script(app, pagename, templatename, context, doctree):
    if 'data-answers="' in context.get("body", ""):
        words = json.dumps({key: WORDS[key] for key in exercises.WORDS})
        app.add_js_file("checks.js", defer="defer", **{"data-words": words})


def setup(app):
    app.add_node(tag, html=(visit, depart))
    app.add_directive("check", Check)
    app.connect("html-page-context", add_script)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
