"""Data that the book uses: nothing is downloaded, and every byte read here is checked.

=================  =======================================  ==========================
function           what it is                               licence
=================  =======================================  ==========================
``python_topics``  help topics of CPython 3.11.7, one text  PSF-2.0 (file beside it)
``sample_image``   two photographs that scikit-learn ships  CC BY 2.0 (its README)
``digits``         1797 handwritten digits, 8 by 8 pixels   CC BY 4.0 (UCI, id 80)
``frameworks``     what other libraries' losses returned    measured here
``speed``          time and memory of the fused losses      measured here
``distributed``    the same of losses on several processes  measured here
=================  =======================================  ==========================
"""

import hashlib
import json
from importlib.resources import files
from typing import Any

import numpy as np

from celib import _need
from celib.arguments.errors import one_of

__all__ = ["digits", "distributed", "frameworks", "python_topics", "sample_image", "speed"]


def __dir__() -> list[str]:
    return sorted(__all__)


# The topics change with every version of CPython, so the book keeps one version of them.
_TOPICS_SHA256 = "2a95af4ac93f5b719944030ce3769070ddf827d847cba42192afa8da989e5dc4"


def python_topics() -> str:
    """The help topics of CPython 3.11.7: ``pydoc_data.topics``, sorted by name, one text.

    Returns:
        465048 characters of English prose and code over an alphabet of 103 characters.

    Raises:
        ValueError: if the file is not the one that the book was computed with.

    Example:
        >>> print(python_topics()[:22])
        The "assert" statement
    """
    content = files(__name__).joinpath("python_topics.txt").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != _TOPICS_SHA256:
        raise ValueError(f"python_topics.txt has SHA-256 {digest}, expected {_TOPICS_SHA256}")
    return content.decode("utf-8")


def sample_image(name: str) -> np.ndarray:
    """A photograph: ``"china"`` (a temple) or ``"flower"`` (a dahlia).

    Returns:
        Array of shape (427, 640, 3) and dtype uint8: red, green and blue.

    Raises:
        ValueError: for another name.
    """
    one_of("name", name, ("china", "flower"))
    _need("celib.data.sample_image")
    from sklearn.datasets import load_sample_image

    image: np.ndarray = load_sample_image(f"{name}.jpg")
    return image


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Handwritten digits, as scikit-learn ships them.

    Returns:
        Pixels of shape (1797, 8, 8), integers from 0 to 16, and labels of shape (1797,), 0 to 9.
    """
    _need("celib.data.digits")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images.astype(np.int64), bunch.target


def frameworks() -> dict[str, dict[str, Any]]:
    """What the loss functions of JAX and TensorFlow returned, with their versions and the date.

    ``tools/frameworks.py`` computes the records.

    Returns:
        For each framework a dict with ``"date"``, ``"versions"`` and ``"rows"``, and for Keras
        ``"cases"``. A row has the function's ``"name"``, what it ``"takes"`` in the order of its
        arguments (z logits, p probabilities, y a vector, c an index), the ``"shape"`` of its result
        for two examples, and its value when given logits, probabilities and log-probabilities
        (``"z"``, ``"p"``, ``"l"``): a number, or the name of the exception.

    Example:
        >>> {row["takes"] for row in frameworks()["tensorflow"]["rows"]} == {"y, z", "c, z"}
        True
    """
    content = files(__name__).joinpath("frameworks.json").read_text("utf-8")
    records: dict[str, dict[str, Any]] = json.loads(content)
    return records


def speed() -> dict[str, dict[str, Any]]:
    """How long the fused losses took beside their peers, and what memory: ``make bench`` writes it.

    Returns:
        A run for each kind of device that was measured, ``"cpu"`` or ``"cuda"``. A run has its
        ``"date"``, ``"device"`` and ``"versions"``; the ``"bandwidth"`` of a copy in bytes/s, read
        and written, and the rate of a matrix ``"product"`` in operations/s; in ``"skipped"`` what
        was not measured, and why; and lists of entries.

        Entries of ``"logits"``, ``"linear"``, ``"graph"`` (both passes in one CUDA graph) and
        ``"calibration"`` have the ``"peer"``, ``"rows"``, ``"classes"``, ``"features"`` (of a
        linear layer, or None), ``"dtype"``, ``"chunk"`` and ``"pass"``, which is ``"forward"``,
        ``"backward"``, ``"both"`` or the name of a calibration error; in seconds the ``"median"``
        and the quartiles ``"low"`` and ``"high"`` of so many ``"repeats"``; and the ``"peak"`` of
        memory beyond what was there before, in bytes, or None.

        Those of ``"error"`` have ``"peer"``, ``"classes"``, ``"dtype"``, the ``"offset"`` of all
        logits, the largest relative error of a ``"loss"``, and that of a ``"gradient"`` relative
        to its largest entry, against float64 on the same logits.

    Example:
        >>> {"celib", "eager"} <= {entry["peer"] for entry in speed()["cpu"]["logits"]}
        True
    """
    content = files(__name__).joinpath("speed.json").read_text("utf-8")
    runs: dict[str, dict[str, Any]] = json.loads(content)
    return runs


def distributed() -> dict[str, dict[str, Any]]:
    """What cross-entropy costs when its classes are split over 1, 2 and 4 processes.

    ``python -m benchmarks.distributed`` writes it, and says what the peers are.

    Returns:
        A run for each kind of device that was measured. A run has its ``"date"``, ``"device"`` and
        ``"versions"``, and two lists of entries.

        Entries of ``"loss"`` have the ``"peer"``, the number of ``"ranks"``, ``"rows"``,
        ``"classes"`` of all ranks, ``"features"`` (of a linear layer, or None), ``"dtype"`` and
        ``"pass"``, ``"forward"`` or ``"both"``; in seconds the ``"median"`` and the quartiles
        ``"low"`` and ``"high"`` of so many ``"repeats"``, of the slowest rank; and, of both passes,
        the number of ``"collectives"``, the bytes that a rank ``"sent"`` in the forward pass and in
        the backward pass (``"sent_backward"``) if collectives go round a ring, and the bytes that a
        rank ``"kept"`` between the passes beside the arguments.

        Those of ``"error"`` have the ``"offset"`` of all logits, the ``"gap"`` that was added to
        that of the target, the largest relative error of a ``"loss"``, and that of a
        ``"gradient"`` relative to its largest entry, against float64 on the same logits.

    Example:
        >>> sorted({entry["ranks"] for entry in distributed()["cpu"]["loss"]})
        [1, 2, 4]
    """
    content = files(__name__).joinpath("distributed.json").read_text("utf-8")
    runs: dict[str, dict[str, Any]] = json.loads(content)
    return runs
