"""Random weights for a PyTorch model that reveal mistakes and amplify rounding little.

Imports torch when called.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["calibrate"]

SPREAD = 0.2  # standard deviation of the values drawn around a constant
ADDITIONS = {"AddBackward0", "torch::autograd::CopySlices"}  # x + y, and x[:, :c] += y
NORM = "NativeBatchNormBackward0"


def calibrate(
    model: "nn.Module", input_shape: tuple[int, ...], *, passes: int = 3, seed: int = 0
) -> None:
    """Give a freshly built PyTorch model weights that reveal mistakes, in place, and put it in
    evaluation mode.

    Constant parameters, such as scales of 1 and biases of 0, are redrawn around their value,
    because a forgotten or swapped one would go unnoticed. Running statistics become the average
    over a few training-mode passes on random images, because 0 and 1 hide mistakes as well, and
    statistics far from the actual ones let a deep network amplify rounding. The last scale of each
    residual branch is drawn around 0, where training often starts it: a deep network whose branches
    are as strong as their skips amplifies an error in the last bit a thousandfold.

    Args:
        model: any module with batch norms.
        input_shape: `(N, C, H, W)` of the random images; N * H * W must leave each norm more than
            one value per channel.
        passes: number of training-mode passes.
        seed: seed of the draws and of dropout; torch's global random state does not change.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)

    def draw(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    dtype = next(model.parameters()).dtype
    scales = _last_scales(model.eval(), torch.zeros((1, *input_shape[1:]), dtype=dtype))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for scale in scales:
            scale.zero_()
        for parameter in model.parameters():
            if parameter.min() == parameter.max():
                parameter += SPREAD * draw(parameter.shape).to(dtype)
        norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # plain average over all passes
        model.train()
        for _ in range(passes):
            model(draw(input_shape).to(dtype))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    model.eval()


def _last_scales(model: "nn.Module", image: "torch.Tensor") -> "list[torch.Tensor]":
    """The scale of the last norm of every residual branch, found in the autograd graph, where the
    deeper one of two summands is the branch.
    """
    output = model(image.requires_grad_())
    outputs = output if isinstance(output, list | tuple) else [output]
    order = list(_parents_first(one.grad_fn for one in outputs))
    depth = {}
    for node in order:
        depth[node] = 1 + max((depth[parent] for parent in _parents(node)), default=0)
    scales = []
    for node in order:
        summands = _parents(node)
        if node.name() in ADDITIONS and len(summands) == 2:
            scales += _nearest_scale(max(summands, key=depth.__getitem__))
    return scales


def _parents(node: Any) -> list[Any]:
    return [parent for parent, _ in node.next_functions if parent is not None]


def _parents_first(outputs: Iterable[Any]) -> Iterator[Any]:
    """All nodes of a graph, each after the nodes that it was computed from."""
    seen, stack = set(), [(output, False) for output in outputs]
    while stack:
        node, parents_done = stack.pop()
        if parents_done:
            yield node
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(parent, False) for parent in _parents(node)]


def _nearest_scale(node: Any) -> "list[torch.Tensor]":
    """The scale of the norm at the end of a branch, searched through anything that may follow it
    except a convolution or an addition: an activation, a gate, a slice, dropout. Empty if there is
    none.
    """
    nodes = [node]
    while nodes:
        node = nodes.pop(0)
        if node.name() == NORM:
            return [p.variable for p in _parents(node)[1:2] if hasattr(p, "variable")]
        if node.name() not in {"ConvolutionBackward0", *ADDITIONS}:
            nodes += _parents(node)
    return []
