"""`codetr bench`: the kernels against their peers, on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from codetr.errors import UserError

if TYPE_CHECKING:
    import torch

    from codetr.bench.measuring import Row

WRONG = 1


@click.group("bench")
def command() -> None:
    """Benchmark the kernels."""


@command.command("kernels")
@click.option(
    "--problem", "problems", multiple=True, metavar="NAME", help="Measure this one; * is anything. Repeatable."
)
@click.option("--list", "only_list", is_flag=True, help="List the problems.")
@click.option("--quick", is_flag=True, help="Two small problems and short timings, to see that it works.")
@click.option("--peer", "peers", multiple=True, metavar="MODULE:FUNCTION", help="A peer like deform_attention.")
@click.option("--without", multiple=True, metavar="NAME", help="Leave out a candidate, e.g. compiled. Repeatable.")
@click.option("--device", metavar="NAME", help="cpu, cuda or cuda:N; default: the GPU if there is one.")
@click.option("--json", "json_file", type=Path, metavar="FILE", help="Write everything to a JSON file.")
@click.option("--chart", type=Path, metavar="FILE.png", help="Draw everyone's speed beside a peer's.")
@click.option("--against", metavar="NAME", help="The peer of --chart.  [default: reference]")
@click.option(
    "--compile-only", is_flag=True, help="Compile the kernels for --target and show registers, spills and so on."
)
@click.option("--target", metavar="ARCH,...", help="Of --compile-only; needs no such GPU.  [default: sm_80,sm_90]")
@click.option(
    "--tune", is_flag=True, help="Measure launch configurations on this GPU and write the best to your table."
)
@click.pass_context
def kernels(
    ctx: click.Context,
    problems: tuple[str, ...],
    only_list: bool,
    quick: bool,
    peers: tuple[str, ...],
    without: tuple[str, ...],
    device: str | None,
    json_file: Path | None,
    chart: Path | None,
    against: str | None,
    compile_only: bool,
    target: str | None,
    tune: bool,
) -> None:
    """Check multi-scale deformable attention against float64, then time it beside its peers.

    What is wrong is reported and not timed; the exit code is 1 if that is codetr's. Peers that are not installed are
    listed as absent. Without a GPU the CPU paths are timed.
    """
    measuring = {"--problem": problems, "--peer": peers, "--without": without, "--chart": chart, "--against": against}
    if target is not None and not compile_only:
        raise click.UsageError("--target: only with --compile-only")
    if against is not None and chart is None:
        raise click.UsageError("--against: only with --chart")
    if compile_only:
        _refuse(
            {**measuring, "--quick": quick, "--list": only_list, "--device": device, "--tune": tune}, "--compile-only"
        )
        _compile(target, json_file)
    elif tune:
        _refuse({**measuring, "--list": only_list, "--json": json_file}, "--tune")
        _tune(_choose_device(device), quick=quick)
    elif only_list:
        _list(problems, _choose_device(device))
    else:
        rows = _measure(
            _choose_device(device),
            problems,
            peers,
            without,
            quick=quick,
            json_file=json_file,
            chart=chart,
            against=against or "reference",
        )
        if any(row.candidate == "codetr" and row.status == "wrong" for row in rows):
            ctx.exit(WRONG)


def _refuse(options: dict[str, object], other: str) -> None:
    """A setting without effect is an error."""
    given = [name for name, value in options.items() if value]
    if given:
        raise click.UsageError(f"{' and '.join(given)}: not with {other}")


def _choose_device(name: str | None) -> torch.device:
    import torch

    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device {name}: no device is called so. Use cpu, cuda or cuda:N.") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: not supported. Use cpu, cuda or cuda:N.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: PyTorch sees {torch.cuda.device_count()} GPUs. Use one of them, or cpu.")
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def _list(patterns: Sequence[str], device: torch.device) -> None:
    from codetr.bench.problems import select

    chosen = {problem.name for problem in select(patterns, device=device, quick=False)}
    for problem in select(["*"], device=device, quick=False):
        mark = "*" if problem.name in chosen else " "
        shape = f"{problem.batch} x {problem.rows} queries, {problem.tokens} tokens, {len(problem.levels)} levels"
        click.echo(f"{mark} {problem.name:<24} {shape}")
    click.echo("* measured with these options")


def _measure(
    device: torch.device,
    patterns: Sequence[str],
    peers: Sequence[str],
    without: Sequence[str],
    *,
    quick: bool,
    json_file: Path | None,
    chart: Path | None,
    against: str,
) -> list[Row]:
    from codetr.bench import report
    from codetr.bench.candidates import find_candidates
    from codetr.bench.ceilings import measure_ceilings
    from codetr.bench.chart import draw, require_matplotlib
    from codetr.bench.measuring import grouped, run
    from codetr.bench.problems import select

    if chart is not None:
        require_matplotlib()
    problems = select(patterns, device=device, quick=quick)
    candidates, absent = find_candidates(device, peers=peers, without=without)
    if chart is not None and against not in [candidate.name for candidate in candidates]:
        known = ", ".join(candidate.name for candidate in candidates)
        raise UserError(f"--against {against}: nobody of that name is measured here; measured are: {known}")
    out = report.console()
    report.print_machine(out, device)
    report.print_people(out, candidates, absent)
    ceilings = measure_ceilings(device, quick=quick)
    report.print_ceilings(out, ceilings)
    rows = []
    for problem, chain_rows in grouped(run(problems, candidates, ceilings, device, quick=quick)):
        report.print_rows(out, chain_rows, problem)
        rows += chain_rows
    if json_file is not None:
        from codetr.evaluation.files import write_json

        write_json(json_file, report.record(device, ceilings, rows, candidates, absent), indent=2)
    if chart is not None:
        draw(rows, chart, against=against, subtitle=report.machine(device)["hardware"])
    return rows


def _compile(target: str | None, json_file: Path | None) -> None:
    from codetr.bench import compiled, report

    rows = list(compiled.compile_for(compiled.parse_targets(target)))
    compiled.print_compiled(report.console(), rows)
    if json_file is not None:
        from codetr.evaluation.files import write_json

        write_json(json_file, rows, indent=2)


def _tune(device: torch.device, *, quick: bool) -> None:
    from codetr.bench import tuning

    choices = []
    for choice in tuning.tune(device, quick=quick):
        gain = f"{choice.present_time:.4g} ms now, {choice.best_time:.4g} ms with {tuple(choice.best)}"
        kept = "" if choice.is_better else "; the present one stays"
        click.echo(f"{choice.key}: {choice.tried} tried, {choice.refused} refused: {gain}{kept}")
        choices.append(choice)
    if any(choice.is_better for choice in choices):
        click.echo(f"written to {tuning.save(choices, device)}")
