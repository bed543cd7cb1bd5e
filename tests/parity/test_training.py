"""The training program's own step beside a PyTorch loop: ten steps in float64, everything compared.

Both start from the same calibrated weights and see the same pixels. PyTorch's side is what
torchvision's references/classification do: CrossEntropyLoss, an optimiser over parameter groups, a
scheduler stepped after each update, an AveragedModel.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from timm.optim.lamb import Lamb
from timm.optim.rmsprop_tf import RMSpropTF
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import flaxblocks as fb
from flaxblocks.models.mobilenetv2 import SETTING
from flaxblocks.models.registry import find_model
from flaxblocks.parity import relative_error
from flaxblocks.parity.compiling import quick_to_compile
from flaxblocks.parity.oracle import calibrated_oracle
from train.data.digits import open_digits
from train.network.model import Network
from train.network.optimiser import make_optimiser
from train.network.schedule import learning_rate
from train.network.state import TrainState, initial_state
from train.network.step import StepSettings, train_step
from train.settings.config import Config
from train.settings.defaults import filled, resolved

STEPS = 10
CLASSES = 100  # with few, the heads of some libraries start so large that SGD diverges
BATCH = 8
BOUND = 1e-8  # measured: 5e-15
COUNT = "num_batches_tracked"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# A step an epoch, so that torch's schedulers are stepped when ours moves.
RUN = Config(epochs=STEPS, batch_size=BATCH, warmup_epochs=3, warmup_start=0.1)

OF_SEQUENTIAL_LR_ITSELF = pytest.mark.filterwarnings(
    "ignore:The epoch parameter in `scheduler.step"
)

OPTIMISERS = {
    "sgd": (
        {"optimizer": "sgd", "lr": 0.005, "momentum": 0.9, "weight_decay": 1e-2},
        lambda groups: torch.optim.SGD(groups, lr=0.005, momentum=0.9),
    ),
    "nesterov": (
        {"optimizer": "sgd", "lr": 0.005, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-2},
        lambda groups: torch.optim.SGD(groups, lr=0.005, momentum=0.9, nesterov=True),
    ),
    "rmsprop": (
        {"optimizer": "rmsprop", "lr": 1e-4, "alpha": 0.9, "eps": 1e-3, "weight_decay": 1e-2},
        lambda groups: torch.optim.RMSprop(groups, lr=1e-4, alpha=0.9, eps=1e-3, momentum=0.9),
    ),
    "rmsprop-tf": (
        {"optimizer": "rmsprop-tf", "lr": 1e-4, "alpha": 0.9, "eps": 1e-3, "weight_decay": 1e-2},
        lambda groups: RMSpropTF(groups, lr=1e-4, alpha=0.9, eps=1e-3, momentum=0.9),
    ),
    "adamw": (
        {"optimizer": "adamw", "lr": 1e-3, "betas": "0.9,0.99", "eps": 1e-6, "weight_decay": 0.1},
        lambda groups: torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), eps=1e-6),
    ),
    "lamb": (
        {"optimizer": "lamb", "lr": 1e-3, "weight_decay": 0.1},
        lambda groups: Lamb(groups, lr=1e-3),
    ),
}
# MobileNetV2 with one block in each stage: an optimiser sees every kind of parameter in it.
SHALLOW = {
    "dropout": 0.0,
    "inverted_residual_setting": [
        [expansion, channels, 1, stride] for expansion, channels, _, stride in SETTING
    ],
}
MODELS = {
    "mobilenet_v2": {"dropout": 0.0},
    "resnet10t": {},
    "resnet18": {},
    "efficientnet_b0": {"dropout": 0.0, "stochastic_depth": 0.0},
    "rexnet_100": {"dropout": 0.0, "stochastic_depth": 0.0},
}
DEFAULT = [
    ("resnet10t", "nesterov"),
    ("resnet10t", "adamw"),
]
CASES = [
    pytest.param(
        model, optimiser, marks=[] if (model, optimiser) in DEFAULT else [pytest.mark.thorough]
    )
    for model in MODELS
    for optimiser in OPTIMISERS
]
TAKEN_BY_BOTH = ("width_mult", "inverted_residual_setting")  # under one name


def batches() -> list[tuple[np.ndarray, np.ndarray]]:
    """Another batch for each step: pixels 0..255 and labels."""
    rng = np.random.default_rng(0)
    return [
        (
            rng.integers(0, 256, (BATCH, 64, 48, 3), dtype=np.uint8),
            rng.integers(0, CLASSES, BATCH).astype(np.int32),
        )
        for _ in range(STEPS)
    ]


def run_torch(
    model: Any, make: Any, config: Config, decay: float, parts: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The state dicts of the trained model and of its average."""
    model = model.double().train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.eval()
        if hasattr(module, "drop_prob") or type(module).__name__ == "StochasticDepth":
            module.eval()
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimiser = make(
        [
            {"params": weights, "weight_decay": decay},
            {"params": others, "weight_decay": decay if config.decay_norms else 0.0},
        ]
    )
    warmup = int(filled(config.warmup_epochs))
    scheduler = lr_scheduler.SequentialLR(
        optimiser,
        [
            lr_scheduler.LinearLR(optimiser, config.warmup_start, total_iters=warmup),
            lr_scheduler.CosineAnnealingLR(optimiser, STEPS - warmup),
        ],
        milestones=[warmup],
    )
    average = AveragedModel(
        model, multi_avg_fn=get_ema_multi_avg_fn(filled(config.ema)), use_buffers=True
    )
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (MEAN, STD))
    for step, (pixels, labels) in enumerate(batches()):
        images = (torch.from_numpy(pixels).double() / 255 - mean) / std
        optimiser.zero_grad()
        for part in range(parts):
            rows = slice(part, None, parts)
            logits = model(images[rows].permute(0, 3, 1, 2))
            (loss_of(logits, torch.from_numpy(labels[rows]).long()) / parts).backward()
        if config.clip_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_grad_norm)
        optimiser.step()
        scheduler.step()
        average.update_parameters(model)
        if step < warmup:
            average.n_averaged.fill_(0)
    states = (module.state_dict() for module in (model, average.module))
    trained, averaged = ({k: v.numpy() for k, v in state.items()} for state in states)
    return trained, averaged


