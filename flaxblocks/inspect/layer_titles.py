"""What is drawn as one box, and the few words that stand in it."""

from collections.abc import Mapping

from flax import nnx

from flaxblocks.nn.activation import identity
from flaxblocks.nn.layer import title_of
from flaxblocks.nn.parameters import count_parameters, own_parameters

__all__ = ["activation_name", "is_layer", "outermost", "title", "titles"]


def is_layer(module: nnx.Module) -> bool:
    """It is drawn as one box: what says its title, or has all of its parameters for its own."""
    return title_of(module) is not None or 0 < own_parameters(module) == count_parameters(module)


def outermost(modules: Mapping[str, nnx.Module]) -> list[str]:
    """The paths of the layers among them that lie in no other layer."""
    layers = [path for path, module in modules.items() if path and is_layer(module)]
    return [p for p in layers if not any(p.startswith(f"{other}.") for other in layers)]


def titles(ran: Mapping[str, nnx.Module], path: str) -> tuple[str, ...]:
    """What the layers at and below `path` do, of the modules that ran, in order."""
    below = {p: module for p, module in ran.items() if f"{p}.".startswith(f"{path}.")}
    return tuple(title(below[p]) for p in outermost(below))


def title(module: nnx.Module) -> str:
    """What a layer does, in a few words: `3x3 depthwise, stride 2`; else the name of its class."""
    return title_of(module) or type(module).__name__


def activation_name(function: object) -> str:
    """The name of an activation; "" for none."""
    return "" if function is identity else getattr(function, "__name__", "activation")
