"""The Triton kernels: assembled for GPUs that are not there, mutated, and on one that is."""

import functools
import importlib
import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import grad

from celib.kernels import choice
from celib.kernels.family import Options
from celib.losses import (
    cross_entropy,
    linear_cross_entropy,
)
from kernels.comparing import (
    DTYPES,
    EVERY,
    HAS_GPU,
    KERNELS,
    MARKS,
    OF_TRITON,
    PLAIN,
    SMOOTH,
    classes,
    error,
    exact,
    inf,
    nan,
    normal,
    run,
    ulps,
)

pytestmark = MARKS


MUTATIONS = {
    "no -1": ("e * of_e_y[:, None] - (of_y * rest)[:, None]", "dz"),
    "no mask": ("mask=inside, other=-INF", "mask=inside, other=0.0"),
    "no mask of the target": ("z = tl.where(c == y, -INF, z)", "z = z"),
    "mask before the softcap": ("z = tl.where(x == -INF, -INF, z)", "z = z"),
    "no float32": (
        "e * of_e_y[:, None] - (of_y * rest)[:, None]",
        "dz.to(OUT.dtype.element_ty).to(tl.float32) - of_y[:, None]",
    ),
    "scaled before the shift": (
        "tl.exp2((z - ref[None, :]) * LOG2_E)",
        "tl.exp2(z * LOG2_E - ref[None, :] * LOG2_E)",
    ),
    "no correction of the sum": ("s = s * tl.exp2((m - ref) * LOG2_E)", "s = s + 0.0"),
    "small: no mask of the target": ("z = tl.where(c == y[:, None], -INF, z)", "z = z"),
    "small: scaled before the shift": (
        "tl.exp2((z - ref) * LOG2_E)",
        "tl.exp2(z * LOG2_E - ref * LOG2_E)",
    ),
    "1 - p by subtraction": (
        "tl.store(_line(SAVED, REST, rows, row), rest / total, mask=there)",
        "tl.store(_line(SAVED, REST, rows, row), 1.0 - 1.0 / total, mask=there)",
    ),
}  # fmt: skip


