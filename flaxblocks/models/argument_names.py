"""What torchvision and timm call the arguments that have another name here: the one table of them,
for error messages, for the command line and for building the PyTorch original.
"""

from collections.abc import Iterable

__all__ = ["LIBRARY_NAMES", "library_names", "our_name"]

LIBRARY_NAMES = {  # our name -> library -> its name
    "in_channels": {"timm": "in_chans"},
    "dropout": {"timm": "drop_rate"},
    "stochastic_depth": {"torchvision": "stochastic_depth_prob", "timm": "drop_path_rate"},
    "norm_eps": {"timm": "bn_eps"},
    "norm_momentum": {"timm": "bn_momentum"},
    "activation": {"timm": "act_layer"},
    "cardinality": {"torchvision": "groups"},
    "base_width": {"torchvision": "width_per_group"},
    "zero_init_last": {"torchvision": "zero_init_residual"},
    "input_features": {"timm": "initial_chs"},
    "final_features": {"timm": "final_chs"},
    "round_nearest": {"timm": "ch_div"},
}
OUR_NAMES = {
    **{theirs: ours for ours, names in LIBRARY_NAMES.items() for theirs in names.values()},
    "pretrained": 'weights="DEFAULT"',
    "checkpoint_path": "weights=PATH",
}


def library_names(library: str, arguments: Iterable[str]) -> dict[str, str]:
    """Our name -> the library's, of those `arguments` that have another name there."""
    return {
        name: LIBRARY_NAMES[name][library]
        for name in arguments
        if library in LIBRARY_NAMES.get(name, ())
    }


def our_name(name: str, arguments: Iterable[str]) -> str | None:
    """What an argument of torchvision's or timm's is called here.

    None for an unknown one, and for one that is neither of `arguments` nor `weights`.
    """
    ours = OUR_NAMES.get(name, "")
    return ours if ours.partition("=")[0] in (*arguments, "weights") else None
