"""What one step does beside the update: its keys, its sums, its average."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

import flaxblocks as fb
import train.network.step
from train.network.average import Average
from train.network.model import Network
from train.network.state import initial_state
from train.network.step import StepSettings, train_step

CLASSES = 10
PLAIN = StepSettings(CLASSES, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


class Spy:
    """In a network's place: notes the keys of dropout, and answers with given logits."""

    def __init__(self, logits: np.ndarray):
        self.logits = jnp.asarray(logits)
        self.params = {"weight": jnp.ones(())}
        self.frozen: dict = {}
        self.buffers = {"keys": jnp.zeros((8, 2), jnp.uint32), "calls": jnp.zeros((), jnp.int32)}

    def train(self, params: Any, _: Any, buffers: Any, images: Any, key: Any) -> Any:
        calls = buffers["calls"]
        keys = buffers["keys"].at[calls].set(jax.random.key_data(key))
        logits = self.logits[: len(images)] * params["weight"]
        return logits, {"keys": keys, "calls": calls + 1}


def batch_of(count: int, seed: int = 0) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (count, 4, 4, 3), np.uint8)),
        "label": jnp.asarray(rng.integers(0, CLASSES, count), jnp.int32),
    }


def logits_of(count: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, CLASSES)).astype(np.float32)


def after(settings: StepSettings, steps: int, *, seed: int = 0, count: int = 4) -> Any:
    """The state after steps that move nothing."""
    spy: Any = Spy(logits_of(count))
    optimiser = optax.set_to_zero()
    step = jax.jit(train_step(spy, optimiser, settings))
    state = initial_state(spy, optimiser, seed=seed, average=False)
    for number in range(steps):
        state = step(state, batch_of(count, number))
    return state


def keys_of(state: Any) -> list[tuple[int, ...]]:
    return [tuple(key) for key in np.asarray(state.buffers["keys"])[: state.buffers["calls"]]]


def test_each_step_part_and_seed_draws_from_a_key_of_its_own() -> None:
    settings = StepSettings(CLASSES, (0.0,) * 3, (1.0,) * 3, grad_accum=2)
    keys = keys_of(after(settings, 2)) + keys_of(after(settings, 2, seed=1))
    assert len(set(keys)) == len(keys) == 8
    assert keys_of(after(settings, 2)) == keys[:4]


def test_erasing_mixing_and_dropout_draw_from_keys_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    note = lambda key: seen.append(tuple(np.asarray(jax.random.key_data(key)).tolist()))  # noqa: E731
    monkeypatch.setattr(train.network.step, "erase", lambda images, _, key: note(key) or images)
    monkeypatch.setattr(train.network.step, "mix", lambda i, t, *, key, **_: note(key) or (i, t))
    spy: Any = Spy(logits_of(4))
    settings = StepSettings(CLASSES, (0.0,) * 3, (1.0,) * 3, random_erasing=0.5, mixup=0.2)
    step = train_step(spy, optax.set_to_zero(), settings)  # not compiled, so that keys are numbers
    state = step(initial_state(spy, optax.set_to_zero(), seed=0, average=False), batch_of(4))
    assert len({*seen, *keys_of(state)}) == 3


@pytest.mark.parametrize("parts", [1, 2])
def test_the_sums_are_of_all_images_since_the_epoch_began(parts: int) -> None:
    settings = StepSettings(CLASSES, (0.0,) * 3, (1.0,) * 3, grad_accum=parts, label_smoothing=0.1)
    state = after(settings, 2, count=6)
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=0.1, reduction="sum")
    loss, correct = 0.0, 0
    for number in range(2):
        labels = torch.from_numpy(np.array(batch_of(6, number)["label"])).long()
        for part in range(parts):
            rows = labels[part::parts]
            logits = torch.from_numpy(logits_of(6))[: len(rows)]
            loss += float(loss_of(logits, rows))
            correct += int((logits.argmax(1) == rows).sum())
    assert int(state.sums.images) == 12
    assert int(state.sums.correct) == correct
    assert float(state.sums.loss) == pytest.approx(loss, rel=1e-5)


