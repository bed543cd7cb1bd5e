"""Weights and images computed by a formula: the same bits on every machine and with every NumPy.

A library's random generator may change with a release, and PyTorch's differs from NumPy's. Here
value `i` of a tensor is an integer hash of the tensor's name, its shape and `i`, so that results
computed from it in PyTorch once can be compared with results computed from it today.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np

__all__ = ["Norms", "hashed", "hashed_state", "picks"]

BITS = 24  # the precision of float32
SPREAD = 0.25  # largest relative deviation of a norm's scales, biases and statistics

Norms = Mapping[str, tuple[float, float]]  # path of a batch norm -> mean and variance of its input


def hashed(name: str, shape: Sequence[int]) -> np.ndarray:
    """Uniform values in [-1, 1), exact in float32, as float64.

    Args:
        name: different names give different values.
        shape: shape of the result.

    Source: the finaliser of SplitMix64, Steele et al. 2014, applied to a counter that starts at the
        first 8 bytes of the SHA-256 of name and shape.
    """
    words = _words(name, shape, math.prod(shape))
    integers = (words >> np.uint64(64 - BITS)).astype(np.int64)
    return ((integers - 2 ** (BITS - 1)) / 2.0 ** (BITS - 1)).reshape(shape)


def picks(name: str, count: int, most: int) -> np.ndarray:
    """`min(count, most)` indices below `count`: all of them in order, or pseudo-random ones."""
    if count <= most:
        return np.arange(count)
    return (_words(name, (count,), most) % np.uint64(count)).astype(np.int64)


def _words(name: str, shape: Sequence[int], count: int) -> np.ndarray:
    text = f"{name}|{','.join(map(str, shape))}"
    first = np.frombuffer(hashlib.sha256(text.encode()).digest()[:8], "<u8")
    with np.errstate(over="ignore"):  # modulo 2^64
        z = first + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def hashed_state(
    shapes: Mapping[str, Sequence[int]], seed: str, norms: Norms
) -> dict[str, np.ndarray]:
    """A PyTorch state dict of a convolutional network, in float32.

    Kernels have variance 1 / fan_in. The scales, biases and running statistics of norms vary
    between channels, as in a trained network: around 1, around 0 and around `norms`, so that
    activations neither vanish nor explode in a network of any depth.

    Args:
        shapes: the shape for each key.
        seed: different seeds give different values.
        norms: the mean and variance of each norm's input, measured on the images to be used.
    """
    return {key: _entry(key, shape, seed, norms) for key, shape in shapes.items()}


def _entry(key: str, shape: Sequence[int], seed: str, norms: Norms) -> np.ndarray:
    path, _, leaf = key.rpartition(".")
    if leaf == "num_batches_tracked":
        return np.asarray(3, np.int64)
    numbers = hashed(f"{seed}/{key}", shape)
    mean, variance = norms.get(path, (0.0, 1.0))
    if len(shape) > 1:
        numbers = numbers * math.sqrt(3.0 / math.prod(shape[1:]))
    elif leaf == "running_var":
        numbers = variance * (1.0 + SPREAD * numbers)
    elif leaf == "running_mean":
        numbers = mean + math.sqrt(variance) * SPREAD * numbers
    elif leaf == "bias":
        numbers = SPREAD * numbers
    else:
        numbers = 1.0 + SPREAD * numbers
    return numbers.astype(np.float32)
