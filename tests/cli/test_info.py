"""`flaxblocks info`: the published counts, and settings held against the model's types."""

import json
from pathlib import Path

import pytest
from flax import nnx

from flaxblocks.create.build import abstract_model
from flaxblocks.models.mobilenetv2 import MobileNetV2
from flaxblocks.models.registry import model_entries
from tests.cli.conftest import Refuse, Run

PUBLISHED = [entry for entry in model_entries() if entry.multiply_adds is not None]


@pytest.mark.parametrize("entry", PUBLISHED, ids=lambda entry: entry.name)
def test_the_totals_are_the_published_counts(entry, run: Run) -> None:
    height, width = entry.input_size
    ran = run("info", entry.name, "--size", f"{height}x{width}", "--json")
    assert ran[::2] == (0, "")
    found = json.loads(ran.out)
    assert found["parameters"] == entry.parameters
    assert found["multiply_adds"] == entry.multiply_adds
    for total in ("parameters", "multiply_adds"):
        assert sum(stage[total] for stage in found["stages"]) == found[total]


def test_mobilenet_v2_has_its_papers_counts(run: Run) -> None:
    assert {e.name: e.multiply_adds for e in PUBLISHED if e.build is MobileNetV2} == {
        "mobilenet_v2": 300_809_384,
        "mobilenetv2_035": 59_300_888,
        "mobilenetv2_050": 97_151_384,
        "mobilenetv2_075": 209_097_432,
        "mobilenetv2_140": 582_244_760,
    }
    last = run("info", "mobilenet_v2").out.splitlines()[-1]
    assert last == "mobilenet_v2 at 224x224: 3,504,872 parameters, 300,809,384 multiply-adds"


def test_what_is_not_counted_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_a_slope(name: str, **config: object) -> MobileNetV2:
        model = abstract_model(name, **config)
        model.dropout = nnx.PReLU()
        return model

    monkeypatch.setattr("flaxblocks.create.build.abstract_model", with_a_slope)
    note, total = run("info", "mobilenetv2_035").out.splitlines()[-2:]
    assert note.endswith(": dropout")
    assert total.endswith("59,300,888 multiply-adds")
    stages = json.loads(run("info", "mobilenetv2_035", "--json").out)["stages"]
    assert [stage["uncounted"] for stage in stages[-2:]] == [["dropout"], []]


def test_the_stages_come_in_forward_order(run: Run) -> None:
    lines = run("info", "mobilenet_v2", "--width-mult", "0.25", "--size", "64x96").out.splitlines()
    names = [line.split()[0] for line in lines[1:-1]]
    blocks = [f"blocks.{i}" for i in range(17)]
    assert names == ["stem", *blocks, "head_conv", "dropout", "head"]
    assert "32x48x8" in lines[1]
    assert "2x3x1280" in lines[-4]


