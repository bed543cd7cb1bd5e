"""The state dict is found in what training programs save, and its names lose their wrappers."""

import argparse
import pathlib
from collections import Counter, OrderedDict, defaultdict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from flaxblocks.checkpoints.contents import contents_of
from flaxblocks.checkpoints.read import CheckpointError, read_checkpoint
from tests.checkpoints.checkpoint_samples import Call, FakeTensor, pickled, zip_file

WEIGHTS = OrderedDict(z=torch.tensor([1.0]), a=torch.tensor([2.0]))
AVERAGED = OrderedDict(z=torch.tensor([3.0]), a=torch.tensor([4.0]))


def prefixed(prefix: str, state: dict = WEIGHTS) -> dict:
    return {prefix + name: value for name, value in state.items()}


def read(saved: object, path: pathlib.Path, **options) -> dict[str, list]:
    torch.save(saved, path / "f.pth")
    arrays = read_checkpoint(path / "f.pth", **options)
    return {name: array.tolist() for name, array in arrays.items()}


RAW = {"z": [1.0], "a": [2.0]}
EMA = {"z": [3.0], "a": [4.0]}


@pytest.mark.parametrize(
    "key", ["state_dict", "model", "model_state_dict", "net", "module", "params"]
)
def test_raw_weights_under_each_key(key, tmp_path):
    found = read({"epoch": 3, "acc": torch.tensor(0.7), key: WEIGHTS}, tmp_path)
    assert list(found.items()) == list(RAW.items())


@pytest.mark.parametrize("ema", ["state_dict_ema", "model_ema", "params_ema"])
@pytest.mark.parametrize("raw", ["state_dict", "model"])
def test_averaged_weights_come_first_unless_raw_ones_are_asked_for(raw, ema, tmp_path):
    for saved in ({ema: AVERAGED, raw: WEIGHTS}, {raw: WEIGHTS, ema: AVERAGED}):
        assert read(saved, tmp_path) == EMA
        assert read(saved, tmp_path, ema=True) == EMA
        assert read(saved, tmp_path, ema=False) == RAW


def test_the_only_kind_is_taken(tmp_path):
    assert read({"model_ema": AVERAGED}, tmp_path) == EMA
    assert read({"model": WEIGHTS}, tmp_path) == RAW
    with pytest.raises(CheckpointError, match=r"holds no raw weights: it holds 'model_ema' \(ave"):
        read({"model_ema": AVERAGED}, tmp_path, ema=False)
    with pytest.raises(CheckpointError, match=r"no averaged weights: it holds '' \(2 arrays\)"):
        read(WEIGHTS, tmp_path, ema=True)


def test_wrapped_twice_and_empty_wrappers(tmp_path):
    assert read({"model": {"state_dict": WEIGHTS}}, tmp_path) == RAW
    assert read({"state_dict": {}, "model": WEIGHTS}, tmp_path) == RAW


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module."]
)
def test_a_prefix_of_every_name_goes(prefix, tmp_path):
    assert list(read(prefixed(prefix), tmp_path).items()) == list(RAW.items())
    assert read({"model": prefixed(prefix)}, tmp_path) == RAW
    save_file(prefixed(prefix), tmp_path / "f.safetensors")
    assert set(read_checkpoint(tmp_path / "f.safetensors")) == {"a", "z"}


def test_a_prefix_of_some_names_stays(tmp_path):
    names = ["module.a", "b", "inner.module.c"]
    assert list(read({name: torch.zeros(1) for name in names}, tmp_path)) == names
    assert list(read({"module.": torch.zeros(1)}, tmp_path)) == ["module."]


def test_averaged_model_loses_its_count(tmp_path):
    averaged = torch.optim.swa_utils.AveragedModel(torch.nn.Linear(2, 1))
    assert list(averaged.state_dict()) == ["n_averaged", "module.weight", "module.bias"]
    assert list(read(averaged.state_dict(), tmp_path)) == ["weight", "bias"]
    own = {"n_averaged": torch.tensor(1), "weight": torch.zeros(1)}
    assert list(read(own, tmp_path)) == ["n_averaged", "weight"]
    assert list(read({"n_averaged": torch.tensor(1)}, tmp_path)) == ["n_averaged"]


