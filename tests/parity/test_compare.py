"""`compare` on what models may be: several outputs, heads of another kind, parts unused."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import flaxblocks as fb
from flaxblocks.blocks import ConvNormAct
from flaxblocks.create.build import abstract_model
from flaxblocks.inspect.summary import summarize
from flaxblocks.models.registry import ModelEntry, find_model
from flaxblocks.nn import Conv, Linear, global_avg_pool
from flaxblocks.parity import run_flax
from flaxblocks.parity.calibration import calibrate
from flaxblocks.parity.oracle import OracleError, make_oracle
from tests.support import equal_arrays, smallest_of_each_family

X = np.random.default_rng(0).standard_normal((2, 33, 35, 3))


class Headed(nnx.Module):
    """A head that PyTorch has as the other kind of layer."""

    layouts = {
        "conv1x1": lambda _: [("head", "fc", "conv1x1")],
        "linear": lambda _: [("head", "fc", "linear")],
    }

    def __init__(self, head: nnx.Module):
        self.head = head

    def __call__(self, x):
        x = global_avg_pool(x)
        if isinstance(self.head, Conv):
            return self.head(x[:, None, None])[:, 0, 0]
        return self.head(x)  # type: ignore[operator]


class TorchHeaded(torch.nn.Module):
    def __init__(self, fc: torch.nn.Module):
        super().__init__()
        self.fc = fc

    def forward(self, x):
        x = x.mean((2, 3), keepdim=isinstance(self.fc, torch.nn.Conv2d))
        return self.fc(x).flatten(1)


@pytest.mark.parametrize(
    ("layout", "head", "fc"),
    [
        ("conv1x1", lambda: Linear(3, 5, rngs=nnx.Rngs(0)), lambda: torch.nn.Conv2d(3, 5, 1)),
        ("linear", lambda: Conv(3, 5, 1, rngs=nnx.Rngs(0)), lambda: torch.nn.Linear(3, 5)),
    ],
)
def test_a_head_stored_as_the_other_kind_agrees_by_name(layout, head, fc):
    model, oracle = Headed(head()), TorchHeaded(fc())
    fb.load_torch(model, oracle.state_dict(), layout=layout)
    report = fb.parity.compare(model, oracle, X, layout, grad=True, float32=False)
    assert report.ok, str(report)
    assert [row.foreign for row in report.rows][:2] == ["fc", "(output)"]


def test_feature_maps_are_compared_one_by_one_with_timm():
    import timm

    oracle: Any = timm.create_model("mobilenetv2_035", features_only=True, out_indices=(0, 4))
    calibrate(oracle, (4, 3, 64, 64))
    model = fb.create_model("mobilenetv2_035", features_only=True, out_indices=(0, 4))
    fb.load_torch(model, oracle.state_dict(), layout="timm")
    report = fb.parity.compare(model, oracle, X)
    assert report.ok, str(report)
    outputs = [row.foreign for row in report.rows if row.foreign.startswith("(output)")]
    assert outputs == ["(output)[0]", "(output)[1]"]


class Spare(nnx.Module):
    """A layer that inference does not use."""

    layouts = {"article": lambda _: [("main", "main"), ("spare", "spare")]}

    def __init__(self):
        self.main = Conv(3, 4, 1, rngs=nnx.Rngs(0))
        self.spare = Conv(3, 4, 1, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.main(x)


class TorchSpare(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.main, self.spare = torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(3, 4, 1)

    def forward(self, x):
        return self.main(x)


def test_a_parameter_that_is_not_used_has_no_gradient_in_either():
    model, oracle = Spare(), TorchSpare()
    fb.load_torch(model, oracle.state_dict())
    report = fb.parity.compare(model, oracle, X, grad=True)
    assert report.ok, str(report)
    assert [r.foreign for r in report.rows if r.max_abs == 0 and r.kind == "gradient"] == [
        "spare.weight",
        "spare.bias",
    ]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_comparing_gradients_leaves_both_models_as_they_were(dtype):
    with jax.enable_x64(True):
        model = Headed(Linear(3, 5, param_dtype=dtype, rngs=nnx.Rngs(0)))
    oracle = TorchHeaded(torch.nn.Conv2d(3, 5, 1)).to(getattr(torch, dtype))
    oracle.load_state_dict({k: torch.from_numpy(v) for k, v in fb.to_torch(model).items()})
    before = [fb.to_torch(model), {k: v.numpy().copy() for k, v in oracle.state_dict().items()}]
    report = fb.parity.compare(model, oracle, X, grad=True)
    after = [fb.to_torch(model), {k: v.numpy() for k, v in oracle.state_dict().items()}]
    assert all(equal_arrays(a, b) for a, b in zip(before, after, strict=True))
    assert all(p.grad is None for p in oracle.parameters())
    assert report.first_departure is None, str(report)


class Rematerialised(ConvNormAct):
    """Its convolution is computed again in the backward pass."""

    def __call__(self, x):
        return self.activation(self.norm(nnx.remat(lambda conv, x: conv(x))(self.conv, x)))  # type: ignore[misc]


def test_a_block_inside_of_remat_is_passed_through():
    block = Rematerialised(3, 4, 3, rngs=nnx.Rngs(0))
    oracle = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.ReLU()
    )
    calibrate(oracle, (4, 3, 9, 9))
    fb.load_torch(block, oracle.state_dict())
    report = fb.parity.compare(block, oracle, X, "article", grad=True, float32=False)
    assert all(row.relative <= 1e-12 for row in report.rows if row.foreign != "0"), str(report)
    assert summarize(block, (9, 9))


class Misspelt(ConvNormAct):
    """A pair for an output that PyTorch's model lacks."""

    layouts = {"article": lambda _: [("conv", "0"), ("norm", "1"), ("conv", "act", "output")]}


