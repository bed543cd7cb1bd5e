"""Diagrams of models and blocks as SVG, drawn from the modules themselves.

A model is a row of stages, whose height shows the size of their feature maps, above one flow chart
for each kind of block: its layers from top to bottom, with the skip beside them. Each kind has a
letter, and each stage lists the kinds of its blocks.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby

from flax import nnx

from flaxblocks.blocks.squeeze_excite import SqueezeExcite
from flaxblocks.inspect.layer_titles import activation_name, is_layer, outermost, title, titles
from flaxblocks.inspect.summary import output_shapes, step_shapes
from flaxblocks.inspect.svg import Canvas
from flaxblocks.models.image_model import ImageModel
from flaxblocks.models.staged import StagedModel
from flaxblocks.nn.activation import identity
from flaxblocks.nn.layer import title_of
from flaxblocks.nn.parameters import count_parameters

__all__ = ["draw_block", "draw_model"]

SHORTCUT = "shortcut"  # prefix of the names of layers in a block's skip
STAGE = "#e8f0e4"  # colours
LEARNT = "#cfe2f3"  # a convolution or a linear layer
GATE = "#f9cb9c"
REST = "#eeeeee"
BOX = (216.0, 40.0)  # width and height of a layer's box in pixels
GAP = 18.0
SIDE = 52.0  # room for the line of a skip
STAGE_WIDTH, STAGE_HEIGHT = 132.0, 80.0

Shapes = Mapping[str, tuple[int, ...]]
Modules = Mapping[str, nnx.Module]  # those that ran, in order


@dataclass(frozen=True)
class Layer:
    """A box of a flow chart.

    Attributes:
        title: description of the layer, without channels.
        channels: text about its output channels.
        rest: names of its norm and activation.
        colour: colour of the box.
    """

    title: str
    channels: str = ""
    rest: tuple[str, ...] = ()
    colour: str = REST

    @property
    def lines(self) -> tuple[str, ...]:
        """The lines of text in the box."""
        detail = ", ".join(filter(None, (self.channels, *self.rest)))
        return (self.title, detail) if detail else (self.title,)


@dataclass(frozen=True)
class Chart:
    """The contents of a block's flow chart.

    Attributes:
        name: name of its class.
        branch: layers of the branch in the order in which they run.
        skip: layers of the skip; None if there is no skip.
        added: what the skip does to its input other than by a layer, as text.
        end: name of the activation after the addition, or "".
    """

    name: str
    branch: tuple[Layer, ...]
    skip: tuple[Layer, ...] | None
    added: str
    end: str

    @property
    def kind(self) -> tuple[object, ...]:
        """What blocks of one kind have in common: everything except channels."""
        branch, skip = (
            None if layers is None else tuple((layer.title, layer.rest) for layer in layers)
            for layers in (self.branch, self.skip)
        )
        return self.name, branch, skip, self.added, self.end


def draw_model(model: ImageModel, input_size: tuple[int, int] = (224, 224)) -> str:
    """Draw a model's stages and each kind of block in it.

    Args:
        model: the model, concrete or abstract; only shapes are computed. If it is not a
            `StagedModel`, each of its steps is a stage.
        input_size: (height, width) of the image in pixels.

    Returns: the text of an SVG file.
    Raises: ValueError if `model` is not an `ImageModel`, or a step does not return a single array.
    """
    steps = _steps(model)
    image = (*input_size, model.in_channels)
    shapes = output_shapes(model, image)
    if not steps.keys() <= shapes.keys():  # some steps are functions
        shapes = step_shapes(model, image) | shapes
    modules = {".".join(map(str, path)): module for path, module in nnx.iter_modules(model)}
    ran = {path: modules[path] for path in shapes if path in modules}
    stage_of = _blocks(model, steps, ran)
    charts = {path: _chart(modules[path], path, shapes) for path in stage_of}
    kinds = Counter(chart.kind for chart in charts.values())
    letters = {kind: _letter(i) for i, kind in enumerate(kinds)}
    lettered = {path: letters[chart.kind] for path, chart in charts.items()}
    stages = [_Stage("image", (), image)]
    for name in steps:
        parts = [name] if name in charts else _parts(ran, name)
        made_of = [(lettered[p],) if p in charts else titles(ran, p) for p in parts]
        joint = bool(parts) and all(part in charts for part in parts)
        stage = _Stage(stage_of[parts[0]] if joint else name, sum(made_of, ()), shapes[name], joint)
        if joint and stages[-1].name == stage.name:
            stages[-1] = stages[-1].followed_by(stage)
        else:
            stages.append(stage)
    if getattr(model, "head", None) is not None:
        logits = shapes.get("", (model.num_classes,))
        stages.append(_Stage("head", _head(model, steps, ran), logits, joint=False))
    canvas = Canvas()
    canvas.place(_row(stages), 0, 0)
    wide = max(canvas.width, 4 * (BOX[0] + SIDE + GAP))
    x, top = 0.0, canvas.height + 2 * GAP
    for kind, count in kinds.items():
        first = next(chart for chart in charts.values() if chart.kind == kind)
        flow = _flow(first, f"{letters[kind]}: {first.name}, {count} x")
        if x and x + flow.width > wide:
            x, top = 0.0, canvas.height + 2 * GAP
        canvas.place(flow, x, top)
        x += flow.width + 2 * GAP
    return canvas.svg()


def draw_block(block: nnx.Module, in_features: int, size: tuple[int, int] = (56, 56)) -> str:
    """Draw the flow chart of one block.

    Args:
        block: the block, concrete or abstract; only shapes are computed.
        in_features: channels of its input.
        size: (height, width) of its input in pixels.

    Returns: the text of an SVG file.
    """
    chart = _chart(block, "", output_shapes(block, (*size, in_features)))
    return _flow(chart, chart.name).svg()


@dataclass(frozen=True)
class _Stage:
    """A box in a model's row: its name, its parts, the shape of its output, and whether the parts
    are written on one line.
    """

    name: str
    parts: tuple[str, ...]
    shape: tuple[int, ...]
    joint: bool = True

    def followed_by(self, other: "_Stage") -> "_Stage":
        return _Stage(self.name, self.parts + other.parts, other.shape)

    def lines(self) -> list[str]:
        """The lines of the box, such as `stage 2`, `A, 3 x B`, `56x56`, `256 channels`."""
        runs = [(part, len(list(group))) for part, group in groupby(self.parts)]
        counted = [part if n == 1 else f"{n} x {part}" for part, n in runs]
        made_of = [", ".join(counted)] if self.joint else counted
        *sides, channels = self.shape
        size = ["x".join(map(str, sides))] if set(sides) - {1} else []
        return [self.name, *filter(None, made_of), *size, f"{channels} channels"]


def _steps(model: nnx.Module) -> dict[str, Callable]:
    """The steps of a model by name, in order."""
    what = f"`model` (a {type(model).__name__})"
    if not isinstance(model, ImageModel):
        raise ValueError(f"{what} must be an `ImageModel`; `draw_block` draws a block")
    try:
        return dict(model.steps)
    except NotImplementedError:
        raise ValueError(f"{what} must define `steps`, from which its diagram is drawn") from None


def _blocks(model: ImageModel, steps: Iterable[str], ran: Modules) -> dict[str, str]:
    """The paths of the blocks that are drawn as flow charts, each with the name of its stage:
    `stage 2`, or the name of the step.
    """
    if isinstance(model, StagedModel):
        return {place.path: f"stage {place.stage + 1}" for place in model.placed_blocks}
    return {
        part: name
        for name in steps
        for part in _parts(ran, name)
        if not is_layer(ran[part]) and len(titles(ran, part)) > 1
    }


def _parts(ran: Modules, path: str) -> list[str]:
    """The paths of what runs in sequence in the step at `path`: the items of an `nnx.Sequential`,
    or the single module; empty for a function.
    """
    if path not in ran:
        return []
    items = [p for p in ran if p.rpartition(".")[0] == f"{path}.layers"]
    if not (items and isinstance(ran[path], nnx.Sequential)):
        return [path]
    return [part for item in items for part in _parts(ran, item)]


def _head(model: ImageModel, steps: Iterable[str], ran: Modules) -> tuple[str, ...]:
    """The titles of the layers between the last feature map and the logits."""
    own = isinstance(model, StagedModel) or type(model).embed is ImageModel.embed
    outside = {p: m for p, m in ran.items() if not any(f"{p}.".startswith(f"{s}.") for s in steps)}
    return (*(["mean"] if own else []), *(title(outside[p]) for p in outermost(outside)))


def _letter(index: int) -> str:
    """A to Z, AA, AB, ..."""
    rest, last = divmod(index, 26)
    return (_letter(rest - 1) if rest else "") + chr(ord("A") + last)


def _chart(block: nnx.Module, path: str, shapes: Shapes) -> Chart:
    """The flow chart of the block at `path`."""
    modules = {".".join(map(str, p)): module for p, module in nnx.iter_modules(block)}
    start = f"{path}." if path else ""
    inner = [p.removeprefix(start) for p in shapes if p.startswith(start) and p != path]
    before = getattr(block, "functions_before", {})
    layers_in_order = outermost({p: modules[p] for p in inner})

    def drawn(in_skip: bool) -> tuple[Layer, ...]:
        layers: list[Layer] = []
        for p in layers_in_order:
            if p.startswith(SHORTCUT) == in_skip:
                if p in before:
                    layers.append(Layer(activation_name(before[p])))
                layers.append(_layer(modules[p], shapes[start + p]))
        return tuple(layer for layer in layers if layer.title)

    adds = getattr(block, "residual", hasattr(block, "shortcut"))
    return Chart(
        type(block).__name__,
        drawn(in_skip=False),
        drawn(in_skip=True) if adds else None,
        getattr(block, "added", ""),
        activation_name(getattr(block, "final_activation", identity)),
    )


def _layer(module: nnx.Module, shape: tuple[int, ...]) -> Layer:
    """The box of a layer with output shape `shape`."""
    norm, activation = getattr(module, "norm", None), getattr(module, "activation", identity)
    channels, rest = f"{shape[-1]} channels", [activation_name(activation)]
    colour = LEARNT if title_of(module) and count_parameters(module) else REST
    if isinstance(module, SqueezeExcite):
        channels = f"to {module.reduce.out_features} and back to {shape[-1]}"
        colour = GATE
    elif norm is not None:
        rest.insert(0, type(norm).__name__)
    return Layer(title(module), channels, tuple(filter(None, rest)), colour)


def _row(stages: list[_Stage]) -> Canvas:
    """The stages from left to right, as high as the log of their feature maps."""
    canvas = Canvas()
    sides = [stage.shape[0] if len(stage.shape) == 3 else 1 for stage in stages]
    heights = [STAGE_HEIGHT + 14 * math.log2(side) for side in sides]
    for i, (stage, height) in enumerate(zip(stages, heights, strict=True)):
        x = i * (STAGE_WIDTH + GAP)
        top = (max(heights) - height) / 2
        canvas.box(x, top, STAGE_WIDTH, height, stage.lines(), STAGE)
        if i:
            middle = max(heights) / 2
            canvas.arrow((x - GAP, middle), (x, middle))
    return canvas


def _flow(chart: Chart, title: str) -> Canvas:
    """A block's layers from top to bottom, with its skip to their right."""
    canvas = Canvas()
    width, height = BOX
    middle, y = width / 2, 12.0
    canvas.text(0, y, title, bold=True, middle=False)
    y += GAP
    top = y
    for layer in chart.branch:
        canvas.arrow((middle, y), (middle, y + GAP))
        y += GAP
        canvas.box(0, y, width, height, layer.lines, layer.colour)
        y += height
    canvas.arrow((middle, y), (middle, y + GAP), head=chart.skip is not None)
    y += GAP
    if chart.skip is not None:
        _draw_skip(canvas, chart, top + 6, y + 10)
        canvas.circle(middle, y + 10, 8, "+")
        y += 18
        canvas.arrow((middle, y), (middle, y + GAP), head=False)
        y += GAP
    if chart.end:
        canvas.text(middle, y + 12, chart.end)
        y += GAP
    canvas.arrow((middle, y), (middle, y + GAP))
    return canvas


def _draw_skip(canvas: Canvas, chart: Chart, top: float, bottom: float) -> None:
    """The line from above the branch to the addition below it, through the skip's own layers."""
    middle = BOX[0] / 2
    x = BOX[0] + (SIDE / 2 if not chart.skip else SIDE / 2 + middle)
    canvas.arrow((middle, top), (x, top), (x, bottom), (middle + 9, bottom))
    if chart.added:
        canvas.text(x + 6, (top + bottom) / 2, chart.added, middle=False)
    for i, layer in enumerate(chart.skip or ()):
        y = (top + bottom) / 2 - BOX[1] / 2 + i * (BOX[1] + GAP / 2)
        canvas.box(x - middle, y, *BOX, layer.lines, layer.colour)