def test_a_whole_training_checkpoint(tmp_path):
    """Everything that torchvision, timm and Lightning put beside the weights is passed over."""
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
    counts = defaultdict(list)
    counts["a"].append(1.5)
    saved = {
        "epoch": 300,
        "arch": "mobilenet",
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": scheduler.state_dict(),
        "args": argparse.Namespace(lr=0.1, output=pathlib.Path("out"), opt_betas=None),
        "best": np.float64(77.5),
        "best32": np.float32(7.5),
        "history": np.arange(3),
        "rng": torch.get_rng_state(),
        "numpy_rng": np.random.default_rng(0).integers(0, 9, 5).astype(">i4"),
        "milestones": Counter({3: 1}),
        "counts": counts,
        "sizes": torch.Size([1, 2]),
        "device": torch.device("cpu"),
        "dtype": torch.float16,
        "set": {1, 2},
        "frozen": frozenset([1]),
        "nested": [((1, 2, 3, 4), b"raw", 2**70, -1, 1e300, True, None)],
        (1, "tuple"): "a key that cannot be kept",
        "state_dict": model.state_dict(),
    }
    expected = {name: value.tolist() for name, value in model.state_dict().items()}
    assert read(saved, tmp_path) == expected
    for protocol in (2, 4, 5):
        torch.save(saved, tmp_path / "f", pickle_protocol=protocol)
        assert list(read_checkpoint(tmp_path / "f")) == ["weight", "bias"]
        assert {"milestones (dict)", "counts (dict)", "sizes (tuple of 2)"} <= {
            *contents_of(tmp_path / "f").others
        }


def test_an_optimiser_is_known_by_its_groups(tmp_path):
    steps = {"state": {"m": torch.ones(2)}, "param_groups": []}
    assert read({"any": steps, "model": WEIGHTS}, tmp_path) == RAW
    assert [state.key for state in contents_of(tmp_path / "f.pth").state_dicts] == ["model"]


@pytest.mark.parametrize("module", ["pathlib", "pathlib._local"])  # the latter is Python 3.13's
@pytest.mark.parametrize(
    "name", ["Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"]
)
def test_a_path_is_passed_over_whichever_python_wrote_it(name, module, tmp_path):
    program = pickled({"output": Call(pathlib.PurePath, ("a", "b")), "w": FakeTensor()})
    own = f"c{pathlib.PurePath.__module__}\nPurePath\n".encode()
    assert own in program
    program = program.replace(own, f"c{module}\n{name}\n".encode())
    (tmp_path / "f").write_bytes(zip_file(program))
    assert list(read_checkpoint(tmp_path / "f")) == ["w"]


def test_values_beside_tensors_are_left_out(tmp_path):
    assert read({"z": WEIGHTS["z"], "epoch": 3, "note": "x"}, tmp_path) == {"z": [1.0]}


def test_an_optimiser_of_no_use_is_not_checked(tmp_path):
    """Only what is returned has to fit; a broken optimiser state harms no one."""
    broken = FakeTensor(offset=99)
    for key in ("optimizer", "other"):
        program = pickled({key: {"m": broken}, "state_dict": {"w": FakeTensor()}})
        (tmp_path / "f").write_bytes(zip_file(program))
        assert list(read_checkpoint(tmp_path / "f")) == ["w"]


@pytest.mark.parametrize(
    ("saved", "said"),
    [
        (torch.zeros(2), "it is a tensor"),
        ([torch.zeros(2)], "it is a list of 1"),
        ((torch.zeros(2), 3), "it is a tuple of 2"),
        ({}, "it is an empty dict"),
        (3.5, "it is a float"),
        (None, "it is a nonetype"),
        ({"epoch": 3, "model": {"lr": 1}}, "a dict of 'epoch' (int), 'model' (dict)"),
        ({"best": torch.zeros(()), "optimizer": {"w": torch.zeros(1)}}, "'optimizer' (dict with 1"),
        ({"scores": {"acc": torch.zeros(())}}, "a dict of 'scores' (dict with 1 tensors)"),
        ({"w": np.array([None])}, "'w' (NumPy array)"),
        ({"w": np.array(["text"])}, "'w' (NumPy array)"),
        ({f"k{i}": i for i in range(20)}, "'k7' (int) and 12 more"),
        ({"k" * 500: 1}, "'..."),
        ({"model": argparse.Namespace(w=1)}, "'model' (argparse.Namespace)"),
        ({1: torch.zeros(2)}, "a key of type int, not str"),
    ],
)
def test_no_state_dict_says_what_was_found(saved, said, tmp_path):
    with pytest.raises(CheckpointError) as raised:
        read(saved, tmp_path)
    message = str(raised.value)
    assert said in message
    assert message.startswith(str(tmp_path / "f.pth") + " holds ")
    assert len(message) < 400 + len(str(tmp_path))
