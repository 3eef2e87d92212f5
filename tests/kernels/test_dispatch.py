"""Which kernel computes a call, and what compilers and tracers see of it."""

import math

import pytest
import torch
from torch.autograd import grad

from celib.kernels import choice, linear, memory, operators
from celib.kernels.family import Options
from celib.losses import (
    cross_entropy,
    linear_cross_entropy,
)
from kernels.comparing import KERNELS, MARKS, classes, in_a_process, normal

pytestmark = MARKS


class TestCompiler:
    """What torch.compile and its kin see of the operators."""

    def test_13_14_full_graph(self):
        y = torch.where(torch.arange(6) % 2 == 0, -100, classes(6, 5))

        def loss(x, y):
            a, lse, *_ = cross_entropy(x, y, return_statistics=True)
            return a + lse.square().mean(), cross_entropy(x, y, reduction="none", z_loss=0.1)

        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        a, b = (normal(6, 5).requires_grad_() for _ in range(2))
        for found, wanted in zip(compiled(a, y), loss(b, y), strict=True):
            torch.testing.assert_close(found, wanted)
            (da,) = grad(found.sum(), a, retain_graph=True)
            torch.testing.assert_close(da, grad(wanted.sum(), b, retain_graph=True)[0])

    def test_13_linear_full_graph(self):
        x, matrix, y = normal(6, 4), normal(5, 4, seed=1), classes(6, 5)

        def loss(x, matrix):
            each = linear_cross_entropy(x, matrix, y, reduction="none").sum()
            return each + linear_cross_entropy(x, matrix, y, chunk_size=2)

        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        inputs = [x.requires_grad_(), matrix.requires_grad_()]
        torch.testing.assert_close(compiled(*inputs), loss(*inputs))
        for a, b in zip(grad(compiled(*inputs), inputs), grad(loss(*inputs), inputs), strict=True):
            torch.testing.assert_close(a, b)

    def test_any_number_of_classes(self):
        compiled = torch.compile(cross_entropy, fullgraph=True, backend="aot_eager")
        for c in (5, 7, 9):
            x, q = normal(6, c), normal(6, c, seed=1).softmax(-1)
            torch.testing.assert_close(compiled(x, q), cross_entropy(x, q))

    @pytest.mark.parametrize("soft", [False, True], ids=["classes", "probabilities"])
    def test_opcheck(self, soft):
        x, numbers = normal(4, 5).requires_grad_(), (-100, Options().numbers())
        target = normal(4, 5, seed=1).softmax(-1) if soft else classes(4, 5)
        torch.library.opcheck(operators.cross_entropy, (x, target, None, *numbers, False))
        w = normal(5, 3, seed=2).requires_grad_()
        a = normal(4, 3, seed=3).requires_grad_()
        arguments = (a, w, None, target, None, *numbers)
        torch.library.opcheck(linear.linear_cross_entropy, (*arguments, 2, True, True, False))
        if not soft:
            torch.library.opcheck(linear.linear_cross_entropy_by_class, (*arguments, 2))

    def test_13_meta(self):
        # A tensor without values: whatever waits for one raises.
        x = torch.empty(6, 5, device="meta", requires_grad=True)
        y = torch.empty(6, device="meta", dtype=torch.long)
        loss = cross_entropy(x, y, torch.empty(5, device="meta"), label_smoothing=0.1)
        assert grad(loss, x)[0].shape == (6, 5)


class TestDispatch:
    @pytest.mark.parametrize(
        ("dtype", "options", "soft", "module"),
        [
            (torch.float32, Options(), False, "numba"),
            (torch.float32, Options(z_loss=0.1), False, "numba"),
            (torch.float32, Options(label_smoothing=0.1), False, "numba"),
            (torch.float32, Options(softcap=1.0), False, "numba"),
            (torch.float32, Options(scale=2.0), False, "numba"),
            (torch.float32, Options(), True, "numba"),
            (torch.float64, Options(), False, "aten"),
            (torch.bfloat16, Options(), False, "numba"),
            (torch.float16, Options(z_loss=0.1), False, "numba"),
        ],
    )
    def test_cpu(self, dtype, options, soft, module):
        x = torch.zeros(2, 3, dtype=dtype)
        target = torch.zeros(2, 3) if soft else torch.zeros(2, dtype=torch.long)
        if module not in KERNELS:
            pytest.skip(f"{module} is not installed")
        assert choice.kernel(x, target, options) is KERNELS[module]

    def test_without_numba(self):
        code = (
            "import sys; sys.modules['numba'] = None\n"
            "import importlib.util; real = importlib.util.find_spec\n"
            "importlib.util.find_spec = lambda name: None if name == 'numba' else real(name)\n"
            "import torch; from celib.losses import cross_entropy\n"
            "from celib.kernels import choice, family, with_aten\n"
            "x = torch.zeros(2, 4)\n"
            "assert choice.kernel(x, torch.tensor([0, 1]), family.Options()) is with_aten\n"
            "print(cross_entropy(x, torch.tensor([0, 1])).item())\n"
        )
        assert float(in_a_process(code)) == pytest.approx(math.log(4))

    def test_numba_that_cannot_be_imported(self):
        code = (
            "import sys, types; broken = types.ModuleType('numba')\n"
            "import importlib.machinery\n"
            "broken.__spec__ = importlib.machinery.ModuleSpec('numba', None)\n"
            "sys.modules['numba'] = broken\n"  # from it njit cannot be imported
            "import torch; from celib.losses import cross_entropy\n"
            "print(cross_entropy(torch.zeros(2, 4), torch.tensor([0, 1])).item())\n"
        )
        assert float(in_a_process(code)) == pytest.approx(math.log(4))

    def test_after_the_main_thread(self):
        # A thread may outlive the main one, whose end closes every pool.
        code = (
            "import threading, time, torch; from celib.losses import cross_entropy\n"
            "torch.set_num_threads(2)\n"
            "def late():\n"
            "    time.sleep(1)\n"
            "    print(cross_entropy(torch.zeros(400, 1000), torch.arange(400)).item())\n"
            "threading.Thread(target=late).start()\n"
        )
        assert float(in_a_process(code)) == pytest.approx(math.log(1000))

    def test_large_arrays_of_numpy(self):
        # Large pages are asked for by NumPy alone: the gradient must lie in its memory.
        small, large = torch.zeros(4, 4), torch.zeros(1024, 2048)
        assert memory.empty_like(large).shape == large.shape
        assert memory.empty_like(small.bfloat16()).dtype == torch.bfloat16
        assert memory.empty_like(large.bfloat16()).dtype == torch.bfloat16
