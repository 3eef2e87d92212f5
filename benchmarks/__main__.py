"""The command: ``make bench``, which is ``python -m benchmarks``; ``--help`` tells its options."""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import re
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks import binary, calibration, cross_entropy, distillation, losses
from benchmarks.cross_entropy import reason
from benchmarks.timing import bandwidth, product

RECORD = Path(__file__).parents[1] / "celib" / "data" / "speed.json"
FIGURE = Path(__file__).with_name("speed.svg")
PACKAGES = (
    *("torch", "numba", "triton", "liger-kernel", "cut-cross-entropy", "quack-kernels"),
    *("numpy", "scikit-learn", "torchmetrics", "netcal", "relplot"),
)
REPEATS = {"cpu": 11, "cuda": 15}
# On a GPU no new shape is begun after so many seconds.
LIMIT = {"cpu": float("inf"), "cuda": 450.0}
Run = dict[str, Any]


def main() -> None:
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--device", choices=("cpu", "cuda"), default=default)
    parser.add_argument("--quick", action="store_true", help="small shapes, and no record")
    parser.add_argument("--output", type=Path, help=f"the record; {RECORD} unless --quick")
    options = parser.parse_args()
    run = measured(options.device, options.quick)
    output = options.output or (None if options.quick else RECORD)
    if output is not None:
        runs = record(run, options.device, output)
        figure(runs, FIGURE if output == RECORD else output.with_suffix(".svg"))
    print(table(run))


def measured(device: str, quick: bool) -> Run:
    begin = time.monotonic()

    def progress(text: object) -> None:
        print(f"[{time.monotonic() - begin:4.0f} s] {text}", file=sys.stderr, flush=True)

    repeats, skipped = 3 if quick else REPEATS[device], dict[str, str]()
    run: Run = {
        "date": str(datetime.date.today()),
        "device": described(device),
        "versions": versions(),
    }
    progress(run["device"])
    run["bandwidth"] = round(bandwidth(device, 2**24 if quick else 2**29))
    run["product"] = round(product(device, 256 if quick else 8192 if device == "cuda" else 2048))
    run |= {"skipped": skipped, "logits": [], "linear": [], "graph": []}
    progress("errors")
    run["error"] = cross_entropy.errors(device, quick, skipped)
    shapes = cross_entropy.cases(device, quick)
    for i, case in enumerate(shapes):
        if time.monotonic() - begin > LIMIT[device]:
            skipped[f"all: {case}"] = f"{LIMIT[device]:.0f} seconds had passed"
            continue
        progress(f"{i + 1}/{len(shapes)} {case}")
        try:
            found = cross_entropy.times(case, device, repeats, skipped)
        except torch.OutOfMemoryError as error:
            skipped[f"all: {case}"] = reason(error)
            continue
        for kind, entries in found.items():
            run[kind] += entries
    for kind in ("logits", "graph"):
        run[kind].sort(key=lambda t: t["classes"])
    run["losses"], run["calibration"] = [], []
    if device == "cpu":
        for module in (losses, binary, distillation):
            progress(module.__name__)
            run["losses"] += module.times(quick, repeats, skipped)
        progress("calibration")
        run["calibration"] = list(calibration.times(quick, repeats, skipped))
    progress("done")
    return run


