"""A network is found wherever in a checkpoint it lies, and what was taken and left is said."""

from typing import Any

import numpy as np
import pytest

import flaxblocks as fb
from tests.create.conftest import SMALL
from tests.support import equal_arrays as equal


@pytest.fixture(scope="module")
def network():
    return fb.to_torch(fb.create_model("mobilenet_v2", num_classes=3, **SMALL))


@pytest.fixture(scope="module")
def other(network):
    """The same names with other numbers."""
    return {key: value + 1 for key, value in network.items()}


def below(prefix: str, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{prefix}{key}": value for key, value in state.items()}


def load(source: Any, **options: Any) -> tuple[dict[str, np.ndarray], Any]:
    model = fb.create_model("mobilenet_v2", weights=source, **options, **SMALL)
    return fb.to_torch(model), model.origin.report


@pytest.mark.parametrize(
    "prefix", ["model.", "model.model.", "net.", "timm_model.", "backbone.", "a.b.c."]
)
def test_any_prefix_is_found(network, prefix):
    loaded, report = load(below(prefix, network))
    assert equal(loaded, network)
    assert report.taken == f"below {prefix!r}"


BESIDE = {
    "criterion.weight": np.ones(3, np.float32),
    "val_confmat.confmat": np.zeros((3, 3), np.int64),
    "decoder.0.weight": np.ones((4, 4, 3, 3), np.float32),
    "queue": np.ones((4, 8), np.float32),
}


def test_what_lies_beside_a_prefixed_network_is_left_and_named(network):
    loaded, report = load({**below("net.", network), **BESIDE})
    assert equal(loaded, network)
    assert set(BESIDE) <= set(report.left)
    assert "criterion.weight" in str(report)


def test_a_loss_beside_a_network_without_a_prefix_is_left(network):
    names = ("criterion.weight", "train_acc.total", "loss_fn.pos_weight", "metrics.f1.tp")
    loaded, report = load({**network, **{name: np.ones(3, np.float32) for name in names}})
    assert equal(loaded, network)
    assert set(names) <= set(report.left)


def test_what_may_be_of_the_network_is_not_passed_over(network):
    with pytest.raises(fb.ConversionError, match=r"1 unexpected: attention.weight; `drop="):
        load({**network, "attention.weight": np.ones(3, np.float32)})
    with pytest.raises(fb.ConversionError, match=r"1 unexpected: extra"):
        load({**network, "extra": np.ones(3, np.float32)})


@pytest.mark.parametrize("drop", ["attention", "attention.", "attention.weight", "*.weight_2", []])
def test_names_can_be_dropped(network, drop):
    state = {**network, "attention.weight": np.ones(3, np.float32)}
    if drop in ("*.weight_2", []):
        with pytest.raises(fb.ConversionError, match=r"matches no name in|1 unexpected"):
            load(state, drop=drop)
        return
    loaded, report = load(state, drop=drop)
    assert equal(loaded, network)
    assert "attention.weight" in report.left


def test_averaged_weights_are_taken_and_the_choice_is_said(network, other):
    file = {"state_dict": network, "state_dict_ema": other, "epoch": 3}
    with pytest.warns(
        UserWarning, match=r"`state_dict_ema` was taken, not `state_dict`; select one with `ema`"
    ):
        loaded, report = load(file)
    assert equal(loaded, other)
    assert (report.taken, report.others) == ("`state_dict_ema`", ("`state_dict`",))
    for options, wanted in (
        ({"ema": True}, other),
        ({"ema": False}, network),
        ({"key": "state_dict"}, network),
        ({"key": "state_dict_ema"}, other),
    ):
        assert equal(load(file, **options)[0], wanted)  # chosen: nothing to warn of
    with pytest.raises(fb.CheckpointError, match=r"no averaged weights"):
        load({"state_dict": network}, ema=True)
    with pytest.raises(fb.CheckpointError, match=r"no state dict under 'wrong'.*'state_dict_ema'"):
        load(file, key="wrong")


def test_a_teacher_comes_before_its_student_and_a_momentum_encoder_last(network, other):
    rows = (
        ({"student": below("backbone.", other), "teacher": below("backbone.", network)}, {}),
        ({**below("student.", other), **below("teacher.", network)}, {}),
        ({**below("net.", other), **below("ema_net.", network)}, {}),
        ({**below("encoder_k.", other), **below("encoder_q.", network)}, {}),
        ({**below("encoder_q.", other), **below("encoder_k.", network)}, {"prefix": "encoder_k"}),
    )
    for file, options in rows:
        if options:
            assert equal(load(file, **options)[0], network)
        else:
            with pytest.warns(UserWarning, match="holds several networks"):
                assert equal(load(file)[0], network)


def test_load_torch_says_which_of_several_networks_it_took(network, other):
    file = {"state_dict": other, "state_dict_ema": network}
    model = fb.create_model("mobilenet_v2", weights=network, **SMALL)
    sentence = (
        "holds several networks: `state_dict_ema` was taken, not `state_dict`; "
        "select one with `ema`, `key`"
    )
    with pytest.warns(UserWarning, match=sentence) as caught:
        fb.load_torch(model, file)
    assert caught[0].filename == __file__
    assert equal(fb.to_torch(model), network)
    fb.load_torch(model, file, ema=False)  # chosen: nothing to warn of
    assert equal(fb.to_torch(model), other)
    with pytest.warns(UserWarning, match=sentence) as caught:
        fb.create_model("mobilenet_v2", weights=file, **SMALL)
    assert caught[0].filename == __file__


def test_networks_that_nothing_tells_apart_are_not_guessed_at(network, other):
    file = {**below("left.", network), **below("right.", other)}
    with pytest.raises(fb.ConversionError, match=r"'left.' and below 'right.'.*`prefix`"):
        load(file)
    assert equal(load(file, prefix="right.")[0], other)
    same = {**below("left.", network), **below("right.", network)}
    assert equal(load(same)[0], network)
    with pytest.raises(fb.CheckpointError, match=r"no name begins with 'middle.'"):
        load(file, prefix="middle")


def test_a_larger_network_of_the_same_names_is_not_taken_for_a_smaller_one():
    larger = fb.to_torch(fb.create_model("resnet34", num_classes=3))
    with pytest.raises(fb.ConversionError, match="is one of resnet34"):
        fb.create_model("resnet18", weights=below("model.", larger))


def test_wrappers_within_the_names_are_seen_through(network):
    wrapped = {
        "_orig_mod.module." + key.replace("conv.", "_fsdp_wrapped_module.conv."): value
        for key, value in network.items()
    }
    assert equal(load(wrapped)[0], network)


def test_load_torch_chooses_as_create_model_does(network, other):
    model = fb.create_model("mobilenet_v2", num_classes=3, **SMALL)
    report = fb.load_torch(model, {"model": network, "model_ema": other}, ema=False)
    assert equal(fb.to_torch(model), network)
    assert report.taken == "`model`"
    report = fb.load_torch(model, {**below("net.", other), **BESIDE}, drop="queue")
    assert equal(fb.to_torch(model), other)
    assert "queue" in report.left
