"""From the `config.json` of a folder of the Hugging Face hub to a row of the registry.

The file comes from a stranger: whatever it says, nothing is raised and nothing large is built.
"""

from collections.abc import Mapping
from typing import Any

from flaxblocks.models.argument_names import our_name
from flaxblocks.models.registry import find_model, list_models
from flaxblocks.models.transformers_config import (
    MOST_CLASSES,
    Row,
    is_number_like,
    transformers_row,
)

__all__ = ["row_of"]

# The arguments that a file of timm's may set, with the smallest and the largest value of each.
BOUNDS = {
    "num_classes": (0, MOST_CLASSES),
    "in_channels": (1, MOST_CLASSES),
    "dropout": (0.0, 1.0),
    "stochastic_depth": (0.0, 1.0),
    "norm_eps": (1e-12, 1.0),
    "norm_momentum": (0.0, 1.0),
}
WITHOUT_EFFECT = ("img_size", "pretrained", "scriptable", "exportable")


def row_of(settings: Mapping[str, Any]) -> Row | None:
    """The registry row of a hub folder's settings, and the arguments that make it that network.

    Args:
        settings: the contents of a `config.json`, of timm or of transformers.

    Returns: such as `("mobilenet_v2", {"padding": "SAME", "norm_eps": 0.001})`, with `num_classes`
        if the settings give it. None for a network that the registry does not have.
    """
    if not isinstance(settings, Mapping):
        return None
    if "architecture" in settings:
        return _of_timm(settings)
    return transformers_row(settings)


def _of_timm(settings: Mapping[str, Any]) -> Row | None:
    name, extra = settings["architecture"], settings.get("model_args") or {}
    if not isinstance(name, str) or name not in list_models() or not isinstance(extra, Mapping):
        return None
    entry = find_model(name)
    entry = find_model(entry.in_layout.get("timm", entry.name))
    given = {key: value for key, value in extra.items() if key not in WITHOUT_EFFECT}
    if "num_classes" in settings:
        given["num_classes"] = settings["num_classes"]
    arguments = {}
    for key, value in given.items():
        argument = key if key == "num_classes" else our_name(key, entry.arguments)
        if argument not in BOUNDS or argument not in entry.arguments:
            return None
        least, most = BOUNDS[argument]
        if not is_number_like(value, type(least)) or not least <= value <= most:
            return None
        arguments[argument] = value
    return entry.name, arguments
