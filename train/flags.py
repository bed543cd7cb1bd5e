"""The dataclass `Config` as a command line: flags, help, and config files in the same words.

A flag beats the config file, the file beats the recipe, the recipe beats the default.
"""

import math
import tomllib
import types
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import click

from train.config import SECTIONS, Config, flag

__all__ = ["command_of", "read_config_file", "recipes", "to_toml"]

RECIPES = Path(__file__).with_name("recipes")


def command_of(
    run: Callable[[Config], Any], *, only: Sequence[str] | None = None, help: str
) -> click.Command:
    """A command whose flags are the fields of `Config`.

    Args:
        run: takes the finished `Config`.
        only: fields to offer; all, with `--config` and `--recipe`, by default.
        help: what the command does.
    """
    hints = get_type_hints(Config)
    offered = [field for field in fields(Config) if only is None or field.name in only]
    options: list[click.Parameter] = [_option(field, hints[field.name]) for field in offered]
    if only is None:
        options += _config_options()
    return _Sectioned(
        "train", params=options, callback=lambda **values: run(Config(**values)), help=help
    )


class _Finite(click.FloatRange):
    """A number; neither infinity nor NaN."""

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
        return click.Option(
            [f"{flag(field.name)}/--no-{flag(field.name)[2:]}"],
            **settings,
            default=field.default,
            show_default=True,
        )
    if get_origin(kinds[0]) is tuple:
        return click.Option([flag(field.name)], **settings, multiple=True, metavar="TEXT")
    if rule["choices"]:
        settings["type"] = click.Choice(rule["choices"])
    elif kinds == [int]:
        settings["type"] = click.IntRange(rule["least"], rule["most"])
    elif kinds == [float]:
        least = rule["least"] if rule["above"] is None else rule["above"]
        settings["type"] = _Finite(least, rule["most"], min_open=rule["above"] is not None)
    assert field.default is not MISSING
    return click.Option(
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


def _config_options() -> list[click.Parameter]:
    def from_file(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
        if path is not None:
            ctx.default_map = {**(ctx.default_map or {}), **read_config_file(path)}

    def from_recipe(ctx: click.Context, _: click.Parameter, name: str | None) -> None:
        if name is not None:  # what a file says stays, whichever came first
            recipe = read_config_file(RECIPES / f"{name}.toml")
            ctx.default_map = {**recipe, **(ctx.default_map or {})}

    shared: dict[str, Any] = {"is_eager": True, "expose_value": False}
    return [
        click.Option(
            ["--config"],
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            callback=from_file,
            help="TOML file of the flags above, such as `batch-size = 64`.",
            **shared,
        ),
        click.Option(
            ["--recipe"],
            type=click.Choice(recipes()),
            callback=from_recipe,
            help="Settings of a paper or of torchvision; see train/recipes.",
            **shared,
        ),
    ]


def read_config_file(path: Path) -> dict[str, Any]:
    """The settings in a TOML file, by field.

    Raises: click.UsageError for a file that is not TOML or names a setting that there is not.
    """
    try:
        table = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise click.UsageError(f"--config {path} cannot be read: {error}") from error
    names = {flag(field.name)[2:]: field.name for field in fields(Config)}
    settings: dict[str, Any] = {}
    for key, value in table.items():
        name = names.get(key.replace("_", "-"))
        if name is None:
            from flaxblocks.registry import suggest  # imports JAX

            hint = suggest(key, list(names))
            raise click.UsageError(f"--config {path} has no setting {key!r}{hint}")
        settings[name] = _as_flag(value)
    return settings


def _as_flag(value: Any) -> Any:
    """Numbers as text, so that 3.7 epochs are refused as on the command line, and not rounded."""
    if isinstance(value, bool | list | str):
        return value
    return str(value)


def to_toml(config: Config) -> str:
    """What `--config` reads, of all settings but those that are None."""
    import tomli_w

    table = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if value is not None:
            table[flag(field.name)[2:]] = list(value) if isinstance(value, tuple) else value
    return tomli_w.dumps(table)


class _Sectioned(click.Command):
    """A command whose help is in sections."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        section, rows = "Options", {}
        for param in self.get_params(ctx):
            section = SECTIONS.get(param.name or "", section)
            if param.name in ("config", "recipe", "help"):
                section = "Otherwise"
            record = param.get_help_record(ctx)
            if record:
                rows.setdefault(section, []).append(record)
        for section, records in rows.items():
            with formatter.section(section):
                formatter.write_dl(records)
