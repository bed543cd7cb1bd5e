"""beartype as the tests use it: an int will do for a float.

jaxtyping's own decorator binds the arguments of each call and checks them twice, which takes an
eighth of the time of all tests. Here beartype checks them once, with what the call returns, and
jaxtyping is told where a call with shapes begins and ends.
"""

import inspect
import typing
from collections.abc import Callable
from functools import wraps
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

__all__ = ["check", "check_annotations", "checked", "has_shapes"]

JAXTYPED = jaxtyping.jaxtyped
SHAPES = JAXTYPED("context")
check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check_annotations(*packages: str) -> None:
    """Check the annotations of every function in packages that are imported from now on."""

    def decorator(*, typechecker: Callable[..., Any]) -> Callable[[Any], Any]:
        return lambda annotated: (
            checked(annotated)
            if inspect.isfunction(annotated)
            else JAXTYPED(annotated, typechecker=typechecker)
        )

    jaxtyping.jaxtyped = decorator  # pyright: ignore[reportAttributeAccessIssue]
    jaxtyping.install_import_hook(list(packages), f"{__name__}.check")


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its arguments and what it returns checked, except in untyped tests."""
    strict, settings = check(function), jaxtyping.config

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        run = function if settings.jaxtyping_disable else strict
        return run(*args, **kwargs)

    @wraps(function)
    def call_with_shapes(*args: Any, **kwargs: Any) -> Any:
        if settings.jaxtyping_disable:
            return function(*args, **kwargs)
        with SHAPES:  # the lengths that a name such as N has are those of one call
            return strict(*args, **kwargs)

    return call_with_shapes if has_shapes(function) else call


def has_shapes(function: Callable[..., Any]) -> bool:
    """Whether an annotation is of a shape, or cannot be told not to be."""
    return any(map(_is_shaped, function.__annotations__.values()))


def _is_shaped(annotation: Any) -> bool:
    if typing.get_origin(annotation) is typing.Literal:
        return False
    if isinstance(annotation, str | typing.TypeVar):
        return True
    if isinstance(annotation, type) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    parts = annotation if isinstance(annotation, list) else typing.get_args(annotation)
    return any(map(_is_shaped, parts))
