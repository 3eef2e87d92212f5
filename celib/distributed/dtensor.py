"""The losses of a DTensor, whose one-dimensional mesh splits the rows or the classes.

:func:`celib.losses.cross_entropy` and :func:`celib.losses.linear_cross_entropy` call the functions
here when their logits or their layer are a DTensor (:func:`celib.arguments.tensors.is_dtensor`).

- ``Replicate()``: every rank computes the whole loss, and nothing is exchanged.
- ``Shard`` of the classes: see :mod:`celib.distributed.vocabulary`.
- ``Shard`` of another axis: every rank computes the losses of its own rows. For a mean or a sum,
  two numbers per rank are exchanged, the sum of the losses and what a mean divides by.

A plain tensor among the other arguments stands for the whole, the same on all ranks; a DTensor is
redistributed as it is needed. The result is a DTensor on the same mesh: ``Replicate()`` for a
number, and without a reduction as the rows are. Every rank calls ``backward`` on it, and the
gradient has the placement of what it belongs to.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard

from celib.arguments.errors import one_of, positive
from celib.arguments.tensors import is_dtensor, tensors
from celib.distributed.ranks import Ranks, agree
from celib.distributed.vocabulary import (
    vocab_parallel_cross_entropy,
    vocab_parallel_linear_cross_entropy,
)
from celib.kernels.family import lookup, weight_of
from celib.losses import multiclass
from celib.losses.multiclass import CrossEntropy
from celib.losses.reduction import REDUCTIONS, mean_of


def cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    *,
    sample_weight: Any = None,
    scale: Any = 1.0,
    inplace_backward: bool = False,
    **options: Any,
) -> Any:
    """:func:`celib.losses.cross_entropy` of logits that are a DTensor.

    Args:
        input: logits on a mesh of one dimension, ``Replicate()`` or ``Shard`` of any axis.
        target, weight, sample_weight: the whole, the same on all ranks; or a DTensor.
        scale: a number.
        inplace_backward: must be False.
        options: as for :func:`celib.losses.cross_entropy`. If the classes are split, the targets
            must be classes.

    Returns:
        A DTensor on the mesh of ``input``, or a :class:`~celib.losses.CrossEntropy` of them.

    Raises:
        ValueError, TypeError, RuntimeError: as for
            :func:`celib.distributed.vocab_parallel_cross_entropy`; or the mesh has more than one
            dimension, or ``input`` another placement.

    Example: one process, which is a mesh of one.
        >>> import torch.distributed as dist
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> mesh = DeviceMesh("cpu", [0])
        >>> z = DTensor.from_local(torch.tensor([[0.0, -40.0]]), mesh, [Shard(1)])
        >>> loss = cross_entropy(z, torch.tensor([0]))
        >>> f"{loss.full_tensor().item():.6e}", loss.placements
        ('4.248354e-18', (Replicate(),))
        >>> dist.destroy_process_group()
    """
    if inplace_backward:
        raise ValueError("inplace_backward = True: expected False for a DTensor")
    options["scale"] = scale
    mesh, placement = _layout("input", input)
    axis = min(1, input.ndim - 1)
    local = input.to_local(grad_placements=[placement])
    if placement == Shard(axis):
        target, weight, sample_weight = (_local(a, mesh) for a in (target, weight, sample_weight))
        loss = vocab_parallel_cross_entropy(
            local,
            target,
            weight=weight,
            sample_weight=sample_weight,
            process_group=mesh.get_group(),
            **options,
        )
        return _on_all(loss, mesh)
    sites = (*input.shape[:axis], *input.shape[axis + 1 :])
    call = _Rows(mesh, placement, input.shape, sites, axis)
    loss_of = functools.partial(multiclass.cross_entropy, local)
    return call.loss("cross_entropy", loss_of, target, weight, sample_weight, options)


def linear_cross_entropy(
    input: Any,
    linear_weight: Any,
    target: Any,
    *,
    linear_bias: Any = None,
    weight: Any = None,
    sample_weight: Any = None,
    scale: Any = 1.0,
    chunk_size: int | None = None,
    **options: Any,
) -> Any:
    """:func:`celib.losses.linear_cross_entropy` of an input or a layer that is a DTensor.

    With a weight that is ``Shard(0)`` the classes are split, and the input is taken as a whole:
    rows that are split are gathered first. Otherwise the rows may be split, and the gradients of
    the layer are sums over the ranks.

    The weight of a module under FSDP2 is a DTensor too, ``Shard(0)`` on the ranks of data
    parallelism, whose inputs are not the same. There the loss belongs into the forward pass of the
    module, or after its ``unshard()``, where the weight is a plain tensor.

    Args:
        input: ``Replicate()``, ``Shard`` of an axis of rows, or a plain tensor, which is the same
            on all ranks.
        linear_weight, linear_bias: ``Shard(0)``, ``Replicate()``, or plain tensors, which are the
            whole.
        target, weight, sample_weight, scale, options: as for :func:`cross_entropy`.
        chunk_size: as for :func:`celib.losses.linear_cross_entropy`.

    Returns:
        As :func:`cross_entropy`.

    Raises:
        ValueError, TypeError, RuntimeError: as for :func:`cross_entropy`.
    """
    options["scale"] = scale
    if is_dtensor(linear_weight):
        mesh, of_weight = _layout("linear_weight", linear_weight)
    else:
        (mesh, _), of_weight = _layout("input", input), Replicate()
    if of_weight == Shard(0):
        loss = vocab_parallel_linear_cross_entropy(
            _local(input, mesh),
            _local(linear_weight, mesh, Shard(0)),
            _local(target, mesh),
            linear_bias=_local(linear_bias, mesh, Shard(0)),
            weight=_local(weight, mesh),
            sample_weight=_local(sample_weight, mesh),
            process_group=mesh.get_group(),
            chunk_size=chunk_size,
            **options,
        )
        return _on_all(loss, mesh)
    if of_weight != Replicate():
        raise ValueError(f"linear_weight has {of_weight}: expected Shard(0) or Replicate()")
    of_input: Placement = Replicate()
    if is_dtensor(input):
        _, of_input = _layout("input", input)
    axis = input.ndim - 1
    if of_input == Shard(axis):
        raise ValueError(f"input has {of_input}: expected Shard of another axis, or Replicate()")
    # Each rank adds what its rows contribute.
    summed = Replicate() if of_input == Replicate() else Partial()
    loss_of = functools.partial(
        multiclass.linear_cross_entropy,
        _local(input, mesh, of_input),
        _local(linear_weight, mesh, Replicate(), summed),
        linear_bias=_local(linear_bias, mesh, Replicate(), summed),
        chunk_size=chunk_size,
    )
    shape = (*input.shape[:-1], linear_weight.shape[0])
    call = _Rows(mesh, of_input, shape, shape[:-1], axis)
    return call.loss("linear_cross_entropy", loss_of, target, weight, sample_weight, options)


class _Rows(NamedTuple):
    """A call whose rows are split over the ranks, or are all on each of them."""

    mesh: DeviceMesh
    placement: Placement
    shape: tuple[int, ...]  #: of the logits
    sites: tuple[int, ...]  #: the same without the classes
    axis: int  #: of the classes

    @property
    def of_sites(self) -> Placement:
        """The placement of what has no classes."""
        if not isinstance(self.placement, Shard) or self.placement.dim < self.axis:
            return self.placement
        return Shard(self.placement.dim - 1)

    def loss(
        self,
        name: str,
        loss_of: Callable[..., Any],
        target: Any,
        weight: Any,
        sample_weight: Any,
        options: Mapping[str, Any],
    ) -> Any:
        """What ``loss_of`` returns for all rows; it is called with those of this rank."""
        (target,) = tensors(target=target)
        soft = tuple(target.shape) == tuple(self.shape)
        y = _local(target, self.mesh, self.placement if soft else self.of_sites)
        w, each = _local(weight, self.mesh), _local(sample_weight, self.mesh, self.of_sites)
        arguments = {"target": y, "weight": w, "sample_weight": each, **options}
        if self.placement == Replicate():
            return _on_all(loss_of(**arguments), self.mesh)
        reduction = options.get("reduction", "mean")
        statistics = options.get("return_statistics", False)

        def prepare() -> _Share:
            one_of("reduction", reduction, REDUCTIONS)
            arguments["scale"] = positive("scale", options["scale"])
            arguments["reduction"] = "none" if reduction == "none" or statistics else "sum"
            found = loss_of(**arguments)
            loss = found.loss if statistics else found
            divisor = self.divisor(y, w, each, soft, loss, options)
            shape = f"{tuple(self.shape)} of {loss.dtype}"
            terms = {"function": name, "shape of logits": shape}
            terms |= {option: repr(value) for option, value in options.items()}
            validate = bool(options.get("validate", True))
            return _Share(found, loss.sum(dtype=torch.float64), divisor, terms, validate)

        ranks = Ranks(name, self.mesh.get_group())
        share, _ = agree(ranks, prepare)
        loss = share.found.loss if statistics else share.found
        if reduction == "none":
            loss = self.wrapped(loss)
        else:
            total, divisor = _total(share.sum, share.divisor, ranks)
            total = (total if reduction == "sum" else mean_of(total, divisor)).to(loss.dtype)
            loss = _on_all(total, self.mesh)
        if not statistics:
            return loss
        return CrossEntropy(loss, *map(self.wrapped, share.found[1:]))

    def divisor(
        self,
        y: Tensor,
        w: Tensor | None,
        each: Tensor | None,
        soft: bool,
        loss: Tensor,
        options: Mapping[str, Any],
    ) -> Tensor:
        """What a mean divides by, as far as the rows of this rank contribute to it."""
        over = options.get("mean_over") or ("count" if soft else "weight")
        if soft:
            share = y.new_ones(y.shape[: self.axis] + y.shape[self.axis + 1 :])
            if over == "weight":
                q = y.movedim(self.axis, -1)
                share = (q if w is None else q * w).sum(-1)
        else:
            ignored = options.get("ignore_index")
            at, kept, _ = lookup(y, self.shape[self.axis], -100 if ignored is None else ignored)
            share = kept.to(loss.dtype)
            if over == "weight" and w is not None:
                share = torch.where(kept, weight_of(at, w.to(loss.dtype)), 0.0)
        return (share if each is None else share * each).sum(dtype=torch.float64)

    def wrapped(self, a: Tensor) -> DTensor:
        """A rank's entries of something that has no classes."""
        whole = torch.empty(self.sites, device="meta")
        return DTensor.from_local(
            a, self.mesh, [self.of_sites], run_check=False, shape=whole.shape, stride=whole.stride()
        )


