"""Every function on tensors, under every transform of torch, with validation at its default."""

import pytest
import torch
import torch.utils.checkpoint
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad, grad, gradcheck, gradgradcheck
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from celib import information, losses, stable

# torch's own, of its tracers.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]
DOUBLE = torch.float64
GENERATOR = torch.Generator().manual_seed(0)
N, C = 4, 5


def normal(*shape):
    return torch.randn(*shape, generator=GENERATOR, dtype=DOUBLE)


Z, P, Q, TANGENT = normal(N, C), normal(N, C).softmax(-1), normal(N, C).softmax(-1), normal(N, C)
Y = torch.tensor([0, 3, 2, 4])


def ones(like, *shape):
    return torch.ones(shape, dtype=like.dtype, device=like.device)


# Each takes one row or several, with classes last, and returns one number: (logits, classes,
# probabilities).
LOSSES = {
    "cross_entropy": lambda z, y, q: losses.cross_entropy(z, y),
    "cross_entropy, options": lambda z, y, q: losses.cross_entropy(
        z, y, ones(z, C), label_smoothing=0.1, z_loss=0.01, softcap=5.0, sample_weight=y + 0.5
    ),
    "cross_entropy, probabilities": lambda z, y, q: losses.cross_entropy(z, q),
    "cross_entropy, scale": lambda z, y, q: losses.cross_entropy(z, y, scale=2 + z.sum() / 1e3),
    "linear": lambda z, y, q: losses.linear_cross_entropy(
        z, ones(z, 3, C).cumsum(0), y.clamp(max=2)
    ),
    "linear, none": lambda z, y, q: losses.linear_cross_entropy(
        z, ones(z, C, C).tril(), y, reduction="none"
    ).sum(),
    "binary": lambda z, y, q: losses.binary_cross_entropy_with_logits(z, q, pos_weight=ones(z, C)),
    "multilabel": lambda z, y, q: losses.multilabel_soft_margin_loss(z, q),
    "focal": lambda z, y, q: losses.focal_loss(z, y, ones(z, C)),
    "sigmoid focal": lambda z, y, q: losses.sigmoid_focal_loss(z, q, reduction="mean"),
    "generalized": lambda z, y, q: losses.generalized_cross_entropy(z, y),
    "symmetric": lambda z, y, q: losses.symmetric_cross_entropy(z, y),
    "distillation": lambda z, y, q: losses.distillation_loss(z, q, temperature=2.0),
    "distillation, temperature": lambda z, y, q: losses.distillation_loss(
        z, q, temperature=2 + z.sum() / 1e3
    ),
    "distillation, reverse": lambda z, y, q: losses.distillation_loss(
        z, q, temperature=2 + z.sum() / 1e3, divergence="reverse"
    ),
    "distillation, Jensen-Shannon": lambda z, y, q: losses.distillation_loss(
        z, q, temperature=2 + z.sum() / 1e3, divergence="jensen-shannon", beta=0.25
    ),
    "linear distillation": lambda z, y, q: losses.linear_distillation_loss(
        z, ones(z, 3, C).cumsum(0), q, ones(z, 3, C).tril(), temperature=2 + z.sum() / 1e3
    ),
    "InfoNCE, negatives": lambda z, y, q: losses.info_nce(
        torch.atleast_2d(z), torch.atleast_2d(q), temperature=0.2, negatives=ones(z, 3, C).tril()
    ),
    "InfoNCE, symmetric": lambda z, y, q: losses.info_nce(
        torch.atleast_2d(z), torch.atleast_2d(q), temperature=2 + z.sum() / 1e3, symmetric=True
    ),
}


def of_logits(function):
    return lambda z, y, q: function(z.softmax(-1), q).sum()


