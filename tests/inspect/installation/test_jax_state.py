"""Devices, known faults and precision."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jaxlib.version
import pytest

from flaxblocks.inspect.installation import jax_state
from flaxblocks.inspect.installation.known_bad import NO_YNNPACK


class Device(NamedTuple):
    device_kind: str
    platform: str
    memory: dict[str, int] | None

    def memory_stats(self) -> dict[str, int] | None:
        return self.memory


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have these devices in the place of the machine's."""

    def go(*found: Device) -> None:
        monkeypatch.setattr(jax, "devices", lambda: list(found))
        monkeypatch.setattr(jax, "default_backend", lambda: found[0].platform)

    return go


def test_devices_are_counted_by_kind_with_their_memory(on: Any) -> None:
    gpu = Device("NVIDIA H200", "gpu", {"bytes_limit": 105_000_000_000})
    on(gpu, gpu, Device("TPU v5e", "tpu", None))
    assert [finding.value for finding in jax_state.devices()] == [
        "2 x NVIDIA H200 (gpu), 105 GB for JAX",
        "TPU v5e (tpu)",
    ]


@pytest.mark.parametrize(
    ("plugin", "remedy"),
    [(None, "pip install 'jax[cuda13]'"), ("0.11.0", "JAX_PLATFORMS=cuda makes JAX say why")],
)
def test_a_gpu_that_jax_does_not_use_is_a_note(
    plugin: str | None, remedy: str, on: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(Device("cpu", "cpu", None))
    monkeypatch.setattr(jax_state, "jax_setting", lambda _: None)
    monkeypatch.setattr(jax_state, "DRIVER", tmp_path / "version")
    monkeypatch.setattr(jax_state, "version_of", lambda _: plugin)
    assert [finding.status for finding in jax_state.devices()] == ["ok"]
    (tmp_path / "version").write_text("")
    _, found = jax_state.devices()
    assert (found.status, found.remedy) == ("note", remedy)


def test_without_a_device_jax_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("Unable to initialize backend 'cuda'\nand more")

    monkeypatch.setattr(jax, "devices", fail)
    monkeypatch.setattr(jax_state, "jax_setting", lambda _: "cuda")
    [found] = jax_state.devices()
    assert (found.status, found.value) == ("bad", "Unable to initialize backend 'cuda'")
    assert found.remedy == "unset JAX_PLATFORMS=cuda, which requests it"


def test_a_release_without_known_faults_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxlib.version, "__version__", "0.12.0")
    [found] = jax_state.known_bad()
    assert (found.status, found.value) == ("ok", "0.12.0 has no known faults")


@pytest.mark.parametrize(
    ("shows", "flags", "status", "value"),
    [
        (True, "", "bad", "wrong here: "),
        (True, NO_YNNPACK, "bad", "wrong here: "),
        (False, NO_YNNPACK, "ok", "cured by XLA_FLAGS: "),
        (False, "", "note", "does not occur here: "),
    ],
)
def test_a_known_fault_is_tried_out(
    shows: bool, flags: str, status: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxlib.version, "__version__", "0.11.1")
    monkeypatch.setattr(jax_state, "shows_here", lambda _: shows)
    monkeypatch.setenv("XLA_FLAGS", flags)
    [found] = jax_state.known_bad()
    assert found.status == status
    assert found.value.startswith(value)
    assert found.value.endswith("(tensorflow#126812)")
    assert (found.remedy is None) == (status == "ok")


@pytest.mark.parametrize(
    ("backend", "chosen", "status", "words"),
    [
        ("cpu", None, "ok", "full precision"),
        ("gpu", None, "note", "TF32"),
        ("tpu", None, "note", "bfloat16"),
        ("gpu", "highest", "ok", "full precision"),
        ("tpu", "float32", "ok", "full precision"),
        ("gpu", "high", "note", "'high', as JAX is set"),
        ("cpu", "BF16_BF16_F32", "note", "'BF16_BF16_F32', as JAX is set"),
    ],
)
def test_precision_is_that_of_the_device_and_the_setting(
    backend: str,
    chosen: str | None,
    status: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    with jax.default_matmul_precision(chosen), jax.enable_x64(True):
        [found] = jax_state.precision()
    assert found.status == status
    assert words in found.value
    assert "float64 is on" in found.value
    assert (found.remedy is None) == (status == "ok")


def test_xla_flags_are_shown_as_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=a")
    assert [finding.value for finding in jax_state.xla_flags()] == ["--xla_dump_to=a"]
    monkeypatch.delenv("XLA_FLAGS")
    assert [finding.value for finding in jax_state.xla_flags()] == ["none"]
