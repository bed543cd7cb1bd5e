"""Write flaxblocks/weights/*.json, one file per family, from the installed torchvision and timm.

Run it where flaxblocks is installed (`pip install -e .[torch]`), or with PYTHONPATH=. :

    python tools/make_weights_data.py            # all families
    python tools/make_weights_data.py resnet     # that of flaxblocks/models/resnet.py

The registry determines the models and which names belong to one network: a model's weights are
those that either library publishes under its name, an alias of it, or the name of a row in
`in_layout`.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import flaxblocks.models  # noqa: F401
from flaxblocks.models.registry import ModelEntry, find_model, model_entries
from flaxblocks.parity.oracle import import_torchvision
from flaxblocks.weights.preprocess import Transforms

FOLDER = Path(__file__).resolve().parents[1] / "flaxblocks" / "weights"
CATEGORIES = FOLDER / "categories_imagenet1k.json"
DOCS = "https://pytorch.org/vision/stable/models/generated/torchvision.models.{}.html"
Row = dict[str, Any]


def main() -> None:
    """Write the families named on the command line, by default all."""
    families: dict[str, list[ModelEntry]] = {}
    for entry in model_entries():
        families.setdefault(entry.build.__module__.rpartition(".")[2], []).append(entry)
    parser = argparse.ArgumentParser(description="write flaxblocks/weights/*.json")
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=", ".join(families))
    for family in parser.parse_args().families or families:
        write_family(FOLDER / f"{family}.json", families[family])


def write_family(path: Path, rows: list[ModelEntry]) -> None:
    """Write one family's file, and the file of categories if it does not exist yet."""
    import_torchvision()
    import timm
    import torchvision

    names = sorted({name for row in rows for name in (row.name, *row.aliases)})
    names += sorted({row.library_name for row in rows if row.library_name} - set(names))
    aliases = {alias: row.name for row in rows for alias in row.aliases}
    aliases |= {row.name: row.library_name for row in rows if row.library_name}
    aliases |= {other: row.name for row in rows for other in _other_names(row)}
    entries = torchvision_rows(names) + timm_rows(names)
    if not entries:
        path.unlink(missing_ok=True)
        return
    versions = f"torchvision {torchvision.__version__.split('+')[0]} and timm {timm.__version__}"
    family = {
        "made_by": f"tools/make_weights_data.py from {versions}; make it again rather than edit it",
        "aliases": aliases,
        "entries": entries,
    }
    path.write_text(_layout(family), encoding="utf-8")
    print(f"{path.name}: {len(entries)} sets of weights of {len(names)} models")


def _other_names(row: ModelEntry) -> list[str]:
    """The names of a torchvision row's network in libraries whose layout has its own row."""
    if row.source != "torchvision":
        return []
    others = [find_model(name) for layout, name in row.in_layout.items() if layout == "timm"]
    return [other.library_name or other.name for other in others if other.library_name != row.name]


def _layout(family: Row) -> str:
    """JSON with one field a line, so that a change shows as the lines that changed."""

    def dump(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False)

    rows = []
    for row in family["entries"]:
        fields = ",\n".join(f"   {dump(key)}: {dump(value)}" for key, value in row.items())
        rows.append(f"  {{\n{fields}\n  }}")
    head = [f" {dump(key)}: {dump(value)}" for key, value in family.items() if key != "entries"]
    entries = ' "entries": [\n' + ",\n".join(rows) + "\n ]"
    return "{\n" + ",\n".join([*head, entries]) + "\n}\n"


