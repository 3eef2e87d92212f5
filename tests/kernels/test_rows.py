"""Rows that break kernels: masked, huge, empty, strided, of any dtype."""

import importlib
import importlib.util
import itertools
import math
import os
import sys
import threading

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import grad

from celib.kernels import operators
from celib.kernels.family import Options
from celib.losses import (
    cross_entropy,
)
from kernels.comparing import (
    DEVICES,
    DTYPES,
    EVERY,
    KERNELS,
    MARKS,
    NASTY,
    PLAIN,
    SMOOTH,
    classes,
    error,
    exact,
    in_a_process,
    inf,
    nan,
    normal,
    run,
    ulps,
)

pytestmark = MARKS


class TestNastyRows:
    @pytest.mark.parametrize("name", NASTY)
    @pytest.mark.parametrize(
        ("kernel", "o", "soft"),
        list(itertools.product(DEVICES, (PLAIN, SMOOTH), (False, True))),
        indirect=["kernel"],
    )
    def test_01_rows(self, kernel, name, o, soft):
        row, y = NASTY[name]
        x, target = torch.tensor([row, row[::-1]]), torch.tensor([y, len(row) - 1 - y])
        target = F.one_hot(target, len(row)).float() if soft else target
        found, wanted = run(x, target, None, o), exact(x, target, None, o)
        names = ("loss", "lse", "log_prob", "entropy")[: 4 if o.entropy else 3]
        for a, b in ((getattr(found, name), getattr(wanted, name)) for name in names):
            torch.testing.assert_close(a.double(), b, rtol=3e-7, atol=2e-38, equal_nan=True)
        if wanted.loss.isfinite().all():
            torch.testing.assert_close(found.dx.double(), wanted.dx, rtol=1e-6, atol=2e-7)
        assert torch.equal(found.correct, wanted.correct)
        if name != "all masked":  # of which the gradient may be 0
            assert torch.equal(found.loss.isnan(), found.dx.isnan().any(-1))

    def test_26_ignored_rows_may_hold_anything(self, kernel):
        x, y = normal(4, 5), torch.tensor([0, -100, -100, 1])
        for bad in (nan, inf, -inf):
            x[1], x[2, 1:3] = bad, bad
            loss, lse, share, correct, dx, *_ = run(x, y)
            assert (loss[1:3] == 0).all()
            assert (dx[1:3] == 0).all()
            assert (lse[1:3] == 0).all()
            assert not correct[1:3].any()
            assert share.tolist() == [1, 0, 0, 1]
            alone = run(x[[0, 3]], y[[0, 3]])
            assert torch.equal(dx[[0, 3]], alone.dx)

    @pytest.mark.parametrize("bad", [-1, 5, 5 + 10**9, 2**40])
    def test_16_out_of_range(self, kernel, bad):
        x, y = normal(4, 5), torch.tensor([0, 1, 2, 3])
        wanted = run(x, y)
        y[2] = bad
        loss, lse, _, correct, dx, *_ = run(x, y)
        assert loss.isnan().tolist() == [False, False, True, False]
        assert dx.isnan().all(-1).tolist() == [False, False, True, False]
        assert not correct[2]
        rest = [0, 1, 3]
        assert torch.equal(dx[rest], wanted.dx[rest])
        assert torch.equal(loss[rest], wanted.loss[rest])
        assert lse[2].isnan()

    @pytest.mark.parametrize("c", [31, 32, 33, 123, 1023, 1025, 4095, 4097])
    @pytest.mark.parametrize(
        ("kernel", "o"),
        list(itertools.product(DEVICES, (PLAIN, EVERY))),
        indirect=["kernel"],
    )
    def test_02_23_padding(self, kernel, o, c):
        # Beside the row stands what a kernel must not see, and the softcap must not make of it.
        wide = normal(3, c + 9)
        wide[:, c:] = 1e4
        x, y = wide[:, :c], classes(3, c)
        for a, b in zip(run(x, y, None, o), exact(x, y, None, o), strict=True):
            assert error(a, b) < 5e-7

    @pytest.mark.parametrize("o", [PLAIN, SMOOTH], ids=["plain", "smooth"])
    def test_certain_in_a_later_tile(self, kernel, o):
        x = torch.zeros(2, 5000)
        x[:, 4999] = inf
        y = torch.tensor([4999, 3])
        for target in (y, F.one_hot(y, 5000).float()):
            for w in (None, torch.arange(5000) % 2.0):
                found, wanted = run(x, target, w, o), exact(x, target, w, o)
                assert torch.equal(found.loss.double(), wanted.loss)

    def test_ignored_row_in_the_reference(self):
        x = torch.tensor([[nan, 1.0, 2.0], [0.0, 1.0, 2.0]], requires_grad=True)
        loss = cross_entropy(x, torch.tensor([-100, 1]), softcap=5.0, reduction="sum")
        (dx,) = grad(loss, x, create_graph=True)
        assert (dx[0] == 0).all()
        assert dx[1].isfinite().all()

    def test_softcap_of_small_logits(self, kernel):
        x, o = torch.tensor([[0.01, 0.02, -0.01]]), Options(softcap=50.0)
        found, wanted = run(x, torch.tensor([0]), None, o), exact(x, torch.tensor([0]), None, o)
        assert ulps(found.loss, wanted.loss) <= 4
        assert ulps(found.dx, wanted.dx) <= 8

    def test_softcap_leaves_masks(self, kernel):
        x = torch.tensor([[1.0, -inf, 3.0]])
        loss, _, _, _, dx, *_ = run(x, torch.tensor([0]), None, Options(softcap=2.0))
        alone = run(x[:, [0, 2]], torch.tensor([0]), None, Options(softcap=2.0))
        assert loss.item() == alone.loss.item()
        assert dx[0, 1] == 0

    def test_24_degenerate_shapes(self, kernel):
        for n, c in ((0, 5), (1, 1), (1, 2), (3, 1)):
            loss, lse, _, _, dx, *_ = run(normal(n, c).half(), torch.zeros(n, dtype=torch.long))
            loss, lse, _, _, dx, *_ = run(normal(n, c), torch.zeros(n, dtype=torch.long))
            assert loss.shape == lse.shape == (n,)
            assert dx.shape == (n, c)
            assert c > 1 or (dx == 0).all()