def described(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = (line.partition(":") for line in cpuinfo.read_text().splitlines())
        name = next((v.strip() for k, _, v in lines if k.strip() == "model name"), name)
    return f"{name}, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    # What pip says of torch can lack the build.
    return found | {"torch": torch.__version__}


def record(run: Run, device: str, output: Path) -> dict[str, Run]:
    """The run in its place; the other device's stays."""
    runs = json.loads(output.read_text("utf-8")) if output.exists() else {}
    runs[device] = run
    text = json.dumps({name: runs[name] for name in sorted(runs)}, indent=1)
    text = re.sub(r"\{[^{}]*\}", lambda entry: " ".join(entry[0].split()), text)  # a line each
    output.write_text(text + "\n", "utf-8")
    print(f"{output} now has this run", file=sys.stderr)
    return runs


def figure(runs: dict[str, Run], output: Path) -> None:
    """Bytes that both passes have to move by the time taken, float32, of all peers and devices."""
    import matplotlib

    matplotlib.use("svg")
    from celib import plots

    plots.use_house_style()
    drawn: dict[str, tuple[float, dict[str, tuple[list[int], list[float]]]]] = {}
    for run in runs.values():
        lines: dict[str, tuple[list[int], list[float]]] = {}
        for t in run["logits"]:
            if (t["pass"], t["dtype"]) == ("both", "float32"):
                classes, speeds = lines.setdefault(t["peer"], ([], []))
                classes.append(t["classes"])
                speeds.append(share_of(t, run, "logits") * run["bandwidth"])
        drawn[run["device"]] = run["bandwidth"], lines
    plots.achieved_bandwidth(drawn).figure.savefig(output, metadata={"Date": None})
    print(f"{output} shows it", file=sys.stderr)


def table(run: Run) -> str:
    """The run for people: times in ms, memory in MB, shares of what the device was measured to do.

    Of the logits R bytes have to be read, and as many of the gradient to be written: as little as
    a kernel needs that has room for a row on the chip. A layer has three products of 2 N C D
    operations to do. The share is that over the time, relative to the copy's bytes and the
    product's operations per second. "graph" are both passes on logits, replayed as one CUDA graph.
    """
    names = ", ".join(f"{name} {number}" for name, number in run["versions"].items())
    lines = [
        f"{run['device']}, {run['date']}: {names}",
        f"copy {run['bandwidth'] / 1e9:.1f} GB/s, product {run['product'] / 1e12:.3f} Tflop/s",
        "medians in ms, peaks of memory in MB",
    ]
    for kind in ("logits", "graph", "linear", "losses", "calibration"):
        shapes: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for t in run[kind]:
            shape = t["rows"], t["classes"], t["features"], t["dtype"]
            shapes.setdefault(shape, []).append(t)
        for shape, here in shapes.items():
            lines += ["", _title(kind, *shape), *_block(here, run, kind)]
    lines += ["", "largest relative error against float64"]
    for e in run["error"]:
        lines.append(
            f"  {e['peer']:18} {e['dtype']:8} offset {e['offset']:<12g}"
            f"loss {e['loss']:8.1e}  gradient {e['gradient']:8.1e}"
        )
    lines += ["", "skipped", *(f"  {name}: {why}" for name, why in run["skipped"].items())]
    return "\n".join(lines)


def _title(kind: str, rows: int, classes: int, features: int | None, dtype: str) -> str:
    layer = f" from {features} features" if features else ""
    what = f"{rows} predictions" if kind == "calibration" else f"{rows} x {classes}{layer}"
    return f"{kind}: {what}, {dtype}"


def _block(times: list[dict[str, Any]], run: Run, kind: str) -> list[str]:
    """One shape: a line for each peer, the fastest first; of losses, loss by loss."""
    named = kind in ("losses", "calibration")
    parts = {(t["peer"], t["chunk"], t["pass"]): t["median"] for t in times}
    whole = [t for t in times if t["pass"] not in ("forward", "backward")]
    eager = next((t["median"] for t in whole if t["peer"] == "eager"), None)
    head = "forward", "backward", "both", "quartiles", "x eager", "share", "peak"
    lines = [_line("peer", *head)]
    for t in sorted(whole, key=lambda t: (t["pass"] if named else "", t["median"])):
        name = t["peer"] if t["chunk"] is None else f"{t['peer']}, chunk {t['chunk']}"
        one_pass = [parts.get((t["peer"], t["chunk"], p)) for p in ("forward", "backward")]
        lines.append(
            _line(
                f"{t['pass']}: {name}" if named else name,
                *("" if s is None else f"{s * 1e3:.2f}" for s in one_pass),
                f"{t['median'] * 1e3:.2f}",
                f"{t['low'] * 1e3:.2f} to {t['high'] * 1e3:.2f}",
                "" if eager is None else f"{eager / t['median']:.2f}",
                "" if named else f"{share_of(t, run, kind):.0%}",
                "" if t["peak"] is None else f"{t['peak'] / 1e6:.0f}",
            )
        )
    return lines


def _line(name: str, *columns: str) -> str:
    widths = 10, 10, 10, 22, 9, 7, 7
    return f"  {name:44}" + "".join(f"{c:>{w}}" for c, w in zip(columns, widths, strict=True))


def share_of(t: dict[str, Any], run: Run, kind: str) -> float:
    numbers = t["rows"] * t["classes"]
    if kind == "linear":
        return 6 * numbers * t["features"] / (t["median"] * run["product"])
    size = {"float32": 4, "bfloat16": 2}[t["dtype"]]
    return 2 * numbers * size / (t["median"] * run["bandwidth"])


if __name__ == "__main__":
    main()
