"""The fused kernels of cross-entropy; :mod:`celib.losses` is the face to call them by.

- ``family``: the losses that they compute, as a formula and as operations of autograd
- ``operators``: the operators of torch, and the choice of a kernel
- ``with_triton``: on a GPU, a program a row, or a warp for several short ones
- ``with_numba``: on a CPU, for classes as targets without further options, row by row
- ``with_aten``: anywhere else, and for every option, a block of rows at a time
- ``linear``: a linear layer and its cross-entropy together, a chunk of the logits at a time
"""

from types import ModuleType

from celib import _available, _load

_PUBLIC = ("family", "linear", "operators", "with_aten", "with_numba", "with_triton")


def __getattr__(name: str) -> ModuleType:
    return _load(__name__, name, _PUBLIC)


def __dir__() -> list[str]:
    return _available(__name__, _PUBLIC)
