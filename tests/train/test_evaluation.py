"""What reads the held-out images stays from one evaluation to the next, and starts each afresh."""

import multiprocessing
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from tests.train.tiny import build_tiny
from train.data.digits import open_digits
from train.data.source import Source
from train.network.model import Network
from train.network.step import StepSettings
from train.run import evaluation
from train.run.evaluation import Evaluator
from train.run.mesh import make_mesh
from train.settings.config import Config


@cache
def network() -> Network:
    return Network.of(build_tiny(Config(), 10))


def evaluator(workers: int = 0) -> Evaluator:
    """Of the 360 digits, in batches that do not divide them."""
    data = open_digits()
    how = replace(data.transforms, resize_size=(32, 32), crop_size=(32, 32))
    settings = StepSettings(10, how.mean, how.std)
    mesh = make_mesh("")
    return Evaluator(network(), settings, mesh, data.held_out, how, batch_size=128, workers=workers)


def measure(evaluate: Evaluator, **settings: Any) -> dict[str, float]:
    def unreadable(source: Source, index: int, _: str) -> None:
        raise AssertionError(source.name(index))

    net = network()
    return evaluate(net.params, net.frozen, net.buffers, unreadable=unreadable, **settings)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Iterator]:
    """The iterators that were made."""
    made: list[Iterator] = []
    make = evaluation.held_out_batches

    def held_out_batches(*args: Any, **settings: Any) -> Iterator:
        made.append(make(*args, **settings))
        return made[-1]

    monkeypatch.setattr(evaluation, "held_out_batches", held_out_batches)
    return made


def test_each_evaluation_sees_each_image_once(begun: list[Iterator]) -> None:
    with closing(evaluator()) as evaluate:
        results = [measure(evaluate) for _ in range(3)]
    assert results[0]["images"] == 360
    assert results[0] == results[1] == results[2]
    assert len(begun) == 1
    with pytest.raises(ValueError, match="closed"):
        next(begun[0])


def test_one_that_was_cut_off_leaves_the_next_whole(begun: list[Iterator]) -> None:
    def cut_off(_: int) -> None:
        raise KeyboardInterrupt

    with closing(evaluator()) as evaluate:
        whole = measure(evaluate)
        with pytest.raises(KeyboardInterrupt):
            measure(evaluate, seen=cut_off)
        assert measure(evaluate) == whole
    assert len(begun) == 2


def test_the_workers_are_started_once_and_end() -> None:
    def workers() -> set[int | None]:
        return {process.pid for process in multiprocessing.active_children()}

    before = workers()
    with closing(evaluator(workers=2)) as evaluate:
        first = measure(evaluate)
        started = workers() - before
        assert len(started) == 2
        assert measure(evaluate) == measure(evaluate) == first
        assert workers() - before == started
    assert workers() <= before
