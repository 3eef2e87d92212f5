"""Pairs that belong together: losses whose classes are the other examples of the batch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from celib.arguments.errors import one_of, refuse_shape
from celib.arguments.tensors import for_arrays, positive, real, tensors, wide
from celib.losses.multiclass import Scale, linear_cross_entropy
from celib.losses.reduction import REDUCTIONS


@for_arrays
def info_nce(
    query: Tensor,
    key: Tensor,
    *,
    temperature: Scale,
    negatives: Tensor | None = None,
    symmetric: bool = False,
    normalize: bool = True,
    reduction: str = "mean",
    chunk_size: int | None = None,
    validate: bool = True,
) -> Tensor:
    r"""Cross-entropy of finding a query's key among those of the batch (equation ``eq-info-nce``).

    Use it to learn representations from pairs without labels, such as an image and its caption or
    two views of one thing. If there are classes with labels, use :func:`cross_entropy`.

    :math:`\ell_n = -\log \frac{e^{s_{nn} / \tau}}{\sum_j e^{s_{nj} / \tau}}`

    :math:`s_{nj}` is the product of query n and key j, and j runs over the keys and the negatives.
    Each loss lies above 0, and a guess has the logarithm of their number. That logarithm minus the
    expected loss is a lower bound on the mutual information, so no batch can show more of it than
    the logarithm. A mean near the logarithm shows nothing, but it does not prove that nothing was
    learned: with a large temperature, or with vectors in a narrow cone, every loss is near it.

    Computed by :func:`linear_cross_entropy`: of the matrix of similarities, which has N * N
    entries, ``chunk_size`` rows exist at a time, in the backward pass too. Halves are multiplied
    in float32, except under autocast.

    Args:
        query: shape (N, D).
        key: the key of each query, shape (N, D).
        temperature: :math:`\tau`, positive and finite; a tensor of one number may want a gradient.
            To learn it, let its logarithm be the parameter and pass the exponential, which cannot
            get negative. Values from 0.05 to 0.2 are usual for vectors of length 1.
        negatives: more keys that belong to none of the queries, shape (K, D), such as a queue of
            earlier batches or the keys of other processes.
        symmetric: whether to take the mean of this loss and of that of finding a key's query among
            those of the batch. Not together with ``negatives``.
        normalize: whether to divide each vector by its length first, so that similarities are
            cosines. A vector of zeros has no direction: it is as similar to every other and gets
            no gradient. False takes the vectors as they are.
        reduction: "none", "mean" or "sum".
        chunk_size: as for :func:`linear_cross_entropy`.
        validate: as for :func:`linear_cross_entropy`.

    Returns:
        A number, or with "none" the shape (N); float64 if a vector is float64, and else float32.

    Raises:
        ValueError: the shapes differ or are empty, an option is not as above, or both ``negatives``
            and ``symmetric`` are given.

    Source: van den Oord, Li and Vinyals (2018), arXiv:1807.03748; for both directions and a learned
    temperature Radford et al. (2021), arXiv:2103.00020.

    Example: the exponential of 1 / 0.001 overflows, and the quotient would be NaN.
        >>> query = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
        >>> key = torch.tensor([[0.0, 2.0], [3.0, 0.0]], dtype=torch.float64)
        >>> round(info_nce(query, key, temperature=0.001).item(), 9)
        600.0
        >>> f"{info_nce(query, key.flip(0), temperature=0.01, reduction='none')[1].item():.12e}"
        '2.061153620314e-09'
    """
    one_of("reduction", reduction, REDUCTIONS)
    query, key, negatives = tensors(query=query, key=key, negatives=negatives)
    given: dict[str, Any] = {"query": query, "key": key}
    if negatives is not None:
        if symmetric:
            raise ValueError("symmetric = True: expected False together with negatives")
        given["negatives"] = negatives
    _check_shapes(**given)
    factor = 1.0 / positive("temperature", temperature, query)
    if isinstance(factor, float) and math.isinf(factor):
        raise ValueError(f"temperature = {temperature}: expected a number whose inverse is finite")
    given = {name: real(name, a) for name, a in given.items()}
    dtype = wide(*given.values())
    x, *among = (_vectors(a.to(dtype), normalize) for a in given.values())
    own = torch.arange(x.shape[0], device=x.device)
    options: dict[str, Any] = {"scale": factor, "reduction": reduction, "chunk_size": chunk_size}
    options["validate"] = validate
    loss: Tensor = linear_cross_entropy(x, torch.cat(among), own, **options)
    if symmetric:
        loss = (loss + linear_cross_entropy(among[0], x, own, **options)) / 2
    return loss


def _check_shapes(query: Tensor, key: Tensor, negatives: Tensor | None = None) -> None:
    if query.ndim != 2 or 0 in query.shape:
        refuse_shape("query", query.shape, "(N, D), N and D above 0")
    if key.shape != query.shape:
        refuse_shape("key", key.shape, f"that of query, {tuple(query.shape)}")
    if negatives is not None and (negatives.ndim != 2 or negatives.shape[1] != query.shape[1]):
        refuse_shape("negatives", negatives.shape, f"(K, {query.shape[1]})")


def _vectors(a: Tensor, normalize: bool) -> Tensor:
    """Vectors as they are, or of length 1."""
    if not normalize:
        return a
    # The largest entry is a constant here, because it does not change the direction. Without this
    # division squares would overflow or underflow.
    largest = a.detach().abs().amax(-1, keepdim=True)
    nothing = largest == 0  # no direction: divided by infinity it stays 0 and gets no gradient
    a = a / largest.masked_fill(nothing, math.inf)
    length: Tensor = torch.linalg.vector_norm(a, dim=-1, keepdim=True)
    return a / length.masked_fill(nothing, 1.0)
