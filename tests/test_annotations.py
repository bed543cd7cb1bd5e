"""The tests check what functions are annotated with, whether it is a shape or not."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import jaxtyping
import pytest
from beartype.roar import BeartypeCallHintViolation
from flax import nnx
from jaxtyping import Array, Float

import flaxblocks as fb
from flaxblocks.nn.arguments import pair
from tests.typechecker import checked, has_shapes

T = TypeVar("T")


def test_without_shapes() -> None:
    wrong: Any = 3
    with pytest.raises(BeartypeCallHintViolation, match="pair"):
        pair(wrong, 1)
    with pytest.raises(BeartypeCallHintViolation, match="stride"):
        fb.nn.MaxPool(2, stride="2")  # pyright: ignore[reportArgumentType]
    assert fb.nn.Dropout(1, rngs=nnx.Rngs(0)).rate == 1  # an int will do for a float


def test_what_is_returned() -> None:
    def count() -> int:
        return "three"  # pyright: ignore[reportReturnType]

    with pytest.raises(BeartypeCallHintViolation, match="three"):
        checked(count)()


def test_with_shapes() -> None:
    x, kernel = jnp.ones((1, 4, 4, 3)), jnp.ones((3, 3, 3))
    with pytest.raises(BeartypeCallHintViolation, match="kernel"):
        fb.nn.conv2d(x, kernel)
    with pytest.raises(BeartypeCallHintViolation):
        fb.nn.MaxPool(2)(x[0])


def test_a_length_is_one_number_in_a_call_and_another_in_the_next() -> None:
    def first(x: Float[Array, "N C"], y: Float[Array, "N D"], rows: int) -> Float[Array, "N C"]:
        return x[:rows]

    check, x = checked(first), jnp.ones((4, 3))
    for n in (1, 4):
        assert check(x[:n], x[:n, 1:], n).shape == (n, 3)
    with pytest.raises(BeartypeCallHintViolation, match="y="):
        check(x, x[1:], 4)
    with pytest.raises(BeartypeCallHintViolation, match="return"):
        check(x, x, 3)


@pytest.mark.untyped
def test_where_a_test_passes_wrong_types_on_purpose() -> None:
    with pytest.raises(ValueError, match=r"`stride` \(=2\)"):
        fb.nn.MaxPool(2, stride="2")  # pyright: ignore[reportArgumentType]
    assert jaxtyping.config.jaxtyping_disable


@pytest.mark.parametrize(
    ("annotation", "shaped"),
    [
        (int, False),
        (int | None, False),
        (Literal["x"], False),
        (Callable[[int], jax.Array], False),
        (Float[Array, "N C"], True),
        (Float[Array, "N C"] | None, True),  # pyright: ignore[reportOperatorIssue]
        (Sequence[Float[Array, "N C"]], True),
        (Callable[[Float[Array, "N C"]], jax.Array], True),
        ("int", True),  # what only its module can tell
        (T, True),
    ],
)
def test_what_jaxtyping_is_needed_for(annotation: Any, shaped: bool) -> None:
    def function(x: Any) -> None: ...

    function.__annotations__["x"] = annotation
    assert has_shapes(function) == shaped
