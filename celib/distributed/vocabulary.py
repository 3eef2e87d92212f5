"""Cross-entropy of rows whose classes are spread over the ranks of a process group."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from celib.arguments.errors import integer, positive, refuse_dtype, refuse_shape, refuse_type
from celib.arguments.tensors import (
    autocast,
    class_weights,
    for_arrays,
    is_dtensor,
    labels,
    real,
    sample_weights,
    tensors,
    wide,
)
from celib.distributed.merging import Targets, linear_rows, rows
from celib.distributed.ranks import Place, Ranks, agree
from celib.kernels.family import Options, Rows, weight_of
from celib.kernels.linear import SLICE
from celib.losses.multiclass import finished, options_of, without_ignored

# More classes than there can be, where their number is not known yet.
MANY = 2**62


@for_arrays
def vocab_parallel_cross_entropy(
    local_logits: Tensor,
    target: Tensor,
    *,
    process_group: dist.ProcessGroup | None = None,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    scale: float = 1.0,
    mean_over: str | None = None,
    sample_weight: Tensor | None = None,
    return_statistics: bool = False,
    validate: bool = True,
) -> Any:
    r"""Cross-entropy when each rank of a process group holds the logits of some of the classes.

    This is the loss for a tensor-parallel classifier or language model, whose last layer is split
    by classes. All ranks of the group call it, with their own logits and with the same targets. The
    result is that of ``celib.losses.cross_entropy(torch.cat(all_logits, axis), target, ...)``
    (equation ``eq-family``), with the same accuracy, and no rank ever holds a whole row. It is the
    same on all ranks, bit for bit.

    Forward, a header of 56 bytes per rank is exchanged first, from which every rank learns where
    its classes begin and whether all agree. Then follows one all-gather of three numbers per row:
    the largest logit of a rank without the target, the sum of exponentials relative to it, and the
    logit of the target, which one rank has. ``label_smoothing`` takes two numbers more (the sum of
    the logits' distances to the largest, and how many classes are not masked out), with ``weight``
    three, and ``return_statistics`` takes one more, for the entropy. Backward, nothing is
    exchanged, and nothing of the size of the logits is kept for it but they themselves.

    Every rank calls ``backward`` on its own copy of the loss, and gets the gradient of the one
    shared loss with respect to its own logits; it is not multiplied by the number of ranks. This is
    the convention of Megatron-LM and of torch's ``loss_parallel``.

    Args:
        local_logits: the logits of a contiguous range of classes, in nats: shape (K), (N, K) or
            (N, K, d1, ...). Lower ranks hold lower classes, and C is the sum of all K. The ranks
            may have different K, some of them 0. All must have the same dtype.
        target: classes from 0 to C - 1, the same on all ranks, of the shape of ``local_logits``
            without K.
        process_group: the ranks that share the classes; None for the default group.
        weight: a factor for each of all C classes, shape (C), the same on all ranks.
        label_smoothing: as for :func:`celib.losses.cross_entropy`; the classes that share it are
            those of all ranks.
        scale: a positive number.
        sample_weight: a factor for each target, the same on all ranks.
        validate: whether to check the values of ``target`` and ``weight``, and whether these and
            ``sample_weight`` are the same on all ranks. The call then waits for the values, on a
            GPU too. Shapes, dtypes and options are compared in any case, but with an NCCL group and
            ``validate=False``, where nothing is waited for and nothing is compared.
        ignore_index, reduction, z_loss, softcap, mean_over, return_statistics: as for
            :func:`celib.losses.cross_entropy`.

    Returns:
        As :func:`celib.losses.cross_entropy`.

    Raises:
        ValueError: a shape, an option or a value is not as above, or the ranks disagree about
            one: then on every rank, with the ranks and their values. If one rank refuses its
            arguments, so do the others, and their error contains its message.
        TypeError: an argument is of a type or dtype that the loss does not take.
        RuntimeError: another rank died or did not come within the timeout of the process group.
        NotImplementedError: the gradient was asked for with ``create_graph=True``; it cannot be
            differentiated again.

    Source: Shoeybi et al. (2019), arXiv:1909.08053, section 3, for the problem; the merging of
    parts is that of Milakov and Gimelshein (2018), arXiv:1805.02867.

    Example: a group of one process; under ``torchrun`` the call is the same. The loss is so small
    that minus the logarithm of the probability, which rounds to 1, would be 0.
        >>> import torch.distributed as dist
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> z = torch.tensor([[0.0, -40.0]], dtype=torch.float64)
        >>> f"{vocab_parallel_cross_entropy(z, torch.tensor([0])).item():.12e}"
        '4.248354255292e-18'
        >>> dist.destroy_process_group()
    """

    def prepare() -> _Call:
        factor = positive("scale", scale)
        o = options_of(
            *(ignore_index, reduction, label_smoothing, z_loss, softcap, factor, mean_over),
            return_statistics,
        )
        z, *shared = _plain(
            local_logits=local_logits, target=target, weight=weight, sample_weight=sample_weight
        )
        z = real("local_logits", z)
        if z.ndim == 0:
            refuse_shape("local_logits", z.shape, "(K), (N, K) or (N, K, d1, ...)")
        z = z.movedim(min(1, z.ndim - 1), -1)
        sites, count = z.shape[:-1], z.shape[-1]
        # The kernels want rows whose entries are contiguous: other layouts are copied.
        x = z.reshape(math.prod(sites), count)
        x = x if x.stride(-1) == 1 or count <= 1 else x.contiguous()
        terms = {"function": ranks.caller, "shape without classes": tuple(sites)}
        return _call(x, None, count, sites, shared, o, reduction, mean_over, validate, terms)

    ranks = Ranks("vocab_parallel_cross_entropy", process_group)
    call, place = agree(ranks, prepare)
    targets = _targets(call, place)
    found = rows(call.x, targets, call.options, ranks)
    return _result(call, found)


@for_arrays
def vocab_parallel_linear_cross_entropy(
    input: Tensor,
    local_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    process_group: dist.ProcessGroup | None = None,
    weight: Tensor | None = None,
    ignore_index: int | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    scale: float = 1.0,
    mean_over: str | None = None,
    sample_weight: Tensor | None = None,
    chunk_size: int | None = None,
    return_statistics: bool = False,
    validate: bool = True,
) -> Any:
    r"""Cross-entropy of a linear layer whose weight is split by classes, without all its logits.

    The result is that of :func:`vocab_parallel_cross_entropy` for the logits
    ``linear(input, local_weight, linear_bias)``, of which each rank computes ``chunk_size`` columns
    at a time, once for the loss and once more for the gradient. This takes four matrix products,
    while three suffice if there is memory for the logits.

    Forward, the ranks exchange what :func:`vocab_parallel_cross_entropy` exchanges. Backward, one
    all-reduce sums the gradient with respect to ``input``, N * D numbers in float32 (float64 for
    float64), if ``input`` requires a gradient. So each rank gets all of that gradient, and there is
    nothing left to reduce for the layers below. Every rank has to call ``backward``; with
    ``validate`` a header is exchanged before, so that a rank which calls another distributed loss
    instead is an error, too.

    Args:
        input: shape (D) or (..., D), the same on all ranks. Its values are not compared.
        local_weight: the rows of the layer's weight for a contiguous range of classes, shape
            (K, D). Lower ranks hold lower classes.
        target: classes from 0 to C - 1, the same on all ranks, of the shape of ``input`` without D.
        linear_bias: the bias of the same classes, shape (K).
        process_group: the ranks that share the classes; None for the default group.
        weight: a factor for each of all C classes, shape (C), the same on all ranks.
        chunk_size: at least 1; None for a number that suits the device. A rank's logits take
            chunk_size * N numbers.
        ignore_index, reduction, label_smoothing, z_loss, softcap, scale, mean_over, sample_weight,
            return_statistics, validate: as for :func:`vocab_parallel_cross_entropy`.
            ``ignore_index=None`` is -100.

    Returns:
        As :func:`celib.losses.linear_cross_entropy`. The gradient cannot be differentiated again.

    Raises:
        ValueError, TypeError, RuntimeError, NotImplementedError: as for
            :func:`vocab_parallel_cross_entropy`.

    Source: Shoeybi et al. (2019), arXiv:1909.08053, section 3, for layers that are split; Wijmans
    et al. (2024), arXiv:2411.09009, for the loss of a linear layer.

    Example: a group of one process, whose logits exist one column at a time.
        >>> import torch.distributed as dist
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> x, y = torch.eye(3), torch.tensor([0, 1, 3])
        >>> loss = vocab_parallel_linear_cross_entropy(x, torch.ones(4, 3), y, chunk_size=1)
        >>> round(loss.item(), 6)
        1.386294
        >>> dist.destroy_process_group()
    """

    def prepare() -> _Call:
        factor = positive("scale", scale)
        ignore = -100 if ignore_index is None else ignore_index
        o = options_of(
            *(ignore, reduction, label_smoothing, z_loss, softcap, factor, mean_over),
            return_statistics,
        )
        if chunk_size is not None:
            integer("chunk_size", chunk_size, lambda n: 0 < n < 2**63, "at least 1")
        x, matrix, bias, *shared = _plain(
            input=input,
            local_weight=local_weight,
            linear_bias=linear_bias,
            target=target,
            weight=weight,
            sample_weight=sample_weight,
        )
        x, matrix = real("input", x), real("local_weight", matrix)
        bias = None if bias is None else real("linear_bias", bias)
        _check_layer(x, matrix, bias)
        sites, y = x.shape[:-1], shared[0]
        terms = {
            "function": ranks.caller,
            "shape of input": tuple(x.shape),
            "requires_grad of input": x.requires_grad and torch.is_grad_enabled(),
            "linear_bias": "None" if bias is None else "given",
        }
        x = x.reshape(math.prod(sites), x.shape[-1])
        if y.shape == sites:
            # An ignored row may hold anything, also NaN, which the products would spread.
            x = without_ignored(x, y.reshape(-1), o.ignore_index)
        x, matrix, bias = autocast(x, matrix, bias)
        layer = matrix, bias
        return _call(x, layer, len(matrix), sites, shared, o, reduction, mean_over, validate, terms)

    ranks = Ranks("vocab_parallel_linear_cross_entropy", process_group)
    call, place = agree(ranks, prepare)
    targets = _targets(call, place)
    assert call.layer is not None
    columns = chunk_size or SLICE.get(call.x.device.type, SLICE["cuda"])
    found = linear_rows(call.x, *call.layer, targets, call.options, ranks, columns, call.validate)
    return _result(call, found)


class _Call(NamedTuple):
    """The arguments of a call, checked as far as a rank can check them alone."""

    x: Tensor  #: rows of logits, shape (N, K), or of the input of a layer, shape (N, D)
    layer: tuple[Tensor, Tensor | None] | None  #: its weight (K, D) and bias (K)
    classes: int  #: K
    sites: tuple[int, ...]  #: the shape of the targets
    target: Tensor
    weight: Tensor | None
    sample_weight: Tensor | None
    options: Options
    reduction: str
    mean_over: str | None
    validate: bool
    terms: Mapping[str, str]  #: what the ranks must agree about, in words

    @property
    def tensors(self) -> dict[str, Tensor | None]:
        return {
            "target": self.target,
            "weight": self.weight,
            "sample_weight": self.sample_weight,
        }


def _call(
    x: Tensor,
    layer: tuple[Tensor, Tensor | None] | None,
    classes: int,
    sites: Sequence[int],
    shared: Sequence[Tensor | None],
    o: Options,
    reduction: str,
    mean_over: str | None,
    validate: bool,
    terms: Mapping[str, object],
) -> _Call:
    target, weight, sample_weight = shared
    assert target is not None
    # Whether a class exists is known once the ranks have told how many classes they hold.
    labels(target, sites, MANY, o.ignore_index, validate=False)
    if weight is not None:
        weight = real("weight", weight)
        if weight.ndim != 1:
            refuse_shape("weight", weight.shape, "(C), a factor for each class of all ranks")
        if weight.requires_grad:
            raise ValueError("weight requires grad: expected constants")
    sample_weight = sample_weights(sample_weight, sites, wide(x), validate)
    o = Options.of(o.ignore_index, [float(a) for a in o.numbers()])  # NumPy's numbers too
    terms = {
        **terms,
        "dtype": x.dtype,
        "dtype of target": target.dtype,
        "device": x.device.type,
        "reduction": repr(reduction),
        "mean_over": repr(mean_over),
        "ignore_index": o.ignore_index,
        "label_smoothing": o.label_smoothing,
        "z_loss": o.z_loss,
        "softcap": o.softcap or None,
        "scale": o.scale,
        "return_statistics": o.entropy,
        "validate": bool(validate),
        "weight": "None" if weight is None else f"a tensor of shape {tuple(weight.shape)}",
        "sample_weight": "None" if sample_weight is None else "given",
    }
    words = {name: str(value) for name, value in terms.items()}
    return _Call(
        x, layer, classes, tuple(sites), target, weight, sample_weight,
        o, reduction, mean_over, validate, words,
    )  # fmt: skip


def _targets(call: _Call, place: Place) -> Targets:
    """The targets and weights, now that the number of classes is known.

    What is refused here is refused on all ranks, because they agree about all that is looked at.
    """
    o, dtype, total = call.options, wide(call.x), MANY
    if call.validate or place.total.device.type == "cpu":
        total = int(place.total)
        if total == 0:
            refuse_shape("the logits of all ranks", (*call.sites, 0), "at least one class")
    y = labels(call.target, call.sites, total, o.ignore_index, call.validate).reshape(-1).long()
    kept = y != o.ignore_index
    wrong = kept & ((y < 0) | (y >= place.total))
    here = kept & (y >= place.first) & (y < place.first + call.classes)
    share, local = kept.to(dtype), None
    if call.weight is not None:
        count = call.weight.shape[0] if total == MANY else total
        weight = class_weights(call.weight, count, dtype, call.validate)
        assert weight is not None
        share = torch.where(kept & ~wrong, weight_of(torch.where(kept & ~wrong, y, 0), weight), 0.0)
        local = weight[torch.arange(call.classes, device=y.device) + place.first]
    return Targets(torch.where(here, y - place.first, 0), here, kept, wrong, share, local)


def _result(call: _Call, found: Rows) -> Any:
    over = call.mean_over or "weight"
    y, each, o = call.target.reshape(-1), call.sample_weight, call.options
    return finished(found, y, call.sites, None, each, call.reduction, over, o, o.entropy)


def _plain(**given: Any) -> list[Any]:
    """Arguments as tensors; a DTensor, whose values are those of other ranks too, is refused."""
    for name, a in given.items():
        if is_dtensor(a):
            refuse_type(
                name, a, f"a tensor of this rank, such as {name}.to_local(); "
                "celib.losses.cross_entropy and linear_cross_entropy take a DTensor as it is",
            )  # fmt: skip
    return tensors(**given)


def _check_layer(input: Tensor, local_weight: Tensor, linear_bias: Tensor | None) -> None:
    device = input.device.type
    cast = device != "meta" and torch.is_autocast_enabled(device)
    given = {"local_weight": local_weight, "linear_bias": linear_bias}
    for name, a in given.items():
        if a is not None and a.dtype != input.dtype and not cast:
            refuse_dtype(name, a.dtype, f"that of input, {input.dtype}")
    d = input.shape[-1] if input.ndim else 0
    if local_weight.ndim != 2 or local_weight.shape[1] != d or d == 0:
        raise ValueError(
            f"local_weight has shape {tuple(local_weight.shape)}: expected (K, D), D above 0, "
            f"with input of shape (..., D), here {tuple(input.shape)}"
        )
    if linear_bias is not None and linear_bias.shape != local_weight.shape[:1]:
        refuse_shape("linear_bias", linear_bias.shape, f"{tuple(local_weight.shape[:1])}")
