"""Compare every registered model with its PyTorch original, and write a table of the results.

    python tools/parity_report.py                  # measure missing rows, or missing parts of rows
    python tools/parity_report.py --only bfloat16  # measure only this part
    python tools/parity_report.py 'resnet*' -f     # measure these models again
    python tools/parity_report.py --write-only     # write the README's table from existing rows

The rows are in tools/parity_report.json, which is written after each part of each model, so that a
stopped run can be resumed, and runs with different patterns can run in parallel. Each row has the
model's parameters and multiply-adds (224x224) and the seconds that `load_torch` takes, the minimum
of three; the largest relative error of a module in float64, and the float32 error of the output
with PyTorch's own; the same for bfloat16; and the largest errors of modules, updated buffers and
gradients in training mode in float64. Weights are random and calibrated. The exit status is 1 if an
error exceeds its bound in `flaxblocks.parity`.
"""

import argparse
import fnmatch
import gc
import json
import sys
import timeit
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

import flaxblocks as fb
from flaxblocks.checkpoints.atomic_file import replacing
from flaxblocks.create.build import abstract_model
from flaxblocks.inspect.summary import count_parameters, summarize
from flaxblocks.models.registry import ModelEntry, find_model, model_entries
from flaxblocks.parity import BOUNDS
from flaxblocks.parity.oracle import calibrated_oracle

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # `torch_ref` is not part of the installed package
ROWS = ROOT / "tools" / "parity_report.json"
README = ROOT / "README.md"
BEGIN, END = "<!-- parity report: begin -->", "<!-- parity report: end -->"
SIZE = (64, 96)  # size of the images, which suits models that need multiples of 32 too
IMAGES, TRAINING_IMAGES = 2, 8  # a batch norm in a gate sees one value per image
CLASSES = 1000
MISSING = "-"
LIBRARIES = ("jax", "flax", "torch", "torchvision", "timm")

Row = dict[str, Any]


def measure_size(entry: ModelEntry, model: Any, oracle: Any) -> Row:
    """The size of the model, and the time to load its weights."""
    state = oracle.state_dict()
    seconds = min(timeit.repeat(lambda: fb.load_torch(model, state), number=1, repeat=3))
    stages = summarize(abstract_model(entry.name), entry.input_size)
    return {
        "source": entry.source,
        "parameters": count_parameters(model),
        "multiply_adds": sum(stage.multiply_adds for stage in stages),
        "load_seconds": round(seconds, 3),
    }


def measure_training(entry: ModelEntry, model: Any, oracle: Any) -> Row:
    """The errors in training mode, with gradients."""
    report = fb.parity.compare(
        model, oracle, images(TRAINING_IMAGES), entry.layout, train=True, grad=True, float32=False
    )
    return {
        "train": report.worst("module"),
        "buffers": report.worst("buffer"),
        "gradients": report.worst("gradient"),
    }


def measure_inference(entry: ModelEntry, model: Any, oracle: Any) -> Row:
    """The errors in inference, in float64 and float32."""
    report = fb.parity.compare(model, oracle, images(IMAGES), entry.layout)
    return {
        "float64": report.worst("module"),
        "float32": report.output.ours32,
        "float32_torch": report.output.torch32,
        "float32_holds": report.float32_holds,
    }


def measure_bfloat16(entry: ModelEntry, model: Any, oracle: Any) -> Row:
    """The errors in bfloat16 of the program that users run."""
    report = fb.parity.compare(
        model, oracle, images(IMAGES), entry.layout, float32=False, bfloat16=True, whole=True
    )
    return {
        "bfloat16": report.output.ours16,
        "bfloat16_torch": report.output.torch16,
        "bfloat16_holds": report.bfloat16_holds,
    }


# The parts of a row, by a key that the row has once the part is measured.
PARTS: dict[str, Callable[[ModelEntry, Any, Any], Row]] = {
    "parameters": measure_size,
    "train": measure_training,
    "float32": measure_inference,
    "bfloat16": measure_bfloat16,
}


def images(count: int) -> np.ndarray:
    """The input images, the same in every run."""
    return np.random.default_rng(0).standard_normal((count, *SIZE, 3))


def measure(entry: ModelEntry, parts: Iterable[str]) -> Iterator[Row]:
    """Measure parts of one model's row, each with the versions of the libraries used."""
    oracle = calibrated_oracle(entry, CLASSES, size=SIZE)
    model = fb.create_model(entry.name, weights=oracle.state_dict())
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    for part in parts:
        yield {**PARTS[part](entry, model, oracle), "libraries": {part: libraries}}


