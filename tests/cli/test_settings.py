"""Arguments from a command line, held against the types that a model's class declares."""

from collections.abc import Sequence
from typing import Any, Literal

import pytest
from flax import nnx

from flaxblocks.cli.settings import read_settings
from flaxblocks.models.registry import ModelEntry
from tests.cli.conftest import Refuse


class Model(nnx.Module):
    """Arguments of every kind that a text can be."""

    def __init__(
        self,
        *,
        mode: Literal["row", "batch"] = "row",
        strides: tuple[int, ...] = (1, 2),
        size: tuple[int, float] = (1, 0.5),
        rows: Sequence[Sequence[int]] | None = None,
        rate: float = 0.0,
        flag: bool = False,
        table: Sequence[ModelEntry] = (),
        num_classes: int = 1000,
        rngs: nnx.Rngs,
    ):
        pass


ENTRY = ModelEntry(name="model", build=Model, source="article")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("mode=batch", "batch"),
        ("strides=[1, 2, 2]", [1, 2, 2]),
        ("strides=[]", []),
        ("size=[3, 0.25]", [3, 0.25]),
        ("rows=[[1, 2], [3]]", [[1, 2], [3]]),
        ("rows=null", None),
        ("rate=1", 1),
        ("flag=true", True),
    ],
)
def test_a_value_of_the_declared_type_is_taken(setting: str, value: Any) -> None:
    assert read_settings(ENTRY, [setting]) == {setting.partition("=")[0]: value}


@pytest.mark.parametrize(
    ("setting", "rule"),
    [
        ("mode=image", r"`mode` \(=image\) must be one of 'row', 'batch'"),
        ("strides=2", r"`strides` \(=2\) must be a list \(each item an integer\)"),
        ("strides=[1.5]", "must be a list"),
        ("size=[3]", r"must be a list \(an integer and a finite number\)"),
        ("size=[3, 1, 1]", "must be a list"),
        ("rows=[1]", r"must be a list \(each item a list \(each item an integer\)\) or null"),
        ("rate=Infinity", "must be a finite number"),
        ("flag=1", "must be true or false"),
        ("rate", "must be NAME=VALUE"),
    ],
)
def test_another_is_refused_with_the_rule(setting: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        read_settings(ENTRY, [setting])


def test_a_table_of_rows_is_no_setting():
    with pytest.raises(
        ValueError, match="model has no setting 'table': the known ones are flag, mode"
    ):
        read_settings(ENTRY, ["table=[1]"])


def test_what_has_an_option_of_its_own_is_no_setting():
    with pytest.raises(ValueError, match="--set 'num_classes=10': use --num-classes 10"):
        read_settings(ENTRY, ["num_classes=10"])


@pytest.mark.parametrize(
    ("setting", "meant"),
    [
        ("num_clases=10", "--num-classes"),
        ("inchannels=1", "--in-channels"),
        ("width=1", "'width_mult'"),
    ],
)
def test_a_misspelt_setting_names_the_nearest(setting: str, meant: str, refuse: Refuse) -> None:
    refuse("info", "mobilenet_v2", "--set", setting, named=f": did you mean {meant}")
