r"""Softmax and the losses of classification as sympy expressions, for a number of classes C that
is an integer, or a symbol.

For an integer C, logits and targets are columns of C symbols, and results are matrices. For a
symbol C they are indexed, ``z[k]``, sums stay sums, and derivatives are taken by a component whose
index is a symbol with 1 <= k <= C. Nothing here is a stored formula: every derivative is sympy's
derivative of a definition.

>>> z, y = logits(2), targets(2)
>>> in_probabilities(gradient(cross_entropy(z, y), z), z)
Matrix([
[phat_1*(y_1 + y_2) - y_1],
[phat_2*(y_1 + y_2) - y_2]])
"""

from collections.abc import Callable, Sequence
from typing import Any

import sympy

__all__ = [
    "binary_cross_entropy",
    "binary_squared_error",
    "cross_entropy",
    "gradient",
    "hessian",
    "in_probabilities",
    "log_sum_exp",
    "logits",
    "probabilities",
    "sigmoid",
    "softmax",
    "softmax_hessian",
    "softmax_jacobian",
    "squared_error",
    "targets",
]


def __dir__() -> list[str]:
    return sorted(__all__)


Expr = Any  # sympy has no types that a checker could use.
Vector = Any  # A column matrix, a sequence of expressions, or an IndexedBase.


def logits(classes: int | Expr) -> Vector:
    """Real symbols z_1, ..., z_C, or for a symbol C the indexed z.

    Raises:
        ValueError: fewer than two classes.
    """
    return _vector("z", classes, real=True)


def targets(classes: int | Expr) -> Vector:
    """Real symbols y_1, ..., y_C: a target of any kind, whose sum need not be 1."""
    return _vector("y", classes, real=True)


def probabilities(classes: int | Expr) -> Vector:
    r"""Positive symbols :math:`\hat p_1, \dots, \hat p_C`, which :func:`in_probabilities` uses."""
    return _vector("phat", classes, positive=True)


def log_sum_exp(z: Vector) -> Expr:
    r""":math:`\log \sum_j e^{z_j}`, ``eq-lse``."""
    return sympy.log(_total(z, lambda j: sympy.exp(_entry(z, j)), "j"))


def softmax(z: Vector) -> Any:
    r""":math:`\hat p_k = e^{z_k} / \sum_j e^{z_j}`, ``eq-softmax``.

    Returns:
        A column matrix, or for indexed logits a function of the index.
    """
    partition = _total(z, lambda j: sympy.exp(_entry(z, j)), "j")
    if isinstance(z, sympy.IndexedBase):
        index = sympy.Symbol("k", integer=True, positive=True)
        return sympy.Lambda(index, sympy.exp(z[index]) / partition)
    return sympy.Matrix([sympy.exp(entry) / partition for entry in z])


def softmax_jacobian(z: Sequence[Expr]) -> sympy.Matrix:
    r"""First derivatives of the softmax, :math:`J_{ik} = \partial\hat p_i / \partial z_k`."""
    return softmax(z).jacobian(list(z))


def softmax_hessian(z: Sequence[Expr]) -> sympy.Array:
    r"""Second derivatives of the softmax, :math:`\partial^2 \hat p_i / \partial z_j \partial z_k`.

    Returns:
        An array of shape (C, C, C), the same under every exchange of indices.
    """
    return sympy.Array([sympy.hessian(entry, list(z)).tolist() for entry in softmax(z)])


def cross_entropy(z: Vector, y: Vector) -> Expr:
    r"""Loss of one example, :math:`-\sum_i y_i \log\hat p_i`, with :math:`\log\hat p_i` written as
    :math:`z_i - \mathrm{LSE}(z)`.

    Args:
        z: logits.
        y: targets, of the same length and kind; they need not sum to 1.

    Raises:
        ValueError: the lengths differ.

    Example:
        >>> cross_entropy(logits(2), [1, 0])
        -z_1 + log(exp(z_1) + exp(z_2))
    """
    _check_same_length(z, y)
    total = _total(z, lambda i: _entry(y, i))
    return total * log_sum_exp(z) - _total(z, lambda i: _entry(y, i) * _entry(z, i))


def squared_error(z: Vector, y: Vector) -> Expr:
    r"""Squared error of one example, :math:`\sum_i (\hat p_i - y_i)^2`: a sum over the classes.

    Args, Raises: as for :func:`cross_entropy`.
    """
    _check_same_length(z, y)
    p = softmax(z)
    at = p if isinstance(p, sympy.Lambda) else lambda i: p[i]
    return _total(z, lambda i: (at(i) - _entry(y, i)) ** 2)


def sigmoid(z: Expr) -> Expr:
    r"""The logistic function, :math:`\sigma(z) = 1 / (1 + e^{-z})`."""
    return 1 / (1 + sympy.exp(-z))


def binary_cross_entropy(z: Expr, y: Expr) -> Expr:
    r"""Loss of one logit, :math:`-y \log\sigma(z) - (1 - y) \log(1 - \sigma(z))`."""
    return -y * sympy.log(sigmoid(z)) - (1 - y) * sympy.log(1 - sigmoid(z))


def binary_squared_error(z: Expr, y: Expr) -> Expr:
    r"""Squared error of one logit, :math:`(\sigma(z) - y)^2`."""
    return (sigmoid(z) - y) ** 2