def test_a_name_that_the_pytorch_model_lacks_is_an_error():
    oracle = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.BatchNorm2d(4))
    with pytest.raises(ValueError, match="names modules that the PyTorch model lacks: act"):
        fb.parity.compare(Misspelt(3, 4, 3, rngs=nnx.Rngs(0)), oracle, X)


@pytest.mark.parametrize("name", ["torch_ref.models:MobileNetV1", None])
def test_a_row_may_name_its_own_oracle(name):
    row = find_model("mobilenet_v1")
    entry = ModelEntry(name="ours", build=row.build, source="article", oracle=name)
    if name is None:
        with pytest.raises(OracleError, match="ours has no PyTorch original"):
            make_oracle(entry, 7, 4, {})
        return
    oracle = make_oracle(entry, 7, 4, {"width_mult": 0.25})
    assert oracle(torch.zeros(2, 4, 32, 32)).shape == (2, 7)


def test_calibration_repeats_itself_and_leaves_pytorchs_random_state():
    def calibrated() -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3), torch.nn.Dropout(0.5), torch.nn.BatchNorm2d(4)
        )
        torch.manual_seed(int(seeds.pop()))
        state = torch.random.get_rng_state()
        calibrate(model, (4, 3, 9, 9))
        assert torch.equal(torch.random.get_rng_state(), state)
        return model.state_dict()

    seeds = [1, 2]
    first, second = calibrated(), calibrated()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_summary_of_a_feature_extractor_lists_its_steps():
    model = fb.create_model("mobilenet_v2", width_mult=0.1, features_only=True, out_indices=(1,))
    rows = summarize(model, (32, 32))
    assert [row.name for row in rows][:2] == ["backbone.stem", "backbone.blocks.0"]
    assert jnp.prod(jnp.array(rows[-1].shape)) == 8 * 8 * model.feature_info.channels()[0]


def test_an_output_of_zeros_keeps_its_float32_error():
    model, oracle = Headed(Linear(3, 5, rngs=nnx.Rngs(0))), TorchHeaded(torch.nn.Conv2d(3, 5, 1))
    with torch.no_grad():
        for parameter in oracle.parameters():
            parameter.zero_()
    fb.load_torch(model, oracle.state_dict(), layout="conv1x1")
    report = fb.parity.compare(model, oracle, X, "conv1x1")
    assert [(row.ours32, row.torch32) for row in report.rows] == [(0.0, 0.0), (0.0, 0.0)]