# The same of functions that are not losses, made into numbers.
MEASURES = {
    name: of_logits(function)
    for name, function in {
        "self_information": lambda p, q: information.self_information(p),
        "entropy": lambda p, q: information.entropy(p),
        "cross_entropy of distributions": information.cross_entropy,
        "kl_divergence": information.kl_divergence,
        "js_divergence": information.js_divergence,
        "renyi_entropy": lambda p, q: information.renyi_entropy(p, 2.0),
        "perplexity": lambda p, q: information.perplexity(p, q=q),
        "mutual_information": lambda p, q: information.mutual_information(
            p[..., None] * (0.5 * q[..., None, :] + 0.1)
        ),
        "conditional_entropy": lambda p, q: information.conditional_entropy(
            p[..., None] * q[..., None, :]
        ),
        "entropy_from_counts": lambda p, q: information.entropy_from_counts((p * 99).round() + 1),
        "logsumexp": lambda p, q: stable.logsumexp(p, weights=q),
        "softmax": lambda p, q: stable.softmax(p, temperature=2.0, where=p > 0.01) * q,
        "log_softmax": lambda p, q: stable.log_softmax(p) * q,
        "log1mexp": lambda p, q: stable.log1mexp(p),
        "log1pexp": lambda p, q: stable.log1pexp(p),
        "logit": lambda p, q: stable.logit(p),
        "expit": lambda p, q: stable.expit(p),
    }.items()
}
CALLS = LOSSES | MEASURES
each = pytest.mark.parametrize("name", CALLS)
# Torch takes seconds to compile one. All are compiled with shapes of any size; these few, one of
# each function that has a derivative of its own, in every other way too.
FEW = [
    *("cross_entropy", "cross_entropy, options", "cross_entropy, probabilities", "binary"),
    *("focal", "generalized", "symmetric", "distillation", "linear", "InfoNCE, symmetric"),
    *("entropy", "kl_divergence", "logsumexp", "log_softmax"),
]
each_of_few = pytest.mark.parametrize("name", FEW)


def slope(call, z=Z, y=Y, q=Q):
    z = z.detach().clone().requires_grad_()
    return grad(call(z, y, q), z, allow_unused=True, materialize_grads=True)[0]


@each
def test_gradient_of_each_sample(name):
    """torch's own recipe: vmap of grad, with labels that are checked elsewhere."""
    call = CALLS[name]
    found = torch.vmap(torch.func.grad(call))(Z, Y, Q)
    wanted = torch.stack([slope(call, *row) for row in zip(Z, Y, Q, strict=True)])
    torch.testing.assert_close(found, wanted)


@each
def test_forward_mode(name):
    call = CALLS[name]
    wanted = slope(call)
    value, rise = torch.func.jvp(lambda z: call(z, Y, Q), (Z,), (TANGENT,))
    torch.testing.assert_close(value, call(Z, Y, Q))
    torch.testing.assert_close(rise, (wanted * TANGENT).sum())
    torch.testing.assert_close(torch.func.jacfwd(call)(Z, Y, Q), wanted)
    with forward_ad.dual_level():
        rise = forward_ad.unpack_dual(call(forward_ad.make_dual(Z, TANGENT), Y, Q)).tangent
    torch.testing.assert_close(rise, (wanted * TANGENT).sum())


@each
def test_hessian(name):
    call = CALLS[name]
    found = torch.func.hessian(call)(Z, Y, Q)
    torch.testing.assert_close(
        found, torch.autograd.functional.hessian(lambda z: call(z, Y, Q), Z), rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("name", LOSSES)
def test_derivatives_against_differences(name):
    z = Z.clone().requires_grad_()
    assert gradcheck(lambda z: LOSSES[name](z, Y, Q), z, check_forward_ad=True)
    assert gradgradcheck(lambda z: LOSSES[name](z, Y, Q), z)


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "binary", "distillation"])
def test_forward_mode_within_itself_is_refused(name):
    """There torch would return 0 for the derivative of a Function's jvp."""
    with pytest.raises(NotImplementedError, match=r"expected jacfwd\(jacrev"):
        torch.func.jacfwd(torch.func.jacfwd(CALLS[name]))(Z, Y, Q)


@each
@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_traced(name, mode):
    graph = make_fx(CALLS[name], tracing_mode=mode)(Z, Y, Q)
    other = Z.flip(0), Y.flip(0), Q.flip(0)
    torch.testing.assert_close(graph(*other), CALLS[name](*other))
    # No question was asked of a value on the way.
    assert not any("_local_scalar_dense" in str(node.target) for node in graph.graph.nodes)


@each
def test_without_values(name):
    z = Z.to("meta").requires_grad_()
    loss = CALLS[name](z, Y.to("meta"), Q.to("meta"))
    assert loss.shape == ()
    if loss.requires_grad:
        assert grad(loss, z)[0].shape == z.shape
    with FakeTensorMode() as mode:
        z = mode.from_tensor(Z).requires_grad_()
        loss = CALLS[name](z, mode.from_tensor(Y), mode.from_tensor(Q))
        assert loss.shape == ()
        if loss.requires_grad:
            assert grad(loss, z)[0].shape == z.shape


