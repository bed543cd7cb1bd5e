"""The update rules of torch.optim, and two of timm's, as optax chains.

optax's own aliases differ from PyTorch in ways that only a schedule or an option reveals: its
`rmsprop` applies the learning rate before the momentum, and its `lamb` applies the trust ratio to
every parameter.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from train.network.schedule import Schedule
from train.settings.config import Config
from train.settings.defaults import filled

__all__ = ["clip_by_global_norm", "make_optimiser", "read_betas"]


def make_optimiser(config: Config, rate: Schedule) -> optax.GradientTransformation:
    """The optimiser of `config`, whose settings must have been `resolved`.

    With gradient g, parameter p, weight decay d, momentum m, learning rate r and `alpha` a:

        sgd         b = m b + (g + d p);  p -= r b, or r (g + d p + m b) for Nesterov
        rmsprop     s = a s + (1 - a) (g + d p)^2;  b = m b + (g + d p) / (sqrt(s) + eps);  p -= r b
        rmsprop-tf  s from 1;  b = m b + r (g + d p) / sqrt(s + eps);  p -= b
        adamw       p -= r (mhat / (sqrt(vhat) + eps) + d p)
        lamb        u = mhat / (sqrt(vhat) + eps) + d p;  p -= r u |p| / |u| where d > 0

    Weight decay skips biases and the parameters of norms unless `decay_norms` is set.

    Source: torch.optim.SGD, RMSprop, AdamW; timm.optim.RMSpropTF and Lamb, after TensorFlow and
        You et al. 2020, https://arxiv.org/abs/1904.00962, algorithm 2.
    """
    name = config.optimizer
    if config.nesterov and name != "sgd":
        raise ValueError(f"--nesterov needs --optimizer sgd, not {name}")
    decay = filled(config.weight_decay)
    decayed = _all if config.decay_norms else _weights
    add_decay = optax.add_decayed_weights(decay, decayed) if decay else optax.identity()
    kept = config.momentum
    momentum = optax.trace(kept, config.nesterov) if kept else optax.identity()
    by_rate = optax.scale_by_learning_rate(rate)
    if name == "sgd":
        rule = (add_decay, momentum, by_rate)
    elif name == "rmsprop":
        scaled = optax.scale_by_rms(config.alpha, filled(config.eps), eps_in_sqrt=False)
        rule = (add_decay, scaled, momentum, by_rate)
    elif name == "rmsprop-tf":
        scaled = optax.scale_by_rms(config.alpha, filled(config.eps), initial_scale=1.0)
        rule = (add_decay, scaled, by_rate, momentum)
    else:
        adam = optax.scale_by_adam(*read_betas(config.betas), eps=filled(config.eps))
        trusted = name == "lamb" and decay
        trust = optax.masked(optax.scale_by_trust_ratio(), decayed) if trusted else optax.identity()
        rule = (adam, add_decay, trust, by_rate)
    if config.clip_grad_norm is None:
        return optax.chain(*rule)
    # timm's LAMB divides by the norm itself; torch's clip_grad_norm_ adds 1e-6 to it.
    clip = clip_by_global_norm(config.clip_grad_norm, 0.0 if name == "lamb" else 1e-6)
    return optax.chain(clip, *rule)


def clip_by_global_norm(most: float, eps: float = 1e-6) -> optax.GradientTransformation:
    """`torch.nn.utils.clip_grad_norm_`: scale by min(1, most / (norm + eps))."""

    def clipped(gradients: Any, params: Any) -> Any:
        scale = jnp.minimum(1.0, most / (optax.tree.norm(gradients) + eps))
        return jax.tree.map(lambda g: g * scale.astype(g.dtype), gradients)

    return optax.stateless(clipped)


def read_betas(text: str) -> tuple[float, float]:
    """Parse `"0.9,0.999"`. Raises: ValueError unless it is two numbers in [0, 1)."""
    try:
        first, second = map(float, text.split(","))
    except ValueError:
        first = second = -1.0
    if not (0 <= first < 1 and 0 <= second < 1):
        raise ValueError(f"--betas {text} must be two numbers from 0 to below 1, such as 0.9,0.999")
    return first, second


def _weights(params: Any) -> Any:
    """Whether each parameter is a kernel of a convolution or linear layer, not a bias or norm."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def _all(params: Any) -> Any:
    return jax.tree.map(lambda _: True, params)
