"""`codetr bench kernels`: the kernels against their peers, on this machine."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codetr.errors import UserError

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from codetr.bench.assignment.measuring import Row
    from codetr.bench.candidates import Absent, Candidate
    from codetr.bench.measuring import Row as AttentionRow
    from codetr.bench.plan import Plan

WRONG = 1


@click.command("kernels")
@click.option("--op", "ops", multiple=True, metavar="NAME", help="Measure this operation; * is anything. Repeatable.")
@click.option(
    "--problem", "problems", multiple=True, metavar="NAME", help="Measure this one; * is anything. Repeatable."
)
@click.option("--list", "only_list", is_flag=True, help="List the problems of every operation.")
@click.option("--quick", is_flag=True, help="Small problems and short timings, to see that it works.")
@click.option("--peer", "peers", multiple=True, metavar="MODULE:FUNCTION", help="A peer like deform_attention.")
@click.option("--without", multiple=True, metavar="NAME", help="Leave out a candidate, e.g. compiled. Repeatable.")
@click.option(
    "--with", "including", multiple=True, metavar="compiled", help="Measure torch.compile of the references on a CPU."
)
@click.option("--device", metavar="NAME", help="cpu, cuda or cuda:N; default: the GPU if there is one.")
@click.option("--json", "json_file", type=Path, metavar="FILE", help="Write everything to a JSON file.")
@click.option("--chart", type=Path, metavar="FILE.png", help="Draw everyone's speed beside a peer's.")
@click.option("--against", metavar="NAME", help="deform_attention's peer of --chart.  [default: reference]")
@click.option(
    "--compile-only", is_flag=True, help="Compile the kernels for --target and show registers, spills and so on."
)
@click.option("--target", metavar="ARCH,...", help="Of --compile-only; needs no such GPU.  [default: sm_80,sm_90]")
@click.option(
    "--tune", is_flag=True, help="Measure launch configurations on this GPU and write the best to your table."
)
@click.pass_context
def command(
    ctx: click.Context,
    ops: tuple[str, ...],
    problems: tuple[str, ...],
    only_list: bool,
    quick: bool,
    peers: tuple[str, ...],
    without: tuple[str, ...],
    including: tuple[str, ...],
    device: str | None,
    json_file: Path | None,
    chart: Path | None,
    against: str | None,
    compile_only: bool,
    target: str | None,
    tune: bool,
) -> None:
    """Check the kernels against float64, then time them beside their peers.

    Operations: deform_attention, linear_assignment, matching_cost, boxes, losses, assigners, nms; by default a few
    problems of each. What is wrong is reported and not timed; the exit code is 1 if that is codetr's. Peers that are
    not installed are listed as absent. Without a GPU the CPU paths are timed.
    """
    choosing = {"--problem": problems, "--peer": peers, "--without": without, "--with": including}
    drawing = {"--chart": chart, "--against": against}
    if target is not None and not compile_only:
        raise click.UsageError("--target: only with --compile-only")
    if against is not None and chart is None:
        raise click.UsageError("--against: only with --chart")
    if compile_only:
        others = {"--quick": quick, "--list": only_list, "--device": device, "--tune": tune}
        _refuse({**choosing, **drawing, **others}, "--compile-only")
        _compile(target, ops, json_file)
    elif tune:
        _refuse({"--op": ops, **choosing, **drawing, "--list": only_list, "--json": json_file}, "--tune")
        _tune(_choose_device(device), quick=quick)
    else:
        from codetr.bench.plan import make_plan

        where = _choose_device(device)
        plan = make_plan(ops=ops, patterns=problems, device=where, quick=quick, without=without, including=including)
        if not plan.problems:
            _refuse({"--peer": peers, "--against": against}, "operations other than deform_attention alone")
        if only_list:
            _refuse({"--json": json_file, **drawing, "--peer": peers}, "--list")
            _list(ops, plan)
        elif _measure(where, plan, peers, quick=quick, json_file=json_file, chart=chart, against=against):
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


def _list(ops: Sequence[str], plan: Plan) -> None:
    from codetr.bench.plan import choose_ops, listing

    for op, entries in listing(choose_ops(ops), plan):
        click.echo(f"{op}:")
        width = max(24, *(len(name) for _, name, _ in entries))
        for is_measured, name, shape in entries:
            click.echo(f"{'*' if is_measured else ' '} {name:<{width}} {shape}")
    click.echo("* measured with these options")


def _measure(
    device: torch.device,
    plan: Plan,
    peers: Sequence[str],
    *,
    quick: bool,
    json_file: Path | None,
    chart: Path | None,
    against: str | None,
) -> bool:
    """Everything that is planned; whether codetr is wrong anywhere."""
    from codetr.bench import report
    from codetr.bench.candidates import find_candidates, names
    from codetr.bench.chart import require_matplotlib
    from codetr.bench.plan import SLOW_ON_CPU

    if chart is not None:
        require_matplotlib()
    people: list[Candidate] = []
    absent: list[Absent] = []
    if plan.problems:
        known = list(names())
        people, absent = find_candidates(device, peers=peers, without=[name for name in plan.without if name in known])
        if chart is not None and (against or "reference") not in [person.name for person in people]:
            measured = ", ".join(person.name for person in people)
            raise UserError(
                f"--against {against or 'reference'}: nobody of that name is measured here; measured are: {measured}"
            )
    out = report.console()
    report.print_machine(out, device)
    if device.type == "cpu" and SLOW_ON_CPU in plan.without:
        out.print(
            f"torch.compile takes a CPU up to a minute a problem and is left out; --with {SLOW_ON_CPU} measures it."
        )
    record: dict[str, Any] = {"machine": report.machine(device), "rows": []}
    attention: list[AttentionRow] = []
    if plan.problems:
        attention, record = _measure_attention(out, device, plan, people, absent, quick=quick)
    rows = _measure_cases(out, device, plan, quick=quick)
    record["rows"] += [row.as_dict() for row in rows]
    if json_file is not None:
        from codetr.evaluation.files import write_json

        write_json(json_file, record, indent=2)
    if chart is not None:
        _draw(chart, attention, rows, against or "reference", subtitle=record["machine"]["hardware"])
    return any(row.candidate == "codetr" and row.status == "wrong" for row in attention) or any(
        row.is_defect for row in rows
    )


def _measure_attention(
    out: Console,
    device: torch.device,
    plan: Plan,
    people: Sequence[Candidate],
    absent: Sequence[Absent],
    *,
    quick: bool,
) -> tuple[list[AttentionRow], dict[str, Any]]:
    from codetr.bench import measuring, report
    from codetr.bench.ceilings import measure_ceilings
    from codetr.bench.compiled import ATTENTION

    report.print_people(out, people, absent)
    ceilings = measure_ceilings(device, quick=quick)
    report.print_ceilings(out, ceilings)
    rows: list[AttentionRow] = []
    for problem, group in measuring.grouped(measuring.run(plan.problems, people, ceilings, device, quick=quick)):
        report.print_rows(out, group, problem)
        rows += group
    record = report.record(device, ceilings, rows, people, absent)
    record["rows"] = [{"op": ATTENTION, **row} for row in record["rows"]]
    return rows, record


def _measure_cases(out: Console, device: torch.device, plan: Plan, *, quick: bool) -> list[Row]:
    from codetr.bench.assignment import measuring
    from codetr.bench.assignment.tables import print_op

    rows: list[Row] = []
    for _, group in itertools.groupby(plan.cases, key=lambda case: case.op):
        cases = list(group)
        found = list(itertools.chain.from_iterable(measuring.run(cases, device, quick=quick, without=plan.without)))
        print_op(out, cases, found)
        rows += found
    return rows


def _draw(chart: Path, attention: Sequence[AttentionRow], rows: Sequence[Row], against: str, *, subtitle: str) -> None:
    """Deformable attention alone has a picture of everyone; several operations one of ours beside each one's peer."""
    from codetr.bench.assignment import picture
    from codetr.bench.chart import draw

    if not rows:
        draw(attention, chart, against=against, subtitle=subtitle)
    else:
        shown = [*picture.attention_bars(attention, against), *picture.bars(rows)]
        picture.draw(shown, chart, subtitle=subtitle)


def _compile(target: str | None, ops: Sequence[str], json_file: Path | None) -> None:
    from codetr.bench import compiled, report
    from codetr.bench.plan import choose_ops

    rows = list(compiled.compile_for(compiled.parse_targets(target), ops=choose_ops(ops)))
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
