"""`codetr train`: start a run, or go on with one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from codetr.errors import UserError

if TYPE_CHECKING:
    from codetr.engine.launch import Launch

NEWEST = ""
USER_ERROR = 2
LAUNCH = ("gpus", "nodes", "node_rank", "rendezvous", "max_restarts")
"""Options that say how ranks are started, which the ranks themselves are not given."""


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
@click.option("--gpus", type=click.IntRange(min=1), metavar="N", help="Train on N GPUs of this machine, one rank each.")
@click.option("--nodes", type=click.IntRange(min=1), metavar="M", help="Machines; the same command runs on each. [1]")
@click.option(
    "--node-rank", type=click.IntRange(min=0), metavar="R", help="Number of this machine, from 0, if need be."
)
@click.option("--rendezvous", metavar="HOST:PORT", help="Where several machines meet: the first one, and a free port.")
@click.option("--max-restarts", type=click.IntRange(min=0), metavar="K", help="Go on up to K times after a rank died.")
@click.option("--dry-run", is_flag=True, help="Print the plan of the run and end; --gpus need not be there.")
@click.option("--verify-resume", is_flag=True, help="Prove that a run which is killed and resumed ends the same.")
@click.pass_context
def command(
    ctx: click.Context,
    arguments: tuple[str, ...],
    resume: str | None,
    out: Path | None,
    max_steps: int | None,
    **_: Any,
) -> None:
    """Train a spec: a YAML file, or a name that `codetr zoo list` prints.

    KEY=VALUE changes a setting, data=DIR names the data set:

        codetr train zoo/co_deformable_r50.yaml data=DIR train.epochs=36

    Ctrl-C saves and prints the command that goes on. On four GPUs, or from a job of SLURM (codetr launch --help):

        codetr train SPEC data=DIR --gpus 4

    Exit codes: 0 done, 2 something to mend (one message says what), 130 and 143 stopped by Ctrl-C and SIGTERM with
    everything saved, 1 a mistake in codetr, or --verify-resume found a difference.
    """
    if resume and ("=" in resume or resume.endswith((".yaml", ".yml"))):  # `--resume` alone, before another argument
        arguments, resume = (resume, *arguments), NEWEST
    spec, overrides = split_arguments(arguments)
    if spec is None and resume is None:
        raise click.UsageError("name a spec to train, or a run to go on with: --resume RUN")
    if resume is not None and out is not None:
        raise click.UsageError("a resumed run stays in its own folder: leave --out away")
    if ctx.params["dry_run"]:
        _print_plan(ctx, spec, overrides)
    elif ctx.params["verify_resume"]:
        _verify_resume(ctx, spec, overrides, max_steps=max_steps)
    elif _is_launcher(ctx):
        ctx.exit(_launch(ctx, spec, overrides, folder=out or (Path(resume) if resume else None)))
    else:
        _train(ctx, spec, overrides=overrides, out=out, resume=resume, max_steps=max_steps)


def _train(ctx: click.Context, spec: str | None, *, resume: str | None, **options: Any) -> None:
    """In this process; as a rank, if there are others."""
    from codetr.api import train
    from codetr.engine.launch import record_failure

    going_on: str | Literal[True] | None = None if resume is None else (resume or True)
    try:
        result = train(spec, resume=going_on, **options)
    except Exception as error:
        if not record_failure(error):
            raise
        ctx.exit(USER_ERROR if isinstance(error, UserError) else 1)
    if result.outcome.signal is not None:
        ctx.exit(128 + result.outcome.signal)


def _print_plan(ctx: click.Context, spec: str | None, overrides: tuple[str, ...]) -> None:
    from rich.console import Console

    from codetr.engine.dry_run import dry_run
    from codetr.spec import load_spec

    if spec is None:
        raise click.UsageError("--dry-run plans a new run: name a spec")
    ranks = (ctx.params["gpus"] or 1) * (ctx.params["nodes"] or 1)
    dry_run(load_spec(spec, overrides), ranks=ranks, console=Console())


def _verify_resume(ctx: click.Context, spec: str | None, overrides: tuple[str, ...], *, max_steps: int | None) -> None:
    from rich.console import Console

    from codetr.engine.verify_resume import verify_resume

    if spec is None:
        raise click.UsageError("--verify-resume tries a new run: name a spec")
    launch = [f"--{name.replace('_', '-')}={ctx.params[name]}" for name in LAUNCH if ctx.params[name] is not None]
    same = verify_resume([spec, *overrides, *launch], steps=max_steps, console=Console())
    ctx.exit(0 if same else 1)


def _is_launcher(ctx: click.Context) -> bool:
    """Whether this process is to start the ranks of the run, and not to be one."""
    given = [name for name in LAUNCH if ctx.params[name] is not None]
    if not given:
        return False
    if ctx.params["gpus"] is None:
        raise click.UsageError(f"--{given[0].replace('_', '-')} needs --gpus N, the number of GPUs of each machine")
    if "RANK" in os.environ:
        from codetr.engine.launch import check_inside

        check_inside(_settings(ctx))
        return False
    # One rank can die as well as several.
    return _settings(ctx).gpus > 1 or _settings(ctx).nodes > 1 or _settings(ctx).max_restarts > 0


def _launch(ctx: click.Context, spec: str | None, overrides: tuple[str, ...], *, folder: Path | None) -> int:
    from codetr.engine.launch import check_launch, launch_ranks
    from codetr.engine.plan import piece_size
    from codetr.engine.run_folder import find_run
    from codetr.spec import load_spec

    source = spec if spec is not None else find_run(folder).spec
    config = load_spec(source, overrides).train
    check_launch(_settings(ctx), device=config.device)
    piece_size(config, _settings(ctx).gpus * _settings(ctx).nodes)
    return launch_ranks(_settings(ctx), _rank_command(ctx), folder=folder)


def _settings(ctx: click.Context) -> Launch:
    from codetr.engine.launch import Launch

    return Launch(**{name: ctx.params[name] for name in LAUNCH if ctx.params[name] is not None})


def _rank_command(ctx: click.Context) -> list[str]:
    """The command line without the options of launching."""
    debug = ctx.parent is not None and ctx.parent.params.get("debug")
    line = [*(["--debug"] if debug else []), "train"]
    positional: list[str] = []
    for parameter in ctx.command.params:
        value = ctx.params[str(parameter.name)]
        if isinstance(parameter, click.Argument):
            positional += value
        elif parameter.name not in LAUNCH and value is not None and value is not False:
            line.append(parameter.opts[0] if value is True else f"{parameter.opts[0]}={value}")
    return [*line, *positional]


def split_arguments(arguments: tuple[str, ...]) -> tuple[str | None, tuple[str, ...]]:
    """The spec, if the first argument is one, and the overrides."""
    if arguments and "=" not in arguments[0]:
        return arguments[0], arguments[1:]
    return None, arguments
