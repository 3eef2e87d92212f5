"""Make the notebooks from their text: ``python book/notebooks.py [--force] [NAME ...]``.

A chapter is written as MyST text, ``chapters/NAME.md``; this command executes it and writes
``chapters/NAME.ipynb`` beside it, with outputs. A notebook is executed again when its code, or a
part of celib that it uses, has changed; when only its prose has changed, its outputs are kept.
"""

import argparse
import ast
import hashlib
import re
import sys
import time
from collections.abc import Mapping
from importlib.util import resolve_name
from itertools import accumulate
from pathlib import Path

import jupytext
import nbformat
import yaml
from IPython.core.inputtransformer2 import TransformerManager
from jupytext.myst import MystMetadataParsingError
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

BOOK = Path(__file__).parent
CHAPTERS = BOOK / "chapters"
LIBRARY = BOOK.parent / "celib"

# The first code cell of every chapter. The book's page does not show it. It installs the library
# from an archive, which needs no git; and PyPI has another package of the name celib, which has no
# module of this one's.
SET_UP = """\
from importlib.util import find_spec
from pathlib import Path

found = find_spec("celib")
if found is None or not Path(found.origin).with_name("information.py").exists():
    %pip install -q "cross-entropy[book] @ {address}/archive/published.zip"
"""


def address() -> str:
    """Where the repository is published: the one place that says so is ``_config.yml``."""
    config = yaml.safe_load((BOOK / "_config.yml").read_text(encoding="utf-8"))
    return config["repository"]["url"]


def inputs(text: Path) -> NotebookNode:
    """The notebook that a text asks for, without outputs."""
    source = jupytext.read(text, fmt="md:myst")
    cells = source.cells
    first = next((i for i, cell in enumerate(cells) if cell.cell_type == "code"), len(cells))
    set_up = nbformat.v4.new_code_cell(SET_UP.format(address=address()).rstrip())
    set_up.metadata["tags"] = ["remove-cell"]
    cells.insert(first, set_up)
    seen: dict[str, int] = {}
    for cell in cells:
        # An id from the content: an edit changes the id of the edited cell and of no other.
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[digest] = seen.get(digest, 0) + 1
        cell["id"] = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "celib": {"code": fingerprint(code(notebook)), "library": library(notebook)},
        }
    )
    return notebook


def code(notebook: NotebookNode) -> list[str]:
    """The code of the chapter itself, cell by cell, without the set-up cell."""
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"][1:]


def fingerprint(parts: list[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def library(notebook: NotebookNode) -> str:
    """A fingerprint of the files of celib that a notebook uses, directly or through others."""
    return fingerprint([path.read_text("utf-8") for path in files(code(notebook))])


def files(cells: list[str]) -> list[Path]:
    """The modules of celib that code imports, those that they import, and the data that it names.

    An import that is found too much executes a notebook once more; one that is missed would leave
    old outputs in it. So what cannot be told counts.
    """
    paths = {
        ".".join(path.relative_to(LIBRARY.parent).with_suffix("").parts): path
        for path in LIBRARY.rglob("*.py")
    }
    known = {name.removesuffix(".__init__"): path for name, path in paths.items()}
    source = "\n".join(TransformerManager().transform_cell(cell) for cell in cells)
    used: set[str] = set()
    found = imported(source, "", known)
    while found:
        # To import celib.data is to import celib first.
        found = {above for name in found for above in accumulate(name.split("."), "{}.{}".format)}
        used |= (new := {name for name in found if name in known} - used)
        found = {
            name
            for module in new
            for name in imported(known[module].read_text("utf-8"), module, known)
        }
    # A function of celib.data is called as the file that it reads.
    data = [path for path in (LIBRARY / "data").glob("*.*") if path.suffix in (".json", ".txt")]
    named = [path for path in data if re.search(rf"\b{path.stem}\b", source)]
    return sorted([known[name] for name in used] + named)


def imported(source: str, module: str, known: Mapping[str, Path]) -> set[str]:
    """The full names in the import statements of a source, wherever in it they stand."""
    is_package = module in known and known[module].stem == "__init__"
    package = module if is_package else module.rpartition(".")[0]
    names: set[str] = set()
    nodes: list[ast.AST] = [ast.parse(source)]
    for node in nodes:  # and for those that are added meanwhile
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            nodes += node.orelse  # only a type checker reads the rest
            continue
        nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            # Of `import celib` any attribute may be used.
            bare = any(alias.name == LIBRARY.name for alias in node.names)
            names |= set(known) if bare else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            star = any(alias.name == "*" for alias in node.names) and base == LIBRARY.name
            names |= set(known) if star else {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            name = node.args[0]
            if isinstance(name, ast.Constant):
                names.add(str(name.value))
            elif module != LIBRARY.name:  # celib itself loads what others name
                names |= {other for other in known if other.startswith(package)}
    return names


def keep_outputs(notebook: NotebookNode, old: NotebookNode) -> None:
    """Take over the outputs of a notebook with the same code."""
    executed = [cell for cell in old.cells if cell.cell_type == "code"]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            before = executed.pop(0)
            cell.outputs, cell.execution_count = before.outputs, before.execution_count


def execute(notebook: NotebookNode) -> None:
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        extra_arguments=["--IPKernelApp.log_level=40"],
        record_timing=False,
        coalesce_streams=True,
        on_cell_start=lambda cell, cell_index: progress(cell_index, len(notebook.cells)),
        resources={"metadata": {"path": str(CHAPTERS)}},
    )
    metadata = dict(notebook.metadata)
    client.execute()
    # The client notes the version of the kernel, which is that of this machine.
    notebook.metadata = nbformat.from_dict(metadata)


def progress(done: int, cells: int) -> None:
    if sys.stderr.isatty():
        print(f"\r  cell {done + 1} of {cells} ", end="", file=sys.stderr, flush=True)


def make(text: Path, *, force: bool) -> str:
    """Bring one notebook up to date, and say what was done."""
    target = text.with_suffix(".ipynb")
    notebook = inputs(text)
    old = nbformat.read(target, as_version=4) if target.exists() else None
    current = old is not None and old.metadata.get("celib") == notebook.metadata["celib"]
    if force or not current:
        start = time.perf_counter()
        execute(notebook)
        done = f"executed in {time.perf_counter() - start:.1f} s"
    else:
        keep_outputs(notebook, old)
        done = "unchanged" if notebook == old else "text updated, outputs kept"
    if notebook != old:
        nbformat.validate(notebook)
        nbformat.write(notebook, target)
    return done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--force", action="store_true", help="execute also what has not changed")
    parser.add_argument("names", nargs="*", metavar="NAME", help="chapters, by default all")
    arguments = parser.parse_args()
    texts = sorted(CHAPTERS.glob("*.md"))
    unknown = set(arguments.names) - {text.stem for text in texts}
    if unknown:
        parser.error(f"no chapter {', '.join(sorted(unknown))} in {CHAPTERS}")
    failed = 0
    for text in texts:
        if arguments.names and text.stem not in arguments.names:
            continue
        print(text.stem, end=": ", flush=True)
        try:
            print(make(text, force=arguments.force))
        except (CellExecutionError, MystMetadataParsingError) as error:
            print(f"failed\n{error}")
            failed += 1
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
