"""The update rules of torch.optim, and two that PyTorch users take from timm, as optax chains.

optax's own aliases differ from PyTorch in what only a schedule or an option shows: its `rmsprop`
puts the learning rate inside the momentum, its `lamb` trusts every parameter.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from train.config import Config
from train.schedule import Schedule

__all__ = ["clip_by_global_norm", "make_optimiser", "peak_learning_rate"]

LEARNING_RATES = {"sgd": 0.1, "rmsprop": 0.01, "rmsprop-tf": 0.01}  # for 0.002 in the others
DECAYS = {"adamw": 0.05, "lamb": 0.05}  # for 1e-4 in the others
EPSILONS = {"rmsprop-tf": 1e-10, "lamb": 1e-6}  # for 1e-8 in the others


def peak_learning_rate(config: Config) -> float:
    """`--lr`, or what suits the optimiser."""
    return LEARNING_RATES.get(config.optimizer, 0.002) if config.lr is None else config.lr


def make_optimiser(config: Config, rate: Schedule) -> optax.GradientTransformation:
    """The optimiser that `config` describes.

    With g the gradient, p the parameter, d the decay, m the momentum, r the rate:

        sgd         b = m b + (g + d p);  p -= r b, or r (g + d p + m b) for Nesterov
        rmsprop     s = a s + (1 - a) (g + d p)^2;  b = m b + (g + d p) / (sqrt(s) + eps);  p -= r b
        rmsprop-tf  s from 1;  b = m b + r (g + d p) / sqrt(s + eps);  p -= b
        adamw       p -= r (mhat / (sqrt(vhat) + eps) + d p)
        lamb        u = mhat / (sqrt(vhat) + eps) + d p;  p -= r u |p| / |u| where d > 0

    Decay skips biases and the parameters of norms, unless `decay_norms` is set.

    Source: torch.optim.SGD, RMSprop, AdamW; timm.optim.RMSpropTF and Lamb, after TensorFlow and
        You et al. 2020, https://arxiv.org/abs/1904.00962, algorithm 2.
    """
    name = config.optimizer
    decay = DECAYS.get(name, 1e-4) if config.weight_decay is None else config.weight_decay
    eps = EPSILONS.get(name, 1e-8) if config.eps is None else config.eps
    decayed = None if config.decay_norms else _is_weight
    add_decay = optax.add_decayed_weights(decay, decayed) if decay else optax.identity()
    by_rate = optax.scale_by_learning_rate(rate)
    momentum = optax.trace(config.momentum, config.nesterov) if config.momentum else optax.identity()
    if config.nesterov and name != "sgd":
        raise ValueError(f"--nesterov belongs to sgd, and --optimizer is {name}")
    if name == "sgd":
        rule = (add_decay, momentum, by_rate)
    elif name == "rmsprop":
        scaled = optax.scale_by_rms(config.alpha, eps, eps_in_sqrt=False)
        rule = (add_decay, scaled, momentum, by_rate)
    elif name == "rmsprop-tf":
        scaled = optax.scale_by_rms(config.alpha, eps, initial_scale=1.0, eps_in_sqrt=True)
        rule = (add_decay, scaled, by_rate, momentum)
    else:
        adam = optax.scale_by_adam(*read_betas(config.betas), eps=eps)
        trust = optax.identity()
        if name == "lamb" and decay:
            trust = optax.masked(optax.scale_by_trust_ratio(), decayed or _all)
        rule = (adam, add_decay, trust, by_rate)
    most = 1.0 if config.clip_grad_norm is None and name == "lamb" else config.clip_grad_norm
    if most is None:
        return optax.chain(*rule)
    # LAMB as in timm divides by the norm itself; torch's clip_grad_norm_ adds 1e-6 to it.
    return optax.chain(clip_by_global_norm(most, 0.0 if name == "lamb" else 1e-6), *rule)


def clip_by_global_norm(most: float, eps: float = 1e-6) -> optax.GradientTransformation:
    """`torch.nn.utils.clip_grad_norm_`: scale by min(1, most / (norm + eps))."""

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        scale = jnp.minimum(1.0, most / (optax.tree.norm(gradients) + eps))
        return jax.tree.map(lambda g: g * scale.astype(g.dtype), gradients), state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


def read_betas(text: str) -> tuple[float, float]:
    """`"0.9,0.999"` as numbers. Raises: ValueError unless they are two in [0, 1)."""
    try:
        first, second = map(float, text.split(","))
    except ValueError:
        first = second = -1.0
    if not (0 <= first < 1 and 0 <= second < 1):
        raise ValueError(f"--betas {text} must be two numbers from 0 to below 1, as 0.9,0.999")
    return first, second


def _is_weight(params: Any) -> Any:
    """Which parameters are weights of convolutions and linear layers: neither bias nor norm."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def _all(params: Any) -> Any:
    return jax.tree.map(lambda _: True, params)
