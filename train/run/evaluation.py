"""Evaluation of a network on images: loss, top-1 and top-5 accuracy."""

import gc
from collections.abc import Callable
from itertools import islice
from typing import Any

import grain
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from flaxblocks.weights.preprocess import Transforms
from train.data.pipeline import held_out_batches, held_out_steps, take_unreadable
from train.data.source import Source
from train.network.model import Network
from train.network.step import StepSettings, evaluation_step
from train.run.mesh import batch_sharding, put_batch, share_of_process

__all__ = ["Evaluator"]


class Evaluator:
    """Evaluates a network on all images of a source.

    The readers, including worker processes, are kept from one evaluation to the next, until
    `close`.
    """

    def __init__(
        self,
        network: Network,
        settings: StepSettings,
        mesh: Mesh,
        source: Source,
        transforms: Transforms,
        *,
        batch_size: int,
        workers: int = 0,
    ):
        """Set up the evaluation; the batch size is rounded up to a multiple of the devices."""
        self.step = jax.jit(evaluation_step(network, settings))
        self.rows = batch_sharding(mesh)
        self.source = source
        self.transforms = transforms
        self.batch_size = -(-batch_size // mesh.size) * mesh.size
        self.workers = workers
        self.batches: grain.DatasetIterator | None = None  # kept between two evaluations

    def __call__(
        self,
        params: Any,
        frozen: Any,
        buffers: Any,
        *,
        unreadable: Callable[[Source, int, str], None],
        seen: Callable[[int], object] = lambda _: None,
    ) -> dict[str, float]:
        """Mean `loss`, `top1` and `top5` in percent, and the number of `images` measured.

        Args:
            params: the trained parameters.
            frozen: the frozen parameters.
            buffers: the running statistics.
            unreadable: called with the source, the index of each image that this process cannot
                read, and the reason.
            seen: called with the size of each batch.
        """
        totals: Any = None
        batches = self.batches or self._begin()
        self.batches = None  # if interrupted, the iterator is in the middle of a pass: discard it
        for batch in islice(batches, held_out_steps(self.source, self.batch_size)):
            for index, reason in take_unreadable(batch).items():
                unreadable(self.source, index, reason)
            sums = self.step(params, frozen, buffers, put_batch(batch, self.rows))
            totals = sums if totals is None else jax.tree.map(jnp.add, totals, sums)
            seen(self.batch_size)
        self.batches = batches
        values = {name: float(total) for name, total in totals.items()}
        count = max(values["images"], 1.0)
        return {
            "loss": values["loss"] / count,
            "top1": 100 * values["top1"] / count,
            "top5": 100 * values["top5"] / count,
            "images": values["images"],
        }

    def close(self) -> None:
        """Stop prefetching, and end the worker processes."""
        if self.batches is not None:
            self.batches.close()
            self.batches = None
            gc.collect()  # makes JAX release the last batch, which may be in shared memory

    def _begin(self) -> grain.DatasetIterator:
        return held_out_batches(
            self.source,
            self.transforms,
            batch_size=self.batch_size,
            passes=None,
            share=share_of_process(),
            workers=self.workers,
        )
