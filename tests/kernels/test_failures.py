"""Every failure of a published kernel that FAILURES.md lists has a test of its number."""

import re
from pathlib import Path

from kernels.comparing import MARKS

pytestmark = MARKS


def test_every_failure_has_a_test():
    tests = Path(__file__).parent
    known = re.findall(r"^\| (\d+) \|", (tests / "FAILURES.md").read_text(), re.M)
    names = "".join(path.read_text() for path in tests.parent.rglob("test_*.py"))
    found = re.findall(r"def (?:test|failure)_((?:\d\d_)+)", names)
    tested = {int(number) for name in found for number in name.split("_") if number}
    assert tested == set(map(int, known)) == set(range(1, 27))
