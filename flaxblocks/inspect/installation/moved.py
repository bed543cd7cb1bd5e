"""Former names of modules and of what is in them, for scripts that still import them.

`import flaxblocks.oracle` gives `flaxblocks.parity.oracle` itself, not a copy of it, and
`from flaxblocks.convert import to_torch` gives the function that is `flaxblocks.to_torch` now.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

__all__ = ["MOVED", "NAMES", "forward_old_names"]

MOVED = {  # old -> new
    "flaxblocks.build": "flaxblocks.create.build",
    "flaxblocks.calibration": "flaxblocks.parity.calibration",
    "flaxblocks.cli_options": "flaxblocks.cli.options",
    "flaxblocks.convert.array_bytes": "flaxblocks.checkpoints.array_bytes",
    "flaxblocks.convert.atomic_file": "flaxblocks.checkpoints.atomic_file",
    "flaxblocks.convert.checkpoint": "flaxblocks.checkpoints.read",
    "flaxblocks.convert.checkpoint_error": "flaxblocks.checkpoints.error",
    "flaxblocks.convert.files": "flaxblocks.create.convert_file",
    "flaxblocks.convert.module_versions": "flaxblocks.checkpoints.module_versions",
    "flaxblocks.convert.orbax_folder": "flaxblocks.checkpoints.orbax_folder",
    "flaxblocks.convert.origin": "flaxblocks.create.origin",
    "flaxblocks.convert.other_settings": "flaxblocks.create.other_settings",
    "flaxblocks.convert.safetensors_file": "flaxblocks.checkpoints.safetensors_file",
    "flaxblocks.convert.torch_dtypes": "flaxblocks.checkpoints.torch_dtypes",
    "flaxblocks.convert.torch_legacy": "flaxblocks.checkpoints.torch_legacy",
    "flaxblocks.convert.torch_names": "flaxblocks.checkpoints.torch_names",
    "flaxblocks.convert.torch_pickle": "flaxblocks.checkpoints.torch_pickle",
    "flaxblocks.convert.torch_save": "flaxblocks.checkpoints.torch_save",
    "flaxblocks.convert.torch_tensor": "flaxblocks.checkpoints.torch_tensor",
    "flaxblocks.convert.torch_zip": "flaxblocks.checkpoints.zip_file",
    "flaxblocks.doctor.finding": "flaxblocks.inspect.installation.finding",
    "flaxblocks.doctor.jax_state": "flaxblocks.inspect.installation.jax_state",
    "flaxblocks.doctor.machine": "flaxblocks.inspect.installation.machine",
    "flaxblocks.doctor.packages": "flaxblocks.inspect.installation.packages",
    "flaxblocks.doctor.probes": "flaxblocks.inspect.installation.probes",
    "flaxblocks.draw": "flaxblocks.inspect.draw",
    "flaxblocks.host": "flaxblocks.create.host",
    "flaxblocks.known_bad": "flaxblocks.inspect.installation.known_bad",
    "flaxblocks.layer_titles": "flaxblocks.inspect.layer_titles",
    "flaxblocks.lookalike": "flaxblocks.create.lookalike",
    "flaxblocks.nn.depthwise": "flaxblocks.nn.forms.depthwise",
    "flaxblocks.nn.grouped": "flaxblocks.nn.forms.grouped",
    "flaxblocks.nn.windows": "flaxblocks.nn.forms.windows",
    "flaxblocks.oracle": "flaxblocks.parity.oracle",
    "flaxblocks.predict": "flaxblocks.cli.classify",
    "flaxblocks.parity.record": "flaxblocks.inspect.record",
    "flaxblocks.progress": "flaxblocks.cli.progress",
    "flaxblocks.registry": "flaxblocks.models.registry",
    "flaxblocks.reproductions": "flaxblocks.inspect.installation.reproductions",
    "flaxblocks.settings": "flaxblocks.cli.settings",
    "flaxblocks.summary": "flaxblocks.inspect.summary",
    "flaxblocks.svg": "flaxblocks.inspect.svg",
}
NAMES = {  # in a module that was split, or in one that is there still: old -> new
    "flaxblocks.convert.CheckpointError": "flaxblocks.checkpoints.error.CheckpointError",
    "flaxblocks.convert.ConversionError": "flaxblocks.convert.fit.ConversionError",
    "flaxblocks.convert.LoadReport": "flaxblocks.create.report.LoadReport",
    "flaxblocks.convert.load_torch": "flaxblocks.create.load.load_torch",
    "flaxblocks.convert.read_checkpoint": "flaxblocks.checkpoints.read.read_checkpoint",
    "flaxblocks.convert.to_torch": "flaxblocks.create.save.to_torch",
    "flaxblocks.convert.write_checkpoint": "flaxblocks.checkpoints.write.write_checkpoint",
    "flaxblocks.convert.convert.ConversionError": "flaxblocks.convert.fit.ConversionError",
    "flaxblocks.convert.convert.LoadReport": "flaxblocks.create.report.LoadReport",
    "flaxblocks.convert.convert.load_torch": "flaxblocks.create.load.load_torch",
    "flaxblocks.convert.convert.own_dialect": "flaxblocks.create.save.own_layout",
    "flaxblocks.convert.convert.to_torch": "flaxblocks.create.save.to_torch",
    "flaxblocks.convert.keymap.dialects_of": "flaxblocks.convert.keymap.layouts_of",
    "flaxblocks.costs.multiply_adds": "flaxblocks.nn.layer.multiply_adds_of",
    "flaxblocks.costs.own_parameters": "flaxblocks.nn.parameters.own_parameters",
    "flaxblocks.create.published_weights": "flaxblocks.weights.resolve.published_weights",
    "flaxblocks.create.resolve_weights": "flaxblocks.weights.resolve.resolve_weights",
    "flaxblocks.models.image_model.Feature": "flaxblocks.models.features.Feature",
    "flaxblocks.models.image_model.FeatureExtractor": (
        "flaxblocks.models.feature_extractor.FeatureExtractor"
    ),
    "flaxblocks.models.image_model.FeatureInfo": "flaxblocks.models.features.FeatureInfo",
    "flaxblocks.doctor.Finding": "flaxblocks.inspect.installation.finding.Finding",
    "flaxblocks.doctor.diagnose": "flaxblocks.inspect.installation.probes.diagnose",
    "flaxblocks.preprocess.ImageSource": "flaxblocks.weights.preprocess.ImageSource",
    "flaxblocks.preprocess.Transforms": "flaxblocks.weights.preprocess.Transforms",
    "flaxblocks.preprocess.preprocess": "flaxblocks.weights.preprocess.preprocess",
    "flaxblocks.preprocess.preprocess_batch": "flaxblocks.weights.preprocess.preprocess_batch",
    "flaxblocks.preprocess.resize_and_crop": "flaxblocks.weights.preprocess.resize_and_crop",
    "flaxblocks.preprocess.to_rgb": "flaxblocks.weights.preprocess.to_rgb",
}
CALLED = {"flaxblocks.preprocess": "flaxblocks.create.preprocess"}  # a function's name of today
OWNERS = {old.rpartition(".")[0] for old in NAMES}


class Emptied(ModuleType):
    """A module that is no more. One whose name is a function's of today is that function too, as
    Python puts it in its place in the package when it is imported.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the function of today gives. Raises: TypeError where there is none."""
        if self.__name__ not in CALLED:
            raise TypeError(f"module {self.__name__!r} is not callable")
        today = getattr(import_module(CALLED[self.__name__]), self.__name__.rpartition(".")[2])
        return today(*args, **kwargs)


class Forwarder:
    """Finds and loads the modules of `MOVED`, and those that names of `NAMES` were in."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Say that this is the loader of a module that has moved or is no more; let one that is
        there still be loaded as ever, and then know its old names.
        """
        if name in MOVED:
            return ModuleSpec(name, self)  # pyright: ignore
        spec = PathFinder.find_spec(name, path) if name in OWNERS else None
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module
            spec.loader.exec_module = lambda module: (load(module), _know_old_names(module))[1]
            return spec
        return ModuleSpec(name, self, is_package=True) if name in OWNERS else None  # pyright: ignore

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """An empty module."""
        return Emptied(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Put the module that has moved in the place of the empty one, or fill that with names."""
        if module.__name__ in MOVED:
            sys.modules[module.__name__] = import_module(MOVED[module.__name__])
        else:
            _know_old_names(module)


def _know_old_names(module: ModuleType) -> None:
    """Have a module look the names of `NAMES` up where they are, when they are asked for."""
    known: dict[str, Any] = vars(module)
    own, start = known.get("__getattr__"), f"{module.__name__}."

    def find(name: str) -> Any:
        home, _, today = NAMES.get(start + name, "").rpartition(".")
        if home:
            return getattr(import_module(home), today)
        if own is not None:
            return own(name)
        raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

    known["__getattr__"] = find
    old = [name.removeprefix(start) for name in NAMES if name.rpartition(".")[0] + "." == start]
    known.setdefault("__all__", old)


def forward_old_names() -> None:
    """Have Python find what has moved. Called once, when flaxblocks is imported."""
    sys.meta_path.insert(0, Forwarder())
