"""What a layer does, in the few words that stand in a picture."""

from collections.abc import Mapping, Sequence

from flax import nnx

from flaxblocks.blocks.conv_norm_act import ConvNormAct
from flaxblocks.blocks.squeeze_excite import SqueezeExcite
from flaxblocks.inspect.costs import own_parameters
from flaxblocks.inspect.summary import count_parameters
from flaxblocks.nn.activation import identity
from flaxblocks.nn.conv import Conv
from flaxblocks.nn.linear import Linear
from flaxblocks.nn.pool import AvgPool, BlurPool, MaxPool

__all__ = ["activation_name", "is_layer", "outermost", "title", "titles"]

LAYERS = (
    *(ConvNormAct, SqueezeExcite, Conv, Linear, MaxPool, AvgPool, BlurPool),
    *(nnx.Conv, nnx.Linear),
)


def is_layer(module: nnx.Module) -> bool:
    """It is drawn as one box: a layer that is known here, or one all of whose parameters are its
    own.
    """
    return isinstance(module, LAYERS) or 0 < own_parameters(module) == count_parameters(module)


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
    layer = module.conv if isinstance(module, ConvNormAct) else module
    if isinstance(layer, Conv):
        return _conv(layer.kernel_size, layer.groups, layer.in_features, layer.stride)
    if isinstance(layer, nnx.Conv):
        sizes, stride = layer.kernel_size, layer.strides
        strides = tuple(stride) if isinstance(stride, Sequence) else (stride or 1,) * len(sizes)
        return _conv(sizes, layer.feature_group_count, layer.in_features, strides)
    if isinstance(layer, MaxPool | AvgPool):
        kind = "max" if isinstance(layer, MaxPool) else "average"
        return f"{_by(layer.kernel_size)} {kind} pool{_stride(layer.stride)}"
    if isinstance(layer, BlurPool):
        return f"3x3 blur{_stride((layer.stride, layer.stride))}"
    if isinstance(layer, Linear | nnx.Linear):
        return "linear"
    return "squeeze-excite" if isinstance(layer, SqueezeExcite) else type(layer).__name__


def _conv(sizes: Sequence[int], groups: int, in_features: int, stride: Sequence[int]) -> str:
    kind = "conv" if groups == 1 else f"conv in {groups} groups"
    kind = "depthwise" if groups == in_features > 1 else kind
    return f"{_by(sizes)} {kind}{_stride(stride)}"


def _by(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


def _stride(stride: Sequence[int]) -> str:
    if set(stride) == {1}:
        return ""
    return f", stride {stride[0] if len(set(stride)) == 1 else tuple(stride)}"


def activation_name(function: object) -> str:
    """The name of an activation; "" for none."""
    return "" if function is identity else getattr(function, "__name__", "activation")
