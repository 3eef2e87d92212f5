"""What nbval lets through: each chapter's notebook is whole, current, and says what it computed."""

import ast
import re
import symtable
from itertools import count
from pathlib import Path
from textwrap import dedent

import nbformat
import notebooks
import pytest
import yaml

from celib.exercises import asked as exercises
from conftest import same_figure

BOOK = Path(notebooks.BOOK)
TEXTS = sorted(notebooks.CHAPTERS.glob("*.md"))
chapter = pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.stem)


def stored(text):
    path = text.with_suffix(".ipynb")
    assert path.exists(), f"{path.name} is missing: make notebooks"
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook):
    """The text of a chapter, with what stands in the metadata of its figures."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            yield cell.source
        shown = cell.metadata.get("mystnb", {})
        yield shown.get("figure", {}).get("caption", "")
        yield shown.get("image", {}).get("alt", "")


def printed(notebook):
    """Every text that the cells of a notebook have written."""
    for cell in code_cells(notebook):
        for output in cell.outputs:
            yield output.get("text", "")
            yield output.get("data", {}).get("text/plain", "")


def test_toc_names_every_chapter():
    """Sphinx numbers chapters by position: one that is ahead of a gap waits until it is closed."""
    toc = yaml.safe_load((BOOK / "_toc.yml").read_text("utf-8"))
    files = [entry["file"] for part in toc["parts"] for entry in part["chapters"]]
    named = [name for name in files if name.startswith("chapters/")]
    assert len(TEXTS) == len(list(notebooks.CHAPTERS.glob("*.ipynb"))), "a notebook has no text"
    numbers = [int(text.stem.split("-")[0]) for text in TEXTS]
    in_order = [t for t, place, n in zip(TEXTS, count(1), numbers, strict=False) if n == place]
    assert named == [f"chapters/{text.stem}" for text in in_order]


@chapter
def test_notebook_is_made_from_its_text(text):
    wanted, found = notebooks.inputs(text), stored(text)

    def parts(notebook):
        return [(c.id, c.cell_type, c.source, dict(c.metadata)) for c in notebook.cells]

    assert parts(found) == parts(wanted), f"make notebooks NAMES={text.stem}"
    assert found.metadata.celib.code == wanted.metadata.celib.code
    for metadata in (found.metadata, wanted.metadata):
        del metadata["celib"]["library"]  # nbval decides whether the outputs still hold
    assert found.metadata == wanted.metadata, "metadata of the machine"


@chapter
def test_cells_were_executed_in_order(text):
    cells = code_cells(stored(text))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))


@chapter
def test_outputs_are_clean(text):
    for cell in code_cells(stored(text)):
        for output in cell.outputs:
            assert output.output_type != "error", cell.source
            assert output.get("name") != "stderr", output.get("text")
            bundle = output.get("data", {"text/plain": output.get("text", "")})
            assert not {"image/png", "image/jpeg"} & set(bundle), "figures are SVG"
            for kind, content in bundle.items():
                assert not re.search(r"(?<![\w.])/(home|root|usr|tmp|work|opt)/|[A-Z]:\\", content)
                assert not re.search(r"<dc:date>|0x[0-9a-f]{6,}", content), "differs on every run"
                assert len(content) < 200_000, f"{kind} of {len(content)} characters"


@chapter
def test_every_figure_has_a_caption_and_says_what_it_shows(text):
    for cell in code_cells(stored(text)):
        if any("image/svg+xml" in output.get("data", {}) for output in cell.outputs):
            shown = cell.metadata.get("mystnb", {})
            caption = shown.get("figure", {}).get("caption", "")
            alt = shown.get("image", {}).get("alt", "")
            assert len(caption.split()) >= 5, cell.source
            assert len(alt.split()) >= 8, cell.source
            assert alt not in caption


@chapter
def test_cells_can_be_read(text):
    for cell in code_cells(notebooks.inputs(text))[1:]:
        lines = cell.source.splitlines()
        assert len(lines) <= 25, f"{len(lines)} lines:\n{cell.source}"
        assert max(map(len, lines)) <= 88, cell.source
        assert not lines[-1].rstrip().endswith(";"), "nbval fails on it: end with plt.show()"
        assert "#" not in re.sub(r'"[^"\n]*"', "", cell.source), f"a comment:\n{cell.source}"


@chapter
def test_code_holds_no_words_to_translate(text):
    for cell in code_cells(notebooks.inputs(text))[1:]:
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                words = re.sub(r"\$[^$]*\$", "", node.value)
                assert not re.search(r"[a-z]{3,} [a-z]{3,}", words), node.value


# Decimals, and whole numbers of four digits or more; not years, identifiers or versions.
CLAIMED = re.compile(r"(?<![\w.,/:-])(\d+\.\d+|\d{4,})(?![\w/]|\.\d)")
YEAR = range(1800, 2100)


def claimed(text):
    """The numbers that a passage states; thousands may be set off by a comma, in formulas {,}."""
    text = re.sub(
        r"(?<=\d)(?:,|\{,\})(?=\d{3}(?!\d))", "", text.replace("$-", "$").replace(" -", " ")
    )
    return {n for n in CLAIMED.findall(text) if "." in n or int(n) not in YEAR}


def numbers(text):
    return {float(n) for n in re.findall(r"\d+\.?\d*(?:e[-+]?\d+)?", text.replace("_", ""))}


@chapter
def test_numbers_in_prose_were_computed(text):
    """A number in the text is a literal of the code, or the rounding of a printed number."""
    notebook = stored(text)
    outputs = set().union(*(numbers(output) for output in printed(notebook)))
    literals = set().union(*(numbers(cell.source) for cell in code_cells(notebook)))
    for passage in prose(notebook):
        for number in claimed(passage):
            places = len(number.partition(".")[2])
            twin = any(abs(value - float(number)) <= 0.500001 * 10**-places for value in outputs)
            assert twin or float(number) in literals, f"{number} is computed nowhere:\n{passage}"


@chapter
def test_every_claim_of_the_chapter_is_decided(text):
    """A chapter names each of its claims where it decides it: in a box, or in a cell's metadata."""
    data = [yaml.safe_load(path.read_text("utf-8")) for path in BOOK.glob("claims/*.yml")]
    rows = {row["id"]: row for subject in data for row in subject}
    notebook = stored(text)
    named = {claim for cell in notebook.cells for claim in cell.metadata.get("ledger", [])}
    boxed = {c for cell in notebook.cells for c in re.findall(r"\bS\d-\d\d+\b", cell.source)}
    assert named | boxed <= set(rows), "no row in book/claims"
    number = str(int(text.stem.split("-")[0]))
    own = {claim for claim, row in rows.items() if row["chapter"] == number}
    assert own <= named | boxed, f"not decided: {sorted(own - named - boxed)}"


