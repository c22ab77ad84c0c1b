"""`codetr data convert`: a data set of any known layout as COCO."""

from __future__ import annotations

from pathlib import Path

import click

from codetr.cli.bar import progress_bar


@click.command("convert")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), metavar="OUT", help="The new data folder.")
@click.option("--copy", is_flag=True, help="Copy the images, instead of making hard links to them.")
def command(directory: Path, out: Path, copy: bool) -> None:
    """Write the data set in DIR as COCO: OUT/annotations/instances_SPLIT.json and OUT/images/SPLIT.

    DIR is in any layout that can be read: COCO, LVIS, Objects365, Roboflow, YOLO or Pascal VOC. Training reads them
    directly too; a converted one opens faster, and other tools can read it. DIR itself is not changed.
    """
    from codetr.cli.text import printable
    from codetr.data.convert import convert
    from codetr.data.layout import recognise

    layout = recognise(directory)
    with progress_bar("images") as progress:
        splits = convert(directory, out, copy=copy, progress=progress)
    for split in splits:
        for note in split.notes:
            click.echo(printable(note))
        linked = f"{split.copied} copied" if split.copied else "linked"
        click.echo(
            f"{split.split}: {split.images} images ({linked}), {split.annotations} annotations, "
            f"{split.categories} categories: {split.path}"
        )
    name = layout.name if layout is not None else "?"
    click.echo(f"{directory} ({name}) is now in {out} (COCO); use it with data={out}")
