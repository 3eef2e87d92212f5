"""Gradients: made with the loss, again, of second order, and as autograd asks for them."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import grad, gradcheck, gradgradcheck

from celib.kernels import memory, operators
from celib.kernels.family import LOSS, Options
from celib.losses import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    focal_loss,
    linear_cross_entropy,
)
from kernels.comparing import (
    DTYPES,
    EVERY,
    KERNELS,
    MARKS,
    PLAIN,
    SMOOTH,
    classes,
    error,
    exact,
    inf,
    nan,
    normal,
    run,
)

pytestmark = MARKS


class TestGradientWithLoss:
    """On a CPU the gradient is made with the loss; what asks for another one still gets it."""

    @pytest.fixture(autouse=True)
    def _numba(self):
        if "numba" not in KERNELS:
            pytest.skip("numba is not installed")

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("soft", [False, True], ids=["classes", "probabilities"])
    @pytest.mark.parametrize(
        "o", [PLAIN, SMOOTH._replace(entropy=False), EVERY._replace(entropy=False)], ids=str
    )
    @pytest.mark.parametrize("stream", [0, 2**40], ids=["streamed", "cached"])
    def test_the_same_bits(self, monkeypatch, dtype, soft, o, stream):
        # Together, apart, in place, and past the caches, from rows at any address.
        kernel = KERNELS["numba"]
        monkeypatch.setattr(kernel, "STREAM", stream)
        for c in (1, 7, 300, 1001):
            x, y = normal(5, c).to(dtype), classes(5, c)
            target = normal(5, c, seed=1).softmax(-1) if soft else y
            g = torch.zeros(4, 5)
            g[LOSS] = torch.rand(5)
            together, apart = torch.empty(2, 5, c, dtype=dtype)
            found = kernel.both(x, target, None, o, g[LOSS], together)
            alone = kernel.forward(x, target, None, o)
            kernel.backward(x, target, None, o, alone.saved, g, apart)
            inside = x.clone()
            kernel.backward(inside, target, None, o, alone.saved, g, inside)
            assert all(torch.equal(a, b) for a, b in zip(found, alone, strict=True))
            assert torch.equal(together, apart)
            assert torch.equal(together, inside)
            together = x.clone()
            kernel.both(together, target, None, o, g[LOSS], together)
            assert torch.equal(together, apart)

    @pytest.mark.parametrize("factor", [1.0, 0.125, -0.3, 65536.0, 0.0, nan])
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("reduction", ["none", "mean"])
    def test_upstream(self, factor, dtype, reduction):
        # float16 gradients of a mean may underflow unless the loss is scaled before.
        x, y = normal(9, 300, size=9.0).to(dtype), classes(9, 300)
        a, b = x.clone().requires_grad_(), x.double().requires_grad_()
        (found,) = grad((cross_entropy(a, y, reduction=reduction) * factor).sum(), a)
        (wanted,) = grad((F.cross_entropy(b, y, reduction=reduction) * factor).sum(), b)
        torch.testing.assert_close(found, wanted.to(dtype), rtol=4e-6, atol=0, equal_nan=True)

    @pytest.mark.parametrize("reduction", ["none", "sum"])
    def test_it_is_handed_out_once(self, reduction):
        # What a caller does with a gradient must not be seen by the next backward pass.
        x, y = normal(9, 30).requires_grad_(), classes(9, 30)
        wanted = run(x, y).dx
        loss = cross_entropy(x, y, reduction=reduction).sum()
        for _ in range(3):
            (dx,) = grad(loss, x, retain_graph=True)
            assert torch.equal(dx, wanted)
            dx.fill_(nan)

    def test_mixed_upstream(self):
        # One row more, one less, one not at all, and through another result.
        x, y, g = normal(4, 30), classes(4, 30), torch.tensor([2.0, 0.5, 0.0, 1.0])
        for lse in (0.0, 0.25):
            found, wanted = (f(x, y, loss=g, lse=lse) for f in (run, exact))
            assert error(found.dx, wanted.dx) < 5e-7

    @pytest.mark.parametrize("weighted", [False, True], ids=["even", "weighted"])
    @pytest.mark.parametrize("sampled", [False, True], ids=["once", "sample weights"])
    @pytest.mark.parametrize("mean_over", [None, "count", "weight"])
    @pytest.mark.parametrize("soft", [False, True], ids=["classes", "probabilities"])
    def test_reductions(self, weighted, sampled, mean_over, soft):
        x, y = normal(9, 30), classes(9, 30)
        y[3] = -100
        target = normal(9, 30, seed=1).softmax(-1) if soft else y
        options = {
            "weight": torch.rand(30) if weighted else None,
            "sample_weight": torch.rand(9) if sampled else None,
            "mean_over": mean_over,
        }
        wide = {k: a.double() if torch.is_tensor(a) else a for k, a in options.items()}
        for reduction in ("mean", "sum"):
            a, b = x.clone().requires_grad_(), x.double().requires_grad_()
            found = cross_entropy(a, target, reduction=reduction, **options)
            wanted = cross_entropy(
                b, target.double() if soft else target, reduction=reduction, **wide
            )
            torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=0)
            assert error(grad(found, a)[0], grad(wanted, b)[0]) < 5e-7

    def test_checks_ride_along(self):
        # The kernel says when a check is worth its time; then the check explains.
        x, y, q = normal(3, 4), torch.tensor([0, 7, 1]), normal(3, 4).softmax(-1)
        with pytest.raises(ValueError, match=r"target\[1\] = 7: expected a class from 0 to 3"):
            cross_entropy(x, y)
        for bad, message in (
            (q * 0.9, r"the sum of target\[0\] = 0\.[89]"),
            (torch.where(q == q.amax(), -q, q), r"target\[\d, \d\] = -0\."),
            (torch.where(q == q.amax(), nan, q), r"target\[\d, \d\] = nan"),
        ):
            with pytest.raises(ValueError, match=message):
                cross_entropy(x, bad)
        near = q * (1.0 + 2.0**-8)  # suspicious, and accepted
        torch.testing.assert_close(
            cross_entropy(x, near), cross_entropy(x.double(), near.double()).float()
        )
        x[0, 0] = nan
        assert cross_entropy(x, q).isnan()  # good targets of bad logits

    def test_sums_beyond_float32(self):
        # torch gives inf for a sum that no float32 holds; so do we, and no error.
        x, y = torch.zeros(20, 2), torch.ones(20, dtype=torch.long)
        x[:, 0], x[:, 1] = 1.5e38, -1.5e38
        for loss in (cross_entropy, focal_loss):
            leaf = x.clone().requires_grad_()
            found = loss(leaf, y, reduction="sum")
            assert found == inf
            assert grad(found, leaf)[0].isfinite().all()
            assert loss(x, y).isfinite()
        z = torch.full((20, 4000), 1e38)
        assert binary_cross_entropy_with_logits(z, torch.zeros_like(z), reduction="sum") == inf

    def test_checkpoints_and_accumulation(self):
        from torch.utils.checkpoint import checkpoint

        x, y = normal(9, 30).requires_grad_(), classes(9, 30)
        (once,) = grad(cross_entropy(x, y), x)
        for _ in range(2):
            loss = checkpoint(cross_entropy, x, y, use_reentrant=False)
            (loss / 2).backward()
        torch.testing.assert_close(x.grad, once)

    def test_memory_is_used_again(self):
        x = torch.zeros(1024, 1100)
        if not memory._PAGES:
            pytest.skip("only on Linux")
        first = memory.empty_like(x)
        address = first.data_ptr()
        second = memory.empty_like(x)
        assert second.data_ptr() != address
        view = first.view(-1)[5:].fill_(3.0)
        del first
        assert memory.empty_like(x).data_ptr() != address  # there is still a view of it
        del view
        third = memory.empty_like(x.to(torch.bfloat16).repeat(2, 1))
        assert third.data_ptr() == address
        del second, third
        assert len(memory.kept) == 1


class TestAutograd:
    def test_08_any_upstream(self, kernel):
        x, y = normal(9, 30), classes(9, 30)
        g = torch.rand(9)
        assert error(run(x, y, loss=g).dx, exact(x, y, loss=g).dx) < 5e-7
        spread = torch.tensor(0.7).expand(9)  # stride 0
        assert torch.equal(run(x, y, loss=spread).dx, run(x, y, loss=spread.contiguous()).dx)

    def test_07_backward_again(self, kernel):
        x, y = normal(9, 30).requires_grad_(), classes(9, 30)
        loss = cross_entropy(x, y)
        once = grad(loss, x, retain_graph=True)[0]
        for times in (1, 2, 3):
            loss.backward(retain_graph=True)
            torch.testing.assert_close(x.grad, times * once)

    @pytest.mark.parametrize("o", [Options(), EVERY], ids=["plain", "every"])
    def test_07_double_backward(self, o):
        x, y = normal(3, 4, dtype=torch.float64), torch.tensor([0, -100, 3])
        w = torch.tensor([1.0, 0.5, 2.0, 1.0], dtype=torch.float64)
        for target in (y, normal(3, 4, seed=1, dtype=torch.float64).softmax(-1)):

            def both(x, target=target):
                return operators.rows(x, target, w, o).results

            x = x.requires_grad_()
            assert gradcheck(both, x)
            assert gradgradcheck(both, x)

    def test_by_target_and_weight(self):
        x, w = normal(3, 4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
        q = normal(3, 4, seed=1, dtype=torch.float64).softmax(-1)
        inputs = [a.requires_grad_() for a in (x, q, w)]
        assert gradcheck(lambda x, q, w: operators.rows(x, q, w, EVERY).results, inputs)

    def test_linear_by_target_and_weight(self):
        x, matrix = normal(3, 2, dtype=torch.float64), normal(4, 2, seed=2, dtype=torch.float64)
        q, w = normal(3, 4, seed=1, dtype=torch.float64).softmax(-1), torch.ones(4).double()
        inputs = [a.requires_grad_() for a in (x, matrix, q, w)]
        for reduction in ("none", "mean"):

            def loss(x, matrix, q, w, reduction=reduction):
                options = {"weight": w, "reduction": reduction, "validate": False}
                return linear_cross_entropy(x, matrix, q, **options)

            assert gradcheck(loss, inputs)

    @pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # torch's own
    def test_transforms_of_torch_func(self):
        x, matrix, y = normal(6, 3), normal(5, 3, seed=1), classes(6, 5)
        for loss in (
            lambda x: cross_entropy(x @ matrix.T, y),
            lambda x: linear_cross_entropy(x, matrix, y),
        ):
            leaf = x.clone().requires_grad_()
            torch.testing.assert_close(torch.func.grad(loss)(x), grad(loss(leaf), leaf)[0])
        each = torch.vmap(cross_entropy)(x @ matrix.T, y)
        torch.testing.assert_close(each, cross_entropy(x @ matrix.T, y, reduction="none"))
        tangent = normal(6, 5, seed=2)
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x @ matrix.T, tangent)
            rise = torch.autograd.forward_ad.unpack_dual(cross_entropy(dual, y)).tangent
        slope = torch.func.grad(cross_entropy)(x @ matrix.T, y)
        torch.testing.assert_close(rise, (slope * tangent).sum())

    def test_logsumexp_is_differentiable(self, kernel):
        x, y = normal(5, 20).requires_grad_(), torch.tensor([0, 1, 2, -100, 4])
        found = cross_entropy(x, y, return_statistics=True)
        kept = y != -100
        torch.testing.assert_close(found.logsumexp[kept], x.logsumexp(-1)[kept])
        (dx,) = grad(found.logsumexp.sum(), x)
        torch.testing.assert_close(dx[kept], x.softmax(-1)[kept])
        assert (dx[~kept] == 0).all()
        assert torch.equal(found.correct, (x.argmax(-1) == y) & kept)

    @pytest.mark.parametrize("linear", [False, True])
    def test_policy_gradient_statistics(self, kernel, linear):
        # The entropy and the log-probability of an action, and what they are differentiated for.
        x, y = normal(6, 20), torch.tensor([0, 1, 2, -100, 4, 5])
        matrix = torch.eye(20, device=x.device)
        a, b = x.clone().requires_grad_(), x.double().requires_grad_()
        options = {"return_statistics": True, "reduction": "sum"}
        found = (
            linear_cross_entropy(a, matrix, y, chunk_size=7, **options)
            if linear
            else cross_entropy(a, y, label_smoothing=0.1, weight=torch.rand(20), **options)
        )
        kept = (y != -100).double()
        log_p = b.log_softmax(-1)
        log_prob = log_p.gather(-1, y.clamp(min=0)[:, None])[:, 0] * kept
        entropy = -(log_p.exp() * log_p).sum(-1) * kept
        assert error(found.log_prob, log_prob) < 5e-7
        assert error(found.entropy, entropy) < 5e-7
        g, h = normal(6, seed=2), normal(6, seed=3)
        (da,) = grad((g * found.log_prob + h * found.entropy).sum(), a)
        (db,) = grad((g.double() * log_prob + h.double() * entropy).sum(), b)
        assert error(da, db) < 2e-6

    def test_statistics_of_probabilities(self, kernel):
        x, q = normal(40, 20), normal(40, 20, seed=1).softmax(-1)
        assert torch.equal(run(x, q).correct, x.argmax(-1) == q.argmax(-1))

    @pytest.mark.parametrize(
        ("smoothing", "weighted", "ignored", "reduction"),
        list(itertools.product((0.0, 0.3), (False, True), (False, True), ("none", "mean", "sum"))),
    )
    def test_10_as_torch(self, kernel, smoothing, weighted, ignored, reduction):
        x, y = normal(7, 9), classes(7, 9)
        w = torch.rand(9) if weighted else None
        y = torch.where(torch.arange(7) < 3, -100, y) if ignored else y
        options = {"label_smoothing": smoothing, "reduction": reduction}
        a, b = x.clone().requires_grad_(), x.double().requires_grad_()
        found = cross_entropy(a, y, w, **options)
        wanted = F.cross_entropy(b, y, None if w is None else w.double(), **options)
        torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(
            grad(found.sum(), a)[0].double(), grad(wanted.sum(), b)[0], rtol=1e-5, atol=1e-6
        )

    @pytest.mark.parametrize("n", [0, 3])
    @pytest.mark.parametrize(("reduction", "value"), [("none", 0.0), ("sum", 0.0), ("mean", nan)])
    def test_09_all_ignored(self, kernel, reduction, value, n):
        x, y = normal(n, 4).requires_grad_(), torch.full((n,), -100)
        matrix = normal(5, 4, seed=1).requires_grad_()
        for inputs, loss in (
            ([x], cross_entropy(x, y, reduction=reduction)),
            ([x, matrix], linear_cross_entropy(x, matrix, y, reduction=reduction)),
        ):
            assert loss.isnan().all() if math.isnan(value) else (loss == value).all()
            assert all((a == 0).all() for a in grad(loss.sum(), inputs))

    def test_11_smoothing_beyond_underflow(self, kernel):
        x = torch.tensor([[0.0, -300.0, -150.0]])
        loss = cross_entropy(x, torch.tensor([0]), label_smoothing=0.3)
        assert loss.item() == pytest.approx(0.1 * 450.0, rel=1e-6)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_17_loss_is_float32(self, kernel, dtype):
        x, y = normal(5, 6).to(dtype), classes(5, 6)
        assert cross_entropy(x, y).dtype == torch.float32
        assert run(x, y).dx.dtype == dtype
