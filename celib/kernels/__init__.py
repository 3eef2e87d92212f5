"""The fused kernels of cross-entropy; :mod:`celib.losses` is the face to call them by.

- ``family``: the losses that they compute, as a formula and as operations of autograd
- ``choice``: what a kernel has to offer, and which one computes a call
- ``operators``: cross-entropy as a function of autograd, and as operators of torch
- ``binary``: the losses of a sigmoid as a function of autograd; ``binary_numba``: in one pass
- ``linear``: a linear layer and its cross-entropy together, a chunk of the logits at a time
- ``divergence``: of two softmaxes; ``divergence_operators`` makes it and its gradient with
  ``divergence_numba``, row by row, and ``linear_divergence`` those of two linear layers
- ``with_triton``: on a GPU, a program per row, or a warp for several short ones
- ``with_numba``: on a CPU, row by row, compiled; ``threads`` shares the rows among cores, and
  ``vectors`` has exp and its kin
- ``with_aten``: anywhere else, and for float64, a block of rows at a time
- ``rows``: the arithmetic of a row in operations of torch, for ``with_aten`` and ``linear``
- ``memory``: blocks of rows, and arrays for gradients
"""

import os
from types import ModuleType

from celib import _available, _load

_PUBLIC = (
    *("divergence", "divergence_numba", "divergence_operators", "linear_divergence"),
    *("binary", "binary_numba", "choice", "family", "linear", "memory", "operators", "rows"),
    *("threads", "vectors", "with_aten", "with_numba", "with_triton"),
)

# At import, because the threads of an OpenMP that was used before a fork are not in the child. It
# may be the first to import celib.kernels.threads, which asks for this.
PROCESS = os.getpid()


def __getattr__(name: str) -> ModuleType:
    return _load(__name__, name, _PUBLIC)


def __dir__() -> list[str]:
    return _available(__name__, _PUBLIC)
