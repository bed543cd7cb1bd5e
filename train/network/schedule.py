"""Learning rate schedules as in torch.optim.lr_scheduler: cosine, step, exponential, warm-up."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from train.settings.config import Config
from train.settings.defaults import filled

__all__ = ["Schedule", "learning_rate"]

Schedule = Callable[[ArrayLike], jax.Array]  # number of previous steps -> learning rate


def learning_rate(config: Config, peak: float, steps_per_epoch: int) -> Schedule:
    """The learning rate as a function of the step.

    With time t, warm-up W and run length E in epochs, and T = E - W:

        t < W          peak * (start + (1 - start) * t / W)           LinearLR
        cosine         min + (peak - min) * (1 + cos(pi (t - W) / T)) / 2   CosineAnnealingLR
        step           peak * gamma ^ floor((t - W) / decay_epochs)   StepLR
        exponential    peak * gamma ^ (t - W)                         ExponentialLR

    They are joined as by SequentialLR. t is step / steps_per_epoch, or its integer part with
    `schedule_every="epoch"`, which corresponds to stepping torch's schedulers once per epoch.

    Args:
        config: the settings.
        peak: the learning rate after warm-up.
        steps_per_epoch: number of steps in an epoch.

    Returns: a function of the number of previous steps.
    Raises: ValueError if warm-up takes the whole run, or `min_lr` exceeds `peak`.
    Source: Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983 (cosine); Goyal et al.
        2017, https://arxiv.org/abs/1706.02677, section 2.2 (warm-up).
    """
    warmup = filled(config.warmup_epochs)
    if warmup and warmup >= config.epochs:
        raise ValueError(f"--warmup-epochs {warmup:g} must be below --epochs {config.epochs}")
    if config.min_lr > peak:
        raise ValueError(f"--min-lr {config.min_lr:g} must be at most the learning rate {peak:g}")
    after = _after_warmup(config, peak, config.epochs - warmup)

    def rate(step: ArrayLike) -> jax.Array:
        step = jnp.asarray(step)
        t = step.astype(jnp.result_type(float)) / steps_per_epoch  # int32 over int is float32
        if config.schedule_every == "epoch":
            t = (step // steps_per_epoch).astype(t.dtype)
        if not warmup:
            return after(t)
        ramp = config.warmup_start + (1 - config.warmup_start) * t / warmup
        return jnp.where(t < warmup, peak * ramp, after(t - warmup))

    return rate


def _after_warmup(config: Config, peak: float, total: float) -> Schedule:
    low, gamma = config.min_lr, config.gamma
    return {
        "cosine": lambda t: low + (peak - low) * (1 + jnp.cos(jnp.pi * t / total)) / 2,
        "step": lambda t: peak * gamma ** jnp.floor(t / config.decay_epochs),
        "exponential": lambda t: peak * gamma**t,
        "constant": lambda t: jnp.full_like(t, peak, dtype=jnp.result_type(float)),
    }[config.schedule]
