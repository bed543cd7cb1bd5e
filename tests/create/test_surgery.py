"""Models that a user has changed go to PyTorch as far as it has names for them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

import flaxblocks as fb
from tests.support import equal_arrays


def linear(inputs: int, outputs: int) -> fb.nn.Linear:
    return fb.nn.Linear(inputs, outputs, rngs=nnx.Rngs(0))


def test_a_sequential_head_has_the_names_of_pytorchs():
    model = fb.create_model("resnet18", num_classes=5)
    model.head = nnx.Sequential(linear(512, 8), jax.nn.relu, linear(8, 3))
    state = fb.to_torch(model)
    twin = nn.Sequential(nn.Linear(512, 8), nn.ReLU(), nn.Linear(8, 3)).state_dict()
    assert [key for key in state if key.startswith("fc.")] == [f"fc.{key}" for key in twin]
    changed = {key: value + 1 for key, value in state.items()}
    fb.load_torch(model, changed)
    assert equal_arrays(fb.to_torch(model), changed)


def test_what_has_no_name_is_listed_and_can_be_left_out():
    model = fb.create_model("resnet18", num_classes=5)
    whole = fb.to_torch(model)
    model.scale = nnx.Param(np.ones(3, np.float32))
    with pytest.raises(
        ValueError, match=r"has no name for: scale \(`to_torch\(strict=False\)` leaves"
    ):
        fb.to_torch(model)
    with pytest.warns(UserWarning, match="has no name for scale: left out"):
        assert equal_arrays(fb.to_torch(model, strict=False), whole)
    assert "scale" in fb.to_torch(model, "flax")


def test_an_ensemble_is_named():
    @nnx.vmap
    def members(keys):
        return fb.create_model("mobilenet_v2", width_mult=0.25, num_classes=2, rngs=keys)

    ensemble = members(jax.random.split(jax.random.key(0), 2))
    with pytest.raises(ValueError, match=r"which is not of one model: convert the members"):
        fb.to_torch(ensemble)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tensors_go_into_load_state_dict_as_they_are(dtype):
    from flaxblocks.parity.oracle import import_torchvision

    model = fb.create_model("mnasnet0_5", num_classes=3, param_dtype=dtype)
    state = fb.to_torch(model, as_tensors=True)
    twin = import_torchvision().models.mnasnet0_5(num_classes=3)
    twin.to(getattr(torch, dtype)).load_state_dict(state)
    arrays = fb.to_torch(model)
    assert list(state) == list(arrays)
    for key, tensor in twin.state_dict().items():
        assert np.array_equal(tensor.double().numpy(), arrays[key].astype(np.float64)), key


def test_the_number_of_classes_is_the_heads():
    model = fb.create_model("resnet18", num_classes=5, dtype="bfloat16")
    assert model.num_classes == 5
    model.head = nnx.Sequential(linear(512, 8), jax.nn.relu, linear(8, 3))
    assert model.num_classes == 3
    model.head = None
    assert model.num_classes == 0


def shape(model) -> tuple[int, ...]:
    """Of its output, which is not computed."""
    return jax.eval_shape(lambda x: model(x), jnp.zeros((1, 64, 64, 3))).shape


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "mobilenet_v3_small", "rexnet_100"])
def test_a_head_is_reset(name):
    model = fb.create_model(name, num_classes=5, dtype="bfloat16")
    body = {key: value for key, value in fb.to_torch(model, "flax").items() if "head." not in key}
    model.reset_classifier(7, rngs=1)
    assert model.num_classes == 7
    assert model.head.dtype == "bfloat16"
    model.eval()
    assert shape(model) == (1, 7)
    state = fb.to_torch(model, "flax")
    assert all(np.array_equal(state[key], value) for key, value in body.items())
    assert np.ptp(state["head.kernel"]) > 0
    model.reset_classifier(0)
    assert shape(model) == (1, model.head_features)
    with pytest.raises(ValueError, match=r"`num_classes` \(=-1\)"):
        model.reset_classifier(-1)


@pytest.mark.parametrize("name", ["fc", "classifier", "last_linear"])
def test_a_head_under_pytorchs_name_is_not_ignored_in_silence(name):
    model = fb.create_model("resnet18", num_classes=5)
    with pytest.raises(ValueError, match=rf"`{name}` is called `head` here"):
        setattr(model, name, linear(512, 3))
