"""Measure how fast a training step runs on this machine in JAX and in PyTorch: medians and ratios.

    python -m tools.benchmark_training resnet50 mobilenet_v2 --batch 128 --dtype bfloat16

The step is that of `python -m train`: normalisation of pixels, loss with label smoothing,
gradients, and SGD with Nesterov momentum and weight decay. PyTorch does the same in the
channels-last memory format, with autocast for bfloat16.
"""

import argparse
import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from tools.timing import Way, compare, measure

SIZE = 224
CLASSES = 1000
DTYPE = "FLAXBLOCKS_BENCHMARK_DTYPE"  # in the environment of the processes that measure
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _batch(batch: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, SIZE, SIZE, 3), dtype=np.uint8)
    return images, rng.integers(0, CLASSES, batch).astype(np.int32)


def jax_step(name: str, batch: int) -> Callable[[], object]:
    """The step of `train/`, with its state donated."""
    import jax
    import jax.numpy as jnp

    from train.network.build import build_model
    from train.network.model import Network
    from train.network.optimiser import make_optimiser
    from train.network.state import initial_state
    from train.network.step import StepSettings, train_step
    from train.settings.config import Config

    settings: dict[str, Any] = {"optimizer": "sgd", "nesterov": True, "weight_decay": 1e-4}
    config = Config(model=name, dtype=os.environ[DTYPE], **settings)
    network = Network.of(build_model(config, CLASSES))
    optimiser = make_optimiser(config, lambda _: jnp.asarray(0.01))
    step = train_step(network, optimiser, StepSettings(CLASSES, MEAN, STD, label_smoothing=0.1))
    compiled = jax.jit(step, donate_argnums=0)
    state = initial_state(network, optimiser, seed=0, average=False)
    images, labels = map(jnp.asarray, _batch(batch))

    def run() -> None:
        nonlocal state
        state = compiled(state, {"image": images, "label": labels})
        state.step.block_until_ready()

    return run


def jax_tutorial(name: str, batch: int) -> Callable[[], object]:
    """The step as in tutorials: `nnx.jit`, `nnx.Optimizer`, XLA's own convolutions."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    import flaxblocks as fb
    from flaxblocks.nn import conv

    conv._cpu_formulation = lambda *_, **__: None
    dtype = None if os.environ[DTYPE] == "float32" else jnp.bfloat16
    model = fb.create_model(name, num_classes=CLASSES, dtype=dtype)
    model.train()
    decay = optax.add_decayed_weights(1e-4, mask=lambda ps: jax.tree.map(lambda p: p.ndim > 1, ps))
    chain = optax.chain(decay, optax.sgd(0.01, momentum=0.9, nesterov=True))
    optimiser = nnx.Optimizer(model, chain, wrt=nnx.Param)

    @nnx.jit
    def step(model: nnx.Module, optimiser: nnx.Optimizer, pixels: Any, labels: Any) -> Any:
        def loss_of(model: Any) -> Any:
            images = (pixels.astype(jnp.float32) / 255 - jnp.asarray(MEAN)) / jnp.asarray(STD)
            targets = optax.smooth_labels(jax.nn.one_hot(labels, CLASSES), 0.1)
            logits = model(images).astype(jnp.float32)
            return optax.softmax_cross_entropy(logits, targets).mean()

        loss, gradients = nnx.value_and_grad(loss_of)(model)
        optimiser.update(model, gradients)
        return loss

    images, labels = map(jnp.asarray, _batch(batch))
    return lambda: step(model, optimiser, images, labels).block_until_ready()


def torch_eager(name: str, batch: int, compiled: bool = False) -> Callable[[], object]:
    """The step in PyTorch, in eager mode with the channels-last memory format."""
    import torch

    import flaxblocks.models  # noqa: F401
    from flaxblocks.models.registry import find_model
    from flaxblocks.parity.oracle import make_oracle

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True  # as in torchvision's training script
    made = make_oracle(find_model(name), CLASSES, 3, {}).train().to(device)
    model: Any = made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    run_model = torch.compile(model) if compiled else model
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [{"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0}]
    groups = [{"params": weights, "weight_decay": 1e-4}, *others]
    optimiser = torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True)
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    pixels, labels = (torch.from_numpy(array).to(device) for array in _batch(batch))
    mean, std = (torch.tensor(values, device=device) for values in (MEAN, STD))
    labels = labels.long()
    half = os.environ[DTYPE] == "bfloat16"

    def run() -> None:
        images = ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2)  # now channels last
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=half):
            loss = loss_of(run_model(images), labels)
        loss.backward()
        optimiser.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def torch_compile(name: str, batch: int) -> Callable[[], object]:
    """The step in PyTorch, under `torch.compile`."""
    return torch_eager(name, batch, compiled=True)


WAYS: dict[str, Way] = {
    way.__name__: way for way in (jax_step, jax_tutorial, torch_eager, torch_compile)
}


def main() -> None:
    """Parse the arguments, run all ways in turn, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("models", nargs="*", default=["resnet50", "mobilenet_v2"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--one", nargs=2, metavar=("WAY", "BATCH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ[DTYPE] = options.dtype
    if options.one:
        way, batch = options.one
        print(json.dumps(measure(WAYS[way], options.models[0], int(batch))))
        return
    for model in options.models:
        print(f"{model} at {SIZE}x{SIZE}, {options.dtype}: ms per step, and ratio to the first")
        command = ["-m", "tools.benchmark_training", model, "--dtype", options.dtype]
        ways = {way: WAYS[way] for way in options.ways}
        compare(command, ways, options.ways[0], options.batch, options.rounds)


if __name__ == "__main__":
    main()
