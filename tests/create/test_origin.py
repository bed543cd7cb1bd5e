"""What a module remembers of its origin costs no compilation, and is never another module's."""

from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

import flaxblocks as fb
from flaxblocks.create.origin import origin_of
from flaxblocks.create.save import own_layout

SMALL: dict[str, Any] = {"width_mult": 0.25, "num_classes": 3}
X = jax.random.normal(jax.random.key(0), (1, 32, 32, 3))


def counting():
    """A compiled call, and how often it was traced."""
    traced = []

    @nnx.jit
    def run(model, x):
        traced.append(1)
        return model(x)

    return run, traced


def in_layout(layout: str) -> Any:
    model = fb.create_model("mobilenet_v2", **SMALL)
    fb.load_torch(model, fb.to_torch(model, layout))
    model.eval()
    return model


def test_loading_makes_nothing_trace_again():
    model = fb.create_model("mobilenet_v2", **SMALL)
    model.eval()
    state = fb.to_torch(model, "timm")
    run, traced = counting()
    before = nnx.graphdef(model)
    first = run(model, X)
    fb.load_torch(model, {key: value * 2 for key, value in state.items()})
    assert nnx.graphdef(model) == before
    assert not np.array_equal(run(model, X), first)
    assert len(traced) == 1
    assert own_layout(model) == "timm"


def test_equal_networks_of_two_rows_share_a_compilation():
    run, traced = counting()
    for name in ("mobilenetv2_050", "mobilenetv2_075"):  # of one width they are one network
        model = fb.create_model(name, **SMALL)
        model.eval()
        run(model, X)
        assert origin_of(model).row == name
    assert len(traced) == 1


@pytest.mark.parametrize("order", [("torchvision", "timm"), ("timm", "torchvision")])
def test_a_shared_compilation_changes_no_models_memory(order):
    models = [in_layout(layout) for layout in order]
    run, traced = counting()
    for model in [*models, *models]:
        run(model, X)
    assert len(traced) == 1
    for model, layout in zip(models, order, strict=True):
        assert own_layout(model) == layout
        assert list(fb.to_torch(model)) == list(fb.to_torch(model, layout))


@pytest.mark.parametrize(
    "copied",
    [nnx.clone, nnx.view, lambda m: nnx.merge(*nnx.split(m))],
    ids=["clone", "view", "merge"],
)
def test_a_copy_remembers_too(copied):
    copy = copied(in_layout("timm"))
    assert own_layout(copy) == "timm"
    assert origin_of(copy).row == "mobilenet_v2"
    fb.load_torch(copy, fb.to_torch(copy, "torchvision"))
    assert own_layout(copy) == "torchvision"


def test_a_lone_block_remembers():
    block = fb.blocks.MBConv(8, 8, rngs=nnx.Rngs(0))
    fb.load_torch(block, fb.to_torch(block, "flax"))
    assert own_layout(block) == own_layout(nnx.clone(block)) == "flax"
