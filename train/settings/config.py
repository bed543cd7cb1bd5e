"""Every setting of a training run, once: the flags, the config files and the help are made from
this dataclass.
"""

from dataclasses import Field, dataclass, field, fields
from typing import Any

__all__ = ["Config", "changed", "flag"]


def setting(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] | None = None,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    free: bool = False,
) -> Any:
    """A field with what its flag needs.

    Args:
        default: of the field.
        help: one line.
        choices: the words that it may be.
        least: the smallest value.
        above: what the value must exceed.
        most: the largest value.
        free: may differ when a run goes on from a checkpoint, since it changes no number.
    """
    rule = {"choices": choices, "least": least, "above": above, "most": most}
    return field(default=default, metadata={"help": help, "free": free, **rule})


@dataclass(frozen=True)
class Config:
    """A training run. Sections are as `--help` shows them.

    Source of the words: torchvision's references/classification and timm's train.py, where they
    agree.
    """

    # Data
    data: str = setting(
        "digits",
        "`digits`; a folder of images by class, or with `train` and `val` of such; `FOLDER` of "
        "ArrayRecord files; `hf:NAME` of a Hugging Face dataset.",
    )
    num_classes: int | None = setting(None, "Number of classes; by default the data's.", least=1)
    held_out: float | None = setting(
        None,
        "Share of each class to hold out where the data has no `val`; by default 0.1, and in "
        "evaluation without --config all.",
        above=0,
        most=1,
    )
    image_size: int | None = setting(
        None,
        "Pixels of a side; by default those of the published weights, else 224, for digits 36.",
        least=8,
    )
    train_size: int | None = setting(
        None, "Pixels of a side in training, where it differs.", least=8
    )
    resize_size: int | None = setting(
        None,
        "Pixels that the shorter side is resized to before evaluation cuts out the centre.",
        least=8,
    )
    interpolation: str | None = setting(
        None,
        "Filter of resizing; by default that of the published weights, else bilinear.",
        choices=("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"),
    )
    crop_mode: str | None = setting(
        None,
        "How evaluation fits an image into the square: `center` cuts, `squash` distorts, `border` "
        "pads; by default as the published weights, else center.",
        choices=("center", "squash", "border"),
    )
    mean: str | None = setting(
        None,
        "Means of R, G, B on the scale 0 to 1; by default those of the published weights or the "
        "data.",
    )
    std: str | None = setting(
        None, "Standard deviations of R, G, B on that scale; by default as for --mean."
    )
    augment: str = setting(
        "basic",
        "`basic`: random-resized-crop and flip; `trivial`: and TrivialAugment; `none`: as in "
        "evaluation.",
        choices=("none", "basic", "trivial"),
    )
    min_crop: float | None = setting(
        None,
        "Smallest share of the image in a random crop; by default 0.08, for digits 0.8.",
        above=0,
        most=1,
    )
    flip: float | None = setting(
        None, "Probability of a left-right flip; by default 0.5, for digits 0.", least=0, most=1
    )
    random_erasing: float = setting(0.0, "Probability of blanking a rectangle.", least=0, most=1)
    mixup: float = setting(0.0, "Alpha of mixup.", least=0)
    cutmix: float = setting(0.0, "Alpha of cutmix; with mixup, either by even chance.", least=0)
    batch_size: int | None = setting(
        None,
        "Images of one optimiser step, over all devices and accumulated parts; by default 128, "
        "for digits 16.",
        least=1,
    )
    workers: int = setting(0, "Processes that read images; 0 reads in threads.", least=0, free=True)

    # Model
    model: str = setting("mobilenet_v2", "A name that `flaxblocks list` prints.")
    weights: str | None = setting(
        None, "Where to start: a checkpoint file or the name of published weights."
    )
    width_mult: str | None = setting(None, "Scales every width.")
    set: tuple[str, ...] = setting(
        (), "NAME=VALUE, any further argument of the model; VALUE is JSON or a word."
    )
    freeze: tuple[str, ...] = setting(
        (),
        "Pattern of paths to leave as they are, such as `stem*`; `backbone` is all but the head. "
        "Frozen batch norms keep their statistics.",
    )
    dtype: str = setting(
        "float32", "What is computed in; parameters stay float32.", choices=("float32", "bfloat16")
    )

    # Optimisation
    epochs: int = setting(20, "Passes over the data.", least=1)
    optimizer: str = setting(
        "adamw",
        "torch.optim's SGD, RMSprop and AdamW; TensorFlow's RMSprop and LAMB as in timm.",
        choices=("sgd", "rmsprop", "rmsprop-tf", "adamw", "lamb"),
    )
    lr: float | None = setting(
        None,
        "Peak learning rate; by default 0.1 for sgd, 0.01 for rmsprop, 0.001 for adamw (for digits "
        "0.01), 0.002 for lamb.",
        above=0,
    )
    momentum: float = setting(0.9, "Momentum of sgd and rmsprop.", least=0, most=1)
    nesterov: bool = setting(False, "Use Nesterov's momentum in sgd.")
    alpha: float = setting(0.9, "Decay of rmsprop's mean square.", least=0, most=1)
    betas: str = setting("0.9,0.999", "Decay rates of adamw's and lamb's moments.")
    eps: float | None = setting(
        None,
        "Added to the denominator in rmsprop, adamw, lamb; by default 1e-8, rmsprop-tf 1e-10, lamb "
        "1e-6.",
        above=0,
    )
    weight_decay: float | None = setting(
        None, "Weight decay; by default 0.05 for adamw and lamb, else 1e-4.", least=0
    )
    decay_norms: bool = setting(False, "Decay biases and the parameters of norms too.")
    clip_grad_norm: float | None = setting(
        None, "Largest norm of the gradient; by default 1 for lamb.", above=0
    )
    grad_accum: int = setting(
        1, "Parts that a batch is split into, one after the other, to save memory.", least=1
    )
    schedule: str = setting(
        "cosine",
        "How the learning rate falls.",
        choices=("cosine", "step", "exponential", "constant"),
    )
    schedule_every: str = setting(
        "step", "When the learning rate changes.", choices=("step", "epoch")
    )
    warmup_epochs: float | None = setting(
        None, "Epochs of linear warm-up; by default 1, or 0.1 of a single epoch.", least=0
    )
    warmup_start: float = setting(
        0.01, "Learning rate where warm-up starts, as a share of --lr.", above=0, most=1
    )
    min_lr: float = setting(0.0, "Learning rate where cosine ends.", least=0)
    decay_epochs: float = setting(30.0, "Epochs between the drops of `step`.", above=0)
    gamma: float = setting(
        0.1, "Factor of a drop of `step`; of an epoch of `exponential`.", above=0, most=1
    )
    label_smoothing: float = setting(
        0.0, "Share of each label that is spread over all classes.", least=0, most=1
    )
    ema: float | None = setting(
        None, "Decay of a running average of the weights, which is then evaluated.", above=0, most=1
    )
    ema_every: int = setting(1, "Steps between updates of that average.", least=1)

    # Run
    seed: int = setting(
        0,
        "Seed of all that is random: weights, the order of images, their changes, dropout.",
        least=0,
        most=2**32 - 1,
    )
    out: str = setting(
        "runs/train", "Folder of what the run writes; a run found there goes on.", free=True
    )
    keep: int = setting(2, "Newest checkpoints to keep, beside the best.", least=1, free=True)
    save_every: int | None = setting(
        None, "Steps between checkpoints, beside those at each epoch's end.", least=1, free=True
    )

    # Devices
    mesh: str = setting(
        "", "Such as `data=8` or `data=4,fsdp=2`; by default all devices on `data`.", free=True
    )
    coordinator: str | None = setting(
        None, "HOST:PORT of process 0; found by itself on Slurm and TPU pods.", free=True
    )
    num_processes: int | None = setting(None, "Number of processes.", least=1, free=True)
    process_id: int | None = setting(None, "Number of this process, from 0.", least=0, free=True)


SECTIONS = {
    "data": "Data",
    "model": "Model",
    "epochs": "Optimisation",
    "seed": "Run",
    "mesh": "Devices",
}  # by their first field


def flag(name: str) -> str:
    """`--batch-size` for `batch_size`."""
    return "--" + name.replace("_", "-")


def changed(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What a run may not change on its way, each as `--lr 0.1 (was 0.2)`."""
    bound: list[Field] = [field for field in fields(Config) if not field.metadata["free"]]
    return [
        f"{flag(field.name)} {_told(new[field.name])} (was {_told(old.get(field.name))})"
        for field in bound
        if field.name not in old or old[field.name] != new[field.name]
    ]


def _told(value: Any) -> Any:
    """A value as its flag takes it."""
    if isinstance(value, list | tuple):
        return " ".join(value) or "none"
    return "none" if value is None else value
