"""Kinds of checkpoints that programs make around a network: each is found, or refused with a way on
that works.
"""

import re
from typing import Any

import numpy as np
import pytest

import flaxblocks as fb
from tests.create.conftest import SMALL
from tests.support import equal_arrays as equal

FEATURES = 1280


@pytest.fixture(scope="module")
def network():
    return fb.to_torch(fb.create_model("mobilenet_v2", num_classes=3, **SMALL))


@pytest.fixture(scope="module")
def body(network):
    return {key: value for key, value in network.items() if not key.startswith("classifier")}


def renamed(state: dict[str, np.ndarray], pattern: str, by: str) -> dict[str, np.ndarray]:
    return {re.sub(pattern, by, key): value for key, value in state.items()}


def without(state: dict[str, np.ndarray], ending: str) -> dict[str, np.ndarray]:
    return {key: value for key, value in state.items() if not re.search(ending, key)}


def linear(name: str, outputs: int, inputs: int = FEATURES) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(outputs)
    return {
        f"{name}.weight": generator.standard_normal((outputs, inputs)).astype(np.float32),
        f"{name}.bias": generator.standard_normal(outputs).astype(np.float32),
    }


def load(source: Any, **options: Any) -> tuple[dict[str, np.ndarray], Any]:
    model = fb.create_model("mobilenet_v2", weights=source, **options, **SMALL)
    return fb.to_torch(model, "torchvision"), model.origin.report


def refusal(source: Any, **options: Any) -> str:
    with pytest.raises(fb.ConversionError) as caught:
        fb.create_model("mobilenet_v2", weights=source, **options, **SMALL)
    return caught.value.describe(most=2)


@pytest.mark.parametrize("name", ["encoder.", "_features.", "feature_extractor.0."])
def test_a_body_under_another_name_is_found(network, body, name):
    """A program takes `mobilenet_v2().features` and calls it what it likes."""
    head = {f"top.{key}": network[f"classifier.1.{key}"] for key in ("weight", "bias")}
    state = renamed(body, r"^features\.", name)
    assert equal({**load(state, num_classes=0)[0]}, body)
    loaded, report = load({**state, **renamed(head, "top", "classifier")})
    assert equal(loaded, network)
    assert report.taken.startswith(f"below '{name.partition('.')[0]}.")
    message = refusal({**state, f"{name}3.gate.weight": np.ones(3, np.float32)}, num_classes=0)
    assert "1 unexpected" in message  # what may be of the network is not passed over


@pytest.mark.parametrize("pattern", [r"^(features)\.", r"^(features\.\d+)\.", r"^(\w+\.1)\."])
def test_parts_that_were_wrapped_are_seen_through(network, pattern):
    state = renamed(network, pattern, r"net.\1.module.")
    state = renamed(state, r"^(?!net\.)", "net.")
    assert equal(load(state)[0], network)
    assert equal(load(state, prefix="net")[0], network)


def test_a_head_beside_is_not_taken_where_another_is_within(body):
    """As SimSiam's encoder has an MLP, and its predictor lies beside it."""
    encoder = renamed(
        {**body, **linear("classifier.0", 8), **linear("classifier.2", 4, 8)}, "^", "e."
    )
    state = {**encoder, **linear("predictor.0", 7)}
    assert equal(load(state, num_classes=0)[0], body)
    assert "`num_classes=0` returns its features" in refusal(state)


@pytest.mark.parametrize("part", ["se.fc.0", "attention"])
@pytest.mark.parametrize("options", [{}, {"num_classes": 0}, {"num_classes": 7}])
def test_what_a_block_has_more_is_no_head_and_is_not_proposed_to_be_dropped(network, part, options):
    """The rest of a network with squeeze-and-excitation is not what its weights were trained as."""
    message = refusal({**network, **linear(f"features.3.{part}", 4, 4)}, **options)
    assert "2 unexpected: features.3" in message
    assert "drop=" not in message


def test_a_body_without_a_head_goes_into_a_module_that_keeps_its_own(network, body):
    model = fb.create_model("mobilenet_v2", num_classes=3, **SMALL)
    with pytest.raises(fb.ConversionError, match=r"`strict=False` keeps the module's own head"):
        fb.load_torch(model, body)
    assert fb.load_torch(model, body, strict=False).missing == (
        "classifier.1.weight",
        "classifier.1.bias",
    )
    assert equal({**fb.to_torch(model), **body}, fb.to_torch(model))


