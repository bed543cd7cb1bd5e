"""The modules that a diagram draws as one box, and the labels of the boxes."""

from collections.abc import Mapping

from flax import nnx

from flaxblocks.nn.activation import identity
from flaxblocks.nn.layer import title_of
from flaxblocks.nn.parameters import count_parameters, own_parameters

__all__ = ["activation_name", "is_layer", "outermost", "title", "titles"]


def is_layer(module: nnx.Module) -> bool:
    """Whether a module is drawn as one box: it has a title, or no submodule has parameters."""
    return title_of(module) is not None or 0 < own_parameters(module) == count_parameters(module)


def outermost(modules: Mapping[str, nnx.Module]) -> list[str]:
    """The paths of those layers among `modules` that are not inside another layer."""
    layers = [path for path, module in modules.items() if path and is_layer(module)]
    return [p for p in layers if not any(p.startswith(f"{other}.") for other in layers)]


def titles(ran: Mapping[str, nnx.Module], path: str) -> tuple[str, ...]:
    """The titles of the layers at or below `path`, among the modules that ran, in order."""
    below = {p: module for p, module in ran.items() if f"{p}.".startswith(f"{path}.")}
    return tuple(title(below[p]) for p in outermost(below))


def title(module: nnx.Module) -> str:
    """A layer's short description, such as `3x3 depthwise, stride 2`, else its class name."""
    return title_of(module) or type(module).__name__


def activation_name(function: object) -> str:
    """The name of an activation; "" for the identity."""
    return "" if function is identity else getattr(function, "__name__", "activation")
