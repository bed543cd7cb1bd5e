"""Random erasing, mixup and cutmix beside torchvision's, given the same draws."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torchvision.transforms import RandomErasing, v2

from train.network import mix

IMAGES = np.random.default_rng(0).standard_normal((6, 12, 20, 3)).astype(np.float32)
LABELS = np.arange(6) % 4
TARGETS = np.eye(4, dtype=np.float32)[LABELS]


def torchvisions(transform: v2.Transform, params: dict) -> tuple[np.ndarray, np.ndarray]:
    with mock.patch.object(transform, "make_params", return_value=params):
        images = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
        images, targets = transform(images, torch.from_numpy(LABELS))
    return images.permute(0, 2, 3, 1).numpy(), targets.numpy()


@pytest.mark.parametrize("seed", range(3))
def test_mixup_is_torchvisions(seed: int) -> None:
    key = jax.random.key(seed)
    images, targets = mix.mixup(jnp.asarray(IMAGES), jnp.asarray(TARGETS), 0.2, key)
    share = float(jax.random.beta(key, 0.2, 0.2))
    theirs = torchvisions(v2.MixUp(alpha=0.2, num_classes=4), {"lam": share})
    np.testing.assert_allclose(images, theirs[0], atol=1e-6)
    np.testing.assert_allclose(targets, theirs[1], atol=1e-6)


def cutmix_params(key: jax.Array) -> dict:
    """What torchvision makes of the same draws."""
    share_key, y_key, x_key = jax.random.split(key, 3)
    share = float(jax.random.beta(share_key, 1.0, 1.0))
    draws = [int(jax.random.randint(k, (), 0, n)) for k, n in ((x_key, 20), (y_key, 12))]
    transform = v2.CutMix(alpha=1.0, num_classes=4)
    with (
        mock.patch.object(transform._dist, "sample", return_value=torch.tensor([share])),
        mock.patch("torch.randint", side_effect=[torch.tensor([d]) for d in draws]),
    ):
        return transform.make_params([torch.from_numpy(IMAGES).permute(0, 3, 1, 2)])


def test_cutmix_is_torchvisions() -> None:
    boxes = set()
    for seed in range(12):
        key = jax.random.key(seed)
        images, targets = mix.cutmix(jnp.asarray(IMAGES), jnp.asarray(TARGETS), 1.0, key)
        params = cutmix_params(key)
        boxes.add(params["box"])
        theirs = torchvisions(v2.CutMix(alpha=1.0, num_classes=4), params)
        np.testing.assert_array_equal(images, theirs[0])
        np.testing.assert_allclose(targets, theirs[1], atol=1e-6)
    assert len(boxes) == 12


def test_of_both_either_is_done_by_even_chance() -> None:
    images, targets = jnp.asarray(IMAGES), jnp.asarray(TARGETS)

    @jax.jit
    def pasted(key: jax.Array) -> jax.Array:  # cutmix keeps each value, mixup almost none
        mixed, _ = mix.mix(images, targets, mixup_alpha=1.0, cutmix_alpha=1.0, key=key)
        return ((mixed == images) | (mixed == jnp.roll(images, 1, 0))).all()

    count = sum(bool(pasted(jax.random.key(seed))) for seed in range(200))
    assert 70 < count < 130


def test_without_an_alpha_nothing_is_mixed() -> None:
    images, targets = jnp.asarray(IMAGES), jnp.asarray(TARGETS)
    key = jax.random.key(0)
    same = mix.mix(images, targets, mixup_alpha=0, cutmix_alpha=0, key=key)
    assert same[0] is images
    assert same[1] is targets
    for alphas in ((0.5, 0.0), (0.0, 0.5)):
        mixed, _ = mix.mix(images, targets, mixup_alpha=alphas[0], cutmix_alpha=alphas[1], key=key)
        pasted = ((mixed == images) | (mixed == jnp.roll(images, 1, 0))).all()
        assert bool(pasted) == (alphas[0] == 0)


def erased_boxes(images: np.ndarray) -> np.ndarray:
    """(top, left, height, width) of the rectangle of zeros in each image of ones."""
    boxes = []
    for image in images:
        rows, columns = np.nonzero(image[..., 0] == 0)
        box = (rows.min(), columns.min(), np.ptp(rows) + 1, np.ptp(columns) + 1)
        assert (image == 0).sum() == box[2] * box[3] * 3  # a whole rectangle, in every channel
        boxes.append(box)
    return np.asarray(boxes)


def test_erased_rectangles_have_torchvisions_distribution() -> None:
    ones = jnp.ones((3000, 48, 32, 3))
    ours = erased_boxes(np.asarray(mix.erase(ones, 1.0, jax.random.key(0))))
    torch.manual_seed(0)
    blank = torch.ones(3, 48, 32)
    theirs = np.asarray(
        [RandomErasing.get_params(blank, (0.02, 0.33), (0.3, 3.3), [0.0])[:4] for _ in range(3000)]
    )
    error = 4 * theirs.std(0) / np.sqrt(1500)
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < error).all()
    assert (np.abs(ours.std(0) - theirs.std(0)) < error).all()


def test_an_image_is_erased_with_the_probability() -> None:
    ones = jnp.ones((2000, 16, 16, 1))
    erased = np.asarray(mix.erase(ones, 0.25, jax.random.key(1)) == 0).any((1, 2, 3))
    assert 0.21 < erased.mean() < 0.29
    assert not (mix.erase(ones, 0.0, jax.random.key(1)) == 0).any()


def test_an_image_that_no_rectangle_fits_in_stays() -> None:
    flat = jnp.ones((64, 1, 64, 3))
    assert (mix.erase(flat, 1.0, jax.random.key(0)) == 1).all()


def test_every_pixel_may_be_erased() -> None:
    ones = jnp.ones((2000, 12, 8, 1))
    erased = np.asarray(mix.erase(ones, 1.0, jax.random.key(0)) == 0)[..., 0]
    assert erased.any(0).all()
