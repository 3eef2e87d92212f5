"""A linear layer and its loss, a chunk of the logits at a time."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import grad, gradcheck, gradgradcheck

from celib.kernels import linear
from celib.kernels.family import Options
from celib.losses import (
    cross_entropy,
    linear_cross_entropy,
)
from kernels.comparing import LAYERS, MARKS, classes, error, inf, normal

pytestmark = MARKS


class TestLinear:
    @pytest.mark.parametrize("options", LAYERS, ids=str)
    @pytest.mark.parametrize("o", [{}, {"label_smoothing": 0.1, "z_loss": 0.01, "softcap": 3.0}])
    @pytest.mark.parametrize("bias", [False, True])
    @pytest.mark.parametrize("soft", [False, True], ids=["classes", "probabilities"])
    def test_against_float64(self, options, o, bias, soft):
        x, matrix = normal(10, 6, size=1.0), normal(11, 6, seed=1, size=1.0)
        b = normal(11, seed=2) if bias else None
        y = classes(10, 11)
        y[2] = -100
        target = normal(10, 11, seed=3).softmax(-1) if soft else y
        w = torch.rand(11)
        layer = [a.clone().requires_grad_() for a in (x, matrix, b) if a is not None]
        wide = [a.detach().double().requires_grad_() for a in layer]
        found = linear_cross_entropy(
            *layer[:2], target, linear_bias=layer[2] if bias else None, weight=w, **options, **o
        )
        wanted = cross_entropy(
            F.linear(*wide),
            target.double() if soft else target,
            w.double(),
            reduction=options["reduction"],
            **o,
        )
        torch.testing.assert_close(found.double(), wanted, rtol=2e-6, atol=1e-6)
        g = torch.rand(wanted.shape)
        for a, b in zip(grad(found, layer, g), grad(wanted, wide, g.double()), strict=True):
            assert error(a, b) < 2e-6

    def test_masked_and_certain(self):
        # What a slice of classes does not know when it is computed.
        matrix = torch.eye(6)
        x = torch.tensor([[0.0, 1.0, -inf, -inf, -inf, -inf], [-inf, -inf, 2.0, 3.0, -inf, 1.0]])
        y = torch.tensor([1, 2])
        x = torch.where(x == -inf, -1e30, x)
        for smoothing in (0.0, 0.2):
            options = {"reduction": "none", "label_smoothing": smoothing}
            found = linear_cross_entropy(x, matrix, y, chunk_size=2, **options)
            torch.testing.assert_close(found, cross_entropy(x, y, **options))

    def test_statistics(self):
        x, matrix, y = normal(10, 6), normal(11, 6, seed=1), classes(10, 11)
        found = linear_cross_entropy(x, matrix, y, chunk_size=4, return_statistics=True)
        wanted = cross_entropy(F.linear(x, matrix), y, return_statistics=True)
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b)

    @pytest.mark.parametrize("reduction", ["none", "mean"])
    def test_07_again_and_twice(self, reduction):
        x, matrix, y = normal(4, 3), normal(5, 3, seed=1), torch.tensor([0, 4, -100, 2])
        layer = [x.double().requires_grad_(), matrix.double().requires_grad_()]

        def loss(x, matrix):
            return linear_cross_entropy(x, matrix, y, reduction=reduction, chunk_size=2)

        assert gradcheck(loss, layer)
        assert gradgradcheck(loss, layer)
        value = loss(*layer).sum()
        once = grad(value, layer, retain_graph=True)
        value.backward(retain_graph=True)
        value.backward()
        for a, b in zip(layer, once, strict=True):
            torch.testing.assert_close(a.grad, 2 * b)

    @pytest.mark.parametrize("k", [4, 16, 64])
    def test_05_sums_over_chunks(self, k):
        # bfloat16 operands, and a sum that does not get worse with the number of chunks.
        x, matrix = (a.bfloat16() for a in (normal(64, 8), normal(50, 8, seed=1)))
        y = classes(64, 50)
        wide = matrix.double().requires_grad_()
        (wanted,) = grad(cross_entropy(F.linear(x.double(), wide), y), wide)

        def off(chunk):
            narrow = matrix.clone().requires_grad_()
            return error(
                grad(linear_cross_entropy(x, narrow, y, chunk_size=chunk), narrow)[0], wanted
            )

        assert off(64 // k) <= 1.1 * off(64) + torch.finfo(torch.bfloat16).eps / 8

    @pytest.mark.parametrize("options", LAYERS, ids=str)
    def test_18_same_bits(self, options):
        x, matrix, y = normal(50, 16), normal(300, 16, seed=1), classes(50, 300)
        layer = [x.requires_grad_(), matrix.requires_grad_()]

        def once():
            loss = linear_cross_entropy(*layer, y, **options)
            return loss, *grad(loss.sum(), layer)

        first = once()
        for _ in range(4):
            assert all(torch.equal(a, b) for a, b in zip(once(), first, strict=True))

    def test_autocast(self):
        x, matrix, y = normal(10, 6), normal(11, 6, seed=1), classes(10, 11)
        wanted = cross_entropy(F.linear(x.bfloat16(), matrix.bfloat16()), y)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            layer = [x.requires_grad_(), matrix.requires_grad_()]
            found = linear_cross_entropy(*layer, y)
            assert torch.equal(cross_entropy(F.linear(*layer), y), wanted)
            double = [a.detach().double() for a in layer]
            untouched = linear_cross_entropy(*double, y)  # autocast leaves float64 alone
        torch.testing.assert_close(found, wanted)
        assert all(a.dtype == torch.float32 for a in grad(found, layer))
        assert torch.equal(untouched, linear_cross_entropy(*double, y))

    def test_no_gradient_no_memory(self):
        x, matrix, y = normal(10, 6), normal(11, 6, seed=1), classes(10, 11)
        numbers = (-100, Options().numbers())
        found = linear.linear_cross_entropy(x, matrix, None, y, None, *numbers, 4, *[False] * 3)
        assert [a.numel() for a in found[2:]] == [0, 0, 0]
        assert not linear_cross_entropy(x, matrix, y).requires_grad
        only = x.requires_grad_()
        (dx,) = grad(linear_cross_entropy(only, matrix, y), only)
        torch.testing.assert_close(dx, grad(cross_entropy(F.linear(only, matrix), y), only)[0])

    def test_shapes(self):
        x, matrix = normal(2, 3, 6), normal(11, 6, seed=1)
        y = classes(6, 11).reshape(2, 3)
        found = linear_cross_entropy(x, matrix, y, reduction="none")
        flat = linear_cross_entropy(x.reshape(6, 6), matrix, y.reshape(6), reduction="none")
        assert torch.equal(found, flat.reshape(2, 3))
        assert linear_cross_entropy(x[0, 0], matrix, y[0, 0]).shape == ()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"linear_weight": torch.zeros(11, 5)}, r"linear_weight has shape \(11, 5\)"),
            ({"linear_bias": torch.zeros(5)}, r"linear_bias has shape \(5,\): expected \(11,\)"),
            ({"target": torch.tensor([0, 11])}, r"target\[1\] = 11: expected a class from 0 to 10"),
            ({"target": torch.tensor([0])}, r"target has shape \(1,\): expected \(2,\)"),
            ({"weight": torch.zeros(5)}, r"weight has shape \(5,\): expected \(11,\)"),
            ({"chunk_size": 0}, "chunk_size = 0"),
            ({"z_loss": -1.0}, r"z_loss = -1\.0"),
            ({"softcap": 0.0}, r"softcap = 0\.0"),
            ({"scale": 0.0}, r"scale = 0\.0"),
        ],
    )
    def test_errors(self, change, message):
        arguments = {
            "input": torch.zeros(2, 6),
            "linear_weight": torch.zeros(11, 6),
            "target": torch.tensor([0, 1]),
        }
        with pytest.raises(ValueError, match=message):
            linear_cross_entropy(**(arguments | change))
        with pytest.raises(TypeError, match="linear_weight has dtype"):
            linear_cross_entropy(
                torch.zeros(2, 6), torch.zeros(11, 6).double(), torch.tensor([0, 1])
            )