def test_findings_point_to_headings():
    """What celib.diagnosis calls a section is a heading of the chapter on calling the loss."""
    pytest.importorskip("torch")
    from celib.diagnosis import findings

    (text,) = (text for text in TEXTS if text.stem.endswith("-calling"))
    headings = re.findall(r"^##+ (.+)$", text.read_text("utf-8"), re.MULTILINE)
    named = [value for name, value in vars(findings).items() if name.isupper()]
    assert len(named) == 9
    assert set(named) <= set(headings)


@chapter
def test_exercises_have_solutions(text):
    source = text.read_text("utf-8")
    exercises = re.findall(r":::\{exercise\}.*\n:label: (\S+)", source)
    solutions = re.findall(r"```\{solution-start\} (\S+)", source)
    assert exercises
    assert sorted(exercises) == sorted(solutions)


# Chapters in the shape of the second edition, one lecture each. The others are to be rewritten.
LECTURES = [
    "01-entropy",
    "02-codes",
    "03-two-variables",
    "04-wrong-code",
    "05-evidence",
    "06-geometry",
    "09-calling",
    "15-imbalance",
    "16-shift",
    "17-energy",
    "18-sequences",
    "19-attention",
    "20-contrastive",
    "21-practice",
]
lecture = pytest.mark.parametrize("text", [t for t in TEXTS if t.stem in LECTURES], ids=LECTURES)
INDEX = (BOOK / "index.md").read_text("utf-8")
STARS = re.compile(r":::\{exercise\} (★*) ")


