"""`load_torch`: fill an existing module from a checkpoint."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from flax import nnx

from flaxblocks.convert.fill import fill
from flaxblocks.convert.fit import AUTO, Fit, account, against
from flaxblocks.convert.keymap import key_map, key_maps, variables_of
from flaxblocks.create.forms import form_of
from flaxblocks.create.head_names import HEAD
from flaxblocks.create.heads import Head
from flaxblocks.create.lookalike import looks_like
from flaxblocks.create.origin import remember
from flaxblocks.create.other_settings import warn_of_other_settings
from flaxblocks.create.places import Choice, Place, find_place
from flaxblocks.create.refuse import DROPS, what_to_drop
from flaxblocks.create.report import LoadReport, left_of
from flaxblocks.create.several import warn_of_several
from flaxblocks.create.siblings import head_beside
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
    """Load a PyTorch state dict into a module, in place.

    The network is found in the source under any key and prefix, by the names of the module. The
    rest of the source is ignored and listed in the report. Each key of the network must be used
    once, each variable filled once, and all shapes must agree; otherwise nothing is changed.

    Args:
        model: any module with a key map, such as a registered model or a single block. It may be
            abstract, from `nnx.eval_shape`.
        source: a file or folder that `read_checkpoint` reads, or a mapping of keys to NumPy arrays
            or torch tensors, which may be a whole training checkpoint.
        layout: the layout of the source; "auto" determines it from the keys.
        strict: refuse missing and unexpected keys; with False they are ignored and reported.
        key: key of the state dict in the source, such as "model_ema"; a dotted path if nested.
        prefix: prefix of the network's parameter names, such as "backbone.".
        ema: True loads averaged (EMA) weights, False the raw ones; by default the averaged ones if
            the source has them.
        drop: names in the source to ignore, each with all names below it, or patterns such as
            `*.num_updates`.
        dialect: an older name of `layout`.

    Returns: what was loaded, what was left out, and where the network was found.

    Raises:
        CheckpointError: the source cannot be read, or has nothing under that key or prefix.
        ConversionError: keys, shapes or kinds of number do not fit; every fault is listed.
        ValueError: `model` is not a Flax module, the layout is unknown, or an argument has the
            wrong type.
    Warns: UserWarning if the source holds several networks and the arguments do not select one, or
        if the library of the source's layout builds the network with other settings, such as
        another epsilon, which a state dict does not contain.
    """
    check_module("model", model)
    layout = dialect or layout
    contents = read_source(source)
    variables = variables_of(model)
    known = key_maps(model, variables) if layout == AUTO else [key_map(model, layout)]
    has_head = isinstance(getattr(model, HEAD, None), nnx.Module)
    choice = Choice(key, prefix, ema, drop)
    place, head = find_place(contents, known, HEAD if has_head else "", choice), None
    if has_head:
        place, head = head_beside(place, contents, choice)
    found, arrays = _with_head(place, head)
    _check(model, found, arrays, place, layout == AUTO, strict)
    loaded, cast = fill(variables, found.keys, arrays, found.uncounted)
    remember(model, layout=found.keys.layout, weights=None)
    warn_of_several(contents.name, place.name, place.others, choice)
    warn_of_other_settings(
        model, found.keys.layout, "`create_model(..., weights=...)` builds that network"
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
    """The fit and the arrays, with the head under the layout's names if the source renames it."""
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
    """Raise ConversionError, with a remedy if there is one, unless the source fits."""
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
    hint = hint or ("; `strict=False` keeps the module's own head" if headless else "")
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
