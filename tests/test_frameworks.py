"""The table of entry points, for the frameworks that the book does not depend on.

``tools/frameworks.py`` wrote the records. A test computes the rows again where the framework is
installed, and is skipped where it is not.
"""

import datetime
import math

import pytest

from tools.frameworks import MODULES, computed, missing, recorded

HINT = "python tools/frameworks.py writes it anew"


def agree(one, two):
    """Equal texts and shapes, numbers up to the rounding of single precision."""
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(agree(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(agree, one, two))
    if isinstance(one, float) and isinstance(two, float):
        return math.isclose(one, two, rel_tol=1e-6, abs_tol=2e-6)
    return one == two


def test_every_framework_is_recorded_with_versions_and_date():
    records = recorded()
    assert set(records) == set(MODULES)
    for name, found in records.items():
        assert set(MODULES[name]) < set(found["versions"])
        datetime.date.fromisoformat(found["date"])


def test_the_right_kind_of_input_gives_the_loss():
    """The reference is the definition: the logarithm of one probability."""
    for found in recorded().values():
        for entry in found["rows"]:
            (kind,) = set(entry["takes"]) & set("zpl")
            binary = "igmoid" in entry["name"] or "Binary" in entry["name"]
            loss = -math.log(0.8 if binary else math.exp(2) / sum(map(math.exp, (2, 1, 0.1))))
            assert entry[kind] == pytest.approx(loss, abs=2e-6), entry["name"]


@pytest.mark.parametrize("name", MODULES)
def test_the_records_are_what_the_frameworks_return(name):
    if missing(name):
        pytest.skip(f"{', '.join(missing(name))} not installed")
    found, stored = computed(name), recorded()[name]
    assert [entry["name"] for entry in found["rows"]] == [entry["name"] for entry in stored["rows"]]
    for new, old in zip(found["rows"], stored["rows"], strict=True):
        assert agree(new, old), f"{new}, recorded {old}: {HINT}"
    assert agree(found.get("cases"), stored.get("cases")), HINT
