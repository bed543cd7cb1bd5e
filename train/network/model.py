"""The network as a training step uses it: plain dicts of arrays, and functions of them.

The NNX module is built once and split into dicts: trained parameters, frozen parameters and running
statistics. Each call of `nnx.jit` would traverse the module, which takes 20 ms for MobileNetV2; a
call with dicts takes 0.25 ms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import flaxblocks as fb
from flaxblocks.nn.norm import BatchNorm

__all__ = ["Arrays", "Network"]

Arrays = Mapping[str, Any]  # nested, with arrays as leaves
HAS_MODES = (BatchNorm, nnx.Dropout, fb.nn.StochasticDepth)
BACKBONE = "backbone"  # all but the head


@dataclass(frozen=True)
class Network:
    """A model split into its graph and the arrays that a training step treats differently.

    Attributes:
        model: the module itself, used for export; its arrays are the initial ones.
        params: parameters that are trained.
        frozen: parameters that are not trained.
        buffers: running statistics.
        training: the graph in training mode, with frozen layers in evaluation mode.
        evaluation: the graph in evaluation mode.
        streams: random streams of dropout and stochastic depth in their initial state.
    """

    model: Any
    params: Arrays
    frozen: Arrays
    buffers: Arrays
    training: nnx.GraphDef
    evaluation: nnx.GraphDef
    streams: Arrays

    @classmethod
    def of(cls, model: Any, freeze: Sequence[str] = ()) -> "Network":
        """Split `model`.

        Args:
            model: any module that takes an image batch.
            freeze: patterns of native parameter paths to freeze, such as `stem*`; `backbone` is
                everything but `head`.

        Raises: ValueError if a pattern matches no parameter or no parameter is left to train.
        """
        patterns = list(freeze)
        _check_patterns(model, patterns)

        def trained(path: tuple, variable: nnx.Variable) -> bool:
            return isinstance(variable, nnx.Param) and not _frozen(_dotted(path), patterns)

        model.eval()
        evaluation = nnx.graphdef(model)
        model.train()
        for path, module in nnx.iter_modules(model):
            if isinstance(module, HAS_MODES) and _frozen(_dotted(path), patterns):
                module.eval()
        training, params, frozen, buffers, streams = nnx.split(
            model, trained, nnx.Param, nnx.BatchStat, ...
        )
        parts = (nnx.to_pure_dict(part) for part in (params, frozen, buffers, streams))
        params, frozen, buffers, streams = parts
        return cls(model, params, frozen, buffers, training, evaluation, streams)

    def train(
        self, params: Arrays, frozen: Arrays, buffers: Arrays, images: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, Arrays]:
        """The logits in training mode and the updated running statistics.

        Args:
            params: parameters in the form of `self.params`.
            frozen: parameters in the form of `self.frozen`.
            buffers: running statistics in the form of `self.buffers`.
            images: `(N, H, W, C)`, normalised.
            key: random key for dropout and stochastic depth.
        """
        streams = _reseeded(self.streams, key)
        model = nnx.merge(self.training, params, frozen, buffers, streams, copy=True)
        return model(images), nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

    def evaluate(
        self, params: Arrays, frozen: Arrays, buffers: Arrays, images: jax.Array
    ) -> jax.Array:
        """The logits in evaluation mode."""
        model = nnx.merge(self.evaluation, params, frozen, buffers, self.streams, copy=True)
        return model(images)

    def with_arrays(self, *parts: Arrays) -> Any:
        """`self.model` in evaluation mode, updated with `parts`: dicts such as `self.params`."""
        for part in parts:
            nnx.update(self.model, jax.tree.map(jnp.asarray, part))
        self.model.eval()
        return self.model


def _reseeded(streams: Arrays, key: jax.Array) -> Arrays:
    """The streams in their initial state, each with its own key derived from `key`."""
    leaves, tree = jax.tree.flatten(streams)
    new = [
        jax.random.fold_in(key, i)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else jnp.zeros_like(leaf)
        for i, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(tree, new)


def _dotted(path: Sequence[Any]) -> str:
    return ".".join(map(str, path))


def _frozen(path: str, patterns: Sequence[str]) -> bool:
    return any(
        not path.startswith("head.") if pattern == BACKBONE else fnmatch(path, pattern)
        for pattern in patterns
    )


def _hint(pattern: str, paths: Sequence[str]) -> str:
    whole = f"{pattern.rstrip('.')}.*"
    if any(fnmatch(path, whole) for path in paths):
        return f": did you mean --freeze {whole!r}?"
    return (
        f"; there are, for example, {', '.join(paths[:2])} and {paths[-1]}, and `{BACKBONE}` is "
        "all but the head"
    )


def _check_patterns(model: Any, patterns: Sequence[str]) -> None:
    paths = [_dotted(path) for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))]
    for pattern in patterns:
        if not any(_frozen(path, [pattern]) for path in paths):
            raise ValueError(f"--freeze {pattern} matches no parameter{_hint(pattern, paths)}")
    if all(_frozen(path, patterns) for path in paths):
        raise ValueError(f"--freeze {' --freeze '.join(patterns)} leaves no parameter to train")