def lesson(text):
    """A chapter without its exercises and what follows them."""
    return text.read_text("utf-8").partition("\n## Exercises\n")[0]


def words_to_read(text, tables=True):
    """How many words a reader of the lesson meets, without code and directives in fences."""
    fences = r"^```.*?^```|^---\n.*?^---"
    words = re.sub(fences, "", lesson(text), flags=re.MULTILINE | re.DOTALL)
    return len((words if tables else re.sub(r"^\|.*$", "", words, flags=re.MULTILINE)).split())


@lecture
def test_a_chapter_is_one_lecture(text):
    source = lesson(text)
    cells = re.findall(r"^```\{code-cell\}.*?^```", source, re.MULTILINE | re.DOTALL)
    assert words_to_read(text) >= 2000
    assert words_to_read(text, tables=False) <= 3700, "a table is looked up, the rest is read"
    assert 20 <= len(cells) <= 35, len(cells)
    assert source.count(":class: often-said") <= 5
    assert "**In this chapter**" in source
    assert source.count("**Takeaway.**") >= 3
    closing = [line for line in text.read_text("utf-8").splitlines() if line.startswith("## ")]
    assert closing[-4:] == [
        "## Exercises",
        "## What to remember",
        "## In `celib`",
        "## Further reading",
    ]


@chapter
def test_the_front_page_says_how_long_it_takes(text):
    """At 200 words a minute; and a chapter needs only chapters before it."""
    row = re.search(rf"^\|.*chapters/{text.stem}\.ipynb.*$", INDEX, re.MULTILINE)[0]
    number, _, _, needs, minutes, seconds = (cell.strip() for cell in row.strip("|").split("|"))
    assert abs(int(minutes) - words_to_read(text) / 200) < 1
    assert all(int(need) < int(number) for need in re.findall(r"\d+", needs))
    assert int(seconds) >= 1


@lecture
def test_exercises_rise(text):
    stars = [len(found) for found in STARS.findall(text.read_text("utf-8"))]
    assert stars == sorted(stars)
    assert 12 <= len(stars) <= 16
    assert stars.count(1) >= 5
    assert 1 <= stars.count(3) <= 4
    assert len(stars) == text.read_text("utf-8").count(":::{exercise}")


@lecture
def test_outputs_are_tables(text):
    """More than two numbers stand in rows and columns with names."""
    for cell in code_cells(stored(text)):
        for output in cell.outputs:
            shown = output.get("data", {}).get("text/plain", output.get("text", ""))
            if not {"text/html", "text/latex"} & set(output.get("data", {})):
                assert len(re.findall(r"\d+\.?\d*", shown)) <= 3, shown
            assert "dtype" not in shown, f"a series has no heads:\n{shown}"


@lecture
def test_words_that_were_hard_to_read(text):
    prose = re.sub(r"^```\{code-cell\}.*?^```", "", lesson(text), flags=re.MULTILINE | re.DOTALL)
    for phrase in ("derivative by", "differentiate by", "is no ", "simply", "obviously", "clearly"):
        assert phrase not in prose, phrase
    assert "!" not in re.sub(r"\$\$.*?\$\$|\$[^$]*\$", "", prose, flags=re.DOTALL)


def introduced(source, term):
    """Where a text first uses a term of the glossary, and where it first says what it is."""
    start = source.index("\n", source.index("**In this chapter**"))
    body = source[start:]
    name = rf"{re.escape(term)}s?"
    said = rf"\{{term\}}`(?:[^`<]*[< ])?{name}>?`|\*{name}\*|:::\{{prf:\w+\}} {name}$"
    first = re.search(said, body, re.IGNORECASE | re.MULTILINE)
    blank = r"\{term\}`[^`]*`|\$[^$]*\$|^#.*$|^:::.*$|\[[^]]*\]\([^)]*\)"
    plain = re.sub(blank, lambda hit: " " * len(hit[0]), body, flags=re.MULTILINE)
    used = re.search(rf"(?<![\w*-]){name}\b(?![\w*-])", plain, re.IGNORECASE)
    return (used.start() if used else None), (first.start() if first else None)


