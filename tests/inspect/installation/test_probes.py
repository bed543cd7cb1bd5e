"""Everything at once: what fails is a finding, and the lines stand in columns."""

from collections.abc import Iterator

import pytest

from flaxblocks.inspect.installation import probes
from flaxblocks.inspect.installation.finding import WIDTH, Finding
from flaxblocks.inspect.installation.probes import diagnose


def test_each_name_fits_its_column() -> None:
    found = list(diagnose())
    assert max(len(finding.name) for finding in found) == WIDTH
    assert {finding.status for finding in found} <= {"ok", "note"}


def test_a_probe_that_fails_is_a_finding_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def half_way() -> Iterator[Finding]:
        yield Finding("first", "well")
        raise OSError("the disk\nis gone")

    def after() -> Iterator[Finding]:
        yield Finding("last", "well")

    monkeypatch.setattr(probes, "PROBES", (half_way, after))
    assert list(diagnose()) == [
        Finding("first", "well"),
        Finding("half way", "cannot be examined: OSError: the disk is gone", "note"),
        Finding("last", "well"),
    ]


def test_a_remedy_stands_below_its_line() -> None:
    line, remedy = str(Finding("devices", "none", "bad", "buy one")).splitlines()
    assert line == "bad   devices            none"
    assert remedy == f"{' ' * line.index('none')}-> buy one"
