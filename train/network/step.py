"""One optimiser step and one evaluation batch, as pure functions of arrays."""

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
    """What a step does beside the update.

    Attributes:
        num_classes: width of the head.
        mean: of each channel, on the scale [0, 1].
        std: standard deviation of each channel, on that scale.
        label_smoothing: share of a target spread over all classes.
        random_erasing: probability for each image.
        mixup: alpha; 0 for none.
        cutmix: alpha; 0 for none.
        grad_accum: parts that a batch is split into.
        ema: decay of the average.
        ema_every: steps between its updates.
        warmup_steps: while the average is a copy.
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
    """Pixels 0..255, uint8, as the float images `(pixel / 255 - mean) / std` that a model takes."""
    scaled = images.astype(jnp.result_type(float)) / 255
    return (scaled - jnp.asarray(mean)) / jnp.asarray(std)


def smoothed_targets(labels: jax.Array, num_classes: int, smoothing: float) -> jax.Array:
    """`(N, K)`: 1 - smoothing on the label, and smoothing spread evenly over all classes."""
    return optax.smooth_labels(jax.nn.one_hot(labels, num_classes), smoothing)


def train_step(
    network: Network, optimiser: optax.GradientTransformation, settings: StepSettings
) -> Callable[[TrainState, Batch], TrainState]:
    """The function (state, batch) -> state; compile it with the state donated.

    A batch is `image` `(N, H, W, C)`, uint8, and `label` `(N,)`. With `grad_accum` of k it is
    split into k parts, row i going to part i % k; each part updates the running statistics in
    turn, as it does in PyTorch, and their gradients are averaged.
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
        logits = logits.astype(jnp.result_type(float))  # of bfloat16 the loss would have two digits
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
    """Loss, running statistics, count of correct ones and gradients over the parts of a batch.

    Row i goes to part i % parts, so that each device keeps the rows that it has.
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
    """The function (params, frozen, buffers, batch) -> sums over the batch's images of weight 1.

    It gives `loss`, `top1`, `top5` and `images`; with fewer than five classes top-5 is all.
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
