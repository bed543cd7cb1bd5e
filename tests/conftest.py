"""What every test shares: jaxtyping's shapes checked by beartype, and PyTorch on one thread."""

import gc
import os
import re
from typing import Any

import jaxtyping

from tests.typechecker import check_annotations

# Before anything imports them: the hook changes how the modules are compiled.
check_annotations("flaxblocks.nn", "flaxblocks.blocks")

# A GPU's memory is shared with the processes that tests start; JAX reads it when it first computes.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import pytest  # noqa: E402
import torch  # noqa: E402

from flaxblocks.parity.oracle import import_torchvision  # noqa: E402
from tests.memory import forget, share_held  # noqa: E402
from tests.scheduling import ByFile, first_what_takes_long  # noqa: E402

torch.set_num_threads(1)
import_torchvision()


MOST_MEMORY = 0.3  # of all there is, in a worker when a module ends
OPT_IN = {"gpu", "thorough"}  # run where `-m` names them


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is run on demand only."""
    wanted = set(re.findall(r"\w+", config.getoption("-m") or ""))
    left_out = [item for item in items if OPT_IN.difference(wanted).intersection(item.keywords)]
    items[:] = [item for item in items if item not in left_out]
    items.sort(key=lambda item: first_what_takes_long(item.nodeid))
    config.hook.pytest_deselected(items=left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any):
    """By file, as pyproject.toml asks for, but for a few files."""
    return ByFile(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_collection_finish():
    """What the libraries made when they were imported stays, and tracing a model makes many objects
    that live for a while: the collector need not walk them again and again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 20, 20)  # a quarter of the time of what traces more than it computes


@pytest.fixture(autouse=True)
def _seeded():
    """PyTorch draws the same numbers whichever tests ran before."""
    torch.manual_seed(0)


@pytest.fixture(scope="module", autouse=True)
def _what_is_compiled_is_forgotten_in_time():
    """Tests of other modules compile much that is the same, and more that only fills the memory."""
    yield
    if share_held() > MOST_MEMORY:
        forget()


@pytest.fixture(autouse=True)
def _annotations_checked(request: pytest.FixtureRequest):
    """Check annotations, but where a test passes wrong types on purpose."""
    untyped = request.node.get_closest_marker("untyped") is not None
    jaxtyping.config.update("jaxtyping_disable", untyped)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
