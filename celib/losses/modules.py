"""The losses as modules of torch: thin, with their options as attributes of the same names.

Class weights are buffers, and move with the module; a scale or a temperature that is a parameter is
trained with it. What the options mean is said by the function that a class calls.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from celib.arguments.errors import refuse_shape
from celib.arguments.tensors import tensors
from celib.losses.binary import (
    binary_cross_entropy_with_logits,
    multilabel_soft_margin_loss,
    sigmoid_focal_loss,
)
from celib.losses.contrastive import info_nce
from celib.losses.distillation import distillation_loss, linear_distillation_loss
from celib.losses.multiclass import (
    Scale,
    cross_entropy,
    focal_loss,
    generalized_cross_entropy,
    linear_cross_entropy,
    symmetric_cross_entropy,
)


class _Loss(Module):
    """What the losses have in common: options, as keyword arguments of the function they call."""

    def __init__(self, *, factors: dict[str, Tensor | None] | None = None, **options: Any) -> None:
        super().__init__()
        self._options = (*(factors or {}), *options)
        for name, given in (factors or {}).items():
            self.register_buffer(name, tensors(**{name: given})[0])
        for name, value in options.items():
            if isinstance(value, Tensor) and not isinstance(value, Parameter):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def _keywords(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._options}

    def extra_repr(self) -> str:
        plain = self._keywords().items()
        return ", ".join(f"{k}={v!r}" for k, v in plain if not isinstance(v, Tensor))


class CrossEntropyLoss(_Loss):
    """:func:`~celib.losses.cross_entropy` in the place of :class:`torch.nn.CrossEntropyLoss`.

    Args:
        weight, ignore_index, reduction, label_smoothing, z_loss, softcap, mean_over,
            return_statistics, validate: as for :func:`~celib.losses.cross_entropy`.
        scale: a number, or a tensor of one; a :class:`torch.nn.Parameter` is trained.

    Example: a scale that is learned, as contrastive models do.
        >>> loss = CrossEntropyLoss(scale=Parameter(torch.tensor(10.0)))
        >>> loss(torch.eye(3), torch.arange(3)).backward()
        >>> bool(loss.scale.grad < 0)
        True
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        softcap: float | None = None,
        scale: Scale = 1.0,
        mean_over: str | None = None,
        return_statistics: bool = False,
        validate: bool = True,
    ) -> None:
        super().__init__(
            factors={"weight": weight},
            ignore_index=ignore_index,
            reduction=reduction,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
            softcap=softcap,
            scale=scale,
            mean_over=mean_over,
            return_statistics=return_statistics,
            validate=validate,
        )

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Any:
        return cross_entropy(input, target, sample_weight=sample_weight, **self._keywords())


class LinearCrossEntropyLoss(_Loss):
    """A linear layer and :func:`~celib.losses.linear_cross_entropy`, as torch's class of the name.

    Args:
        in_features: D.
        num_classes: C.
        bias: whether the layer has a bias.
        device, dtype: of the layer.
        tied_weight: a parameter of shape (C, D) that takes the place of the layer's own, such as
            that of an embedding; it stays the same object.
        weight, ignore_index, reduction, label_smoothing, z_loss, softcap, scale, mean_over,
            chunk_size, return_statistics, validate: as for
            :func:`~celib.losses.linear_cross_entropy`.

    Attributes:
        linear: the layer, a :class:`torch.nn.Linear`.

    Raises:
        ValueError: ``tied_weight`` is not of shape (C, D).

    Example: the classes share the vectors of an embedding.
        >>> embedding = torch.nn.Embedding(5, 3)
        >>> loss = LinearCrossEntropyLoss(3, 5, tied_weight=embedding.weight)
        >>> loss(embedding(torch.tensor([1, 2])), torch.tensor([2, 3])).backward()
        >>> loss.linear.weight is embedding.weight, embedding.weight.grad.shape
        (True, torch.Size([5, 3]))
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        bias: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        tied_weight: Parameter | None = None,
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        softcap: float | None = None,
        scale: Scale = 1.0,
        mean_over: str | None = None,
        chunk_size: int | None = None,
        return_statistics: bool = False,
        validate: bool = True,
    ) -> None:
        super().__init__(
            factors={"weight": weight},
            ignore_index=ignore_index,
            reduction=reduction,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
            softcap=softcap,
            scale=scale,
            mean_over=mean_over,
            chunk_size=chunk_size,
            return_statistics=return_statistics,
            validate=validate,
        )
        head = torch.nn.Linear(in_features, num_classes, bias, device, dtype)
        self.linear = _tied(head, tied_weight)

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Any:
        return linear_cross_entropy(
            input,
            self.linear.weight,
            target,
            linear_bias=self.linear.bias,
            sample_weight=sample_weight,
            **self._keywords(),
        )


class BCEWithLogitsLoss(_Loss):
    """:func:`~celib.losses.binary_cross_entropy_with_logits`, as torch's class of the name.

    Args:
        weight, reduction, pos_weight, validate: as for
            :func:`~celib.losses.binary_cross_entropy_with_logits`.
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
        validate: bool = True,
    ) -> None:
        factors = {"weight": weight, "pos_weight": pos_weight}
        super().__init__(factors=factors, reduction=reduction, validate=validate)

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        return binary_cross_entropy_with_logits(
            input, target, sample_weight=sample_weight, **self._keywords()
        )


