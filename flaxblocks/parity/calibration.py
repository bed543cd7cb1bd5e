"""Random weights that hide nothing and amplify little, for a PyTorch model. Imports torch when
called.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["calibrate"]

SPREAD = 0.2  # standard deviation of what is drawn about a constant
ADDITIONS = {"AddBackward0", "torch::autograd::CopySlices"}  # x + y, and x[:, :c] += y
NORM = "NativeBatchNormBackward0"


def calibrate(
    model: "nn.Module", input_shape: tuple[int, ...], *, passes: int = 3, seed: int = 0
) -> None:
    """Give a freshly built PyTorch model weights that hide nothing, in place; it ends in evaluation
    mode.

    Parameters that start constant, as scales of 1 and biases of 0 do, are drawn about their value
    (a forgotten or a swapped one would not show), and the running statistics are the average over
    a few training-mode passes on random images (0 and 1 hide likewise, and statistics that lag
    behind let a deep network amplify rounding). The last scale of a residual branch is drawn
    about 0, where training usually starts it: a deep network of branches as strong as their skips
    amplifies a last bit a thousandfold.

    Args:
        model: any module with batch norms.
        input_shape: `(N, C, H, W)` of the random images; N * H * W must leave each norm more than
            one value.
        passes: training-mode passes.
        seed: of the draws, and of dropout's in the passes; torch's own random state is left as it
            was.
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
            norm.momentum = None  # the plain average
        model.train()
        for _ in range(passes):
            model(draw(input_shape).to(dtype))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    model.eval()


def _last_scales(model: "nn.Module", image: "torch.Tensor") -> "list[torch.Tensor]":
    """The scale of the last norm of every residual branch, found in the graph of the gradient: of
    two summands the deeper one is the branch.
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
    """Every node of a graph, each after those it was computed from."""
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
    """The scale of the norm that a branch ends with, reached through whatever follows the norm but
    a convolution: an activation, a gate, a slice, a drop. Empty if there is no such norm.
    """
    nodes = [node]
    while nodes:
        node = nodes.pop(0)
        if node.name() == NORM:
            return [p.variable for p in _parents(node)[1:2] if hasattr(p, "variable")]
        if node.name() not in {"ConvolutionBackward0", *ADDITIONS}:
            nodes += _parents(node)
    return []
