"""A look at a loss function: is it the cross-entropy, and if not, which known mistake is it?

The loss is tried on the inputs of :mod:`celib.diagnosis.mistakes.probes`. If value and gradient are
right on all of them, nothing is found. If not, they are compared with every mistake of
:mod:`celib.diagnosis.mistakes.formulas`: one that agrees on all inputs is named. Otherwise what is
seen is said: a value that is wrong or not finite, a wrong gradient, an error that is raised.
"""

from __future__ import annotations

import inspect
import io
import math
import random
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TextIO, cast

import numpy as np
import torch
from torch import Tensor

from celib.arguments.arrays import readable
from celib.arguments.errors import (
    integer,
    label,
    one_of,
    positive,
    refuse,
    refuse_type,
    where_raised,
)
from celib.diagnosis.findings import Finding, Findings
from celib.diagnosis.given import on_the_cpu
from celib.diagnosis.mistakes.formulas import (
    FORMULAS,
    REDUCTIONS,
    RIGHT,
    SLOPES,
    Formula,
    Reduction,
)
from celib.diagnosis.mistakes.probes import Probe, Setting, probes
from celib.diagnosis.mistakes.texts import CAUSES, TEXTS

__all__ = ["CAUSES", "doctor"]

_KINDS = ("multiclass", "binary", "multilabel", "soft")
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def doctor(
    loss_fn: Callable[..., Any],
    *,
    kind: str = "multiclass",
    reduction: str = "mean",
    dtype: torch.dtype = torch.float32,
    ignore_index: int | None = None,
    weight: Sequence[float] | None = None,
    classes: int | None = None,
    gradient: bool = True,
    strict: bool = False,
) -> Findings:
    """Look for the known mistakes in a loss function.

    Use it for a cross-entropy that you wrote, or whose options you are not sure of. It calls the
    loss on about twenty small batches, each of which breaks some way of writing it, and compares
    value and gradient with the right ones. Random numbers and the settings of torch are left as
    they were. The buffers of a module of yours may change, such as the running means of a
    normalisation in training: call ``.eval()`` first, or give a copy.

    A loss whose only errors are those of rounding passes, also where a confident and right answer
    gets the loss 0 in float32, as it does in torch. A factor, a smoothing or another normalisation
    is a finding even if it is meant, because what it returns is not the cross-entropy asked for.

    Args:
        loss_fn: what to look at, called as ``loss_fn(logits, target)`` with tensors on the CPU. It
            gets copies. Its options have to be in it already, such as the weights of classes.
        kind: what ``target`` is. "multiclass": classes of shape (N,), for logits of shape (N, C).
            "soft": distributions of shape (N, C). "binary": 0.0 or 1.0, of shape (N,), for logits
            of shape (N,). "multilabel": 0.0 or 1.0, of shape (N, L), for logits of that shape.
        reduction: what the loss is to return, "mean", "sum" or "none". The mean is that of torch:
            over the targets that count, by weight, and over all elements of "multilabel".
        dtype: that of the logits, and of targets that are not classes: a floating-point one. For
            half precision the loss is tried in float32 first, where mistakes can be told apart.
        ignore_index: the class that the loss has been told to ignore. For "multiclass".
        weight: the weights of the classes that the loss has been given, of shape (C,), positive.
            For "multiclass".
        classes: C or L, at least 2, if the loss is made for that number alone. It is that of
            ``weight`` if this is given. Otherwise several numbers are tried.
        gradient: whether the loss has a gradient. ``False`` is for NumPy and for metrics.
        strict: whether to note what is only rounded: the lost loss of a confident and right answer,
            the NaN of a batch in which all targets are ignored, and for "soft" that of a class
            whose logit is -inf.

    Returns:
        What was found, as a sequence that is empty if the loss is right. ``certain`` is False for
        what may be meant. Names and meanings of all causes are in ``CAUSES``.

    Raises:
        ValueError: an option is not as above.
        TypeError: ``loss_fn`` cannot be called.

    Example: right on moderate logits, and wrong by orders of magnitude on others.
        >>> def loss(logits, target):
        ...     p = torch.softmax(logits, 1)[torch.arange(len(target)), target]
        ...     return -torch.log(p + 1e-8).mean()
        >>> found = doctor(loss)
        >>> found.causes
        ['eps-in-log']
        >>> for sentence in found[0].evidence.split(". "):
        ...     print(sentence)
        For `logits = [[0, 112, -1]]`, `target = [0]` it returns 18.42; 112 is right
        On all 16 inputs it agrees with -log(p + 1e-08).
        >>> doctor(torch.nn.functional.cross_entropy)
        Nothing odd was found.
    """
    s = _setting(loss_fn, kind, reduction, dtype, ignore_index, weight, classes, gradient, strict)
    with torch.inference_mode(False), torch.enable_grad(), _randomness_kept(), on_the_cpu():
        if dtype.itemsize == 2:
            # In half precision a mistake is hidden by rounding, or looks like another one.
            found = Findings(_examine(loss_fn, replace(s, dtype=torch.float32)))
            if found and "raises" not in found.causes:  # it may be made for half precision
                return found
        return Findings(_examine(loss_fn, s))


