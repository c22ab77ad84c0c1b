"""`codetr data check`: what is wrong with a data set."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from codetr.cli.bar import progress_bar
from codetr.cli.text import printable
from codetr.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from codetr.data.findings import Finding, Kind, Report

ERRORS_FOUND = 2
EXAMPLES = 3
PLAIN_WIDTH = 200  # columns where the output is no terminal, so that file names stay whole


@click.command("check")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--annotations", type=click.Path(path_type=Path), metavar="FILE", help="Check this file instead of splits."
)
@click.option("--images", type=click.Path(path_type=Path), metavar="DIR", help="The images of --annotations.")
@click.option("--quick", is_flag=True, help="Read the headers of images only, instead of decoding them to the end.")
@click.option("--examples", type=click.IntRange(min=1), default=EXAMPLES, help="Examples printed of each finding.")
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write all findings as JSON."
)
@click.option("--fix", "out", type=click.Path(path_type=Path), metavar="OUT", help="Write a cleaned copy to OUT.")
@click.pass_context
def command(
    ctx: click.Context,
    directory: Path,
    annotations: Path | None,
    images: Path | None,
    quick: bool,
    examples: int,
    json_file: Path | None,
    out: Path | None,
) -> None:
    """Find what is wrong with the data set in DIR, by file and annotation id.

    DIR may have any layout that `codetr data convert` reads. The exit code is 2 if there are errors, and 0 for notes
    alone. --fix writes a data folder in COCO's format without the errors, mended where that is possible (images are
    hard links where possible), and then the exit code is 2 only for errors that remain in it; DIR is never changed.
    """
    from codetr.data.check import check_folder, check_split

    if out is not None and quick:
        raise click.UsageError("--fix needs every image decoded; leave --quick out")
    if images is not None and annotations is None:
        raise click.UsageError("--images goes with --annotations")
    with progress_bar("images") as progress:
        if annotations is None:
            reports = check_folder(directory, decode_all=not quick, progress=progress)
        else:
            folder = images if images is not None else directory / "images"
            if not folder.is_dir():
                raise UserError(f"no folder {folder}; name the images with --images DIR")
            report = check_split(annotations, folder, split=annotations.stem, decode_all=not quick, progress=progress)
            reports = [report]
    _show(reports, examples)
    if json_file is not None:
        _write_json(reports, json_file)
    if out is not None:
        _fix(reports, directory, out)
    findings = [finding for report in reports for finding in report.findings if finding.kind.level == "error"]
    remaining = [finding for finding in findings if out is None or finding.is_lasting]
    if remaining:
        ctx.exit(ERRORS_FOUND)


def _show(reports: Sequence[Report], examples: int) -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    for report in reports:
        file = report.file
        counts = f"{len(file.images)} images, {len(file.annotations)} annotations, {len(file.categories)} categories"
        line = f"{report.split}: {printable(str(file.path))}: {counts}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
        for note in file.notes:
            console.print(f"  {printable(note)}", markup=False, highlight=False, soft_wrap=True)
        if report.findings:
            console.print(_table(report, examples))
    errors = sum(report.count("error") for report in reports)
    notes = sum(report.count("note") for report in reports)
    text = f"errors: {errors}, notes: {notes}" if errors or notes else "nothing wrong"
    console.print(text, style="bold red" if errors else "bold green", highlight=False)


def _table(report: Report, examples: int) -> Table:
    from rich.table import Column, Table
    from rich.text import Text

    from codetr.data.findings import Kind

    table = Table("", "found", Column("count", justify="right"), Column("first", overflow="fold"))
    for kind in Kind:
        found = report.of(kind)
        if found:
            style = "red" if kind.level == "error" else "yellow"
            shown = "\n".join(_example(finding, kind) for finding in found[:examples])
            # Text, not a string: what a data set says must not be read as markup.
            table.add_row(Text(kind.level, style), Text(kind.title), str(len(found)), Text(printable(shown)))
    return table


def _example(finding: Finding, kind: Kind) -> str:
    return f"{finding.place()}: {finding.detail}" if finding.detail else finding.place()


def _write_json(reports: Sequence[Report], file: Path) -> None:
    content = {
        "errors": sum(report.count("error") for report in reports),
        "notes": sum(report.count("note") for report in reports),
        "splits": {report.split: report.record() for report in reports},
    }
    try:
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--json {file}: cannot be written ({error.strerror})") from error


def _fix(reports: Sequence[Report], directory: Path, out: Path) -> None:
    from codetr.data.clean import write_clean

    write_clean(reports, directory, out)
    lasting = [finding for report in reports for finding in report.findings if finding.is_lasting]
    click.echo(f"{out}: cleaned copy; use it with data={out}")
    if lasting:
        click.echo(f"{len(lasting)} errors need a human: {printable(lasting[0].kind.title)}")
