"""The self-test holds what users run against PyTorch's answers, and sees what is changed."""

import json
import os
import subprocess
import sys
from importlib.resources import files

import jax
import jaxlib.version
import numpy as np
import pytest
from flax import nnx

import flaxblocks as fb
from flaxblocks import blocks
from flaxblocks.parity import selftest as module
from flaxblocks.parity.answers import FILE, answers, departures, digest
from flaxblocks.parity.cases import CASES, MODELS, Case, cases_of
from flaxblocks.parity.selftest import Program, programs_of, run_program
from tests.support import smallest_of_each_family

BLOCK = next(case for case in CASES if case.name == "Conv3X3BnReLU" and not case.train)


def test_every_case_has_an_answer_of_its_own():
    assert list(answers()) == [case.key for case in CASES]
    assert files("flaxblocks.parity").joinpath(FILE).stat().st_size <= 2e6  # type: ignore


def test_every_family_and_every_block_is_there():
    assert set(MODELS) == {entry.name for entry in smallest_of_each_family()}
    within = {type(m) for case in CASES for _, m in nnx.iter_modules(case.abstract())}
    classes = {getattr(blocks, name) for name in blocks.__all__}
    missing = {
        cls
        for cls in classes
        if isinstance(cls, type)
        and issubclass(cls, nnx.Module)
        and not any(issubclass(used, cls) for used in within)
    }
    # Made of what others give: a sum of any two, and another form of a grouped bottleneck, which
    # is held against that in its own tests.
    assert missing == {blocks.ResidualAdd, blocks.ResNeXtBranches}


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_every_case_runs_in_some_way(platform, everything):
    cases = cases_of(everything=everything)
    programs = [p for c in cases for p in programs_of(c, platform, everything=everything)]
    assert {p.case for p in programs} == set(cases)
    assert len(set(programs)) == len(programs)
    precisions = {p.precision for p in programs}
    assert {"float32", "bfloat16"} <= precisions
    assert ("float64" in precisions) == (platform != "tpu")
    assert ("float32 full" in precisions) == (platform != "cpu")
    assert {p.way for p in programs} == {"jit", "eager", "compiled", "features"}
    assert any(p.case.size == (224, 224) for p in programs)


def test_this_device_keeps_every_bound():
    report = fb.selftest("Conv*")
    assert report.ok, str(report)
    assert f"jaxlib {jaxlib.version.__version__}" in str(report)
    assert {check.what for check in report.checks} == {"output", "buffers", "gradients"}


def test_a_model_keeps_every_bound_in_every_way():
    (case,) = [c for c in cases_of("resnet10t", everything=True) if c.size == (97, 65)]
    for program in programs_of(case, "cpu", everything=True):
        for check in run_program(program):
            assert check.ok, check


def test_an_unknown_pattern_names_the_known_ones():
    with pytest.raises(ValueError, match=r"`pattern` \(='vgg\*'\) matches none of .*resnet10t"):
        fb.selftest("vgg*")


# One line each, run before the command, where PyTorch cannot be imported.
CHANGES = {
    "nothing": ("", "MBConv"),
    "epsilon": ("set_attribute(nn.BatchNorm, 'eps', 1.00001e-5)", "Conv3X3BnReLU"),
    "momentum": ("set_attribute(nn.BatchNorm, 'momentum', 0.1001)", "Conv3X3BnReLU"),
    "unbiased variance": (
        "change(norm.BatchNorm, '_update', lambda old, self, m, v: old(self, m, v * 1.00001))",
        "Conv3X3BnReLU",
    ),
    "padding": (
        "change(conv, '_sides', lambda old, padding, *rest: old('SAME', *rest))",
        "MBConv",
    ),
    "precision": (
        "change(conv, 'conv2d', lambda old, x, k, **more: old(narrow(x), narrow(k), **more))",
        "Conv3X3BnReLU",
    ),
    "bend": ("activation.ACTIVATIONS['relu6'] = lambda x: x.clip(0, 5.9)", "MBConv"),
}
PRELUDE = """
import sys
sys.modules["torch"] = None
import jax.numpy as jnp
from flaxblocks import nn
from flaxblocks.nn import activation, conv, norm
def change(owner, name, new):
    old = getattr(owner, name)
    setattr(owner, name, lambda *args, **kwargs: new(old, *args, **kwargs))
def set_attribute(cls, name, value):
    def init(old, self, *args, **kwargs):
        old(self, *args, **kwargs)
        setattr(self, name, value)
    change(cls, "__init__", init)
def narrow(a):
    return a.astype(jnp.bfloat16).astype(a.dtype) if a.dtype == jnp.float32 else a
"""


