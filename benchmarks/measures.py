"""What a call of a measure costs, beside the plain function of NumPy, SciPy, torch or scikit-learn.

``python -m benchmarks.measures`` prints a table. Set OMP_NUM_THREADS=1 to compare small inputs on
a machine where other processes run. The peers check nothing, and most of them are less accurate.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.special
import scipy.stats
import torch
import torch.nn.functional as F

from benchmarks.timing import Measured, Step, measure
from celib import information, stable
from celib.calibration import reliability_curve

ELEMENTS = (100, 10**5, 10**7)
PREDICTIONS = (1000, 10**5, 10**6)
REPEATS = 25
# A repeat of a small input is as many calls as pass over so many numbers.
NUMBERS = 20_000

Call = Callable[[], Any]


def times(quick: bool, repeats: int, skipped: dict[str, str]) -> Iterator[dict[str, Any]]:
    """A record for each function, container and size, and each of its peers.

    ``skipped`` gets those that give another result, and the reason.
    """
    sizes = ELEMENTS[:1] if quick else ELEMENTS
    for elements in sizes:
        for container, pairs in (("numpy", _numpy(elements)), ("torch", _torch(elements))):
            for function, (ours, peer, theirs) in pairs.items():
                record = {"function": function, "container": container, "elements": elements}
                yield from _timed(record, ours, peer, theirs, repeats, skipped)
    for predictions in PREDICTIONS[:1] if quick else PREDICTIONS:
        try:
            ours, peer, theirs = _curves(predictions)
        except ImportError as error:
            skipped["scikit-learn"] = str(error)
            return
        record = {"function": "reliability_curve", "container": "numpy", "elements": predictions}
        yield from _timed(record, ours, peer, theirs, repeats, skipped)


def _timed(
    record: dict[str, Any],
    ours: Call,
    peer: str,
    theirs: Call,
    repeats: int,
    skipped: dict[str, str],
) -> Iterator[dict[str, Any]]:
    """Both calls, taking turns; seconds of one call."""
    name = f"{peer}: {record['function']} of {record['elements']}, {record['container']}"
    if not np.allclose(ours(), theirs(), rtol=1e-3, atol=1e-6):
        skipped[name] = "gives another result"
        return
    count = max(1, NUMBERS // record["elements"])
    repeats = repeats if record["elements"] < 10**6 else min(repeats, 5)
    steps: dict[Any, Step] = {"celib": _step(ours, count), peer: _step(theirs, count)}
    found = measure(steps, repeats, "cpu")
    yield {**record, "peer": peer, "calls": count, "repeats": repeats} | {
        who: _quartiles(found[key], count) for who, key in (("celib", "celib"), ("theirs", peer))
    }


def _step(call: Call, count: int) -> Step:
    def step(mark: Callable[[], None]) -> None:
        mark()
        for _ in range(count):
            call()
        mark()

    return step


def _quartiles(found: Measured, count: int) -> dict[str, float]:
    quarters = np.quantile(found.seconds[:, -1] / count, [0.25, 0.5, 0.75])
    return dict(zip(("low", "median", "high"), map(float, quarters), strict=True))


def _numpy(n: int) -> dict[str, tuple[Call, str, Call]]:
    """Of float64: ours, the name of the peer, and the peer."""
    rng, special, side = np.random.default_rng(0), scipy.special, math.isqrt(n)
    z, u = rng.normal(size=n), rng.uniform(0.01, 0.99, n)
    p, q = special.softmax(rng.normal(size=(2, n)), axis=-1)
    joint = special.softmax(rng.normal(size=side * side)).reshape(side, side)
    counts = rng.integers(1, 50, n).astype(np.float64)

    def js() -> Any:
        m = 0.5 * (p + q)
        return 0.5 * (special.rel_entr(p, m).sum() + special.rel_entr(q, m).sum())

    def information_of_joint() -> Any:
        independent = joint.sum(1, keepdims=True) * joint.sum(0)
        return special.rel_entr(joint, independent).sum()

    def difference() -> Any:
        return special.entr(joint).sum() - special.entr(joint.sum(1)).sum()

    return {
        "softmax": (lambda: stable.softmax(z), "scipy softmax", lambda: special.softmax(z)),
        "log_softmax": (
            lambda: stable.log_softmax(z),
            "scipy log_softmax",
            lambda: special.log_softmax(z),
        ),
        "logsumexp": (lambda: stable.logsumexp(z), "scipy logsumexp", lambda: special.logsumexp(z)),
        "expit": (lambda: stable.expit(z), "scipy expit", lambda: special.expit(z)),
        "logit": (lambda: stable.logit(u), "scipy logit", lambda: special.logit(u)),
        "log1pexp": (lambda: stable.log1pexp(z), "numpy logaddexp", lambda: np.logaddexp(z, 0.0)),
        "log1mexp": (
            lambda: stable.log1mexp(u),
            "log(-expm1(-x))",
            lambda: np.log(-np.expm1(-u)),
        ),
        "self_information": (
            lambda: information.self_information(u),
            "-log(p)",
            lambda: -np.log(u),
        ),
        "entropy": (
            lambda: information.entropy(p),
            "scipy entr, sum",
            lambda: special.entr(p).sum(),
        ),
        "cross_entropy": (
            lambda: information.cross_entropy(p, q),
            "scipy xlogy, sum",
            lambda: -special.xlogy(p, q).sum(),
        ),
        "kl_divergence": (
            lambda: information.kl_divergence(p, q),
            "scipy rel_entr, sum",
            lambda: special.rel_entr(p, q).sum(),
        ),
        "js_divergence": (lambda: information.js_divergence(p, q), "scipy rel_entr, twice", js),
        "renyi_entropy": (
            lambda: information.renyi_entropy(p, 2.0),
            "-log(sum(p^2))",
            lambda: -np.log((p**2).sum()),
        ),
        "perplexity": (
            lambda: information.perplexity(p),
            "exp(sum(scipy entr))",
            lambda: np.exp(special.entr(p).sum()),
        ),
        "mutual_information": (
            lambda: information.mutual_information(joint),
            "scipy rel_entr, sum",
            information_of_joint,
        ),
        "conditional_entropy": (
            lambda: information.conditional_entropy(joint),
            "scipy entr, difference",
            difference,
        ),
        "entropy_from_counts": (
            lambda: information.entropy_from_counts(counts, method="plugin"),
            "scipy.stats entropy",
            lambda: scipy.stats.entropy(counts),
        ),
    }


def _torch(n: int) -> dict[str, tuple[Call, str, Call]]:
    """The same of float32 tensors."""
    generator, special, side = torch.Generator().manual_seed(0), torch.special, math.isqrt(n)
    z, a, b = torch.randn(3, n, generator=generator)
    p, q, u = a.softmax(-1), b.softmax(-1), torch.rand(n, generator=generator) * 0.98 + 0.01
    joint = torch.randn(side * side, generator=generator).softmax(-1).reshape(side, side)
    counts = torch.randint(1, 50, (n,), generator=generator).float()

    def js() -> Any:
        m = 0.5 * (p + q)
        return 0.5 * (special.xlogy(p, p / m).sum() + special.xlogy(q, q / m).sum())

    def information_of_joint() -> Any:
        independent = joint.sum(1, keepdim=True) * joint.sum(0)
        return special.xlogy(joint, joint / independent).sum()

    def difference() -> Any:
        return special.entr(joint).sum() - special.entr(joint.sum(1)).sum()

    return {
        "softmax": (lambda: stable.softmax(z), "torch.softmax", lambda: z.softmax(-1)),
        "log_softmax": (
            lambda: stable.log_softmax(z),
            "torch.log_softmax",
            lambda: z.log_softmax(-1),
        ),
        "logsumexp": (lambda: stable.logsumexp(z), "torch.logsumexp", lambda: z.logsumexp(-1)),
        "expit": (lambda: stable.expit(z), "torch.sigmoid", lambda: torch.sigmoid(z)),
        "logit": (lambda: stable.logit(u), "torch.logit", lambda: torch.logit(u)),
        "log1pexp": (lambda: stable.log1pexp(z), "F.softplus", lambda: F.softplus(z)),
        "log1mexp": (
            lambda: stable.log1mexp(u),
            "log(-expm1(-x))",
            lambda: torch.log(-torch.expm1(-u)),
        ),
        "self_information": (
            lambda: information.self_information(u),
            "-log(p)",
            lambda: -torch.log(u),
        ),
        "entropy": (
            lambda: information.entropy(p),
            "torch entr, sum",
            lambda: special.entr(p).sum(),
        ),
        "cross_entropy": (
            lambda: information.cross_entropy(p, q),
            "torch xlogy, sum",
            lambda: -special.xlogy(p, q).sum(),
        ),
        "kl_divergence": (
            lambda: information.kl_divergence(p, q),
            "F.kl_div",
            lambda: F.kl_div(q.log(), p, reduction="sum"),
        ),
        "js_divergence": (lambda: information.js_divergence(p, q), "torch xlogy, twice", js),
        "renyi_entropy": (
            lambda: information.renyi_entropy(p, 2.0),
            "-log(sum(p^2))",
            lambda: -torch.log((p**2).sum()),
        ),
        "perplexity": (
            lambda: information.perplexity(p),
            "exp(sum(torch entr))",
            lambda: torch.exp(special.entr(p).sum()),
        ),
        "mutual_information": (
            lambda: information.mutual_information(joint),
            "torch xlogy, sum",
            information_of_joint,
        ),
        "conditional_entropy": (
            lambda: information.conditional_entropy(joint),
            "torch entr, difference",
            difference,
        ),
        "entropy_from_counts": (
            lambda: information.entropy_from_counts(counts, method="plugin"),
            "torch entr, sum",
            lambda: special.entr(counts / counts.sum()).sum(),
        ),
    }


def _curves(n: int) -> tuple[Call, str, Call]:
    from sklearn.calibration import calibration_curve

    draw = np.random.default_rng(0)
    p = draw.random(n)
    y = (draw.random(n) < p).astype(np.int64)

    def ours() -> Any:
        curve = reliability_curve(y, p)
        return curve.frequency, curve.mean_prob

    return ours, "sklearn calibration_curve", lambda: calibration_curve(y, p, n_bins=15)


def table(records: list[dict[str, Any]], skipped: dict[str, str]) -> str:
    """Medians, in microseconds."""
    head = ("function", "container", "elements", "ours", "peer", "ratio", "")
    lines = [_line(*head)]
    for r in records:
        ours, theirs = r["celib"]["median"], r["theirs"]["median"]
        figures = f"{ours * 1e6:.2f}", f"{theirs * 1e6:.2f}", f"{ours / theirs:.2f}"
        lines.append(_line(r["function"], r["container"], f"{r['elements']}", *figures, r["peer"]))
    return "\n".join(lines + [f"skipped {name}: {why}" for name, why in skipped.items()])


def _line(function: str, container: str, *columns: str) -> str:
    *figures, peer = columns
    return f"{function:20} {container:10}" + "".join(f"{c:>12}" for c in figures) + f"  {peer}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.measures")
    parser.add_argument("--quick", action="store_true", help="small inputs only")
    options = parser.parse_args()
    skipped: dict[str, str] = {}
    records = list(times(options.quick, REPEATS, skipped))
    print(table(records, skipped))


if __name__ == "__main__":
    main()
