"""The built site as files: which pages there are, and what is in them (``make book`` builds it)."""

import functools
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from bs4 import BeautifulSoup

BOOK = Path(__file__).parents[2] / "book"
SITE = BOOK / "_build/html"
CONFIG = yaml.safe_load((BOOK / "_config.yml").read_text("utf-8"))
TOC = yaml.safe_load((BOOK / "_toc.yml").read_text("utf-8"))


def listed(entries):
    for entry in entries:
        yield entry["file"]
        yield from listed(entry.get("sections", ()))


PAGES = [TOC["root"], *(page for part in TOC["parts"] for page in listed(part["chapters"]))]
CHAPTERS = [page for page in PAGES if page.startswith("chapters/")]

# In a browser, of the pages that are made alike those with the most on them.
LONGEST = {"claims/index", "claims/gradients", "reference/index"}
LONGEST |= {"reference/losses", "reference/distributed", "reference/calibration"}
ALIKE = {page for page in PAGES if page.startswith(("claims/", "reference/"))} - LONGEST
OPENED = [*(page for page in PAGES if page not in ALIKE), "search"]

every_page = pytest.mark.parametrize("page", [*PAGES, "search"])
every_source = pytest.mark.parametrize("page", PAGES)
every_chapter = pytest.mark.parametrize("page", CHAPTERS)


@functools.cache
def html(page):
    file = SITE / f"{page}.html"
    if not file.exists():
        pytest.fail(f"{file.relative_to(BOOK.parent)} is missing: make book")
    return BeautifulSoup(file.read_text("utf-8"), "html.parser")


@functools.cache
def ids(page):
    return {tag["id"] for tag in html(page).find_all(id=True)}


def source(page):
    return next(path for end in (".ipynb", ".md", ".rst") if (path := BOOK / (page + end)).exists())


MAIN = "from jupyter_book.cli.main import main; main()"


def small_book(folder, contents, main=MAIN, *arguments):
    """The strict build of other contents by the real extensions, whatever came of it."""
    for name in ("_ext", "_assets", "_templates"):
        shutil.copytree(BOOK / name, folder / name)
    for name in ("_config.yml", "references.bib"):
        shutil.copy(BOOK / name, folder)
    for name, text in contents.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    build = "build", folder, "-W", "-n", "--keep-going"
    command = [sys.executable, "-c", main, *map(str, (*arguments, *build))]
    return subprocess.run(command, capture_output=True, text=True, cwd=BOOK.parent)
