"""`codetr zoo`: the shipped specs."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from codetr import zoo

if TYPE_CHECKING:
    from codetr.spec import Spec

_WIDTH = 100
"""Columns of a table that is not written to a terminal."""


@click.group("zoo")
def command() -> None:
    """List the shipped specs, show what one resolves to, write the schema for editors."""


@command.command("list")
@click.option("--all", "fragments", is_flag=True, help="Also the fragments that specs extend.")
@click.option("--components", "parts", is_flag=True, help="What specs are made of instead: bases, heads and so on.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def list_specs(fragments: bool, parts: bool, as_json: bool) -> None:
    """List the specs that can be trained as they are, with the AP on COCO val that was published for each.

    Those under paper/ are rows of the tables of the Co-DETR paper. Components are built in or from installed packages.
    """
    if parts:
        if fragments:
            raise click.UsageError("--all: not with --components")
        return _list_components(as_json=as_json)
    names = zoo.names() if fragments else zoo.recipes()
    recipes = [zoo.recipe(name) for name in names]
    if as_json:
        click.echo(json.dumps([asdict(recipe) for recipe in recipes], indent=2))
        return
    if sys.stdout.isatty():
        _print_tables(recipes)
    else:
        _print_lines(recipes)
    click.echo(f"\nin {zoo.root()}; `codetr zoo show NAME` prints one", err=True)


def _list_components(*, as_json: bool) -> None:
    """A line for each: kind, name, where it comes from, what it is."""
    from codetr.registry import SINGULAR, components

    found = components()
    if as_json:
        click.echo(json.dumps([asdict(component) for component in found], indent=2))
        return
    width, origin = (max(len(getattr(c, field)) for c in found) for field in ("name", "origin"))
    for c in found:
        click.echo(f"{SINGULAR[c.kind]:<8}  {c.name:<{width}}  {c.origin:<{origin}}  {c.description}".rstrip())


def _print_tables(recipes: list[zoo.Recipe]) -> None:
    from rich.console import Console

    from codetr.zoo_tables import recipe_tables

    console = Console(highlight=False)
    for table in recipe_tables(recipes, width=console.width):
        console.print(table)
    console.print("AP: published, on COCO val. ours: measured by this project.", style="dim")


def _print_lines(recipes: list[zoo.Recipe]) -> None:
    """A line for each: name, published AP or -, what it is."""
    width = max((len(recipe.name) for recipe in recipes), default=0)
    for recipe in recipes:
        published = "-" if recipe.published is None else f"{recipe.published:.1f}"
        click.echo(f"{recipe.name:<{width}}  {published:>4}  {recipe.summary}".rstrip())


@command.command("show")
@click.argument("spec")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--model", "as_model", is_flag=True, help="Its modules instead: parameters, operations, what only training has."
)
@click.option("--classes", type=click.IntRange(min=1), default=80, show_default=True, help="With --model.")
def show(spec: str, overrides: tuple[str, ...], as_model: bool, classes: int) -> None:
    """Print a spec as it resolves, with the file and line that set each value.

    The output is itself a spec. With --model, print the model that it makes.
    """
    from codetr.show import annotated
    from codetr.spec import load_spec

    resolved = load_spec(spec, overrides)
    if as_model:
        _print_model(resolved, classes)
        return
    text = annotated(resolved, resolved.document)
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.syntax import Syntax

        Console().print(Syntax(text, "yaml", background_color="default"), soft_wrap=True)
    else:
        click.echo(text, nl=False)


def _print_model(spec: Spec, classes: int) -> None:
    from rich.console import Console

    from codetr.model_summary import summarise
    from codetr.zoo_tables import model_note, model_table

    summary = summarise(spec, num_classes=classes)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
    console.print(model_table(summary, title=spec.document.name))
    console.print(model_note(summary), style="dim")


@command.command("schema")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="File; default: standard output.")
def schema(output: Path | None) -> None:
    """Write the JSON schema of a spec, for completion and checks in editors."""
    from codetr.schema import json_schema
    from codetr.spec import Spec

    text = json.dumps(json_schema(Spec), indent=2)
    if output is None:
        click.echo(text)
    else:
        output.write_text(f"{text}\n", encoding="utf-8")
        click.echo(f"{output}: put `# yaml-language-server: $schema={output}` into the first line of a spec")
