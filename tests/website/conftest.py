"""One browser for the tests of a module, and one server for what they visit."""

import pytest

# What the tests need is imported in a fixture: without it they are skipped by name.


@pytest.fixture(scope="module")
def browser():
    from website.visits import launched

    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def origin():
    from website.visits import served

    with served() as address:
        yield address
