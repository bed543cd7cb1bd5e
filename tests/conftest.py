"""What every test shares: PyTorch on one thread, and jaxtyping's shapes checked by beartype."""

import jaxtyping
import pytest
import torch

from flaxblocks.oracle import import_torchvision

torch.set_num_threads(1)
import_torchvision()


def pytest_configure() -> None:
    """Check the annotated shapes of the layers and models in every test."""
    jaxtyping.install_import_hook(["flaxblocks.nn", "flaxblocks.blocks"], "beartype.beartype")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """GPU tests run where they are asked for by `-m gpu`."""
    for item in items:
        if "gpu" in item.keywords and item.config.getoption("-m") != "gpu":
            item.add_marker(pytest.mark.skip(reason="needs a GPU: pytest -m gpu"))