def gradient(loss: Expr, z: Vector, k: Expr = None) -> Any:
    """Derivatives of a loss.

    Args:
        loss: an expression in the entries of ``z``.
        z: logits; with an IndexedBase, ``k`` is needed.
        k: a symbolic index, the component to differentiate by.

    Returns:
        A column matrix, or the one component for 1 <= k <= C.

    Raises:
        ValueError: indexed logits without ``k``, or other logits with it.
    """
    if isinstance(z, sympy.IndexedBase) != (k is not None):
        raise ValueError(f"k = {k}: expected an index with indexed logits, and only with them")
    if k is not None:
        # sympy also says what holds for an index out of range; the first case is 1 <= k <= C.
        component = sympy.diff(loss, z[k]).doit()
        return _factors_out(component.replace(sympy.Piecewise, lambda inside, *_: inside[0]))
    return sympy.Matrix([sympy.diff(loss, entry) for entry in z])


def hessian(loss: Expr, z: Sequence[Expr]) -> sympy.Matrix:
    """Second derivatives of a loss by the entries of ``z``."""
    return sympy.hessian(loss, list(z))


def in_probabilities(expression: Any, z: Vector) -> Any:
    r"""The same value, written in :math:`\hat p = \mathrm{softmax}(z)` instead of the logits.

    Use it to read a derivative in the form that books print, such as :math:`\hat p_k - y_k`.

    A function of z that does not change when all logits are shifted is a function of the softmax
    alone, and then z may be replaced by :math:`\log\hat p`, one of the shifts.

    Args:
        expression: a scalar, matrix or array: a gradient, Jacobian or Hessian, say.
        z: the logits in it.

    Raises:
        ValueError: the expression changes with a shift of the logits.

    Example:
        >>> z = logits(2)
        >>> in_probabilities(softmax_jacobian(z), z)
        Matrix([
        [-phat_1**2 + phat_1,      -phat_1*phat_2],
        [     -phat_1*phat_2, -phat_2**2 + phat_2]])
    """
    if isinstance(expression, sympy.MatrixBase | sympy.NDimArray):
        return expression.applyfunc(lambda entry: in_probabilities(entry, z))
    expression = sympy.sympify(expression)
    if not _is_invariant(expression, z):
        raise ValueError(f"expression = {expression}: expected no change under a shift of {z}")
    if isinstance(z, sympy.IndexedBase):
        p = probabilities(z.shape[0])
        written = _map_entries(expression, z, lambda i: sympy.log(p[i]))
        return written.replace(
            lambda e: isinstance(e, sympy.Sum) and e.function == p[e.variables[0]],
            lambda e: sympy.Integer(1),
        )
    p = probabilities(len(z))
    return expression.xreplace(dict(zip(z, map(sympy.log, p), strict=True))).subs(sum(p), 1)


# What makes integer and symbolic C look alike.


def _vector(name: str, classes: Any, **assumptions: bool) -> Any:
    if isinstance(classes, sympy.Symbol):
        return sympy.IndexedBase(name, shape=(classes,), **assumptions)
    if classes < 2:
        raise ValueError(f"classes = {classes}: expected at least 2")
    return sympy.Matrix(sympy.symbols(f"{name}_1:{int(classes) + 1}", **assumptions))


def _entry(x: Vector, i: Expr) -> Expr:
    return sympy.sympify(x[i])


def _total(z: Vector, term: Callable[[Any], Expr], name: str = "i") -> Expr:
    if isinstance(z, sympy.IndexedBase):
        index = sympy.Symbol(name, integer=True, positive=True)
        return sympy.Sum(term(index), (index, 1, z.shape[0]))
    return sympy.Add(*(term(i) for i in range(len(z))))


def _length(x: Vector) -> Any:
    return x.shape[0] if isinstance(x, sympy.IndexedBase) else len(x)


def _check_same_length(z: Vector, y: Vector) -> None:
    if _length(z) != _length(y):
        raise ValueError(f"y has length {_length(y)}: expected that of z, {_length(z)}")


def _factors_out(expression: Expr) -> Expr:
    """Factors that do not depend on its index, taken out of each sum."""

    def factored(term: Expr, limits: Any) -> Expr:
        outer, inner = term.as_independent(limits[0], as_Add=False)
        return outer * sympy.Sum(inner, limits)

    return expression.replace(sympy.Sum, factored)


def _expanded(expression: Expr) -> Expr:
    expression = sympy.expand_log(_factors_out(expression), force=True)
    return sympy.expand(_factors_out(sympy.expand(expression)))


def _map_entries(expression: Expr, z: sympy.IndexedBase, to: Callable[[Expr], Expr]) -> Expr:
    return expression.replace(
        lambda e: isinstance(e, sympy.Indexed) and e.base == z, lambda e: to(e.indices[0])
    )


def _is_invariant(expression: Expr, z: Vector) -> bool:
    if isinstance(z, sympy.IndexedBase):
        shifted = _map_entries(expression, z, lambda i: z[i] + sympy.log(2))
        return bool(_expanded(shifted) == _expanded(expression))
    # At a point where the exponentials are integers the comparison is exact and quick; only an
    # expression made for the purpose would change by a shift and not by this one.
    primes = [sympy.prime(i + 1) for i in range(len(z))]
    here, there = (
        expression.xreplace({a: sympy.log(factor * b) for a, b in zip(z, primes, strict=True)})
        for factor in (1, 2)
    )
    return bool(sympy.expand(sympy.expand_log(here - there, factor=True)) == 0)