class MultiLabelSoftMarginLoss(_Loss):
    """:func:`~celib.losses.multilabel_soft_margin_loss`, as torch's class of the name.

    Args:
        weight, reduction, validate: as for :func:`~celib.losses.multilabel_soft_margin_loss`.
    """

    def __init__(
        self, weight: Tensor | None = None, *, reduction: str = "mean", validate: bool = True
    ) -> None:
        super().__init__(factors={"weight": weight}, reduction=reduction, validate=validate)

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        return multilabel_soft_margin_loss(
            input, target, sample_weight=sample_weight, **self._keywords()
        )


class FocalLoss(_Loss):
    """:func:`~celib.losses.focal_loss` as a module.

    Args:
        weight, gamma, ignore_index, reduction, mean_over, validate: as for
            :func:`~celib.losses.focal_loss`.
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        gamma: float = 2.0,
        ignore_index: int = -100,
        reduction: str = "mean",
        mean_over: str | None = None,
        validate: bool = True,
    ) -> None:
        super().__init__(
            factors={"weight": weight},
            gamma=gamma,
            ignore_index=ignore_index,
            reduction=reduction,
            mean_over=mean_over,
            validate=validate,
        )

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        return focal_loss(input, target, sample_weight=sample_weight, **self._keywords())


class SigmoidFocalLoss(_Loss):
    """:func:`~celib.losses.sigmoid_focal_loss` as a module.

    Args:
        alpha, gamma, reduction, validate: as for :func:`~celib.losses.sigmoid_focal_loss`.
    """

    def __init__(
        self,
        alpha: float = 0.25,
        gamma: float = 2.0,
        reduction: str = "none",
        *,
        validate: bool = True,
    ) -> None:
        super().__init__(alpha=alpha, gamma=gamma, reduction=reduction, validate=validate)

    def forward(self, inputs: Tensor, targets: Tensor, sample_weight: Any = None) -> Tensor:
        return sigmoid_focal_loss(inputs, targets, sample_weight=sample_weight, **self._keywords())


class GeneralizedCrossEntropyLoss(_Loss):
    """:func:`~celib.losses.generalized_cross_entropy` as a module.

    Args:
        q, ignore_index, reduction, validate: as for
            :func:`~celib.losses.generalized_cross_entropy`.
    """

    def __init__(
        self,
        *,
        q: float = 0.7,
        ignore_index: int = -100,
        reduction: str = "mean",
        validate: bool = True,
    ) -> None:
        super().__init__(q=q, ignore_index=ignore_index, reduction=reduction, validate=validate)

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        return generalized_cross_entropy(
            input, target, sample_weight=sample_weight, **self._keywords()
        )


class SymmetricCrossEntropyLoss(_Loss):
    """:func:`~celib.losses.symmetric_cross_entropy` as a module.

    Args:
        alpha, beta, log_zero, ignore_index, reduction, validate: as for
            :func:`~celib.losses.symmetric_cross_entropy`.
    """

    def __init__(
        self,
        *,
        alpha: float = 0.1,
        beta: float = 1.0,
        log_zero: float = -4.0,
        ignore_index: int = -100,
        reduction: str = "mean",
        validate: bool = True,
    ) -> None:
        super().__init__(
            alpha=alpha,
            beta=beta,
            log_zero=log_zero,
            ignore_index=ignore_index,
            reduction=reduction,
            validate=validate,
        )

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        return symmetric_cross_entropy(
            input, target, sample_weight=sample_weight, **self._keywords()
        )


class InfoNCELoss(_Loss):
    """:func:`~celib.losses.info_nce` as a module.

    Args:
        temperature: a number, or a tensor of one; a :class:`torch.nn.Parameter` is trained, and has
            to stay positive.
        symmetric, normalize, reduction, chunk_size, validate: as for
            :func:`~celib.losses.info_nce`.

    Example: a temperature that is learned. Similar pairs are found already, so it wants to fall.
        >>> loss = InfoNCELoss(temperature=Parameter(torch.tensor(0.5)), symmetric=True)
        >>> loss(torch.eye(3), torch.eye(3)).backward()
        >>> bool(loss.temperature.grad > 0)
        True
    """

    def __init__(
        self,
        *,
        temperature: Scale,
        symmetric: bool = False,
        normalize: bool = True,
        reduction: str = "mean",
        chunk_size: int | None = None,
        validate: bool = True,
    ) -> None:
        super().__init__(
            temperature=temperature,
            symmetric=symmetric,
            normalize=normalize,
            reduction=reduction,
            chunk_size=chunk_size,
            validate=validate,
        )

    def forward(self, query: Tensor, key: Tensor, negatives: Tensor | None = None) -> Tensor:
        return info_nce(query, key, negatives=negatives, **self._keywords())


class DistillationLoss(_Loss):
    """:func:`~celib.losses.distillation_loss` as a module.

    Args:
        temperature: a number, or a tensor of one; a :class:`torch.nn.Parameter` is trained.
        divergence, beta, axis, reduction, validate: as for
            :func:`~celib.losses.distillation_loss`.
    """

    def __init__(
        self,
        *,
        temperature: Scale,
        divergence: str = "forward",
        beta: float | None = None,
        axis: int | None = None,
        reduction: str = "batchmean",
        validate: bool = True,
    ) -> None:
        super().__init__(
            temperature=temperature,
            divergence=divergence,
            beta=beta,
            axis=axis,
            reduction=reduction,
            validate=validate,
        )

    def forward(
        self,
        input: Tensor,
        teacher_logits: Tensor,
        mask: Tensor | None = None,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        return distillation_loss(
            input, teacher_logits, mask=mask, sample_weight=sample_weight, **self._keywords()
        )


class LinearDistillationLoss(_Loss):
    """A student's head and :func:`~celib.losses.linear_distillation_loss`.

    Args:
        in_features: D, of the student.
        teacher_weight: the teacher's head, shape (C, E). It is kept as a buffer, without a gradient
            and not in the ``state_dict``, since it belongs to the teacher.
        teacher_bias: shape (C), kept likewise.
        bias: whether the student's head has a bias.
        device, dtype: of the student's head; by default those of the teacher's.
        tied_weight: a parameter of shape (C, D) that takes the place of the head's own.
        temperature: a number, or a tensor of one; a :class:`torch.nn.Parameter` is trained.
        divergence, beta, reduction, chunk_size, validate: as for
            :func:`~celib.losses.linear_distillation_loss`.

    Attributes:
        linear: the student's head, a :class:`torch.nn.Linear`.
        teacher_weight, teacher_bias: the buffers.

    Raises:
        ValueError: ``tied_weight`` is not of shape (C, D).

    Example: hidden states of 3 numbers learn from some of 2.
        >>> teacher = torch.nn.Linear(2, 5)
        >>> loss = LinearDistillationLoss(3, teacher.weight, teacher.bias, temperature=2.0)
        >>> loss(torch.eye(3), torch.ones(3, 2)).backward()
        >>> loss.linear.weight.grad.shape, list(loss.state_dict())
        (torch.Size([5, 3]), ['linear.weight'])
    """

    teacher_weight: Tensor
    teacher_bias: Tensor | None

    def __init__(
        self,
        in_features: int,
        teacher_weight: Tensor,
        teacher_bias: Tensor | None = None,
        *,
        bias: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        tied_weight: Parameter | None = None,
        temperature: Scale,
        divergence: str = "forward",
        beta: float | None = None,
        reduction: str = "batchmean",
        chunk_size: int | None = None,
        validate: bool = True,
    ) -> None:
        super().__init__(
            temperature=temperature,
            divergence=divergence,
            beta=beta,
            reduction=reduction,
            chunk_size=chunk_size,
            validate=validate,
        )
        weight, shift = tensors(teacher_weight=teacher_weight, teacher_bias=teacher_bias)
        self.register_buffer("teacher_weight", weight.detach(), persistent=False)
        shift = None if shift is None else shift.detach()
        self.register_buffer("teacher_bias", shift, persistent=False)
        place = {"device": device or weight.device, "dtype": dtype or weight.dtype}
        head = torch.nn.Linear(in_features, len(weight), bias, **place)
        self.linear = _tied(head, tied_weight)

    def forward(
        self,
        input: Tensor,
        teacher_input: Tensor,
        mask: Tensor | None = None,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        return linear_distillation_loss(
            input,
            self.linear.weight,
            teacher_input,
            self.teacher_weight,
            linear_bias=self.linear.bias,
            teacher_bias=self.teacher_bias,
            mask=mask,
            sample_weight=sample_weight,
            **self._keywords(),
        )


def _tied(head: torch.nn.Linear, weight: Parameter | None) -> torch.nn.Linear:
    """The head, with a parameter that is shared in the place of its own weight."""
    if weight is not None:
        if weight.shape != head.weight.shape:
            refuse_shape("tied_weight", weight.shape, f"{tuple(head.weight.shape)}, (C, D)")
        head.weight = weight
    return head
