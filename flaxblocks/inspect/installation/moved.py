"""Modules under the names that they once had, for scripts that still say so.

`import flaxblocks.oracle` gives `flaxblocks.parity.oracle` itself, not a copy of it.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["MOVED", "forward_old_names"]

MOVED = {  # old -> new
    "flaxblocks.build": "flaxblocks.create.build",
    "flaxblocks.calibration": "flaxblocks.parity.calibration",
    "flaxblocks.cli_options": "flaxblocks.cli.options",
    "flaxblocks.convert.atomic_file": "flaxblocks.checkpoints.atomic_file",
    "flaxblocks.convert.checkpoint": "flaxblocks.checkpoints.read",
    "flaxblocks.convert.checkpoint_error": "flaxblocks.checkpoints.error",
    "flaxblocks.convert.files": "flaxblocks.create.convert_file",
    "flaxblocks.convert.orbax_folder": "flaxblocks.checkpoints.orbax_folder",
    "flaxblocks.convert.origin": "flaxblocks.create.origin",
    "flaxblocks.doctor": "flaxblocks.inspect.installation.probes",
    "flaxblocks.draw": "flaxblocks.inspect.draw",
    "flaxblocks.known_bad": "flaxblocks.inspect.installation.known_bad",
    "flaxblocks.oracle": "flaxblocks.parity.oracle",
    "flaxblocks.predict": "flaxblocks.cli.classify",
    "flaxblocks.parity.record": "flaxblocks.inspect.record",
    "flaxblocks.preprocess": "flaxblocks.weights.preprocess",
    "flaxblocks.registry": "flaxblocks.models.registry",
    "flaxblocks.settings": "flaxblocks.cli.settings",
    "flaxblocks.summary": "flaxblocks.inspect.summary",
}


class Forwarder:
    """Finds and loads the modules of `MOVED`."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Say that this is the loader of a module that has moved."""
        return ModuleSpec(name, self) if name in MOVED else None  # pyright: ignore

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave it to Python to make the empty module, which is thrown away at once."""

    def exec_module(self, module: ModuleType) -> None:
        """Put the module that has moved in the place of the empty one."""
        sys.modules[module.__name__] = import_module(MOVED[module.__name__])


def forward_old_names() -> None:
    """Have Python find the modules of `MOVED`. Called once, when flaxblocks is imported."""
    sys.meta_path.insert(0, Forwarder())
