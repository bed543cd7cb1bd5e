"""A head of another name, form or width: what is missing is said, and both ways on work."""

from typing import Any

import numpy as np
import pytest

import flaxblocks as fb

FEATURES = 512


def create(**options: Any) -> Any:
    return fb.create_model("resnet18", depths=(1, 1, 1, 1), **options)


@pytest.fixture(scope="module")
def body():
    state = fb.to_torch(create(num_classes=3))
    return {key: value for key, value in state.items() if not key.startswith("fc.")}


def linear(name: str, outputs: int, inputs: int = FEATURES) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(outputs)
    return {
        f"{name}.weight": generator.standard_normal((outputs, inputs)).astype(np.float32),
        f"{name}.bias": generator.standard_normal(outputs).astype(np.float32),
    }


def has_body(model, body) -> bool:
    state = fb.to_torch(model)
    return all(np.array_equal(state[key], value) for key, value in body.items())


@pytest.mark.parametrize("name", ["fc.1", "last_linear", "classifier", "head.fc", "linear", "head"])
def test_one_linear_of_another_name_is_the_head_and_that_is_said(body, name):
    head = linear(name, 5)
    model = create(weights={**body, **head})
    assert model.num_classes == 5
    assert np.array_equal(fb.to_torch(model)["fc.weight"], head[f"{name}.weight"])
    said = f"the head is called {name} there"
    assert said in model.origin.report.head or name == "linear"  # of a layout of its own
    assert has_body(model, body)


OTHERS = {
    "two layers": {**linear("fc.0", 64), **linear("fc.3", 5, 64)},
    "no bias": {"fc.1.weight": np.zeros((5, FEATURES), np.float32)},
    "two layers beside": {**linear("head.mlp.0", 64), **linear("head.mlp.2", 5, 64)},
    "one of another width": linear("fc.1", 5, 7),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_another_head_is_named_and_both_ways_on_work(body, kind):
    head = OTHERS[kind]
    with pytest.raises(fb.ConversionError) as caught:
        create(weights={**body, **head})
    message = str(caught.value)
    assert "without fc.weight and fc.bias" in message
    assert next(iter(head)) in message
    assert "`num_classes=0` returns its features, another number draws a new head" in message
    for classes in (0, 7):
        model = create(weights={**body, **head}, num_classes=classes)
        assert model.num_classes == classes
        assert has_body(model, body)
        assert set(head) <= set(model.origin.report.left)


def test_a_projection_is_not_taken_for_a_head(body):
    state = {**body, **linear("projection", 128)}
    with pytest.raises(fb.ConversionError, match=r"2 unexpected: projection.*`drop=\['projection"):
        create(weights=state, num_classes=0)
    model = create(weights=state, num_classes=0, drop=["projection"])
    assert has_body(model, body)


def test_a_head_beside_the_backbone_is_found(body):
    prefixed = {f"backbone.{key}": value for key, value in body.items()}
    model = create(weights={**prefixed, **linear("head.fc", 4)})
    assert model.num_classes == 4
    state = {**prefixed, **linear("head.fc", 4)}
    assert np.array_equal(fb.to_torch(model, "torchvision")["fc.bias"], state["head.fc.bias"])


def test_the_last_layer_of_a_sequential_head_in_place_of_one_layer(body):
    """torchvision's MobileNetV2 has its head within a `Sequential`, whose other layers are none."""
    whole = fb.to_torch(fb.create_model("mobilenet_v2", num_classes=3, width_mult=0.25))
    trunk = {key: value for key, value in whole.items() if not key.startswith("classifier")}
    width = whole["classifier.1.weight"].shape[1]
    for name in ("classifier.1.1", "classifier", "classifier.0"):
        model = fb.create_model(
            "mobilenet_v2", weights={**trunk, **linear(name, 6, width)}, width_mult=0.25
        )
        assert model.num_classes == 6
    longer = {**trunk, **linear("classifier.1", 9, width), **linear("classifier.3", 6, 9)}
    with pytest.raises(fb.ConversionError, match=r"another head, classifier.1.weight"):
        fb.create_model("mobilenet_v2", weights=longer, width_mult=0.25)


def split(body: dict, head: dict, outer: str = "backbone") -> dict[str, dict]:
    """As a program saves the parts of a network: a state dict of each."""
    name = next(iter(head)).partition(".")[0]
    return {outer: body, name: {key.partition(".")[2]: value for key, value in head.items()}}


@pytest.mark.parametrize("around", [lambda parts: parts, lambda parts: {"epoch": 3, "net": parts}])
@pytest.mark.parametrize("name", ["fc", "classifier", "head1"])
def test_a_head_with_a_state_dict_of_its_own_is_found(body, name, around):
    head = linear(name, 5)
    source = around(split(body, head))
    loaded = create(weights=source)
    filled = create(num_classes=5)
    assert fb.load_torch(filled, source).taken == loaded.origin.report.taken
    for model in (loaded, filled):
        assert has_body(model, body)
        assert np.array_equal(fb.to_torch(model, "torchvision")["fc.bias"], head[f"{name}.bias"])
    report = loaded.origin.report
    assert "below 'backbone.'" in report.taken
    assert report.head == (
        f"the head is called {name} there, and fc in this layout" * (name != "fc")
    )
    assert not any("array" in word or name in word for word in report.left)
    bare = create(weights=source, num_classes=0)
    assert {f"{name}.weight", f"{name}.bias"} <= set(bare.origin.report.left)


@pytest.mark.parametrize("kind", OTHERS)
def test_another_head_with_a_state_dict_of_its_own_is_named(body, kind):
    head = OTHERS[kind]
    with pytest.raises(fb.ConversionError, match="it has another head, ") as caught:
        create(weights=split(body, head))
    assert next(iter(head)) in str(caught.value)
    model = create(weights=split(body, head), num_classes=7)
    assert has_body(model, body)
    assert set(head) <= set(model.origin.report.left)


def test_only_a_head_is_joined_and_only_where_there_is_none(body):
    decoder = {"conv.weight": np.ones((3, 3), np.float32)}
    with pytest.raises(fb.ConversionError, match=r"without fc\.weight and fc\.bias: `num_classes"):
        create(weights={"encoder": body, "decoder": decoder})
    pooled = create(weights={"encoder": body, "decoder": decoder}, num_classes=0)
    assert pooled.origin.report.taken == "`encoder`"
    whole = {**body, **linear("fc", 5)}
    margin = {"weight": np.ones((9, FEATURES), np.float32)}
    model = create(weights={"net": whole, "arcface_head": margin})
    assert (model.num_classes, model.origin.report.taken) == (5, "`net`")
    assert model.origin.report.left == ("arcface_head (1 arrays)",)
    with pytest.raises(fb.ConversionError, match="without fc"):  # the choice is the user's
        create(weights=split(body, linear("fc", 5)), key="backbone")