def test_the_average_moves_every_so_many_steps_from_the_first_on() -> None:
    """As torchvision's script does: `if i % args.model_ema_steps == 0`."""
    spy: Any = Spy(logits_of(4))
    optimiser = optax.sgd(0.1)
    settings = StepSettings(CLASSES, (0.0,) * 3, (1.0,) * 3, ema=0.5, ema_every=3)
    step = jax.jit(train_step(spy, optimiser, settings))
    state = initial_state(spy, optimiser, seed=0, average=True)
    averages = []
    for number in range(7):
        state = step(state, batch_of(4, number))
        assert state.average is not None
        averages.append(float(state.average.params["weight"]))
    moved = [bool(one != other) for one, other in zip([1.0, *averages], averages, strict=False)]
    assert moved == [True, False, False, True, False, False, True]


def test_what_is_evaluated_is_the_average_of_both() -> None:
    spy: Any = Spy(logits_of(4))
    state = initial_state(spy, optax.set_to_zero(), seed=0, average=False)
    assert state.evaluated() == (state.params, state.buffers)
    averaged = replace(state, average=Average("params", "buffers", jnp.zeros(())))
    assert averaged.evaluated() == ("params", "buffers")


def test_a_gradient_that_is_not_finite_counts_as_diverged() -> None:
    """Though the loss is: its derivative of sqrt at 0 is infinite."""
    spy: Any = Spy(logits_of(4))
    spy.params = {"weight": jnp.zeros(())}
    plain = spy.train
    spy.train = lambda p, *rest: plain({"weight": jnp.sqrt(p["weight"])}, *rest)
    step = jax.jit(train_step(spy, optax.set_to_zero(), PLAIN))
    state = step(initial_state(spy, optax.set_to_zero(), seed=0, average=False), batch_of(4))
    assert np.isfinite(float(state.sums.loss))
    assert int(state.diverged) == 1


def test_each_dropout_of_a_model_draws_its_own() -> None:
    class Two(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.one = fb.nn.Dropout(0.5, rngs=rngs)
            self.other = fb.nn.Dropout(0.5, rngs=rngs)
            self.scale = nnx.Param(jnp.ones(()))

        def __call__(self, x: jax.Array) -> jax.Array:
            return jnp.stack([self.one(x), self.other(x)]) * self.scale

    network = Network.of(Two(nnx.Rngs(0)))
    images = jnp.ones((4, 8, 8, 3))
    args = network.params, network.frozen, network.buffers, images
    first, _ = network.train(*args, jax.random.key(0))
    again, _ = network.train(*args, jax.random.key(0))
    later, _ = network.train(*args, jax.random.key(1))
    assert (first == again).all()
    assert (first[0] != first[1]).any()
    assert (first != later).any()


def test_an_evaluation_counts_the_images_of_weight_one_alone() -> None:
    """Padding has label 0 and may be right by chance; the fifth guess counts, no sixth."""
    logits = np.array([np.arange(CLASSES)] * 8, np.float32)  # likeliest 9, then 8, 7, 6, 5, 4
    logits[5:] = logits[5:, ::-1]  # padding: likeliest 0
    spy: Any = SimpleNamespace(evaluate=lambda *_: jnp.asarray(logits))
    batch = batch_of(8) | {
        "label": jnp.asarray([9, 8, 5, 4, 0, 0, 0, 0], jnp.int32),
        "weight": jnp.asarray([1, 1, 1, 1, 1, 0, 0, 0], jnp.float32),
    }
    sums = train.network.step.evaluation_step(spy, PLAIN)({}, {}, {}, batch)
    likelihoods = torch.from_numpy(logits[:5]).log_softmax(1)
    loss = -sum(float(likelihoods[i, label]) for i, label in enumerate([9, 8, 5, 4, 0]))
    assert float(sums["loss"]) == pytest.approx(loss, rel=1e-6)
    assert {name: float(sums[name]) for name in ("top1", "top5", "images")} == {
        "top1": 1,
        "top5": 3,
        "images": 5,
    }
