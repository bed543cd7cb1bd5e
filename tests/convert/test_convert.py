"""Loading and saving: every fault is named, nothing is half done, round trips keep every bit."""

import jax
import ml_dtypes
import numpy as np
import pytest
import torch
from flax import nnx

import flaxblocks as fb
from flaxblocks.create.build import abstract_model
from tests.convert.conftest import CONFIG
from tests.support import equal_arrays as equal
from tests.support import translate


@pytest.mark.parametrize("layout", ["torchvision", "timm", "flax"])
def test_every_layout_is_recognised_and_goes_back(model, state, layout):
    fb.load_torch(model, state)
    foreign = fb.to_torch(model, layout)
    other = fb.create_model("mobilenet_v2", **CONFIG, rngs=1)
    report = fb.load_torch(other, foreign)
    assert report.layout == layout
    assert report.loaded == len(state)
    assert equal(fb.to_torch(other), foreign)  # the layout it was loaded from
    assert equal(fb.to_torch(other, "torchvision"), state)


def test_arrays_of_to_torch_are_the_callers_own(model):
    state = fb.to_torch(model)
    kernel = np.array(model.stem.conv.kernel[...])
    for value in state.values():
        assert value.flags.writeable
        assert value.flags.c_contiguous
        value[...] = 0
    np.testing.assert_array_equal(model.stem.conv.kernel[...], kernel)


def test_a_loaded_model_does_not_share_memory_with_its_source(model, state):
    fb.load_torch(model, state)
    before = fb.to_torch(model)
    for value in state.values():
        value[...] = 0
    assert equal(fb.to_torch(model), before)


def spoil(state, **changes):
    spoiled = dict(state)
    for key, value in changes.items():
        if value is None:
            del spoiled[key.replace("__", ".")]
        else:
            spoiled[key.replace("__", ".")] = value
    return spoiled


FAULTS = {
    "missing": (
        {"features__0__0__weight": None, "classifier__1__bias": None},
        "2 missing: features.0.0.weight, ",
    ),
    "unexpected": ({"features__99": np.zeros(3)}, "1 unexpected: features.99"),
    "misshaped": (
        {"features__0__0__weight": np.zeros((8, 3, 5, 5), np.float32)},
        r"1 misshaped: features.0.0.weight has shape \(8, 3, 5, 5\), expected \(8, 3, 3, 3\)",
    ),
    "all at once": (
        {
            "features__0__0__weight": np.zeros((8, 3), np.float32),
            "features__0__1__bias": None,
            "epoch": np.zeros(()),
        },
        "1 missing: features.0.1.bias; 1 unexpected: epoch; 1 misshaped: features.0.0.weight",
    ),
    "integers for floats": (
        {"features__0__0__weight": np.zeros((8, 3, 3, 3), np.int64)},
        "features.0.0.weight holds int64, but the model float32",
    ),
    "complex": (
        {"features__0__0__weight": np.zeros((8, 3, 3, 3), np.complex64)},
        "features.0.0.weight holds complex64",
    ),
    "a complex count": (
        {"features__0__1__num_batches_tracked": np.array(3j)},
        "features.0.1.num_batches_tracked holds complex128, but the model int32",
    ),
    "a count that is a word": ({"features__0__1__num_batches_tracked": "3"}, "num_batches_tracked"),
    "no array": ({"features__0__1__bias": "oh"}, "features.0.1.bias"),
    "an object": (
        {"features__0__1__bias": object()},
        "features.0.1.bias of the source is a object",
    ),
}


ALLOWED = ("missing", "unexpected")  # with strict=False


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_and_nothing_is_changed(model, state, fault, strict):
    changes, message = FAULTS[fault]
    before = fb.to_torch(model)
    if not strict and fault in ALLOWED:
        fb.load_torch(model, spoil(state, **changes), strict=False)
        assert not equal(fb.to_torch(model), before)
        return
    if not strict and fault == "all at once":
        message = "fit MobileNetV2 in layout 'torchvision', the nearest: 1 misshaped"
    with pytest.raises(fb.ConversionError, match=message):
        fb.load_torch(model, spoil(state, **changes), strict=strict)
    assert equal(fb.to_torch(model), before)


