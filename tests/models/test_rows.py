"""What rows and tables share: `models.rows`, `models.table`, `models.argument_names`."""

import inspect
import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from flaxblocks import models
from flaxblocks.models.argument_names import LIBRARY_NAMES, our_name
from flaxblocks.models.registry import model_entries
from flaxblocks.models.table import check_table


class Stage(NamedTuple):
    name: str
    width: int
    stride: int
    gate: float = 0.0


def test_a_table_becomes_rows_by_name():
    rows = check_table("stages", [("a", 8, 2), Stage("b", 16, 1, 0.25)], Stage)
    assert rows == [Stage("a", 8, 2, 0.0), Stage("b", 16, 1, 0.25)]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ((), "`stages` (=()) must have at least one row"),
        (
            [("a", 8)],
            "row ('a', 8): each must be (name, width, stride, gate); gate may be left out",
        ),
        ([8], "row 8: each must be (name"),
        ([("a", 8, 3)], "stride 3 in row ('a', 8, 3): it must be 1 or 2"),
        ([("a", 0, 1)], "row ('a', 0, 1): every number must be positive"),
        ([("a", float("nan"), 1)], "every number must be positive"),
        ([("a", True, 1)], "every number must be positive"),
        ([("a", 8, 1, -0.5)], "every number must be positive"),
    ],
)
def test_a_wrong_table_is_named(table, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_table("stages", table, Stage)


def test_the_table_of_names_speaks_of_arguments_that_there_are():
    arguments = {name for entry in model_entries() for name in entry.arguments}
    assert set(LIBRARY_NAMES) <= arguments


def test_a_name_of_another_model_is_no_hint():
    assert our_name("groups", ["cardinality"]) == "cardinality"
    assert our_name("groups", ["dropout"]) is None
    assert our_name("pretrained", []) == 'weights="DEFAULT"'
    assert our_name("dropout", ["dropout"]) is None


def test_every_row_is_of_arguments_that_its_class_takes():
    for entry in model_entries():
        assert set(entry.config) <= set(inspect.signature(entry.build.__init__).parameters)


def test_a_family_is_one_file():
    """Its rows are there once the file is: nothing lists the files."""
    folder = Path(models.__file__).parent
    for file in folder.glob("[!_]*.py"):
        assert f"flaxblocks.models.{file.stem}" in sys.modules
