"""Our optax chains beside torch.optim, and timm's where PyTorch has none: each step, in float64."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from timm.optim.lamb import Lamb
from timm.optim.rmsprop_tf import RMSpropTF

from train.data.digits import open_digits
from train.network.optimiser import make_optimiser, read_betas
from train.network.schedule import learning_rate
from train.settings.config import Config
from train.settings.defaults import resolved

STEPS = 10
BOUND = 1e-13  # of a parameter's largest value: ten float64 roundings
SHAPES = {"kernel": (3, 3, 2, 4), "head": (6, 5), "scale": (4,), "bias": (5,)}
BASE = Config(epochs=4, warmup_epochs=1.0, lr=0.03, batch_size=1)
STEPS_PER_EPOCH = 3

Groups = list[dict[str, Any]]


def groups(params: dict[str, torch.Tensor], decay: float, decay_norms: bool = False) -> Groups:
    """Weights, which decay, and the rest, which does not unless it is asked for."""
    weights = [p for p in params.values() if p.ndim > 1]
    others = [p for p in params.values() if p.ndim <= 1]
    return [
        {"params": weights, "weight_decay": decay},
        {"params": others, "weight_decay": decay if decay_norms else 0.0},
    ]


CASES = {
    "sgd": (
        Config(optimizer="sgd", momentum=0.8, weight_decay=0.02),
        lambda p: torch.optim.SGD(groups(p, 0.02), lr=1.0, momentum=0.8),
    ),
    "sgd without momentum": (
        Config(optimizer="sgd", momentum=0.0, weight_decay=0.02),
        lambda p: torch.optim.SGD(groups(p, 0.02), lr=1.0),
    ),
    "nesterov, everything decays": (
        Config(optimizer="sgd", momentum=0.8, nesterov=True, weight_decay=0.02, decay_norms=True),
        lambda p: torch.optim.SGD(groups(p, 0.02, True), lr=1.0, momentum=0.8, nesterov=True),
    ),
    "rmsprop": (
        Config(optimizer="rmsprop", momentum=0.8, alpha=0.9, eps=1e-3, weight_decay=0.02),
        lambda p: torch.optim.RMSprop(groups(p, 0.02), lr=1.0, momentum=0.8, alpha=0.9, eps=1e-3),
    ),
    "rmsprop-tf": (
        Config(optimizer="rmsprop-tf", momentum=0.8, alpha=0.9, eps=1e-3, weight_decay=0.02),
        lambda p: RMSpropTF(groups(p, 0.02), lr=1.0, momentum=0.8, alpha=0.9, eps=1e-3),
    ),
    "adamw": (
        Config(optimizer="adamw", betas="0.8,0.95", eps=1e-4, weight_decay=0.02),
        lambda p: torch.optim.AdamW(groups(p, 0.02), lr=1.0, betas=(0.8, 0.95), eps=1e-4),
    ),
    "adamw by its defaults": (
        Config(optimizer="adamw", weight_decay=0.0),
        lambda p: torch.optim.AdamW(groups(p, 0.0), lr=1.0),
    ),
    "lamb": (
        Config(optimizer="lamb", betas="0.8,0.95", eps=1e-4, weight_decay=0.02),
        lambda p: Lamb(groups(p, 0.02), lr=1.0, betas=(0.8, 0.95), eps=1e-4),
    ),
    "lamb, everything decays": (
        Config(optimizer="lamb", weight_decay=0.02, decay_norms=True, clip_grad_norm=0.5),
        lambda p: Lamb(groups(p, 0.02, True), lr=1.0, eps=1e-6, max_grad_norm=0.5),
    ),
}  # fmt: skip


def gradients_of(step: int) -> dict[str, np.ndarray]:
    """The same gradients for both; small ones, so that every epsilon shows."""
    rng = np.random.default_rng(step)
    return {name: 0.01 * rng.standard_normal(shape) for name, shape in SHAPES.items()}


def train_torch(make: Any, rates: list[float], clip: float | None = None) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(99)
    params = {name: torch.nn.Parameter(torch.tensor(rng.standard_normal(shape)))
              for name, shape in SHAPES.items()}  # fmt: skip
    optimiser = make(params)
    for step, rate in enumerate(rates):
        for group in optimiser.param_groups:
            group["lr"] = rate
        for name, gradient in gradients_of(step).items():
            params[name].grad = torch.tensor(gradient)
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(params.values(), clip)
        optimiser.step()
    return {name: p.detach().numpy() for name, p in params.items()}


def train_ours(config: Config) -> tuple[dict[str, np.ndarray], list[float]]:
    """Parameters after the steps, and the learning rate of each step."""
    config = replace(BASE, **{name: value for name, value in vars(config).items()
                              if value != getattr(Config(), name)})  # fmt: skip
    config = resolved(config, open_digits())
    rng = np.random.default_rng(99)
    with jax.enable_x64(True):
        rate = learning_rate(config, 0.03, STEPS_PER_EPOCH)
        optimiser = make_optimiser(config, rate)
        params: Any = {name: jnp.asarray(rng.standard_normal(s)) for name, s in SHAPES.items()}
        state = optimiser.init(params)
        for step in range(STEPS):
            gradients = jax.tree.map(jnp.asarray, gradients_of(step))
            updates, state = optimiser.update(gradients, state, params)
            params = optax.apply_updates(params, updates)
        rates = [float(rate(jnp.int32(step))) for step in range(STEPS)]
    return {name: np.asarray(p) for name, p in params.items()}, rates


def error(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    return max(float(np.abs(ours[k] - theirs[k]).max() / np.abs(theirs[k]).max()) for k in theirs)


@pytest.mark.parametrize("name", CASES)
def test_every_step_is_torchs(name: str) -> None:
    """Under a learning rate that changes at each step, which a rate inside the momentum shows."""
    config, make = CASES[name]
    ours, rates = train_ours(config)
    assert len(set(rates)) == STEPS
    assert error(ours, train_torch(make, rates)) < BOUND


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_gradients_are_clipped_as_torch_clips_them(name: str) -> None:
    config, make = CASES[name]
    ours, rates = train_ours(replace(config, clip_grad_norm=0.05))
    theirs = train_torch(make, rates, clip=0.05)
    assert error(ours, theirs) < BOUND
    assert error(ours, train_torch(make, rates)) > 1e-4  # else nothing was clipped


CHANGES = {
    "sgd": {"momentum": 0.81, "weight_decay": 0.021, "nesterov": True, "decay_norms": True},
    "rmsprop": {"momentum": 0.81, "weight_decay": 0.021, "alpha": 0.91, "eps": 1.1e-3,
                "optimizer": "rmsprop-tf", "decay_norms": True},
    "rmsprop-tf": {"momentum": 0.81, "weight_decay": 0.021, "alpha": 0.91, "eps": 1.1e-3,
                   "optimizer": "rmsprop", "decay_norms": True},
    "adamw": {"betas": "0.81,0.95", "weight_decay": 0.021, "eps": 1.1e-4, "decay_norms": True},
    "lamb": {"betas": "0.8,0.951", "weight_decay": 0.021, "eps": 1.1e-4, "clip_grad_norm": 0.05,
             "optimizer": "adamw", "decay_norms": True},
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "setting"), [(name, setting) for name in CHANGES for setting in CHANGES[name]]
)
def test_a_changed_setting_shows(name: str, setting: str) -> None:
    """The tests above could not pass with another epsilon, decay or momentum."""
    config, make = CASES[name]
    ours, rates = train_ours(replace(config, **{setting: CHANGES[name][setting]}))
    assert error(ours, train_torch(make, rates)) > 1e7 * BOUND


@pytest.mark.parametrize("text", ["0.9", "0.9,0.999,0.9", "a,b", "1,0.9", "0.9,-0.1", "nan,0.9"])
def test_betas_are_two_numbers_below_one(text: str) -> None:
    with pytest.raises(ValueError, match="must be two numbers from 0 to below 1"):
        read_betas(text)


def test_nesterov_is_sgds() -> None:
    with pytest.raises(ValueError, match="--nesterov needs --optimizer sgd, not adamw"):
        make_optimiser(replace(BASE, optimizer="adamw", nesterov=True), jnp.float32)
