"""`codetr wrap`: put auxiliary heads around a detector and write the spec."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from codetr.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from codetr.wrap import WrapReport

_WIDTH = 100


@click.command("wrap")
@click.argument("arguments", nargs=-1, metavar="[SPEC] [data=DIR]")
@click.option("--base", metavar="NAME", help="Base of the zoo, such as deformable_detr, in the place of SPEC.")
@click.option("--aux", "heads", multiple=True, required=True, metavar="HEAD", help="One-to-many head; repeatable.")
@click.option("--backbone", metavar="NAME", help="With --base: backbone of the zoo.  [default: resnet50]")
@click.option("--schedule", metavar="NAME", help="With --base: schedule of the zoo.  [default: the base's own]")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="File [co_<name>_<heads>.yaml].")
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
def command(
    arguments: tuple[str, ...],
    base: str | None,
    heads: tuple[str, ...],
    backbone: str | None,
    schedule: str | None,
    output: Path | None,
    force: bool,
) -> None:
    """Write a spec that trains a detector with one-to-many heads beside it, and show what that means.

    \b
        codetr wrap zoo/dino_r50.yaml --aux atss --aux faster_rcnn
        codetr wrap --base deformable_detr --aux atss --aux atss -o my_spec.yaml

    SPEC keeps its settings and the heads that it has. The positives of an image are counted in rendered scenes, or in
    validation images of data=DIR.
    """
    spec, data = _split(arguments)
    if (spec is None) == (base is None):
        raise click.UsageError("name what to wrap: a SPEC, or a base of the zoo with --base NAME")
    if spec is not None and (backbone or schedule):
        raise click.UsageError("--backbone and --schedule go with --base; a SPEC has its own")

    from codetr.wrap import load_wrapped, wrap_existing, wrap_report, wrap_spec

    path = output or Path(_file_name(base or Path(spec or "").stem, heads))
    if path.exists() and not force:
        raise UserError(f"{path} exists already; name another file with -o, or replace it with --force")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent} is not a folder; make it first, or name another file with -o")
    if base is not None:
        text = wrap_spec(base, heads, backbone=backbone or "resnet50", schedule=schedule)
    else:
        text = wrap_existing(spec or "", heads, folder=path.parent)
    report = wrap_report(load_wrapped(text, path.parent, data), has_data=bool(data))
    if not report.unchanged:
        raise RuntimeError("the detections of the base differ with the heads present: a defect of codetr")
    path.write_text(text, encoding="utf-8")  # last, so that what cannot be built replaces nothing
    _print(path, report)


def _split(arguments: tuple[str, ...]) -> tuple[str | None, tuple[str, ...]]:
    """The spec, if there is one, and the settings of the data."""
    specs = tuple(argument for argument in arguments if "=" not in argument)
    settings = tuple(argument for argument in arguments if "=" in argument)
    if len(specs) > 1:
        raise click.UsageError(f"one spec at a time, not {', '.join(specs)}; heads are named with --aux")
    other = [setting for setting in settings if setting.partition("=")[0].split(".")[0] != "data"]
    if other:
        raise click.UsageError(f"{' '.join(other)}: only data=DIR can be given here; put settings into the file")
    return (specs[0] if specs else None), settings


def _file_name(name: str, heads: tuple[str, ...]) -> str:
    return f"co_{name.removeprefix('co_')}_{'_'.join(dict.fromkeys(heads))}.yaml".replace(":", ".")


def _print(path: Path, report: WrapReport) -> None:
    from rich.console import Console, Group
    from rich.panel import Panel
    from rich.text import Text

    from codetr.inspection.report import printable

    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
    body = Group(_parts_table(report), Text(), _positives_table(report), Text(), *_notes(report))
    name = Text(f" {printable(path.name)} ", style="bold")
    console.print(Panel(body, title=name, title_align="left", padding=(0, 2), width=min(_WIDTH, console.width)))
    console.print(Text(f"wrote {path}\ntrain it: codetr train {path} data=DIR"), soft_wrap=True)


def _parts_table(report: WrapReport) -> Table:
    """Parts with their parameters and operations; yellow is gone at inference."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, expand=True)
    table.add_column(Text("what a training step has"), no_wrap=True)
    for column in ("parameters", "trained", "GFLOPs"):
        table.add_column(column, justify="right", no_wrap=True, width=12)
    for part in report.parts:
        numbers = (_millions(part.parameters), _millions(part.trained), _giga(part.flops))
        table.add_row(Text(part.name), *numbers, style="" if part.ships else "yellow")
    table.add_section()
    parts = report.parts
    total = None if report.uncounted else sum(part.flops or 0 for part in parts)
    parameters, trained = sum(part.parameters for part in parts), sum(part.trained for part in parts)
    table.add_row("a training step", _millions(parameters), _millions(trained), _giga(total), style="bold")
    shipped = sum(part.parameters for part in parts if part.ships)
    table.add_row(
        "inference: the base alone", _millions(shipped), "", _giga(report.inference_flops), style="bold green"
    )
    return table


def _positives_table(report: WrapReport) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, expand=True)
    table.add_column(Text("positive queries of an image"), no_wrap=True)
    for column in ("at most", "found", "an object"):
        table.add_column(column, justify="right", no_wrap=True, width=12)
    for entry in report.positives:
        most = "?" if entry.slots is None else str(entry.slots)
        table.add_row(Text(entry.head), most, f"{entry.found.of_image:.1f}", f"{entry.found.of_object:.1f}")
    return table


def _notes(report: WrapReport) -> list[Text]:
    """What the numbers say, the proof, and how they were counted."""
    from rich.text import Text

    from codetr.inference_trace import IMAGE
    from codetr.inspection.report import printable
    from codetr.inspection.step_cost import OBJECTS

    proof = Text("inference unchanged", style="bold green")
    proof.append(" - detections with and without heads were computed: bit-identical", style="not bold default")
    counted = (
        f"Parameters in millions, {report.num_classes} classes; yellow: gone at inference. GFLOPs: a forward pass on "
        f"one image of {IMAGE[0]} x {IMAGE[1]} with {OBJECTS} objects, a multiply-add counted as two, without "
        "element-wise work, RoIAlign, suppression and matching; the backward pass of a step takes about twice as much."
    )
    if report.uncounted:
        counted = f"The GFLOPs of a step could not be counted: {report.uncounted}."
    found = (
        f"Found: by untrained heads on random features, {report.images}. Proposals, and so the positives among them, "
        "get better with training."
    )
    notes = [proof, Text(counted, style="dim"), Text(printable(found), style="dim")]
    base = report.parts[0].flops
    if base and not report.uncounted:
        more = sum(part.flops or 0 for part in report.parts[1:])
        notes.insert(0, Text(f"a step {100 * more / base:.0f} % dearer", style="bold yellow"))
        notes[0].append(
            f" - forward, {_giga(base)} GFLOPs without heads, {_giga(base + more)} with them", style="not bold default"
        )
    return notes


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f}" if count else ""


def _giga(flops: int | None) -> str:
    return "?" if flops is None else f"{flops / 1e9:,.1f}"
