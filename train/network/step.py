"""The training step and the evaluation of a batch, as pure functions of arrays."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from train.network.average import update_average
from train.network.mix import erase, mix
from train.network.model import Arrays, Network
from train.network.state import Sums, TrainState

__all__ = ["Batch", "StepSettings", "evaluation_step", "normalised", "train_step"]

Batch = Mapping[str, jax.Array]


@dataclass(frozen=True)
class StepSettings:
    """The settings of a step, apart from the optimiser.

    Attributes:
        num_classes: number of classes.
        mean: mean of each channel, on a scale of 0 to 1.
        std: standard deviation of each channel, on the same scale.
        label_smoothing: fraction of a target spread over all classes.
        random_erasing: probability of random erasing per image.
        mixup: alpha of mixup; 0 for none.
        cutmix: alpha of cutmix; 0 for none.
        grad_accum: number of parts that a batch is split into.
        ema: decay of the moving average.
        ema_every: steps between updates of the moving average.
        warmup_steps: number of initial steps during which the moving average is a copy.
    """

    num_classes: int
    mean: Sequence[float]
    std: Sequence[float]
    label_smoothing: float = 0.0
    random_erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    grad_accum: int = 1
    ema: float = 0.0
    ema_every: int = 1
    warmup_steps: int = 0


def normalised(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Normalise uint8 pixels for a model: (pixel / 255 - mean) / std."""
    scaled = images.astype(jnp.result_type(float)) / 255
    return (scaled - jnp.asarray(mean)) / jnp.asarray(std)


def smoothed_targets(labels: jax.Array, num_classes: int, smoothing: float) -> jax.Array:
    """Targets `(N, K)`: 1 - smoothing at the label, plus smoothing / K at every class."""
    return optax.smooth_labels(jax.nn.one_hot(labels, num_classes), smoothing)


def train_step(
    network: Network, optimiser: optax.GradientTransformation, settings: StepSettings
) -> Callable[[TrainState, Batch], TrainState]:
    """Make the training step (state, batch) -> state, to be compiled with the state donated.

    A batch has `image` `(N, H, W, C)`, uint8, and `label` `(N,)`. If `grad_accum` is k, it is split
    into k parts, with row i in part i % k; each part in turn updates the running statistics, as in
    PyTorch, and the gradients of the parts are averaged.
    """

    def loss_of(
        params: Arrays, frozen: Arrays, buffers: Arrays, part: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Arrays, jax.Array]]:
        erase_key, mix_key, dropout_key = jax.random.split(key, 3)
        images = normalised(part["image"], settings.mean, settings.std)
        if settings.random_erasing:
            images = erase(images, settings.random_erasing, erase_key)
        targets = smoothed_targets(part["label"], settings.num_classes, settings.label_smoothing)
        images, targets = mix(
            images,
            targets,
            mixup_alpha=settings.mixup,
            cutmix_alpha=settings.cutmix,
            key=mix_key,
        )
        logits, buffers = network.train(params, frozen, buffers, images, dropout_key)
        logits = logits.astype(jnp.result_type(float))  # a bfloat16 loss would have two digits
        loss = optax.softmax_cross_entropy(logits, targets).mean()
        correct = (logits.argmax(-1) == part["label"]).sum(dtype=jnp.int32)
        return loss, (buffers, correct)

    gradient = jax.value_and_grad(loss_of, has_aux=True)

    def step(state: TrainState, batch: Batch) -> TrainState:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        parts = settings.grad_accum
        if parts == 1:
            (loss, (buffers, correct)), gradients = gradient(
                state.params, state.frozen, state.buffers, batch, key
            )
        else:
            loss, buffers, correct, gradients = _accumulated(gradient, state, batch, key, parts)
        updates, optimiser_state = optimiser.update(gradients, state.optimiser, state.params)
        params = optax.apply_updates(state.params, updates)
        average = state.average
        if average is not None:
            average = update_average(
                average,
                params,
                buffers,
                decay=settings.ema,
                due=state.step % settings.ema_every == 0,
                anew=state.step < settings.warmup_steps,
            )
        finite = _all_finite((loss, gradients, params, buffers))
        number = state.step + 1
        count = batch["label"].shape[0]
        return replace(
            state,
            step=number,
            params=params,
            buffers=buffers,
            optimiser=optimiser_state,
            average=average,
            sums=Sums(
                state.sums.loss + loss * count,
                state.sums.correct + correct,
                state.sums.images + count,
            ),
            diverged=jnp.where((state.diverged == 0) & ~finite, number, state.diverged),
        )

    return step


def _all_finite(tree: Any) -> jax.Array:
    leaves = (jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))
    return jnp.stack(list(leaves)).all()


def _accumulated(
    gradient: Callable[..., Any], state: TrainState, batch: Batch, key: jax.Array, parts: int
) -> tuple[jax.Array, Arrays, jax.Array, Any]:
    """Loss, running statistics, number of correct images and gradients over the parts of a batch.

    Row i is in part i % parts, so that no rows move between devices.
    """
    split = jax.tree.map(
        lambda a: a.reshape(a.shape[0] // parts, parts, *a.shape[1:]).swapaxes(0, 1), dict(batch)
    )

    def one(carry: tuple, part: tuple[Batch, jax.Array]) -> tuple[tuple, None]:
        loss, buffers, correct, gradients = carry
        rows, number = part
        (new_loss, (buffers, new_correct)), new = gradient(
            state.params, state.frozen, buffers, rows, jax.random.fold_in(key, number)
        )
        gradients = jax.tree.map(lambda total, g: total + g / parts, gradients, new)
        return (loss + new_loss / parts, buffers, correct + new_correct, gradients), None

    start = (
        jnp.zeros(()),
        state.buffers,
        jnp.zeros((), jnp.int32),
        jax.tree.map(jnp.zeros_like, state.params),
    )
    return lax.scan(one, start, (split, jnp.arange(parts)))[0]


def evaluation_step(
    network: Network, settings: StepSettings
) -> Callable[[Arrays, Arrays, Arrays, Batch], dict[str, jax.Array]]:
    """Make the function (params, frozen, buffers, batch) -> sums over the images with weight 1.

    The sums are `loss`, `top1`, `top5` and `images`; with five classes or fewer, every image counts
    in `top5`.
    """
    most = min(5, settings.num_classes)

    def step(params: Arrays, frozen: Arrays, buffers: Arrays, batch: Batch) -> dict[str, jax.Array]:
        images = normalised(batch["image"], settings.mean, settings.std)
        logits = network.evaluate(params, frozen, buffers, images)
        logits = logits.astype(jnp.result_type(float))
        labels, weight = batch["label"], batch["weight"]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        _, likeliest = lax.top_k(logits, most)
        hits = likeliest == labels[:, None]
        return {
            "loss": (losses * weight).sum(),
            "top1": (hits[:, 0] * weight).sum(),
            "top5": (hits.any(1) * weight).sum(),
            "images": weight.sum(),
        }

    return step
