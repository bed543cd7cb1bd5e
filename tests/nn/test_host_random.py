"""Keys that the host computes are JAX's to the last bit."""

import jax
import numpy as np
import pytest

from flaxblocks.nn.host_random import fold_in, key_of, words_of


@pytest.mark.parametrize("seed", [0, 1, 42, 2**31 - 1])
def test_seeds_and_folded_keys_are_those_of_jax(seed):
    key, words = jax.random.key(seed), words_of(seed)
    assert words is not None
    assert words == words_of(key)
    for data in (0, 1, 7, 2**32 - 1):
        folded = jax.random.fold_in(key, np.uint32(data))
        assert key_of(fold_in(words, data)) == folded


def test_jax_is_asked_where_the_host_does_not_know():
    assert words_of(-1) is None
    assert words_of(2**31) is None
    assert words_of(jax.random.key(0, impl="rbg")) is None
    assert words_of(jax.random.split(jax.random.key(0), 2)) is None
