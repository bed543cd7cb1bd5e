"""What is installed, and what each command lacks."""

import re
import tomllib
from pathlib import Path

import pytest

from flaxblocks.inspect.installation import packages
from flaxblocks.inspect.installation.finding import Finding
from flaxblocks.inspect.installation.packages import NEEDS, Need

PROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]


def install(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """Have these packages and no others; `_` stands for `-`."""
    found = {name.replace("_", "-"): version for name, version in versions.items()}
    monkeypatch.setattr(packages, "version_of", found.get)


def names(requirements: list[str]) -> list[str]:
    return [re.split(r"[<>=!\[]", requirement)[0] for requirement in requirements]


@pytest.mark.parametrize("need", [need for need in NEEDS if need.extra], ids=lambda need: need.name)
def test_an_extra_brings_what_is_needed_and_nothing_else(need: Need) -> None:
    assert list(need.packages) == names(PROJECT["optional-dependencies"][need.extra])


def test_predicting_needs_what_every_installation_has() -> None:
    assert set(NEEDS[0].packages) <= set(names(PROJECT["dependencies"]))


def test_with_everything_installed_nothing_is_missing() -> None:
    assert {finding.status for finding in packages.needs()} == {"ok"}


def test_what_is_missing_has_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    predict = dict.fromkeys(NEEDS[0].packages, "1.0")
    install(monkeypatch, torch="2.6.0", timm="1.0.15", **predict)
    found = {finding.name: finding for finding in packages.needs()}
    assert [name for name, finding in found.items() if finding.status == "ok"] == ["predict"]
    assert found["verify"] == Finding(
        "verify", "missing: torchvision", "note", "pip install 'flaxblocks[torch]'"
    )
    assert found["demo picture"].remedy == "pip install matplotlib"


def test_versions_are_those_of_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, jax="0.11.0", jaxlib="0.11.0", jax_cuda13_plugin="0.11.0")
    found = {finding.name: finding for finding in packages.versions()}
    assert list(found) == ["Python", "jax", "jaxlib", "jax-cuda13-plugin"]
    assert {finding.status for finding in found.values()} == {"ok"}
    assert found["jax"].value == "0.11.0"


def test_a_plugin_of_another_release_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, jaxlib="0.11.0", jax_cuda12_plugin="0.10.1")
    *_, plugin = packages.versions()
    assert plugin.status == "note"
    assert plugin.value.startswith("0.10.1, which JAX does not use with jaxlib 0.11.0")
    assert plugin.remedy == "pip install jax-cuda12-plugin==0.11.0"
