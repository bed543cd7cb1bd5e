"""Models for another device than the host are built on the host, and are what they were."""

import pytest

from tests.devices import outcomes
from tests.second_device import CASES


@pytest.fixture(scope="module")
def found() -> dict[str, str]:
    return outcomes("tests.second_device", devices=2)


@pytest.mark.parametrize("case", CASES)
def test_for_a_second_device(case, found):
    assert not found[case]
