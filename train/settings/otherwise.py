"""Flags of torchvision's and timm's training programs that are named differently here."""

import re
from collections.abc import Collection

__all__ = ["said_here"]

SAID_HERE = {  # by their flag, without those that differ only in `_` for `-`
    # the run
    "resume": "the same command, with the same --out, resumes from its newest checkpoint",
    "start-epoch": "the same command, with the same --out, resumes from its newest checkpoint",
    "test-only": "`python -m train.evaluate --weights FILE` evaluates a network",
    "output-dir": "--out FOLDER",
    "output": "--out FOLDER",
    "checkpoint-hist": "--keep NUMBER",
    "print-freq": "a progress bar, or one line per minute, shows the progress",
    "log-interval": "a progress bar, or one line per minute, shows the progress",
    # the data
    "data-path": "--data FOLDER",
    "data-dir": "--data FOLDER",
    "dataset": "--data, a folder of images or ArrayRecord files, or hf:NAME",
    "b": "--batch-size NUMBER, over all devices",
    "j": "--workers NUMBER",
    "train-crop-size": "--train-size PIXELS",
    "val-crop-size": "--image-size PIXELS",
    "val-resize-size": "--resize-size PIXELS",
    "img-size": "--image-size PIXELS",
    "input-size": "--image-size PIXELS",
    "crop-pct": "--resize-size PIXELS, the image's size divided by the percentage",
    "aa": "--augment trivial, which is TrivialAugment",
    "auto-augment": "--augment trivial, which is TrivialAugment",
    "hflip": "--flip PROBABILITY",
    "scale": "--min-crop SHARE",
    "random-erase": "--random-erasing PROBABILITY",
    "reprob": "--random-erasing PROBABILITY",
    "mixup-alpha": "--mixup ALPHA",
    "cutmix-alpha": "--cutmix ALPHA",
    # the model
    "pretrained": "--weights DEFAULT",
    "initial-checkpoint": "--weights FILE",
    "checkpoint": "--weights FILE",
    "drop": "--set dropout=RATE",
    "drop-path": "--set stochastic_depth=RATE",
    "amp": "--dtype bfloat16",
    "sync-bn": "batch norms always use the whole batch, of all devices",
    "channels-last": "images always have their channels last",
    "torchcompile": "a step is always compiled",
    # the optimiser and its schedule
    "opt": "--optimizer NAME",
    "opt-eps": "--eps NUMBER",
    "opt-betas": "--betas NUMBER,NUMBER",
    "wd": "--weight-decay NUMBER",
    "norm-weight-decay": "--decay-norms",
    "clip-grad": "--clip-grad-norm NUMBER",
    "grad-accum-steps": "--grad-accum NUMBER",
    "sched": "--schedule NAME",
    "lr-scheduler": "--schedule NAME",
    "lr-warmup-epochs": "--warmup-epochs NUMBER",
    "lr-warmup-decay": "--warmup-start FACTOR",
    "lr-min": "--min-lr NUMBER",
    "lr-step-size": "--decay-epochs NUMBER",
    "lr-gamma": "--gamma FACTOR",
    "decay-rate": "--gamma FACTOR",
    "smoothing": "--label-smoothing SHARE",
    "model-ema": "--ema DECAY",
    "model-ema-decay": "--ema DECAY",
    "model-ema-steps": "--ema-every STEPS",
    # the devices
    "device": "JAX uses the accelerator that it finds; JAX_PLATFORMS=cpu before `python` selects",
    "gpus": "--mesh data=NUMBER; by default all devices",
    "world-size": "--num-processes NUMBER",
    "dist-url": "--coordinator HOST:PORT",
}


def said_here(flag: str, offered: Collection[str]) -> str | None:
    """The hint for a flag of another program, such as `is --workers NUMBER here` for `-j`.

    Args:
        flag: the flag, with or without its dashes.
        offered: the flags of the command; a hint that names any other is not given.

    Returns: None for an unknown flag.
    """
    word = flag.lstrip("-").replace("_", "-")
    answer = SAID_HERE.get(word) or _setting(word)
    named = re.findall(r"(?<!\S)--[\w-]+", (answer or "").partition("`")[0])
    if answer is None or not set(named) <= set(offered):
        return None
    return f"is {answer} here" if answer.startswith("--") else f"is not a flag here: {answer}"


def _setting(word: str) -> str | None:
    """How a model's argument is set here that torchvision or timm call `word`."""
    from flaxblocks.models.argument_names import LIBRARY_NAMES, our_name  # brings JAX along

    known = LIBRARY_NAMES.keys() - {"in_channels"}  # training images are RGB
    name = our_name(word.replace("-", "_"), known)
    return f"--set {name}=VALUE" if name in known else None
