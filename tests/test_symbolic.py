"""sympy's expressions against torch's autograd, mpmath's derivatives, and closed forms."""

import os
import subprocess
import sys

import mpmath as mp
import numpy as np
import pytest
import sympy
import torch
from torch.autograd.functional import hessian, jacobian

from celib import symbolic

LOSSES = {
    "cross_entropy": lambda z, y: -(y * torch.log_softmax(z, -1)).sum(),
    "squared_error": lambda z, y: (torch.softmax(z, -1) - y).square().sum(),
}
C, k = sympy.symbols("C k", integer=True, positive=True)


def draw(classes):
    rng = np.random.default_rng(classes)
    return rng.normal(scale=2, size=classes), rng.uniform(-1, 2, size=classes)


def value(expression, z, y, at):
    function = sympy.lambdify([list(z), list(y)], expression, "numpy")
    return np.array(function(*at), dtype=float).squeeze()


def indexed_value(expression, at, component=1):
    """An expression with a symbol C, summed for the numbers given; k counts from 1."""
    numbers = dict(zip(("z", "y", "phat"), at, strict=False))
    written = expression.subs({C: len(at[0]), k: component}).doit()
    return float(
        written.replace(
            lambda e: isinstance(e, sympy.Indexed),
            lambda e: sympy.Float(numbers[e.base.name][int(e.indices[0]) - 1]),
        ).doit()
    )


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("name", LOSSES)
def test_gradient_and_hessian_against_autograd(name, classes):
    z, y = symbolic.logits(classes), symbolic.targets(classes)
    loss = getattr(symbolic, name)(z, y)
    at = draw(classes)
    point, target = map(torch.tensor, at)
    wanted = LOSSES[name](point, target)
    np.testing.assert_allclose(value(loss, z, y, at), wanted, rtol=1e-13)
    slope = jacobian(lambda v: LOSSES[name](v, target), point)
    np.testing.assert_allclose(
        value(symbolic.gradient(loss, z), z, y, at), slope, rtol=1e-11, atol=1e-15
    )
    bend = hessian(lambda v: LOSSES[name](v, target), point)
    np.testing.assert_allclose(
        value(symbolic.hessian(loss, z), z, y, at), bend, rtol=1e-11, atol=1e-14
    )


@pytest.mark.parametrize("classes", [2, 4])
def test_derivatives_of_the_softmax_against_autograd(classes):
    z = symbolic.logits(classes)
    at = draw(classes)
    point = torch.tensor(at[0])

    def first(v):
        return jacobian(lambda u: torch.softmax(u, -1), v, create_graph=True)

    def second(v):
        return jacobian(first, v)

    for expression, function in (
        (symbolic.softmax_jacobian(z), first),
        (symbolic.softmax_hessian(z), second),
    ):
        found = value(sympy.Array(expression).tolist(), z, [], (at[0], []))
        np.testing.assert_allclose(found, function(point).detach(), rtol=1e-11, atol=1e-15)


def test_jacobian_in_probabilities_is_the_closed_form():
    z = symbolic.logits(4)
    p = symbolic.probabilities(4)
    found = symbolic.in_probabilities(symbolic.softmax_jacobian(z), z)
    assert found == sympy.diag(*p) - p * p.T
    hard = symbolic.cross_entropy(z, [0, 0, 1, 0])
    assert symbolic.in_probabilities(symbolic.hessian(hard, z), z) == found
    assert symbolic.in_probabilities(hard, z) == -sympy.log(p[2])


@pytest.mark.parametrize("name", ["binary_cross_entropy", "binary_squared_error"])
@pytest.mark.parametrize("at", [(-3.0, 1.0), (0.5, 0.3), (4.0, 0.0)])
def test_one_logit_against_mpmath(name, at):
    def sigmoid(z):
        return 1 / (1 + mp.exp(-z))

    losses = {
        "binary_cross_entropy": lambda z, y: (
            -y * mp.log(sigmoid(z)) - (1 - y) * mp.log(1 - sigmoid(z))
        ),
        "binary_squared_error": lambda z, y: (sigmoid(z) - y) ** 2,
    }
    z, y = sympy.symbols("z y", real=True)
    loss = getattr(symbolic, name)(z, y)
    with mp.workdps(40):
        for order in range(3):
            wanted = mp.diff(lambda t: losses[name](t, mp.mpf(at[1])), at[0], order)
            found = sympy.diff(loss, z, order).subs({z: at[0], y: at[1]}).evalf(30)
            assert abs(mp.mpf(str(found)) - wanted) < mp.mpf(10) ** -12