def read_rows() -> dict[str, Row]:
    """All rows measured so far, by this run or another."""
    return json.loads(ROWS.read_text(encoding="utf-8")) if ROWS.exists() else {}


def add(name: str, found: Row) -> None:
    """Add a part to the row of its model."""
    rows = read_rows()
    row = rows.get(name, {})
    libraries = {**row.get("libraries", {}), **found["libraries"]}
    rows[name] = {**row, **found, "libraries": libraries}
    with replacing(ROWS) as file:
        file.write(f"{json.dumps(rows, indent=1, sort_keys=True)}\n".encode())


def holds(row: Row) -> bool:
    """Whether every measured error is within its bound."""
    return (
        max(row.get("float64", 0), row.get("train", 0)) <= BOUNDS["module"]
        and row.get("buffers", 0) <= BOUNDS["buffer"]
        and row.get("gradients", 0) <= BOUNDS["gradient"]
        and row.get("float32_holds", True)
        and row.get("bfloat16_holds", True)
    )


def cell(row: Row, form: str, *keys: str) -> str:
    """The numbers under `keys`, or `MISSING` if that part of the row is not measured yet."""
    return form.format(*(row[key] for key in keys)) if keys[0] in row else MISSING


def table(rows: dict[str, Row]) -> str:
    """The rows as a Markdown table, sorted by name."""
    head = (
        "model",
        "parameters",
        "multiply-adds",
        "float64",
        "float32: JAX / PyTorch",
        "bfloat16: JAX / PyTorch",
        "training",
        "buffers",
        "gradients",
        "load, s",
    )
    lines = [f"| {' | '.join(head)} |", f"|---{'|---:' * (len(head) - 1)}|"]
    for name, row in sorted(rows.items()):
        cells = (
            f"{name} ({find_model(name).source})",
            cell(row, "{:,}", "parameters"),
            f"{row['multiply_adds'] / 1e9:.3f} G" if "multiply_adds" in row else MISSING,
            cell(row, "{:.1e}", "float64"),
            cell(row, "{:.1e} / {:.1e}", "float32", "float32_torch"),
            cell(row, "{:.1e} / {:.1e}", "bfloat16", "bfloat16_torch"),
            cell(row, "{:.1e}", "train"),
            cell(row, "{:.1e}", "buffers"),
            cell(row, "{:.1e}", "gradients"),
            cell(row, "{:.2f}", "load_seconds"),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write_readme(rows: dict[str, Row]) -> None:
    """Write the table and its verdict between the README's markers."""
    text = README.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise SystemExit(f"{README.name} must have the lines {BEGIN!r} and {END!r}")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    broken = ", ".join(name for name, row in sorted(rows.items()) if not holds(row)) or "none"
    verdict = f"{len(rows)} of {len(model_entries())} models; bounds broken by: {broken}."
    text = f"{before}{BEGIN}\n\n{verdict}\n\n{table(rows)}\n\n{END}{after}"
    README.write_text(text, encoding="utf-8")


def main() -> None:
    """Measure the requested parts that are missing, and write rows and table."""
    parser = argparse.ArgumentParser(
        description="compare every registered model with its PyTorch original"
    )
    parser.add_argument("patterns", nargs="*", default=["*"], help="names, such as 'resnet*'")
    parser.add_argument("-f", "--again", action="store_true", help="measure existing parts again")
    parser.add_argument("--only", choices=PARTS, help="measure only this part of each row")
    parser.add_argument(
        "--write-only", action="store_true", help="write the table, measure nothing"
    )
    options = parser.parse_args()
    chosen = [
        entry
        for entry in sorted(model_entries(), key=lambda entry: entry.parameters or 0)
        if any(fnmatch.fnmatchcase(entry.name, pattern) for pattern in options.patterns)
    ]
    if not chosen:
        raise SystemExit(f"no registered model matches {options.patterns}")
    parts = [options.only] if options.only else list(PARTS)
    for entry in [] if options.write_only else chosen:
        row = read_rows().get(entry.name, {})
        lacking = [part for part in parts if options.again or part not in row]
        if not lacking:
            continue
        for found in measure(entry, lacking):
            add(entry.name, found)
        print(table({entry.name: read_rows()[entry.name]}).splitlines()[-1], flush=True)
        jax.clear_caches()
        gc.collect()
    known = {entry.name for entry in model_entries()}
    rows = {name: row for name, row in read_rows().items() if name in known}
    write_readme(rows)
    broken = [entry.name for entry in chosen if entry.name in rows and not holds(rows[entry.name])]
    print(f"{len(rows)} of {len(known)} models have a row; bounds broken by {broken or 'none'}")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
