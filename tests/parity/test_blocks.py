"""Every block and option against its PyTorch twin: inference, training, gradients, trajectories."""

import numpy as np
import pytest
import torch
from flax import nnx

import flaxblocks as fb
import torch_ref.blocks as twins
from tests.support import BLOCKS, OPTIMISERS, block_id, block_pair, train_both

# One of each block is trained; the options share its arithmetic.
TRAINED = [case for i, case in enumerate(BLOCKS) if case[0] not in {c[0] for c in BLOCKS[:i]}]


def images(case, batch: int = 3, size: tuple[int, int] = (9, 7)) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((batch, *size, case[1][0]))


@pytest.mark.parametrize("case", BLOCKS, ids=block_id)
def test_block_agrees_in_inference(case):
    block, twin = block_pair(case)
    # Many pixels: the float32 rule compares two maxima of rounding errors, and few are a lottery.
    report = fb.parity.compare(block, twin, images(case, 8, (29, 23)), "article")
    assert report.first_departure is None, str(report)  # 1e-12 in float64, every module
    assert report.float32_holds, report.summary()  # at most twice PyTorch's own rounding


@pytest.mark.parametrize("case", BLOCKS, ids=block_id)
def test_block_agrees_in_training_mode_with_buffers_and_gradients(case):
    block, twin = block_pair(case)
    x = images(case)
    report = fb.parity.compare(block, twin, x, "article", train=True, grad=True, float32=False)
    assert report.first_departure is None, str(report)  # 1e-12; gradients 1e-10
    kinds = {row.kind for row in report.rows}
    assert {"module", "gradient"} <= kinds
    assert ("buffer" in kinds) == any("running_mean" in key for key in twin.state_dict())


@pytest.mark.parametrize("case", TRAINED, ids=block_id)
def test_block_follows_ten_optimiser_steps(case):
    block, twin = block_pair(case)
    errors = train_both(block, twin, images(case), "article")
    assert set(errors) == set(OPTIMISERS)
    assert max(errors.values()) <= 1e-8, errors  # parameters and buffers, float64


@pytest.mark.parametrize("case", BLOCKS, ids=block_id)
def test_block_round_trip_is_bit_exact(case):
    block, twin = block_pair(case)
    state, back = twin.state_dict(), fb.to_torch(block)
    assert list(back) == list(state)
    for key, value in state.items():
        assert back[key].dtype == value.numpy().dtype, key
        np.testing.assert_array_equal(back[key], value.numpy(), err_msg=key)
    twin.load_state_dict({key: torch.from_numpy(value) for key, value in back.items()})


def test_residual_add_agrees_with_and_without_a_shortcut():
    for out, shortcut in ((6, False), (8, True)):
        twin = twins.ResidualAdd(
            torch.nn.Conv2d(6, out, 1), torch.nn.Conv2d(6, out, 1) if shortcut else None
        )
        rngs = nnx.Rngs(0)
        block = fb.blocks.ResidualAdd(
            fb.nn.Conv(6, out, 1, rngs=rngs), fb.nn.Conv(6, out, 1, rngs=rngs) if shortcut else None
        )
        fb.load_torch(block, twin.state_dict())
        x = np.random.default_rng(0).standard_normal((2, 5, 4, 6))
        report = fb.parity.compare(block, twin, x, grad=True)
        assert report.ok, str(report)


def test_a_comparison_changes_neither_model():
    block, twin = block_pair(("MBConv", (6, 6), {}))
    ours, theirs = fb.to_torch(block), {k: v.clone() for k, v in twin.state_dict().items()}
    fb.parity.compare(block, twin, images(("MBConv", (6, 6), {})), "article", train=True, grad=True)
    assert block.conv.norm.use_running_average
    assert not twin.training
    assert all(parameter.grad is None for parameter in twin.parameters())
    for key, value in twin.state_dict().items():
        assert value.dtype == theirs[key].dtype
        assert torch.equal(value, theirs[key]), key
    for key, value in fb.to_torch(block).items():
        np.testing.assert_array_equal(value, ours[key], err_msg=key)


@pytest.mark.parametrize("shape", [(9, 7, 6), (6,), (1, 2, 9, 7, 6)])
def test_a_comparison_refuses_what_is_no_batch_of_images(shape):
    block, twin = block_pair(("ConvNormAct", (6, 8, 3), {}))
    with pytest.raises(ValueError, match=r"`x` \(shape .*\) must be \(N, H, W, C\)"):
        fb.parity.compare(block, twin, np.zeros(shape), "article")


class Skipping(fb.blocks.ConvNormAct):
    """Does not call its norm."""

    def __call__(self, x):
        return self.activation(self.conv(x))


def test_a_module_that_only_pytorch_calls_is_a_departure():
    twin = twins.ConvNormAct(6, 8, 3).eval()
    twin[1].eps = 0.0  # type: ignore[assignment]  # a fresh norm then changes nothing
    block = Skipping(6, 8, 3, rngs=nnx.Rngs(0))
    fb.load_torch(block, twin.state_dict())
    x = np.random.default_rng(0).standard_normal((2, 5, 4, 6))
    report = fb.parity.compare(block, twin, x, "article")
    assert report.first_departure is not None
    assert report.first_departure.foreign == "1"
    assert not report.output.departs
