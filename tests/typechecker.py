"""beartype as the tests use it: an int will do for a float.

jaxtyping binds the arguments of each call and checks them twice, so that what an annotation says of
a shape can be held against the others. A function without shapes needs only beartype.
"""

import inspect
import typing
from collections.abc import Callable
from functools import wraps
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

__all__ = ["check", "check_annotations", "checked", "has_shapes"]

check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check_annotations(*packages: str) -> None:
    """Check the annotations of every function in packages that are imported from now on."""
    with_shapes = jaxtyping.jaxtyped

    def jaxtyped(*, typechecker: Callable[..., Any]) -> Callable[[Any], Any]:
        def decorated(annotated: Any) -> Any:
            if inspect.isfunction(annotated) and not has_shapes(annotated):
                return checked(annotated)
            return with_shapes(annotated, typechecker=typechecker)

        return decorated

    jaxtyping.jaxtyped = jaxtyped  # where the import hook looks it up
    jaxtyping.install_import_hook(list(packages), f"{__name__}.check")


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its arguments and what it returns checked, except in untyped tests."""
    strict = check(function)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        run = function if jaxtyping.config.jaxtyping_disable else strict
        return run(*args, **kwargs)

    return call


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
