"""The README: its Python from top to bottom on a checkpoint that PyTorch wrote, and its claims."""

import inspect
import re
import shlex
from pathlib import Path

import pytest
import torch
from flax import nnx

import flaxblocks as fb
from flaxblocks.checkpoints.formats import FORMATS
from flaxblocks.cli.main import commands
from flaxblocks.convert.keymap import NATIVE, layouts_of
from flaxblocks.create.build import abstract_model
from flaxblocks.inspect.summary import count_parameters
from flaxblocks.models import resnet
from flaxblocks.models.registry import find_model, model_entries
from flaxblocks.parity.oracle import import_torchvision
from train.evaluate import FLAGS
from train.settings.config import Config
from train.settings.flags import command_of, recipes, to_toml

LARGEST = 12_000_000  # parameters; of each form of a family there is one below
LIBRARIES = {"torchvision", "timm"}
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


def layouts_of_rows() -> dict[str, str]:
    """Class of a model -> the layouts that some network of it has, as a cell of the table."""
    found: dict[str, dict[str, None]] = {}
    for entry in sorted(model_entries(), key=lambda entry: entry.parameters or 0):
        if (entry.parameters or 0) <= LARGEST or entry.build.__name__ not in found:
            named = found.setdefault(entry.build.__name__, {})
            named.update(dict.fromkeys(layouts_of(abstract_model(entry.name))))
    return {name: ", ".join(n for n in layouts if n != NATIVE) for name, layouts in found.items()}


def test_the_readmes_table_has_every_family_with_its_layouts():
    section = TEXT.partition("## The models\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| [^|]+ \| `(\w+\*?)`[^|]* \| ([^|]+) \|$", section, re.MULTILINE)
    told = {find_model(fb.list_models(name)[0]).build.__name__: cell for name, cell in rows}
    assert told == layouts_of_rows()
    explained = section.partition("A layout is ")[2].partition("Every model takes")[0]
    for name in {name for cell in told.values() for name in cell.split(", ")} - LIBRARIES:
        assert f"`{name}`" in explained


def test_what_the_readme_says_of_choosing_holds(tmp_path):
    """The line that it shows, and that each argument of its table does what it says."""
    network = import_torchvision().models.mobilenet_v2(num_classes=4, width_mult=0.25)
    raw = network.state_dict()
    averaged = {key: value + 1 for key, value in raw.items()}
    path = tmp_path / "run.pth"
    torch.save({"model": raw, "model_ema": averaged, "epoch": 3}, path)
    small: dict = {"weights": path, "width_mult": 0.25}
    with pytest.warns(UserWarning, match="`model_ema` was taken, not `model`"):
        model = fb.create_model("mobilenet_v2", **small)
    assert f"\n{model.origin.report}\n" in TEXT
    section = TEXT.partition("| argument | what is loaded |\n")[2].partition("\n\n")[0]
    listed = re.findall(r"^\| `([\w]+)=", section, re.MULTILINE)
    assert listed == ["ema", "key", "prefix", "drop", "num_classes", "num_classes"]
    choices: list[tuple[dict, dict]] = [
        ({"ema": False}, raw),
        ({"ema": True}, averaged),
        ({"key": "model_ema"}, averaged),
    ]
    for wanted, state in choices:
        model = fb.create_model("mobilenet_v2", **small, **wanted)
        network.load_state_dict(fb.to_torch(model, as_tensors=True))
        assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    state = {f"backbone.{key}": value for key, value in raw.items() if "classifier" not in key}
    torch.save({**state, "backbone.aux.x": torch.zeros(1), "head.0.x": torch.zeros(1)}, path)
    options: dict = {"prefix": "backbone.", "drop": ["backbone.aux"]}
    for count in (7, 0):
        model = fb.create_model("mobilenet_v2", **small, **options, num_classes=count)
        assert model.num_classes == count


def test_the_suffixes_of_the_readme_are_those_of_the_formats():
    rows = TEXT.partition("A checkpoint can be any of these:\n")[2].partition("\n\nThe model")[0]
    known = {suffix for row in FORMATS for suffix in row.suffixes} - {".orbax", ".tar"}
    assert set(re.findall(r"`(\.[\w.]+)`", rows)) | {".pickle", ".pyth"} == known


@pytest.mark.parametrize("path", re.findall(r"`((?:flaxblocks|train)/[\w/.-]+)`", TEXT))
def test_the_files_of_the_readme_are_there(path):
    assert (README.parent / path).exists()


def test_the_names_of_the_readme_are_registered():
    section = TEXT.partition("## The models\n")[2].partition("\n## ")[0]
    names = re.findall(r"`((?:\w*net|regnet_)\w*\*?)`", section)
    assert len(names) > 30
    assert [name for name in names if not fb.list_models(name)] == []
