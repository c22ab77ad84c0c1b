"""`codetr train`: start a run, or go on with one."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

NEWEST = ""


@click.command("train")
@click.argument("arguments", nargs=-1, metavar="SPEC [KEY=VALUE]...")
@click.option(
    "--resume",
    is_flag=False,
    flag_value=NEWEST,
    metavar="[RUN]",
    help="Go on with a run from its last checkpoint; without RUN the newest one (of SPEC, if that is given).",
)
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the run [runs/<name of SPEC>].")
@click.option("--max-steps", type=click.IntRange(min=1), metavar="N", help="Stop after step N of the run.")
@click.pass_context
def command(
    ctx: click.Context, arguments: tuple[str, ...], resume: str | None, out: Path | None, max_steps: int | None
) -> None:
    """Train a spec: a YAML file, or a name that `codetr zoo list` prints.

    KEY=VALUE changes a setting, data=DIR names the data set:

        codetr train zoo/co_deformable_r50.yaml data=DIR train.epochs=36

    Ctrl-C saves and prints the command that goes on. On several GPUs:

        torchrun --nproc-per-node N -m codetr.cli.main train SPEC data=DIR
    """
    if resume and ("=" in resume or resume.endswith((".yaml", ".yml"))):  # `--resume` alone, before another argument
        arguments, resume = (resume, *arguments), NEWEST
    spec, overrides = split_arguments(arguments)
    if spec is None and resume is None:
        raise click.UsageError("name a spec to train, or a run to go on with: --resume RUN")
    if resume is not None and out is not None:
        raise click.UsageError("a resumed run stays in its own folder: leave --out away")

    from codetr.api import train

    going_on: str | Literal[True] | None = None if resume is None else (resume or True)
    result = train(spec, overrides=overrides, out=out, resume=going_on, max_steps=max_steps)
    if result.outcome.signal is not None:
        ctx.exit(128 + result.outcome.signal)


def split_arguments(arguments: tuple[str, ...]) -> tuple[str | None, tuple[str, ...]]:
    """The spec, if the first argument is one, and the overrides."""
    if arguments and "=" not in arguments[0]:
        return arguments[0], arguments[1:]
    return None, arguments
