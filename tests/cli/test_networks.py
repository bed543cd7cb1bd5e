"""Checkpoints that hold more than one network, or more than a network: what the commands take, what
they say of it on stderr, and how a user chooses otherwise.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import flaxblocks as fb
from flaxblocks.cli.shell_words import in_shell_words
from tests.cli.conftest import SMALL, Refuse, Run

State = dict[str, np.ndarray]
CONVERT = ("convert", "in.pth", "out.npz", "--layout", "torchvision", *SMALL)
CHOOSE = "note: --ema/--no-ema, --key or --prefix selects another network in the checkpoint\n"


def save(tree: object) -> None:
    """A tree of arrays as torch saves one, `in.pth`."""

    def tensors(value: object) -> object:
        if isinstance(value, dict):
            return {key: tensors(item) for key, item in value.items()}
        return torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value

    torch.save(tensors(tree), "in.pth")


def taken() -> float:
    """The first number of the head in what `CONVERT` wrote."""
    return float(fb.read_checkpoint("out.npz")["classifier.1.bias"][0])


@pytest.fixture
def both(here: Path, state: State) -> tuple[State, State]:
    """Raw and averaged weights in `in.pth`, as a training program keeps them."""
    raw = {**state, "classifier.1.bias": np.full(10, 1, np.float32)}
    averaged = {**state, "classifier.1.bias": np.full(10, 2, np.float32)}
    save({"epoch": 3, "state_dict": raw, "state_dict_ema": averaged})
    return raw, averaged


def test_averaged_weights_are_taken_and_the_user_is_told_how_to_choose(
    both: tuple[State, State], run: Run
) -> None:
    ran = run(*CONVERT)
    assert ran.status == 0
    assert ran.out == "out.npz: 62 arrays, 0.1 MB, torchvision -> torchvision (npz)\n"
    assert ran.err.startswith(
        "note: taken: `state_dict_ema`\nnote: not taken: `state_dict`\nnote: left: epoch"
    )
    assert ran.err.endswith(f"\n{CHOOSE}")
    assert taken() == 2


@pytest.mark.parametrize(
    ("choice", "number"),
    [
        (("--ema",), 2),
        (("--no-ema",), 1),
        (("--key", "state_dict"), 1),
        (("--key", "state_dict_ema"), 2),
    ],
)
def test_who_has_chosen_is_not_told_how(
    choice: tuple[str, ...], number: float, both: tuple[State, State], run: Run
) -> None:
    ran = run(*CONVERT, *choice)
    assert ran.status == 0
    assert taken() == number
    assert "note: taken: `state_dict" in ran.err
    assert CHOOSE not in ran.err


def test_a_choice_that_leaves_another_is_a_choice_and_dropping_is_none(
    both: tuple[State, State], run: Run
) -> None:
    raw, averaged = ({f"net.{name}": array for name, array in arrays.items()} for arrays in both)
    save({"state_dict": {**raw, "extra": np.ones(1)}, "state_dict_ema": averaged})
    others = (
        "note: taken: `state_dict_ema` below 'net.'\nnote: not taken: `state_dict` below 'net.'\n"
    )
    assert run(*CONVERT, "--prefix", "net").err == others
    assert run(*CONVERT, "--overwrite", "--drop", "extra").err == others + CHOOSE


def test_predict_takes_the_chosen_network_and_keeps_stdout_pure(
    both: tuple[State, State], run: Run
) -> None:
    Image.new("RGB", (40, 40)).save("a.png")
    options = ("--weights", "in.pth", "--top", "10", "--json", *SMALL)
    by_default, raw = (
        run("predict", "a.png", *options),
        run("predict", "a.png", *options, "--no-ema"),
    )
    for ran, arrays in zip((by_default, raw), reversed(both), strict=True):
        fb.write_checkpoint(arrays, "plain.pth")
        plain = run("predict", "a.png", "--weights", "plain.pth", *options[2:])
        assert plain.err == ""
        assert json.loads(ran.out) == json.loads(plain.out)
    assert by_default.err.startswith("note: taken: `state_dict_ema`\n")
    assert by_default.err.endswith(CHOOSE)
    assert raw.err.startswith("note: taken: `state_dict`\n")


def test_verify_takes_the_chosen_network(both: tuple[State, State], run: Run) -> None:
    options = ("--size", "32", "--batch", "1", "--json", *SMALL[2:])
    ran = run("verify", "mobilenet_v2", "--weights", "in.pth", "--no-ema", *options)
    assert ran.status == 0
    assert isinstance(json.loads(ran.out), dict)
    assert ran.err.startswith("note: taken: `state_dict`\n")
    assert ran.err.count("\n") == ran.err.count("note: ")


def test_verify_without_a_file_has_nothing_to_choose_in(refuse: Refuse, here: Path) -> None:
    for choice in (("--ema",), ("--no-ema",), ("--drop", "fc"), ("--key", "model")):
        refuse("verify", "mobilenet_v2", *choice, named="give --weights")


def test_a_prefix_with_a_loss_beside_it(here: Path, state: State, run: Run) -> None:
    wrapped = {f"backbone.{name}": array for name, array in state.items()}
    save({**wrapped, "criterion.weight": np.ones(10, np.float32)})
    for choice in ((), ("--prefix", "backbone"), ("--prefix", "backbone.")):
        ran = run(*CONVERT, "--overwrite", *choice)
        assert ran.status == 0
        assert ran.err == "note: taken: below 'backbone.'\nnote: left: criterion.weight\n"
        written = fb.read_checkpoint("out.npz")
        assert list(written) == list(state)
        assert all(np.array_equal(written[name], state[name]) for name in state)


def test_what_is_too_much_is_named_and_dropped(
    here: Path, state: State, run: Run, refuse: Refuse
) -> None:
    extra = {f"features.{i}.total_ops": np.zeros(1) for i in range(2)}
    save({**state, "projector.weight": np.ones((3, 3), np.float32)})
    refuse(*CONVERT, named="`--drop projector` would leave out what is not the model's")
    ran = run(*CONVERT, "--drop", "projector")
    assert ran[::2] == (0, "note: left: projector.weight\n")
    save({**state, **extra, "projector.weight": np.ones((3, 3), np.float32)})
    ran = run(*CONVERT, "--overwrite", "--drop", "projector", "--drop", "*.total_ops")
    assert ran.status == 0
    assert list(fb.read_checkpoint("out.npz")) == list(state)


@pytest.mark.parametrize(
    ("choice", "named"),
    [
        (("--key", "model"), "holds no state dict under 'model': it holds 'state_dict_ema'"),
        (("--prefix", "backbone"), "no name begins with 'backbone.'"),
        (("--drop", "nothing"), "`--drop` (=['nothing']) matches no name in in.pth"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_choice_is_one_sentence(
    choice: tuple[str, ...], named: str, both: tuple[State, State], refuse: Refuse
) -> None:
    refuse(*CONVERT, *choice, named=named)
    Image.new("RGB", (40, 40)).save("a.png")
    refuse("predict", "a.png", "--weights", "in.pth", "--json", *choice, *SMALL, named=named)


def test_two_networks_of_one_rank_are_told_apart_by_an_option(
    here: Path, state: State, run: Run, refuse: Refuse
) -> None:
    other = {**state, "classifier.1.bias": np.full(10, 7, np.float32)}
    sides = {"left": state, "right": other}
    save({f"{side}.{name}": array for side in sides for name, array in sides[side].items()})
    refuse(*CONVERT, named="select one with `--key` or `--prefix`")
    assert run(*CONVERT, "--prefix", "right").status == 0
    assert taken() == 7


def test_a_hint_is_in_the_words_of_the_shell(here: Path, state: State, refuse: Refuse) -> None:
    save(state)
    rows = f"inverted_residual_setting={json.dumps([[1, 16, 1, 1], [6, 24, 2, 2]])}"
    command = ("convert", "in.pth", "out.npz", "--model", "mobilenet_v2", "--set", rows)
    refuse(*command, named="(a model built with --width-mult 0.25 would fit)")
    lost = {name: array for name, array in state.items() if not name.startswith("classifier")}
    save(lost)
    command = ("verify", "mobilenet_v2", "--weights", "in.pth", *SMALL[2:])
    refuse(*command, named="`--num-classes 0` returns its features")


@pytest.mark.parametrize(
    ("said", "typed"),
    [
        ("(a model built with stem='3x3' would fit)", "built with --set stem=3x3 would"),
        (
            "(a model built with num_classes=7, in_channels=1 would fit)",
            "built with --num-classes 7 --in-channels 1 would",
        ),
        ("`drop=['a', 'b c']` would", "`--drop a --drop 'b c'` would"),
        ("`num_classes` (=7) must be 10", "`num_classes` (=7) must be 10"),
        ("`x=(` is no call", "`x=(` is no call"),
        ("no name has `weight_orig`", "no name has `weight_orig`"),
    ],
)
def test_what_is_proposed_and_nothing_else_is_translated(said: str, typed: str) -> None:
    assert typed in in_shell_words(said)
