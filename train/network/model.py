"""The network as a training step sees it: plain dicts of arrays, and functions over them.

NNX builds the module, once. What a step gets is dicts: the parameters that are trained, those that
are not, and the running statistics. A call of `nnx.jit` walks the module, 20 ms for MobileNetV2; a
dict costs a quarter of a millisecond.
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

Arrays = Mapping[str, Any]  # nested, arrays at its leaves
HAS_MODES = (BatchNorm, nnx.Dropout, fb.nn.StochasticDepth)
BACKBONE = "backbone"  # all but the head


@dataclass(frozen=True)
class Network:
    """A model split into what changes and what does not.

    Attributes:
        model: the module itself, to export through; its own arrays are where the run began.
        params: what the optimiser moves.
        frozen: parameters that stay.
        buffers: running statistics.
        training: the graph in training mode, frozen layers in evaluation mode.
        evaluation: the graph in evaluation mode.
        streams: random streams of dropout and stochastic depth, as the model was built.
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
        """Take `model` apart.

        Args:
            model: any module of an image batch.
            freeze: patterns of native paths, `stem*`; `backbone` is everything but `head`.

        Raises: ValueError for a pattern that matches no parameter, or if none is left to train.
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
        """Logits in training mode and the updated running statistics.

        Args:
            params: as `self.params`.
            frozen: as `self.frozen`.
            buffers: as `self.buffers`.
            images: `(N, H, W, C)`, normalised.
            key: of dropout.
        """
        streams = _reseeded(self.streams, key)
        model = nnx.merge(self.training, params, frozen, buffers, streams, copy=True)
        return model(images), nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

    def evaluate(
        self, params: Arrays, frozen: Arrays, buffers: Arrays, images: jax.Array
    ) -> jax.Array:
        """Logits in evaluation mode."""
        model = nnx.merge(self.evaluation, params, frozen, buffers, self.streams, copy=True)
        return model(images)

    def with_arrays(self, *parts: Arrays) -> Any:
        """`self.model` in evaluation mode with `parts` in it, each as `params` or `buffers`."""
        for part in parts:
            nnx.update(self.model, jax.tree.map(jnp.asarray, part))
        self.model.eval()
        return self.model


def _reseeded(streams: Arrays, key: jax.Array) -> Arrays:
    """The streams at their beginning, each with a key of its own made from `key`."""
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
        f"; they are called as in {', '.join(paths[:2])} and {paths[-1]}, and `{BACKBONE}` is all "
        "but the head"
    )


def _check_patterns(model: Any, patterns: Sequence[str]) -> None:
    paths = [_dotted(path) for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))]
    for pattern in patterns:
        if not any(_frozen(path, [pattern]) for path in paths):
            raise ValueError(f"--freeze {pattern} matches no parameter{_hint(pattern, paths)}")
    if all(_frozen(path, patterns) for path in paths):
        raise ValueError(f"--freeze {' --freeze '.join(patterns)} leaves no parameter to train")
