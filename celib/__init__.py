"""celib: cross-entropy and its relatives, computed accurately.

Each subject is a module, loaded when it is first named:

- ``celib.stable``: log-sum-exp, softmax and their kin, without overflow or cancellation
- ``celib.information``: entropy, cross-entropy, divergences, mutual information
- ``celib.losses``: the losses of classification, for torch
- ``celib.kernels``: the fused kernels of cross-entropy, on a GPU and on a CPU
- ``celib.scoring``: proper scores of forecasts, and their decomposition
- ``celib.calibration``: how far probabilities can be believed, and their repair
- ``celib.symbolic``: softmax, losses and gradients as sympy expressions
- ``celib.coding``: Huffman and arithmetic codes
- ``celib.ngram``: a character model of text, whose cross-entropy the book measures
- ``celib.data``: the data sets of the book, without a download
- ``celib.testing``: references of 50 digits, and the error of a result in ulps
- ``celib.plots``: the figures of the book
"""

from importlib import import_module
from types import ModuleType

__version__ = "0.1.0"

_SUBJECTS = (
    "calibration",
    "coding",
    "data",
    "information",
    "kernels",
    "losses",
    "ngram",
    "plots",
    "scoring",
    "stable",
    "symbolic",
    "testing",
)


def __getattr__(name: str) -> ModuleType:
    # Loading on first use keeps `import celib` free of SciPy, matplotlib and torch.
    if name in _SUBJECTS:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_SUBJECTS])
