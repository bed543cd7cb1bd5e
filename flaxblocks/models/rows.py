"""Writing a family's rows into the registry: what all rows of one library share is said once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flaxblocks.models.registry import ModelEntry, Source, register

__all__ = ["Rows"]

OTHER_LIBRARY = {"torchvision": "timm", "timm": "torchvision"}


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of one family that one library publishes; a call registers one of them.

        timm = Rows(build=MnasNet, source="timm", config={"dropout": 0.0})
        timm("mnasnet_050", 2_218_512, also="mnasnet0_5", width_mult=0.5)

    Attributes:
        build: the family's class.
        source: the library.
        config: arguments of the class that all its rows have.
        oracle: "module:callable" of the PyTorch original, where the library is not one that can be
            installed.
    """

    build: type[Any]
    source: Source
    config: Mapping[str, Any] = field(default_factory=dict)
    oracle: str | None = None

    def __call__(
        self,
        name: str,
        parameters: int,
        multiply_adds: int | None = None,
        *,
        also: str | None = None,
        in_layout: Mapping[str, str] | None = None,
        aliases: tuple[str, ...] = (),
        library_name: str | None = None,
        **config: Any,
    ) -> None:
        """Register one row.

        Args:
            name: the row's; what the library calls it unless `library_name` says otherwise.
            parameters: published count at 1000 classes.
            multiply_adds: published count for one image, where there is one.
            also: the row of the other library, of torchvision and timm, that is the same network
                with other settings.
            in_layout: layout -> such a row, for libraries without rows of their own.
            aliases: other names of the row.
            library_name: what the library calls it.
            **config: the arguments of the class that make it this model.

        Raises: ValueError if a name is taken.
        """
        theirs = {OTHER_LIBRARY[self.source]: also} if also else {}
        register(
            ModelEntry(
                name=name,
                build=self.build,
                source=self.source,
                config={**self.config, **config},
                aliases=aliases,
                in_layout={**theirs, **(in_layout or {})},
                library_name=library_name,
                oracle=self.oracle,
                parameters=parameters,
                multiply_adds=multiply_adds,
            )
        )