class _Share(NamedTuple):
    """What a rank contributes to the loss of all rows."""

    found: Any  #: what the loss of its rows returned
    sum: Tensor
    divisor: Tensor
    terms: Mapping[str, str]
    validate: bool
    tensors: Mapping[str, Tensor | None] = {}  #: none: the rows are not the same on all ranks
    classes: int = 0


class _Total(Function):
    """The sums over all ranks, added in the order of the ranks; every rank has the same loss.

    So the derivative with respect to a rank's own number is 1.
    """

    @staticmethod
    def forward(ctx: Any, loss: Tensor, divisor: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
        received = ranks.gather(torch.stack([loss, divisor]), "two numbers")
        total_loss, total_divisor = received.sum(0)
        return total_loss.clone(), total_divisor.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor, of_divisor: Tensor) -> tuple[Tensor, Tensor, None]:
        return g, of_divisor, None


_total: Callable[..., tuple[Tensor, Tensor]] = _Total.apply


def _layout(name: str, a: DTensor) -> tuple[DeviceMesh, Placement]:
    """The mesh and the placement of a DTensor, on a mesh of one dimension."""
    mesh = a.device_mesh
    if mesh.ndim != 1:
        raise ValueError(
            f"{name} is on a mesh of {mesh.ndim} dimensions: expected one dimension, "
            "such as mesh['tp']"
        )
    (placement,) = a.placements
    if isinstance(placement, Shard):
        return mesh, Shard(placement.dim % a.ndim)
    if not isinstance(placement, Replicate):
        raise ValueError(
            f"{name} has {placement}: expected Shard or Replicate(), "
            f"such as {name}.redistribute(placements=[Replicate()])"
        )
    return mesh, placement


def _local(
    a: Any, mesh: DeviceMesh, placement: Placement | None = None, grad: Placement | None = None
) -> Any:
    """This rank's part of an argument, by default all of it; plain tensors stand for the whole."""
    if a is None:
        return None
    wanted = Replicate() if placement is None else placement
    if not is_dtensor(a):
        (a,) = tensors(a=a)
        a = DTensor.from_local(a, mesh, [Replicate()], run_check=False)
    if a.device_mesh != mesh:
        raise ValueError(f"an argument is on {a.device_mesh}: expected {mesh}")
    return a.redistribute(mesh, [wanted]).to_local(grad_placements=[grad or wanted])


def _on_all(found: Any, mesh: DeviceMesh) -> Any:
    """A result that all ranks have, as a DTensor."""
    if isinstance(found, CrossEntropy):
        return CrossEntropy(*(_on_all(a, mesh) for a in found))
    return DTensor.from_local(found, mesh, [Replicate()], run_check=False)