def run_ours(
    model: Any, config: Config, parts: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The same from the training program's parts."""
    network = Network.of(model)
    rate = learning_rate(config, filled(config.lr), steps_per_epoch=1)
    optimiser = make_optimiser(config, rate)
    settings = StepSettings(
        num_classes=CLASSES,
        mean=MEAN,
        std=STD,
        label_smoothing=config.label_smoothing,
        grad_accum=parts,
        ema=config.ema or 0.0,
        warmup_steps=int(filled(config.warmup_epochs)),
    )
    state: TrainState = initial_state(network, optimiser, seed=0, average=True)
    step = jax.jit(
        train_step(network, optimiser, settings),
        donate_argnums=0,
        compiler_options=quick_to_compile(model, grad=True),
    )
    for pixels, labels in batches():
        state = step(state, {"image": jnp.asarray(pixels), "label": jnp.asarray(labels)})
    assert state.average is not None
    trained = fb.to_torch(network.with_arrays(state.params, state.buffers))
    averaged = fb.to_torch(network.with_arrays(state.average.params, state.average.buffers))
    return trained, averaged


def errors(
    name: str, config: Config, make: Any, parts: int = 1, **settings: Any
) -> tuple[float, float]:
    """Largest relative error of a parameter or buffer: of the model, and of its average."""
    shared = {k: v for k, v in settings.items() if k in TAKEN_BY_BOTH}
    oracle = calibrated_oracle(find_model(name), CLASSES, config=shared)
    with jax.enable_x64(True):
        model = fb.create_model(
            name, weights=oracle.state_dict(), param_dtype=jnp.float64, **settings
        )
        ours = run_ours(model, config, parts)
    assert config.weight_decay is not None
    theirs = run_torch(oracle, make, config, config.weight_decay, parts)
    worst = []
    for mine, its in zip(ours, theirs, strict=True):
        assert list(mine) == list(its)
        # The average of a count, which torch rounds down, counts nothing: ours is the count.
        keys = [key for key in its if its is theirs[0] or not key.endswith(COUNT)]
        worst.append(max(relative_error(mine[key], its[key]) for key in keys))
    assert all(np.array_equal(ours[1][k], ours[0][k]) for k in ours[0] if k.endswith(COUNT))
    return worst[0], worst[1]


@pytest.mark.parametrize(("name", "optimiser"), CASES)
@OF_SEQUENTIAL_LR_ITSELF
def test_ten_steps_are_pytorchs(name: str, optimiser: str) -> None:
    check_ten_steps(name, optimiser, MODELS[name])


@OF_SEQUENTIAL_LR_ITSELF
def test_ten_steps_of_a_shallow_mobilenet_are_pytorchs() -> None:
    check_ten_steps("mobilenet_v2", "rmsprop-tf", SHALLOW)


def check_ten_steps(name: str, optimiser: str, model: dict[str, Any]) -> None:
    settings, make = OPTIMISERS[optimiser]
    config = resolved(replace(RUN, label_smoothing=0.1, ema=0.8, **settings), open_digits())
    trained, averaged = errors(name, config, make, **model)
    assert trained <= BOUND
    assert averaged <= BOUND


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(SHALLOW, id="shallow"),
        pytest.param(MODELS["mobilenet_v2"], id="whole", marks=pytest.mark.thorough),
    ],
)
@OF_SEQUENTIAL_LR_ITSELF
def test_ten_steps_of_accumulated_gradients_are_pytorchs(model: dict[str, Any]) -> None:
    """Each part updates the running statistics in turn; norms decay too. Without clipping, which
    would hide a gradient that is a multiple of PyTorch's.
    """
    settings, make = OPTIMISERS["sgd"]
    config = replace(RUN, ema=0.8, decay_norms=True, **settings)
    config = resolved(config, open_digits())
    trained, averaged = errors("mobilenet_v2", config, make, parts=2, width_mult=0.25, **model)
    assert trained <= BOUND
    assert averaged <= BOUND
