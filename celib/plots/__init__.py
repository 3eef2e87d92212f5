"""The figures of the book: one function a figure, every word of a figure in one place.

A function takes the arrays that it draws and returns the Axes. ``use_house_style`` sets the look;
a notebook calls it once.
"""

import inspect

from celib.plots.attention import *
from celib.plots.calibration import *
from celib.plots.coding import *
from celib.plots.coins import *
from celib.plots.divergence import *
from celib.plots.energy import *
from celib.plots.evidence import *
from celib.plots.geometry import *
from celib.plots.gradients import *
from celib.plots.imbalance import *
from celib.plots.information import *
from celib.plots.kernels import *
from celib.plots.likelihood import *
from celib.plots.losses import *
from celib.plots.numerics import *
from celib.plots.practice import *
from celib.plots.sequences import *
from celib.plots.shift import *
from celib.plots.softmax import *
from celib.plots.style import *


def __dir__() -> list[str]:
    # The figures are public, the modules that they are in are not.
    return [k for k, v in globals().items() if not (k.startswith("_") or inspect.ismodule(v))]