def test_the_whole_list_of_faults_is_given(model, state):
    with pytest.raises(fb.ConversionError) as caught:
        fb.load_torch(
            model, {key: value for key, value in state.items() if "running_mean" not in key}
        )
    assert len(caught.value.missing) == 52
    assert all(key in str(caught.value) for key in caught.value.missing)
    assert "and 49 more" in caught.value.describe(most=3)


def test_not_strict_leaves_what_is_missing_and_reports_it(model, state):
    before = fb.to_torch(model)
    changed = spoil(state, classifier__1__bias=None, extra=np.zeros(2))
    report = fb.load_torch(model, changed, strict=False)
    assert report.missing == ("classifier.1.bias",)
    assert report.unexpected == ("extra",)
    after = fb.to_torch(model)
    np.testing.assert_array_equal(after["classifier.1.bias"], before["classifier.1.bias"])
    np.testing.assert_array_equal(after["classifier.1.weight"], state["classifier.1.weight"])


def test_another_number_of_classes_is_hinted_at(state):
    model = fb.create_model("mobilenet_v2", width_mult=0.25)
    with pytest.raises(fb.ConversionError, match="a model built with num_classes=5 would fit"):
        fb.load_torch(model, state)


def test_the_hint_is_given_only_where_the_classes_are_all_that_differs(state):
    model = fb.create_model("mobilenet_v2", width_mult=0.5)
    with pytest.raises(fb.ConversionError, match="misshaped") as caught:
        fb.load_torch(model, state)  # other widths as well as other classes
    assert "num_classes=" not in str(caught.value)


def test_a_checkpoint_of_something_else_shows_both_namings(model):
    with pytest.raises(fb.ConversionError, match=r"layer1.weight.*features.0.0.weight"):
        fb.load_torch(model, {"layer1.weight": np.zeros(3)})
    with pytest.raises(fb.ConversionError):
        fb.load_torch(model, {})


def test_batch_counts_may_be_absent_as_in_files_before_pytorch_0_4_1(model, state):
    old = {key: value for key, value in state.items() if "num_batches_tracked" not in key}
    report = fb.load_torch(model, old)
    assert len(report.uncounted) == 52
    assert report.loaded == len(old)
    assert "52 batch counts set to 0" in str(report)
    assert int(model.stem.norm.num_batches_tracked[...]) == 0


def test_a_batch_count_may_be_as_large_as_an_int32(model, state):
    most = np.array(2**31 - 1)
    fb.load_torch(model, {**state, "features.0.1.num_batches_tracked": most})
    assert fb.to_torch(model)["features.0.1.num_batches_tracked"] == most


def test_an_absent_batch_count_starts_again_at_0(model, state):
    fb.load_torch(model, state)
    assert int(model.stem.norm.num_batches_tracked[...]) > 0
    fb.load_torch(model, {k: v for k, v in state.items() if "num_batches_tracked" not in k})
    assert int(model.stem.norm.num_batches_tracked[...]) == 0


def test_an_absent_batch_count_is_written_as_pytorchs_0(model, state):
    old = {key: value for key, value in state.items() if "num_batches_tracked" not in key}
    written, source = translate(model, old, "timm")
    assert source == "torchvision"
    counts = [value for key, value in written.items() if key.endswith("num_batches_tracked")]
    assert len(counts) == 52
    assert all((c.dtype, c.shape, int(c)) == (np.int64, (), 0) for c in counts)


def test_parameters_that_require_a_gradient_are_taken():
    oracle = torch.nn.Linear(3, 2)
    layer = fb.nn.Linear(3, 2, rngs=nnx.Rngs(0))
    wrapped = nnx.Dict(layer=layer)
    fb.load_torch(wrapped, {"layer.kernel": oracle.weight.T, "layer.bias": oracle.bias})
    assert layer.bias is not None
    np.testing.assert_array_equal(layer.bias[...], oracle.bias.detach().numpy())