def torchvision_rows(names: list[str]) -> list[Row]:
    """The rows for torchvision's classification weights."""
    from torchvision import models

    rows = []
    for name in sorted(set(models.list_models(module=models)) & set(names)):
        enum = models.get_model_weights(name)
        for weights in enum:
            meta = weights.meta
            if not meta["categories"]:
                continue  # a backbone without its head, such as vgg16's IMAGENET1K_FEATURES
            preset = weights.transforms()
            transforms = Transforms(
                resize_size=preset.resize_size[0],
                crop_size=(preset.crop_size[0], preset.crop_size[0]),
                interpolation=preset.interpolation.value,
                mean=tuple(preset.mean),
                std=tuple(preset.std),
            )
            rows.append(
                {
                    "model": name,
                    "tag": weights.name,
                    "source": "torchvision",
                    "url": weights.url,
                    "hub_id": None,
                    **_file(weights.url),
                    "transforms": asdict(transforms),
                    "num_params": meta["num_params"],
                    "num_classes": len(meta["categories"]),
                    "categories": _categories(meta["categories"]),
                    "metrics": meta["_metrics"].get("ImageNet-1K", {}),
                    "license": meta.get("license"),
                    "recipe_url": meta.get("recipe"),
                    "docs_url": DOCS.format(name),
                    "default": weights is enum["DEFAULT"],
                }
            )
    return rows


def timm_rows(names: list[str]) -> list[Row]:
    """The rows for timm's weights; a tag without a file (`untrained`) has none."""
    import timm
    import torch
    from timm.models import get_arch_pretrained_cfgs

    rows = []
    for name in sorted(set(timm.list_models()) & set(names)):
        published = {
            cfg.tag: cfg
            for cfg in get_arch_pretrained_cfgs(name).values()
            if cfg.url or cfg.hf_hub_id
        }
        if not published:
            continue
        with torch.device("meta"):
            num_params = sum(
                parameter.numel() for parameter in timm.create_model(name).parameters()
            )
        default = getattr(timm.get_pretrained_cfg(name), "tag", None)
        if default not in published:
            default = next(iter(published))
        for tag, cfg in published.items():
            url = cfg.url if isinstance(cfg.url, str) and cfg.url else None
            hub_id = cfg.hf_hub_id or None
            rows.append(
                {
                    "model": name,
                    "tag": tag,
                    "source": "timm",
                    "url": url,
                    "hub_id": hub_id,
                    **(
                        _file(url)
                        if url
                        else {"file_name": f"{name}.{tag}.safetensors", "sha256_prefix": None}
                    ),
                    "transforms": asdict(_timm_transforms(cfg)),
                    "num_params": num_params,
                    "num_classes": cfg.num_classes,
                    "categories": "imagenet1k" if cfg.num_classes == 1000 else None,
                    "metrics": {},  # timm publishes its results outside the package
                    "license": cfg.license,
                    "recipe_url": None,
                    "docs_url": f"https://huggingface.co/{hub_id}" if hub_id else None,
                    "default": tag == default,
                }
            )
    return rows


def _timm_transforms(cfg: Any) -> Transforms:
    from timm.data.config import resolve_data_config

    config = resolve_data_config(pretrained_cfg=cfg.to_dict())
    height, width = config["input_size"][1:]
    resize = (math.floor(height / config["crop_pct"]), math.floor(width / config["crop_pct"]))
    one_side = config["crop_mode"] == "center" and resize[0] == resize[1]
    return Transforms(
        resize_size=resize[0] if one_side else resize,
        crop_size=(height, width),
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        crop_mode=config["crop_mode"],
    )


def _file(url: str) -> Row:
    """The file's name and the start of its sha256, with which both libraries end the name."""
    name = url.rpartition("/")[2]
    found = re.search(r"-([0-9a-f]{8,64})\.\w+$", name)
    return {"file_name": name, "sha256_prefix": found.group(1) if found else None}


def _categories(names: list[str]) -> str:
    """Write ImageNet-1K's categories if there is no file yet; reject any others."""
    if not CATEGORIES.exists():
        CATEGORIES.write_text(
            json.dumps(names, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    if names != json.loads(CATEGORIES.read_text(encoding="utf-8")):
        raise SystemExit(
            f"the categories are not those of {CATEGORIES.name}: give them a file of their own"
        )
    return "imagenet1k"


if __name__ == "__main__":
    main()
