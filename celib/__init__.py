"""celib: cross-entropy and its relatives, computed accurately.

Each subject is a module, loaded when it is first named. One that needs a package which is not
installed is not in ``dir(celib)``; naming it says which extra to install.

- ``celib.stable``: log-sum-exp, softmax and their kin, without overflow or cancellation
- ``celib.information``: entropy, cross-entropy, divergences, mutual information
- ``celib.losses``: the losses of classification, for torch
- ``celib.distributed``: the losses of logits that are spread over several processes
- ``celib.kernels``: the fused kernels of cross-entropy, on a GPU and on a CPU
- ``celib.scoring``: proper scores of forecasts
- ``celib.calibration``: how far probabilities can be believed, what a score is made of, and repair
- ``celib.symbolic``: softmax, losses and gradients as sympy expressions
- ``celib.coding``: Huffman and arithmetic codes
- ``celib.ngram``: a character model of text, whose cross-entropy the book measures
- ``celib.data``: the data sets of the book, without a download
- ``celib.diagnosis``: what is wrong with a loss that is NaN, stuck or odd
- ``celib.exercises``: checks of one's own answers to the exercises of the book
- ``celib.testing``: references of 50 digits, and the error of a result in ulps
- ``celib.plots``: the figures of the book
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

__version__ = "0.1.0"

_SUBJECTS = (
    "calibration",
    "coding",
    "data",
    "diagnosis",
    "distributed",
    "exercises",
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

# What a module, a class or a function cannot do without: the name to import, the project that it
# belongs to, and the extra that installs it.
_SKLEARN = "sklearn", "scikit-learn", "calibration"
_TORCH = "torch", "torch", "torch"
_EXTRAS = {
    "celib.calibration.CalibratedClassifier": _SKLEARN,
    "celib.calibration.IsotonicCalibration": _SKLEARN,
    "celib.calibration.PlattScaling": _SKLEARN,
    "celib.calibration.TemperatureScaling": _SKLEARN,
    "celib.calibration.VectorScaling": _SKLEARN,
    "celib.calibration.classifier": _SKLEARN,
    "celib.calibration.scaling": _SKLEARN,
    "celib.data.digits": _SKLEARN,
    "celib.data.sample_image": ("sklearn", "scikit-learn", "book"),
    "celib.derivatives": _TORCH,
    "celib.diagnosis": _TORCH,
    "celib.distributed": _TORCH,
    "celib.kernels": _TORCH,
    "celib.kernels.binary_numba": ("numba", "numba", "cpu"),
    "celib.kernels.divergence_numba": ("numba", "numba", "cpu"),
    "celib.kernels.threads": ("numba", "numba", "cpu"),
    "celib.kernels.vectors": ("numba", "numba", "cpu"),
    "celib.kernels.with_numba": ("numba", "numba", "cpu"),
    "celib.kernels.with_triton": ("triton", "triton", "gpu"),
    "celib.losses": _TORCH,
    "celib.plots": ("matplotlib", "matplotlib", "plots"),
    "celib.symbolic": ("sympy", "sympy", "symbolic"),
    "celib.testing": ("mpmath", "mpmath", "testing"),
}


def _missing(name: str) -> str | None:
    """What to install before a name of celib can be used; None if nothing is missing."""
    if name not in _EXTRAS:
        return None
    module, project, extra = _EXTRAS[name]
    if find_spec(module) is not None:
        return None
    return f'{name} needs {project}: pip install "cross-entropy[{extra}]"'


def _need(name: str) -> None:
    """Raise if a name of celib cannot be used, and say what to install."""
    message = _missing(name)
    if message is not None:
        # The name is that of the module that is not found. With one of celib's own names,
        # `from celib import losses` would replace the message by "cannot import name 'losses'".
        raise ModuleNotFoundError(message, name=_EXTRAS[name][0])


class _Extras:
    """A finder that Python asks before its own, so that every way of importing a module whose extra
    is missing ends with the same message. It finds nothing itself."""

    @staticmethod
    def find_spec(module: str, path: object = None, target: object = None) -> None:
        _need(module)


if any(map(_missing, _EXTRAS)):
    sys.meta_path.insert(0, _Extras)


def _load(package: str, name: str, public: Sequence[str]) -> ModuleType:
    """The ``__getattr__`` of a package whose public modules are imported when first named."""
    if name not in public:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    message = _missing(f"{package}.{name}")
    if message is not None:
        # Not an ImportError, because hasattr and inspect.getmembers would not expect one.
        raise AttributeError(message)
    return import_module(f"{package}.{name}")


def _available(package: str, public: Sequence[str]) -> list[str]:
    """Those public modules of a package that can be imported."""
    return [name for name in public if _missing(f"{package}.{name}") is None]


def __getattr__(name: str) -> ModuleType:
    # Loading on first use keeps `import celib` free of SciPy, matplotlib and torch.
    return _load(__name__, name, _SUBJECTS)


def __dir__() -> list[str]:
    return ["__version__", *_available(__name__, _SUBJECTS)]