@pytest.mark.skipif("triton" not in KERNELS, reason="triton is not installed")
class TestTriton:
    @pytest.mark.parametrize("mutation", [None, *MUTATIONS])
    def test_20_mutations(self, mutation, tmp_path):
        # A kernel with one of these faults must not get through: nothing at all must.
        old, new = MUTATIONS.get(mutation, ("", ""))
        source = Path(KERNELS["triton"].__file__).read_text()
        assert old in source
        path = tmp_path / "mutant.py"
        path.write_text(source.replace(old, new))
        specification = importlib.util.spec_from_file_location("mutant", path)
        mutant = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(mutant)
        right = []
        for small in (mutant.SMALL, 0):
            mutant.SMALL = small
            with choice.using(mutant), torch.device(OF_TRITON):
                right.append(self.is_right())
        assert all(right) == (mutation is None)

    def is_right(self):
        confident = torch.zeros(2, 40)
        confident[:, 3] = 14.0
        ignored = normal(3, 600)
        ignored[1] = nan
        masked = torch.tensor([[1.0, -inf, 3.0]])
        cases = [
            (normal(3, 600), classes(3, 600), PLAIN),
            (normal(3, 600).half(), classes(3, 600), PLAIN),
            (normal(3, 600) + 1e6, classes(3, 600), PLAIN),
            (confident, torch.tensor([3, 3]), PLAIN),
            (confident.half(), torch.tensor([3, 3]), PLAIN),
            (ignored, torch.tensor([1, -100, 2]), PLAIN),
            (masked, torch.tensor([2]), Options(softcap=2.0)),
        ]
        for x, y, o in cases:
            found, wanted = run(x, y, None, o), exact(x, y, None, o)
            unit = torch.finfo(x.dtype).eps
            at = y.clamp(min=0)[:, None]
            pairs = [(found.loss, wanted.loss), (found.dx, wanted.dx)]
            pairs.append((found.dx.gather(1, at), wanted.dx.gather(1, at)))
            if not all(error(a, b) < max(5e-7, unit) for a, b in pairs):
                return False
        return True

    @pytest.mark.skipif(HAS_GPU, reason="replaces operations of Triton's interpreter")
    @pytest.mark.parametrize("suffix", ["imum", ""], ids=["propagates", "passes over"])
    @pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
    @pytest.mark.parametrize("o", [PLAIN, SMOOTH, EVERY], ids=["plain", "smooth", "every"])
    @pytest.mark.parametrize("c", [3, 1500])
    def test_nan_anywhere(self, monkeypatch, c, o, soft, suffix):
        # tl.minimum and tl.maximum may propagate NaN or return the other operand: min.f32 and
        # max.f32 of a GPU do the latter, and Triton's interpreter does since 3.8. Both are tried.
        builder = importlib.import_module("triton.runtime.interpreter").InterpreterBuilder
        for name in ("min", "max"):
            operation = getattr(np, name + suffix if suffix else f"f{name}")
            method = functools.partialmethod(builder.binary_op, op=operation)
            monkeypatch.setattr(builder, f"create_{name}numf", method)
        x, y = normal(5, c), torch.tensor([0, 0, c - 1, c - 1, 1])
        x[1, 0] = x[2, c - 1] = x[3, 1] = nan  # at the target, at the target, elsewhere
        with choice.using(KERNELS["triton"]):
            loss, lse, _, correct, dx, *_ = run(x, F.one_hot(y, c).float() if soft else y, None, o)
        broken = [False, True, True, True, False]
        assert loss.isnan().tolist() == lse.isnan().tolist() == broken
        assert dx.isnan().all(-1).tolist() == dx.isnan().any(-1).tolist() == broken
        assert not correct[1:4].any()

    @pytest.mark.parametrize("c", [4097, 20000])
    @pytest.mark.parametrize("o", [PLAIN, EVERY], ids=["plain", "every"])
    def test_stretches_of_several_tiles(self, monkeypatch, c, o):
        x, y = normal(3, c), torch.tensor([c - 1, 4096, 9])
        with choice.using(KERNELS["triton"]), torch.device(OF_TRITON):
            wanted = run(x, y, None, o)
            monkeypatch.setattr(KERNELS["triton"], "PROGRAMS", 1)
            assert torch.equal(run(x, y, None, o).dx, wanted.dx)

    @pytest.mark.parametrize("capability", [75, 80, 90])
    def test_21_22_assembles(self, capability):
        # From T4 to H200. Loads are vectors, no loop waits for a warp, no register is spilled, but
        # a few where all options are on. An H200 has time for about 14 instructions for each
        # bfloat16 logit that is read, and for 28 if a gradient is written, before memory is faster;
        # of those counted here about a fifth is in branches seldom taken.
        environment = os.environ | {"TRITON_INTERPRET": "0"}
        command = [sys.executable, Path(__file__).parents[2] / "tools/assemble.py", str(capability)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        lines = [line.split() for line in done.stdout.splitlines()]
        assert len(lines) == 32
        allowed = {"forward": 13, "backward": 24, "forward-one": 22}
        for _, _, name, _, spilled, vectors, synchronised, instructions in lines:
            assert int(spilled) <= 64 * name.endswith("every")
            one_turn = name in ("backward-small-every", "backward-few-every")  # of the loop
            assert int(synchronised) == 0 or one_turn
            assert int(vectors) >= (1 if "few" in name else 2)  # a tile of few is one vector
            assert float(instructions) <= allowed.get(name, math.inf)


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="needs a CUDA GPU")
class TestGpu:
    """What only a GPU can show; TestFamily to TestAutograd run their Triton tests there, too."""

    @pytest.mark.parametrize("o", [PLAIN, EVERY], ids=["plain", "every"])
    def test_13_no_synchronisation(self, o):
        x, y = normal(64, 5000).cuda().requires_grad_(), classes(64, 5000).cuda()
        matrix, a = normal(5000, 64).cuda().requires_grad_(), normal(64, 64).cuda().requires_grad_()
        options = {"label_smoothing": o.label_smoothing, "z_loss": o.z_loss, "scale": o.scale}
        torch.cuda.set_sync_debug_mode("error")
        try:
            cross_entropy(x, y, **options).backward()
            linear_cross_entropy(a, matrix, y, **options).backward()
            linear_cross_entropy(a, matrix, y, reduction="none", **options).sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def test_13_graph(self):
        x, y = normal(64, 5000).cuda().requires_grad_(), classes(64, 5000).cuda()
        wanted = grad(cross_entropy(x, y), x)[0]
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            grad(cross_entropy(x, y), x)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            (dx,) = grad(cross_entropy(x, y), x)
        dx.zero_()
        graph.replay()
        assert torch.equal(dx, wanted)

    def test_14_compiled(self):
        x, y = normal(64, 5000).cuda().requires_grad_(), classes(64, 5000).cuda()
        y[::2] = -100
        loss = torch.compile(lambda x: cross_entropy(x * 2, y, reduction="none"), fullgraph=True)
        torch.empty(64, 5000, device="cuda").fill_(nan)
        found, wanted = loss(x), cross_entropy(x * 2, y, reduction="none")
        assert torch.equal(found, wanted)
        assert torch.equal(grad(found.sum(), x)[0], grad(wanted.sum(), x)[0])

    def test_15_beyond_31_bits(self):
        n, c = 8200, 262144
        x = torch.zeros(n, c, device="cuda", dtype=torch.float16)
        x[-1, -1] = 9.0
        y = torch.zeros(n, device="cuda", dtype=torch.long)
        y[-1] = c - 1
        x.requires_grad_()
        loss = cross_entropy(x, y, reduction="none")
        (dx,) = grad(loss.sum(), x)
        wanted = math.log(c - 1 + math.exp(9.0)) - 9.0
        assert loss[-1].item() == pytest.approx(wanted, rel=1e-6)
        assert dx[-1, -1].item() == pytest.approx(math.expm1(-wanted), rel=1e-3)
        assert dx[0, 0].item() == pytest.approx(1 / c - 1, rel=1e-3)

    @pytest.mark.parametrize("c", [50257, 128256, 262144])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_large_vocabularies(self, c, dtype):
        x, y = normal(16, c).cuda().to(dtype), classes(16, c).cuda()
        found, wanted = run(x, y), exact(x, y)
        assert ulps(found.loss, wanted.loss) <= 4
        assert error(found.dx, wanted.dx) <= torch.finfo(dtype).eps

    def test_linear_in_half_precision(self):
        x, matrix, y = normal(300, 64), normal(5000, 64, seed=1), classes(300, 5000).cuda()
        for dtype in (torch.float16, torch.bfloat16):
            layer = [a.cuda().to(dtype).requires_grad_() for a in (x / 10, matrix)]
            wide = [a.detach().double().requires_grad_() for a in layer]
            for options in ({}, {"chunk_size": 100}, {"reduction": "sum"}):
                reduction = options.get("reduction", "mean")
                wanted = cross_entropy(F.linear(*wide), y, reduction=reduction)
                found = linear_cross_entropy(*layer, y, **options)
                assert found.item() == pytest.approx(wanted.item(), rel=1e-2)
                for a, b in zip(grad(found, layer), grad(wanted, wide), strict=True):
                    assert error(a, b) < 0.02
