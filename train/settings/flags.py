"""The dataclass `Config` as a command line: flags, help, and config files with the same names.

A flag overrides the config file, the config file the recipe, and the recipe the default.
"""

import math
import tomllib
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import click

from train.settings.config import SECTIONS, Config, flag
from train.settings.otherwise import said_here

__all__ = ["command_of", "read_config_file", "recipes", "to_toml"]

NONE = "none"
TOLD_BY = f"{__name__}.told_by"  # setting -> the file that sets it
RECIPES = Path(__file__).with_name("recipes")


def command_of(
    run: Callable[[Config], Any], *, only: Sequence[str] | None = None, help: str
) -> click.Command:
    """A command whose flags are the fields of `Config`.

    Args:
        run: called with the finished `Config`.
        only: fields to offer as flags, next to `--config`; by default all, and `--recipe` too.
        help: description of the command.
    """
    hints = get_type_hints(Config)
    offered = [field for field in fields(Config) if only is None or field.name in only]
    options: list[click.Parameter] = [_option(field, hints[field.name]) for field in offered]
    options += _config_options(only)
    return _Sectioned(
        "train", params=options, callback=lambda **values: run(Config(**values)), help=help
    )


class _Setting(click.Option):
    """An option whose value may come from a file, which the error for a wrong value names."""

    def handle_parse_result(self, ctx, opts, args):
        try:
            return super().handle_parse_result(ctx, opts, args)
        except click.BadParameter as error:
            file = ctx.meta.get(TOLD_BY, {}).get(self.name)
            if file is None or self.name in opts:
                raise
            text = f"{error.message.rstrip('.')}, in --config {file}"
            raise click.BadParameter(text, ctx, self) from error


class _Open(_Setting):
    """An option that the value `none` unsets, where a recipe or file sets it."""

    def type_cast_value(self, ctx, value):
        return None if value == NONE else super().type_cast_value(ctx, value)


class _Finite(click.FloatRange):
    """A number; neither infinity nor NaN."""

    name = "number"

    def convert(self, value, param, ctx):
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


def _option(field: Field, hint: Any) -> click.Option:
    rule = field.metadata
    kinds = [kind for kind in _union(hint) if kind is not type(None)]
    settings: dict[str, Any] = {"help": rule["help"]}
    if kinds == [bool]:
        return _Setting(
            [f"{flag(field.name)}/--no-{flag(field.name)[2:]}"],
            **settings,
            default=field.default,
            show_default=True,
        )
    if get_origin(kinds[0]) is tuple:
        settings["callback"] = _beside_the_recipes if field.name == "set" else None
        return _Setting([flag(field.name)], **settings, multiple=True, metavar="TEXT")
    if rule["choices"]:
        settings["type"] = click.Choice(rule["choices"])
    elif kinds == [int]:
        settings["type"] = click.IntRange(rule["least"], rule["most"])
    elif kinds == [float]:
        least = rule["least"] if rule["above"] is None else rule["above"]
        settings["type"] = _Finite(least, rule["most"], min_open=rule["above"] is not None)
    assert field.default is not MISSING
    option = _Open if field.default is None else _Setting
    return option(
        [flag(field.name)],
        **settings,
        default=field.default,
        show_default=field.default not in (None, ""),
    )


