"""The bijection between a module's variables and a PyTorch state dict: names, axes, order.

It has two sources. A layer declares the names of its variables in PyTorch and the order of their
axes (`torch_names`, see `flaxblocks.nn.layer`). A *layout* declares the names of the modules below
a module or block. It is an item of the class attribute

    layouts = {"torchvision": keys, "timm": other_keys}

whose functions take the module and yield pairs (native path, foreign path; "foreign" is PyTorch's)
of the modules below it, in the order of PyTorch's `state_dict()`:

    def keys(block):
        yield "conv", "0"  # a layer: it declares the names of its variables itself
        yield "expand", "1"  # a block with a layout of the same name, which continues from here
        yield "head", "fc", "conv1x1"  # a Linear that PyTorch stores as a 1x1 convolution
        yield "expand", "2", "output"  # no variables: modules with the same output, for `parity`
        yield "gamma", "layer_scale"  # a variable of the block itself

A pair whose native module is None is skipped, so that one function serves every configuration. A
pair whose native path does not exist, and a variable that no pair reaches, are errors. Every pair
of modules also says that both have the same output; "output" pairs say only that.

A block has a layout only if every family that uses the block gives its layers the same names (such
as the numbers of a Sequential). Otherwise the layouts of the families contain the pairs for the
layers of the block.

The first layout of a class is its default. Every module also has "flax", the native naming. A lone
layer has the layout "torch", which consists of its `torch_names`.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from flax import nnx

from flaxblocks.nn.layer import torch_names_of
from flaxblocks.nn.paths import descend

__all__ = [
    "NATIVE",
    "Entry",
    "KeyMap",
    "ModulePair",
    "descend",
    "key_map",
    "key_maps",
    "layouts_of",
    "variables_of",
]

NATIVE = "flax"
OUTPUT = "output"
OLDER_WORD = "dialects"  # the older name of the attribute
CONVERTED = (nnx.Param, nnx.BatchStat)  # the types of variables that a state dict holds


@dataclass(frozen=True)
class Entry:
    """One variable with both of its names.

    Attributes:
        native: its path in the Flax module, such as `stem.conv.kernel`.
        foreign: its key in the PyTorch state dict.
        shape: its shape in Flax.
        axes: the native axes in PyTorch's order; None if the order is the same.
        stored_as: "conv1x1" or "linear" if PyTorch stores the layer as the other kind; else None.
    """

    native: str
    foreign: str
    shape: tuple[int, ...]
    axes: tuple[int, ...] | None = None
    stored_as: str | None = None

    @property
    def foreign_shape(self) -> tuple[int, ...]:
        """Its shape in PyTorch."""
        permuted = tuple(self.shape[a] for a in self.axes) if self.axes else self.shape
        if self.stored_as == "conv1x1":
            return (*permuted, 1, 1)
        return permuted[:2] if self.stored_as == "linear" else permuted

    def to_foreign(self, array: np.ndarray) -> np.ndarray:
        """A native array with PyTorch's axes: contiguous, writable, in memory of its own."""
        permuted = array.transpose(self.axes) if self.axes else array
        return np.array(permuted.reshape(self.foreign_shape), order="C")

    def to_native(self, array: np.ndarray) -> np.ndarray:
        """A PyTorch array with Flax's axes: contiguous, writable, in memory of its own."""
        if not self.axes:
            return np.array(array, order="C").reshape(self.shape)
        permuted_shape = tuple(self.shape[a] for a in self.axes)
        permuted = array.reshape(permuted_shape)
        return np.array(permuted.transpose(np.argsort(self.axes)), order="C")


@dataclass(frozen=True)
class ModulePair:
    """A layer or block that both frameworks have, with the same output in both.

    Attributes:
        native: its path in the Flax module; "" for the root.
        foreign: its path in the PyTorch module.
        stored_as: as in `Entry`; the PyTorch output then has two axes of length 1 more or fewer.
    """

    native: str
    foreign: str
    stored_as: str | None = None


