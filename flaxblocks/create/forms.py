"""Recognising how a network was changed before it was saved (pruned, fused, ...), by its names."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flaxblocks.convert.fit import Fit

__all__ = ["Form", "form_of"]

STATISTICS = (".running_mean", ".running_var", ".num_batches_tracked")


@dataclass(frozen=True)
class Form:
    """A form of checkpoint that cannot be loaded as it is.

    Attributes:
        names: regular expression that identifies it, searched for in unexpected names.
        sentence: what it is, and what to do about it.
        drop: the `drop` that `sentence` suggests; it is tried before it is suggested.
    """

    names: str
    sentence: str
    drop: tuple[str, ...] = ()


FORMS = (
    Form(
        r"\.weight_mask$",
        "its weights are pruned, each as `weight_orig` and `weight_mask`: "
        "`torch.nn.utils.prune.remove(module, 'weight')` merges the two before saving",
    ),
    Form(
        r"\.weight_g$",
        "its weights are normalised, each as `weight_g` and `weight_v`: "
        "`torch.nn.utils.remove_weight_norm(module)` merges the two before saving",
    ),
    Form(
        r"\.weight_u$",
        "its weights have spectral normalisation: "
        "`torch.nn.utils.remove_spectral_norm(module)` makes plain ones before saving",
    ),
    Form(
        r"\.parametrizations\.\w+\.original",
        "its weights are parametrised: `torch.nn.utils.parametrize.remove_parametrizations("
        "module, 'weight')` makes plain ones before saving",
    ),
    Form(
        r"\.lora_\w+\.",
        "it has PEFT adapters, with its weights or alone: "
        "`peft_model.merge_and_unload().state_dict()` is one network",
    ),
    Form(
        r"(^|\.)_?flat_param(_\d+)?$",
        "its weights are flattened by FSDP: save it inside "
        "`FSDP.state_dict_type(model, StateDictType.FULL_STATE_DICT)`",
    ),
    Form(
        r"\.(activation_post_process|weight_fake_quant)\.",
        "it holds observers for quantisation: "
        "`drop=['*.activation_post_process.*', '*.weight_fake_quant.*']` leaves the float network",
        ("*.activation_post_process.*", "*.weight_fake_quant.*"),
    ),
    Form(
        r"^ema_\w+$",
        "it holds the weights twice, as OpenMMLab's averaging leaves them, those before averaging "
        "under names with `ema_`: `drop=['ema_*']` leaves them out",
        ("ema_*",),
    ),
    Form(
        r"(^|\.)attnpool\.",
        "it is CLIP's ModifiedResNet, which has three convolutions in its stem and pools by "
        "attention: no model here is one",
    ),
    Form(
        r"\._variance$",
        "it is PaddlePaddle's, where running statistics are called `_mean` and `_variance` and "
        "linear weights are transposed: rename and transpose them in a mapping",
    ),
)
PARAMETERS_ONLY = Form(
    "",
    "it holds no running statistics, like `parameters()` and averages over them: "
    "`state_dict()` has them",
)
FOLDED = Form(
    "",
    "it holds no running statistics, as if norms were folded into convolutions: save the network "
    "before fusing it",
)


def form_of(model: Any, found: Fit, arrays: Mapping[str, Any]) -> Form | None:
    """The form that the names of a checkpoint show, or None.

    Args:
        model: the model that it does not fit; its class may know more forms.
        found: the faults.
        arrays: all arrays of the network.
    """
    explain = getattr(type(model), "what_a_checkpoint_is", None)
    sentence = explain(arrays) if explain else None
    if sentence:
        return Form("", sentence)
    for form in FORMS:
        if any(re.search(form.names, name) for name in found.unexpected):
            return form
    return _without_statistics(found, arrays)


def _without_statistics(found: Fit, arrays: Mapping[str, Any]) -> Form | None:
    """The form of a checkpoint that has weights of the network but no statistics at all."""
    known = found.keys.by_foreign
    has_none = not any(name.endswith(STATISTICS) for name in arrays)
    if not has_none or not any(name.endswith(STATISTICS) for name in known):
        return None
    if not found.unexpected and all(name.endswith(STATISTICS) for name in found.missing):
        return PARAMETERS_ONLY
    biases = {name for name in found.unexpected if name.endswith(".bias")}
    is_folded = any(f"{name.removesuffix('bias')}weight" in arrays for name in biases)
    return FOLDED if is_folded and len(arrays) > len(found.unexpected) else None
