"""What pytest skips where an optional package is missing, and how it compares the notebooks.

nbval compares every output as text, except PNG. The book's figures are SVG, whose coordinates can
differ in the last digit from one processor to another: they are compared as numbers.
"""

import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from nbval.plugin import IPyNbCell

# Without a GPU the Triton kernels run in Triton's interpreter, which has to be said before its
# import.
os.environ.setdefault("TRITON_INTERPRET", "0" if shutil.which("nvidia-smi") else "1")

# In points, 1/72 inch: far below what an eye sees, far above rounding.
TOLERANCE = 0.05

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")
# Ids are digests of coordinates; an embedded bitmap has passed through a lossless compressor.
_OPAQUE = re.compile(r'(?<=id=")[^"]*|(?<=href="#)[^"]*|(?<=url\(#)[^)]*|(?<=base64,)[^"]*')


def same_figure(one: str, two: str) -> bool:
    """Whether two SVG texts draw the same, up to ``TOLERANCE``."""
    one, two = _OPAQUE.sub("", one), _OPAQUE.sub("", two)
    if _NUMBER.sub("", one) != _NUMBER.sub("", two):
        return False
    pairs = zip(_NUMBER.findall(one), _NUMBER.findall(two), strict=True)
    return all(abs(float(a) - float(b)) <= TOLERANCE for a, b in pairs)


_compare_text = IPyNbCell.compare_outputs


def _compare(self, test, ref, skip_compare=None):
    figures = [output["data"] for output in ref if "image/svg+xml" in output.get("data", {})]
    drawn = [output["data"] for output in test if "image/svg+xml" in output.get("data", {})]
    for new, stored in zip(drawn, figures, strict=False):
        if same_figure(new["image/svg+xml"], stored["image/svg+xml"]):
            new["image/svg+xml"] = stored["image/svg+xml"]
    return _compare_text(self, test, ref, skip_compare)


IPyNbCell.compare_outputs = _compare


# What the tests and doctests of a file cannot do without, beside NumPy, SciPy and array-api-compat;
# for a folder, what all of its files need. It is written down here and not found out by trying, so
# that a module that should do without torch fails when it begins to need it. The module "notebooks"
# is that of the book, which a source distribution does not have.
NEEDS = {
    "celib/arguments/tensors.py": ["torch"],
    "celib/calibration/counting.py": ["numba"],
    "celib/calibration/classifier.py": ["sklearn"],
    "celib/calibration/scaling.py": ["sklearn"],
    "celib/derivatives.py": ["torch"],
    "celib/diagnosis": ["torch"],
    "celib/distributed": ["torch"],
    "celib/kernels": ["torch"],
    "celib/kernels/binary_numba.py": ["numba"],
    "celib/kernels/divergence_numba.py": ["numba"],
    "celib/kernels/threads.py": ["numba"],
    "celib/kernels/vectors.py": ["numba"],
    "celib/kernels/with_numba.py": ["numba"],
    "celib/kernels/with_triton.py": ["triton"],
    "celib/losses": ["torch"],
    "celib/plots": ["matplotlib"],
    "celib/symbolic.py": ["sympy"],
    "celib/testing.py": ["mpmath"],
    "tests/test_arguments.py": ["pandas", "polars", "sklearn", "torch"],
    "tests/test_benchmarks.py": ["torch"],
    "tests/test_binary.py": ["mpmath", "torch"],
    "tests/test_calibration.py": ["pandas", "polars", "sklearn", "torch"],
    "tests/test_calibrators.py": ["pandas", "polars", "sklearn", "torch"],
    "tests/test_contrastive.py": ["mpmath", "pandas", "torch"],
    "tests/test_diagnosis_batch.py": ["sklearn", "torch"],
    "tests/test_diagnosis_losses.py": ["mpmath", "torch"],
    "tests/test_distillation.py": ["mpmath", "torch"],
    "tests/test_distributed.py": ["torch"],
    "tests/test_information.py": ["mpmath", "torch"],
    "tests/kernels": ["mpmath", "torch"],
    "tests/test_losses.py": ["mpmath", "torch"],
    "tests/test_notebooks.py": ["jupytext", "notebooks"],
    "tests/test_scoring.py": ["mpmath", "sklearn", "torch"],
    "tests/test_stable.py": ["mpmath", "torch"],
    "tests/test_symbolic.py": ["mpmath", "sympy", "torch"],
    "tests/test_testing.py": ["mpmath", "torch"],
    "tests/test_transforms.py": ["torch"],
    "tests/website": ["bs4", "notebooks", "playwright"],
}


class Lacking(pytest.File):
    """Stands for a file whose packages are missing: it is skipped, and the summary says why."""

    def collect(self):
        pytest.skip(self.reason, allow_module_level=True)


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path, parent):
    collectors = yield
    here = file_path.relative_to(Path(__file__).parent)
    needed = [name for at in (here, *here.parents) for name in NEEDS.get(at.as_posix(), [])]
    missing = sorted(name for name in needed if find_spec(name) is None)
    if not collectors or not missing:
        return collectors
    lacking = Lacking.from_parent(parent, path=file_path)
    lacking.reason = f"{here} needs {' and '.join(missing)}"
    return [lacking]