class Shy(Headed):
    """Right while every module's output is looked at, and only then."""

    def __call__(self, x):
        y = super().__call__(x)
        return y if type(self) is not Shy else y + 1


@pytest.mark.parametrize("options", [{}, {"grad": True}, {"train": True}], ids=str)
def test_the_whole_program_is_not_the_one_that_records(options):
    model, oracle = Shy(Linear(3, 5, rngs=nnx.Rngs(0))), TorchHeaded(torch.nn.Conv2d(3, 5, 1))
    fb.load_torch(model, oracle.state_dict(), layout="conv1x1")
    assert fb.parity.compare(model, oracle, X, "conv1x1", **options).ok
    report = fb.parity.compare(model, oracle, X, "conv1x1", whole=True, **options)
    assert report.first_departure == report.output


def small_pair(**options: Any) -> tuple[Any, torch.nn.Module]:
    """A MobileNetV2 of three blocks, as torchvision builds it and with its weights here."""
    config = {"width_mult": 0.25, "inverted_residual_setting": [[1, 16, 1, 1], [6, 24, 2, 2]]}
    oracle = make_oracle(find_model("mobilenet_v2"), 300, 3, config)
    calibrate(oracle, (4, 3, 33, 35))
    weights = oracle.state_dict()
    return fb.create_model("mobilenet_v2", weights=weights, **config, **options), oracle


def test_the_whole_program_gives_what_a_users_gives(monkeypatch):
    for name in ("record_outputs", "record_by_step", "quick_to_compile"):
        monkeypatch.delattr(run_flax, name)  # what is made for the comparison alone
    model, oracle = small_pair()
    report = fb.parity.compare(model, oracle, X, train=True, grad=True, whole=True)
    assert report.first_departure is None, str(report)
    named = dict(oracle.named_parameters())
    found = {kind: [r.foreign for r in report.rows if r.kind == kind] for kind in fb.parity.BOUNDS}
    assert found["module"] == ["(output)"]
    assert found["gradient"] == list(named)
    assert set(found["buffer"]) == set(oracle.state_dict()) - set(named)
    report = fb.parity.compare(model, oracle, X, whole=True)
    assert [row.foreign for row in report.rows] == ["(output)"]
    assert report.ok, str(report)


@pytest.mark.parametrize("whole", [False, True])
def test_bfloat16_is_what_users_of_either_run(whole):
    model, oracle = small_pair()
    narrow, _ = small_pair(dtype=jnp.bfloat16)
    narrow.eval()
    report = fb.parity.compare(model, oracle, X, float32=False, bfloat16=True, whole=whole)
    channels_first = torch.from_numpy(X).permute(0, 3, 1, 2)
    with torch.no_grad():
        truth = oracle.double()(channels_first).numpy()
        theirs = oracle.bfloat16()(channels_first.bfloat16()).float().numpy()
    ours = nnx.jit(lambda model, x: model(x))(narrow, jnp.asarray(X, jnp.float32))
    assert ours.dtype == jnp.bfloat16
    # The errors are of the same numbers; the truth itself rounds by how PyTorch's input is laid.
    wanted = fb.parity.relative_error(theirs, truth)
    assert report.output.torch16 == pytest.approx(wanted, rel=1e-9)
    if whole:  # a program that records fuses, and so rounds, in other places
        wanted = fb.parity.relative_error(np.asarray(ours), truth)
        assert report.output.ours16 == pytest.approx(wanted, rel=1e-9)
    assert report.bfloat16_holds, str(report)
    assert all(0 < row.ours16 < 0.1 for row in report.rows if row.ours16 is not None)
    assert (len(report.rows) > 10) == (not whole)
    assert all((row.ours16 is None, row.ours32) == (False, None) for row in report.rows)


@pytest.mark.parametrize("entry", smallest_of_each_family(), ids=lambda entry: entry.name)
def test_the_model_that_runs_in_bfloat16_is_the_one_that_users_build(entry):
    model, wanted = (abstract_model(entry.name, dtype=d) for d in (None, jnp.bfloat16))
    model.set_attributes(dtype=jnp.bfloat16, raise_if_not_found=False)
    assert nnx.graphdef(model) == nnx.graphdef(wanted)
