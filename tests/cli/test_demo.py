"""`flaxblocks demo`: PyTorch's answers without PyTorch."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flaxblocks.demo import run as demo_module
from flaxblocks.parity import FLOAT32_FACTOR
from tests.cli.conftest import Refuse, Run

BLOCKED = "import sys; sys.modules.update(dict.fromkeys(['torch', 'torchvision', 'timm'])); "


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's own run, done once before: here it is about what comes after it."""
    digits = demo_module.load_digits()
    logits = digits.logits.copy()
    logits[0] = -logits[0]
    result = demo_module.DemoResult(360, 1, 1, 359, 0, 0, 0, 0, 0, 0, 0, digits.torch_version)
    monkeypatch.setattr(demo_module, "run_demo", lambda: (result, digits, logits))


def test_the_demo_works_without_torch(here: Path) -> None:
    script = BLOCKED + "from flaxblocks.cli.main import main; main(['demo', '--json'])"
    command = [sys.executable, "-W", "error", "-c", script]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=here, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    found = json.loads(ran.stdout)
    assert found["same_answers"] == found["digits"] == 360
    assert found["accuracy_jax"] == found["accuracy_torch"] > 0.9
    assert found["error_float64"] < 1e-12  # the bound of float64 inference
    assert found["error_jax"] <= FLOAT32_FACTOR * found["error_torch"]
    assert found["picture"] == "flaxblocks-demo.png"
    assert np.asarray(Image.open(here / "flaxblocks-demo.png")).std() > 0


def test_the_picture_shows_both_answers_and_marks_the_wrong_ones(
    quick: None, run: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.axes import Axes

    titles, shown = [], []
    monkeypatch.setattr(Axes, "set_title", lambda self, text, **how: titles.append((text, how)))
    monkeypatch.setattr(Axes, "imshow", lambda self, image, **_: shown.append(image))
    ran = run("demo", "--picture", "digits.pdf")
    assert ran[::2] == (0, "")
    assert ran.out.splitlines()[-1] == "  some digits with both predictions: digits.pdf"
    assert Path("digits.pdf").read_bytes().startswith(b"%PDF")
    digits = demo_module.load_digits()
    assert len(titles) == len(shown) == 24
    np.testing.assert_array_equal(shown[0], digits.images[0])  # the one that was made wrong
    text, how = titles[0]
    wrong = int((-digits.logits[0]).argmax())
    assert text == f"torch {digits.labels[0]}  jax {wrong}"
    assert how["color"] != titles[-1][1]["color"]


def test_a_picture_that_cannot_be_written_is_named(quick: None, refuse: Refuse, here: Path) -> None:
    (here / "folder.png").mkdir()
    (here / "file").write_text("")
    for picture in ("missing/digits.png", "folder.png", "file/digits.png", "/proc/digits.png"):
        refuse("demo", "--picture", picture, named=picture)
    refuse("demo", "--picture", "digits.xyz", named="'digits.xyz' must end in .avif, ")


@pytest.mark.parametrize("as_json", [True, False])
def test_without_matplotlib_there_is_no_picture(
    as_json: bool, quick: None, run: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    ran = run("demo", *["--json"] * as_json)
    assert ran[::2] == (0, "")
    if as_json:
        assert json.loads(ran.out)["picture"] is None
    else:
        assert "with matplotlib installed" in ran.out
    assert list(here.iterdir()) == []
