"""Pictures show what the modules are: stages, layers, gates, skips."""

import re
import xml.etree.ElementTree as ElementTree

import jax.numpy as jnp
import pytest
from flax import nnx

import flaxblocks as fb
from flaxblocks.create.build import abstract_model
from flaxblocks.inspect.draw import draw_block, draw_model
from flaxblocks.inspect.svg import Canvas
from flaxblocks.models.image_model import ImageModel
from tests.support import smallest_of_each_family


def texts(svg: str) -> list[str]:
    """The lines of text of a picture, in order."""
    return [node.text or "" for node in ElementTree.fromstring(svg).iter() if "text" in node.tag]


@pytest.mark.parametrize("entry", smallest_of_each_family(), ids=lambda entry: entry.name)
def test_every_family_is_drawn(entry):
    model = abstract_model(entry.name)
    lines = texts(draw_model(model, (96, 64)))
    assert lines[:3] == ["image", "96x64", "3 channels"]
    assert [line for line in lines if line.startswith("stage ")] == [
        f"stage {i + 1}" for i in range(len(model.depths))
    ]
    kinds = [line for line in lines if re.match(r"[A-Z]: ", line)]
    assert kinds
    assert sum(int(line.split()[-2]) for line in kinds) == len(model.blocks)
    assert f"{model.num_classes} channels" in lines


def test_mobilenet_v2_reads_like_its_table():
    lines = texts(draw_model(abstract_model("mobilenet_v2")))
    third = lines.index("stage 3")
    assert lines[third : third + 4] == ["stage 3", "B, 2 x C", "28x28", "32 channels"]
    assert lines.count("+") == 1  # one kind has a skip
    assert "3x3 depthwise, stride 2" in lines


def block_lines(name: str, *arguments, **options) -> list[str]:
    block = nnx.eval_shape(
        lambda: getattr(fb.blocks, name)(*arguments, **options, rngs=nnx.Rngs(0))
    )
    return texts(draw_block(block, arguments[0], (8, 8)))


def test_a_gate_and_a_skip_are_drawn_where_they_are():
    lines = block_lines("MBConv", 8, 8, squeeze_excite=4)
    assert lines == [
        "MBConv",
        "1x1 conv",
        "32 channels, BatchNorm, relu6",
        "3x3 depthwise",
        "32 channels, BatchNorm, relu6",
        "squeeze-excite",
        "to 8 and back to 32, relu",
        "1x1 conv",
        "8 channels, BatchNorm",
        "+",
        "relu",
    ]
    assert "+" not in block_lines("MBConv", 8, 16)


def test_a_gate_after_the_last_norm_and_a_pooled_shortcut():
    lines = block_lines(
        "BottleNeck", 8, 16, stride=2, squeeze_excite=4, gate_output=True, pool_shortcut=True
    )
    titles = [line for line in lines if re.match(r"\d|sq|\+", line) and "channels" not in line]
    assert titles[:4] == ["1x1 conv", "3x3 conv, stride 2", "1x1 conv", "squeeze-excite"]
    assert titles[4:] == ["2x2 average pool, stride 2", "1x1 conv", "+"]


def test_groups_and_antialiasing_are_told():
    lines = block_lines(
        "BottleNeck", 8, 16, stride=2, hidden_features=8, groups=4, antialias="blur"
    )
    assert "3x3 conv in 4 groups" in lines
    assert "3x3 blur, stride 2" in lines


def test_what_a_widening_skip_appends_and_a_bare_function_are_told():
    lines = block_lines("RexBottleneck", 8, 12)
    gate = lines.index("relu6")
    assert lines[gate - 2 : gate + 2] == [
        "3x3 depthwise",
        "48 channels, BatchNorm",
        "relu6",
        "1x1 conv",
    ]
    assert "zeros appended" in lines
    assert "zeros appended" not in block_lines("RexBottleneck", 8, 8)


def test_blocks_of_other_activations_are_other_kinds():
    lines = texts(draw_model(abstract_model("mobilenet_v3_large")))
    charts = [i for i, line in enumerate(lines) if re.match(r"[A-Z]: ", line)]
    for start, end in zip(charts, [*charts[1:], len(lines)], strict=True):
        convs = [line for line in lines[start:end] if "BatchNorm" in line]
        assert len({line.rpartition(", ")[2] for line in convs[:-1]}) == 1  # the last has none
    assert len(charts) == 11  # and 7 that differ in more
    head = lines.index("head")
    assert lines[head : head + 4] == ["head", "mean", "2 x linear", "1000 channels"]


@pytest.mark.parametrize(
    ("name", "stem", "pool"),
    [
        ("resnet50", ["7x7 conv, stride 2"], ["3x3 max pool, stride 2"]),
        ("resnet50d", ["3x3 conv, stride 2", "2 x 3x3 conv"], ["3x3 max pool, stride 2"]),
        ("resnetblur50", ["7x7 conv, stride 2"], ["3x3 max pool", "3x3 blur, stride 2"]),
    ],
)
def test_stems_of_several_layers_are_drawn_in_order(name, stem, pool):
    lines = texts(draw_model(abstract_model(name)))
    assert lines[3 : lines.index("stage 1")] == [
        *("stem", *stem, "112x112", "64 channels"),
        *("pool", *pool, "56x56", "64 channels"),
    ]


def test_text_is_escaped():
    canvas = Canvas()
    canvas.text(0, 10, "a < b & c")
    assert texts(canvas.svg()) == ["a < b & c"]


