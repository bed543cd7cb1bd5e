"""Fill a module that is there already from a checkpoint: `load_torch`."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from flax import nnx

from flaxblocks.convert.fill import fill
from flaxblocks.convert.fit import AUTO, Fit, account, against
from flaxblocks.convert.keymap import key_map, key_maps, variables_of
from flaxblocks.create.forms import form_of
from flaxblocks.create.head_names import HEAD
from flaxblocks.create.heads import Head, find_head
from flaxblocks.create.lookalike import looks_like
from flaxblocks.create.origin import remember
from flaxblocks.create.other_settings import warn_of_other_settings
from flaxblocks.create.places import Choice, Place, find_place
from flaxblocks.create.refuse import DROPS, what_to_drop
from flaxblocks.create.report import LoadReport, left_of
from flaxblocks.create.several import warn_of_several
from flaxblocks.create.source import read_source
from flaxblocks.create.wrong_numbers import fitting_numbers
from flaxblocks.nn.arguments import check_module

__all__ = ["load_torch"]


def load_torch(
    model: nnx.Module,
    source: str | os.PathLike[str] | Mapping[str, Any],
    layout: str = AUTO,
    strict: bool = True,
    *,
    key: str | None = None,
    prefix: str | None = None,
    ema: bool | None = None,
    drop: Iterable[str] = (),
    dialect: str | None = None,
) -> LoadReport:
    """Fill a module, in place, from a PyTorch state dict.

    The network is where all of the module's names lie, in whatever container and under whatever
    prefix; what lies beside it is left, and the report says so. Every key of the network is used
    once, every variable filled once, every shape equal; otherwise nothing is changed.

    Args:
        model: any module with a key map: a registered model, or a lone block. An abstract one from
            `nnx.eval_shape` is filled too.
        source: a file or folder that `read_checkpoint` reads, or a mapping of keys to NumPy arrays
            or torch tensors, a whole training checkpoint too.
        layout: whose naming the source is in; "auto" takes the one whose keys match.
        strict: refuse missing and unexpected keys; with False they are left alone and reported.
        key: the state dict to take of several in the source, as `model_ema`.
        prefix: of the network's names there, as `backbone.`.
        ema: take averaged weights, or the raw ones; by default averaged ones where there are any.
        drop: names to leave out, each with all below it, or patterns such as `*.num_updates`.
        dialect: an older name of `layout`.

    Raises:
        CheckpointError: the source cannot be read, or holds nothing of that key or prefix.
        ConversionError: keys, shapes or kinds of number do not fit; every fault is listed.
        ValueError: `model` is no module, or an argument is of another kind than it must be.
    Warns: UserWarning where the source holds several networks and the caller has not said which;
        and if the library of the source's layout gives the network other settings, such as another
        epsilon, which no state dict holds.
    """
    check_module("model", model)
    layout = dialect or layout
    contents = read_source(source)
    variables = variables_of(model)
    known = key_maps(model, variables) if layout == AUTO else [key_map(model, layout)]
    has_head = isinstance(getattr(model, HEAD, None), nnx.Module)
    choice = Choice(key, prefix, ema, drop)
    place = find_place(contents, known, HEAD if has_head else "", choice)
    head = find_head(place) if has_head else None
    found, arrays = _with_head(place, head)
    _check(model, found, arrays, place, layout == AUTO, strict)
    loaded, cast = fill(variables, found.keys, arrays, found.uncounted)
    remember(model, layout=found.keys.layout, weights=None)
    warn_of_several(contents.name, place.name, place.others, choice)
    warn_of_other_settings(
        model, found.keys.layout, "`create_model(..., weights=...)` builds the one that fits"
    )
    return LoadReport(
        found.keys.layout,
        loaded,
        found.missing,
        found.unexpected,
        found.uncounted,
        cast,
        taken=place.name,
        others=place.others,
        head=head.phrase if head else "",
        left=left_of(place, contents, head.names if head and head.kind == "renamed" else ()),
    )


def _with_head(place: Place, head: Head | None) -> tuple[Fit, Mapping[str, Any]]:
    """What to pour, where the head may have another name in the source."""
    if head is None or head.kind != "renamed":
        return place.found, place.arrays
    arrays = {name: array for name, array in place.arrays.items() if name not in head.names}
    arrays |= head.arrays
    return against(place.found.keys, arrays), arrays


def _check(
    model: nnx.Module,
    found: Fit,
    arrays: Mapping[str, Any],
    place: Place,
    searched: bool,
    strict: bool,
) -> None:
    """Raise ConversionError unless everything adds up."""
    if arrays and (found.is_whole or (not strict and not found.misshaped and found.missing == ())):
        return
    kind = f"{type(model).__name__} in layout {found.keys.layout!r}"
    numbers = fitting_numbers(model, found)
    form = form_of(model, found, arrays)
    refused = found.misshaped or (strict and found.faults) or len(found.unexpected) == len(arrays)
    drop = what_to_drop(found, place)
    headless = _lacks_only_a_head(found)
    known = numbers or form or drop or headless
    another = looks_like(arrays) if refused and not known else None
    strange = len(found.unexpected) == len(arrays)
    hint = f" (a model built with {numbers} would fit)" if numbers else ""
    hint = hint or (f"; {form.sentence}" if form else f"; `drop={drop}`{DROPS}" if drop else "")
    hint = hint or ("; `strict=False` leaves the module its own head" if headless else "")
    account(
        found,
        arrays,
        kind + (", the nearest" if searched else ""),
        strict,
        besides=f"is one of {another} and " if another else "",
        hint=f"; it is one of {another}" if another and strange else hint,
    )


def _lacks_only_a_head(found: Fit) -> bool:
    known = found.keys.by_foreign
    rest = found.unexpected or found.misshaped
    return not rest and all(known[k].native.startswith(f"{HEAD}.") for k in found.missing)
