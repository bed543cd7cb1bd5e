"""What every registered model promises, whatever its family."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

import flaxblocks as fb
from flaxblocks.convert.fit import nearest
from flaxblocks.convert.keymap import key_map, key_maps, layouts_of, variables_of
from flaxblocks.create.build import abstract_model
from flaxblocks.inspect.draw import draw_model
from flaxblocks.inspect.summary import count_parameters, summarize
from flaxblocks.models import FeatureExtractor
from flaxblocks.models.registry import ModelEntry, find_model, model_entries
from flaxblocks.parity.oracle import make_oracle
from tests.support import output_of, read_facts, smallest_of_each_family

# Of torchvision's models, the parameters, and for the size of the default weights' images the
# multiply-adds in 10^9; of timm's the parameters.
PUBLISHED = read_facts("published_models")
EVERY = pytest.mark.parametrize("entry", model_entries(), ids=lambda entry: entry.name)
FAMILIES = pytest.mark.parametrize("entry", smallest_of_each_family(), ids=lambda entry: entry.name)

# Of each family, the smallest row of each library.
PUBLISHERS = {
    f"{entry.build.__name__}-{entry.source}": entry
    for entry in sorted(model_entries(), key=lambda entry: -(entry.parameters or 0))
    if entry.oracle is None
}


@pytest.mark.untyped  # annotations are checked in the tests of each family
@EVERY
def test_published_counts_hold_and_every_layout_is_told_from_the_others(entry):
    model = abstract_model(entry.name)
    check_published(entry, model)
    check_built_as_published(entry, model)
    variables = variables_of(model)
    maps = list(key_maps(model))
    for keys in maps:  # `auto` finds it, or one with the same names in order
        assert {item.native for item in keys.entries} == set(variables)
        assert len(keys.by_foreign) == len(keys.entries) == len(variables)
        arrays = {
            item.foreign: np.broadcast_to(np.float32(0), item.foreign_shape)
            for item in keys.entries
        }
        fitted = nearest(maps, arrays)
        assert fitted.is_whole
        found = fitted.keys
        assert list(found.by_foreign) == list(keys.by_foreign)
        assert [item.native for item in found.entries] == [item.native for item in keys.entries]


def check_published(entry: ModelEntry, model: Any) -> None:
    """Its counts, and that its feature maps are what it says of them."""
    facts = PUBLISHED.get(entry.name, {})
    size = facts.get("size", entry.input_size)
    rows = {row.name: row for row in summarize(model, size)}
    assert count_parameters(model) == entry.parameters
    assert entry.parameters == facts.get("parameters", entry.parameters)
    assert facts or entry.source in ("official", "article")
    assert not any(row.uncounted for row in rows.values())
    multiply_adds = sum(row.multiply_adds for row in rows.values())
    if entry.multiply_adds is not None:
        assert multiply_adds == entry.multiply_adds
    if "gflops" in facts:  # rounded there, and without biases and norms
        assert abs(multiply_adds / 1e9 - facts["gflops"]) <= 1e-3
    info = list(model.feature_info)
    assert len(info) >= 3
    assert [feature.reduction for feature in info] == sorted(f.reduction for f in info)
    for feature in info:
        height, width = (-(-side // feature.reduction) for side in size)
        assert rows[feature.module].shape == (height, width, feature.channels)
    assert info[-1].channels == model.num_features or model.head_conv is not None
    assert rows["head"].shape == (1000,)


@pytest.mark.thorough  # of each family one is drawn by default
@EVERY
def test_every_model_has_a_picture(entry):
    assert draw_model(abstract_model(entry.name), entry.input_size).startswith("<svg")


class Unallocated(TorchFunctionMode):
    """Parameters without memory; `torch.device("meta")` would also hide what torchvision's RegNet
    computes its widths with.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        on_meta = {"device": "meta"} if func in (torch.empty, torch.zeros, torch.ones) else {}
        return func(*args, **{**(kwargs or {}), **on_meta})


def check_built_as_published(entry: ModelEntry, model: Any) -> None:
    """The library's own model has this state dict, key by key and in order."""
    with Unallocated():
        oracle = make_oracle(entry, 1000, 3, {})
    keys = key_map(model, entry.layout)
    ours = [(item.foreign, item.foreign_shape) for item in keys.entries]
    assert ours == [(key, tuple(value.shape)) for key, value in oracle.state_dict().items()]


