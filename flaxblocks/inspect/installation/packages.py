"""The versions of what is installed, and what each command needs of it. Nothing is imported: the
metadata of the packages say it, so that it takes no torch to find torch's version.
"""

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from flaxblocks.inspect.installation.finding import Finding
from flaxblocks.inspect.installation.known_bad import PLUGINS, release_numbers

__all__ = ["NEEDS", "Need", "needs", "version_of", "versions"]

SHOWN = (
    *("flaxblocks", "jax", "jaxlib", "flax", "numpy", "orbax-checkpoint", "grain"),
    *("torch", "torchvision", "timm"),
)

TRAINING = (
    *("optax", "orbax-checkpoint", "grain", "scikit-learn", "matplotlib"),
    *("tensorboardX", "tomli_w"),
)


@dataclass(frozen=True)
class Need:
    """What one command or part of one needs.

    Attributes:
        name: the command or the part.
        packages: as pip calls them.
        extra: the extra of flaxblocks that brings them and nothing else; empty if none does.
    """

    name: str
    packages: tuple[str, ...]
    extra: str = ""


NEEDS = (
    Need("predict", ("pillow", "safetensors", "platformdirs", "pooch", "requests", "tqdm")),
    Need("demo picture", ("matplotlib",)),
    Need("hub downloads", ("huggingface_hub",), "hub"),
    Need("verify", ("torch", "torchvision", "timm"), "torch"),
    Need("train", TRAINING, "train"),
    Need("train on hf:NAME", ("datasets",), "datasets"),
)


def version_of(package: str) -> str | None:
    """The version of an installed package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def versions() -> Iterator[Finding]:
    """Of Python, of what is installed among `SHOWN`, and of JAX's plugins."""
    yield Finding("Python", platform.python_version())
    for package in SHOWN:
        if found := version_of(package):
            yield Finding(package, found)
    for package in (*PLUGINS["rocm"], *PLUGINS["tpu"]):
        if found := version_of(package):
            yield Finding(package, found)
    jaxlib = version_of("jaxlib") or ""
    for package in PLUGINS["cuda"]:
        found = version_of(package)
        if found and release_numbers(found) != release_numbers(jaxlib):
            value = f"{found}, and JAX does not use it with jaxlib {jaxlib}"
            yield Finding(package, value, "note", f"pip install {package}=={jaxlib}")
        elif found:
            yield Finding(package, found)


def needs() -> Iterator[Finding]:
    """Whether what each command needs is installed."""
    for need in NEEDS:
        missing = [package for package in need.packages if version_of(package) is None]
        if not missing:
            yield Finding(need.name, "all it needs is installed")
            continue
        wanted = f"'flaxblocks[{need.extra}]'" if need.extra else " ".join(missing)
        value = f"missing: {', '.join(missing)}"
        yield Finding(need.name, value, "note", f"pip install {wanted}")
