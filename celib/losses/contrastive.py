"""Contrastive losses: which of many candidates belongs to a query."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from celib.arguments.errors import one_of, refuse_dtype, refuse_shape
from celib.arguments.tensors import for_arrays, positive, real, tensors
from celib.losses.multiclass import linear_cross_entropy
from celib.losses.reduction import REDUCTIONS


@for_arrays
def info_nce(
    query: Tensor,
    key: Tensor,
    *,
    temperature: float | Tensor,
    normalize: bool = True,
    symmetric: bool = False,
    reduction: str = "mean",
    chunk_size: int | None = None,
    validate: bool = True,
) -> Any:
    r"""InfoNCE: cross-entropy of finding, for each query, its own key among all keys.

    Use it to train two encoders on pairs (an image and its caption, two views of an image), without
    labels: the other pairs of the batch are the wrong answers. For several right keys for a query,
    as in supervised contrastive learning, call :func:`linear_cross_entropy` with probabilities as
    targets.

    .. math:: \ell_n = \mathrm{LSE}_m(s_{nm}) - s_{nn}, \qquad
              s_{nm} = \frac{x_n^\top k_m}{\tau}

    (equation ``eq-info-nce``), with queries :math:`x_n` and keys :math:`k_m`, which are first
    divided by their norms. It is :func:`linear_cross_entropy` with the keys as classes: the N x M
    matrix of similarities is never in memory as a whole, and the gradient reaches queries, keys and
    the temperature. ``log N`` minus the mean loss is a lower bound of the mutual information of
    the pair, and never above ``log N``.

    Args:
        query: shape (N, D).
        key: shape (M, D), M at least N. Key n belongs to query n; keys from N on belong to none.
        temperature: :math:`\tau`, positive and finite; a tensor of one number may want a gradient.
        normalize: whether to divide queries and keys by their norms, so that :math:`s` is a cosine
            over the temperature. A row of zeros stays one.
        symmetric: whether to take the mean with the loss of finding the query of each key; M is
            then N.
        reduction: "none", "mean" or "sum", over the queries.
        chunk_size, validate: as for :func:`linear_cross_entropy`.

    Returns:
        A number, or with "none" the shape (N).

    Raises:
        ValueError: the shapes are not as above, or an option is not.

    Source: van den Oord, Li and Vinyals (2018), arXiv:1807.03748; for both directions Radford et
    al. (2021), arXiv:2103.00020.

    Example: every query has its own key, and the losses are too small for a softmax to see.
        >>> pairs = torch.eye(3, dtype=torch.float64)
        >>> f"{info_nce(pairs, pairs, temperature=0.02).item():.6e}"
        '3.857500e-22'
        >>> info_nce(pairs, pairs.roll(1, 0), temperature=0.02).item()
        50.0
    """
    one_of("reduction", reduction, REDUCTIONS)
    query, key = tensors(query=query, key=key)
    query, key = real("query", query), real("key", key)
    if query.ndim != 2:
        refuse_shape("query", query.shape, "(N, D)")
    if key.ndim != 2 or key.shape[1] != query.shape[1]:
        refuse_shape("key", key.shape, f"(M, {query.shape[1]}), as long as the rows of query")
    if key.shape[0] < query.shape[0] or (symmetric and key.shape[0] != query.shape[0]):
        most = "one for each query" if symmetric else "at least one for each query"
        refuse_shape("key", key.shape, f"{query.shape[0]} rows, {most}")
    if key.dtype != query.dtype:
        refuse_dtype("key", key.dtype, f"that of query, {query.dtype}")
    factor = positive("temperature", temperature, query)
    if normalize:
        query, key = (torch.nn.functional.normalize(a, dim=-1) for a in (query, key))
    own = torch.arange(query.shape[0], device=query.device)

    def found(a: Tensor, b: Tensor) -> Any:
        return linear_cross_entropy(
            a, b, own, scale=1 / factor, reduction=reduction,
            chunk_size=chunk_size, validate=validate,
        )  # fmt: skip

    loss = found(query, key)
    return (loss + found(key, query)) / 2 if symmetric else loss
