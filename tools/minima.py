"""Print the lower bounds of pyproject.toml as exact versions: python tools/minima.py > minima.txt

``make oldest`` installs them and runs the tests of the library. The bounds of all extras are among
them, so that each has been tried.
"""

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def minima(text):
    """Each requirement ``name>=version`` as ``name==version``, with its marker if it has one."""
    project = tomllib.loads(text)["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    others = {requirement for each in lists for requirement in each}
    # An extra that includes others of this project adds no bound of its own.
    own = f"{project['name']}["
    others = {requirement for requirement in others if not requirement.startswith(own)}
    exact = [re.sub(r"^([\w.-]+)>=([\d.]+)", r"\1==\2", requirement) for requirement in others]
    unbounded = [requirement for requirement in exact if "==" not in requirement.split(";")[0]]
    if unbounded:
        raise ValueError(f"without a lower bound: {unbounded}")
    return sorted(exact)


if __name__ == "__main__":
    print(*minima(PROJECT.read_text("utf-8")), sep="\n")