def test_a_body_that_ends_with_its_maps_is_named_and_gives_them():
    """torchvision's MobileNetV3 has a layer of its body in the classifier."""
    state = without(fb.to_torch(fb.create_model("mobilenet_v3_small")), "^classifier")
    encoder = renamed(state, r"^features\.", "backbone.")
    with pytest.raises(fb.ConversionError, match=r"`features_only=True` returns its feature maps"):
        fb.create_model("mobilenet_v3_small", num_classes=0, weights=encoder)
    maps = fb.create_model("mobilenet_v3_small", features_only=True, weights=encoder)
    given = fb.to_torch(maps)
    assert all(np.array_equal(state[key], array) for key, array in given.items())


def test_one_of_several_heads_is_chosen_by_dropping_the_others(body):
    state = {**renamed(body, "^", "backbone."), **linear("head_a", 5), **linear("head_b", 7)}
    assert "another head, head_a.weight" in refusal(state)
    loaded, report = load(state, drop=["head_b"])
    assert np.array_equal(loaded["classifier.1.bias"], linear("head_a", 5)["head_a.bias"])
    assert "head_b.weight" in report.left


def test_state_dicts_that_hold_no_such_network_are_named(network):
    file = {"model": network, "margin": {"weight": np.ones((9, 3), np.float32)}}
    model = fb.create_model("mobilenet_v2", num_classes=3, **SMALL)
    for report in (load(file)[1], fb.load_torch(model, file)):
        assert report.left == ("margin (1 arrays)",)


def test_a_network_that_two_layouts_see_is_named_once():
    """A teacher and a student below `backbone.`, which is OpenMMLab's layout too."""
    state = without(fb.to_torch(fb.create_model("resnet18", num_classes=2)), r"^fc\.")
    teacher = renamed(state, "^", "backbone.")
    student = {key: array + 1 for key, array in teacher.items()}
    file = {"student": student, "teacher": teacher}
    with pytest.warns(UserWarning, match="holds several networks"):
        model = fb.create_model("resnet18", num_classes=0, weights=file)
    assert len(model.origin.report.others) == 1
    assert "student" in model.origin.report.others[0]


def test_a_sentence_of_what_was_left_ends(network):
    names = {f"ema_features_{i}_weight": np.ones(3, np.float32) for i in range(99)}
    _, report = load({**renamed(network, "^", "net."), **names})
    assert len(report.left) == len(names)
    assert "79 more" in str(report)


def test_a_head_alone_is_not_called_another_network(network):
    alone = {key: array for key, array in network.items() if key.startswith("classifier")}
    assert "another network" not in refusal(alone)


def test_a_head_that_load_torch_took_is_not_named_as_left(network):
    model = fb.create_model("mobilenet_v2", num_classes=3, **SMALL)
    state = renamed(renamed(network, "^features", "net.features"), r"^classifier\.1", "classifier")
    report = fb.load_torch(model, state)
    assert equal(fb.to_torch(model), network)
    assert report.left == ()


FORMS = {
    "weight_norm": (r"(\.0)\.weight$", r"\1.weight_g", "remove_weight_norm"),
    "spectral_norm": (r"(\.0)\.weight$", r"\1.weight_u", "remove_spectral_norm"),
    "parametrised": (r"\.weight$", ".parametrizations.weight.original", "remove_parametrizations"),
    "adapters": (r"(\.0)\.weight$", r"\1.lora_A.default.weight", "merge_and_unload"),
    "flattened": (r"features\.3\..*", "features.3._flat_param", "FULL_STATE_DICT"),
    "Paddle": (r"running_var", "_variance", "PaddlePaddle"),
}


@pytest.mark.parametrize("kind", FORMS)
def test_what_became_of_the_weights_is_said(network, kind):
    pattern, by, sentence = FORMS[kind]
    state = renamed(network, pattern, by)
    assert sentence in refusal(state)
    model = fb.create_model("mobilenet_v2", num_classes=3, **SMALL)
    with pytest.raises(fb.ConversionError, match=sentence):
        fb.load_torch(model, state)