def test_terms_are_introduced_before_they_are_used():
    """A term of the glossary is a link, or in italics, where a reader of the lectures meets it."""
    rows = (BOOK / "glossary.md").read_text("utf-8").split("```")[1].splitlines()[1:]
    terms = [term for row in rows if row and row[0] != " " for term in row.split(", ")]
    fences = re.compile(r"^```.*?^```|^---\n.*?^---|^\+\+\+[^\n]*$", re.MULTILINE | re.DOTALL)
    sources = {text.stem: fences.sub("", lesson(text)) for text in TEXTS}
    late = []
    for term in terms:
        for name, source in sources.items():
            if name not in LECTURES and re.search(rf"\b{re.escape(term)}", source, re.IGNORECASE):
                break
            used, first = introduced(source, term) if name in LECTURES else (None, None)
            if used is not None and (first is None or used < first):
                late.append(f"{name}: {term}")
            if first is not None or used is not None:
                break
    assert late == []


def bound_and_read(source):
    """The names that a cell binds, and those that it takes from elsewhere."""

    def read(table):
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (table.get_type() == "module" or symbol.is_global()):
                yield symbol.get_name()
        for inside in table.get_children():
            yield from read(inside)

    table = symtable.symtable(source, "cell", "exec")
    bound = {
        symbol.get_name()
        for symbol in table.get_symbols()
        if symbol.is_assigned() or symbol.is_imported()
    }
    return bound, set(read(table)) - bound


@lecture
def test_a_name_that_later_cells_read_is_bound_once(text):
    """Otherwise a cell that is run out of order lies."""
    cells = re.findall(r"^```\{code-cell\}.*?\n(.*?)^```", lesson(text), re.MULTILINE | re.DOTALL)
    plain = [re.sub(r"\A---\n.*?^---\n", "", c, flags=re.MULTILINE | re.DOTALL) for c in cells]
    names = [bound_and_read(source) for source in plain]
    binding = [name for bound, _ in names for name in bound]
    wanted = set().union(*(read for _, read in names))
    assert {name for name in wanted if binding.count(name) > 1} == set()


@chapter
def test_a_check_stands_below_its_exercise(text):
    """After the box, and once; a part of an exercise has its label and a word, ex-units-bits."""
    exercise = ""
    seen = set()
    for label, check in re.findall(
        r":::\{exercise\}.*\n:label: (\S+)|```\{check\} (\S+)", text.read_text("utf-8")
    ):
        exercise = label or exercise
        assert not check or f"{check}-".startswith(f"{exercise}-"), f"{check} below {exercise}"
        assert check not in seen - {""}
        seen.add(check)


def test_every_check_has_its_place_in_a_chapter():
    source = "".join(path.read_text("utf-8") for path in TEXTS)
    placed = set(re.findall(r"^```\{check\} (\S+)$", source, re.MULTILINE))
    assert placed == set(exercises.exercises())


def test_docstrings_name_equations_that_exist():
    source = "".join(path.read_text("utf-8") for path in TEXTS)
    for path in notebooks.LIBRARY.rglob("*.py"):
        for label in re.findall(r"``(eq-[\w-]+)``", path.read_text("utf-8")):
            assert f"({label})" in source, f"{path.name} names {label}"


def test_a_figure_that_changed_is_noticed():
    line = '<path id="{id}" d="M {x} 20 L 30 40"/>'
    drawn = line.format(id="pA1", x="10")
    assert same_figure(drawn, line.format(id="pB2", x="10.0001"))
    assert not same_figure(drawn, line.format(id="pA1", x="10.2"))
    assert not same_figure(drawn, drawn.replace("L 30 40", ""))


