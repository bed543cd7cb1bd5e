"""`flaxblocks list`, and the command itself: help, unknown words, a terminal, a closed pipe."""

import json
import subprocess
import sys

import pytest

import flaxblocks as fb
from flaxblocks.cli.main import commands
from tests.cli.conftest import Refuse, Run


def test_list_shows_every_model_with_its_size_and_weights(run: Run) -> None:
    ran = run("list")
    assert ran[::2] == (0, "")
    lines = {line.split()[0]: line for line in ran.out.splitlines()}
    assert list(lines) == fb.list_models()
    assert "3.50 M" in lines["mobilenet_v2"]
    assert "IMAGENET1K_V2" in lines["mobilenet_v2"]


def test_list_json_and_pattern(run: Run) -> None:
    rows = json.loads(run("list", "mobilenetv2_1*", "--json").out)
    assert [row["name"] for row in rows] == fb.list_models("mobilenetv2_1*")
    assert {row["name"]: row["parameters"] for row in rows}["mobilenetv2_140"] == 6_108_776


@pytest.mark.parametrize("extra", [(), ("--json",)])
def test_a_pattern_without_a_match_is_refused(extra: tuple[str, ...], refuse: Refuse) -> None:
    refuse("list", "alexnet*", *extra, named="alexnet*")


def test_unknown_words_are_refused(refuse: Refuse) -> None:
    refuse("lsit", named="lsit")
    refuse("list", "--bogus", named="--bogus")
    refuse("list", "a", "b", named="b")


def test_every_command_has_an_example_in_its_help(run: Run) -> None:
    assert run().out == run("--help").out
    for name in commands.commands:
        ran = run(name, "--help")
        assert ran[::2] == (0, "")
        assert f"Example:\n  $ flaxblocks {name}" in ran.out


def test_help_and_the_version_come_without_jax() -> None:
    script = (
        "import sys; from flaxblocks.cli.main import commands, main\n"
        "for words in [['--version'], *([name, '--help'] for name in commands.commands)]:\n"
        "    try: main(words)\n"
        "    except SystemExit as end: assert end.code == 0, words\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "assert not loaded & {'jax', 'flax', 'numpy', 'torch'}, loaded"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.count("Usage: flaxblocks ") == len(commands.commands)


def test_the_package_is_the_command() -> None:
    command = [sys.executable, "-m", "flaxblocks", "--version"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("flaxblocks, version ")


def test_progress_is_shown_on_a_terminal_only(run: Run, monkeypatch) -> None:
    assert run("info", "mobilenet_v2", "--size", "32").err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert "building mobilenet_v2" in run("info", "mobilenet_v2", "--size", "32").err


def test_a_reader_that_stops_early_gets_no_traceback() -> None:
    script = "from flaxblocks.cli.main import main; main(['list'])"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1  # click's


def test_importing_the_package_imports_neither_torch_nor_what_commands_need() -> None:
    script = (
        "import sys, flax.nnx; before = set(sys.modules); import flaxblocks; "
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True
    )
    added = set(ran.stdout.split())
    assert "flaxblocks" in added
    assert not added & {
        "torch",
        "PIL",
        "pooch",
        "click",
        "safetensors",
        "orbax",
        "tqdm",
        "requests",
    }
