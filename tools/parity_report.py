"""Hold every registered model against its PyTorch original, and write what came out of it.

    python tools/parity_report.py                  # what each model lacks: a row, or a part of it
    python tools/parity_report.py --only bfloat16  # of that, this part
    python tools/parity_report.py 'resnet*' -f     # these, again
    python tools/parity_report.py --write-only     # the README's table from the rows there are

The rows lie in tools/parity_report.json, written after each part of each model, so that a run that
was stopped goes on where it was, and two runs of different patterns may go on side by side. Each
has the model's parameters and multiply-adds (224x224) and the seconds that `load_torch` takes, the
least of three; the largest relative error of a module in float64, and the float32 error of the
output beside PyTorch's own; the bfloat16 errors likewise; and the largest errors of modules,
updated buffers and gradients in training mode in float64. Weights are random and calibrated. The
exit status is 1 if a bound of `flaxblocks.parity` is broken.
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
sys.path.append(str(ROOT))  # `torch_ref` is no part of the installed package
ROWS = ROOT / "tools" / "parity_report.json"
README = ROOT / "README.md"
BEGIN, END = "<!-- parity report: begin -->", "<!-- parity report: end -->"
SIZE = (64, 96)  # of the images; every model takes it, those included that need multiples of 32
IMAGES, TRAINING_IMAGES = 2, 8  # a gate's batch norm sees one value an image
CLASSES = 1000
MISSING = "-"
LIBRARIES = ("jax", "flax", "torch", "torchvision", "timm")

Row = dict[str, Any]


def measure_size(entry: ModelEntry, model: Any, oracle: Any) -> Row:
    """What the model is, and how long its weights take to load."""
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
    """The errors in bfloat16, of the program that users run."""
    report = fb.parity.compare(
        model, oracle, images(IMAGES), entry.layout, float32=False, bfloat16=True, whole=True
    )
    return {
        "bfloat16": report.output.ours16,
        "bfloat16_torch": report.output.torch16,
        "bfloat16_holds": report.bfloat16_holds,
    }


# By the key that a row has if that part of it is measured.
PARTS: dict[str, Callable[[ModelEntry, Any, Any], Row]] = {
    "parameters": measure_size,
    "train": measure_training,
    "float32": measure_inference,
    "bfloat16": measure_bfloat16,
}


def images(count: int) -> np.ndarray:
    """The images that are compared, the same in every run."""
    return np.random.default_rng(0).standard_normal((count, *SIZE, 3))


def measure(entry: ModelEntry, parts: Iterable[str]) -> Iterator[Row]:
    """Those parts of one model's row, one by one, each with the libraries it was measured with."""
    oracle = calibrated_oracle(entry, CLASSES, size=SIZE)
    model = fb.create_model(entry.name, weights=oracle.state_dict())
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    for part in parts:
        yield {**PARTS[part](entry, model, oracle), "libraries": {part: libraries}}


def read_rows() -> dict[str, Row]:
    """What has been measured so far, by this run or another."""
    return json.loads(ROWS.read_text(encoding="utf-8")) if ROWS.exists() else {}


def add(name: str, found: Row) -> None:
    """Put a part into the row of its model."""
    rows = read_rows()
    row = rows.get(name, {})
    libraries = {**row.get("libraries", {}), **found["libraries"]}
    rows[name] = {**row, **found, "libraries": libraries}
    with replacing(ROWS) as file:
        file.write(f"{json.dumps(rows, indent=1, sort_keys=True)}\n".encode())


def holds(row: Row) -> bool:
    """Every bound that was measured is kept."""
    return (
        max(row.get("float64", 0), row.get("train", 0)) <= BOUNDS["module"]
        and row.get("buffers", 0) <= BOUNDS["buffer"]
        and row.get("gradients", 0) <= BOUNDS["gradient"]
        and row.get("float32_holds", True)
        and row.get("bfloat16_holds", True)
    )


def cell(row: Row, form: str, *keys: str) -> str:
    """The numbers under `keys`, if that part of the row is measured."""
    return form.format(*(row[key] for key in keys)) if keys[0] in row else MISSING


def table(rows: dict[str, Row]) -> str:
    """The rows in Markdown, in the order of their names."""
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
    """Put the table and its verdict between the README's markers."""
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
    """Measure what is asked for and not there yet, and write rows and table."""
    parser = argparse.ArgumentParser(
        description="hold every registered model against its PyTorch original"
    )
    parser.add_argument("patterns", nargs="*", default=["*"], help="names, as 'resnet*'")
    parser.add_argument("-f", "--again", action="store_true", help="also what is there already")
    parser.add_argument("--only", choices=PARTS, help="of each row this part")
    parser.add_argument("--write-only", action="store_true", help="measure nothing")
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
