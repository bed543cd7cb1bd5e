"""The program that users run, at the size that they run: the whole model under one `jax.jit` with
XLA's default options, at 224x224, in float64 and bfloat16.

Where every module's output is looked at, as in the other tests, XLA fuses and rounds otherwise. For
the smallest model of each family; every other one by `pytest -m thorough`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import flaxblocks as fb
from flaxblocks.models.registry import ModelEntry, model_entries
from flaxblocks.parity import BOUNDS, relative_error
from flaxblocks.parity.oracle import calibrated_oracle
from tests.scheduling import LARGEST
from tests.support import smallest_of_each_family

SIZE = (224, 224)
IMAGES = 4  # a gate's batch norm sees one value of each
CLASSES = 1000  # of few numbers the worst error is a matter of luck


def _cases() -> list:
    classes_of_rexnet = ("rexnet_lite_100", "rexnet_plain")
    smallest = {entry.name for entry in smallest_of_each_family()}.difference(classes_of_rexnet)
    rest = pytest.mark.thorough
    return [
        pytest.param(entry, id=entry.name, marks=[] if entry.name in smallest else [rest])
        for entry in model_entries()
    ]


@pytest.mark.parametrize("entry", _cases())
def test_the_program_that_users_run_agrees(entry: ModelEntry):
    size = (64, 64) if entry.name in LARGEST else SIZE
    oracle = calibrated_oracle(entry, CLASSES, size=size)
    model = fb.create_model(entry.name, weights=oracle.state_dict())
    x = np.random.default_rng(0).standard_normal((IMAGES, *size, 3))

    report = fb.parity.compare(
        model, oracle, x, entry.layout, float32=False, bfloat16=True, whole=True
    )
    assert report.ok, report.summary()  # 1e-12; in bfloat16 twice PyTorch's error

    report = fb.parity.compare(
        model, oracle, x, entry.layout, train=True, grad=True, float32=False, whole=True
    )
    assert report.first_departure is None, str(report)  # 1e-12; gradients 1e-10
    assert {row.kind for row in report.rows} == set(BOUNDS)

    error = folded_error(model, oracle, x)
    assert error <= BOUNDS["module"]
    jax.clear_caches()  # no other test compiles this


def folded_error(model: Any, oracle: Any, x: np.ndarray) -> float:
    """The error of `compile_inference` in float64; both models are float64's afterwards."""
    with torch.no_grad():
        truth = oracle.double()(torch.from_numpy(x).permute(0, 3, 1, 2)).numpy()
    with jax.enable_x64(True):
        params = nnx.state(model, (nnx.Param, nnx.BatchStat))
        nnx.update(model, jax.tree.map(lambda a: np.asarray(a, np.float64), params))
        ours = fb.compile_inference(model)(jnp.asarray(x))
    assert ours.dtype == jnp.float64
    return relative_error(np.asarray(ours), truth)
