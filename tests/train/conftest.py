"""What the tests share: images on disk, the tiny network, and a run of it left alone."""

import io
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from PIL import Image

import train.run.plan
from tests.train.images import COLOURS, write_images
from tests.train.runs import in_
from tests.train.tiny import build_tiny
from train.run.loop import run


@pytest.fixture(scope="module", autouse=True)
def _what_one_run_compiled_the_next_one_has(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[None]:
    """Most of these runs, and the processes that they start, compile the same few programs."""
    # Of each worker its own: JAX writes an entry in place, and another would read half of it.
    folder = tmp_path_factory.getbasetemp() / "compiled"
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.05,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA finds fault with what it saved itself
        before = {name: getattr(jax.config, name) for name in settings}
        for name, value in settings.items():
            patch.setenv(name.upper(), str(value))
            jax.config.update(name, value)
        compilation_cache.reset_cache()  # it looks for its folder once
        yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever model is asked for, it is the tiny one."""
    monkeypatch.setattr(train.run.plan, "build_model", build_tiny)


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("alone") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.run.plan, "build_model", build_tiny)
        run(in_(out))
    return out


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten images a class, in one folder for each."""
    for name, colour in COLOURS.items():
        write_images(tmp_path / "images" / name, colour, 10)
    return tmp_path / "images"


@pytest.fixture
def on_disk(tmp_path: Path) -> Path:
    """A dataset with one split, saved by `datasets`, its second image damaged."""
    import datasets  # here as in every test of such data: the others do without

    def encoded(i: int) -> bytes:
        file = io.BytesIO()
        Image.new("RGB", (8, 8), list(COLOURS.values())[i % 3]).save(file, "png")
        return file.getvalue() if i != 1 else b"damaged"

    features = datasets.Features(
        {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=list(COLOURS))}
    )
    rows = {
        "picture": [{"bytes": encoded(i), "path": f"{i}.png"} for i in range(30)],
        "kind": [i % 3 for i in range(30)],
    }
    dataset = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": dataset}).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"
