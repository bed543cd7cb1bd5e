"""`flaxblocks verify`: exit status 0 where every bound holds, 1 where one is broken, 2 for a
mistake.
"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import flaxblocks as fb
from flaxblocks.cli.main import main
from flaxblocks.models.registry import find_model
from flaxblocks.nn import BatchNorm
from flaxblocks.parity import BOUNDS, ParityReport, Row, relative_error
from flaxblocks.parity import verify as verify_module
from flaxblocks.parity.oracle import OracleError
from flaxblocks.parity.report import Kind
from flaxblocks.parity.verify import verify

ROWS = [[1, 16, 1, 1], [6, 24, 2, 2]]  # three blocks for seventeen
TINY = {"width_mult": 0.25, "inverted_residual_setting": ROWS}
SMALL = ("verify", "mobilenet_v2", "--width-mult", "0.25", "--size", "32", "--num-classes", "10")
SMALL = (*SMALL[:2], "--set", f"inverted_residual_setting={ROWS}", *SMALL[2:])


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run a command in an empty folder: its status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def go(*arguments: object) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as exit:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return exit.value.code, printed.out, printed.err

    return go


def test_an_untouched_model_passes_in_training_mode_with_gradients(run) -> None:
    status, out, err = run(*SMALL, "--train", "--grad", "--batch", "3", "--json")
    assert (status, err) == (0, "")
    report = json.loads(out)
    assert report["ok"]
    assert report["train"]
    assert {row["kind"] for row in report["rows"]} == {"module", "buffer", "gradient"}
    assert len(report["rows"]) > 80  # 10 norms with 3 buffers, 32 gradients, over 20 modules
    gradients = [row for row in report["rows"] if row["kind"] == "gradient"]
    # Three biases whose constant the next batch norm takes away again: their gradient is noise, and
    # has no float32 error.
    zero = [row["foreign"] for row in gradients if row["relative"] == 0 and row["max_abs"] > 0]
    assert zero
    assert all((row["ours32"] is None) == (row["foreign"] in zero) for row in gradients)


def test_the_whole_program_is_held_against_the_bounds(run) -> None:
    command = (*SMALL, "--whole", "--bfloat16", "--batch", "3")
    status, out, err = run(*command)
    assert (status, err) == (0, "")
    assert out.splitlines()[1].startswith("(output)")  # under the heading, and alone
    assert "1 output of the whole program agrees to" in out.splitlines()[2]
    assert "bfloat16 output, error against the float64 truth: JAX" in out
    status, out, err = run(*command, "--train", "--grad", "--json")
    assert (status, err) == (0, "")
    report = json.loads(out)
    assert report["whole"]
    assert [row["foreign"] for row in report["rows"] if row["kind"] == "module"] == ["(output)"]
    assert {row["kind"] for row in report["rows"]} == {"module", "buffer", "gradient"}
    assert all(row["ours16"] is not None for row in report["rows"] if row["kind"] == "buffer")


@pytest.mark.parametrize("layout", ["torchvision", "timm"])
def test_weights_from_a_file_are_what_is_compared(
    layout: str, run, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fb.create_model("mobilenet_v2", **TINY, num_classes=7, rngs=5)
    state = fb.to_torch(model)
    fb.write_checkpoint(fb.to_torch(model, layout), "in.pth")
    seen = {}
    compare = verify_module.compare

    def spy(model, oracle, *args, **kwargs):
        seen.update({key: value.numpy() for key, value in oracle.state_dict().items()})
        return compare(model, oracle, *args, **kwargs)

    monkeypatch.setattr(verify_module, "compare", spy)
    status, out, err = run(*SMALL[:-2], "--weights", "in.pth", "--quiet")
    assert (status, err) == (0, ""), out
    assert out.splitlines()[-1] == "mobilenet_v2: every bound holds"
    assert len(out.splitlines()) == 3
    assert all(np.array_equal(seen[key], value) for key, value in state.items())


@pytest.mark.parametrize(
    ("options", "departs"), [((), "features.0"), (("--whole",), "(output)")], ids=["", "whole"]
)
def test_a_wrong_epsilon_breaks_a_bound(
    options: tuple[str, ...], departs: str, run, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = verify_module.create_model

    def broken(*args, **kwargs):
        model = create(*args, **kwargs)
        model.set_attributes(BatchNorm, eps=1e-3)
        return model

    monkeypatch.setattr(verify_module, "create_model", broken)
    status, out, err = run(*SMALL, *options)
    assert (status, err) == (1, "")
    assert f"the first module to depart is {departs}" in out
    assert "amplifies" not in out
    assert out.splitlines()[-1] == "mobilenet_v2: a bound is exceeded"


def test_rounding_that_the_input_amplifies_is_told_from_a_mistake(
    run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What rounding alone makes of a bound that no float64 keeps is of the size of PyTorch's own.
    monkeypatch.setitem(BOUNDS, "module", 1e-17)
    status, out, err = run(*SMALL, "--train", "--batch", "3", "--quiet")
    assert (status, err) == (1, "")
    assert "this input amplifies rounding" in out


def test_a_broken_model_gives_valid_json(run, monkeypatch: pytest.MonkeyPatch) -> None:
    create = verify_module.create_model

    def broken(*args, **kwargs):
        model = create(*args, **kwargs)
        model.head.bias[...] = model.head.bias[...].at[0].set(np.nan)
        return model

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    monkeypatch.setattr(verify_module, "create_model", broken)
    status, out, err = run(*SMALL, "--json")
    assert (status, err) == (1, "")
    report = json.loads(out, parse_constant=refuse)
    assert not report["ok"]
    assert report["first_departure"] == "classifier.1"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("verify", "mobilenet_v9"), "mobilenet_v9"),
        ((*SMALL, "--size", "0"), "'0'"),
        ((*SMALL, "--batch", "0"), "--batch"),
        ((*SMALL, "--seed", "-1"), "--seed"),
        ((*SMALL, "--in-channels", "4"), "4"),
        ((*SMALL, "--set", "dropout=2"), "2"),
        ((*SMALL, "--set", "depth_mult=1.5"), "depth_mult"),
        ((*SMALL, "--set", "norm_layer=batch_norm"), "norm_layer"),
        ((*SMALL, "--weights", "missing.pth"), "missing.pth"),
        ((*SMALL, "--weights", "NO_SUCH_TAG"), "NO_SUCH_TAG"),
        ((*SMALL, "--size", "1", "--batch", "1", "--train"), "per channel"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_one_sentence(arguments: tuple[str, ...], named: str, run) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert named in err
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("missing", ["torch", "torchvision", "timm"])
def test_without_pytorch_the_sentence_says_what_to_install(
    missing: str, run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    status, out, err = run("verify", "mobilenetv2_035" if missing == "timm" else "mobilenet_v2")
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert missing in err
    assert "pip install 'flaxblocks[torch]'" in err


def report_of(*rows: tuple[Any, ...]) -> ParityReport:
    """Rows of (name, float64 error, our float32 error, PyTorch's, and both in bfloat16);
    "(output)" is a module too.
    """
    kinds: dict[str, Any] = {"(output)": "module", "(output)[1]": "module"}
    return ParityReport(
        tuple(Row(kinds.get(name, name), "", name, (1,), 0.0, *errors) for name, *errors in rows),
        "torchvision",
    )


@pytest.mark.parametrize(
    ("kind", "bound"), [("module", 1e-12), ("buffer", 1e-12), ("gradient", 1e-10)]
)
def test_the_float64_bounds_are_the_documented_ones(kind: Kind, bound: float) -> None:
    assert BOUNDS[kind] == bound
    output = ("(output)", 0.0)
    assert report_of((kind, bound), output).ok
    report = report_of((kind, 1e-16), (kind, 1.01 * bound), (kind, 1.0), output)
    assert not report.ok
    assert report.first_departure == report.rows[1]
    assert report.worst(kind) == 1.0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("ours", "theirs", "holds"),
    [
        (2e-7, 1e-7, True),
        (2.01e-7, 1e-7, False),
        (1e-9, 0.0, False),
        (np.inf, 1e-7, False),
        (None, None, True),
    ],
)
def test_the_outputs_error_in_a_narrow_type_may_be_twice_pytorchs(
    ours: float | None, theirs: float | None, holds: bool, dtype: str
) -> None:
    fine = () if dtype == "float32" else (1e-7, 1e-7)
    inner = ("module", 0.0, *fine, 1.0, 1e-9)  # of the output alone
    good, gradient = ("(output)", 0.0, *fine, 3e-7, 3e-7), ("gradient", 0.0, *fine, 1.0, 1e-9)
    report = report_of(inner, good, ("(output)[1]", 0.0, *fine, ours, theirs), gradient)
    assert getattr(report, f"{dtype}_holds") == report.ok == holds
    assert report.as_dict()[f"{dtype}_holds"] == holds
    verdict = f"{dtype} output, error against the float64 truth: JAX "
    assert verdict in report.summary()
    assert ("more than 2 times as much" in report.summary()) == (not holds)
    if not holds:  # of two outputs the one that misses is named
        assert f"{verdict}{ours:.1e}, PyTorch {theirs:.1e}, more than" in report.summary()
    trained = replace(report, train=True)  # in training mode it is not asked for
    assert trained.ok
    assert "more than" not in trained.summary()


def test_the_table_has_bfloat16_where_it_was_run() -> None:
    table = str(report_of(("(output)", 0.0, 1e-7, 2e-7, 3e-3, 4e-3)))
    assert table.splitlines()[0].split()[-4:] == ["JAX", "bf16", "torch", "bf16"]
    assert table.splitlines()[1].split()[-4:] == ["1.0e-07", "2.0e-07", "3.0e-03", "4.0e-03"]
    assert "bf16" not in str(report_of(("(output)", 0.0, 1e-7, 2e-7)))


@pytest.mark.parametrize("errors", [(3e-7, 1e-7), (None, None, 3e-7, 1e-7)])
@pytest.mark.parametrize(("classes", "hint"), [(5, True), (1000, False)])
def test_an_error_of_few_numbers_is_called_luck(classes: int, hint: bool, errors: Any) -> None:
    report = report_of(("(output)", 0.0, *errors))
    report = replace(report, rows=(replace(report.rows[0], shape=(2, classes)),))
    assert not report.ok
    assert ("of 10 numbers is a matter of luck: try a larger batch" in report.summary()) == hint


@pytest.mark.parametrize(
    ("ours", "reference", "negligible", "error"),
    [
        ([3.0, 5.0], [4.0, 4.0], 0.0, 0.25),
        ([-2.0, 0.0], [0.0, -4.0], 0.0, 1.0),
        ([0.0, 0.0], [0.0, 0.0], 0.0, 0.0),
        ([0.0, 1e-30], [0.0, 0.0], 0.0, np.inf),
        ([1e-9, 0.0], [0.0, 1e-9], 1e-8, 0.0),
        ([1.0, 0.0], [0.0, 1e-9], 1e-8, 1e9),
        ([1.0, np.nan], [1.0, 1.0], 0.0, np.inf),
        ([1.0, 1.0], [1.0, np.inf], 0.0, np.inf),
        ([[1.0, 1.0]], [1.0, 1.0], 0.0, np.inf),
        ([], [], 0.0, 0.0),
    ],
)
def test_relative_error(ours, reference, negligible: float, error: float) -> None:
    found = relative_error(np.array(ours), np.array(reference), negligible)
    assert found == pytest.approx(error, rel=1e-6)


def test_relative_error_of_bfloat16_is_not_rounded_to_it() -> None:
    ours = np.array([1.0, 256.0], ml_dtypes.bfloat16)  # next to 256 it has 258
    reference = np.array([1.0, 255.9])
    assert relative_error(ours, reference) == pytest.approx(0.1 / 255.9, rel=1e-12)
    assert relative_error(reference, ours) == pytest.approx(0.1 / 256, rel=1e-12)
    assert relative_error(np.array([np.nan, 0], ml_dtypes.bfloat16), reference) == np.inf


def test_the_seed_draws_weights_and_images(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(model, oracle, images, *_: object, **__: object) -> None:
        seen.append((images, fb.to_torch(model)["classifier.1.weight"]))

    monkeypatch.setattr(verify_module, "compare", spy)
    for seed in (0, 1, 1):
        verify(find_model("mobilenet_v2"), size=(32, 32), num_classes=3, seed=seed, config=TINY)
    for first, second, again in zip(*seen, strict=True):
        assert not np.array_equal(first, second)
        np.testing.assert_array_equal(second, again)


def test_a_fresh_process_without_torch_says_the_same() -> None:
    script = (
        "import sys; sys.modules['torch'] = None; from flaxblocks.cli.main import main; "
        "main(['verify', 'mobilenet_v2'])"
    )
    command = [sys.executable, "-W", "error", "-c", script]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.count("\n") == 1
    assert "pip install 'flaxblocks[torch]'" in ran.stderr


def test_no_head_is_refused_where_torchvision_must_have_one():
    with pytest.raises(OracleError, match="torchvision's resnet18 cannot be without a head"):
        verify(find_model("resnet18"), num_classes=0)
    assert verify(find_model("resnet10t"), num_classes=0, size=(32, 32), float32=False).ok


def test_a_setting_that_torchvision_would_swallow_is_refused():
    with pytest.raises(OracleError, match="torchvision's mobilenet_v3_small has no norm_eps"):
        verify(find_model("mobilenet_v3_small"), num_classes=2, config={"norm_eps": 0.05})
