"""A hint is one with which the checkpoint then loads."""

import re

import numpy as np
import pytest

import flaxblocks as fb


def refusal(name, state, **config) -> str:
    with pytest.raises(fb.ConversionError) as caught:
        fb.create_model(name, weights=state, **config)
    return caught.value.describe(most=2)


def test_the_width_that_would_fit_is_named():
    state = fb.to_torch(fb.create_model("mobilenet_v2", width_mult=0.3, num_classes=3))
    message = refusal("mobilenet_v2", state)
    assert "a model built with width_mult=0.3 would fit" in message
    fb.create_model("mobilenet_v2", weights=state, width_mult=0.3)


def test_a_stem_of_3x3_is_named():
    state = fb.to_torch(fb.create_model("resnet18", stem="3x3", num_classes=3))
    message = refusal("resnet18", state)
    assert "a model built with stem='3x3' would fit" in message
    fb.create_model("resnet18", weights=state, stem="3x3")


def test_nothing_is_hinted_that_does_not_help():
    state = fb.to_torch(fb.create_model("resnet18", num_classes=3))
    state["layer1.0.conv1.weight"] = np.zeros((64, 64, 5, 5), np.float32)
    assert "would" not in refusal("resnet18", state)
    state["extra"] = np.zeros(3)
    assert "drop" not in refusal("resnet18", state)


def test_what_drop_would_leave_out_is_named_and_helps():
    state = fb.to_torch(fb.create_model("resnet18", num_classes=3))
    state["layer5.0.weight"] = state["gate.a.b"] = np.zeros(3, np.float32)
    message = refusal("resnet18", state)
    found = re.search(r"`drop=(\[.*?\])`", message)
    assert found is not None
    fb.create_model("resnet18", weights=state, drop=["layer5", "gate"])


def test_pruned_weights_are_named():
    state = fb.to_torch(fb.create_model("resnet18", num_classes=3))
    kernel = state.pop("conv1.weight")
    state |= {"conv1.weight_orig": kernel, "conv1.weight_mask": np.ones_like(kernel)}
    assert "torch.nn.utils.prune.remove" in refusal("resnet18", state)


def test_the_first_version_of_mnasnet_is_named():
    state = fb.to_torch(fb.create_model("mnasnet0_5", num_classes=3))
    state["layers.0.weight"] = np.zeros((32, 3, 3, 3), np.float32)
    assert "first version of torchvision's MNASNet" in refusal("mnasnet0_5", state)
