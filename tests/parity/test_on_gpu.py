"""On a GPU: the same bounds with full float32 products, and TF32's own with them off."""

import jax
import numpy as np
import pytest

from flaxblocks.parity.verify import verify
from flaxblocks.registry import find_model

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _needs_a_gpu():
    assert jax.default_backend() == "gpu", "`pytest -m gpu` needs a GPU that JAX sees"


def test_mobilenet_v2_agrees_in_float64_and_full_float32():
    with jax.default_matmul_precision("highest"):
        report = verify(find_model("mobilenet_v2"), size=(97, 131), num_classes=10)
    assert report.ok, report.summary()


def test_mobilenet_v2_agrees_to_tf32_with_fast_products():
    with jax.default_matmul_precision("tensorfloat32"):
        report = verify(find_model("mobilenet_v2"), size=(97, 131), num_classes=10)
    # TF32 keeps 10 bits of a factor: 5e-4 each, some tens of layers deep
    assert report.first_departure is None
    assert report.output.ours32 is not None
    assert np.isfinite(report.output.ours32)
    assert report.output.ours32 < 2e-2
