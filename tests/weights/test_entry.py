"""The data are what torchvision and timm say, and every way of naming an entry finds it."""

import math
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from flaxblocks.parity.oracle import import_torchvision
from flaxblocks.weights import WeightEntry, find_weights, list_weights
from flaxblocks.weights import entry as module

torchvision = import_torchvision()
ENTRIES = list_weights()
TORCHVISION = [entry for entry in ENTRIES if entry.source == "torchvision"]
TIMM = [entry for entry in ENTRIES if entry.source == "timm"]


@pytest.mark.parametrize("entry", TORCHVISION, ids=lambda entry: entry.name)
def test_torchvision_entry_is_torchvisions(entry: WeightEntry) -> None:
    enum = torchvision.models.get_model_weights(entry.model)
    weights = enum[entry.tag]
    preset = weights.transforms()
    assert (entry.url, entry.hub_id) == (weights.url, None)
    assert entry.metrics == weights.meta["_metrics"].get("ImageNet-1K", {})
    assert entry.categories == tuple(weights.meta["categories"])
    assert entry.num_params == weights.meta["num_params"]
    assert entry.num_classes == len(weights.meta["categories"])
    assert entry.recipe_url == weights.meta.get("recipe")
    assert entry.license == weights.meta.get("license")
    assert entry.default == (weights is enum["DEFAULT"])
    assert asdict(entry.transforms) == {
        "resize_size": preset.resize_size[0],
        "crop_size": tuple(preset.crop_size * 2),
        "interpolation": preset.interpolation.value,
        "mean": tuple(preset.mean),
        "std": tuple(preset.std),
        "crop_mode": "center",
    }


@pytest.mark.parametrize("entry", TIMM, ids=lambda entry: entry.name)
def test_timm_entry_is_timms(entry: WeightEntry) -> None:
    import timm

    cfg = timm.get_pretrained_cfg(entry.name)
    assert cfg is not None
    assert (entry.url, entry.hub_id) == (cfg.url or None, cfg.hf_hub_id or None)
    assert entry.num_classes == cfg.num_classes
    assert entry.license == cfg.license
    assert entry.default == (cfg.tag == getattr(timm.get_pretrained_cfg(entry.model), "tag", None))
    resize = tuple(math.floor(side / cfg.crop_pct) for side in cfg.input_size[1:])
    if cfg.crop_mode == "center" and resize[0] == resize[1]:
        resize = resize[0]
    assert asdict(entry.transforms) == {
        "resize_size": resize,
        "crop_size": tuple(cfg.input_size[1:]),
        "interpolation": cfg.interpolation,
        "mean": tuple(cfg.mean),
        "std": tuple(cfg.std),
        "crop_mode": cfg.crop_mode,
    }


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_entry_is_found_and_complete(entry: WeightEntry) -> None:
    assert find_weights(entry.model, entry.tag) == entry
    assert find_weights(entry.model, entry.name) == entry
    assert len(entry.categories) in (0, entry.num_classes)
    assert hash(entry) == hash(replace(entry))
    if entry.url is None:
        assert (entry.file_name, entry.sha256_prefix) == (f"{entry.name}.safetensors", None)
    else:
        assert entry.url.rpartition("/")[2] == entry.file_name
        suffix = re.search(r"-([0-9a-f]{8,})\.\w+$", entry.file_name)
        assert entry.sha256_prefix == (suffix.group(1) if suffix else None)


def test_names_files_and_defaults_are_unique() -> None:
    names = [entry.name for entry in ENTRIES]
    assert len(set(names)) == len(names)
    assert len({entry.file_name for entry in ENTRIES}) == len(
        {(entry.file_name, entry.url) for entry in ENTRIES}
    )
    defaults = [(entry.model, entry.source) for entry in ENTRIES if entry.default]
    assert sorted(defaults) == sorted({(entry.model, entry.source) for entry in ENTRIES})


def test_the_published_hash_of_a_file() -> None:
    entry = find_weights("mobilenet_v2", "IMAGENET1K_V2")
    assert (entry.file_name, entry.sha256_prefix) == ("mobilenet_v2-7ebf99e0.pth", "7ebf99e0")
    assert entry.categories[0] == "tench"
    assert len(entry.categories) == 1000


def test_parameters_of_timm_entries() -> None:
    """Counts published for the widths; they tell the entries of one family apart."""
    counts = {entry.model: entry.num_params for entry in list_weights() if entry.source == "timm"}
    assert counts["mobilenetv2_050"] == 1_968_680
    assert counts["mobilenetv2_100"] == 3_504_872
    assert counts["mobilenetv2_140"] == 6_108_776


def test_an_untrained_tag_is_no_entry() -> None:
    models = {entry.model for entry in ENTRIES}
    assert {"mobilenet_v2", "mobilenetv2_050", "mobilenetv2_100"} <= models
    assert not {"mobilenetv2_035", "mobilenetv2_075"} & models


