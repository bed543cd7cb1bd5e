"""What a layer says of itself, so that nothing else need know it by its type.

A layer of this package, or a user's own, is one class in one file:

    class Gain(nnx.Module):
        torch_names = (TorchName("gain", "weight"),)  # `load_torch` and `to_torch` convert it
        title = "gain"  # its box in a picture; else the name of its class

        def multiply_adds(self, shape: tuple[int, ...]) -> int | None:  # `flaxblocks info` has it
            return math.prod(shape)

`torch_names` names every variable, in the order of PyTorch's state dict; those that a layer lacks,
such as a bias, are passed over. `multiply_adds` takes the shape of the layer's output for one
image, without the batch axis, and gives None where that does not tell; what lies below the layer
counts by itself. Names and title may be properties, where they depend on the layer. What Flax's
own layers cannot say stands in `flaxblocks.nn.flax_layers`.
"""

from collections.abc import Callable
from typing import Any

from flax import nnx

from flaxblocks.nn.flax_layers import flax_layer
from flaxblocks.nn.parameters import own_parameters
from flaxblocks.nn.torch_names import TorchName

__all__ = ["TorchName", "multiply_adds_of", "title_of", "torch_names_of"]


def torch_names_of(module: Any) -> tuple[TorchName, ...] | None:
    """What PyTorch calls the variables of a layer; None for a block, whose layers have names."""
    if not isinstance(module, nnx.Module):
        return None
    names = getattr(module, "torch_names", None)
    if names is not None:
        return tuple(TorchName(*name) for name in names)
    known = flax_layer(module)
    return None if known is None else known.torch_names


def multiply_adds_of(module: nnx.Module, shape: tuple[int, ...]) -> int | None:
    """Of one layer, without what lies below it.

    Args:
        module: any; concrete or abstract.
        shape: of its output for one image, without the batch axis.

    Returns: 0 for a module without parameters of its own; None where no rule is known.
    """
    count: Callable[..., int | None] | None = getattr(module, "multiply_adds", None)
    if callable(count):
        return count(shape)
    known = flax_layer(module)
    if known is not None:
        return known.multiply_adds(module, shape)
    return None if own_parameters(module) else 0


def title_of(module: nnx.Module) -> str | None:
    """What a layer does, in a few words: `3x3 depthwise, stride 2`; None where it does not say."""
    title = getattr(module, "title", None)
    if isinstance(title, str):
        return title
    known = flax_layer(module)
    return None if known is None or known.title is None else known.title(module)
