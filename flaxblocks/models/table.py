"""The tables of stages that a family's class takes, held against the rules of their columns."""

from collections.abc import Sequence
from typing import Any, TypeVar, get_type_hints

from flaxblocks.nn.arguments import is_number

__all__ = ["check_table"]

Row = TypeVar("Row", bound=tuple[Any, ...])


def check_table(name: str, table: Sequence[Any], row: type[Row]) -> list[Row]:
    """The rows of `table` as `row`, a named tuple whose columns say what they hold.

    Numbers must be positive; those of a column with a default may be 0 too. `stride` is 1 or 2.

    Raises: ValueError that names the table by `name`, if it is empty, has a row of another length
        or a number out of range.
    """
    if len(table) == 0:
        raise ValueError(f"`{name}` (={table}) must have at least one row")
    for values in table:
        if not isinstance(values, Sequence) or not _least(row) <= len(values) <= len(_columns(row)):
            raise ValueError(f"`{name}` has row {values}: each must be {_described(row)}")
        _check_numbers(name, values, row)
    return [row(*values) for values in table]


def _check_numbers(name: str, values: Sequence[Any], row: type[tuple[Any, ...]]) -> None:
    kinds = get_type_hints(row)
    for k, (column, value) in enumerate(zip(_columns(row), values, strict=False)):
        if column == "stride" and value not in (1, 2):
            raise ValueError(f"`{name}` has stride {value} in row {values}: it must be 1 or 2")
        if kinds[column] in (int, float):
            optional = k >= _least(row)
            if not is_number(value) or value < 0 or (value == 0 and not optional):
                raise ValueError(f"`{name}` has row {values}: every number must be positive")


def _columns(row: Any) -> tuple[str, ...]:
    return row._fields


def _least(row: Any) -> int:
    """How many columns have no default."""
    return len(row._fields) - len(row._field_defaults)


def _described(row: Any) -> str:
    columns, optional = ", ".join(_columns(row)), " and ".join(row._field_defaults)
    return f"({columns})" + (f"; {optional} may be left out" if optional else "")
