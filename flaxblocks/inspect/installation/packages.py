"""The versions of installed packages, and the packages that each command needs.

Versions are read from the metadata of the packages; nothing is imported, such as torch.
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
    """The packages that a command, or a part of one, needs.

    Attributes:
        name: the command or the part.
        packages: names of the packages, as in pip.
        extra: the extra of flaxblocks that installs exactly these; empty if there is none.
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
    """The versions of Python, of the installed packages among `SHOWN`, and of JAX's plugins."""
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
            value = f"{found}, which JAX does not use with jaxlib {jaxlib}"
            yield Finding(package, value, "note", f"pip install {package}=={jaxlib}")
        elif found:
            yield Finding(package, found)


def needs() -> Iterator[Finding]:
    """Whether the packages that each command needs are installed."""
    for need in NEEDS:
        missing = [package for package in need.packages if version_of(package) is None]
        if not missing:
            yield Finding(need.name, "everything it needs is installed")
            continue
        wanted = f"'flaxblocks[{need.extra}]'" if need.extra else " ".join(missing)
        value = f"missing: {', '.join(missing)}"
        yield Finding(need.name, value, "note", f"pip install {wanted}")
