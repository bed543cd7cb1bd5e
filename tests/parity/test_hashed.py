"""Weights by arithmetic alone: the same bits for ever."""

import numpy as np
import pytest

from flaxblocks.parity.hashed import hashed, hashed_state, picks


def test_the_numbers_are_those_of_the_day_they_were_stored():
    # By another program, in Python's own integers.
    assert [int(n * 2**23) for n in hashed("stem/kernel", (4,))] == by_hand("stem/kernel|4", 4)
    assert [int(n * 2**23) for n in hashed("x", (2, 3)).reshape(-1)] == by_hand("x|2,3", 6)


def by_hand(text: str, count: int) -> list[int]:
    import hashlib

    first = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    numbers = []
    for i in range(1, count + 1):
        z = (first + i * 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        numbers.append(((z ^ (z >> 31)) >> 40) - 2**23)
    return numbers


def test_they_are_uniform_and_exact_in_float32():
    numbers = hashed("a", (1000, 100))
    assert -1 <= numbers.min() < -0.999 < 0.999 < numbers.max() < 1
    assert abs(numbers.mean()) < 0.01  # five deviations of the mean of 100,000 numbers
    assert abs(numbers.var() - 1 / 3) < 0.01
    np.testing.assert_array_equal(numbers.astype(np.float32), numbers)


@pytest.mark.parametrize("other", [("b", (4, 2)), ("a", (2, 4)), ("a", (8,))])
def test_another_name_or_shape_gives_other_numbers(other):
    assert not np.intersect1d(hashed("a", (4, 2)), hashed(*other)).size


def test_all_indices_where_there_are_few_else_a_choice():
    assert picks("a", 5, 8).tolist() == [0, 1, 2, 3, 4]
    chosen = picks("a", 10_000, 64)
    assert chosen.shape == (64,)
    assert 0 <= chosen.min() < chosen.max() < 10_000


def test_a_state_dict_differs_from_channel_to_channel():
    shapes = {"conv.weight": (8, 4, 3, 3), "bn.running_var": (8,), "bn.num_batches_tracked": ()}
    state = hashed_state(shapes, "seed", {"bn": (1.0, 4.0)})
    assert {key: value.shape for key, value in state.items()} == shapes
    assert abs(state["conv.weight"].std() * (4 * 9) ** 0.5 - 1) < 0.1  # variance 1 / fan_in
    assert len(set(state["bn.running_var"])) == 8
    assert 3 <= state["bn.running_var"].min() < state["bn.running_var"].max() <= 5
    assert state["bn.num_batches_tracked"].dtype == np.int64
