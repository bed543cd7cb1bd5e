"""The README's Python, from top to bottom, on a checkpoint that PyTorch wrote."""

import re
from pathlib import Path

import torch

from flaxblocks.oracle import import_torchvision

README = Path(__file__).parents[2] / "README.md"


def test_the_python_of_the_readme_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = import_torchvision().models.mobilenet_v2(num_classes=4, width_mult=1.0)
    torch.save(model.state_dict(), "mine.pth")
    text = README.read_text(encoding="utf-8")
    namespace: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 4
    for block in blocks:
        exec(compile(block, str(README), "exec"), namespace)
    printed = capsys.readouterr().out.strip()
    assert printed
    assert printed in text  # the error that the README shows
    assert torch.isfinite(torch.tensor(float(namespace["loss"])))
    for name in ("back.pth", "trained.pth"):
        state = torch.load(name, weights_only=True)
        model.load_state_dict(state, strict=True)
    kept = torch.load("back.pth", weights_only=True)
    original = torch.load("mine.pth", weights_only=True)
    assert list(kept) == list(original)
    assert all(torch.equal(kept[key], original[key]) for key in original)
    assert not torch.equal(state["features.0.0.weight"], original["features.0.0.weight"])
    assert state["features.0.1.num_batches_tracked"] == 1