# What the compiled loops of a CPU must not take for plain memory: they are for float32 and halves.
each_loss = pytest.mark.parametrize("name", LOSSES)
Z_32, Q_32 = Z.float(), Q.float()


@each_loss
@pytest.mark.parametrize("grad_wanted", [False, True])
def test_another_default_device(name, grad_wanted):
    call, z = CALLS[name], Z_32.clone().requires_grad_(grad_wanted)
    with torch.device("meta"):
        found = call(z, Y, Q_32)
    torch.testing.assert_close(found, call(z, Y, Q_32))


@each_loss
def test_negated_views(name):
    # Their memory holds the negatives of their values.
    z = torch._neg_view(-Z_32).requires_grad_()
    y, q = torch._neg_view(-Y), torch._neg_view(-Q_32)
    found, wanted = CALLS[name](z, y, q), CALLS[name](Z_32, Y, Q_32)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(grad(found, z)[0], slope(CALLS[name], Z_32, Y, Q_32))


@each_loss
def test_several_derivatives_at_a_time(name):
    z, g = Z_32.clone().requires_grad_(), torch.tensor([1.0, -2.0, 0.25])
    loss = CALLS[name](z, Y, Q_32)
    (found,) = grad(loss, z, g, is_grads_batched=True, retain_graph=True)
    assert not found.requires_grad
    (one,) = grad(loss, z)
    torch.testing.assert_close(found, g[:, None, None] * one, rtol=1e-5, atol=1e-6)
    rows = torch.autograd.functional.jacobian(
        lambda z: losses.cross_entropy(z, Y, reduction="none"), Z_32, vectorize=True
    )
    wanted = torch.autograd.functional.jacobian(
        lambda z: losses.cross_entropy(z, Y, reduction="none"), Z_32
    )
    torch.testing.assert_close(rows, wanted)


@each_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_same_derivative_where_it_is_differentiable(name, dtype):
    # Where the temperature depends on the logits, too: its way is not counted twice.
    z, q = Z.to(dtype).requires_grad_(), Q.to(dtype)
    loss = CALLS[name](z, Y, q)
    (once,) = grad(loss, z, retain_graph=True)
    (again,) = grad(loss, z, create_graph=True)
    tolerance = {"rtol": 2e-6, "atol": 2e-7} if dtype == torch.float32 else {}
    torch.testing.assert_close(once, again, **tolerance)


def test_tied_weights_are_not_counted_twice():
    matrix = Q.clone().requires_grad_()
    for reduction in ("sum", "none"):
        found = losses.linear_cross_entropy(
            matrix.sin(), matrix, Y.clamp(max=3), reduction=reduction
        ).sum()
        wanted = losses.cross_entropy(matrix.sin() @ matrix.T, Y.clamp(max=3), reduction="sum")
        (dm,) = grad(found, matrix, create_graph=True)
        torch.testing.assert_close(dm, grad(wanted, matrix)[0])


@each_loss
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_trace(name):
    call = CALLS[name]
    traced = torch.jit.trace(call, (Z_32, Y, Q_32), check_trace=False)
    torch.testing.assert_close(traced(Z_32, Y, Q_32), call(Z_32, Y, Q_32))


def test_exported_with_a_constant_target():
    class Loss(torch.nn.Module):
        def forward(self, z):
            return losses.sigmoid_focal_loss(z, Q_32, reduction="mean")

    exported = torch.export.export(Loss(), (Z_32,))
    torch.testing.assert_close(exported.module()(Z_32), Loss()(Z_32))


# Of one loss with a large graph, which takes torch half a minute each time, one of the two.
@pytest.mark.parametrize(
    ("name", "dynamic"),
    [
        pytest.param(name, dynamic, id=f"{'dynamic' if dynamic else 'static'}-{name}")
        for name in CALLS
        for dynamic in (False, True)
        if (dynamic != (name == "distillation, Jensen-Shannon")) or (name in FEW and not dynamic)
    ],
)
def test_compiled(name, dynamic):
    """As one graph, forward and backward, without a warning."""
    torch._dynamo.reset()
    call = torch.compile(CALLS[name], fullgraph=True, dynamic=dynamic, backend="aot_eager")
    torch.testing.assert_close(call(Z, Y, Q), CALLS[name](Z, Y, Q))
    torch.testing.assert_close(slope(call), slope(CALLS[name]))


OF_CLASSES = {"cross_entropy", "cross_entropy, options", "focal", "generalized", "symmetric"}