def test_settings_reach_the_model(run: Run) -> None:
    rows = "inverted_residual_setting=[[1,16,1,1],[6,24,2,2]]"
    ran = run("info", "mobilenet_v2", "--set", rows, "--set", "norm_layer=null", "--json")
    stages = json.loads(ran.out)["stages"]
    assert [stage["name"] for stage in stages if "blocks" in stage["name"]] == [
        "blocks.0",
        "blocks.1",
        "blocks.2",
    ]
    assert stages[0]["parameters"] == 3 * 3 * 3 * 32
    ran = run("info", "mobilenet_v2", "--num-classes", "0", "--in-channels", "1", "--json")
    stages = json.loads(ran.out)["stages"]
    assert stages[0]["parameters"] == 3 * 3 * 32 + 2 * 32
    assert "head" not in [stage["name"] for stage in stages]


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("--width-mult", "abc", "abc"),
        ("--width-mult", "0", "`width_mult` (=0)"),
        ("--width-mult", "-1", "`width_mult` (=-1)"),
        ("--width-mult", "inf", "inf"),
        ("--width-mult", "1e400", "1e400"),
        ("--width-mult", "nan", "nan"),
        ("--set", "dropout", "dropout"),
        ("--set", "=1", "''"),
        ("--set", "dropuot=0.1", "'dropout'"),
        ("--set", "num_classes=5", "num_classes"),
        ("--set", "block=MBConv", "block"),
        ("--set", 'dropout="x"', '`dropout` (="x")'),
        ("--set", "dropout=x", "`dropout` (=x)"),
        ("--set", "dropout=null", "`dropout` (=null)"),
        ("--set", "dropout=true", "`dropout` (=true)"),
        ("--set", "dropout=NaN", "`dropout` (=NaN)"),
        ("--set", "dropout=1.5", "1.5"),
        ("--set", "norm_layer=foo", "'foo'"),
        ("--set", "norm_layer=3", "`norm_layer` (=3)"),
        ("--set", "round_nearest=1.5", "`round_nearest` (=1.5)"),
        ("--set", "round_nearest=0", "0"),
        ("--set", "fix_stem_head=yes", "`fix_stem_head` (=yes)"),
        ("--set", "fix_stem_head=1", "`fix_stem_head` (=1)"),
        ("--set", "depth_mult=[1]", "`depth_mult` (=[1])"),
        ("--set", "inverted_residual_setting=5", "`inverted_residual_setting` (=5)"),
        ("--set", "inverted_residual_setting=[]", "inverted_residual_setting"),
        ("--set", "inverted_residual_setting=[[1,16,1]]", "[1, 16, 1]"),
        ("--set", "inverted_residual_setting=[[1,16,1,3]]", "stride 3"),
        ("--set", 'inverted_residual_setting=[["a",16,1,1]]', "inverted_residual_setting"),
        ("--set", "inverted_residual_setting=[[1,16,1,1]", "inverted_residual_setting"),
        ("--set", f"dropout={'[' * 100_000}", "dropout"),
        ("--size", "0", "'0'"),
        ("--size", "axb", "'axb'"),
        ("--size", "224x", "'224x'"),
        ("--size", "1x2x3", "'1x2x3'"),
        ("--size", "-5", "'-5'"),
        ("--num-classes", "-1", "--num-classes"),
        ("--num-classes", "ten", "ten"),
        ("--in-channels", "0", "--in-channels"),
        ("--bogus", "1", "--bogus"),
    ],
    ids=lambda value: value[:40],
)
def test_a_wrong_setting_is_named(option: str, value: str, named: str, refuse: Refuse) -> None:
    refuse("info", "mobilenet_v2", option, value, named=named)


def test_a_setting_given_twice_is_refused(refuse: Refuse) -> None:
    options = ("--width-mult", "0.5", "--set", "width_mult=0.35")
    refuse("info", "mobilenet_v2", *options, named="width_mult")


def test_an_unknown_model_is_refused_with_near_names(refuse: Refuse) -> None:
    refuse("info", "mobilenet_v3", named="did you mean 'mobilenet_v3_large' or ")
    refuse("info", "", named="more")
    refuse("info", named="NAME")


def test_too_little_memory_is_one_sentence(refuse: Refuse, monkeypatch, here: Path) -> None:
    def exhaust(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 119. GiB")

    monkeypatch.setattr("flaxblocks.create.build.abstract_model", exhaust)
    refuse("info", "mobilenet_v2", named="119. GiB")


def test_a_picture_is_drawn(run: Run, refuse: Refuse, tmp_path: Path) -> None:
    picture = tmp_path / "out.svg"
    for _ in range(2):  # it is replaced
        assert run("info", "mobilenet_v2", "--size", "64x96", "--draw", str(picture)).status == 0
    text = picture.read_text(encoding="utf-8")
    assert text.startswith("<svg")
    assert "64x96" in text
    message = refuse("info", "mobilenet_v2", "--draw", str(tmp_path / "out.png"))
    assert "--draw" in message
    assert ".svg" in message
    assert "No such file" in refuse("info", "mobilenet_v2", "--draw", str(tmp_path / "x" / "y.svg"))
