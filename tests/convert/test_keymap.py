"""The bijection of names: complete, one-to-one, in PyTorch's order, and honest about its faults."""

import numpy as np
import pytest
from flax import nnx

import flaxblocks as fb
from flaxblocks.convert.keymap import Entry, ModulePair, key_map
from flaxblocks.create.build import abstract_model
from tests.support import read_facts

FACTS = read_facts("mobilenetv2")


def test_torchvision_keys_order_and_shapes_are_the_published_ones():
    keys = key_map(abstract_model("mobilenet_v2"), "torchvision")
    published = FACTS["MobileNetV2 w1.0"]["state"]
    ours = {entry.foreign: list(entry.foreign_shape) for entry in keys.entries}
    assert list(ours.items()) == list(published.items())


class Forgetful(nnx.Module):
    """A block whose layouts are wrong, each in its own way."""

    layouts = {
        "forgets": lambda _: [("a", "0")],
        "repeats": lambda _: [("a", "0"), ("b", "0")],
        "twice": lambda _: [("a", "0"), ("a", "1"), ("b", "2")],
        "right": lambda _: [("a", "0"), ("b", "1"), ("absent", "2"), ("absent.conv", "3")],
        "stray": lambda _: [("a", "0"), ("b", "1"), ("c", "2")],
        "deeper": lambda _: [("a", "0"), ("b.conv", "1")],
        "beyond": lambda _: [("a", "0"), ("b", "1"), ("several.1", "2")],
        "reshapes": lambda _: [("a", "0", "conv1x1"), ("b", "1")],
        "linear": lambda _: [("a", "0"), ("b", "1", "linear")],
    }

    def __init__(self):
        self.a = fb.nn.Linear(2, 3, rngs=nnx.Rngs(0))
        self.b = fb.nn.Conv(3, 4, 1, rngs=nnx.Rngs(0))
        self.absent = None
        self.several = nnx.List([None])


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("forgets", "'forgets' of Forgetful has no name for: b.bias, b.kernel"),
        ("repeats", "has twice: 0.bias, 0.weight"),
        ("twice", "has twice: a.bias, a.kernel"),
        (
            "stray",
            "layout 'stray' of Forgetful has a name for 'c', but this one has no such module",
        ),
        ("deeper", "has a name for 'b.conv', but this one"),
        ("beyond", "has a name for 'several.1', but this one"),
        ("unknown", r"`layout` \(='unknown'\): Forgetful has 'forgets'"),
    ],
)
def test_a_wrong_layout_is_refused_by_name(layout, message):
    with pytest.raises(ValueError, match=message):
        key_map(Forgetful(), layout)


def test_pairs_of_absent_modules_are_passed_over():
    assert [e.foreign for e in key_map(Forgetful(), "right").entries] == [
        "0.weight",
        "0.bias",
        "1.weight",
        "1.bias",
    ]


@pytest.mark.parametrize(
    ("layout", "key", "shape"),
    [("reshapes", "0.weight", (3, 2, 1, 1)), ("linear", "1.weight", (4, 3))],
)
def test_a_declared_reshape_goes_both_ways(layout, key, shape):
    block = Forgetful()
    state = fb.to_torch(block, layout)
    assert state[key].shape == shape
    other = Forgetful()
    fb.load_torch(other, {k: v + 1 for k, v in state.items()}, layout=layout)
    for k, v in fb.to_torch(other, layout).items():
        np.testing.assert_array_equal(v, state[k] + 1)


@pytest.mark.parametrize(("layout", "key"), [("reshapes", "0.bias"), ("linear", "1.bias")])
def test_a_declared_reshape_is_the_kernels_alone(layout, key):
    assert fb.to_torch(Forgetful(), layout)[key].ndim == 1


class Listed(nnx.Module):
    """A block in a list, whose output has a second name."""

    layouts = {"article": lambda _: [("layers.0", "0"), ("layers.0", "2", "output")]}

    def __init__(self):
        self.layers = nnx.List([fb.blocks.ConvNormAct(2, 3, 1, rngs=nnx.Rngs(0))])


def test_a_second_name_of_an_output_has_no_variables():
    keys = key_map(Listed(), "article")
    assert {entry.foreign.partition(".")[0] for entry in keys.entries} == {"0"}
    assert ModulePair("layers.0", "2") in keys.modules


def test_entry_permutes_there_and_back():
    entry = Entry("c.kernel", "c.weight", (3, 2, 4, 5), (3, 2, 0, 1))
    native = np.arange(120.0).reshape(3, 2, 4, 5)
    foreign = entry.to_foreign(native)
    assert foreign.shape == entry.foreign_shape == (5, 4, 3, 2)
    assert foreign[1, 2, 0, 1] == native[0, 1, 2, 1]
    np.testing.assert_array_equal(entry.to_native(foreign), native)


def test_scalars_stay_scalars():
    entry = Entry("n.num_batches_tracked", "n.num_batches_tracked", ())
    assert entry.to_foreign(np.array(3)).shape == entry.to_native(np.array(3)).shape == ()