@contextmanager
def _randomness_kept() -> Iterator[None]:
    """Leave the random numbers of the caller where they were, whatever the loss draws."""
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the loss may use it
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002


@contextmanager
def _settings_kept() -> Iterator[None]:
    """Leave what is set for all of torch as it is, whatever the loss sets."""
    kept: list[tuple[Callable[[], Any], Callable[[Any], Any]]] = [
        (torch.is_grad_enabled, torch.set_grad_enabled),
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.get_default_device, _set_device),
        (torch.get_num_threads, torch.set_num_threads),
        (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    ]
    before = [get() for get, _ in kept]
    try:
        yield
    finally:
        for (get, put), value in zip(kept, before, strict=True):
            if get() != value:
                put(value)


def _set_device(device: torch.device) -> None:
    # The CPU is the device of a program that sets none.
    torch.set_default_device(None if device.type == "cpu" else device)


def _setting(
    loss_fn: Any,
    kind: str,
    reduction: str,
    dtype: torch.dtype,
    ignore_index: int | None,
    weight: Any,
    classes: int | None,
    gradient: bool,
    strict: bool,
) -> Setting:
    if not callable(loss_fn) or isinstance(loss_fn, type):
        refuse_type("loss_fn", loss_fn, "a function of logits and target, or a module, not a class")
    one_of("kind", kind, _KINDS)
    one_of("reduction", reduction, ("mean", "sum", "none"))
    one_of("dtype", dtype, _DTYPES)
    one_of("gradient", gradient, (True, False))
    one_of("strict", strict, (True, False))
    for name, value in (("ignore_index", ignore_index), ("weight", weight)):
        if value is not None and kind != "multiclass":
            raise ValueError(f"{name} = {value!r}: expected None for kind = {kind!r}")
    if ignore_index is not None:
        ignore_index = label("ignore_index", ignore_index)
    if classes is not None:
        classes = integer("classes", classes, lambda n: n >= 2, "at least 2")
    if weight is not None:
        weight = tuple(positive(f"weight[{k}]", w) for k, w in enumerate(_floats(weight)))
        if len(weight) < 2 or classes not in (None, len(weight)):
            raise ValueError(
                f"weight has shape ({len(weight)},): expected ({classes or 'C'},), C at least 2"
            )
        classes = len(weight)
    return Setting(kind, reduction, dtype, ignore_index, weight, classes, gradient, strict)


def _floats(weight: Any) -> list[float]:
    """The weights as numbers, of any container that has some."""
    try:
        if isinstance(weight, str | bytes):
            raise ValueError
        return [float(w) for w in weight]
    except Exception:
        refuse("weight", (), _shortened(repr(weight)), "positive numbers, of shape (C,)")


# Calling the loss.


@dataclass(frozen=True)
class Answer:
    """What the loss made of a probe: a value and perhaps a gradient, or trouble."""

    probe: Probe
    value: Tensor | None = None  #: of float64
    gradient: Tensor | None = None  #: of float64; None if there is none
    trouble: Finding | None = None


class _Trouble(Exception):
    """A result that is nothing to compare, with the cause and the evidence."""

    def __init__(self, cause: str, evidence: str) -> None:
        super().__init__(evidence)
        self.finding = _finding(cause, evidence)


class _Ear:
    """A standard output that keeps what this thread prints, and passes on what others do."""

    def __init__(self) -> None:
        self.text = io.StringIO()
        self.thread = threading.get_ident()

    @contextmanager
    def listening(self) -> Iterator[None]:
        self.others = sys.stdout
        with redirect_stdout(cast(TextIO, self)):
            yield

    def write(self, text: str) -> int:
        mine = threading.get_ident() == self.thread
        return self.text.write(text) if mine else self.others.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["others"], name)