def _union(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def recipes() -> list[str]:
    """The names that `--recipe` takes."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def _config_options(only: Sequence[str] | None) -> list[click.Parameter]:
    def from_file(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
        if path is None:
            return
        told = read_config_file(path)
        if only is not None:  # not the initial weights of the run, nor its devices
            left_out = {
                "weights",
                *(field.name for field in fields(Config) if field.metadata["free"]),
            }
            told = {name: value for name, value in told.items() if name not in left_out}
        ctx.default_map = _over(ctx.default_map or {}, told)
        ctx.meta[TOLD_BY] = dict.fromkeys(told, path)

    def from_recipe(ctx: click.Context, _: click.Parameter, name: str | None) -> None:
        if name is not None:  # a file overrides the recipe, whichever is given first
            recipe = read_config_file(RECIPES / f"{name}.toml")
            ctx.default_map = _over(recipe, ctx.default_map or {})

    shared: dict[str, Any] = {"is_eager": True, "expose_value": False}
    config = click.Option(
        ["--config"],
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        callback=from_file,
        help="TOML file of the settings above, with lines such as `batch-size = 64`."
        if only is None
        else "The `config.toml` of a run; it sets the flags above except --weights, --workers and "
        "--mesh.",
        **shared,
    )
    recipe = click.Option(
        ["--recipe"],
        type=click.Choice(recipes()),
        callback=from_recipe,
        help="Settings of a paper or of torchvision, see train/settings/recipes. The value `none`, "
        "as in `--ema none`, unsets a setting of the recipe.",
        **shared,
    )
    return [config, recipe] if only is None else [config]


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Settings `below` overridden by those `above`; the items of `set` are merged by name."""
    both = {**below, **above}
    if "set" in below and "set" in above:
        both["set"] = _merged(below["set"], above["set"])
    return both


def _merged(below: Sequence[str], above: Sequence[str]) -> list[str]:
    names = {setting.partition("=")[0] for setting in above}
    return [s for s in below if s.partition("=")[0] not in names] + list(above)


def _beside_the_recipes(
    ctx: click.Context, param: click.Parameter, given: tuple[str, ...]
) -> tuple[str, ...]:
    """The values of `--set`, and those in a recipe or file for other names."""
    return tuple(_merged((ctx.default_map or {}).get(param.name or "", ()), given))


def read_config_file(path: Path) -> dict[str, Any]:
    """The settings in a TOML file, by the name of the field.

    Raises: click.UsageError for a file that is not TOML or names an unknown setting.
    """
    try:
        table = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise click.UsageError(f"--config {path} cannot be read: {error}") from error
    known = {flag(field.name)[2:]: field for field in fields(Config)}
    settings: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            raise click.UsageError(
                f"--config {path} has the table {key!r}: settings must not be inside a table"
            )
        field = known.get(key.replace("_", "-"))
        if field is None:
            raise click.UsageError(f"--config {path} has no setting {key!r}{_hint(key, known)}")
        settings[field.name] = _as_flag(value, several=isinstance(field.default, tuple))
    return settings


def _hint(key: str, known: Collection[str]) -> str:
    meant = said_here(key, [f"--{name}" for name in known])
    if meant is not None:
        return f": --{key} {meant}"
    from flaxblocks.models.registry import suggest  # imports JAX

    return suggest(key, list(known))


def _as_flag(value: Any, *, several: bool) -> Any:
    """A value as text, so that 3.7 epochs are rejected as on the command line, not rounded."""
    if isinstance(value, list):
        texts = [_as_flag(one, several=False) for one in value]
        return texts if several else ",".join(texts)
    text = value if isinstance(value, str) else str(value).lower()
    return [text] if several else text


def to_toml(config: Config) -> str:
    """The settings that are not None, in the format that `--config` reads."""
    import tomli_w

    table = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if value is not None:
            table[flag(field.name)[2:]] = list(value) if isinstance(value, tuple) else value
    return tomli_w.dumps(table)


class _Sectioned(click.Command):
    """A command with sections in its help, and with hints for the flags of other programs."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            offered = [name for param in self.get_params(ctx) for name in param.opts]
            meant = said_here(error.option_name, offered)
            if meant is None:
                raise
            raise click.UsageError(f"{error.option_name} {meant}") from error

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        section, rows = "Options", {}
        for param in self.get_params(ctx):
            section = SECTIONS.get(param.name or "", section)
            if param.name in ("config", "recipe", "help"):
                section = "Other options"
            record = param.get_help_record(ctx)
            if record:
                rows.setdefault(section, []).append(record)
        for section, records in rows.items():
            with formatter.section(section):
                formatter.write_dl(records)
