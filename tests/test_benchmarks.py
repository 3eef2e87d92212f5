"""The benchmark's command on small shapes, and the record that the chapter on kernels reads."""

import datetime
import json
import math
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.timing import memory, seconds
from celib import data

ROOT = Path(__file__).parents[1]
TIME = ("peer", "rows", "classes", "features", "dtype", "chunk", "pass", "median", "low", "high")
TIME = {*TIME, "repeats", "peak"}
ERROR = {"peer", "classes", "dtype", "offset", "loss", "gradient"}
LISTS = ("logits", "linear", "graph", "losses", "calibration")
RUN = {"date", "device", "versions", "bandwidth", "product", "skipped", "error", *LISTS}
OTHER = {"date": "2000-01-01", "device": "another", "bandwidth": 1.0, "logits": []}
PASSES = {"forward", "backward", "both"}


def by_shape(run, kind):
    """Of each shape the passes that each peer has."""
    found = {}
    for t in run[kind]:
        peers = found.setdefault((t["rows"], t["classes"], t["features"], t["dtype"]), {})
        peers.setdefault((t["peer"], t["chunk"]), []).append(t["pass"])
    return found


def conforms(run):
    assert set(run) == RUN
    datetime.date.fromisoformat(run["date"])
    assert {"python", "torch"} <= set(run["versions"])
    assert run["bandwidth"] > 1e8
    assert run["product"] > 1e8
    times = [t for kind in LISTS for t in run[kind]]
    for t in times:
        assert set(t) == TIME
        assert 0 < t["low"] <= t["median"] <= t["high"] < math.inf
        assert t["peak"] is None or t["peak"] >= 0
        assert t["features"] is None or t in run["linear"] or t in run["losses"]
    # As many repeats of each, but for a few that take long; each peer in all passes or in none.
    assert len({t["repeats"] for t in times if t not in run["losses"]}) == 1
    for kind in ("logits", "linear"):
        shapes = by_shape(run, kind)
        assert shapes
        assert all(sorted(p) == sorted(PASSES) for peers in shapes.values() for p in peers.values())
    for e in run["error"]:
        assert set(e) == ERROR
        assert 0 <= e["loss"] < math.inf
        assert 0 <= e["gradient"] < math.inf
    assert {e["offset"] for e in run["error"]} == {0.0, 1e2, 1e4, 1e6, 2.0**24}
    assert all(reason.strip() for reason in run["skipped"].values())


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    """What a machine without a C++ compiler prints and writes, beside the run of another device."""
    folder = tmp_path_factory.mktemp("bench")
    record = folder / "record.json"
    record.write_text(json.dumps({"cuda": OTHER, "cpu": {"date": "2000-01-01"}}))
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"OMP_NUM_THREADS": "1", "CXX": str(folder / "no-compiler")}
    environment |= {"TORCHINDUCTOR_CACHE_DIR": str(folder / "cache")}
    command = [sys.executable, "-m", "benchmarks", "--quick", "--device=cpu", f"--output={record}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done, record


def test_the_command_records_its_own_device_and_leaves_the_other(trial):
    _, record = trial
    runs = json.loads(record.read_text("utf-8"))
    assert runs["cuda"] == OTHER
    conforms(runs["cpu"])


def test_each_peer_is_measured_or_named_with_the_reason(trial):
    _, record = trial
    runs = json.loads(record.read_text("utf-8"))
    run = runs["cpu"]
    assert {"liger", "quack", "cut-cross-entropy"} <= set(run["skipped"])
    compiled = [reason for name, reason in run["skipped"].items() if name.startswith("compiled")]
    assert compiled
    assert all("ompiler" in reason for reason in compiled)
    assert "compiled" not in {t["peer"] for t in run["logits"]}
    for name in ("relplot", "torchmetrics", "netcal"):
        assert (name in run["skipped"]) == (find_spec(name) is None)
    binned = {t["peer"] for t in run["calibration"] if t["pass"] == "calibration_error"}
    assert {"celib", "scikit-learn"} <= binned
    for kind in ("logits", "linear"):
        for peers in by_shape(run, kind).values():
            assert {"eager", "celib"} <= {peer for peer, _ in peers}


def test_the_table_the_progress_and_the_figure_are_there(trial):
    done, record = trial
    runs = json.loads(record.read_text("utf-8"))
    lines = done.stdout.splitlines()
    for t in runs["cpu"]["logits"]:
        if t["pass"] == "both":
            shown = f" {t['median'] * 1e3:.2f} "
            assert any(line.startswith(f"  {t['peer']} ") and shown in line for line in lines)
    assert any(line.startswith("  compiled: ") for line in lines[lines.index("skipped") :])
    assert "2/2 256 x 1000" in done.stderr
    assert "2/2" not in done.stdout
    assert "<svg" in (record.with_suffix(".svg")).read_text("utf-8")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_record_of_the_book_is_of_one_run_with_the_peers_that_matter(device):
    runs = data.speed()
    assert set(runs) <= {"cpu", "cuda"}
    if device not in runs:
        pytest.skip(f"no run on a device of the kind {device} is recorded")
    run = runs[device]
    conforms(run)
    for peers in by_shape(run, "logits").values():
        assert {"eager", "compiled", "celib"} <= {peer for peer, _ in peers}
    assert run["logits"][0]["repeats"] >= 9


def test_a_part_is_charged_for_its_own_time_and_for_what_it_adds_to_memory():
    def step(mark):
        mark()
        time.sleep(0.02)
        kept = torch.empty(2**23).fill_(1.0)
        mark()
        time.sleep(0.05)
        for _ in range(2):  # one after the other
            torch.empty(2**24).fill_(1.0)
        mark()
        return kept

    first, second, both = seconds(step, "cpu")
    assert first >= 0.02
    assert second >= 0.05
    assert both == pytest.approx(first + second)
    if sys.platform != "linux":
        assert memory(step, "cpu") == [None] * 3
        return
    found = np.array(memory(step, "cpu")) / 2**20
    np.testing.assert_allclose(found, [32, 64, 96], atol=2)
