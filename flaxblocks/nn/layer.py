"""What a layer declares about itself, so that no other code needs to know its type.

A layer of this package, or a user's own, is one class in one file:

    class Gain(nnx.Module):
        torch_names = (TorchName("gain", "weight"),)  # `load_torch` and `to_torch` convert it
        title = "gain"  # label of its box in a diagram; by default the name of the class

        def multiply_adds(self, shape: tuple[int, ...]) -> int | None:  # for `flaxblocks info`
            return math.prod(shape)

`torch_names` names every variable, in the order of PyTorch's state dict; a variable that is None,
such as an absent bias, is skipped. `multiply_adds` takes the shape of the layer's output for one
image, without the batch axis, and returns None if the count does not follow from that shape;
submodules count their own. `torch_names` and `title` may be properties. For Flax's own layers,
`flaxblocks.nn.flax_layers` holds the same information.
"""

from collections.abc import Callable
from typing import Any

from flax import nnx

from flaxblocks.nn.flax_layers import flax_layer
from flaxblocks.nn.parameters import own_parameters
from flaxblocks.nn.torch_names import TorchName

__all__ = ["TorchName", "multiply_adds_of", "title_of", "torch_names_of"]


def torch_names_of(module: Any) -> tuple[TorchName, ...] | None:
    """PyTorch's names of a layer's variables; None for a block, whose layers have their own."""
    if not isinstance(module, nnx.Module):
        return None
    names = getattr(module, "torch_names", None)
    if names is not None:
        return tuple(TorchName(*name) for name in names)
    known = flax_layer(module)
    return None if known is None else known.torch_names


def multiply_adds_of(module: nnx.Module, shape: tuple[int, ...]) -> int | None:
    """Multiply-adds of one layer, without its submodules.

    Args:
        module: any module, concrete or abstract.
        shape: shape of its output for one image, without the batch axis.

    Returns: 0 for a module without parameters of its own; None if no rule is known.
    """
    count: Callable[..., int | None] | None = getattr(module, "multiply_adds", None)
    if callable(count):
        return count(shape)
    known = flax_layer(module)
    if known is not None:
        return known.multiply_adds(module, shape)
    return None if own_parameters(module) else 0


def title_of(module: nnx.Module) -> str | None:
    """A layer's short description, such as `3x3 depthwise, stride 2`; None if it has none."""
    title = getattr(module, "title", None)
    if isinstance(title, str):
        return title
    known = flax_layer(module)
    return None if known is None or known.title is None else known.title(module)