class TestLayout:
    def test_06_logits_are_left_alone(self, kernel):
        x, y = normal(6, 50), classes(6, 50)
        before = x.clone()
        run_on = x.requires_grad_()
        loss, *_ = operators.rows(run_on, y, None, Options()).results
        loss.sum().backward()
        assert torch.equal(x.detach(), before)
        again, *_ = operators.rows(run_on, y, None, Options()).results
        assert torch.equal(again, loss)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_in_place_gradient(self, kernel, dtype):
        x, y = normal(6, 50).to(dtype), classes(6, 50)
        wanted = run(x, y).dx
        leaf = x.clone().requires_grad_()
        logits = leaf * 1.0
        cross_entropy(logits, y, reduction="sum", inplace_backward=True).backward()
        assert torch.equal(leaf.grad, wanted)
        assert torch.equal(logits.detach(), wanted)
        logits = leaf * 1.0
        loss = cross_entropy(logits, y, inplace_backward=True)
        loss.backward(retain_graph=True)
        with pytest.raises(RuntimeError, match="inplace operation"):
            loss.backward()
        for values in (leaf, leaf.view(6, 50), leaf[:, :]):
            with pytest.raises(ValueError, match="inplace_backward = True: input is a leaf"):
                cross_entropy(values, y, inplace_backward=True)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
    def test_strides(self, kernel, dtype):
        x, y = normal(5, 40).to(dtype), classes(5, 40)
        wanted = run(x, y)
        wide = torch.zeros(5, 64, dtype=dtype)
        wide[:, :40] = x
        columns = torch.empty(40, 5, dtype=dtype).T.copy_(x)
        for view in (wide[:, :40], columns, x[[0]].expand(5, -1)):
            leaf = view.detach().requires_grad_()
            loss = cross_entropy(leaf, y, reduction="none")
            (dx,) = grad(loss.sum(), leaf)
            if view.stride(0):
                assert torch.equal(loss, wanted.loss)
                assert torch.equal(dx, wanted.dx)
            else:
                assert torch.equal(loss, run(view.contiguous(), y).loss)

    @pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 7, 4), (2, 7, 3, 2)])
    def test_classes_at_1(self, kernel, shape):
        x = normal(*shape, dtype=torch.float32)
        axis = min(1, len(shape) - 1)
        sites = [n for i, n in enumerate(shape) if i != axis]
        y = classes(math.prod(sites), 7).reshape(sites)
        for reduction in ("none", "mean", "sum"):
            a, b = (x.clone().requires_grad_() for _ in range(2))
            found = cross_entropy(a, y, reduction=reduction)
            wanted = F.cross_entropy(b, y, reduction=reduction)
            torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(
                grad(found.sum(), a)[0], grad(wanted.sum(), b)[0], rtol=1e-5, atol=1e-7
            )

    @pytest.mark.parametrize(
        "dtype", [torch.int64, torch.int32, torch.int16, torch.uint8, torch.uint16]
    )
    def test_25_targets_at_odd_addresses(self, kernel, dtype):
        x, y = normal(9, 20), classes(10, 20).to(dtype)
        assert torch.equal(run(x, y[1:]).dx, run(x, y[1:].clone()).dx)
        assert torch.equal(run(x, y[1:]).loss, run(x, y[1:].long()).loss)
        assert torch.equal(cross_entropy(x, y[1:], reduction="none"), run(x, y[1:]).loss)

    def test_weights_of_any_layout(self, kernel):
        x, y, w = normal(4, 5), classes(4, 5), torch.rand(10)
        for view in (w[::2], torch.tensor(2.0).expand(5)):
            for a, b in zip(run(x, y, view), run(x, y, view.clone()), strict=True):
                assert torch.equal(a, b)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
    def test_other_default_dtype(self, kernel, dtype):
        x, y = normal(60, 300, size=20).to(dtype), classes(60, 300)
        wanted = run(x, y)
        torch.set_default_dtype(torch.float64)
        try:
            found = run(x, y)
        finally:
            torch.set_default_dtype(torch.float32)
        for a, b in zip(found, wanted, strict=True):
            assert a.dtype == b.dtype
            assert torch.equal(a, b)

    def test_18_same_bits(self, kernel):
        x, y, w = normal(8, 777), classes(8, 777), torch.rand(777)
        first = run(x, y, w)
        for _ in range(9):
            assert all(torch.equal(a, b) for a, b in zip(run(x, y, w), first, strict=True))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
    @pytest.mark.parametrize("of_torch", [True, False], ids=["torch", "python"])
    def test_threads(self, monkeypatch, of_torch, dtype):
        # Large enough to be shared among threads; called from several threads at once.
        if "numba" not in KERNELS:
            pytest.skip("numba is not installed")
        if not of_torch:
            threads = importlib.import_module("celib.kernels.threads")
            monkeypatch.setattr(threads, "_openmp", lambda: None)
        x, y = normal(301, 700).to(dtype), classes(301, 700)
        threads = torch.get_num_threads()
        results = [None] * 4

        def work(i):
            results[i] = run(x, y)

        try:
            torch.set_num_threads(1)
            wanted = run(x, y)
            torch.set_num_threads(3)
            workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
        finally:
            torch.set_num_threads(threads)
        for found in results:
            assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))

    @pytest.mark.parametrize("limit", ["1", "2", "64"])
    def test_threads_of_torch(self, limit):
        # Where torch is built with an OpenMP that has GNU's entry point the kernel runs on it, also
        # if OpenMP gives it fewer threads than it asks for.
        if "numba" not in KERNELS or sys.platform != "linux":
            pytest.skip("numba is not installed, or this is not Linux")
        code = (
            "import torch; from celib.losses import cross_entropy\n"
            "from celib.kernels import threads\n"
            "assert threads._openmp() or 'OpenMP' not in torch.__config__.parallel_info()\n"
            "x, y = torch.arange(400000.).reshape(1000, 400) % 7, torch.arange(1000) % 400\n"
            "torch.set_num_threads(1); wanted = cross_entropy(x, y, reduction='none')\n"
            "torch.set_num_threads(3); found = cross_entropy(x, y, reduction='none')\n"
            "assert torch.equal(found, wanted)\n"
        )
        in_a_process(code, OMP_THREAD_LIMIT=limit)

    def test_threads_are_kept(self):
        # For another number of threads OpenMP would end those it has, and begin new ones.
        if "numba" not in KERNELS or not os.path.isdir("/proc/self/task"):
            pytest.skip("numba is not installed, or the system does not list threads")
        code = (
            "import os, torch; from celib.losses import cross_entropy\n"
            "torch.set_num_threads(4)\n"
            "x, y, z = torch.zeros(90, 1000), torch.arange(90), torch.zeros(300000)\n"
            "seen = set()\n"
            "for _ in range(50):\n"
            "    cross_entropy(x, y); z.add_(1); seen |= set(os.listdir('/proc/self/task'))\n"
            "raise SystemExit(len(seen) > 20)\n"
        )
        in_a_process(code)

    @pytest.mark.parametrize("first", ["(x + 1).sum()", "cross_entropy(x, y)"])
    def test_after_a_fork(self, first):
        # Of the threads of torch's OpenMP nothing is left there, and it would wait for them.
        if "numba" not in KERNELS or not hasattr(os, "fork"):
            pytest.skip("numba is not installed, or there is no fork")
        code = (
            "import os, torch; from celib.losses import cross_entropy\n"
            "torch.set_num_threads(2)\n"
            "x, y = torch.zeros(400, 1000), torch.arange(400)\n"
            f"{first}\n"
            "child = os.fork()\n"
            "loss = cross_entropy(x, y).item()\n"
            "wrong = abs(loss - 6.907755) > 1e-5\n"
            "if child == 0: os._exit(wrong)\n"
            "raise SystemExit(wrong or os.waitpid(child, 0)[1] != 0)\n"
        )
        in_a_process(code)
