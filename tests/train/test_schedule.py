"""Our learning rates beside torch.optim.lr_scheduler's, over whole runs, in float64."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from train.network.schedule import learning_rate
from train.settings.config import Config

PEAK = 0.3
EPOCHS = 24
# torch multiplies the rate of the epoch before, so that its rounding grows along the run.
BOUND = 1e-12

OF_SEQUENTIAL_LR_ITSELF = pytest.mark.filterwarnings(
    "ignore:The epoch parameter in `scheduler.step"
)

MAIN = {
    "cosine": lambda o, epochs: lr_scheduler.CosineAnnealingLR(o, epochs, eta_min=0.01),
    "step": lambda o, epochs: lr_scheduler.StepLR(o, 7, gamma=0.4),
    "exponential": lambda o, epochs: lr_scheduler.ExponentialLR(o, 0.9),
    "constant": lambda o, epochs: lr_scheduler.ConstantLR(o, 1.0),
}


def torch_rates(make: Any, warmup: int) -> list[float]:
    """The rate of each epoch, by torch's schedulers joined as torchvision's script joins them."""
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    main = make(optimiser, EPOCHS - warmup)
    scheduler = main
    if warmup:
        ramp = lr_scheduler.LinearLR(optimiser, start_factor=0.02, total_iters=warmup)
        scheduler = lr_scheduler.SequentialLR(optimiser, [ramp, main], milestones=[warmup])
    rates = []
    for _ in range(EPOCHS):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return rates


def config_of(schedule: str, warmup: float, **rest: Any) -> Config:
    gamma = {"step": 0.4, "exponential": 0.9}.get(schedule, 0.1)
    return Config(
        epochs=EPOCHS,
        schedule=schedule,
        warmup_epochs=warmup,
        warmup_start=0.02,
        min_lr=0.01,
        decay_epochs=7,
        gamma=gamma,
        **rest,
    )


@pytest.mark.parametrize("warmup", [0, 5])
@pytest.mark.parametrize("schedule", MAIN)
@OF_SEQUENTIAL_LR_ITSELF
def test_each_epoch_has_torchs_rate(schedule: str, warmup: int) -> None:
    steps = 3
    with jax.enable_x64(True):
        rate = learning_rate(
            config_of(schedule, warmup, schedule_every="epoch"), PEAK, steps_per_epoch=steps
        )
        ours = np.asarray([rate(jnp.int32(step)) for step in range(EPOCHS * steps)])
    theirs = np.repeat(torch_rates(MAIN[schedule], warmup), steps)
    np.testing.assert_allclose(ours, theirs, rtol=BOUND)


@pytest.mark.parametrize("schedule", MAIN)
def test_by_the_step_it_is_the_same_curve(schedule: str) -> None:
    """With one step an epoch, every step is where torch steps its schedulers."""
    with jax.enable_x64(True):
        rate = learning_rate(config_of(schedule, 0), PEAK, steps_per_epoch=1)
        ours = np.asarray([rate(jnp.int32(step)) for step in range(EPOCHS)])
    np.testing.assert_allclose(ours, torch_rates(MAIN[schedule], 0), rtol=BOUND)


def test_between_epochs_the_rate_moves() -> None:
    rate = learning_rate(config_of("cosine", 2), PEAK, steps_per_epoch=10)
    rates = np.asarray([rate(jnp.int32(step)) for step in range(10 * EPOCHS)])
    assert rates[0] == pytest.approx(0.02 * PEAK)
    assert rates[20] == pytest.approx(PEAK)
    assert (np.diff(rates[:21]) > 0).all()
    assert (np.diff(rates[20:]) < 0).all()
    assert 0.01 < rates[-1] < 0.0101


def test_warm_up_must_end_before_the_run() -> None:
    with pytest.raises(ValueError, match="--warmup-epochs 24 must be below --epochs 24"):
        learning_rate(config_of("cosine", 24), PEAK, 1)


def test_the_lowest_rate_is_not_above_the_peak() -> None:
    with pytest.raises(ValueError, match=r"--min-lr .* must be at most the learning rate"):
        learning_rate(config_of("cosine", 1), 0.005, 1)
