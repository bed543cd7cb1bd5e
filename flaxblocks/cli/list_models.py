"""`flaxblocks list`: the registered models."""

import click

from flaxblocks.cli.options import Example
from flaxblocks.cli.output import print_json

__all__ = ["list_command"]


@click.command("list", cls=Example, example="flaxblocks list 'mobilenet*'")
@click.argument("pattern", default="*")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_command(pattern: str, as_json: bool) -> None:
    """List the models whose names match PATTERN, by default all.

    Each line gives the name, the number of parameters, the library that the model comes from and
    the published weights. PATTERN may hold the wildcards * and ?.
    """
    from flaxblocks.models.registry import find_model, list_models
    from flaxblocks.weights import list_weights

    rows = []
    for name in list_models(pattern):
        entry, tags = find_model(name), [weights.tag for weights in list_weights(name)]
        rows.append(
            {"name": name, "parameters": entry.parameters, "source": entry.source, "weights": tags}
        )
    if not rows:
        raise click.UsageError(
            f"PATTERN {pattern!r} matches no model; `flaxblocks list` shows all models"
        )
    if as_json:
        print_json(rows)
        return
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        parameters = f"{row['parameters'] / 1e6:.2f} M" if row["parameters"] else "-"
        tags = ", ".join(row["weights"])
        click.echo(f"{row['name']:{width}} {parameters:>9}  {row['source']:12} {tags}".rstrip())
