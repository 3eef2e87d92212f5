"""Each kernel in its turn, on its device."""

import pytest

# What the tests need is imported in a fixture: without it they are skipped by name.


@pytest.fixture(params=["aten", "numba", "triton", "triton-rows"])
def kernel(request, monkeypatch):
    import torch

    from celib.kernels import choice
    from kernels.comparing import DEVICES, KERNELS

    name, _, rows = request.param.partition("-")
    if name not in KERNELS:
        pytest.skip(f"{name} is not installed")
    if rows:
        monkeypatch.setattr(KERNELS[name], "SMALL", 0)
    with choice.using(KERNELS[name]), torch.device(DEVICES[name]):
        yield name


@pytest.fixture(autouse=True)
def seed():
    import torch

    torch.manual_seed(0)
