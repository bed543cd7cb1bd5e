"""The README: its Python from top to bottom on a checkpoint that PyTorch wrote, and its claims."""

import inspect
import re
import shlex
from pathlib import Path

import pytest
import torch
from flax import nnx

import flaxblocks as fb
from flaxblocks.cli.main import commands
from flaxblocks.inspect.summary import count_parameters
from flaxblocks.models import resnet
from flaxblocks.parity.oracle import import_torchvision
from train.evaluate import FLAGS
from train.settings.config import Config
from train.settings.flags import command_of, recipes, to_toml

README = Path(__file__).parents[2] / "README.md"
TEXT = README.read_text(encoding="utf-8")


def test_the_python_of_the_readme_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = import_torchvision().models.mobilenet_v2(num_classes=4, width_mult=1.0)
    torch.save(model.state_dict(), "mine.pth")
    namespace: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) >= 4
    for block in blocks:
        exec(compile(block, str(README), "exec"), namespace)
    printed = capsys.readouterr().out.strip()
    assert printed
    assert printed in TEXT  # the error that the README shows
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


@pytest.mark.parametrize("line", re.findall(r"(?:^\$ |`)flaxblocks ([^`\n]+)", TEXT, re.MULTILINE))
def test_the_commands_of_the_readme_are_understood(line):
    name, *arguments = shlex.split(line)
    commands.commands[name].make_context(name, arguments)  # parses, and runs nothing


@pytest.mark.parametrize(
    "line", re.findall(r"^\$ (?:\w+=\S+ )?python -m train ([^\n&]+)", TEXT, re.MULTILINE)
)
def test_the_training_commands_of_the_readme_are_understood(line):
    seen = []
    command_of(seen.append, help="").main(shlex.split(line), standalone_mode=False)
    (config,) = seen
    assert fb.list_models(config.model) == [config.model]


@pytest.mark.parametrize(
    "line", re.findall(r"^\$ python -m train\.evaluate ([^\n]+)", TEXT, re.MULTILINE)
)
def test_the_evaluations_of_the_readme_are_understood(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "train"
    run.mkdir(parents=True)
    (run / "config.toml").write_text(to_toml(Config()))
    seen = []
    command_of(seen.append, only=FLAGS, help="").main(shlex.split(line), standalone_mode=False)
    assert seen[0].weights


def test_the_recipes_of_the_readme_are_all_there_are():
    section = TEXT.partition("## Training\n")[2].partition("\n## ")[0]
    listed = section.partition("`--recipe ")[2].partition(". A flag")[0]
    assert sorted(re.findall(r"([\w-]+)`", listed)) == recipes()


def test_the_bounds_of_the_readme_are_the_ones_held():
    bounds = dict(re.findall(r"^\| (float64, [^|]+) \| ([\de-]+) \|", TEXT, re.MULTILINE))
    module, training, buffers, gradient, trained = map(float, bounds.values())
    assert module == training == fb.parity.BOUNDS["module"]
    assert buffers == fb.parity.BOUNDS["buffer"]
    assert gradient == fb.parity.BOUNDS["gradient"]
    assert trained == 1e-8  # of the training runs in test_blocks.py and test_models.py
    assert "| twice PyTorch's own error |" in TEXT
    assert fb.parity.FLOAT32_FACTOR == 2


def test_the_readme_names_the_blocks_and_their_arguments():
    section = TEXT.partition("## The blocks\n")[2].partition("\n## ")[0]
    listed = section.partition("collected them:\n")[2].partition(" A state dict")[0]
    assert set(re.findall(r"`(\w+)`", listed)) == set(fb.blocks.__all__) - {"make_divisible"}
    known = set(inspect.signature(fb.blocks.MBConv.__init__).parameters)
    given = set(re.findall(r"`(?:MBConv\()?(\w+)=", section))
    assert {"depthwise", "bias", "always_expand", "expansion"} <= given <= known


@pytest.mark.parametrize(("count", "depthwise"), [("160,704", False), ("14,400", True)])
def test_the_readmes_parameter_counts_of_mbconv_hold(count, depthwise):
    assert count in TEXT
    block = fb.blocks.MBConv(32, 64, depthwise=depthwise, rngs=nnx.Rngs(0))
    assert f"{count_parameters(block):,}" == count


def test_the_readmes_registry_row_is_one_that_stands_in_the_code():
    (row,) = re.findall(r"^_timm\(.+$", TEXT, re.MULTILINE)
    assert f"\n{row}\n" in inspect.getsource(resnet)


def test_the_names_of_the_readme_are_registered():
    section = TEXT.partition("## The models\n")[2].partition("\n## ")[0]
    names = re.findall(r"`((?:\w*net|regnet_)\w*\*?)`", section)
    assert len(names) > 30
    assert [name for name in names if not fb.list_models(name)] == []
