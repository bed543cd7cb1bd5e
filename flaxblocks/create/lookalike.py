"""The registered models that a refused checkpoint fits, to be named in the error."""

from collections.abc import Iterator, Mapping

import numpy as np

from flaxblocks.checkpoints.contents import Contents, StateDict
from flaxblocks.create.build import DEFAULT_CLASSES
from flaxblocks.create.head_names import is_headlike
from flaxblocks.create.match import match
from flaxblocks.models.registry import ModelEntry, model_entries

__all__ = ["looks_like"]

BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "mean", "var")


def looks_like(arrays: Mapping[str, np.ndarray]) -> str | None:
    """The registered models with exactly these keys and shapes, for any number of classes and also
    with another head or none; None if there is none.

    There can be several, such as `resnet50, resnetaa50 or resnetblur50`, which differ in a padding
    or pooling that no checkpoint shows. Models with another number of parameters are skipped
    without being built.
    """
    counts = set(_counts(arrays))
    same_size = [entry for entry in model_entries() if entry.parameters in counts]
    names = [entry.name for entry in same_size if _is_of(entry, arrays)]
    return " or ".join(filter(None, [", ".join(names[:-1]), *names[-1:]])) or None


def _counts(arrays: Mapping[str, np.ndarray]) -> Iterator[int]:
    """The possible numbers of parameters with 1000 classes: if any of the matrices is the head, and
    if such a head follows a body of any of the widths.
    """
    trained = {k: a for k, a in arrays.items() if k.rpartition(".")[2] not in BUFFERS}
    total = sum(array.size for array in trained.values())
    yield total
    body = sum(array.size for name, array in trained.items() if not is_headlike(name))
    for width in {array.shape[0] for array in trained.values() if array.ndim == 4}:
        yield body + DEFAULT_CLASSES * (width + 1)
    for array in trained.values():
        if array.ndim == 2 or (array.ndim == 4 and 1 in array.shape):
            for classes in {array.shape[0], array.shape[-1]} - {0}:
                yield total + (DEFAULT_CLASSES - classes) * (array.size // classes + 1)


def _is_of(entry: ModelEntry, arrays: Mapping[str, np.ndarray]) -> bool:
    contents = Contents("the checkpoint", (StateDict("", arrays, False, ()),), (), None)
    found = match(entry, {}, contents)
    alone = not (found.place.prefix or found.place.within or found.place.beside)
    return alone and found.faults.is_whole and not found.found.uncounted
