"""One finding of the diagnosis."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding"]

WIDTH = len("compilation cache")  # the longest name


@dataclass(frozen=True)
class Finding:
    """One thing that was examined.

    Attributes:
        name: what was examined.
        value: what was found.
        status: "ok"; "note" if something is missing or could be better; "bad" if JAX computes wrong
            results or does not work.
        remedy: what to do about it, or None.
    """

    name: str
    value: str
    status: Literal["ok", "note", "bad"] = "ok"
    remedy: str | None = None

    def __str__(self) -> str:
        line = f"{self.status:4}  {self.name:{WIDTH}}  {self.value}"
        return line if self.remedy is None else f"{line}\n{'':{WIDTH + 8}}-> {self.remedy}"
