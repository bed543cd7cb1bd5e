"""The demo: convert a PyTorch checkpoint to Flax and reproduce PyTorch's predictions, without
PyTorch.
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxblocks.checkpoints.atomic_file import replacing
from flaxblocks.checkpoints.read import read_checkpoint
from flaxblocks.create.create import create_model
from flaxblocks.demo.digits import Digits, checkpoint_path, digits_to_images, load_digits
from flaxblocks.inference import compile_inference
from flaxblocks.parity.report import relative_error

__all__ = ["DemoResult", "draw_digits", "run_demo"]

WIDTH_MULT = 0.25


@dataclass(frozen=True)
class DemoResult:
    """The measurements of the demo.

    Attributes:
        digits: number of digits classified, none of which was used for training.
        accuracy_torch: PyTorch's accuracy in [0, 1], from the logits that come with the package.
        accuracy_jax: this model's accuracy in [0, 1].
        same_answers: number of digits for which both predict the same class.
        max_abs: largest difference between logits, both in float32.
        error_jax: relative error of JAX in float32 against PyTorch in float64.
        error_torch: relative error of PyTorch in float32 against PyTorch in float64.
        error_float64: relative error of JAX in float64 against PyTorch in float64.
        load_seconds: time to read and convert the file.
        compile_seconds: time of the first call.
        run_seconds: time of a later call, on all digits.
        torch_version: version of the PyTorch that computed the reference.
    """

    digits: int
    accuracy_torch: float
    accuracy_jax: float
    same_answers: int
    max_abs: float
    error_jax: float
    error_torch: float
    error_float64: float
    load_seconds: float
    compile_seconds: float
    run_seconds: float
    torch_version: str

    def describe(self) -> str:
        """The result as text for a terminal."""
        return "\n".join(
            (
                f"A MobileNetV2 trained with PyTorch {self.torch_version}, converted to Flax:",
                f"  read and converted in {self.load_seconds:.2f} s, without torch",
                f"  accuracy on {self.digits} digits it never saw: PyTorch "
                f"{self.accuracy_torch:.1%}, JAX {self.accuracy_jax:.1%}, "
                f"the same prediction for {self.same_answers}",
                f"  largest difference between logits, both in float32: {self.max_abs:.1e}",
                f"  relative error against float64: JAX {self.error_jax:.1e}, "
                f"PyTorch {self.error_torch:.1e}; JAX in float64 {self.error_float64:.1e}",
                f"  all digits take {self.run_seconds * 1e3:.0f} ms per call, "
                f"after {self.compile_seconds:.1f} s of compiling",
            )
        )

    def as_dict(self) -> dict[str, Any]:
        """The result as plain data."""
        return asdict(self)


def run_demo() -> tuple[DemoResult, Digits, np.ndarray]:
    """Read the bundled `.pth`, convert it, and classify the held-out digits.

    Returns: the result, the digits, and the logits `(360, 10)`.
    """
    digits = load_digits()
    images = digits_to_images(digits.images)
    start = time.perf_counter()
    arrays = read_checkpoint(checkpoint_path())
    model = create_model("mobilenet_v2", weights=arrays, width_mult=WIDTH_MULT)
    loaded = time.perf_counter()
    run = compile_inference(model)
    logits = np.asarray(run(jnp.asarray(images)))
    compiled = time.perf_counter()
    logits = np.asarray(run(jnp.asarray(images)))
    done = time.perf_counter()
    with jax.enable_x64(True):
        wide = create_model(
            "mobilenet_v2", weights=arrays, width_mult=WIDTH_MULT, param_dtype=jnp.float64
        )
        logits64 = np.asarray(compile_inference(wide)(jnp.asarray(images, jnp.float64)))
    answers, torch_answers = logits.argmax(1), digits.logits.argmax(1)
    result = DemoResult(
        digits=len(digits.labels),
        accuracy_torch=float((torch_answers == digits.labels).mean()),
        accuracy_jax=float((answers == digits.labels).mean()),
        same_answers=int((answers == torch_answers).sum()),
        max_abs=float(np.abs(logits - digits.logits).max()),
        error_jax=relative_error(logits, digits.logits64),
        error_torch=relative_error(digits.logits, digits.logits64),
        error_float64=relative_error(logits64, digits.logits64),
        load_seconds=loaded - start,
        compile_seconds=compiled - loaded,
        run_seconds=done - compiled,
        torch_version=digits.torch_version,
    )
    return result, digits, logits


def draw_digits(digits: Digits, logits: np.ndarray, path: Path, count: int = 24) -> None:
    """Draw the first `count` digits, each with the predictions of both frameworks, to an image
    file. Needs matplotlib.

    Digits that either framework gets wrong come first, in red.

    Raises: ValueError if the file cannot be written, or its suffix is not that of an image format.
    """
    from matplotlib.figure import Figure

    answers, torch_answers = logits.argmax(1), digits.logits.argmax(1)
    wrong = (answers != digits.labels) | (torch_answers != digits.labels)
    order = np.argsort(~wrong, kind="stable")[:count]
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots(3, -(-count // 3))
    for axis, i in zip(axes.flat, order, strict=False):
        axis.imshow(digits.images[i], cmap="gray_r")
        colour = "firebrick" if wrong[i] else "black"
        axis.set_title(f"torch {torch_answers[i]}  jax {answers[i]}", fontsize=8, color=colour)
        axis.set_axis_off()
    format = path.suffix[1:].lower() or "png"
    known = figure.canvas.get_supported_filetypes()
    if format not in known:
        raise ValueError(f"picture {str(path)!r} must end in .{', .'.join(sorted(known))}")
    try:
        with replacing(path) as file:
            figure.savefig(file, format=format, dpi=150)
    except OSError as error:
        raise ValueError(f"picture {str(path)!r} cannot be written: {error.strerror}") from error
