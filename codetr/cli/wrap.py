"""`codetr wrap`: put auxiliary heads around a detector and write the spec."""

from __future__ import annotations

from pathlib import Path

import click

from codetr.errors import UserError

_CLASSES = 80


@click.command("wrap")
@click.option("--base", required=True, metavar="NAME", help="Base of the zoo, such as deformable_detr.")
@click.option("--aux", "heads", multiple=True, required=True, metavar="HEAD", help="One-to-many head; repeatable.")
@click.option("--backbone", default="resnet50", show_default=True, metavar="NAME", help="Backbone of the zoo.")
@click.option("--schedule", default="12e", show_default=True, metavar="NAME", help="Schedule of the zoo.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="File [co_<base>_<heads>.yaml].")
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
def command(base: str, heads: tuple[str, ...], backbone: str, schedule: str, output: Path | None, force: bool) -> None:
    """Write a spec that trains BASE with one-to-many heads beside it, and show what that means.

    \b
        codetr wrap --base deformable_detr --aux atss --aux faster_rcnn -o my_spec.yaml
    """
    from codetr import yaml_nodes
    from codetr.spec import load_spec
    from codetr.wrap import wrap_report, wrap_spec

    text = wrap_spec(base, heads, backbone=backbone, schedule=schedule)
    path = output or Path(f"co_{base}_{'_'.join(dict.fromkeys(heads))}.yaml".replace(":", "."))
    if path.exists() and not force:
        raise UserError(f"{path} exists already; name another file with -o, or replace it with --force")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent} is not a folder; make it first, or name another file with -o")
    report = wrap_report(load_spec(yaml_nodes.parse(text, str(path)).plain()), num_classes=_CLASSES)
    path.write_text(text, encoding="utf-8")  # last, so that what cannot be built replaces nothing
    _print(path, report.trained, report.shipped, report.unchanged)


def _print(path: Path, trained: dict[str, int], shipped: int, unchanged: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(title=f"parameters for {_CLASSES} classes, in millions", title_justify="left")
    table.add_column("part")
    table.add_column("trained", justify="right")
    for name, count in trained.items():
        table.add_row(name, _millions(count))
    table.add_section()
    table.add_row("trained in all", _millions(sum(trained.values())))
    table.add_row("shipped (the base, frozen parts included)", _millions(shipped))
    console.print(table)
    if not unchanged:
        raise RuntimeError("the detections of the base differ with the heads present: a defect of codetr")
    console.print("inference unchanged: detections with and without the heads are bit-identical (checked on an image)")
    console.print(f"wrote {path}\ntrain it: codetr train {path} data=DIR", soft_wrap=True, markup=False)


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f}"
