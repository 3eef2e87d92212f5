"""How pytest compares the notebooks: what nbval leaves to be decided is decided here.

nbval compares every output as text, except PNG. The book's figures are SVG, whose coordinates can
differ in the last digit from one processor to another: they are compared as numbers.
"""

import os
import re
import shutil

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
