"""The twin of the article's ResNeXt: the published counts and keys, sizes, errors."""

from typing import Any

import pytest
import torch
from torch import nn

from torch_ref.models.resnext import ResNeXtArticle, ResNeXtBlock


def parameters_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("repeats", "parameters"),
    [((3, 4, 6, 3), 25_032_808), ((3, 4, 23, 3), 44_181_608), ((3, 8, 36, 3), 59_955_304)],
)
def test_published_counts_hold(repeats: tuple[int, ...], parameters: int) -> None:
    rows = list(zip((128, 256, 512, 1024), repeats, strict=True))
    with torch.device("meta"):
        model = ResNeXtArticle(block_repeats=rows)
    assert parameters_of(model) == parameters
    entries = 7 + 18 * sum(repeats) + 4 * 7 + 2  # stem; blocks; shortcuts; classifier
    assert len(model.state_dict()) == entries


def test_the_articles_block_counts_hold() -> None:
    assert parameters_of(ResNeXtBlock(256, 128, 256, 32, 1)) == 71_168
    assert parameters_of(ResNeXtBlock(64, 128, 256, 32, 2)) == 63_744


@pytest.mark.parametrize(
    ("paper_strides", "sides"), [(False, [28, 14, 7, 4]), (True, [56, 28, 14, 7])]
)
def test_stage_sizes_at_224(paper_strides: bool, sides: list[int]) -> None:
    with torch.device("meta"):
        model = ResNeXtArticle(paper_strides=paper_strides)
        x = model.conv2_pool(model.conv1(torch.zeros(2, 3, 224, 224)))
        assert x.shape == (2, 64, 56, 56)
        for stage, side, width in zip(model.stages, sides, (256, 512, 1024, 2048), strict=True):
            x = model.get_submodule(stage)(x)
            assert x.shape == (2, width, side, side)


def test_classes_and_channels_are_the_callers() -> None:
    model = ResNeXtArticle(3, 5, block_repeats=[(8, 1)], cardinality=2)
    assert model(torch.zeros(2, 5, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, r"`num_classes` \(=0\)"),
        ({"cardinality": 33}, r"width 128: it must be divisible by `cardinality` \(=33\)"),
        ({"block_repeats": [(128, 0)]}, r"`repeats` \(=0\)"),
        ({"expansion": 0}, r"`expansion` \(=0\)"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResNeXtArticle(**arguments)
