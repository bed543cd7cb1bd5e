"""Hold every registered model against its PyTorch original, and write what came out of it.

    python tools/parity_report.py                # all models that have no row yet
    python tools/parity_report.py 'resnet*' -f   # these, again
    python tools/parity_report.py --write-only   # the README's table from the rows there are

The rows lie in tools/parity_report.json, written after each model, so that a run that was stopped
goes on where it was, and two runs of different patterns may go on side by side. Each has the
model's parameters and multiply-adds (224x224), the largest relative error of a module in float64,
the float32 error of the output beside PyTorch's own, the largest errors of modules, updated buffers
and gradients in training mode in float64, and the seconds that `load_torch` takes, the least of
three. Weights are random and calibrated. The exit status is 1 if a bound of `flaxblocks.parity` is
broken.
"""

import argparse
import fnmatch
import gc
import json
import sys
import timeit
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

import flaxblocks as fb
from flaxblocks.build import abstract_model
from flaxblocks.convert.atomic_file import replacing
from flaxblocks.oracle import calibrated_oracle
from flaxblocks.parity import BOUNDS
from flaxblocks.registry import ModelEntry, model_entries
from flaxblocks.summary import count_parameters, summarize

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # `torch_ref` is no part of the installed package
ROWS = ROOT / "tools" / "parity_report.json"
README = ROOT / "README.md"
BEGIN, END = "<!-- parity report: begin -->", "<!-- parity report: end -->"
SIZE = (64, 96)  # of the images; every model takes it, those included that need multiples of 32
IMAGES, TRAINING_IMAGES = 2, 8  # a gate's batch norm sees one value an image
CLASSES = 1000
LIBRARIES = ("jax", "flax", "torch", "torchvision", "timm")

Row = dict[str, Any]


def measure(entry: ModelEntry) -> Row:
    """The row of one model."""
    oracle = calibrated_oracle(entry, CLASSES, size=SIZE)
    state = oracle.state_dict()
    model = fb.create_model(entry.name, weights=state)
    seconds = min(timeit.repeat(lambda: fb.load_torch(model, state), number=1, repeat=3))
    rng = np.random.default_rng(0)
    images, batch = (rng.standard_normal((n, *SIZE, 3)) for n in (IMAGES, TRAINING_IMAGES))
    training = fb.parity.compare(model, oracle, batch, train=True, grad=True, float32=False)
    inference = fb.parity.compare(model, oracle, images)
    stages = summarize(abstract_model(entry.name), entry.input_size)
    return {
        "source": entry.source,
        "parameters": count_parameters(model),
        "multiply_adds": sum(stage.multiply_adds for stage in stages),
        "float64": inference.worst("module"),
        "float32": inference.output.ours32,
        "float32_torch": inference.output.torch32,
        "float32_holds": inference.float32_holds,
        "train": training.worst("module"),
        "buffers": training.worst("buffer"),
        "gradients": training.worst("gradient"),
        "load_seconds": round(seconds, 3),
        "libraries": {name: version(name) for name in LIBRARIES},
    }


def read_rows() -> dict[str, Row]:
    """What has been measured so far, by this run or another."""
    return json.loads(ROWS.read_text(encoding="utf-8")) if ROWS.exists() else {}


def holds(row: Row) -> bool:
    """Every bound is kept."""
    return (
        max(row["float64"], row["train"]) <= BOUNDS["module"]
        and row["buffers"] <= BOUNDS["buffer"]
        and row["gradients"] <= BOUNDS["gradient"]
        and row["float32_holds"]
    )


def table(rows: dict[str, Row]) -> str:
    """The rows in Markdown, in the order of their names."""
    head = (
        "model",
        "parameters",
        "multiply-adds",
        "float64",
        "float32: JAX / PyTorch",
        "training",
        "buffers",
        "gradients",
        "load, s",
    )
    lines = [f"| {' | '.join(head)} |", f"|---{'|---:' * (len(head) - 1)}|"]
    for name, row in sorted(rows.items()):
        cells = (
            f"{name} ({row['source']})",
            f"{row['parameters']:,}",
            f"{row['multiply_adds'] / 1e9:.3f} G",
            f"{row['float64']:.1e}",
            f"{row['float32']:.1e} / {row['float32_torch']:.1e}",
            f"{row['train']:.1e}",
            f"{row['buffers']:.1e}",
            f"{row['gradients']:.1e}",
            f"{row['load_seconds']:.2f}",
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
    parser.add_argument("-f", "--again", action="store_true", help="also what has a row already")
    parser.add_argument("--write-only", action="store_true", help="measure nothing")
    options = parser.parse_args()
    chosen = [
        entry
        for entry in sorted(model_entries(), key=lambda entry: entry.parameters or 0)
        if any(fnmatch.fnmatchcase(entry.name, pattern) for pattern in options.patterns)
    ]
    if not chosen:
        raise SystemExit(f"no registered model matches {options.patterns}")
    for entry in [] if options.write_only else chosen:
        if entry.name in read_rows() and not options.again:
            continue
        row = measure(entry)
        rows = {**read_rows(), entry.name: row}
        with replacing(ROWS) as file:
            file.write(f"{json.dumps(rows, indent=1, sort_keys=True)}\n".encode())
        print(table({entry.name: row}).splitlines()[-1], flush=True)
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
