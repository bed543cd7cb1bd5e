"""Recording what every module returns, in one program or step by step."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flaxblocks as fb
from flaxblocks.inspect import record
from flaxblocks.inspect.record import drop_nothing, record_by_step, record_outputs
from flaxblocks.inspect.summary import summarize
from flaxblocks.models import FeatureExtractor
from flaxblocks.nn import Conv, StochasticDepth

X = jax.random.normal(jax.random.key(0), (2, 33, 20, 3))
# Of the blocks, the first has no expansion, the second changes the width, the rest are of one kind.
SMALL: dict[str, Any] = {
    "width_mult": 0.25,
    "inverted_residual_setting": [[1, 16, 1, 1], [6, 24, 4, 2]],
    "num_classes": 3,
    "stochastic_depth": 0.2,
}
KINDS = 5  # those of the blocks, the stem, the last convolution


@pytest.fixture(autouse=True)
def _no_program_is_left():
    record._program.cache_clear()


def small() -> Any:
    return fb.create_model("mobilenet_v2", **SMALL)


def recorded(model: nnx.Module, recorder: Callable = record_outputs) -> dict[str, Any]:
    with recorder(model) as outputs:
        model(X)
    return outputs


def kept_programs() -> int:
    return record._program(())._cache_size()


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_step_by_step_everything_is_the_same(mode):
    whole, stepped = small(), small()
    for model in (whole, stepped):
        drop_nothing(model)
        getattr(model, mode)()
    wanted, outputs = recorded(whole), recorded(stepped, record_by_step)
    assert list(outputs) == list(wanted)
    for path, output in outputs.items():
        np.testing.assert_allclose(output, wanted[path], rtol=1e-5, atol=1e-5, err_msg=path)
    stats = [jax.tree.leaves(nnx.state(model, nnx.BatchStat)) for model in (whole, stepped)]
    for ours, theirs in zip(*stats, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert int(stepped.blocks[3].project.norm.num_batches_tracked[...]) == (mode == "train")


def test_steps_of_one_kind_share_a_program():
    first, second = small(), fb.create_model("mobilenet_v2", **SMALL, rngs=1)
    for model in (first, second):
        model.eval()
        drop_nothing(model)
        outputs = recorded(model, record_by_step)
        np.testing.assert_allclose(outputs[""], model(X), rtol=1e-5, atol=1e-6)
        assert kept_programs() == KINDS


def test_another_setting_has_a_program_of_its_own():
    model = small()
    model.eval()
    drop_nothing(model)
    recorded(model, record_by_step)
    before = kept_programs()
    model.blocks[2].project.norm.eps = 0.1
    wanted = np.asarray(model(X))
    np.testing.assert_allclose(recorded(model, record_by_step)[""], wanted, rtol=1e-5, atol=1e-6)
    assert kept_programs() - before == 1


def test_dropping_nothing_leaves_no_rate():
    model = small()
    drop_nothing(model)
    depths = [m for _, m in nnx.iter_modules(model) if isinstance(m, StochasticDepth)]
    assert depths
    assert all(depth.rate == 0 and depth.deterministic for depth in [*depths, model.dropout])


def test_what_a_users_module_calls_its_steps_is_its_own_affair():
    class Repeated(nnx.Module):
        def __init__(self):
            self.steps = 2
            self.conv = Conv(3, 3, 1, rngs=nnx.Rngs(0))

        def __call__(self, x):
            for _ in range(self.steps):
                x = self.conv(x)
            return x

    outputs = recorded(Repeated(), record_by_step)
    assert list(outputs) == ["conv", ""]
    assert outputs[""].shape == X.shape


def test_a_module_that_is_no_image_model_is_one_step():
    extractor = FeatureExtractor(small(), [0, -1])
    extractor.eval()
    outputs = recorded(extractor, record_by_step)
    assert [y.shape for y in outputs[""]] == [(2, 17, 10, 8), (2, 9, 5, 8)]
    assert "backbone.blocks.1.project.norm" in outputs


@pytest.mark.parametrize("recorder", [record_outputs, record_by_step])
def test_recording_ends_with_an_error_too(recorder):
    model = small()
    classes = [type(module) for _, module in nnx.iter_modules(model)]
    with pytest.raises(ValueError, match="must be"), recorder(model):
        model(jnp.zeros((1, 32, 32, 4)))
    assert [type(module) for _, module in nnx.iter_modules(model)] == classes


@pytest.mark.parametrize("recorder", [record_outputs, record_by_step])
def test_no_class_changes_and_no_other_model_is_recorded(recorder):
    model, other = small(), small()
    calls = {type(module): type(module).__call__ for _, module in nnx.iter_modules(model)}
    with recorder(model) as outputs:
        assert {cls: cls.__call__ for cls in calls} == calls
        other(X)
        assert not outputs
        model(X)
    assert len(outputs) > 1


def test_threads_record_each_its_own():
    models = [small() for _ in range(2)]
    for model in models:
        drop_nothing(model)
        model.eval()
    at_once = threading.Barrier(2)

    def record_one(model: Any) -> list[str]:
        with record_outputs(model) as outputs:
            at_once.wait(60)
            model(X)
            at_once.wait(60)
        return list(outputs)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(record_one, models)
    assert first == second
    assert first == list(recorded(models[0]))


def test_threads_summarise_at_once():
    kept = Conv.__call__
    wanted = summarize(small(), (33, 20))
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(lambda _: summarize(small(), (33, 20)), range(8)))
    assert rows == [wanted] * 8
    assert Conv.__call__ is kept
