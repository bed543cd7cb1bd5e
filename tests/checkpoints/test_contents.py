"""Several state dicts in one source: which come first, and how one is chosen."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from flaxblocks.checkpoints.choose import chosen, under
from flaxblocks.checkpoints.contents import contents_of
from flaxblocks.checkpoints.read import CheckpointError, read_checkpoint

ONE = {"w": torch.ones(2), "b": torch.ones(1)}
OTHER = {"w": torch.zeros(2), "b": torch.zeros(1)}


def keys(source: Mapping, path: Path) -> list[str]:
    """Of the state dicts, best first, in memory and in a file alike."""
    found = [state.key for state in contents_of(source).state_dicts]
    torch.save(source, path)
    assert [state.key for state in contents_of(path).state_dicts] == found
    return found


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"student": ONE, "teacher": OTHER, "dino_loss": {"center": torch.ones(1, 2)}},
         ["teacher", "student", "dino_loss"]),
        ({"state_dict": ONE, "state_dict_ema": OTHER}, ["state_dict_ema", "state_dict"]),
        ({"model": ONE, "ema_state_dict": OTHER}, ["ema_state_dict", "model"]),
        ({"params": ONE, "params_ema": OTHER}, ["params_ema", "params"]),
        ({"model": ONE, "EMA": OTHER}, ["EMA", "model"]),
        ({"model": ONE, "averaged_model": OTHER}, ["averaged_model", "model"]),
        ({"model": ONE, "callbacks": {"EMACallback": {"state": OTHER}}},
         ["callbacks.EMACallback.state", "model"]),
        ({"momentum_encoder": ONE, "encoder": OTHER}, ["encoder", "momentum_encoder"]),
        ({"encoder_k": ONE, "encoder_q": OTHER}, ["encoder_q", "encoder_k"]),
        ({"net": ONE, "model": {"state_dict": OTHER}}, ["model.state_dict", "net"]),
        ({"little": {"x": torch.ones(1)}, "network_of_mine": ONE}, ["network_of_mine", "little"]),
        ({"queue": torch.ones(3), "state_dict": ONE}, ["state_dict", ""]),
        ({"w": torch.ones(3), "extra": {"mean": torch.ones(3)}}, ["", "extra"]),
        ({"best": torch.tensor(0.5), "network": ONE, "epoch": 3}, ["network"]),
        ({"model": ONE, "optimizer": OTHER, "lr_scheduler": OTHER, "scaler": OTHER, "optim": OTHER},
         ["model"]),
        ({"model": ONE, "mine": {"state": OTHER, "param_groups": []}}, ["model"]),
        ({"a": {"b": {"c": {"d": ONE}}}}, ["a.b.c.d"]),
    ],
)  # fmt: skip
def test_the_best_comes_first(source, expected, tmp_path):
    assert keys(source, tmp_path / "f") == expected
    backwards = dict(reversed(source.items()))
    assert keys(backwards, tmp_path / "f") == expected


def test_openmmlabs_averaging_saves_the_average_under_the_usual_name(tmp_path):
    """Its hook swaps the two before it saves."""
    raw = {"steps": torch.tensor(9), **{f"module.{key}": value for key, value in OTHER.items()}}
    source = {"state_dict": ONE, "ema_state_dict": raw}
    assert keys(source, tmp_path / "f") == ["state_dict", "ema_state_dict"]
    assert [state.averaged for state in contents_of(source).state_dicts] == [True, False]
    assert read_checkpoint(source, ema=True)["w"].tolist() == [1, 1]
    assert read_checkpoint(source, ema=False)["module.w"].tolist() == [0, 0]
    del raw["steps"]  # as other programs write theirs
    assert keys(source, tmp_path / "f") == ["ema_state_dict", "state_dict"]


def test_what_lies_in_a_list_has_its_index_for_a_key(tmp_path):
    """Some programs save a network's and an optimiser's state as a tuple, or folds as a list."""
    path = tmp_path / "f"
    state = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}
    for saved, expected in (
        ((ONE, state), ["0"]),
        ([3, ONE], ["1"]),
        ({"folds": [ONE, OTHER]}, ["folds.0", "folds.1"]),
        ({"model": ONE, "scores": [torch.ones(2)]}, ["model"]),
    ):
        torch.save(saved, path)
        assert [found.key for found in contents_of(path).state_dicts] == expected
    torch.save([torch.ones(2)], path)
    with pytest.raises(CheckpointError, match="no state dict: it is a list of 1"):
        contents_of(path)


def test_one_dict_under_two_keys(tmp_path):
    assert keys({"model": ONE, "ema": ONE}, tmp_path / "f") == ["ema", "model"]


def test_too_deep_is_not_looked_for():
    with pytest.raises(
        CheckpointError, match=r"the mapping holds no state dict: it is a dict of 'a'"
    ):
        contents_of({"a": {"b": {"c": {"d": {"e": ONE}}}}})


def test_many_names_of_one_large_mapping_cost_little():
    large = {f"w{i}": np.ones(1) for i in range(10_000)}
    source = {f"k{i}": large for i in range(10_000)}
    assert len(contents_of(source).state_dicts) < 200


def test_what_else_there_is(tmp_path):
    source = {"epoch": 3, "model": {**ONE, "note": "x"}, "optimizer": {"state": {}}, "log": [1, 2]}
    torch.save(source, tmp_path / "f")
    contents = contents_of(tmp_path / "f")
    assert contents.name == str(tmp_path / "f")
    assert contents.others == ("epoch (int)", "optimizer (dict)", "log (list of 2)")
    assert contents.state_dicts[0].left == ("note (str)",)
    assert contents.settings is None


def test_a_mapping_in_memory_may_hold_anything_that_is_an_array():
    source = {"t": torch.ones(2).bfloat16(), "n": np.ones(2), "l": [1.0, 2.0], "f": np.float32(1)}
    arrays = read_checkpoint(source)
    assert list(arrays) == ["t", "n", "f", "l"]
    assert all(isinstance(array, np.ndarray) for array in arrays.values())
    assert read_checkpoint({"a": [1, 2], "b": 3})["a"].tolist() == [1, 2]
    with pytest.raises(CheckpointError, match=r"^x of the source is a object, not an array"):
        read_checkpoint({"w": np.ones(1), "x": object()})
    with pytest.raises(CheckpointError, match=r"^key 3 of the source must be a string"):
        read_checkpoint({3: np.ones(1)})  # type: ignore[arg-type]
    with pytest.raises(
        CheckpointError, match="the mapping holds no state dict: it is an empty dict"
    ):
        read_checkpoint({})
    with pytest.raises(CheckpointError, match=r"a list.* must be a path or a mapping"):
        read_checkpoint([1])  # type: ignore[arg-type]


SOURCE = {"model": ONE, "ema": {"model": OTHER}, "a": {"net": ONE}, "b": {"net": OTHER}}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["ema.model", "model", "a.net", "b.net"]),
        ({"ema": False}, ["model", "a.net", "b.net"]),
        ({"ema": True}, ["ema.model"]),
        ({"key": "model"}, ["model"]),
        ({"key": "ema.model"}, ["ema.model"]),
        ({"key": "ema"}, ["ema.model"]),
        ({"key": "a"}, ["a.net"]),
    ],
)
def test_chosen(options, expected):
    assert [state.key for state in chosen(contents_of(SOURCE), **options)] == expected


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"key": "net"}, r"holds several state dicts under 'net': it holds 'ema.model' \(averaged"),
        ({"key": "head"}, r"the mapping holds no state dict under 'head': it holds"),
        (
            {"key": "model", "ema": True},
            r"holds no averaged weights: it holds 'model' \(2 arrays\)",
        ),
    ],
)
def test_none_or_several_to_choose(options, said):
    with pytest.raises(CheckpointError, match=said):
        chosen(contents_of(SOURCE), **options)


def test_read_checkpoint_takes_what_is_asked_for(tmp_path):
    torch.save(
        {"model": {"backbone.w": ONE["w"], "head.w": ONE["b"]}, "net": OTHER}, tmp_path / "f"
    )
    assert list(read_checkpoint(tmp_path / "f", key="net")) == ["w", "b"]
    for prefix in ("backbone", "backbone."):
        assert list(read_checkpoint(tmp_path / "f", prefix=prefix)) == ["w"]
    with pytest.raises(
        CheckpointError, match=r"f: no name begins with 'bakbone\.'; similar.*'backbone\.'"
    ):
        read_checkpoint(tmp_path / "f", prefix="bakbone")


DROPPABLE = {"net.conv.w": 1, "net.conv.count": 2, "net.convoluted.w": 3, "aux.w": 4}


@pytest.mark.parametrize(
    ("drop", "expected"),
    [
        ("aux", [1, 2, 3]),
        ("net.conv.", [3, 4]),
        (["aux", "*.count"], [1, 3]),
        (iter(["net.convoluted.w"]), [1, 2, 4]),
        ((), [1, 2, 3, 4]),
    ],
)
def test_names_are_left_out(drop, expected):
    arrays = {name: np.full(1, value) for name, value in DROPPABLE.items()}
    read = read_checkpoint(arrays, drop=drop)
    assert [int(array[0]) for array in read.values()] == expected
    assert list(read_checkpoint(arrays, drop="aux", prefix="net")) == [
        "conv.w", "conv.count", "convoluted.w",
    ]  # fmt: skip


@pytest.mark.parametrize(("drop", "said"), [("ne", "matches none of"), ("*", "matches all of")])
def test_what_to_leave_out_is_there_and_not_all(drop, said):
    with pytest.raises(CheckpointError, match=rf"`drop` \(=\['.*'\]\) {said}"):
        read_checkpoint({name: np.zeros(1) for name in DROPPABLE}, drop=drop)


def test_under():
    assert under({"a.b": 1, "ab": 2, "a.c.d": 3}, "a") == {"b": 1, "c.d": 3}
    assert under({"a": 1}, "") == {"a": 1}
    with pytest.raises(CheckpointError, match=r"similar: 'a\.'"):
        under({"a.b": 1}, "zzz")


# Names.


@pytest.mark.parametrize(
    ("names", "expected", "left"),
    [
        (["_orig_mod.module.a.w", "_orig_mod.module.b"], ["a.w", "b"], ()),
        (["a._fsdp_wrapped_module.w", "b"], ["a.w", "b"], ()),
        (["a._checkpoint_wrapped_module._orig_mod.w"], ["a.w"], ()),
        (["_forward_module.model.w"], ["model.w"], ()),
        (["a._orig_mod.w", "a.w"], ["a._orig_mod.w", "a.w"], ()),
        (["module.n_averaged", "module.module.w"], ["w"], ("n_averaged",)),
        (["a.module.w", "b"], ["a.module.w", "b"], ()),
        (["total_ops", "total_params", "a.w", "a.total_ops"], ["a.w"],
         ("total_ops (2 times)", "total_params")),
        (["total_ops"], ["total_ops"], ()),
        (["a.total_ops.w"], ["a.total_ops.w"], ()),
    ],
)  # fmt: skip
def test_wrappers_are_seen_through(names, expected, left):
    state = contents_of({name: np.ones(1) for name in names}).state_dicts[0]
    assert list(state.arrays) == expected
    assert state.left == left
    assert state.averaged == ("n_averaged" in left)
