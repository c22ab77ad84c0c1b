"""`codetr data synth`: render a synthetic data set."""

from __future__ import annotations

from pathlib import Path

import click

from codetr.cli.bar import progress_bar
from codetr.data.sampling_config import LongTail


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
@click.option("--crowds", type=float, help="Share of images with a crowd region; default: 0.05, with --lvis 0.")
@click.option("--lvis", is_flag=True, help="Many classes, most of them rare, in LVIS's files and folders.")
@click.option("--classes", type=click.IntRange(1, 1600), help="Classes of --lvis; default: 1203.")
@click.option(
    "--groups",
    type=(int, int),
    metavar="RARE COMMON",
    help="Of --lvis: most training images of a rare and of a common class; default: LVIS's 10 100.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Processes that render; default: one for each core.")
def command(
    directory: Path,
    train: int,
    val: int,
    size: int,
    seed: int,
    objects: tuple[int, int] | None,
    clutter: float,
    crowds: float | None,
    lvis: bool,
    classes: int | None,
    groups: tuple[int, int] | None,
    workers: int | None,
) -> None:
    """Render a synthetic data set into DIR: COCO files, boxes, masks and crowd regions.

    With --lvis the annotations are federated as LVIS's are, and crowds are none. `data.synthetic.long_tail` of a spec
    has more settings.
    """
    from codetr.data.synthetic import generate

    tail = _long_tail(lvis, classes, groups)

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
            long_tail=tail,
            workers=workers,
            progress=progress,
        )
    click.echo(f"{directory}: {train} images to train on and {val} to evaluate on; use it with data={directory}")


def _long_tail(lvis: bool, classes: int | None, groups: tuple[int, int] | None) -> LongTail | None:
    """Raises: click.UsageError for options of --lvis without it."""
    given = {"--classes": classes, "--groups": groups}
    if not lvis:
        alone = [name for name, value in given.items() if value is not None]
        if alone:
            raise click.UsageError(f"{' and '.join(alone)} need --lvis")
        return None
    settings = {} if classes is None else {"classes": classes}
    if groups is not None:
        settings |= {"rare": groups[0], "common": groups[1]}
    return LongTail.model_validate(settings)
