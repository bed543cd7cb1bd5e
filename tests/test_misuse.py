"""What a newcomer gets wrong is one sentence that names the argument, the value and the rule."""

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flax import nnx

import flaxblocks as fb
from flaxblocks.create.places import Choice
from tests.cli.conftest import TINY

X = np.zeros((1, 32, 32, 3), np.float32)
UNTYPED: Any = fb  # type checkers would refuse what is wrong
CHOICE: Any = Choice
MODULE = "must be a module of Flax NNX"


@pytest.fixture(scope="module")
def model() -> Any:
    return fb.create_model("mobilenet_v2", num_classes=10, **TINY)


WRONG: dict[str, tuple[Any, str]] = {
    "compile a name": (
        lambda _: UNTYPED.compile_inference("mobilenet_v2"),
        f"`model` (a str) {MODULE}, such as `create_model('mobilenet_v2')` gives",
    ),
    "compile a class": (
        lambda _: UNTYPED.compile_inference(nnx.Linear),
        f"`model` (a ModuleMeta) {MODULE}",
    ),
    "compile a state": (
        lambda m: UNTYPED.compile_inference(nnx.state(m)),
        f"`model` (a State) {MODULE}",
    ),
    "fold a name": (lambda _: UNTYPED.fold_batch_norm("x"), f"`model` (a str) {MODULE}"),
    "run a path": (
        lambda m: UNTYPED.compile_inference(m)("photo.jpg"),
        "`x` (of type str) must be an array",
    ),
    "a seed for streams": (
        lambda _: UNTYPED.blocks.MBConv(16, 16, rngs=0),
        "`rngs` (=0) must be `nnx.Rngs`",
    ),
    "no streams": (
        lambda _: UNTYPED.nn.Linear(3, 3, rngs=None),
        "`rngs` (=None) must be `nnx.Rngs`",
    ),
    "a stream is missing": (
        lambda _: UNTYPED.nn.Conv(3, 3, 1, rngs=nnx.Rngs(dropout=0)),
        "`rngs` (with ['dropout']) must have the stream 'params' or 'default'",
    ),
    "expansion": (
        lambda _: UNTYPED.blocks.MBConv(16, 16, expansion="x", rngs=nnx.Rngs(0)),
        "`expansion` (='x') must be a finite number",
    ),
    "to_torch of a name": (lambda _: UNTYPED.to_torch("x"), f"`model` (a str) {MODULE}"),
    "load into a name": (
        lambda _: UNTYPED.load_torch("mobilenet_v2", "a.pth"),
        f"`model` (a str) {MODULE}",
    ),
    "load nothing": (lambda m: UNTYPED.load_torch(m, None), "`source` (a NoneType) must be a path"),
    "drop a number": (
        lambda m: UNTYPED.load_torch(m, {"a": X}, drop=5),
        "`drop` (=5) must be names",
    ),
    "a key": (lambda _: CHOICE(key=5), "`key` (=5) must be a name in the checkpoint"),
    "a prefix": (lambda _: CHOICE(prefix=5), "`prefix` (=5) must be a name in the checkpoint"),
    "an average": (lambda _: CHOICE(ema="yes"), "`ema` (='yes') must be True, False or None"),
    "create an object": (
        lambda _: UNTYPED.create_model(SimpleNamespace()),
        "`name` (a SimpleNamespace) must be one of `list_models()`, a str",
    ),
    "features_only": (
        lambda _: UNTYPED.create_model("mobilenet_v2", feature_only=True),
        "unknown argument `feature_only`: did you mean `features_only`?",
    ),
    "weights": (
        lambda _: UNTYPED.create_model("mobilenet_v2", weigths="DEFAULT"),
        "unknown argument `weigths`: did you mean `weights`?",
    ),
    "an argument of the model": (
        lambda _: UNTYPED.create_model("mobilenet_v2", width_mul=1),
        "mobilenet_v2 takes no argument `width_mul`: did you mean 'width_mult'",
    ),
    "list a number": (lambda _: UNTYPED.list_models(5), "`pattern` (=5) must be a str"),
    "selftest of a number": (lambda _: UNTYPED.selftest(5), "`pattern` (=5) must be a str"),
    "write to arrays": (
        lambda _: UNTYPED.write_checkpoint("a.pth", {"a": X}),
        "path (a dict) must be",
    ),
    "write nowhere": (
        lambda _: UNTYPED.write_checkpoint({"a": X}, None),
        "path (a NoneType) must be",
    ),
    "write a model": (
        lambda m: UNTYPED.write_checkpoint(m, "a.pth"),
        "must map names to NumPy arrays",
    ),
    "compare with itself": (
        lambda m: UNTYPED.parity.compare(m, m, X),
        "`torch_model` (a MobileNetV2 of Flax NNX) must be a module of PyTorch",
    ),
    "compare a name": (
        lambda m: UNTYPED.parity.compare(m, "x", X),
        "`torch_model` (a str) must be a",
    ),
    "compare the other way": (
        lambda m: UNTYPED.parity.compare("x", m, X),
        f"`flax_model` (a str) {MODULE}",
    ),
    "compare on a photo": (
        lambda m: UNTYPED.parity.compare(
            m, SimpleNamespace(state_dict=0, named_modules=0), "a.jpg"
        ),
        "`x` (a str) must be an array (N, H, W, C)",
    ),
}


@pytest.mark.untyped
@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_sentence(case: str, model: Any) -> None:
    call, sentence = WRONG[case]
    with pytest.raises(ValueError, match=re.escape(sentence)) as caught:
        call(model)
    assert "\n" not in str(caught.value)


def test_a_misspelt_name_of_the_package_is_known_to_python() -> None:
    with pytest.raises(AttributeError) as caught:
        fb.creat_model  # noqa: B018
    assert (caught.value.name, caught.value.obj) == ("creat_model", fb)