def colours(svg: str) -> list[str]:
    """Of the boxes of a picture, in order."""
    filled = (node.get("fill") for node in ElementTree.fromstring(svg).iter() if "rect" in node.tag)
    return [colour for colour in filled if colour not in (None, "none", "white")]


class Dense(fb.nn.Linear):
    """A layer of another name, drawn as what it is."""


def test_what_is_learnt_has_one_colour_whatever_its_class():
    rngs = nnx.Rngs(0)
    boxes = [
        *(fb.nn.Conv(4, 4, 1, rngs=rngs), nnx.Conv(4, 4, (1, 1), rngs=rngs)),
        *(Dense(4, 4, rngs=rngs), nnx.Linear(4, 4, rngs=rngs)),
        *(fb.nn.MaxPool(2), fb.blocks.SqueezeExcite(4, rngs=rngs)),
    ]
    found = colours(draw_block(nnx.Sequential(*boxes), 4, (8, 8)))
    assert len(found) == len(boxes)
    assert len(set(found[:4])) == 1
    assert len(set(found[3:])) == 3


class Residual(nnx.Module):
    """A block that only its user knows, of Flax's own layers and a scale of its own."""

    def __init__(self, features: int):
        rngs = nnx.Rngs(0)
        self.depthwise = nnx.Conv(
            features, features, (7, 7), feature_group_count=features, rngs=rngs
        )
        self.norm = nnx.LayerNorm(features, rngs=rngs)
        self.expand = nnx.Linear(features, 4 * features, rngs=rngs)
        self.project = nnx.Linear(4 * features, features, rngs=rngs)
        self.gamma = nnx.Param(jnp.ones(features))

    def __call__(self, x):
        y = self.project(nnx.gelu(self.expand(self.norm(self.depthwise(x)))))
        return x + self.gamma[...] * y


class Users(ImageModel):
    """A model that is no `StagedModel`: steps that are layers, lists of blocks, and functions."""

    def __init__(self, num_classes: int = 5):
        rngs = nnx.Rngs(0)
        self.num_classes, self.in_channels, self.num_features = num_classes, 3, 16
        self.stem = nnx.Conv(3, 8, (4, 4), strides=4, rngs=rngs)
        self.stage = nnx.Sequential(Residual(8), Residual(8))
        self.widen = nnx.Sequential(nnx.BatchNorm(8, rngs=rngs), nnx.Conv(8, 16, (3, 3), rngs=rngs))
        self.last = Residual(16)
        self.dropout = nnx.Dropout(0.1)
        self.head = nnx.Linear(16, num_classes, rngs=rngs) if num_classes else None

    @property
    def steps(self):
        yield "stem", self.stem
        yield "stage", self.stage
        yield "pool", self.halve
        yield "widen", self.widen
        yield "last", self.last

    def halve(self, x):
        return nnx.max_pool(x, (2, 2), strides=(2, 2))


def test_a_users_own_model_is_drawn_by_its_steps():
    lines = texts(draw_model(Users(), (64, 96)))
    charts = lines.index("A: Residual, 3 x")
    row, chart = lines[:charts], lines[charts:]
    assert row == [
        *("image", "64x96", "3 channels"),
        *("stem", "4x4 conv, stride 4", "16x24", "8 channels"),
        *("stage", "2 x A", "16x24", "8 channels"),
        *("pool", "8x12", "8 channels"),
        *("widen", "BatchNorm", "3x3 conv", "8x12", "16 channels"),
        *("last", "A", "8x12", "16 channels"),
        *("head", "mean", "linear", "5 channels"),
    ]
    assert chart[1:] == [
        *("7x7 depthwise", "8 channels"),
        *("LayerNorm", "8 channels"),
        *("linear", "32 channels"),
        *("linear", "8 channels"),
    ]


class Embedding(Users):
    """A model with its own way from the last feature map to the head, or to none."""

    def embed(self, x):
        return x.max((1, 2))


def test_a_head_is_drawn_as_it_is():
    lines = texts(draw_model(Embedding()))
    head = lines.index("head")
    assert lines[head : head + 3] == ["head", "linear", "5 channels"]
    assert "head" not in texts(draw_model(Embedding(num_classes=0)))


class Stepless(Users):
    """It says what it computes and not by which steps."""

    @property
    def steps(self):
        return super().steps

    def __call__(self, x):
        return self.stem(x)


class Forked(Users):
    """A step that gives two maps."""

    def halve(self, x):
        return x, x

    def __call__(self, x):
        return self.stage(self.stem(x))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Forked(), r"`model` \(a Forked\): its step 'pool' must give one array"),
        (
            Residual(8),
            r"`model` \(a Residual\) must be an `ImageModel`; `draw_block` draws a block",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_a_sentence(model, message):
    with pytest.raises(ValueError, match=message):
        draw_model(model)


def test_flaxs_own_layers_are_told_in_a_block():
    rngs = nnx.Rngs(0)
    block = nnx.Sequential(
        nnx.Conv(8, 8, (3, 5), strides=(1, 2), feature_group_count=4, rngs=rngs),
        nnx.ConvTranspose(8, 6, (2, 2), strides=2, rngs=rngs),
        nnx.LoRALinear(6, 4, lora_rank=2, rngs=rngs),
    )
    assert texts(draw_block(block, 8)) == [
        "Sequential",
        *("3x5 conv in 4 groups, stride (1, 2)", "8 channels"),
        *("ConvTranspose", "6 channels"),
        *("linear", "4 channels"),
    ]
