"""`torch.save(model)`: the state dict lies in the pickle, and no class is needed to find it."""

from pathlib import Path

import pytest
import torch
from torch import nn

from flaxblocks.checkpoints.contents import contents_of
from flaxblocks.checkpoints.read import CheckpointError, read_checkpoint
from tests.checkpoints.checkpoint_samples import FakeTensor, cheap_refusal, pickled, zip_file


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.arange(3.0))
        self.register_buffer("fleeting", torch.zeros(2), persistent=False)
        self.register_buffer("none", None)
        self.register_parameter("absent", None)
        self.scale = nn.Parameter(torch.randn(2))
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4))
        self.tied = self.body[0]
        self.nothing = None


@pytest.mark.filterwarnings("ignore")  # what torch says of the sources of an old stream
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("new", [True, False])
def test_it_is_read_as_its_state_dict(new, protocol, tmp_path):
    model = Model()
    options = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": new}
    for saved in (model, {"epoch": 1, "model": model}, nn.DataParallel(model)):
        torch.save(saved, tmp_path / "f", **options)
        arrays = read_checkpoint(tmp_path / "f")
        expected = model.state_dict()
        assert list(arrays) == list(expected)
        assert contents_of(tmp_path / "f").state_dicts[0].left == ()
        assert all(arrays[name].tolist() == expected[name].tolist() for name in expected)


def test_an_averaged_model(tmp_path):
    averaged = torch.optim.swa_utils.AveragedModel(nn.Linear(2, 1))
    torch.save({"model": nn.Linear(2, 1), "average": averaged}, tmp_path / "f")
    state = contents_of(tmp_path / "f").state_dicts[0]
    assert (state.key, state.averaged, state.left) == ("average", True, ("n_averaged",))
    assert list(state.arrays) == ["weight", "bias"]


MODULE = b"cx\nM\n)\x81}(X\x0b\0\0\0_parameters}X\x08\0\0\0_buffers}X\x08\0\0\0_modules"


SMALLEST = (
    b"cx\nM\n)\x81}(X\x0b\0\0\0_parameters}X\1\0\0\0w"
    + pickled(FakeTensor())[2:-1]
    + b"sX\x08\0\0\0_buffers}X\x08\0\0\0_modules}ub"
)


def found_in(program: bytes, path: Path) -> dict[str, list[str]]:
    (path / "f").write_bytes(zip_file(b"\x80\x02" + program + b"."))
    return {state.key: list(state.arrays) for state in contents_of(path / "f").state_dicts}


def test_attributes_beside_slots(tmp_path):
    assert found_in(SMALLEST, tmp_path) == {"": ["w"]}
    with_slots = SMALLEST.removesuffix(b"b") + b"}X\1\0\0\0sK\1s\x86b"
    assert found_in(with_slots, tmp_path) == {"": ["w"]}


def test_an_object_without_children_is_no_model(tmp_path):
    other = SMALLEST.replace(b"_modules", b"children")
    assert found_in(other, tmp_path) == {"_parameters": ["w"]}


def test_the_deepest_tree(tmp_path):
    program = SMALLEST
    for _ in range(100):
        program = MODULE + b"}X\1\0\0\0a" + program + b"sub"
    assert found_in(program, tmp_path) == {"": ["a." * 100 + "w"]}
    program = MODULE + b"}X\1\0\0\0a" + program + b"sub"
    assert "too deep" in cheap_refusal(zip_file(b"\x80\x02" + program + b"."), tmp_path)


def test_a_tree_without_end(tmp_path):
    program = b"\x80\x02" + MODULE + b"}q\1ub0h\1X\1\0\0\0a" + MODULE + b"h\1ubs0"
    program += MODULE + b"h\1ub."
    assert "too deep or endless" in cheap_refusal(zip_file(program), tmp_path)


def test_a_tree_that_doubles(tmp_path):
    """Forty levels, each with the one below twice: a trillion of modules."""
    level = MODULE + b"}ubq\1"
    for _ in range(40):
        level += MODULE + b"}(X\1\0\0\0ah\1X\1\0\0\0bh\1uubq\1"
    message = cheap_refusal(zip_file(b"\x80\x02" + level + b"."), tmp_path, megabytes=64)
    assert "too deep or endless" in message


@pytest.mark.filterwarnings("ignore")  # torch's own of quantised tensors
def test_a_quantised_model_is_refused_with_the_way_out(tmp_path):
    module = nn.Linear(1, 1)
    module.register_buffer("q", torch.quantize_per_tensor(torch.zeros(2), 1.0, 0, torch.qint8))
    torch.save(module, tmp_path / "f")
    with pytest.raises(CheckpointError, match=r"save the float model's `state_dict\(\)`, before"):
        read_checkpoint(tmp_path / "f")