# A library with every way to load a part of it. The names of other parts stand in comments,
# docstrings and messages, where they load nothing.
TREE = {
    "__init__.py": """
        from importlib import import_module
        def __getattr__(name):
            return import_module(f"{__name__}.{name}")
    """,
    "plain.py": '"""Not celib.deep, and not: from celib import other."""',
    "other.py": """
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            from celib.plain import a_type
        else:
            a_type = "see celib.shapes"
    """,
    "shapes/__init__.py": "from celib.shapes.plain import *\nfrom .deep import *",
    "shapes/plain.py": "",
    "shapes/deep.py": "def inside():\n    from .. import other",
    "deep/__init__.py": "",
    "deep/deeper/__init__.py": "",
    "deep/deeper/leaf.py": "from ...plain import a as plain",
    "lazy/__init__.py": """
        def __getattr__(name):
            from celib.lazy import heavy
            return getattr(heavy, name)
    """,
    "lazy/heavy.py": "",
    "table/__init__.py": "",
    "table/choice.py": """
        import importlib
        def choose(name):
            return importlib.import_module(f"celib.table.with_{name}")
        def other():
            return importlib.import_module("celib.plain")
    """,
    "table/with_a.py": "",
    "table/with_b.py": "",
    "data/__init__.py": "",
    "data/quick.json": "{}",
    "data/slow.txt": "",
}
SHAPES = "shapes shapes.plain shapes.deep other"
TABLE = "table table.choice table.with_a table.with_b plain"


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    for name, text in TREE.items():
        path = tmp_path / "celib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text), "utf-8")
    monkeypatch.setattr(notebooks, "LIBRARY", tmp_path / "celib")
    return tmp_path / "celib"


def short(paths):
    """What is counted, without celib itself, as the names of modules and of data files."""
    names = {path.relative_to(notebooks.LIBRARY).as_posix() for path in paths}
    modules = {name.removesuffix(".py").removesuffix("/__init__") for name in names}
    return {name.replace("/", ".") for name in modules - {"__init__"}}


@pytest.mark.parametrize(
    ("source", "used"),
    [
        ("import numpy\nimport celibrity\nfrom celibrity import plain", None),
        ("import celib.plain", "plain"),
        ("import celib.other as o", "other"),
        ("from celib.plain import entropy", "plain"),
        ("from celib import plain, other", "plain other"),
        ("from celib import (\n    plain as p,  # not other\n)\nprint('celib.other')", "plain"),
        ("from celib import shapes", SHAPES),
        ("from celib.shapes import plain", SHAPES),
        ("def f():\n    if f:\n        from celib import shapes", SHAPES),
        ("import celib.deep.deeper.leaf", "deep deep.deeper deep.deeper.leaf plain"),
        ("from celib.lazy import thing", "lazy lazy.heavy"),
        ("from celib.table import choice", TABLE),
        ("import importlib\nimportlib.import_module('celib.plain')", "plain"),
        ("%pip install -q rich\n!ls\nfrom celib import plain", "plain"),
        ("from celib import data", "data"),
        ("from celib import data\ndata.quick()", "data data.quick.json"),
        ("from celib.data import slow", "data data.slow.txt"),
    ],
)
def test_what_code_uses_is_found(made_up, source, used):
    counted = notebooks.files([source])
    assert short(counted) == set((used or "").split())
    assert (made_up / "__init__.py" in counted) == (used is not None)


@pytest.mark.parametrize("source", ["from celib import *", "import celib", "import celib as c"])
def test_where_it_cannot_be_known_everything_counts(made_up, source):
    assert short(notebooks.files([source])) == short(made_up.rglob("*.py"))


def test_a_notebook_is_made_again_when_what_it_uses_changes(made_up):
    notebook = nbformat.v4.new_notebook()
    sources = "pass", "from celib import shapes", "from celib import data\ndata.quick()"
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in sources]
    before = notebooks.library(notebook)
    for name in TREE:
        path = made_up / name
        text = path.read_text("utf-8")
        path.write_text(text + "\n", "utf-8")
        counts = path in notebooks.files(notebooks.code(notebook))
        assert (notebooks.library(notebook) != before) == counts, name
        path.write_text(text, "utf-8")
    assert notebooks.library(notebook) == before


def test_chapters_use_what_they_are_about():
    used = {
        text.stem: short(notebooks.files(notebooks.code(notebooks.inputs(text)))) for text in TEXTS
    }
    first, kernels = used["02-codes"], used["12-kernels"]
    assert {"information", "stable", "coding", "plots.style", "data.python_topics.txt"} <= first
    assert {"kernels.with_triton", "plots.kernels", "data.speed.json"} <= kernels
    assert not {name for name in first if re.match(r"kernels|losses|data\.(speed|frame)", name)}