@FAMILIES
def test_classes_and_channels_are_the_callers(entry):
    assert output_of(abstract_model(entry.name, num_classes=7)) == (2, 7)
    assert output_of(abstract_model(entry.name, in_channels=5), channels=5) == (2, 1000)
    model = abstract_model(entry.name, num_classes=0)
    assert output_of(model) == (2, model.head_features)


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("width_mult", 0.0, r"`width_mult` \(=0.0\) must be positive"),
        ("initialization", "keras", r"`initialization` \(='keras'\) must be one of"),
        ("dropout", 1.5, r"`dropout` \(=1.5\)"),
        ("stochastic_depth", -0.1, r"`stochastic_depth` \(=-0.1\)"),
        ("norm_layer", "batchnorm", r"`norm_layer` \(='batchnorm'\)"),
        ("norm_eps", -2, r"`norm_eps` \(=-2\) must be positive"),
        ("num_classes", -1, r"`num_classes` \(=-1\)"),
        ("in_channels", 0, r"`in_channels` \(=0\)"),
    ],
)
@FAMILIES
def test_a_wrong_argument_is_named(entry, argument, value, message):
    if argument not in entry.arguments:
        message = f"takes no argument `{argument}`"
    with pytest.raises(ValueError, match=message):
        fb.create_model(entry.name, **{argument: value})


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int32])
@pytest.mark.untyped
@FAMILIES
def test_pixels_that_nobody_normalised_are_refused(entry, dtype):
    """PyTorch's layers take no integers; computed with, 0 to 255 gives wrong answers in silence."""
    model = abstract_model(entry.name)
    name = np.dtype(dtype).name
    message = rf"^`x` \(dtype {name}\) must be of a floating type.*flaxblocks\.weights\.preprocess"
    for module in (model, FeatureExtractor(abstract_model(entry.name))):
        with pytest.raises(ValueError, match=message):
            output_of(module, dtype=dtype)
    features = np.zeros((2, 3, 2, model.num_features), dtype)
    with pytest.raises(ValueError, match=message):
        model.forward_head(features)


@pytest.mark.untyped
@FAMILIES
def test_a_list_is_no_image(entry):
    with pytest.raises(ValueError, match=r"^`x` \(of type list\) must be an array, such as"):
        abstract_model(entry.name)(np.zeros((1, 32, 32, 3)).tolist())


@FAMILIES
def test_feature_extractors_give_what_they_claim(entry):
    model = abstract_model(entry.name)
    info = list(model.feature_info)
    shapes = output_of(FeatureExtractor(abstract_model(entry.name)))
    assert shapes == [(2, -(-64 // f.reduction), -(-96 // f.reduction), f.channels) for f in info]
    cut = FeatureExtractor(abstract_model(entry.name), [1])
    assert output_of(cut) == [shapes[1]]
    assert count_parameters(cut) < count_parameters(model)


@pytest.mark.parametrize("entry", PUBLISHERS.values(), ids=PUBLISHERS)
def test_a_row_starts_as_its_library_starts_it(entry):
    original = make_oracle(entry, 1000, 3, {}).state_dict()
    ours = fb.to_torch(fb.create_model(entry.name))
    assert list(ours) == list(original)
    for key, tensor in original.items():
        theirs = tensor.numpy().astype(np.float64)
        if theirs.std() == 0:
            np.testing.assert_array_equal(ours[key], theirs, err_msg=key)
        elif theirs.size >= 1000:  # of a normal deviate's deviation that leaves 2.2%, in each
            assert abs(np.log(ours[key].std() / theirs.std())) < 0.15, key
            # A uniform deviate ends at 1.7 deviations, a normal one of that many beyond 3.
            ends = [abs(a).max() / a.std() > 2 for a in (ours[key], theirs)]
            assert ends[0] == ends[1], key
        else:
            assert np.any(ours[key]), key


@pytest.mark.parametrize(
    "name",
    [
        "mobilenetv2_035",
        "mnasnet_small",
        "tf_efficientnet_lite0",
        "efficientnetv2_rw_t",
    ],
)
def test_stochastic_depth_grows_as_in_timm(name):
    import timm
    from timm.layers.drop import DropPath

    with torch.device("meta"):
        original: Any = timm.create_model(name, drop_path_rate=0.3)
    blocks = [block for stage in original.blocks for block in stage if hasattr(block, "has_skip")]
    theirs = [
        block.drop_path.drop_prob if isinstance(block.drop_path, DropPath) and block.has_skip else 0
        for block in blocks
    ]
    model = abstract_model(name, stochastic_depth=0.3)
    ours = [block.stochastic_depth.rate if block.stochastic_depth else 0 for block in model.blocks]
    assert ours == pytest.approx(theirs)
    assert sum(rate > 0 for rate in ours) > 4


def test_no_two_rows_are_settled_for_each_other_without_a_word():
    """Rows that publish one network with other settings name each other."""
    layouts = cache(lambda name: layouts_of(abstract_model(name)))
    for entry in model_entries():
        for layout, name in entry.in_layout.items():
            other = find_model(name)
            assert other.parameters == entry.parameters
            assert layout not in other.in_layout
            if layout in ("torchvision", "timm"):
                assert other.in_layout[entry.layout] == entry.name
                assert other.layout == layout
            else:  # a library without rows of its own
                assert layout in layouts(name)
                assert other.settings != entry.settings