@dataclass(frozen=True)
class KeyMap:
    """All variables of a module in one layout, in the order of PyTorch's state dict.

    Attributes:
        layout: name of the layout.
        entries: one for each key; a variable that modules share has one for each of its names.
        modules: the modules that both frameworks have.
    """

    layout: str
    entries: tuple[Entry, ...]
    modules: tuple[ModulePair, ...]

    @cached_property
    def by_foreign(self) -> dict[str, Entry]:
        """Foreign key -> entry."""
        return {entry.foreign: entry for entry in self.entries}

    def reshaped(self, variables: Mapping[str, nnx.Variable]) -> "KeyMap":
        """The same names for a model with these variables, of other shapes or without a head."""
        entries = (
            replace(entry, shape=tuple(variables[entry.native].shape))
            for entry in self.entries
            if entry.native in variables
        )
        return replace(self, entries=tuple(entries))


def layouts_of(module: nnx.Module) -> tuple[str, ...]:
    """The names of a module's layouts, the default first and "flax" last."""
    return (*_layouts(module), NATIVE)


def _layouts(module: nnx.Module | nnx.Variable) -> Mapping[str, Callable]:
    own = getattr(module, "layouts", None) or getattr(module, OLDER_WORD, {})
    if torch_names_of(module) is not None:  # a layer, which may have layouts of its own too
        return {"torch": lambda _: [("", "")], **own}
    return own


def variables_of(module: nnx.Module) -> dict[str, nnx.Variable]:
    """The variables of a module that a state dict holds, by native path. A shared one appears once,
    under its first path.
    """
    flat = nnx.to_flat_state(nnx.state(module, nnx.Any(*CONVERTED)))
    return {".".join(map(str, path)): variable for path, variable in flat}


def key_map(module: nnx.Module, layout: str, strict: bool = True) -> KeyMap:
    """The bijection between the variables of `module` and the keys of a PyTorch state dict.

    Args:
        module: concrete or from `nnx.eval_shape`; only shapes are used.
        layout: one of `layouts_of(module)`.
        strict: refuse variables for which the layout has no name, such as those of a user's own
            layers, and names of modules that do not exist; with False both are skipped.

    Raises: ValueError if the module has no such layout, or the layout lacks a variable or uses a
        name twice.
    """
    return _key_map(module, layout, variables_of(module), strict)


def key_maps(
    module: nnx.Module, variables: Mapping[str, nnx.Variable] | None = None
) -> Iterator[KeyMap]:
    """The key map of each of `layouts_of(module)`, made one by one.

    A layout that lacks a variable of the module is skipped, because it belongs to another network.
    If all PyTorch layouts do, as with a user's own norm, and the caller goes on after the native
    one, the error of the first of them is raised.
    """
    variables = variables_of(module) if variables is None else variables
    failures: list[ValueError] = []
    known = layouts_of(module)
    for layout in known:
        try:
            yield _key_map(module, layout, variables)
        except ValueError as error:
            failures.append(error)
    if failures and len(failures) == len(known) - 1:  # the native layout never fails
        raise failures[0]


def _key_map(
    module: nnx.Module, layout: str, variables: Mapping[str, nnx.Variable], strict: bool = True
) -> KeyMap:
    if layout == NATIVE:
        own = (Entry(path, path, tuple(v.shape)) for path, v in variables.items())
        return KeyMap(NATIVE, tuple(own), ())
    if layout not in _layouts(module):
        known = ", ".join(map(repr, layouts_of(module)))
        raise ValueError(f"`layout` (={layout!r}): {type(module).__name__} has {known}")
    # A shared variable has only one path in `variables`, but an entry for each of its paths.
    first = {id(variable): path for path, variable in variables.items()}
    entries, reached, modules, named = [], [], [], set()
    for native, foreign, kind, node in _walk(module, layout, "", "", strict):
        named.add(native)
        if not isinstance(node, nnx.Variable):
            modules.append(ModulePair(native, foreign, *(k for k in kind if k != OUTPUT)))
        if kind != (OUTPUT,):
            for entry, variable in _leaf(node, native, foreign, *kind):
                entries.append(entry)
                path = first[id(variable)]
                reached.append(entry if path == entry.native else replace(entry, native=path))
    forgotten = set(variables) - {entry.native for entry in reached} if strict else set()
    hint = _hint(module, layout, forgotten, named)
    _check_bijection(module, layout, entries, forgotten, hint)
    return KeyMap(layout, tuple(reached), tuple(modules))


