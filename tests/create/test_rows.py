"""What no array shows of a network: config.json or layout decides, else the doubt is said."""

import json
from pathlib import Path

import pytest

import flaxblocks as fb
from flaxblocks.create.rows import twins
from flaxblocks.models.registry import find_model, model_entries

TENSORFLOWS = "tf_efficientnet_b0"


@pytest.fixture(scope="module")
def state():
    return fb.to_torch(fb.create_model("efficientnet_b0", num_classes=3), "timm")


def file(folder: Path, state, name: str = "model.safetensors") -> Path:
    fb.write_checkpoint(state, folder / name)
    return folder / name


def padding(model) -> object:
    return model.stem.conv.padding, model.stem.norm.eps


def test_a_doubt_about_a_file_is_said_and_the_way_on_works(state, tmp_path):
    path = file(tmp_path, state)
    with pytest.warns(UserWarning, match=rf"of efficientnet_b0 or of {TENSORFLOWS} \(.*SAME"):
        plain = fb.create_model("efficientnet_b0", weights=path)
    with pytest.warns(UserWarning, match=r"taken as tf_efficientnet_b0; otherwise create"):
        other = fb.create_model(TENSORFLOWS, weights=path)
    assert padding(plain) != padding(other)
    assert "nothing in" in plain.origin.report.doubt


@pytest.mark.parametrize("name", ["tf_efficientnet_b0_aa-827b6e33.pth", "my_tf_efficientnet_b0.pt"])
def test_a_files_name_may_tell(state, tmp_path, name):
    model = fb.create_model(TENSORFLOWS, weights=file(tmp_path, state, name))  # no warning
    assert not model.origin.report.doubt


def test_settings_that_were_given_leave_no_doubt(state, tmp_path):
    path = file(tmp_path, state)
    assert fb.create_model("efficientnet_b0", weights=path, norm_eps=1e-3, padding="SAME")


@pytest.mark.parametrize("asked", ["efficientnet_b0", TENSORFLOWS])
@pytest.mark.parametrize("whole", [True, False], ids=["folder", "file"])
def test_a_config_beside_the_file_decides(state, tmp_path, asked, whole):
    path = file(tmp_path, state)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": TENSORFLOWS}))
    model = fb.create_model(asked, weights=tmp_path if whole else path)
    assert padding(model) == padding(fb.create_model(TENSORFLOWS, num_classes=1))
    said = f"built as {TENSORFLOWS}, as its config.json says"
    assert model.origin.report.settings == (said if asked != TENSORFLOWS else "")
    own = fb.create_model("efficientnet_b0", weights=path, norm_eps=0.5)
    assert own.stem.norm.eps == 0.5  # the caller comes first


def test_a_config_of_another_network_decides_nothing(state, tmp_path):
    path = file(tmp_path, state)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18"}))
    assert fb.create_model("efficientnet_b0", weights=path).num_classes == 3


def test_a_layout_may_decide():
    plain = fb.create_model("mobilenet_v2", width_mult=0.25, num_classes=2)
    theirs = fb.to_torch(fb.create_model("mobilenet_v2", width_mult=0.25, num_classes=2), "timm")
    settings = {"padding": "SAME", "norm_eps": 1e-3}
    built = fb.create_model("mobilenet_v2", width_mult=0.25, num_classes=2, **settings)
    foreign = fb.to_torch(built, "transformers")
    model = fb.create_model("mobilenet_v2", width_mult=0.25, weights=foreign)
    assert padding(model) == padding(built)
    assert "norm_eps=0.001, as layout 'transformers' has it" in model.origin.report.settings
    assert padding(fb.create_model("mobilenet_v2", width_mult=0.25, weights=theirs)) == padding(
        plain
    )
    with pytest.warns(UserWarning, match=r"transformers' mobilenet_v2 has norm_eps=0.001"):
        fb.load_torch(fb.create_model("mobilenet_v2", num_classes=2), _wide(foreign))


def _wide(_):
    built = fb.create_model("mobilenet_v2", num_classes=2, padding="SAME", norm_eps=1e-3)
    return fb.to_torch(built, "transformers")


def test_the_place_of_detectron2s_stride_is_a_doubt(tmp_path):
    state = fb.to_torch(fb.create_model("resnet50", num_classes=0), "detectron2")
    path = file(tmp_path, state)
    with pytest.warns(UserWarning, match=r"have stride_in='1x1'"):
        fb.create_model("resnet50", weights=path, num_classes=0)
    model = fb.create_model("resnet50", weights=path, num_classes=0, stride_in="1x1")
    assert not model.origin.report.doubt


def test_twins_are_each_others():
    for entry in model_entries():
        assert all(entry in twins(other) for other in twins(entry))
    assert [other.name for other in twins(find_model("efficientnet_b0"))] == [TENSORFLOWS]
    assert not twins(find_model("resnet18"))
