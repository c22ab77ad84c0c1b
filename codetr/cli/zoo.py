"""`codetr zoo`: the shipped specs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from codetr import zoo


@click.group("zoo")
def command() -> None:
    """List the shipped specs, show what one resolves to, write the schema for editors."""


@command.command("list")
@click.option("--all", "fragments", is_flag=True, help="Also the fragments that specs extend.")
def list_specs(fragments: bool) -> None:
    """List the specs that can be trained as they are."""
    names = zoo.names() if fragments else zoo.recipes()
    width = max(map(len, names), default=0)
    for name in names:
        summary = zoo.docstring(zoo.find(name)).partition("\n")[0]
        click.echo(f"{name:<{width}}  {summary}".rstrip())
    click.echo(f"\nin {zoo.root()}; `codetr zoo show NAME` prints one", err=True)


@command.command("show")
@click.argument("spec")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def show(spec: str, overrides: tuple[str, ...]) -> None:
    """Print a spec as it resolves, with the file and line that set each value.

    The output is itself a spec.
    """
    from codetr.show import annotated
    from codetr.spec import load_spec

    resolved = load_spec(spec, overrides)
    text = annotated(resolved, resolved.document)
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.syntax import Syntax

        Console().print(Syntax(text, "yaml", background_color="default"), soft_wrap=True)
    else:
        click.echo(text, nl=False)


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
