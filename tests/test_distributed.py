"""celib.distributed, in real processes that exchange tensors by gloo on this machine.

``torchrun`` starts this file once for each number of processes, and every process runs all cases.
A case is a function of the rank and the number of ranks, and compares with the loss of one process
on the whole logits. The tests read what the ranks reported; so one launch serves many tests, and a
case that fails is named, with the traceback of every rank.

With NCCL and several GPUs the same cases run on them (marker ``gpu``).
"""

import datetime
import functools
import importlib.util
import inspect
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

from celib.distributed import vocab_parallel_cross_entropy as vocab_parallel
from celib.distributed import vocab_parallel_linear_cross_entropy as vocab_parallel_linear
from celib.kernels import choice
from celib.losses import cross_entropy, linear_cross_entropy

inf, nan = math.inf, math.nan
GPUS = torch.cuda.device_count()
TIMEOUT = 20.0  # of a process group, in seconds
DEVICE = torch.device("cpu")
CASES = {}

# How many classes each rank holds: evenly, unevenly, and with ranks that hold none.
SPLITS = {1: [[12], [5]], 2: [[6, 6], [1, 10], [0, 7]], 4: [[3] * 4, [1, 4, 2, 6], [5, 0, 7, 0]]}
GRID = [
    {"label_smoothing": e, "z_loss": z, "softcap": c, "scale": s}
    for e, z, (c, s) in itertools.product((0.0, 0.1, 1.0), (0.0, 0.01), ((None, 1.0), (4.0, 0.5)))
]


def case(function):
    CASES[function.__name__] = function
    return function


def numbers(*shape, seed=0, size=3.0, dtype=torch.float64):
    values = size * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return values.to(DEVICE, dtype)


def classes(shape, count, seed=0):
    values = torch.randint(count, shape, generator=torch.Generator().manual_seed(seed))
    return values.to(DEVICE)


def own(sizes, rank):
    """The classes of a rank."""
    return slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))


def close(found, wanted, tolerance=1e-12, what=""):
    found, wanted = found.detach().double(), wanted.detach().double()
    assert found.shape == wanted.shape, f"{what}: {found.shape}, expected {wanted.shape}"
    same = (found == wanted) | (found.isnan() & wanted.isnan())
    scale = wanted[wanted.isfinite()].abs().max().clamp(min=1.0) if wanted.isfinite().any() else 1.0
    error = torch.where(same, 0.0, (found - wanted).abs())
    assert found.numel() == 0 or error.max() <= tolerance * scale, f"{what}: {found} not {wanted}"


def parts(result):
    """What of a result is differentiable."""
    return [a for a in result if a.dtype != torch.bool] if isinstance(result, tuple) else [result]


def compare(x, y, sizes, rank, axis=-1, tolerance=1e-12, **options):
    """The loss of shards of x and its gradient, against those of x in one process."""
    whole = x.clone().requires_grad_()
    mine = x.movedim(axis, -1)[..., own(sizes, rank)].movedim(-1, axis).clone().requires_grad_()
    wanted, found = cross_entropy(whole, y, **options), vocab_parallel(mine, y, **options)
    compare_results(found, wanted, tolerance, options)
    upstream = [
        numbers(*a.shape, seed=i, size=1.0, dtype=a.dtype) for i, a in enumerate(parts(found))
    ]
    (dz,) = torch.autograd.grad(parts(found), mine, upstream)
    (dx,) = torch.autograd.grad(parts(wanted), whole, upstream)
    dx = dx.movedim(axis, -1)[..., own(sizes, rank)].movedim(-1, axis)
    assert dz.dtype == mine.dtype
    close(dz, dx, tolerance, f"gradient with {options}")


def compare_results(found, wanted, tolerance, options):
    for i, (a, b) in enumerate(zip(parts(found), parts(wanted), strict=True)):
        assert a.dtype == b.dtype
        close(a, b, tolerance, f"result {i} with {options}")
    if isinstance(found, tuple):
        assert torch.equal(found.correct, wanted.correct)


def raises(kind, message, function, *args, **options):
    with pytest.raises(kind) as caught:
        function(*args, **options)
    assert message in str(caught.value)


# The plain form.


