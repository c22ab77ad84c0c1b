"""`codetr launch`: write the batch file of a cluster."""

from __future__ import annotations

from pathlib import Path

import click

CPUS_PER_GPU = 8


@click.command("launch")
@click.argument("arguments", nargs=-1, metavar="SPEC [KEY=VALUE]...")
@click.option("--slurm", is_flag=True, help="For SLURM, the one that there is.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Where to write it. [<SPEC>.sbatch]"
)
@click.option("--nodes", type=click.IntRange(min=1), default=1, show_default=True, metavar="M", help="Machines.")
@click.option("--gpus", type=click.IntRange(min=1), required=True, metavar="N", help="GPUs of each machine.")
@click.option("--cpus", type=click.IntRange(min=1), metavar="C", help=f"CPUs of each machine. [{CPUS_PER_GPU} a GPU]")
@click.option("--time", metavar="D-HH:MM:SS", help="Time limit of the job.")
@click.option("--partition", metavar="NAME", help="Partition of the cluster.")
@click.option("--account", metavar="NAME", help="Account that is charged.")
@click.option("--requeue", is_flag=True, help="Go on in a further job when time is up or the machines are taken away.")
@click.option(
    "--max-restarts", type=click.IntRange(min=0), default=3, show_default=True, help="After a rank has died, in a job."
)
@click.option("--out", metavar="DIR", help="Folder of the run, the job's number is added. [runs/<name of SPEC>]")
@click.option("--sbatch", "extra", multiple=True, metavar="OPTION", help="A further option, as --constraint=a100.")
def command(
    arguments: tuple[str, ...],
    slurm: bool,
    output: Path | None,
    gpus: int,
    nodes: int,
    cpus: int | None,
    out: str | None,
    time: str | None,
    partition: str | None,
    account: str | None,
    requeue: bool,
    max_restarts: int,
    extra: tuple[str, ...],
) -> None:
    """Write a batch file that trains SPEC on several machines:

    codetr launch --slurm SPEC data=DIR --nodes 2 --gpus 8 --time 1-00:00:00 --requeue -o job.sbatch

    sbatch job.sbatch
    """
    from codetr.cli.train import split_arguments
    from codetr.engine.plan import piece_size
    from codetr.engine.slurm import Job, batch_file
    from codetr.errors import UserError
    from codetr.spec import load_spec

    if not slurm:
        raise click.UsageError("say for which kind of cluster: --slurm")
    spec, overrides = split_arguments(arguments)
    if spec is None:
        raise click.UsageError("name a spec to train")
    for option in (*extra, *(value for value in (time, partition, account) if value is not None)):
        if not option.strip() or "\n" in option or (option in extra and not option.startswith("-")):
            raise click.UsageError(f"{option!r} is no option of sbatch; write it as --sbatch=--constraint=a100")
    document = load_spec(spec, overrides)
    piece_size(document.train, nodes * gpus)
    name = document.document.name
    job = Job(
        name=name,
        spec=spec,
        overrides=overrides,
        run=out or f"runs/{name}",
        nodes=nodes,
        gpus=gpus,
        cpus=cpus or CPUS_PER_GPU * gpus,
        time=time,
        partition=partition,
        account=account,
        requeue=requeue,
        max_restarts=max_restarts,
        extra=extra,
    )
    place = output or Path(f"{name}.sbatch")
    try:
        place.write_text(batch_file(job), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{place}: cannot be written ({error.strerror}); name another file with -o") from error
    click.echo(f"{place}: {nodes} x {gpus} GPUs. Submit it: sbatch {place}")
