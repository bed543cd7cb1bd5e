"""On a GPU: the bounds of the other tests with full float32 products, and TF32's own without.

    pytest -m gpu                               # on a machine with a GPU
    FLAXBLOCKS_GPU_TESTS_ON=cpu pytest -m gpu   # the same tests without one

PyTorch stays on the CPU. `python tools/check_gpu.py` runs them side by side.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

import flaxblocks as fb
from flaxblocks.models.registry import find_model
from flaxblocks.parity import FLOAT32_FACTOR
from flaxblocks.parity.compiling import quick_to_compile
from flaxblocks.parity.verify import verify
from tests.support import (
    calibrated_pair,
    compiled_errors,
    gradient_errors,
    images,
    smallest_of_each_family,
    train_both,
)
from tests.train.runs import rows_of, same_end
from tests.train.test_kill import finish, start

pytestmark = pytest.mark.gpu
ON = os.environ.get("FLAXBLOCKS_GPU_TESTS_ON", "gpu")
ROOT = Path(__file__).parents[2]
FAMILIES = pytest.mark.parametrize("entry", smallest_of_each_family(), ids=lambda entry: entry.name)
Record = Callable[[str, object], None]  # what was measured, for reports


@pytest.fixture(autouse=True)
def _on_the_device():
    assert jax.default_backend() == ON, f"`pytest -m gpu` needs a device that JAX calls {ON}"


def test_no_compiler_option_of_the_cpu_reaches_the_device():
    names = quick_to_compile(None, grad=True)
    assert any("cpu" in name for name in names) == (ON == "cpu")


def test_a_model_is_drawn_on_the_host(record_property: Record):
    """A hundred programs of its drawing, compiled on a GPU one by one, take up to 25 s."""
    jax.block_until_ready(jax.device_put(np.zeros(())))  # the device itself starts before
    started = time.monotonic()
    model = fb.create_model("efficientnet_b0")
    jax.block_until_ready(nnx.state(model))
    record_property("efficientnet_b0", f"{time.monotonic() - started:.2f} s")
    devices = {leaf.device for leaf in jax.tree.leaves(nnx.state(model))}
    assert devices == {jax.devices()[0]}


def test_killed_it_goes_on_and_ends_to_the_bit_the_same(tmp_path, monkeypatch):
    flags = os.environ.get("XLA_FLAGS", "")
    monkeypatch.setenv("XLA_FLAGS", f"{flags} --xla_gpu_deterministic_ops=true")
    alone = start(tmp_path / "alone")  # beside the others
    for moment in ("step 4", "row 2"):  # between two checkpoints; before one
        process = start(tmp_path / "run", moment)
        output, _ = process.communicate()
        assert process.returncode == -signal.SIGKILL, f"{moment}: {output}"
    output = finish(start(tmp_path / "run"))
    assert f" on {jax.device_count()} {jax.devices()[0].device_kind}; " in output
    assert "resuming " in output
    finish(alone)
    assert same_end(tmp_path / "run", tmp_path / "alone")


def test_the_training_program_learns(tmp_path, record_property: Record):
    settings = ("--data=digits", "--model=mobilenet_v2", "--width-mult=0.25", "--epochs=4")
    command = [sys.executable, "-m", "train", *settings, "--out", str(tmp_path / "run")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f" on {jax.device_count()} {jax.devices()[0].device_kind}; " in ended.stdout
    right = rows_of(tmp_path / "run")[-1]["held_out_top1"]
    record_property("right", f"{right:.1f}%")
    assert right > 70  # of ten classes; 92 on a CPU
    assert (tmp_path / "run" / "final.safetensors").exists()


def test_mobilenet_v2_agrees_to_tf32_with_fast_products(record_property: Record):
    with jax.default_matmul_precision("tensorfloat32"):
        report = verify(find_model("mobilenet_v2"), size=(97, 131), num_classes=10)
    record_property("float32 with TF32", report.output.ours32)
    # TF32 keeps 10 bits of a factor: 5e-4 each, some tens of layers deep
    assert report.first_departure is None
    assert report.output.ours32 is not None
    assert np.isfinite(report.output.ours32)
    assert report.output.ours32 < 2e-2


def test_the_selftest_says_whether_it_sees_tf32(record_property: Record):
    """Every bound holds either way; a GPU without TF32 has float32's own errors."""
    report = fb.selftest("resnet10t")
    default = [check for check in report.checks if check.precision == "float32"]
    record_property("seen", ", ".join({check.seen for check in default if check.seen}) or "none")
    assert report.ok, str(report)
    assert {check.seen for check in default} <= {"", "TF32"} if ON == "gpu" else {""}
    assert ("TF32" in report.verdict()) == any(check.seen for check in default)


@FAMILIES
def test_compiled_inference_agrees_in_full_float32(entry, record_property: Record):
    with jax.default_matmul_precision("highest"):
        ours, theirs = compiled_errors(entry, (97, 65))
    record_property("float32", ours)
    record_property("float32 of PyTorch", theirs)
    assert ours <= FLOAT32_FACTOR * theirs


@FAMILIES
def test_a_family_agrees_in_float64_and_full_float32(entry, record_property: Record):
    with jax.default_matmul_precision("highest"):
        report = verify(entry, size=(97, 65))  # 1000 classes: of few the worst is luck
    record_property("float64", report.worst("module"))
    record_property("float32", report.output.ours32)
    record_property("float32 of PyTorch", report.output.torch32)
    assert report.ok, str(report)


@FAMILIES
def test_a_family_agrees_in_training_mode_with_buffers_and_gradients(
    entry, record_property: Record
):
    report = verify(
        entry, size=(65, 47), batch=8, train=True, grad=True, float32=False, num_classes=7
    )
    for kind in ("module", "buffer", "gradient"):
        record_property(f"{kind}s", report.worst(kind))
    assert report.first_departure is None, str(report)  # 1e-12; gradients 1e-10


@FAMILIES
def test_a_familys_gradients_agree_in_inference_mode(entry, record_property: Record):
    with jax.default_matmul_precision("highest"):
        report = verify(entry, size=(65, 47), grad=True)
    record_property("gradients", report.worst("gradient"))
    assert report.ok, str(report)  # 1e-12, gradients 1e-10; the output in float32


@FAMILIES
def test_a_familys_gradients_agree_in_full_float32(entry, record_property: Record):
    """By the middle parameter of the middle of three draws of images.

    Where a ReLU bends, rounding decides on which side a number lies, in PyTorch as here. In about
    one draw of ten such a number moves all gradients before it, by 1e-2; else they agree to 4e-6.
    """
    with jax.default_matmul_precision("highest"):
        errors = gradient_errors(entry, [images(seed, (65, 47)) for seed in range(3)])
    ours, theirs = sorted(errors, key=lambda pair: pair[0] / pair[1])[1]
    record_property("float32", ours)
    record_property("float32 of PyTorch", theirs)
    assert ours <= FLOAT32_FACTOR * theirs


@FAMILIES
def test_a_family_follows_ten_steps_of_each_optimiser(entry, record_property: Record):
    model, oracle = calibrated_pair(entry, 1000)
    x = np.random.default_rng(0).standard_normal((8, 47, 33, 3))
    errors = train_both(model, oracle, x, entry.layout, pace=0.1)  # as in test_models.py
    for optimiser, error in errors.items():
        record_property(optimiser, error)
    assert max(errors.values()) <= 1e-8  # parameters and buffers, float64