class _Patient:
    """The loss, and what it does beside returning something."""

    def __init__(self, loss_fn: Callable[..., Any], s: Setting) -> None:
        self.loss_fn = loss_fn
        self.s = s
        self.calls = 0
        self.printed = _Ear()
        self.changed: str | None = None  # what it changed, and where

    def ask(self, one: Probe, upstream: float = 1.0) -> Answer:
        """What it returns for a probe, and the gradient of that times ``upstream``."""
        logits = one.logits.to(self.s.dtype, copy=True).requires_grad_(self.s.gradient)
        # A copy, because torch does not let an input of its own be changed in place.
        given, target = logits.clone(), one.target.clone()
        self.calls += 1
        try:
            with self.printed.listening(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = self._call(one, given, target)
                self._compare_inputs(one, given, target)
                value = _value(result, one, self.s)
                slope = self._slope(one, result, logits, upstream)
        except _Trouble as trouble:
            return Answer(one, trouble=trouble.finding)
        return Answer(one, value, slope)

    def _call(self, one: Probe, given: Tensor, target: Tensor) -> Any:
        try:
            with np.errstate(all="ignore"), _settings_kept():
                return self.loss_fn(given, target)
        except (Exception, SystemExit) as error:
            raise _raised(error, self.loss_fn, one, "") from None

    def _compare_inputs(self, one: Probe, given: Tensor, target: Tensor) -> None:
        if self.changed is not None:
            return
        before = {"logits": one.logits.to(self.s.dtype), "target": one.target}
        for (name, old), new in zip(before.items(), (given, target), strict=True):
            try:
                if not torch.equal(old, new.detach()):
                    self.changed = f"For {_shown(one)} it leaves `{name} = {_list(new)}` behind."
            except Exception:  # of another class, device or layout now
                self.changed = f"For {_shown(one)} it leaves other `{name}` behind."

    def _slope(self, one: Probe, result: Any, logits: Tensor, upstream: float) -> Tensor | None:
        if not (self.s.gradient and isinstance(result, Tensor) and result.requires_grad):
            return None
        try:
            (slope,) = torch.autograd.grad((result * upstream).sum(), logits, allow_unused=True)
        except (Exception, SystemExit) as error:
            raise _raised(error, self.loss_fn, one, " when the gradient is computed") from None
        if slope is None:
            return None
        return (slope if slope.layout == torch.strided else slope.to_dense()).double()


def _value(result: Any, one: Probe, s: Setting) -> Tensor:
    """What was returned as numbers of float64, in the shape that the reduction has."""
    value = _numbers(result)
    if value is None:
        raise _Trouble("wrong-type", f"For {_shown(one)} it returns {_kind_of(result)}.")
    if one.name == "plain" and not value.is_floating_point():
        raise _Trouble(
            "wrong-type",
            f"For {_shown(one)} it returns {_list(value)}, of dtype {value.dtype}.",
        )
    expected = [()] if s.reduction != "none" else [tuple(one.logits.shape), (len(one.logits),)]
    if s.reduction == "none" and s.kind in ("multiclass", "soft"):
        expected = expected[1:]
    if s.reduction != "none" and value.numel() == 1:
        value = value.reshape(())
    if tuple(value.shape) not in expected:
        counted = int(one.counts.sum())
        only = s.reduction == "none" and tuple(value.shape) == (counted,) and "ignored" in one.name
        which = f", one loss for each of the {counted} targets that are not ignored" * only
        raise _Trouble(
            "wrong-shape",
            f"For {_shown(one)} it returns an array of shape {tuple(value.shape)}{which}; "
            f"{expected[0]} is right for reduction={s.reduction!r}.",
        )
    return value.double()


def _numbers(result: Any) -> Tensor | None:
    """The same as a tensor on the CPU; None if it holds no real numbers."""
    try:
        if not isinstance(result, (Tensor, int, float)) and not hasattr(result, "__array__"):
            return None
        if isinstance(result, Tensor):
            dense = result if result.layout == torch.strided else result.to_dense()
            value = dense.detach().cpu()
            if type(result) is not Tensor or result.is_nested:
                value = torch.tensor(value.tolist(), dtype=value.dtype)
            return value if readable(value) else None
        found = np.asarray(result)
        # torch knows neither long doubles nor the other order of bytes.
        return torch.as_tensor(found.astype(np.float64 if found.dtype.kind == "f" else found.dtype))
    except Exception:  # code of the reader's own may run here, and raise anything
        return None


def _kind_of(result: Any) -> str:
    return "None" if result is None else f"an object of type {type(result).__name__}"


_NO_DEVICE = ("CUDA", "NVIDIA", "MPS", "mps", "HIP", "XPU")


def _raised(error: BaseException, loss_fn: Any, one: Probe, when: str) -> _Trouble:
    """The trouble with an error: what it says, and the line of the reader's that it came from."""
    says = _message(error)
    evidence = f"For {_shown(one)} it raises {type(error).__name__}{when}{f': {says}' * bool(says)}"
    evidence = evidence.rstrip(".") + _place(error)
    if any(word in says for word in _NO_DEVICE):
        return _Trouble("needs-gpu", evidence)
    if "between 0 and 1" in says:
        return _Trouble("logits-as-probabilities", evidence)
    if "on Tensor that requires grad" in says:
        return _Trouble("no-gradient", evidence)
    try:
        inspect.signature(loss_fn).bind(one.logits, one.target)
    except TypeError as reason:
        return _Trouble("raises", f"It cannot be called with two arguments: {_message(reason)}.")
    except Exception:
        pass  # some functions of C have no signature, and some objects raise what they like
    return _Trouble("raises", evidence)


def _message(error: BaseException) -> str:
    """What an error says, in one line."""
    try:
        text = str(error)
    except Exception:  # code of the reader's own
        return ""
    # Half of a pair that stands for one character cannot be printed.
    return _shortened(" ".join(text.encode("utf-8", "replace").decode().split()))


_LONG = 200


def _shortened(text: str) -> str:
    """At most about 200 characters: to the end of a sentence, if one ends there, or of a word."""
    if len(text) <= _LONG:
        return text
    start = text[:_LONG]
    if ". " in start:
        return start[: start.rindex(". ")]
    return f"{start.rpartition(' ')[0] or start} ..."


def _place(error: BaseException) -> str:
    found = where_raised(error)
    if found is None:
        return "."
    place, line = found
    return f" ({place}){f': `{line}`' * bool(line)}."


# Comparing.

# A plain implementation of the right formula misses the right number by a few roundings of its
# largest logit, times more for many classes. Every mistake misses it by far more somewhere.
_ROUNDINGS = {1: 8.0, 2: 8.0, 4: 16.0, 8: 16.0}


def _margin(one: Probe, s: Setting, dtype: torch.dtype) -> float:
    """How far the loss of a row may be from the right one."""
    # A loss of float64 that computes in float32 is inaccurate, not wrong.
    eps = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    return eps * (_ROUNDINGS[dtype.itemsize] + one.width / 8) * (1 + one.largest)


def _total(one: Probe, s: Setting) -> float:
    """The sum of the factors of the rows; with labels, of all elements."""
    total = float((one.weights * one.counts).sum())
    return total * (one.width if s.kind == "multilabel" else 1)


def _of_value(one: Probe, s: Setting, dtype: torch.dtype) -> float:
    factor = {"mean": 1.0, "sum": _total(one, s), "none": float(one.weights.max())}[s.reduction]
    return _margin(one, s, dtype) * factor


def _of_gradient(one: Probe, s: Setting, dtype: torch.dtype) -> float:
    factor = float(one.weights.max())
    return _margin(one, s, dtype) * (factor / _total(one, s) if s.reduction == "mean" else factor)


def _near(found: Tensor, wanted: Tensor, margin: float, relative: float = 0.0) -> bool:
    """Whether two results are the same; what is not finite in both is not compared further."""
    if found.shape != wanted.shape:
        return False
    both = found.isfinite() & wanted.isfinite()
    close = (found - wanted).abs() <= margin + relative * wanted.abs()
    neither = ~(found.isfinite() | wanted.isfinite())
    return bool(((both & close) | neither).all())


@dataclass(frozen=True)
class Reference:
    """What a way of computing the loss gives for a probe."""

    value: Tensor
    gradient: Tensor


@lru_cache(maxsize=4096)
def _right(reduction: Reduction, one: Probe, s: Setting) -> Reference:
    """The right value and gradient, to the last digits of float64."""
    z = one.logits.clone().requires_grad_()
    value = reduction.value(RIGHT[s.kind](z, one.truth), one, s)
    (slope,) = torch.autograd.grad(value.sum(), z)
    return Reference(value.detach(), slope)


@dataclass(frozen=True)
class Case:
    """All answers of a loss, with the right ones beside them."""

    answers: list[Answer]
    right: list[Reference]
    s: Setting

    def wrong_values(self) -> list[int]:
        return [
            k
            for k, (a, r) in enumerate(zip(self.answers, self.right, strict=True))
            if not _near(_got(a), r.value, _of_value(a.probe, self.s, self.s.dtype))
        ]

    def wrong_gradients(self) -> list[int]:
        return [
            k
            for k, (a, r) in enumerate(zip(self.answers, self.right, strict=True))
            if a.gradient is not None
            and a.probe.smooth
            and not _near(a.gradient, r.gradient, _of_gradient(a.probe, self.s, self.s.dtype))
        ]

    def smallest(self, which: list[int]) -> int:
        return min(which, key=lambda k: self.answers[k].probe.size)

    def shown(self, k: int) -> str:
        """The evidence of one value."""
        a, r = self.answers[k], self.right[k]
        found, wanted = _distinct(_got(a), r.value)
        return f"For {_shown(a.probe)} it returns {found}; {wanted} is right."

    def shown_gradient(self, k: int) -> str:
        a, r = self.answers[k], self.right[k]
        slope = torch.zeros_like(r.gradient) if a.gradient is None else a.gradient
        found, wanted = _distinct(slope, r.gradient)
        return f"For {_shown(a.probe)} the gradient is {found}; {wanted} is right."


def _got(a: Answer) -> Tensor:
    assert a.value is not None  # of an answer without trouble
    return a.value


def _case(answers: list[Answer], s: Setting) -> Case:
    """Beside the right answers, in that reading of the reduction which fits best."""
    cases = [
        Case(answers, [_right(r, a.probe, s) for a in answers], s)
        for r in REDUCTIONS
        if r.cause is None and r.applies(s)
    ]
    return min(cases, key=lambda case: len(case.wrong_values()))


# The examination.

# Judged by rules of their own: a logit of -inf, and a batch in which nothing counts.
_SPECIAL = ("masked", "ignored", "all ignored")


# What follows from a mistake that is named.
_EXPLAINED_BY = {
    "argmax-inside": ("no-gradient", "zero-gradient"),
    "softmax-axis": ("zero-gradient",),  # of a single column it is 1
}


def _examine(loss_fn: Callable[..., Any], s: Setting) -> Iterator[Finding]:
    patient, inputs = _Patient(loss_fn, s), probes(s)
    first = patient.ask(inputs[0])
    if first.trouble is not None:
        yield first.trouble
        if first.trouble.cause == "no-gradient":  # it may be a right loss of NumPy
            yield from _examine(loss_fn, replace(s, gradient=False))
            return
        yield from _beside(patient)
        return
    answers = [first, *map(patient.ask, inputs[1:])]
    if (evidence := _not_repeatable(patient, first)) is not None:
        yield _finding("not-repeatable", evidence)
        yield from _beside(patient)
        return
    usual = [a for a in answers if a.probe.name not in _SPECIAL]
    special = [a for a in answers if a.probe.name in _SPECIAL]
    yield from _raising(usual)
    case = _case([a for a in usual if a.trouble is None], s)
    found = [*_without_gradient(case), *_values(case, special)]
    silent = {cause for one in found for cause in _EXPLAINED_BY.get(one.cause, ())}
    found = [one for one in found if one.cause not in silent]
    found = found or [*_gradients(case)] or [*_upstream(patient, case)]
    yield from found
    if not found:
        yield from _specials(special, s)
        yield from _rounding(case)
    yield from _beside(patient)


def _beside(patient: _Patient) -> Iterator[Finding]:
    """What the loss does beside returning something."""
    if patient.changed is not None:
        yield _finding("changes-input", patient.changed)
    if (printed := patient.printed.text.getvalue()).strip():
        first = printed.strip().splitlines()[0]
        yield _finding("prints", f"In {patient.calls} calls it printed, first: {first[:60]!r}.")


def _not_repeatable(patient: _Patient, first: Answer) -> str | None:
    """The evidence, if the first input gives another result when it comes again, and again."""
    margin = _of_value(first.probe, patient.s, patient.s.dtype)
    for _ in range(2):
        again = patient.ask(first.probe)
        if again.value is None or not _near(again.value, _got(first), margin):
            then = "an error" if again.value is None else _list(again.value)
            return (
                f"For {_shown(first.probe)} it returns {_list(_got(first))} in the first call and "
                f"{then} in another."
            )
    return None


def _raising(answers: list[Answer]) -> Iterator[Finding]:
    """The error on the smallest input, of each cause."""
    seen = set()
    for a in sorted(answers, key=lambda a: a.probe.size):
        if a.trouble is not None and a.trouble.cause not in seen:
            seen.add(a.trouble.cause)
            yield a.trouble


# The value.


def _values(case: Case, special: list[Answer]) -> Iterator[Finding]:
    """The name of a mistake in the value, or what is seen of it."""
    wrong = case.wrong_values()
    ignored = [a for a in special if a.probe.name == "ignored" and a.trouble is None]
    both = _case([*case.answers, *ignored], case.s)
    if not both.wrong_values():
        return
    named = list(_named(both)) if case.s.dtype.itemsize > 2 else []
    if not named and not wrong:
        return  # only the ignored targets are wrong: see _specials
    yield from named or _unnamed(case, wrong)


def _named(case: Case) -> Iterator[Finding]:
    """The first formula and reduction that agree with the loss on all inputs."""
    s = case.s
    for formula in FORMULAS[s.kind]:
        for parameters in formula.parameters(_seen(case), s.classes or 3):
            reduction = _agrees(formula, parameters, case)
            if reduction is not None:
                yield from _explained(formula, parameters, reduction, case)
                return
    if (half := _half(case)) is not None:
        yield half


def _seen(case: Case) -> Callable[[str], float]:
    """The loss of a row alone, by the name of its probe: what formulas are fitted to."""
    found = {a.probe.name: a for a in case.answers}

    def seen(name: str) -> float:
        if name not in found:
            return math.nan
        a = found[name]
        total = _total(a.probe, case.s) if case.s.reduction == "sum" else 1.0
        factor = float(a.probe.weights[0]) if case.s.reduction == "none" else total
        return float(_got(a).mean()) / factor

    return seen


def _agrees(formula: Formula, parameters: tuple[float, ...], case: Case) -> Reduction | None:
    """The reduction with which a formula gives all values of the loss."""
    s = case.s
    alive = [r for r in REDUCTIONS if r.applies(s)]
    relative = 1e-5 + 64 * torch.finfo(s.dtype).eps
    # Where nothing is finite, only the pattern of NaN and infinity tells one mistake from another.
    never = not any(_got(a).isfinite().any() for a in case.answers)
    for a in case.answers:
        margin = 4 * _of_value(a.probe, s, s.dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                rows = formula.rows(
                    a.probe.logits.to(s.dtype), a.probe.truth.to(s.dtype), *parameters
                )
            except RuntimeError:  # torch has not every operation for half precision on a CPU
                return None
        values = ((r, r.value(rows, a.probe, s).double()) for r in alive)
        alive = [
            r
            for r, value in values
            if _near(_got(a), value, margin, relative)
            and (not never or torch.equal(_got(a).isnan(), value.isnan()))
        ]
        if not alive:
            return None
    return alive[0]


def _explained(
    formula: Formula, parameters: tuple[float, ...], reduction: Reduction, case: Case
) -> Iterator[Finding]:
    """A finding for each mistake of a formula, and one for that of the reduction."""
    wrong = case.wrong_values()
    count = len(case.answers)
    if formula.causes:
        says = formula.says.format(*parameters)
        for cause in formula.causes:
            yield _finding(
                cause,
                f"{case.shown(case.smallest(wrong))} On all {count} inputs it agrees with {says}.",
            )
    if reduction.cause is not None:
        # One row shows nothing of most reductions.
        many = [k for k in wrong if len(case.answers[k].probe.logits) > 1]
        yield _finding(
            reduction.cause,
            f"{case.shown(case.smallest(many or wrong))} On all {count} inputs it agrees with "
            f"{reduction.says}.",
        )


def _half(case: Case) -> Finding | None:
    """Whether all that the loss returns are numbers of half precision, near the right ones."""
    if case.s.dtype.itemsize == 2:
        return None
    mild = _case([a for a in case.answers if a.probe.is_mild], case.s)
    values, slopes = mild.wrong_values(), mild.wrong_gradients()
    if values:
        shown = mild.shown(mild.smallest(values))
    elif slopes:
        shown = mild.shown_gradient(mild.smallest(slopes))
    else:
        return None
    # A number of bfloat16 that is neither large nor small is one of float16 too.
    for half in (torch.bfloat16, torch.float16):
        sign = _sign_of(half, mild)
        if sign is not None:
            return _finding("half-inside", f"{shown} {sign} {str(half).removeprefix('torch.')}.")
    return None


def _sign_of(half: torch.dtype, mild: Case) -> str | None:
    """How it is known that a loss is computed in a half precision."""
    pairs = zip(mild.answers, mild.right, strict=True)
    if not all(_near(_got(a), r.value, _of_value(a.probe, mild.s, half)) for a, r in pairs):
        return None
    if all(_is_of(_got(a), half) for a in mild.answers):
        return "Every value is a number of"
    if all(a.gradient is not None and _is_of(a.gradient, half) for a in mild.answers):
        return "Every entry of the gradient is a number of"
    rounded = [
        replace(a, probe=replace(a.probe, logits=a.probe.logits.to(half).double()))
        for a in mild.answers
    ]
    if mild.wrong_values() and not _case(rounded, mild.s).wrong_values():
        return "The value is right for logits that have been rounded to"
    return None


def _is_of(a: Tensor, dtype: torch.dtype) -> bool:
    return bool((a.to(dtype).double() == a).all())


def _unnamed(case: Case, wrong: list[int]) -> Iterator[Finding]:
    """What is seen of a mistake that has no name."""
    if (evidence := _order(case)) is not None:
        yield _finding("batch-order", evidence)
        return
    infinite = [k for k in wrong if not _got(case.answers[k]).isfinite().all()]
    finite = [k for k in wrong if k not in infinite]
    for cause, which in (("not-finite", infinite), ("wrong-value", finite)):
        if which:
            yield _finding(
                cause,
                f"{case.shown(case.smallest(which))} It is so on {len(which)} of "
                f"{len(case.answers)} inputs.",
            )


def _order(case: Case) -> str | None:
    """The evidence, if a batch and its reverse have different losses."""
    by_name = {a.probe.name: k for k, a in enumerate(case.answers)}
    if not {"plain", "reversed"} <= {*by_name}:
        return None
    one, two = (case.answers[by_name[name]] for name in ("plain", "reversed"))
    back = _got(two).flip(0) if _got(two).ndim else _got(two)
    margin = _of_value(one.probe, case.s, case.s.dtype)
    if _near(_got(one), back, margin):
        return None
    return (
        f"{case.shown(by_name['plain'])} For the same examples from last to first it returns "
        f"{_list(_got(two))}."
    )


# The gradient.


def _without_gradient(case: Case) -> Iterator[Finding]:
    if not case.s.gradient or not case.answers:
        return
    if all(a.gradient is None for a in case.answers):
        a = min(case.answers, key=lambda a: a.probe.size)
        yield _finding(
            "no-gradient",
            f"For {_shown(a.probe)} it returns {_list(_got(a))}, from which no gradient leads back "
            "to the logits.",
        )
    elif all(a.gradient is None or not a.gradient.any() for a in case.answers):
        which = [k for k, r in enumerate(case.right) if r.gradient.abs().max() > 0.01]
        yield _finding("zero-gradient", case.shown_gradient(case.smallest(which)))


def _gradients(case: Case) -> Iterator[Finding]:
    """The name of a mistake in the gradient alone, or what is seen of it."""
    wrong = case.wrong_gradients()
    if not wrong:
        return
    shown = case.shown_gradient(case.smallest(wrong))
    count = len(case.answers)
    for slope in SLOPES if case.s.dtype.itemsize > 2 else []:
        if all(
            not a.probe.smooth
            or _near(
                _slope_of(a),
                slope.gradient(r.gradient, a.probe, case.s),
                4 * _total(a.probe, case.s) * _of_gradient(a.probe, case.s, case.s.dtype),
            )
            for a, r in zip(case.answers, case.right, strict=True)
        ):
            yield _finding(slope.cause, f"{shown} On all {count} inputs it is {slope.says}.")
            return
    if (half := _half(case)) is not None:
        yield half
        return
    infinite = [k for k in wrong if not _slope_of(case.answers[k]).isfinite().all()]
    finite = [k for k in wrong if k not in infinite]
    for cause, which in (("nan-gradient", infinite), ("wrong-gradient", finite)):
        if which:
            yield _finding(
                cause,
                f"{case.shown_gradient(case.smallest(which))} It is so on {len(which)} of {count} "
                "inputs.",
            )


def _slope_of(a: Answer) -> Tensor:
    assert a.gradient is not None
    return a.gradient


def _upstream(patient: _Patient, case: Case) -> Iterator[Finding]:
    """The gradient of four times the loss, which a backward pass of one's own may not heed."""
    one = case.answers[0]
    if one.gradient is None:
        return
    four = patient.ask(one.probe, upstream=4.0)
    if four.gradient is None:
        return
    margin = 8 * _of_gradient(one.probe, case.s, case.s.dtype)
    if not _near(four.gradient, 4 * one.gradient, margin):
        yield _finding(
            "upstream-ignored",
            f"For {_shown(one.probe)} the gradient of 4 times the loss is {_list(four.gradient)}; "
            f"{_list(4 * one.gradient)} is right.",
        )


# A class that is masked out, and targets that are ignored.


def _specials(special: list[Answer], s: Setting) -> Iterator[Finding]:
    shapes = [a.trouble for a in special if a.trouble and a.trouble.cause == "wrong-shape"]
    yield from shapes[:1]
    for a in special:
        if a.trouble in shapes:
            continue
        judge = {"masked": _masked, "ignored": _ignored, "all ignored": _all_ignored}
        yield from judge[a.probe.name](a, s)


def _masked(a: Answer, s: Setting) -> Iterator[Finding]:
    # torch itself multiplies 0 by inf for soft targets.
    if s.kind == "multiclass" or s.strict:
        yield from _judged("masked-class", a, s)


def _ignored(a: Answer, s: Setting) -> Iterator[Finding]:
    if a.trouble is not None:
        yield _finding("ignore-unheeded", a.trouble.evidence)
        return
    case = _case([a], s)
    if not case.wrong_values():
        yield from _judged("wrong-gradient", a, s)
    elif any(
        not _case([replace(a, probe=one)], s).wrong_values() for one in _unheeding(a.probe, s)
    ):
        yield _finding("ignore-unheeded", case.shown(0))
    else:
        yield _finding(
            "wrong-value", f"{case.shown(0)} Only inputs with ignored targets are wrong."
        )


def _unheeding(one: Probe, s: Setting) -> Iterator[Probe]:
    """The probe of which no target is ignored: what an index, or a clamp, makes of the number."""
    for target in (one.target % one.width, one.target.clamp(0, one.width - 1)):
        truth = torch.nn.functional.one_hot(target, one.width).double()
        weights = one.weights if s.weight is None else torch.tensor(s.weight).double()[target]
        yield replace(one, truth=truth, counts=torch.ones_like(one.counts), weights=weights)


def _all_ignored(a: Answer, s: Setting) -> Iterator[Finding]:
    if s.reduction != "mean":
        yield from _judged("all-ignored", a, s)
    elif s.strict and (a.trouble is not None or not _got(a).isfinite()):
        shown = a.trouble.evidence if a.trouble else f"For {_shown(a.probe)} it returns nan."
        yield _finding("all-ignored", shown)


def _judged(cause: str, a: Answer, s: Setting) -> Iterator[Finding]:
    """One cause for a value that is wrong, a gradient that is, and an error."""
    if a.trouble is not None:
        yield _finding(cause, a.trouble.evidence)
        return
    case = _case([a], s)
    if case.wrong_values():
        yield _finding(cause, case.shown(0))
    elif case.wrong_gradients():
        yield _finding(cause, case.shown_gradient(0))


# Notes.


def _rounding(case: Case) -> Iterator[Finding]:
    """The loss of a confident and right answer, if it is lost."""
    if not case.s.strict:
        return
    for k, (a, r) in enumerate(zip(case.answers, case.right, strict=True)):
        if not a.probe.name.startswith("sure"):
            continue
        if ((_got(a) == 0) & (r.value != 0)).any():
            yield _finding("winner-lost", case.shown(k))
            return
        if a.gradient is not None and ((a.gradient == 0) & (r.gradient != 0)).any():
            yield _finding("winner-lost", case.shown_gradient(k))
            return


# Words.


def _finding(cause: str, evidence: str) -> Finding:
    text = TEXTS[cause]
    return Finding(cause, text.what, evidence, text.cure, text.section, text.certain)


def _shown(one: Probe) -> str:
    if one.size > 40:
        return f"logits of shape {tuple(one.logits.shape)}"
    return f"`logits = {_list(one.logits, 6)}`, `target = {_list(one.target, 6)}`"


def _distinct(found: Tensor, wanted: Tensor) -> tuple[str, str]:
    """Both, with as many digits as show the difference."""
    for digits in (4, 7):
        texts = _list(found, digits), _list(wanted, digits)
        if texts[0] != texts[1]:
            break
    return texts


def _list(a: Tensor, digits: int = 4) -> str:
    """Numbers as a nested list, with a few digits; a long one is cut."""
    if a.ndim == 0:
        return f"{a.item():.{digits}g}"
    rows = [_list(row, digits) for row in a.detach()[:12]]
    return f"[{', '.join(rows)}{', ...' * (len(a) > 12)}]"
