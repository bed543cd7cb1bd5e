"""All settings of a training run, in one dataclass from which flags, config files and help are
derived.
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
    """A dataclass field with what its flag needs.

    Args:
        default: default of the field.
        help: help text of the flag.
        choices: the allowed words.
        least: smallest allowed value.
        above: bound that the value must exceed.
        most: largest allowed value.
        free: whether it may change when a run is resumed, because it does not affect the results.
    """
    rule = {"choices": choices, "least": least, "above": above, "most": most}
    return field(default=default, metadata={"help": help, "free": free, **rule})


@dataclass(frozen=True)
class Config:
    """The settings of a training run, in the sections that `--help` shows.

    Names follow torchvision's references/classification and timm's train.py where these agree.
    """

    # Data
    data: str = setting(
        "digits",
        "`digits`; a folder with one subfolder of images per class, or with `train` and `val` "
        "folders of that form; a folder of ArrayRecord files; or `hf:NAME`, a Hugging Face "
        "dataset.",
    )
    num_classes: int | None = setting(
        None,
        "Number of classes; by default that of the data, required if the data does not name its "
        "classes.",
        least=1,
    )
    held_out: float | None = setting(
        None,
        "Fraction of each class to hold out if the data has no `val`; by default 0.1, or all "
        "images when evaluating without --config.",
        above=0,
        most=1,
    )
    image_size: int | None = setting(
        None,
        "Side of the image in pixels; by default that of the published weights, else 224 (digits: "
        "36).",
        least=8,
    )
    train_size: int | None = setting(
        None, "Side of the training images in pixels, if it differs from --image-size.", least=8
    )
    resize_size: int | None = setting(
        None,
        "Pixels to which the shorter side is resized before evaluation crops the centre.",
        least=8,
    )
    interpolation: str | None = setting(
        None,
        "Filter for resizing; by default that of the published weights, else bilinear.",
        choices=("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"),
    )
    crop_mode: str | None = setting(
        None,
        "How evaluation fits an image into the square: `center` crops, `squash` distorts, `border` "
        "pads; by default that of the published weights, else center (digits: squash).",
        choices=("center", "squash", "border"),
    )
    mean: str | None = setting(
        None,
        "Means of R, G, B on a scale of 0 to 1, such as 0.485,0.456,0.406; by default those of the "
        "published weights or the data.",
    )
    std: str | None = setting(
        None, "Standard deviations of R, G, B on the same scale; by default as for --mean."
    )
    augment: str = setting(
        "basic",
        "`basic`: random resized crop and flip; `trivial`: TrivialAugment in addition; `none`: "
        "images as in evaluation.",
        choices=("none", "basic", "trivial"),
    )
    min_crop: float | None = setting(
        None,
        "Smallest fraction of the image's area in a random crop; by default 0.08 (digits: 0.8).",
        above=0,
        most=1,
    )
    flip: float | None = setting(
        None, "Probability of a horizontal flip; by default 0.5 (digits: 0).", least=0, most=1
    )
    random_erasing: float = setting(
        0.0, "Probability of erasing a random rectangle of an image.", least=0, most=1
    )
    mixup: float = setting(0.0, "Alpha of mixup; 0 disables it.", least=0)
    cutmix: float = setting(
        0.0,
        "Alpha of cutmix; 0 disables it. With both, each batch gets one of the two at random.",
        least=0,
    )
    batch_size: int | None = setting(
        None,
        "Images per optimiser step (or evaluation batch), over all devices and --grad-accum "
        "parts; by default 128 (digits: 16).",
        least=1,
    )
    workers: int = setting(
        0, "Worker processes that read images; 0 reads in threads.", least=0, free=True
    )

    # Model
    model: str = setting("mobilenet_v2", "Name of the model, one that `flaxblocks list` prints.")
    weights: str | None = setting(
        None,
        "Weights to start from or to evaluate: a checkpoint file or the name of published weights.",
    )
    width_mult: str | None = setting(None, "Multiplier of the width of every layer.")
    set: tuple[str, ...] = setting(
        (),
        "NAME=VALUE, any other argument of the model; VALUE is JSON or a bare word. May be "
        "repeated.",
    )
    freeze: tuple[str, ...] = setting(
        (),
        "Pattern of parameter paths not to train, such as `stem*`; `backbone` is all but the head. "
        "Frozen batch norms keep their running statistics. May be repeated.",
    )
    dtype: str = setting(
        "float32",
        "Dtype of the computation; parameters stay float32.",
        choices=("float32", "bfloat16"),
    )

    # Optimisation
    epochs: int = setting(20, "Passes over the training data.", least=1)
    optimizer: str = setting(
        "adamw",
        "SGD, RMSprop and AdamW as in torch.optim; LAMB and rmsprop-tf, TensorFlow's RMSprop, as "
        "in timm.",
        choices=("sgd", "rmsprop", "rmsprop-tf", "adamw", "lamb"),
    )
    lr: float | None = setting(
        None,
        "Peak learning rate; by default 0.1 for sgd, 0.01 for rmsprop, 0.001 for adamw (digits: "
        "0.01), 0.002 for lamb.",
        above=0,
    )
    momentum: float = setting(0.9, "Momentum of sgd and rmsprop.", least=0, most=1)
    nesterov: bool = setting(False, "Use Nesterov momentum in sgd.")
    alpha: float = setting(
        0.9, "Decay rate of rmsprop's average of squared gradients.", least=0, most=1
    )
    betas: str = setting("0.9,0.999", "Decay rates of the two moments in adamw and lamb.")
    eps: float | None = setting(
        None,
        "Constant added to the denominator in rmsprop, adamw and lamb; by default 1e-8, for "
        "rmsprop-tf 1e-10, for lamb 1e-6.",
        above=0,
    )
    weight_decay: float | None = setting(
        None, "Weight decay; by default 0.05 for adamw and lamb, else 1e-4.", least=0
    )
    decay_norms: bool = setting(
        False, "Apply weight decay to biases and the parameters of norms too."
    )
    clip_grad_norm: float | None = setting(
        None,
        "Largest global norm of the gradient, to which larger ones are scaled down; by default 1 "
        "for lamb, else no limit.",
        above=0,
    )
    grad_accum: int = setting(
        1, "Parts that a batch is split into and processed in turn, to save memory.", least=1
    )
    schedule: str = setting(
        "cosine",
        "How the learning rate decays after warm-up.",
        choices=("cosine", "step", "exponential", "constant"),
    )
    schedule_every: str = setting(
        "step",
        "Whether the learning rate changes at each step or each epoch.",
        choices=("step", "epoch"),
    )
    warmup_epochs: float | None = setting(
        None, "Epochs of linear warm-up; by default 1, or 0.1 if --epochs is 1.", least=0
    )
    warmup_start: float = setting(
        0.01, "Learning rate at the start of warm-up, as a fraction of --lr.", above=0, most=1
    )
    min_lr: float = setting(0.0, "Learning rate at the end of the cosine schedule.", least=0)
    decay_epochs: float = setting(30.0, "Epochs between drops in the step schedule.", above=0)
    gamma: float = setting(
        0.1,
        "Factor of each drop in the step schedule, or of each epoch in the exponential one.",
        above=0,
        most=1,
    )
    label_smoothing: float = setting(
        0.0, "Fraction of each target that is spread evenly over all classes.", least=0, most=1
    )
    ema: float | None = setting(
        None,
        "Decay of an exponential moving average of the weights, which is then evaluated and "
        "exported in their place.",
        above=0,
        most=1,
    )
    ema_every: int = setting(1, "Steps between updates of the moving average.", least=1)

    # Run
    seed: int = setting(
        0,
        "Seed of everything random: initial weights, held-out split, order of images, "
        "augmentation, dropout.",
        least=0,
        most=2**32 - 1,
    )
    out: str = setting("runs/train", "Output folder; a run found in it is resumed.", free=True)
    keep: int = setting(
        2, "Number of newest checkpoints to keep, in addition to the best.", least=1, free=True
    )
    save_every: int | None = setting(
        None,
        "Steps between checkpoints, in addition to those at the end of each epoch.",
        least=1,
        free=True,
    )

    # Devices
    mesh: str = setting(
        "",
        "Device mesh, such as `data=8` or `data=4,fsdp=2`; by default all devices on `data`.",
        free=True,
    )
    coordinator: str | None = setting(
        None,
        "HOST:PORT of process 0; detected automatically on Slurm, Open MPI and TPU pods.",
        free=True,
    )
    num_processes: int | None = setting(None, "Number of processes.", least=1, free=True)
    process_id: int | None = setting(
        None, "Index of this process, counted from 0.", least=0, free=True
    )


SECTIONS = {
    "data": "Data",
    "model": "Model",
    "epochs": "Optimisation",
    "seed": "Run",
    "mesh": "Devices",
}  # by their first field


def flag(name: str) -> str:
    """The flag of a setting: `--batch-size` for `batch_size`."""
    return "--" + name.replace("_", "-")


def changed(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The settings that differ but must not when a run is resumed, each as `--lr 0.1 (was 0.2)`."""
    bound: list[Field] = [field for field in fields(Config) if not field.metadata["free"]]
    return [
        f"{flag(field.name)} {_told(new[field.name])} (was {_told(old.get(field.name))})"
        for field in bound
        if field.name not in old or old[field.name] != new[field.name]
    ]


def _told(value: Any) -> Any:
    """A value in the form that its flag takes."""
    if isinstance(value, list | tuple):
        return " ".join(value) or "none"
    return "none" if value is None else value