@pytest.mark.parametrize("committed", [False, True])
def test_variables_stay_on_their_device(model, state, committed):
    if committed:  # JAX moves such an array to no other device by itself
        nnx.update(model, jax.device_put(nnx.state(model), jax.devices()[0]))
    assert model.head.kernel.get_value().committed == committed
    fb.load_torch(model, state)
    assert model.head.kernel.get_value().committed == committed


def test_torch_tensors_and_bfloat16_are_taken():
    block = fb.blocks.ConvNormAct(3, 4, 1, rngs=nnx.Rngs(0))
    state = {key: torch.from_numpy(value) for key, value in fb.to_torch(block).items()}
    state["0.weight"] = state["0.weight"].to(torch.bfloat16).requires_grad_()
    report = fb.load_torch(block, state)
    assert report.cast == (("0.weight", "bfloat16", "float32"),)
    wanted = state["0.weight"].detach().float().numpy()
    np.testing.assert_array_equal(fb.to_torch(block)["0.weight"], wanted)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrow_parameters_keep_their_dtype_both_ways(dtype):
    block = fb.blocks.MBConv(4, 4, param_dtype=dtype, rngs=nnx.Rngs(0))
    state = fb.to_torch(block)
    floats = {key for key in state if "num_batches" not in key}
    assert {state[key].dtype for key in floats} == {np.dtype(dtype)}
    report = fb.load_torch(block, state)
    assert not report.cast
    assert equal(fb.to_torch(block), state)


def test_an_abstract_model_is_filled(state):
    model = abstract_model("mobilenet_v2", **CONFIG)
    fb.load_torch(model, state)
    assert equal(fb.to_torch(model), state)


def test_other_settings_of_a_layouts_library_are_told():
    """An epsilon is no part of a state dict."""
    timms = fb.create_model("mobilenetv3_small_050", num_classes=2)
    assert fb.to_torch(timms, "torchvision")  # torchvision has no such network
    timms = fb.create_model("mobilenetv3_small_100", num_classes=2)
    with pytest.warns(UserWarning, match=r"torchvision's mobilenet_v3_small has norm_eps=0.001"):
        fb.to_torch(timms, "torchvision")
    same = fb.create_model("mobilenetv3_small_100", num_classes=2, norm_eps=1e-3)
    assert fb.to_torch(same, "torchvision")  # the caller has given it torchvision's
    state = fb.to_torch(timms)
    fresh = fb.create_model("mobilenet_v3_small", num_classes=2)
    with pytest.warns(UserWarning, match=r"timm's mobilenetv3_small_100 has norm_eps=1e-05 where"):
        fb.load_torch(fresh, state)
    loaded = fb.create_model("mobilenet_v3_small", weights=state)
    assert loaded.stem.norm.eps == timms.stem.norm.eps == 1e-5
    assert fb.to_torch(loaded).keys() == state.keys()


def test_an_empty_checkpoint_is_called_one(model):
    with pytest.raises(fb.ConversionError, match="the checkpoint holds no arrays"):
        fb.load_torch(model, {})


def test_sources_that_are_none_are_refused(model):
    with pytest.raises(fb.ConversionError, match="must be a path or a mapping"):
        fb.load_torch(model, 3)  # type: ignore[arg-type]
    with pytest.raises(fb.ConversionError, match="such as its state_dict"):
        fb.load_torch(model, torch.nn.Linear(1, 1))  # type: ignore[arg-type]
    with pytest.raises(fb.ConversionError, match="key 3 of the source must be a string"):
        fb.load_torch(model, {3: np.zeros(1)})  # type: ignore[dict-item]
    with pytest.raises(fb.CheckpointError, match=r"nowhere\.pth"):
        fb.load_torch(model, "nowhere.pth")
    with pytest.raises(ValueError, match=r"'flux'.*'torchvision', 'timm', .*'flax'"):
        fb.load_torch(model, {"a": np.zeros(1)}, layout="flux")


def test_files_are_read_and_written(model, state, tmp_path):
    for name in ("a.pth", "b.safetensors"):
        fb.write_checkpoint(state, tmp_path / name)
        fb.load_torch(model, tmp_path / name)
        assert equal(fb.to_torch(model), state)
