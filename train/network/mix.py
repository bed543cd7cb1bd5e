"""Random erasing, mixup and cutmix, computed on the device for a whole normalised batch."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["cutmix", "erase", "mix", "mixup"]

ERASED = (0.02, 0.33)  # fraction of the image's area
RATIO = (0.3, 3.3)  # height divided by width
TRIES = 10

Images = Float[Array, "N H W C"]
Targets = Float[Array, "N K"]


def erase(images: Images, probability: float, key: jax.Array) -> Images:
    """With `probability`, set a random rectangle of each image to 0, the mean colour.

    The area is uniform in [0.02, 0.33] times that of the image, the ratio of height to width
    log-uniform in [0.3, 3.3]. If none of ten rectangles fits, the image is unchanged.

    Source: Zhong et al. 2017, https://arxiv.org/abs/1708.04896; torchvision `RandomErasing`.
    """
    count, height, width, _ = images.shape
    size_key, ratio_key, top_key, left_key, chosen_key = jax.random.split(key, 5)
    area = jax.random.uniform(size_key, (count, TRIES), minval=ERASED[0], maxval=ERASED[1])
    low, high = map(math.log, RATIO)
    ratio = jnp.exp(jax.random.uniform(ratio_key, (count, TRIES), minval=low, maxval=high))
    h = jnp.round(jnp.sqrt(area * height * width * ratio)).astype(int)
    w = jnp.round(jnp.sqrt(area * height * width / ratio)).astype(int)
    fits = (h < height) & (w < width)
    first = jnp.argmax(fits, axis=1)[:, None]
    h, w = (jnp.take_along_axis(side, first, axis=1) for side in (h, w))
    top = jax.random.randint(top_key, (count, 1), 0, height - h + 1)
    left = jax.random.randint(left_key, (count, 1), 0, width - w + 1)
    chosen = jax.random.bernoulli(chosen_key, probability, (count, 1)) & fits.any(1, keepdims=True)
    rows, columns = jnp.arange(height), jnp.arange(width)
    inside = ((rows >= top) & (rows < top + h) & chosen)[:, :, None]
    inside = inside & ((columns >= left) & (columns < left + w))[:, None, :]
    return jnp.where(inside[..., None], 0, images)


def mixup(images: Images, targets: Targets, alpha: float, key: jax.Array) -> tuple[Images, Targets]:
    """Blend each image and target with the preceding ones of the batch.

    All images have the same share ~ Beta(alpha, alpha): y[i] = share x[i] + (1 - share) x[i - 1].

    Source: Zhang et al. 2018, https://arxiv.org/abs/1710.09412; torchvision `MixUp`.
    """
    share = jax.random.beta(key, alpha, alpha, dtype=images.dtype)
    return _blend(images, share), _blend(targets, share)


def cutmix(
    images: Images, targets: Targets, alpha: float, key: jax.Array
) -> tuple[Images, Targets]:
    """Paste a rectangle of the preceding image into each image, and blend the targets by its area.

    The rectangle is the same in all images: its centre is uniform, and its sides are sqrt(1 -
    share) times those of the image, share ~ Beta(alpha, alpha), clipped at the edges.

    Source: Yun et al. 2019, https://arxiv.org/abs/1905.04899; torchvision `CutMix`.
    """
    _, height, width, _ = images.shape
    share_key, y_key, x_key = jax.random.split(key, 3)
    half = 0.5 * jnp.sqrt(1 - jax.random.beta(share_key, alpha, alpha, dtype=images.dtype))
    inside_rows, rows = _span(jax.random.randint(y_key, (), 0, height), half, height)
    inside_columns, columns = _span(jax.random.randint(x_key, (), 0, width), half, width)
    pasted = (inside_rows[:, None] & inside_columns)[:, :, None]
    images = jnp.where(pasted, jnp.roll(images, 1, axis=0), images)
    return images, _blend(targets, (1 - rows * columns / (height * width)).astype(targets.dtype))


def _span(centre: jax.Array, half: jax.Array, length: int) -> tuple[jax.Array, jax.Array]:
    """Whether each position lies within `half * length` of the centre, and the number that do."""
    reach = (half * length).astype(int)
    first, last = jnp.maximum(centre - reach, 0), jnp.minimum(centre + reach, length)
    positions = jnp.arange(length)
    return (positions >= first) & (positions < last), last - first


def _blend(values: jax.Array, share: jax.Array) -> jax.Array:
    return share * values + (1 - share) * jnp.roll(values, 1, axis=0)


def mix(
    images: Images, targets: Targets, *, mixup_alpha: float, cutmix_alpha: float, key: jax.Array
) -> tuple[Images, Targets]:
    """Apply mixup if only its alpha is above 0, cutmix if only its alpha is, one of them at random
    if both are, else nothing.
    """
    choose_key, key = jax.random.split(key)
    if mixup_alpha and cutmix_alpha:
        return jax.lax.cond(
            jax.random.bernoulli(choose_key),
            lambda: mixup(images, targets, mixup_alpha, key),
            lambda: cutmix(images, targets, cutmix_alpha, key),
        )
    if mixup_alpha:
        return mixup(images, targets, mixup_alpha, key)
    if cutmix_alpha:
        return cutmix(images, targets, cutmix_alpha, key)
    return images, targets