def _walk(
    module: nnx.Module, layout: str, native: str, foreign: str, strict: bool
) -> Iterator[tuple[str, str, tuple[str, ...], Any]]:
    """Every pair of a layout, with its kind and the module or variable at that path.

    It descends into blocks that have the layout themselves, and into `nnx.Sequential`.
    """
    names = _layouts(module).get(layout, _numbered)
    for child_native, child_foreign, *kind in names(module):
        try:
            child = descend(module, child_native)
        except (AttributeError, IndexError, KeyError, TypeError):
            if not strict:
                continue
            raise ValueError(
                f"layout {layout!r} of {type(module).__name__} has a name for {child_native!r}, "
                "but this one has no such module"
            ) from None
        if child is None:
            continue
        path, key = _join(native, child_native), _join(foreign, child_foreign)
        yield path, key, tuple(kind), child
        if kind != [OUTPUT] and child_native:
            yield from _walk(child, layout, path, key, strict)


def _numbered(module: Any) -> Iterator[tuple[str, str]]:
    """The names of an `nnx.Sequential`'s layers in PyTorch; nothing for any other module."""
    if isinstance(module, nnx.Sequential):
        for i, layer in enumerate(module.layers):
            if isinstance(layer, nnx.Module):
                yield f"layers.{i}", str(i)


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _leaf(
    layer: Any, native: str, foreign: str, stored_as: str | None = None
) -> Iterator[tuple[Entry, nnx.Variable]]:
    """The variables of a layer, with their names; nothing for a block."""
    if isinstance(layer, nnx.Variable):
        yield Entry(native, foreign, tuple(layer.shape)), layer
        return
    for name, key, axes in torch_names_of(layer) or ():
        variable = getattr(layer, name, None)
        if variable is not None:
            reshape = stored_as if name == "kernel" else None
            if axes is not None and len(axes) != len(variable.shape):
                raise ValueError(
                    f"{_join(native, name)} has shape {tuple(variable.shape)}, which is not of one "
                    "model: convert the members of an ensemble one by one, each a "
                    "`jax.tree.map(lambda array: array[i], nnx.state(model))`"
                )
            path, full_key = _join(native, name), _join(foreign, key)
            yield Entry(path, full_key, tuple(variable.shape), axes, reshape), variable


def _hint(module: nnx.Module, layout: str, forgotten: set[str], named: set[str]) -> str:
    """How to give names to the variables of a module that a layout reaches but cannot name, such as
    a user's own norm; "" if there is no such module.
    """
    for path in sorted(forgotten):
        steps = path.split(".")
        owners = [(".".join(steps[:i]), steps[i]) for i in reversed(range(len(steps)))]
        owner, step = next((found for found in owners if found[0] in named), (None, ""))
        if owner is None:
            continue
        layer = descend(module, owner)
        if isinstance(layer, nnx.BatchNorm):
            return "; Flax's batch norm has different statistics: use `flaxblocks.nn.BatchNorm`"
        return (
            f"; `{type(layer).__name__}` needs `layouts = {{{layout!r}: lambda _: "
            f"[({step!r}, NAME)]}}`, and layout {NATIVE!r} needs none"
        )
    return ""


def _check_bijection(
    module: nnx.Module, layout: str, entries: list[Entry], forgotten: set[str], hint: str
) -> None:
    natives = [entry.native for entry in entries]
    foreigns = [entry.foreign for entry in entries]
    faults = {
        "has no name for": sorted(forgotten),
        "has twice": sorted(_repeated(natives) | _repeated(foreigns)),
    }
    for fault, names in faults.items():
        if names:
            listed = ", ".join(names[:10]) + (
                f" and {len(names) - 10} more" if len(names) > 10 else ""
            )
            rest = (
                (hint or " (`to_torch(strict=False)` leaves them out)")
                if fault == "has no name for"
                else ""
            )
            kind = type(module).__name__
            raise ValueError(f"layout {layout!r} of {kind} {fault}: {listed}{rest}")


def _repeated(names: list[str]) -> set[str]:
    return {name for name, group in itertools.groupby(sorted(names)) if len(list(group)) > 1}