def test_what_lacks_all_statistics_is_told_from_what_is_folded(network):
    statistics = r"running_|num_batches"
    assert "`state_dict()` has them" in refusal(without(network, statistics))
    folded = without(network, rf"{statistics}|\.1\.(weight|bias)$|conv\.\d\.(weight|bias)$")
    folded["features.0.0.bias"] = np.ones(8, np.float32)
    assert "norms were folded" in refusal(folded)


OBSERVED = {
    "features.0.0.weight_fake_quant.scale": np.ones(8, np.float32),
    **{f"features.{i}.activation_post_process.eps": np.ones(1, np.float32) for i in range(9)},
}
COPIED = {f"ema_features_{i}_weight": np.ones(3, np.float32) for i in range(9)}


@pytest.mark.parametrize("extra", [OBSERVED, COPIED], ids=["observers", "OpenMMLab's copies"])
def test_patterns_that_leave_bookkeeping_out_are_named_and_help(network, extra):
    state = {**network, **extra}
    found = re.search(r"`drop=(\[.*?\])`", refusal(state))
    assert found is not None
    loaded, report = load(state, drop=re.findall(r"'(.*?)'", found[1]))
    assert equal(loaded, network)
    assert set(extra) <= set(report.left)
    assert "drop=" not in refusal({**state, "features.3.gate.weight": np.ones(3, np.float32)})


def test_modules_beside_a_network_are_named_as_long_as_they_can_be_read(network):
    heads = {
        f"{name}.0.weight": np.ones(3, np.float32) for name in ("hm", "wh", "reg", "up", "off")
    }
    found = re.search(r"`drop=(\[.*?\])`", refusal({**network, **heads}))
    assert found is not None
    assert equal(load({**network, **heads}, drop=re.findall(r"'(.*?)'", found[1]))[0], network)
    deeper = {**network, "features.19.0.weight": np.ones(3, np.float32)}
    assert "drop=" not in refusal(deeper)  # of a network that goes on


def test_a_hint_says_all_that_is_needed(body):
    state = {**body, "features.0.0.weight": body["features.0.0.weight"][:, :1]}
    message = refusal(state)
    assert "in_channels=1 would fit" in message
    assert "`num_classes=0` returns its features" in message
    fb.create_model("mobilenet_v2", weights=state, in_channels=1, num_classes=0, **SMALL)


def test_the_body_of_another_row_is_named_without_its_head():
    state = without(fb.to_torch(fb.create_model("mobilenetv2_050")), "^classifier")
    with pytest.raises(fb.ConversionError, match="is one of mobilenetv2_050 and"):
        fb.create_model("mobilenet_v3_small", weights=state)


def test_another_network_is_called_so_and_the_layouts_are_named():
    state = {f"stages.{i}.weight": np.ones(3, np.float32) for i in range(9)}
    message = refusal(state)
    assert "another network, or in none of the layouts 'torchvision', 'timm'" in message


def test_feature_maps_need_no_more_than_they_read():
    """timm's own `features_only` networks end with the last map."""
    whole = fb.to_torch(fb.create_model("efficientnet_b0", features_only=True), "timm")
    assert not any(key.startswith("conv_head") for key in whole)
    maps = fb.create_model("tf_efficientnet_b0", features_only=True, weights=whole)
    assert equal(fb.to_torch(maps, "timm"), whole)
    lacking = without(whole, r"blocks\.3\.1\.conv_pw\.weight")
    with pytest.raises(
        fb.ConversionError, match=r"1 missing: blocks\.3\.1\.conv_pw\.weight|missing"
    ):
        fb.create_model("tf_efficientnet_b0", features_only=True, weights=lacking)


@pytest.mark.parametrize("beside", ["projector.0.weight", "decode_head.conv.weight"])
def test_what_lies_beside_a_backbone_is_left_whichever_layouts_share_its_names(beside):
    """OpenMMLab's names are torchvision's below `backbone.`."""
    state = without(fb.to_torch(fb.create_model("resnet18", num_classes=2)), r"^fc\.")
    file = {**renamed(state, "^", "backbone."), beside: np.ones((4, 4), np.float32)}
    model = fb.create_model("resnet18", num_classes=0, weights=file)
    assert equal(fb.to_torch(model, "torchvision"), state)
    assert model.origin.report.left == (beside,)
    assert model.origin.report.others == ()
