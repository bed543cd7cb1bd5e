"""The tiny network in the place of the model, and a run of it that nothing disturbed."""

from pathlib import Path

import pytest

import train.plan
from tests.train.runs import in_
from tests.train.tiny import build_tiny
from train.loop import run


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever model is asked for, it is the tiny one."""
    monkeypatch.setattr(train.plan, "build_model", build_tiny)


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("alone") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.plan, "build_model", build_tiny)
        run(in_(out))
    return out
