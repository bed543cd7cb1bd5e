"""`flaxblocks doctor`: lines for people, JSON for programs, a status for scripts."""

import json
import subprocess
import sys
from collections.abc import Iterator

import jaxlib.version
import pytest

from flaxblocks.inspect.installation import jax_state, probes
from flaxblocks.inspect.installation.finding import Finding
from tests.cli.conftest import Run


@pytest.mark.parametrize("as_json", [True, False])
def test_what_is_well_or_merely_missing_ends_with_0(as_json: bool, run: Run) -> None:
    ran = run("doctor", *["--json"] * as_json)
    assert ran[::2] == (0, "")
    if as_json:
        found = json.loads(ran.out)
        assert all(list(each) == ["name", "value", "status", "remedy"] for each in found)
        assert {"jaxlib", "devices", "precision", "verify"} < {each["name"] for each in found}
    else:
        lines = ran.out.splitlines()
        assert all(line.startswith(("ok    ", "note  ", "      ")) for line in lines)
        assert f"ok    jaxlib             {jaxlib.version.__version__}" in lines


@pytest.mark.parametrize("as_json", [True, False])
def test_a_jaxlib_that_computes_wrongly_ends_with_1(
    as_json: bool, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxlib.version, "__version__", "0.11.0")
    monkeypatch.setattr(jax_state, "shows_here", lambda _: True)
    ran = run("doctor", *["--json"] * as_json)
    assert ran[::2] == (1, "")
    assert "on the CPU, sums over a broadcast array" in ran.out
    assert "-> pip install 'jax>=0.12'" in ran.out or as_json


def test_a_probe_that_fails_makes_no_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def devices() -> Iterator[Finding]:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(probes, "PROBES", (devices,))
    ran = run("doctor")
    assert ran[::2] == (0, "")
    assert ran.out == "note  devices            cannot be examined: RuntimeError: no such thing\n"


def test_torch_is_not_imported_to_tell_its_version() -> None:
    script = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'torchvision', 'timm', 'grain']));"
        "from flaxblocks.cli.main import main; main(['doctor', '--json'])"
    )
    command = [sys.executable, "-W", "error", "-c", script]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    found = {each["name"]: each["value"] for each in json.loads(ran.stdout)}
    assert found["torch"][0].isdigit()
    assert found["verify"] == "everything it needs is installed"
