"""A small model and a state dict for it, unlike its own in every value."""

from typing import Any

import numpy as np
import pytest

import flaxblocks as fb

CONFIG: dict[str, Any] = {"width_mult": 0.25, "num_classes": 5}


@pytest.fixture
def model():
    return fb.create_model("mobilenet_v2", **CONFIG)


@pytest.fixture
def state(model):
    """A state dict unlike the model's own in every value."""
    generator = np.random.default_rng(0)
    return {
        key: np.asarray(generator.integers(1, 99, value.shape), value.dtype)
        for key, value in fb.to_torch(model).items()
    }