@each_of_few
def test_gradient_of_each_sample_compiled(name):
    torch._dynamo.reset()
    by_sample = torch.vmap(torch.func.grad(CALLS[name]))
    z = Z.clone()
    if name in OF_CLASSES:
        z[1, 4], z[2], z[3] = -torch.inf, 0, 40 * z[3]  # masked, balanced, certain
    compiled = torch.compile(by_sample, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(z, Y, Q), by_sample(z, Y, Q))


@pytest.mark.parametrize(
    ("name", "strict"),
    [*((name, False) for name in CALLS), *((name, True) for name in FEW)],
)
def test_exported(name, strict):
    class Model(torch.nn.Module):
        def forward(self, z, y, q):
            return CALLS[name](z, y, q)

    rows = torch.export.Dim("rows", min=2, max=64)
    shapes = ({0: rows}, {0: rows}, {0: rows})
    program = torch.export.export(Model(), (Z, Y, Q), dynamic_shapes=shapes, strict=strict)
    fewer = Z[:3], Y[:3], Q[:3]
    torch.testing.assert_close(program.module()(*fewer), CALLS[name](*fewer))


@pytest.mark.parametrize("name", LOSSES)
def test_autocast_and_checkpoints(name):
    call = LOSSES[name]
    z, q = Z.float(), Q.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = call(z, Y, q)
    assert loss.dtype == torch.float32
    tolerance = 3e-2 if "linear" in name or "InfoNCE" in name else 1e-6  # products of halves
    torch.testing.assert_close(loss, call(z, Y, q), rtol=tolerance, atol=tolerance)
    leaf = Z.clone().requires_grad_()
    kept = torch.utils.checkpoint.checkpoint(lambda z: call(2 * z, Y, Q), leaf, use_reentrant=False)
    torch.testing.assert_close(grad(kept, leaf)[0], 2 * slope(call, 2 * Z))


# What would be refused is NaN where it cannot be, in its own row alone.
BAD_CLASS, BAD_ROW, BAD_SUM = Y.clone(), Q.clone(), Q.clone()
BAD_CLASS[1] = C
BAD_ROW[1, 0], BAD_SUM[1, 0] = -0.1, 0.9
POISONED = {
    "cross_entropy": (BAD_CLASS, Q),
    "cross_entropy, probabilities": (Y, BAD_ROW),
    "multilabel": (Y, BAD_ROW),
    "focal": (BAD_CLASS, Q),
    "generalized": (BAD_CLASS, Q),
    "symmetric": (BAD_CLASS, Q),
    "cross_entropy of distributions": (Y, BAD_SUM),
    "kl_divergence": (Y, BAD_ROW),
    "js_divergence": (Y, BAD_SUM),
    "perplexity": (Y, BAD_SUM),
}


@pytest.mark.parametrize("name", POISONED)
@pytest.mark.parametrize("transform", ["vmap", "compile"])
def test_a_bad_row_is_poisoned(name, transform):
    call, (y, q) = CALLS[name], POISONED[name]
    with pytest.raises(ValueError, match="expected"):
        call(Z, y, q)
    if transform == "vmap":
        value = torch.vmap(call)(Z, y, q)
        g = torch.vmap(torch.func.grad(call))(Z, y, q)
    else:
        torch._dynamo.reset()
        compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
        rows = list(zip(Z, y, q, strict=True))
        value = torch.stack([compiled(*row) for row in rows])
        g = torch.stack([slope(compiled, *row) for row in rows])
    assert value.isnan().tolist() == [False, True, False, False]
    assert g.isnan().any(1).tolist() == [False, True, False, False]


def test_rounding_is_accepted_where_nothing_can_be_raised():
    for q in (Q.float(), Q.bfloat16().float(), Q.bfloat16()):
        torch._dynamo.reset()
        loss = torch.compile(losses.cross_entropy, fullgraph=True, backend="aot_eager")(Z, q)
        assert loss.isfinite()
        assert torch.vmap(information.entropy)(q).isfinite().all()


def test_flops_of_the_linear_loss():
    x, matrix = normal(N, 3).requires_grad_(), normal(C, 3).requires_grad_()
    product = 2 * N * 3 * C
    for options, products in (({}, 3), ({"reduction": "none"}, 4)):
        with FlopCounterMode(display=False) as counter:
            losses.linear_cross_entropy(x, matrix, Y, **options).sum().backward()
        assert counter.get_total_flops() == products * product
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        losses.linear_cross_entropy(x, matrix, Y)
    assert counter.get_total_flops() == product
