"""One dataclass is the source of flags, files and help."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from train import evaluate
from train.__main__ import guarded, main
from train.settings.config import Config, changed, flag
from train.settings.flags import RECIPES, command_of, recipes, to_toml
from train.settings.otherwise import SAID_HERE, said_here


def parsed(*arguments: str) -> Config:
    seen: list[Config] = []
    command_of(seen.append, help="").main(list(arguments), standalone_mode=False)
    return seen[0]


def refusal(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    with pytest.raises(SystemExit) as exit:
        main(list(arguments))
    assert exit.value.code == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    return told


def test_without_flags_it_is_the_dataclass() -> None:
    assert parsed() == Config()


def test_every_field_has_a_flag_with_help(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["--help"])
    assert exit.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for field in fields(Config):
        assert f" {flag(field.name)} " in text
        assert " ".join(field.metadata["help"].split())[:40] in text
    for section in ("Data:", "Model:", "Optimisation:", "Run:", "Devices:"):
        assert section in text


def test_flags_of_every_kind() -> None:
    config = parsed(
        *(
            "--batch-size",
            "32",
            "--lr",
            "0.5",
            "--nesterov",
            "--freeze",
            "stem*",
            "--freeze",
            "head",
        ),
        *("--data", "images", "--dtype", "bfloat16", "--ema", "0.99", "--set", "dropout=0.1"),
    )
    assert (config.batch_size, config.lr, config.nesterov) == (32, 0.5, True)
    assert (config.freeze, config.set) == (("stem*", "head"), ("dropout=0.1",))
    assert (config.data, config.dtype, config.ema) == ("images", "bfloat16", 0.99)


def test_a_flag_beats_the_file_and_the_file_the_recipe(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('batch-size = 96\noptimizer = "rmsprop-tf"\nset = ["dropout=0.3"]\nema = 1\n')
    for order in (
        ["--config", str(file), "--recipe", "mobilenetv2"],
        ["--recipe", "mobilenetv2", "--config", str(file)],
    ):
        config = parsed(*order, "--batch-size", "128")
        assert config.batch_size == 128  # the flag
        assert (config.optimizer, config.set, config.ema) == ("rmsprop-tf", ("dropout=0.3",), 1.0)
        assert (config.epochs, config.lr, config.gamma) == (300, 0.045, 0.98)  # the recipe
        assert config.momentum == 0.9  # the default


def test_each_set_is_beside_the_recipes(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('set = ["stochastic_depth=0.1"]\n')
    config = parsed(
        *("--recipe", "efficientnet", "--config", str(file), "--set", "norm_eps=1e-3"),
        *("--set", "dropout=0.4"),
    )
    assert config.set == ("stochastic_depth=0.1", "norm_eps=1e-3", "dropout=0.4")


def test_none_leaves_open_what_a_recipe_sets() -> None:
    assert parsed("--recipe", "resnet-v2").ema is not None
    config = parsed(
        "--recipe", "resnet-v2", "--ema", "none", "--train-size", "none", "--lr", "none"
    )
    assert (config.ema, config.train_size, config.lr) == (None, None, None)


def test_a_config_survives_its_file(tmp_path: Path) -> None:
    config = parsed("--freeze", "a*", "--lr", "1e-3", "--set", 'x="y"', "--nesterov", "--seed", "7")
    (tmp_path / "config.toml").write_text(to_toml(config))
    assert parsed("--config", str(tmp_path / "config.toml")) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch_sise = 3", "has no setting 'batch_sise': did you mean 'batch-size'?"),
        ("epochs = 3.7", "Invalid value for '--epochs': '3.7' is not a valid integer"),
        ('optimizer = "adam"', "Invalid value for '--optimizer': 'adam' is not one of"),
        ("lr = nan", "Invalid value for '--lr': nan is not a finite number"),
        ("lr = ", "cannot be read: "),
        ("lr = true", "Invalid value for '--lr': 'true' is not a valid number"),
        ("epochs = 0", "'--epochs': 0 is not in the range x>=1"),
        ("nesterov = 3", "Invalid value for '--nesterov': '3' is not a valid boolean"),
        ("[Data]\naugment = 1", "has the table 'Data': settings must not be inside a table"),
        ("amp = true", "has no setting 'amp': --amp is --dtype bfloat16 here"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture, text: str, message: str
) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text)
    told = refusal(capsys, "--config", str(file))
    assert message in told
    assert f"--config {file}" in told


def test_a_wrong_flag_is_not_the_files(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "c.toml").write_text("epochs = 3\nlr = 0.1\n")
    told = refusal(capsys, "--config", str(tmp_path / "c.toml"), "--epochs", "0")
    assert told == "train: Invalid value for '--epochs': 0 is not in the range x>=1.\n"


def test_lists_in_a_file_are_several_flags_or_one_with_commas(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('freeze = "stem.*"\nbetas = [0.9, 0.95]\nset = ["a=1"]\n')
    config = parsed("--config", str(tmp_path / "c.toml"))
    assert (config.freeze, config.betas, config.set) == (("stem.*",), "0.9,0.95", ("a=1",))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--resume run.pth", "--resume is not a flag here: the same command, with the same --out"),
        ("--pretrained", "--pretrained is --weights DEFAULT here"),
        ("--aa=rand-m9", "--aa is --augment trivial"),
        ("--amp", "--amp is --dtype bfloat16 here"),
        ("--sync-bn", "--sync-bn is not a flag here: batch norms always use the whole batch"),
        ("--model_ema", "--model_ema is --ema DECAY here"),
        ("-j 8", "-j is --workers NUMBER here"),
        ("--freeze head", "--freeze head matches no parameter: did you mean --freeze 'head.*'?"),
        ("--freeze fc", "and `backbone` is all but the head"),
        ("--set drop_path_rate=0.1", "drop_path_rate=0.1: use --set stochastic_depth=0.1 instead"),
        ("--set pretrained=true", "pretrained=true: use --weights instead, with a file or DEFAULT"),
        ("--set in_chans=1", "--set in_chans=1: images are RGB here, with 3 channels"),
    ],
)
def test_a_word_of_pytorchs_programs_gives_the_way_on(
    tmp_path: Path, capsys: pytest.CaptureFixture, arguments: str, message: str
) -> None:
    out = str(tmp_path / "run")
    assert message in refusal(capsys, "--out", out, *arguments.split())


def test_the_words_of_other_programs_lead_to_flags_there_are() -> None:
    offered = {flag(field.name) for field in fields(Config)}
    for word in SAID_HERE:
        assert f"--{word}" not in offered
        assert said_here(f"--{word}", offered), word


def test_evaluation_points_to_no_flag_that_it_has_not(capsys: pytest.CaptureFixture) -> None:
    for word, told in (("-b", "-b is --batch-size NUMBER, "), ("--resume", "No such option '--re")):
        with pytest.raises(SystemExit):
            evaluate.main([word, "3"])
        assert f"evaluate: {told}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "three"], "train: Invalid value for '--epochs': 'three' is not a valid int"),
        (["--batchsize", "3"], "No such option '--batchsize'"),
        (["--recipe", "vgg"], "'vgg' is not one of 'efficientnet', 'mobilenetv2', 'resnet-v1'"),
        (["--data", "/nowhere"], "train: --data /nowhere: no such folder"),
        (
            ["--num-classes", "7"],
            "train: --num-classes 7 must be 10, the number of classes of digits",
        ),
        (["--model", "mobilnet_v2"], "mobilnet_v2"),
        (["--set", "dropuot=0.1"], "mobilenet_v2 has no setting 'dropuot': did you mean 'dropout'"),
        (["--weights", "none.pth"], "none.pth"),
        (["--batch-size", "2000"], "train: --batch-size 2000 must be at most 1437"),
        (["--warmup-epochs", "20"], "train: --warmup-epochs 20 must be below --epochs 20"),
        (["--train-size", "24", "--augment", "none"], "train: --train-size 24 needs --augment"),
        (["--mean", "0.5,0.5"], "train: --mean 0.5,0.5 must be three numbers from 0 to 1"),
        (["--std", "0,1,1"], "train: --std 0,1,1 must be three numbers from 0 to 1"),
        (["--set", "in_channels=1"], "train: --set in_channels=1: images are RGB here"),
        (["--resize-size", "16"], "train: --resize-size 16 must be at least 36"),
    ],
)
def test_a_mistake_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture, arguments: list[str], message: str
) -> None:
    out = tmp_path / "run"
    assert message in refusal(capsys, "--out", str(out), *arguments)
    assert not out.exists()


def test_other_errors_are_not_hidden() -> None:
    def fail(_: Config) -> Any:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        guarded(command_of(fail, help=""), [])


def test_what_changes_no_number_may_change() -> None:
    old = {field.name: getattr(Config(), field.name) for field in fields(Config)}
    free = {"workers", "out", "keep", "save_every", "mesh"}
    free |= {"coordinator", "num_processes", "process_id"}
    told = changed(old, dict.fromkeys(old, "another"))
    assert {line.split()[0] for line in told} == {flag(name) for name in old if name not in free}
    assert changed(old, old) == []
    assert changed({}, old)  # a checkpoint from before a setting came


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_is_a_config_file_that_says_where_it_is_from(name: str) -> None:
    config = parsed("--recipe", name)
    text = (RECIPES / f"{name}.toml").read_text()
    assert text.startswith("# ")
    assert "https://" in text or "references/classification" in text
    named = {line.partition(" = ")[0] for line in text.splitlines() if line[:1].isalpha()}
    assert {"model", "epochs", "batch-size", "optimizer", "lr", "weight-decay"} <= named
    assert config.epochs >= 90


def test_help_is_quick_and_needs_no_jax() -> None:
    code = (
        "import sys\nfrom train.__main__ import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print('jax' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.rstrip().endswith("False")


def test_an_argument_of_a_model_is_set_here():
    """By the one table of what torchvision and timm call the models' arguments."""
    assert said_here("--bn-eps", ["--set"]) == "is --set norm_eps=VALUE here"
    assert said_here("--drop_rate", ["--set"]) == "is --set dropout=VALUE here"
    assert said_here("--drop-rate", ["--out"]) is None
    assert said_here("--in-chans", ["--set"]) is None  # images are RGB
