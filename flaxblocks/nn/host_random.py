"""Random keys computed on the host: the bits of `jax.random.key` and `jax.random.fold_in`, without
compiling XLA programs.

A model that a checkpoint fills draws no parameters, but its dropout needs a random stream. Seeding
it with JAX compiles five small programs, which takes as long as the rest of loading MobileNetV2.

Source: Salmon et al. 2011, Threefry-2x32 with 20 rounds, https://doi.org/10.1145/2063384.2063405.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer

__all__ = ["HostStream", "key_of", "stream_keys", "words_of"]

WORD = 0xFFFFFFFF
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA  # of the key schedule
Words = tuple[int, int]


def threefry(key: Words, counter: Words) -> Words:
    """One block of Threefry-2x32, each word below 2^32."""
    schedule = (*key, key[0] ^ key[1] ^ PARITY)
    left, right = (counter[0] + key[0]) & WORD, (counter[1] + key[1]) & WORD
    for block in range(5):
        for bits in ROTATIONS[block % 2]:
            left = (left + right) & WORD
            right = ((right << bits | right >> (32 - bits)) & WORD) ^ left
        left = (left + schedule[(block + 1) % 3]) & WORD
        right = (right + schedule[(block + 2) % 3] + block + 1) & WORD
    return left, right


def fold_in(key: Words, data: int) -> Words:
    """`jax.random.fold_in` for data below 2^32."""
    return threefry(key, (0, data))


def key_of(words: Words) -> jax.Array:
    """The typed JAX key that two words make up."""
    data: Any = np.array(words, np.uint32)
    return jax.random.wrap_key_data(data, impl="threefry2x32")


def words_of(key: object) -> Words | None:
    """The words of a seed or a key; None where JAX itself must be asked: another generator, a
    traced key, a seed that does not fit 31 bits.
    """
    if isinstance(key, int) and jax.config.jax_default_prng_impl == "threefry2x32":  # type: ignore[attr-defined]
        return (0, key) if 0 <= key < 2**31 else None
    if isinstance(key, Tracer) or not isinstance(key, jax.Array) or key.shape:
        return None
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return None
    if str(jax.random.key_impl(key)) != "threefry2x32":
        return None
    left, right = np.asarray(jax.random.key_data(key)).tolist()
    return left, right


def stream_keys(seed: object, count: int) -> list[jax.Array] | None:
    """The first `count` keys of a stream of `nnx.Rngs(seed)`; None if only JAX can compute them."""
    words = words_of(seed)
    return None if words is None else [key_of(fold_in(words, n)) for n in range(count)]


class HostStream(nnx.RngStream):
    """The stream from which layers fork their own while a model is built without drawing.

    The forked streams are Flax's `nnx.RngStream`, seeded with the same keys as in Flax.
    """

    def __init__(self, words: Words, *, tag: str):
        """Start at the first key."""
        self.tag = tag
        self.words = words
        self.given = 0

    def __call__(self) -> jax.Array:
        """The next key."""
        self.given += 1
        return key_of(fold_in(self.words, self.given - 1))

    def fork(self, **_: object) -> nnx.RngStream:
        """A Flax stream seeded with the next key."""
        return nnx.RngStream(self(), tag=self.tag)
