"""`codetr data synth`: render a synthetic data set."""

from __future__ import annotations

from pathlib import Path

import click

from codetr.cli.bar import progress_bar


@click.command("synth")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--train", type=int, default=1200, show_default=True, help="Images to train on.")
@click.option("--val", type=int, default=200, show_default=True, help="Images to evaluate on.")
@click.option("--size", type=int, default=128, show_default=True, help="Side of the square images in pixels.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same data.")
@click.option(
    "--objects", type=(int, int), metavar="LOW HIGH", help="Objects in an image; default: grows with the size."
)
@click.option("--clutter", type=float, default=1.0, show_default=True, help="Amount of distracting strokes and blobs.")
@click.option("--crowds", type=float, default=0.05, show_default=True, help="Share of images with a crowd region.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes that render; default: one for each core.")
def command(
    directory: Path,
    train: int,
    val: int,
    size: int,
    seed: int,
    objects: tuple[int, int] | None,
    clutter: float,
    crowds: float,
    workers: int | None,
) -> None:
    """Render a synthetic data set into DIR: COCO files, boxes, masks and crowd regions."""
    from codetr.data.synthetic import generate

    with progress_bar("images") as progress:
        generate(
            directory,
            train=train,
            val=val,
            size=size,
            seed=seed,
            objects=objects,
            clutter=clutter,
            crowds=crowds,
            workers=workers,
            progress=progress,
        )
    click.echo(f"{directory}: {train} images to train on and {val} to evaluate on; use it with data={directory}")