@pytest.mark.parametrize("name", LOSSES)
def test_symbolic_number_of_classes(name):
    """For C classes, C a symbol, what holds for 4 holds with 4 put in."""
    z, y = symbolic.logits(C), symbolic.targets(C)
    loss = getattr(symbolic, name)(z, y)
    at = draw(4)
    point, target = map(torch.tensor, at)
    slope = jacobian(lambda v: LOSSES[name](v, target), point)
    probabilities = torch.softmax(point, -1).numpy()
    assert indexed_value(loss, at) == pytest.approx(float(LOSSES[name](point, target)), rel=1e-12)
    component = symbolic.gradient(loss, z, k)
    written = symbolic.in_probabilities(component, z)
    assert not written.has(sympy.exp)
    for i in range(4):
        wanted = pytest.approx(float(slope[i]), rel=1e-11)
        assert indexed_value(component, at, i + 1) == wanted
        assert indexed_value(written, (*at, probabilities), i + 1) == wanted


def test_symbolic_number_of_classes_and_label():
    z = symbolic.logits(C)
    label = sympy.Symbol("c", integer=True, positive=True)
    loss = symbolic.log_sum_exp(z) - z[label]
    p = symbolic.probabilities(C)
    found = symbolic.in_probabilities(symbolic.gradient(loss, z, k), z)
    assert found == p[k] - sympy.KroneckerDelta(k, label)
    assert symbolic.in_probabilities(loss, z) == -sympy.log(p[label])
    assert symbolic.in_probabilities(symbolic.softmax(z)(k), z) == p[k]


def test_cross_terms_of_the_squared_error():
    """The truth is 2 J (p - y); the diagonal of J alone leaves out every cross term."""
    z, y = symbolic.logits(3), symbolic.targets(3)
    p = symbolic.probabilities(3)
    found = symbolic.in_probabilities(symbolic.gradient(symbolic.squared_error(z, y), z), z)
    jacobian = sympy.diag(*p) - p * p.T
    assert (found - 2 * jacobian * (p - y)).expand() == sympy.zeros(3, 1)


def test_in_probabilities_of_the_losses():
    z, y, p = (make(3) for make in (symbolic.logits, symbolic.targets, symbolic.probabilities))
    found = symbolic.in_probabilities(symbolic.cross_entropy(z, y), z)
    assert found == -sum(y[i] * sympy.log(p[i]) for i in range(3))
    z, y, p = (make(C) for make in (symbolic.logits, symbolic.targets, symbolic.probabilities))
    i = sympy.Symbol("i", integer=True, positive=True)
    found = symbolic.in_probabilities(symbolic.cross_entropy(z, y), z)
    assert found == -sympy.Sum(y[i] * sympy.log(p[i]), (i, 1, C))
    found = symbolic.in_probabilities(symbolic.squared_error(z, y), z)
    assert found == sympy.Sum((p[i] - y[i]) ** 2, (i, 1, C))


def test_in_probabilities_refuses_what_depends_on_the_shift():
    z = symbolic.logits(3)
    with pytest.raises(ValueError, match="expected no change under a shift"):
        symbolic.in_probabilities(symbolic.log_sum_exp(z), z)
    z = symbolic.logits(C)
    with pytest.raises(ValueError, match="expected no change under a shift"):
        symbolic.in_probabilities(z[k], z)


def test_bad_arguments_are_named():
    z = symbolic.logits(3)
    with pytest.raises(ValueError, match="classes = 1: expected at least 2"):
        symbolic.logits(1)
    with pytest.raises(ValueError, match="y has length 2: expected that of z, 3"):
        symbolic.cross_entropy(z, [1, 0])
    with pytest.raises(ValueError, match="y has length 3: expected that of z, C"):
        symbolic.squared_error(symbolic.logits(C), [1, 0, 0])
    with pytest.raises(ValueError, match="k = None"):
        symbolic.gradient(z[0], symbolic.logits(C))
    with pytest.raises(ValueError, match="k = k"):
        symbolic.gradient(z[0], z, k)


def test_what_is_printed_does_not_depend_on_the_hash_seed():
    """A notebook stores the LaTeX of an expression, and another process must print the same."""
    program = """if True:
        import sympy
        from celib import symbolic as s
        C, k = sympy.symbols("C k", integer=True, positive=True)
        for c in (3, C):
            z, y = s.logits(c), s.targets(c)
            for loss in (s.cross_entropy(z, y), s.squared_error(z, y)):
                slope = s.gradient(loss, z, k) if c is C else s.gradient(loss, z)
                print(sympy.latex(slope), slope, sympy.latex(s.in_probabilities(slope, z)))
        z = s.logits(3)
        print(sympy.latex(s.in_probabilities(s.softmax_hessian(z), z)))
        squared = s.hessian(s.squared_error(z, [1, 0, 0]), z)
        print(sympy.latex(s.in_probabilities(squared, z).applyfunc(sympy.factor)))
    """
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(printed) == 1