@pytest.mark.parametrize("name", CHANGES)
def test_it_sees_what_is_changed_without_pytorch(name):
    change, pattern = CHANGES[name]
    code = f"{PRELUDE}\n{change}\nfrom flaxblocks.cli import main\nmain(['selftest', {pattern!r}])"
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert ran.returncode == (0 if name == "nothing" else 1), ran.stdout + ran.stderr
    assert ("BROKEN" in ran.stdout) == (name != "nothing")


def test_json_is_the_table_as_data():
    report = fb.selftest("SqueezeExcite")
    data = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert data["ok"]
    assert len(data["checks"]) == len(report.checks)
    assert data["checks"][0]["network"] == "SqueezeExcite(32)"


def test_what_jax_raises_is_a_check_that_does_not_hold(monkeypatch):
    def broken(program, answer):
        raise RuntimeError("no kernel\nfor this")

    monkeypatch.setattr(module, "_outcome", broken)
    report = fb.selftest("SqueezeExcite")
    assert not report.ok
    assert report.as_dict()["checks"][0]["error"] is None
    assert "failed" in str(report)
    assert "RuntimeError: no kernel for this" in report.verdict()


@pytest.mark.parametrize(
    ("platform", "part", "seen"),
    [("gpu", 8, "TF32"), ("tpu", 1, "bfloat16 products"), ("cpu", 8, "")],
)
def test_narrow_products_are_named_where_a_device_has_them(monkeypatch, platform, part, seen):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    answer = answers()[BLOCK.key]

    def judged(precision, error):
        ours = answer.truth["output"].copy()
        ours[5] += error * ours[2]
        return module._judged(Program(BLOCK, "jit", precision), answer, "output", ours)

    within = 2 * answer.bfloat16["output"] / part * 0.99
    check = judged("float32", within)
    assert (check.ok, check.seen) == (bool(seen), seen)
    assert not judged("float32", within * 1.1).ok
    assert not judged("float32 full", within).ok
    assert judged("float32 full", 1.9 * answer.float32["output"]).ok
    assert not judged("float32 full", 2.1 * answer.float32["output"]).ok  # on a GPU too
    check = judged("float32", answer.float32["output"])
    assert (check.ok, check.seen) == (True, "")


def test_a_digest_is_held_by_size_and_what_is_no_number_departs():
    tensor = np.random.default_rng(0).standard_normal((30, 40))
    truth = digest("a", tensor)
    assert departures(truth, truth) == 0
    assert departures(digest("a", tensor * (1 + 1e-6)), truth) == pytest.approx(1e-6, rel=0.01)
    assert departures(digest("a", tensor * np.nan), truth) == np.inf
    assert departures(truth[:-1], truth) == np.inf


def test_a_gradient_that_is_zero_is_held_by_the_largest_one():
    truth = np.array([[1.0, 0.5, 1.0, 0.5], [1e-17, 1e-17, 1e-17, 1e-17]])
    ours = truth + np.array([[0, 0, 0, 0], [0, 3e-15, 3e-15, 0]])
    assert departures(ours, truth).max() == pytest.approx(3e-15)


def test_a_models_images_are_rgb_and_a_blocks_are_its_width():
    assert Case("resnet10t", (8, 8), 1).in_channels == 3
    assert BLOCK.in_channels == 24
