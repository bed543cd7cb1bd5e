"""What the tests of layouts share: a library's own network renamed as another library names it, and
held against ours.
"""

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn

import flaxblocks as fb
from flaxblocks.parity.compiling import quick_to_compile
from tests.support import images

BOUND = 1e-12  # of float64: a sum in another order
State = Mapping[str, torch.Tensor]
Rule = tuple[str, str | Callable[[re.Match], str]]
HEAD: Rule = (r"fc\.", "head.fc.")  # torchvision's, as three libraries name it


def lively(model: nn.Module) -> nn.Module:
    """In evaluation mode and float64, with norms that do something, and counts."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            state = module.state_dict()  # the tensors themselves
            for name in ("weight", "running_var"):
                state[name].uniform_(0.5, 1.5)
            for name in ("bias", "running_mean"):
                state[name].uniform_(-0.3, 0.3)
            state["num_batches_tracked"].fill_(7)
    return model.double().eval()


def renamed(state: State, *rules: Rule) -> dict[str, torch.Tensor]:
    """The first rule that a key begins with is applied to it."""
    names = {}
    for key, value in state.items():
        for pattern, new in rules:
            name, count = re.subn(f"^{pattern}", new, key)
            if count:
                names[name] = value
                break
        else:
            raise AssertionError(f"no rule for {key}")
    assert len(names) == len(state)
    return names


def first(state: State, word: str, block: str) -> dict[str, torch.Tensor]:
    """In each block, whose prefix matches `block`, the keys with `word` before the others."""
    placed = {}
    for i, key in enumerate(state):
        found = re.match(block, key)
        prefix = found[0] if found else key
        start = next(n for n, other in enumerate(state) if other.startswith(prefix))
        placed[key] = (start, bool(found) and word not in key, i)
    return {key: state[key] for key in sorted(placed, key=placed.__getitem__)}


@cache
def _program(options: tuple[tuple[str, Any], ...]) -> Callable[..., jax.Array]:
    """Runs a model; one network that comes in several layouts is compiled once."""

    def run(graphdef: nnx.GraphDef, variables: nnx.State, x: np.ndarray) -> jax.Array:
        return nnx.merge(graphdef, variables)(x)

    return jax.jit(run, static_argnums=0, compiler_options=dict(options))


def check(row: str, layout: str, state: State, oracle: nn.Module, size=(64, 64), **config: Any):
    """`state` loads as `layout` in whatever order, gives the oracle's results, and comes back key
    by key.
    """
    shuffled = dict(sorted(state.items()))
    x = images(3, size)
    with jax.enable_x64(True):
        model = fb.create_model(row, weights=shuffled, param_dtype=jnp.float64, **config)
        model.eval()
        options = quick_to_compile(model, grad=False)
        graphdef, variables = nnx.split(model)
        ours = np.asarray(_program(tuple(options.items()))(graphdef, variables, x))
        back = fb.to_torch(model, layout=layout)
        assert list(fb.to_torch(model)) == list(back), "it is the layout that was found"
    with torch.no_grad():
        theirs = oracle(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    assert np.abs(ours - theirs).max() <= BOUND * np.abs(theirs).max()
    assert list(back) == list(state)
    for key, value in state.items():
        np.testing.assert_array_equal(back[key], value.numpy(), err_msg=key)