@pytest.mark.parametrize(
    ("model", "tag", "name"),
    [
        ("mobilenet_v2", "DEFAULT", "mobilenet_v2.IMAGENET1K_V2"),
        ("mobilenetv2_100", "DEFAULT", "mobilenetv2_100.ra_in1k"),
        ("mobilenetv2_100", "IMAGENET1K_V1", "mobilenet_v2.IMAGENET1K_V1"),
        ("mobilenet_v2", "ra_in1k", "mobilenetv2_100.ra_in1k"),
        ("mobilenet_v2", "mobilenetv2_100.ra_in1k", "mobilenetv2_100.ra_in1k"),
        ("mobilenet_v2", "mobilenetv2_100.DEFAULT", "mobilenetv2_100.ra_in1k"),
        ("mobilenet_v2", "MobileNet_V2_Weights.IMAGENET1K_V1", "mobilenet_v2.IMAGENET1K_V1"),
        ("mobilenet_v2", "MobileNet_V2_Weights.DEFAULT", "mobilenet_v2.IMAGENET1K_V2"),
        ("mobilenetv2_140", "ra_in1k", "mobilenetv2_140.ra_in1k"),
    ],
)
def test_a_tag_finds_its_entry_under_either_name(model: str, tag: str, name: str) -> None:
    assert find_weights(model, tag).name == name


def test_the_lists_of_one_network() -> None:
    names = [entry.name for entry in list_weights("mobilenet_v2")]
    assert names == [
        "mobilenet_v2.IMAGENET1K_V2",
        "mobilenet_v2.IMAGENET1K_V1",
        "mobilenetv2_100.ra_in1k",
    ]
    assert [entry.name for entry in list_weights("mobilenetv2_100")] == [names[2], *names[:2]]
    assert list_weights("no_such_model") == []


def test_a_name_that_both_libraries_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's default goes before timm's, whatever their order in the file."""
    row = {**module._families()[0]["entries"][0], "model": "net", "default": True}
    timms = [{**row, "tag": tag, "source": "timm", "default": tag == "b"} for tag in "ab"]
    family = {"aliases": {}, "entries": [*timms, {**row, "tag": "V1", "source": "torchvision"}]}
    monkeypatch.setattr(module, "_families", lambda: (family,))
    assert [entry.tag for entry in list_weights("net")] == ["V1", "b", "a"]
    assert find_weights("net", "DEFAULT").tag == "V1"


def test_two_names_of_timm_for_one_of_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    row = module._families()[0]["entries"][0]
    rows = [{**row, "model": model, "tag": model[-1]} for model in ("net_a", "net_b", "net")]
    family = {"aliases": {"net_a": "net", "net_b": "net"}, "entries": rows}
    monkeypatch.setattr(module, "_families", lambda: (family,))
    assert [entry.model for entry in list_weights("net_b")] == ["net_b", "net", "net_a"]
    assert [entry.model for entry in list_weights("net")] == ["net", "net_a", "net_b"]


def test_an_unknown_tag_lists_the_models_tags_nearest_first() -> None:
    with pytest.raises(ValueError, match="`tag`") as caught:
        find_weights("mobilenet_v2", "imagenet1k_v1")
    message = str(caught.value)
    assert message.endswith("nearest first, 'IMAGENET1K_V1', 'IMAGENET1K_V2', 'ra_in1k'")
    assert "'imagenet1k_v1'" in message
    assert "'mobilenet_v2'" in message
    with pytest.raises(ValueError, match="nearest first, 'ra_in1k', "):
        find_weights("mobilenet_v2", "ra_in1")


def test_a_tag_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match="of the model 'mobilenet_v2', not of 'mobilenetv2_050'"):
        find_weights("mobilenet_v2", "mobilenetv2_050.lamb_in1k")


def test_a_model_without_weights_is_an_error_with_near_names() -> None:
    with pytest.raises(ValueError, match=r"`model` \(='mobilenetv2_035'\).*'mobilenetv2_050'"):
        find_weights("mobilenetv2_035", "DEFAULT")


def test_a_caller_cannot_change_the_data() -> None:
    find_weights("mobilenet_v2", "DEFAULT").metrics["acc@1"] = 0.0  # type: ignore[index]
    assert find_weights("mobilenet_v2", "DEFAULT").metrics["acc@1"] == 72.154


def test_an_entry_needs_a_source_and_a_plain_file_name() -> None:
    entry = ENTRIES[0]
    with pytest.raises(ValueError, match="must have a `url` or a `hub_id`"):
        replace(entry, url=None, hub_id=None)
    for name in ("", "..", "a/b.pth", "..\\b.pth"):
        with pytest.raises(ValueError, match="`file_name`"):
            replace(entry, file_name=name)


def test_import_reads_no_data_and_no_heavy_library() -> None:
    code = (
        "import sys, flaxblocks.weights, flaxblocks.weights.preprocess\n"
        "from flaxblocks.weights import entry\n"
        "assert entry._families.cache_info().currsize == 0\n"
        "heavy = {'PIL.Image', 'pooch', 'huggingface_hub', 'requests', 'torch'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