@case
def options_in_float64(rank, size):
    for sizes, o in itertools.product(SPLITS[size], GRID):
        c = sum(sizes)
        x, y = numbers(6, c), classes((6,), c)
        y[4], x[1, c // 2] = -100, -inf
        y[1] = 0
        weight, each = numbers(c, seed=1).abs(), numbers(6, seed=2).abs()
        for more in (
            {},
            {"weight": weight, "reduction": "none", "return_statistics": True},
            {"sample_weight": each, "reduction": "sum"},
            {"weight": weight, "mean_over": "count"},
        ):
            compare(x, y, sizes, rank, **o, **more)


@case
def failure_12_smoothing_counts_all_classes(rank, size):
    # Megatron-LM took the number of classes of one rank.
    c = 3 * size
    x = torch.zeros(1, 3, dtype=torch.float64, device=DEVICE)
    x[0, 0] = 2.0 if rank == 0 else 0.0
    found = vocab_parallel(x, torch.zeros(1, dtype=torch.long, device=DEVICE), label_smoothing=0.5)
    lse = math.log(math.exp(2.0) + c - 1)
    wanted = 0.5 * (lse - 2.0) + 0.5 * (lse - 2.0 / c)
    close(found, torch.tensor(wanted, dtype=torch.float64))


@case
def float32_and_halves(rank, size):
    for sizes, o in itertools.product(SPLITS[size], (GRID[0], GRID[5], GRID[-1])):
        x, y = numbers(9, sum(sizes), dtype=torch.float32), classes((9,), sum(sizes))
        for dtype, tolerance in (
            (torch.float32, 5e-7),
            (torch.bfloat16, 8e-3),
            (torch.float16, 1e-3),
        ):
            z = x.to(dtype)
            mine = z[:, own(sizes, rank)].clone().requires_grad_()
            whole = z.double().requires_grad_()
            found = vocab_parallel(mine, y, **o)
            wanted = cross_entropy(whole, y, **o)
            assert found.dtype == torch.float32
            close(found, wanted, 5e-7, f"{dtype} {o}")  # the loss is not rounded to a half
            found.backward()
            wanted.backward()
            close(mine.grad, whole.grad[:, own(sizes, rank)], tolerance, f"gradient {dtype} {o}")


@case
def confident_and_far_away(rank, size):
    """Losses far below the rounding of 1, and logits far from 0."""
    sizes = SPLITS[size][0]
    c = sum(sizes)
    y = torch.tensor([0, c - 1, c // 2], device=DEVICE)
    for offset, gap, dtype in itertools.product(
        (0.0, 1e4, -1e4), (0.0, 40.0, 80.0), (torch.float32, torch.float64)
    ):
        x = (numbers(3, c, size=1.0).scatter(-1, y[:, None], gap) + offset).to(dtype)
        mine = x[:, own(sizes, rank)].clone().requires_grad_()
        found = vocab_parallel(mine, y, reduction="none")
        whole = x.double().requires_grad_()
        wanted = cross_entropy(whole, y, reduction="none")
        # A difference of logits is rounded, and that is the relative error of its exponential.
        eps = torch.finfo(dtype).eps * (1.0 + gap / 8.0)
        assert ((found - wanted).abs() <= 8 * eps * wanted).all(), (offset, gap, found, wanted)
        found.sum().backward()
        wanted.sum().backward()
        dx = whole.grad[:, own(sizes, rank)]
        # Relative to each entry, that of the target too, which is p - 1.
        assert ((mine.grad - dx).abs() <= 8 * eps * dx.abs()).all(), (offset, gap)


@case
def shapes(rank, size):
    sizes = SPLITS[size][1]
    c = sum(sizes)
    compare(numbers(c), classes((), c), sizes, rank)
    for reduction in ("none", "mean"):
        compare(
            numbers(4, c, 2, 3), classes((4, 2, 3), c), sizes, rank, axis=1, reduction=reduction,
            label_smoothing=0.1,
        )  # fmt: skip
    compare(numbers(c, 5).T, classes((5,), c), sizes, rank)  # rows that are not contiguous
    nothing = torch.zeros(0, sizes[rank], requires_grad=True, device=DEVICE)
    for reduction, value in (("none", []), ("sum", 0.0), ("mean", nan)):
        loss = vocab_parallel(nothing, classes((0,), c), reduction=reduction)
        close(loss, torch.tensor(value))
        loss.sum().backward()
    assert nothing.grad.shape == nothing.shape


@case
def failure_19_targets_in_one_shard(rank, size):
    for sizes, holder in itertools.product(SPLITS[size], range(size)):
        if sizes[holder]:
            y = classes((5,), sizes[holder]) + sum(sizes[:holder])
            compare(numbers(5, sum(sizes)), y, sizes, rank, return_statistics=True)


@case
def ignored_rows(rank, size):
    for sizes, ignore in itertools.product(SPLITS[size], (-100, 2, 10**6, -1)):
        c = sum(sizes)
        x, y = numbers(4, c), torch.full((4,), ignore, device=DEVICE)
        x[1], x[2] = nan, inf  # what is ignored may hold anything
        for reduction, value in (("mean", nan), ("sum", 0.0)):
            mine = x[:, own(sizes, rank)].clone().requires_grad_()
            loss = vocab_parallel(mine, y, ignore_index=ignore, reduction=reduction)
            close(loss, torch.tensor(value))
            loss.backward()
            assert (mine.grad == 0).all()
        y = torch.tensor([0, ignore, ignore, c - 1], device=DEVICE)
        compare(x, y, sizes, rank, ignore_index=ignore, label_smoothing=0.1)


@case
def masked_classes(rank, size):
    for sizes, o in itertools.product(SPLITS[size], GRID):
        c = sum(sizes)
        x, y = numbers(5, c), torch.tensor([0, c - 1, c - 1, 0, 1], device=DEVICE)
        x[0, 1:] = -inf  # nothing but the target
        x[1, : c - 2] = -inf  # whole shards
        x[2, c - 1] = -inf  # the target
        x[3] = -inf  # everything
        compare(x, y, sizes, rank, reduction="none", return_statistics=True, **o)


@case
def certainties(rank, size):
    for sizes in SPLITS[size]:
        c = sum(sizes)
        x, y = numbers(4, c), torch.tensor([0, 0, c - 1, 1], device=DEVICE)
        x[0, 0] = inf  # right
        x[1, c - 1] = inf  # wrong
        x[2, 0] = x[2, c - 1] = inf  # two of them
        x[3, c - 1] = nan
        compare(x, y, sizes, rank, reduction="none", label_smoothing=0.0)


@case
def a_class_that_does_not_exist(rank, size):
    for sizes, bad in itertools.product(SPLITS[size], (-1, 10**9, sum(SPLITS[size][0]))):
        c = sum(sizes)
        x, y = numbers(3, c), torch.tensor([0, bad, c - 1], device=DEVICE)
        if bad == c or bad not in range(c):
            mine = x[:, own(sizes, rank)].clone().requires_grad_()
            if DEVICE.type == "cpu":
                raises(
                    ValueError,
                    f"target[1] = {bad}: expected a class from 0",
                    vocab_parallel,
                    mine,
                    y,
                )
            loss = vocab_parallel(mine, y, reduction="none", validate=False)
            assert loss.isnan().tolist() == [False, True, False]
            loss.sum().backward()
            assert mine.grad[1].isnan().all()
            assert mine.grad[[0, 2]].isfinite().all()


@case
def the_same_bits_on_all_ranks(rank, size):
    sizes = SPLITS[size][1]
    x, y = numbers(257, sum(sizes), dtype=torch.float32), classes((257,), sum(sizes))
    mine = x[:, own(sizes, rank)]
    found = vocab_parallel(mine, y, label_smoothing=0.1, return_statistics=True, reduction="none")
    mean = vocab_parallel(mine, y)
    for a in (*parts(found), mean):
        others = [torch.empty_like(a) for _ in range(size)]
        dist.all_gather(others, a.contiguous())
        assert all(torch.equal(a, b) for b in others)
        assert torch.equal(mean, vocab_parallel(mine, y))


@case
def blocks_of_rows(rank, size):
    """More rows than a block of memory takes at once."""
    n, k = 90, 40000
    x = numbers(n, k, seed=rank, dtype=torch.float32).requires_grad_()
    y = classes((n,), k * size)
    found = vocab_parallel(x, y)
    gathered = [torch.empty_like(x) for _ in range(size)]
    dist.all_gather(gathered, x.detach())
    whole = torch.cat(gathered, 1).requires_grad_()
    wanted = cross_entropy(whole, y)
    close(found, wanted, 1e-6)
    found.backward()
    wanted.backward()
    close(x.grad, whole.grad[:, k * rank : k * (rank + 1)], 1e-8)


@case
def every_kernel(rank, size):
    """What computes a shard does not matter."""
    here = {
        "aten": True,
        "numba": DEVICE.type == "cpu",
        "triton": DEVICE.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1",
    }
    for name in here:
        if not here[name] or (name != "aten" and importlib.util.find_spec(name) is None):
            continue
        module = importlib.import_module(f"celib.kernels.with_{name}")
        sizes = SPLITS[size][0]
        c = sum(sizes)
        x, y = numbers(6, c, dtype=torch.float32), torch.tensor([0, c - 1, 0, 0, 1, -100])
        x[1, : c - 2] = -inf  # whole shards
        x[2, 0], x[3, c - 1], x[4, : c - 1], y = inf, nan, -inf, y.to(DEVICE)
        mine, whole = x[:, own(sizes, rank)].clone().requires_grad_(), x.double().requires_grad_()
        for o in ({}, GRID[-1]):
            with choice.using(module):
                found = vocab_parallel(mine, y, reduction="none", **o)
                (dz,) = torch.autograd.grad(found.sum(), mine)
            wanted = cross_entropy(whole, y, reduction="none", **o)
            (dx,) = torch.autograd.grad(wanted.sum(), whole)
            close(found, wanted, 1e-6, f"{name} {o}")
            close(dz, dx[:, own(sizes, rank)], 1e-6, f"gradient {name} {o}")


@case
def backward_twice_and_accumulated(rank, size):
    sizes = SPLITS[size][0]
    x, y = numbers(3, sum(sizes))[:, own(sizes, rank)], classes((3,), sum(sizes))
    mine = x.clone().requires_grad_()
    loss = vocab_parallel(mine, y)
    loss.backward(retain_graph=True)
    once = mine.grad.clone()
    (2.0 * loss).backward()
    close(mine.grad, 3.0 * once)
    assert torch.equal(mine.detach(), x)  # the logits are left as they are
    raises(
        NotImplementedError, "create_graph=False",
        lambda: torch.autograd.grad(vocab_parallel(mine, y), mine, create_graph=True),
    )  # fmt: skip
    with torch.no_grad():
        assert not vocab_parallel(mine, y).requires_grad


class Counting:
    """How many collectives there were, and the numbers that each rank sent."""

    def __enter__(self):
        from celib.distributed import ranks

        self.module, self.calls = ranks, []
        self.before = ranks._all_gather, dist.all_reduce

        def gather(out, a, **options):
            self.calls.append(("gather", a.dtype, a.numel()))
            return self.before[0](out, a, **options)

        def reduce(a, *args, **options):
            self.calls.append(("reduce", a.dtype, a.numel()))
            return self.before[1](a, *args, **options)

        ranks._all_gather, dist.all_reduce = gather, reduce
        return self.calls

    def __exit__(self, *_):
        self.module._all_gather, dist.all_reduce = self.before


@case
def what_is_exchanged_and_kept(rank, size):
    n, k, d = 32, 50, 8
    x, y = numbers(n, k, seed=rank, dtype=torch.float32).requires_grad_(), classes((n,), k * size)
    weight = torch.ones(k * size, device=DEVICE)
    header = [("gather", torch.int64, 7)] if size > 1 else []
    for options, per_row in (
        ({}, 3),
        ({"weight": weight, "z_loss": 0.1, "softcap": 5.0}, 3),
        ({"label_smoothing": 0.1}, 5),
        ({"label_smoothing": 0.1, "weight": weight}, 6),
        ({"return_statistics": True}, 4),
        ({"label_smoothing": 0.1, "weight": weight, "return_statistics": True}, 7),
    ):
        kept = []

        def keep(a, kept=kept):
            kept.append(a)
            return a

        with Counting() as calls, torch.autograd.graph.saved_tensors_hooks(keep, lambda a: a):
            result = vocab_parallel(x, y, **options)
            forward = list(calls)
            parts(result)[0].backward()
        sent = [("gather", torch.float32, per_row * n)] if size > 1 else []
        assert forward == header + sent, (options, forward)
        assert calls == forward  # the backward pass exchanges nothing
        large = [a for a in kept if a.numel() >= n * k]
        assert [a.data_ptr() for a in large] == [x.data_ptr()]  # nothing but the logits
        assert (
            sum(a.numel() * a.element_size() for a in kept if a is not large[0]) <= 60 * n + 4 * k
        )
    hidden = numbers(n, d, dtype=torch.float32).requires_grad_()
    matrix = numbers(k, d, seed=rank, dtype=torch.float32).requires_grad_()
    for wanted, validate in itertools.product((True, False), (True, False)):
        hidden.requires_grad_(wanted)
        with Counting() as calls:
            loss = vocab_parallel_linear(hidden, matrix, y, validate=validate)
            forward = list(calls)
            loss.backward()
        assert forward == header + ([("gather", torch.float32, 3 * n)] if size > 1 else [])
        reduced = [("reduce", torch.float32, n * d)] if size > 1 and wanted else []
        assert calls == forward + (header if validate and reduced else []) + reduced


# The linear form.


@case
def linear_options_in_float64(rank, size):
    for sizes, o in itertools.product(SPLITS[size], GRID[1::2] + GRID[:1]):
        c, k = sum(sizes), own(sizes, rank)
        y = classes((6,), c)
        y[3] = -100
        layer = numbers(6, 5, size=1.0), numbers(c, 5, seed=1), numbers(c, seed=2)
        layer[0][3] = nan  # in a row that is ignored
        weight = numbers(c, seed=3).abs()
        for more in (
            {"chunk_size": 2},
            {"chunk_size": 3, "weight": weight, "reduction": "none", "return_statistics": True},
            {"reduction": "sum", "sample_weight": numbers(6, seed=4).abs()},
        ):
            x, matrix, bias = (a.clone().requires_grad_() for a in layer)
            mine = x.detach().clone(), matrix[k].detach().clone(), bias[k].detach().clone()
            mine = [a.requires_grad_() for a in mine]
            wanted = linear_cross_entropy(x, matrix, y, linear_bias=bias, **o, **more)
            found = vocab_parallel_linear(*mine[:2], y, linear_bias=mine[2], **o, **more)
            compare_results(found, wanted, 1e-12, (o, more))
            sum(a.sum() for a in parts(wanted)).backward()
            sum(a.sum() for a in parts(found)).backward()
            close(mine[0].grad, x.grad, 1e-12, f"input {o} {more}")
            close(mine[1].grad, matrix.grad[k], 1e-12, f"weight {o} {more}")
            close(mine[2].grad, bias.grad[k], 1e-12, f"bias {o} {more}")


@case
def linear_in_halves_and_under_autocast(rank, size):
    sizes = SPLITS[size][0]
    c, k = sum(sizes), own(sizes, rank)
    x, matrix, y = numbers(4, 8, size=1.0), numbers(c, 8, seed=1), classes((4,), c)
    x, matrix = x.bfloat16(), matrix.bfloat16()
    wanted = cross_entropy((x @ matrix.T).double(), y)
    mine = x.clone().requires_grad_(), matrix[k].clone().requires_grad_()
    loss = vocab_parallel_linear(*mine, y)
    close(loss, wanted, 1e-6)
    loss.backward()
    assert mine[0].grad.dtype == mine[1].grad.dtype == torch.bfloat16
    with torch.autocast(DEVICE.type, torch.bfloat16):
        close(vocab_parallel_linear(x.float(), matrix[k].float(), y), wanted, 1e-6)


@case
def linear_gradients_on_fewer_tensors(rank, size):
    sizes = SPLITS[size][0]
    c, k = sum(sizes), own(sizes, rank)
    x, matrix, y = numbers(4, 3, size=1.0), numbers(c, 3, seed=1), classes((4,), c)
    a, b = x.clone().requires_grad_(), matrix.clone().requires_grad_()
    linear_cross_entropy(a, b, y).backward()
    frozen = matrix[k].clone()
    mine = x.clone().requires_grad_()
    (dx,) = torch.autograd.grad(vocab_parallel_linear(mine, frozen, y), mine)
    close(dx, a.grad)
    trained = frozen.requires_grad_()
    (dw,) = torch.autograd.grad(vocab_parallel_linear(x, trained, y), trained)
    close(dw, b.grad[k])


# Disagreement: all ranks raise, at once, and name the rank and what it is about.


@case
def ranks_that_disagree(rank, size):
    if size == 1:
        return
    n, k, odd = 5, 3, size - 1
    last = rank == odd
    x, y = numbers(n, k, seed=rank), classes((n,), k * size)
    other = y.clone()
    other[3] = (y[3] + 1) % (k * size)
    ones, c = torch.ones(n, dtype=torch.float64, device=DEVICE), k * size
    weight = torch.ones(c, dtype=torch.float64, device=DEVICE)
    matrix, hidden = numbers(k, 4), numbers(n, 4)
    default = {
        "reduction": "none", "label_smoothing": 0.1, "z_loss": 0.1, "softcap": 2.0, "scale": 2.0,
        "ignore_index": 0, "mean_over": "count", "return_statistics": True, "validate": False,
        "weight": weight, "sample_weight": ones,
    }  # fmt: skip
    where, found, calls = f" on rank {odd}: expected ", {}, []

    def add(message, function, usual, odd_one):
        """A call with the usual arguments, on the last rank with some others."""
        calls.append((message, lambda: function(**{**usual, **(odd_one if last else {})})))

    usual = {"local_logits": x, "target": y}
    for name, value in default.items():
        add(f"{name} = ", vocab_parallel, usual, {name: value})
    add(f"target[3] = {int(other[3])}{where}{int(y[3])}", vocab_parallel, usual, {"target": other})
    for name, a in (("sample_weight", ones), ("weight", weight)):
        odd_one = {name: a.index_fill(0, torch.tensor([1], device=DEVICE), 3.0)}
        add(f"{name}[1] = 3.0{where}1.0", vocab_parallel, usual | {name: a}, odd_one)
    message = f"weight = a tensor of shape (1,){where}a tensor of shape ({c},)"
    add(message, vocab_parallel, usual | {"weight": weight}, {"weight": weight[:1]})
    message = f"shape without classes = (4,){where}(5,)"
    add(message, vocab_parallel, usual, {"local_logits": x[:4], "target": y[:4]})
    message = f"dtype = torch.float32{where}torch.float64"
    add(message, vocab_parallel, usual, {"local_logits": x.float()})
    usual = {"input": hidden, "local_weight": matrix, "target": y}
    message = f"shape of input = (5, 3){where}(5, 4)"
    odd_one = {"input": hidden[:, 1:], "local_weight": matrix[:, 1:]}
    add(message, vocab_parallel_linear, usual, odd_one)
    odd_one = {"input": hidden.clone().requires_grad_()}
    message = f"requires_grad of input = True{where}False"
    add(message, vocab_parallel_linear, usual, odd_one)
    message = f"linear_bias = given{where}None"
    add(message, vocab_parallel_linear, usual, {"linear_bias": matrix[:, 0]})
    name = "function = vocab_parallel_linear_cross_entropy"
    linear = functools.partial(vocab_parallel_linear, hidden, matrix, y)
    plain = functools.partial(vocab_parallel, x, y)
    calls.append((f"{name}{where}vocab_parallel_cross_entropy", linear if last else plain))
    for message, call in calls:
        begin = time.monotonic()
        raises(ValueError, message, call)
        found[message] = time.monotonic() - begin
        # The ranks are still in step.
        assert vocab_parallel(x, y).isfinite()
    assert max(found.values()) < 5.0, found


@case
def a_rank_that_refuses_its_arguments(rank, size):
    n, k, odd = 4, 3, size - 1
    x, y = numbers(n, k, seed=rank), classes((n,), k * size)
    wrong = torch.full((k * size,), -1.0, device=DEVICE)
    for kind, own_message, change in (
        (ValueError, "softcap = -1.0: expected", {"softcap": -1.0}),
        (ValueError, "reduction = 'all': expected", {"reduction": "all"}),
        (TypeError, "scale is of type str", {"scale": "2"}),
        (ValueError, f"target has shape (3,): expected ({n},)", {"target": y[:3]}),
        (ValueError, "sample_weight[0] = -1.0", {"sample_weight": wrong[:1].expand(n)}),
        (
            TypeError,
            "local_logits has dtype torch.complex64",
            {"local_logits": x.to(torch.complex64)},
        ),
        (ValueError, "local_logits has shape ()", {"local_logits": x[0, 0]}),
        (TypeError, "local_logits has dtype <U6", {"local_logits": "logits"}),
    ):
        given = {"local_logits": x, "target": y} | (change if rank == odd else {})
        if rank == odd:
            raises(kind, own_message, vocab_parallel, **given)
        else:
            message = f"rank {odd} refuses its arguments: {kind.__name__}: {own_message}"
            raises(ValueError, message, vocab_parallel, **given)
        # What all do wrong is said in the words of the loss of one process.
        raises(kind, own_message, vocab_parallel, **({"local_logits": x, "target": y} | change))
    raises(ValueError, "weight[0] = -1.0", vocab_parallel, x, y, weight=wrong)
    raises(
        ValueError,
        f"weight has shape (2,): expected ({k * size},)",
        vocab_parallel,
        x,
        y,
        weight=wrong[:2],
    )
    raises(ValueError, "at least one class", vocab_parallel, x[:, :0], y)
    raises(TypeError, "process_group is of type str", vocab_parallel, x, y, process_group="tp")
    raises(ValueError, "expected (4,) for classes", vocab_parallel, x, x)
    mesh = init_device_mesh(DEVICE.type, (size,))
    whole = DTensor.from_local(x, mesh, [Shard(1)])
    raises(TypeError, "local_logits is of type DTensor", vocab_parallel, whole, y)


@case
def a_backward_pass_that_is_left_out(rank, size):
    if size == 1:
        return
    x, matrix, y = numbers(4, 3).requires_grad_(), numbers(2, 3, seed=rank), classes((4,), 2 * size)
    loss = vocab_parallel_linear(x, matrix, y)
    then = (lambda: vocab_parallel_linear(x, matrix, y)) if rank == 0 else loss.backward
    name = "function = vocab_parallel_linear_cross_entropy"
    raises(ValueError, f"{name} on rank 0" if size > 2 else f"{name}.backward on rank 1", then)
    twice = rank == size - 1
    loss = vocab_parallel_linear(x, matrix, y)
    message = "a distributed loss: expected create_graph=False"
    kind = NotImplementedError if twice else ValueError
    raises(kind, message, lambda: torch.autograd.grad(loss, x, create_graph=twice))


@case
def groups_of_some_ranks(rank, size):
    if size < 4:
        return
    groups = [dist.new_group([0, 2]), dist.new_group([1, 3])]
    group = groups[rank % 2]
    x, y = numbers(3, 6, seed=rank % 2), classes((3,), 6, seed=rank % 2)
    mine = x[:, 3 * (rank // 2) :][:, :3]
    close(vocab_parallel(mine, y, process_group=group), cross_entropy(x, y))
    theirs = groups[1 - rank % 2]
    raises((ValueError, TypeError), "process_group", vocab_parallel, mine, y, process_group=theirs)


@case
def arrays_of_numpy(rank, size):
    if DEVICE.type == "cpu":
        x, y = numbers(3, 2 * size), classes((3,), 2 * size)
        half = np.float64(0.5)
        found = vocab_parallel(x[:, 2 * rank :][:, :2].numpy(), y.numpy(), label_smoothing=half)
        assert type(found).__module__ == "numpy"
        close(torch.tensor(found), cross_entropy(x, y, label_smoothing=0.5))


# DTensor.


def placed(mesh, x, placement):
    return distribute_tensor(x.detach(), mesh, [placement]).requires_grad_()


@case
def dtensors_of_logits(rank, size):
    mesh = init_device_mesh(DEVICE.type, (size,))
    c = 7
    for shape, o in (
        ((5, c), {}),
        ((3, c, 4), {"label_smoothing": 0.1, "z_loss": 0.1}),
        ((c,), {"softcap": 2.0}),
    ):
        axis = min(1, len(shape) - 1)
        sites = shape[:axis] + shape[axis + 1 :]
        x, y, weight = numbers(*shape), classes(sites, c), numbers(c, seed=1).abs()
        if sites:
            y[0] = -100
        each = numbers(*sites, seed=2).abs()
        statistics = {"weight": weight, "mean_over": "count", "return_statistics": True}
        for placement, reduction, more in itertools.product(
            (Replicate(), Shard(axis), *(Shard(i) for i in range(len(shape)) if i != axis)),
            ("none", "mean", "sum"),
            ({}, {"weight": weight, "sample_weight": each}, statistics),
        ):  # fmt: skip
            whole, spread = x.clone().requires_grad_(), placed(mesh, x, placement)
            options = {"reduction": reduction, **o, **more}
            wanted = cross_entropy(whole, y, **options)
            found = cross_entropy(spread, y, **options)
            for a, b in zip(parts(found), parts(wanted), strict=True):
                assert isinstance(a, DTensor)
                close(a.full_tensor(), b, 1e-12, f"{placement} {options}")
                split = a.ndim > 0 and isinstance(placement, Shard) and placement != Shard(axis)
                assert a.placements[0].is_replicate() != split
            parts(wanted)[0].sum().backward()
            parts(found)[0].sum().backward()
            assert spread.grad.placements == (placement,)
            close(spread.grad.full_tensor(), whole.grad, 1e-12, f"gradient {placement} {options}")


@case
def dtensors_beside_the_logits(rank, size):
    mesh = init_device_mesh(DEVICE.type, (size,))
    x, y, each = numbers(6, 5), classes((6,), 5), numbers(6, seed=1).abs()
    weight = numbers(5, seed=2).abs()
    wanted = cross_entropy(x, y, weight, sample_weight=each)
    for placement, of_target in itertools.product((Shard(0), Shard(-1)), (Shard(0), Replicate())):
        found = cross_entropy(
            placed(mesh, x, placement),
            distribute_tensor(y, mesh, [of_target]),
            distribute_tensor(weight, mesh, [Shard(0)]),
            sample_weight=distribute_tensor(each, mesh, [of_target]),
        )
        close(found.full_tensor(), wanted)
    # Probabilities as targets, where each rank has whole rows.
    q = numbers(6, 5, seed=3).softmax(-1)
    for o in ({}, {"mean_over": "weight"}, {"weight": weight}):
        found = cross_entropy(placed(mesh, x, Shard(0)), q, **o)
        close(found.full_tensor(), cross_entropy(x, q, **o))
    nothing = cross_entropy(placed(mesh, x, Shard(0)), torch.full((6,), -100, device=DEVICE))
    assert nothing.full_tensor().isnan()


@case
def dtensors_that_are_refused(rank, size):
    mesh = init_device_mesh(DEVICE.type, (size,))
    x, y = numbers(6, 5), classes((6,), 5)
    raises(
        ValueError,
        "expected Shard or Replicate()",
        cross_entropy,
        DTensor.from_local(x, mesh, [Partial()]),
        y,
    )
    spread = placed(mesh, x, Shard(0))
    if DEVICE.type == "cpu":
        raises(
            ValueError,
            "target[0] = 9" if rank == 0 else "rank 0 refuses its arguments",
            cross_entropy,
            spread,
            y.index_fill(0, torch.tensor([0]), 9),
        )
    if size > 1:
        odd = {"reduction": "sum"} if rank == 1 else {"reduction": "mean"}
        raises(ValueError, "reduction = 'sum' on rank 1", cross_entropy, spread, y, **odd)
        odd = {"scale": -1.0} if rank == 1 else {"scale": 1.0}
        raises(ValueError, "scale = -1.0", cross_entropy, spread, y, **odd)
    raises(
        ValueError,
        "inplace_backward = True",
        cross_entropy,
        spread,
        y,
        inplace_backward=True,
    )
    if size == 4:
        square = init_device_mesh(DEVICE.type, (2, 2))
        both = distribute_tensor(x, square, [Shard(0), Shard(1)])
        raises(ValueError, "a mesh of 2 dimensions", cross_entropy, both, y)


@case
def dtensors_of_a_layer(rank, size):
    mesh = init_device_mesh(DEVICE.type, (size,))
    for c in (8, 5):
        x, matrix, bias = numbers(6, 3, size=1.0), numbers(c, 3, seed=1), numbers(c, seed=2)
        y = classes((6,), c)
        y[2] = -100
        for of_input, of_weight, reduction in itertools.product(
            (None, Replicate(), Shard(0)), (Shard(0), Replicate()), ("mean", "none", "sum")
        ):
            if of_input is None and of_weight == Replicate() and reduction != "mean":
                continue
            whole = [a.clone().requires_grad_() for a in (x, matrix, bias)]
            given = x.clone().requires_grad_() if of_input is None else placed(mesh, x, of_input)
            layer = [placed(mesh, a, of_weight) for a in (matrix, bias)]
            wanted = linear_cross_entropy(*whole[:2], y, linear_bias=whole[2], reduction=reduction)
            found = linear_cross_entropy(
                given, layer[0], y, linear_bias=layer[1], reduction=reduction
            )
            what = f"{of_input} {of_weight} {reduction}"
            close(found.full_tensor(), wanted, 1e-12, what)
            wanted.sum().backward()
            found.sum().backward()
            for a, b in zip((given, *layer), whole, strict=True):
                grad = a.grad.full_tensor() if isinstance(a.grad, DTensor) else a.grad
                close(grad, b.grad, 1e-12, f"gradient {what}")


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 10)

    def forward(self, x):
        return self.head(torch.tanh(self.body(x)))


def trained(model, loss_of, steps=20):
    """The losses of some steps of gradient descent."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    x, y = numbers(12, 6, size=1.0), classes((12,), 10)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(model, x, y)
        loss.backward()
        optimizer.step()
        losses.append(loss.full_tensor() if isinstance(loss, DTensor) else loss)
    return torch.stack([a.detach() for a in losses])


@case
def a_tensor_parallel_classifier(rank, size):
    mesh = init_device_mesh(DEVICE.type, (size,))
    torch.manual_seed(0)
    one, many, linear = (Classifier().to(DEVICE, torch.float64) for _ in range(3))
    many.load_state_dict(one.state_dict())
    linear.load_state_dict(one.state_dict())
    wanted = trained(one, lambda m, x, y: cross_entropy(m(x), y, label_smoothing=0.1))
    assert wanted[-1] < 0.7 * wanted[0]
    # The output of the head is a DTensor, split by classes.
    parallelize_module(many, mesh, {"head": ColwiseParallel(use_local_output=False)})
    found = trained(many, lambda m, x, y: cross_entropy(m(x), y, label_smoothing=0.1))
    close(found, wanted, 1e-11)
    close(many.head.weight.full_tensor(), one.head.weight, 1e-11)
    close(many.body.weight, one.body.weight, 1e-11)
    # The weight of the head alone is, and the logits never exist.
    parallelize_module(linear, mesh, {"head": ColwiseParallel()})

    def loss_of_layer(m, x, y):
        hidden, (weight, bias) = torch.tanh(m.body(x)), (m.head.weight, m.head.bias)
        return linear_cross_entropy(hidden, weight, y, linear_bias=bias, label_smoothing=0.1)

    close(trained(linear, loss_of_layer), wanted, 1e-11)
    close(linear.body.weight, one.body.weight, 1e-11)


@case
def layers_under_fsdp(rank, size):
    try:
        from torch.distributed.fsdp import fully_shard
    except ImportError:  # before torch 2.6
        from torch.distributed._composable.fsdp import fully_shard

    if size == 1:
        return
    mesh = init_device_mesh(DEVICE.type, (size,))
    torch.manual_seed(0)
    head = nn.Linear(6, 8).to(DEVICE, torch.float64)
    plain = [a.detach().clone().requires_grad_() for a in head.parameters()]
    fully_shard(head, mesh=mesh)
    x, y = numbers(3 * size, 6, size=1.0), classes((3 * size,), 8)
    mine = slice(3 * rank, 3 * rank + 3)
    # The ranks are those of data parallelism: a weight that is still split does not fit.
    raises(ValueError, "target[", linear_cross_entropy, x[mine], head.weight, y[mine])
    head.unshard()
    assert not isinstance(head.weight, DTensor)
    found = linear_cross_entropy(x[mine], head.weight, y[mine], linear_bias=head.bias)
    wanted = linear_cross_entropy(x[mine], plain[0], y[mine], linear_bias=plain[1])
    close(found, wanted)


# The launches.


def main(folder, device):
    """What torchrun starts: all cases, one after the other."""
    global DEVICE
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    if device == "cuda":
        DEVICE = torch.device("cuda", rank)
        torch.cuda.set_device(DEVICE)
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    # torchrun itself has a store at this address.
    store = dist.TCPStore(host, port, is_master=False)
    report, begun = {}, False
    for name, function in CASES.items():
        if not begun:
            options = {"timeout": datetime.timedelta(seconds=TIMEOUT), "rank": rank}
            inner = dist.PrefixStore(f"before {name}", store)
            backend = "nccl" if device == "cuda" else "gloo"
            dist.init_process_group(backend, store=inner, world_size=size, **options)
        begin = time.monotonic()
        try:
            function(rank, size)
            report[name] = None
        except BaseException:
            report[name] = traceback.format_exc()
        print(f"rank {rank}: {name}, {time.monotonic() - begin:.1f} s", flush=True)
        (folder / f"{rank}.json").write_text(json.dumps(report))
        # A rank that failed may have left the others within a collective: a new group begins anew.
        store.set(f"{name} on {rank}", "failed" if report[name] else "passed")
        begun = all(store.get(f"{name} on {r}") == b"passed" for r in range(size))
        if not begun:
            dist.destroy_process_group()
    if begun:
        dist.destroy_process_group()


def launched(folder, size, device):
    """The reports of all ranks."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", str(size), __file__, str(folder), device),
    ]
    root = str(Path(__file__).parents[1])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    files = sorted(folder.glob("*.json"))
    assert len(files) == size, done.stdout[-4000:] + done.stderr[-4000:]
    return [json.loads(file.read_text()) for file in files]


LAUNCHES = {
    "one-process": (1, "cpu"),
    "two-processes": (2, "cpu"),
    "four-processes": (4, "cpu"),
    "two-gpus": (2, "cuda"),
    "four-gpus": (4, "cuda"),
}


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    known = {}

    def of(launch):
        if launch not in known:
            known[launch] = launched(tmp_path_factory.mktemp(launch), *LAUNCHES[launch])
        return known[launch]

    return of


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    "launch",
    [pytest.param(name, marks=pytest.mark.gpu if "gpus" in name else ()) for name in LAUNCHES],
)
def test_case(reports, launch, name):
    size, device = LAUNCHES[launch]
    if device == "cuda" and size > GPUS:
        pytest.skip(f"{launch} needs {size} GPUs, and there are {GPUS}")
    failed = {rank: r[name] for rank, r in enumerate(reports(launch)) if r[name] is not None}
    assert not failed, "\n".join(f"rank {rank}:\n{text}" for rank, text in failed.items())


LEAVING = """
import datetime, os, signal, sys, time
import torch, torch.distributed as dist
from celib.distributed import vocab_parallel_cross_entropy

rank, store = int(sys.argv[1]), dist.FileStore(sys.argv[2], 3)
torch.set_num_threads(1)
timeout = datetime.timedelta(seconds=3)
dist.init_process_group("gloo", store=store, rank=rank, world_size=3, timeout=timeout)
x, y = torch.randn(4, 2), torch.tensor([0, 1, 2, 3])
for how in ("absent", "killed"):
    group = dist.new_group(timeout=timeout)
    vocab_parallel_cross_entropy(x, y, process_group=group)
    begin = time.monotonic()
    if rank == 1:
        store.wait(["absent 0", "absent 2"], datetime.timedelta(seconds=30))
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        continue
    try:
        vocab_parallel_cross_entropy(x, y, process_group=group)
    except RuntimeError as error:
        message = str(error).splitlines()[0]
        print(f"{how} after {time.monotonic() - begin:.0f} s: {message}", flush=True)
    store.set(f"{how} {rank}", "seen")
os._exit(0)
"""


def test_a_rank_that_does_not_come_or_dies(tmp_path):
    """The others end with an error that says so, within the timeout of the group."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", LEAVING, str(rank), str(tmp_path / "store")],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(3)
    ]  # fmt: skip
    try:
        for rank in (0, 2):
            out, err = ranks[rank].communicate(timeout=60)
            assert ranks[rank].returncode == 0, out + err
            lines = dict(line.split(" s: ", 1) for line in out.splitlines())
            assert [line.split()[0] for line in lines] == ["absent", "killed"], out + err
            assert max(float(line.split()[2]) for line in lines) <= 7  # two exchanges that wait
            begin = f"vocab_parallel_cross_entropy, rank {rank} of 3: the exchange of the arguments"
            assert all(text.startswith(begin) and "died" in text for text in lines.values())
        assert ranks[1].wait(10) == -signal.SIGKILL
    finally:
        for process in ranks:
            process.kill()
            process.communicate()


def test_without_a_process_group():
    message = "init_process_group"
    with pytest.raises(ValueError, match=message):
        vocab_parallel(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long))


def test_the_options_are_those_of_one_process():
    """A new option of the losses is one here too, with the same default."""
    for ours, theirs in (
        (vocab_parallel, cross_entropy),
        (vocab_parallel_linear, linear_cross_entropy),
    ):
        own, known = (inspect.signature(f).parameters for f in (ours, theirs))
        missing = set(known) - set(own) - {"input", "linear_weight", "inplace_backward"}
        assert not missing
        assert all(own[n].default == known[n].default for n in known if n in own)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
