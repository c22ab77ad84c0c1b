"""`codetr data show`: a contact sheet of what a model will see."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from codetr.cli.bar import progress_bar
from codetr.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import Image

    from codetr.data.coco import CocoDataset
    from codetr.spec import Spec

CELL = 512  # px, the longest side of a picture on the sheet


@click.command("show")
@click.argument("spec", metavar="SPEC")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default="sheet.png",
    show_default=True,
    metavar="FILE",
)
@click.option("--images", type=click.IntRange(min=1), default=16, show_default=True, help="How many to draw.")
@click.option("--epoch", type=click.IntRange(min=0), default=0, show_default=True, help="Epoch, counted from 0.")
@click.option("--split", type=click.Choice(["train", "val"]), default="train", show_default=True)
@click.option(
    "--cell", type=click.IntRange(min=32), default=CELL, show_default=True, help="Pixels of a picture's side."
)
def command(
    spec: str,
    overrides: tuple[str, ...],
    output: Path,
    images: int,
    epoch: int,
    split: Literal["train", "val"],
    cell: int,
) -> None:
    """Draw what a model will see when it is trained on SPEC: the first images of an epoch, augmented and batched.

    Boxes, names and masks are those that it learns from; crowd regions are grey, padding of the batch is striped. A
    mosaic, a mixture and an image that was pasted into carry the name of their first image.

        codetr data show zoo/co_deformable_r50.yaml data=DIR data.augment.flip=0 --images 4

    The spec's seed decides; the run itself will see the same pictures.
    """
    from codetr.data.coco import open_split
    from codetr.data.sheet import contact_sheet
    from codetr.spec import load_spec

    loaded = load_spec(spec, overrides)
    dataset = open_split(loaded.data, split)
    with progress_bar("images") as progress:
        pictures, captions = [], []
        for drawn, text in islice(_pictures(loaded, dataset, split, epoch), images):
            drawn.thumbnail((cell, cell))
            pictures.append(drawn)
            captions.append(text)
            progress(len(pictures), images)
    if not pictures:
        raise UserError(f"{dataset.annotations}: no image can be used")
    try:
        contact_sheet(pictures, captions).save(output)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{output}: the sheet cannot be written ({error}); name a .png or .jpg with --output"
        ) from error
    shown = f"{len(pictures)} image{'' if len(pictures) == 1 else 's'}"
    click.echo(f"{output}: {shown} of {split}, epoch {epoch}, from {dataset.annotations}")


def _pictures(
    spec: Spec, dataset: CocoDataset, split: Literal["train", "val"], epoch: int
) -> Iterator[tuple[Image.Image, str]]:
    """The pictures of an epoch with their captions, in the order of a run on one device."""
    from codetr.data.loader import build_loader
    from codetr.data.preview import caption, picture

    config = spec.data.model_copy(update={"workers": 0})  # a few images: processes would start longer than they work
    train = spec.train
    batch_size, pieces = (train.batch_size // train.accumulate, train.accumulate) if split == "train" else (1, 1)
    loader = build_loader(dataset, config, split=split, batch_size=batch_size, seed=train.seed, accumulate=pieces)
    loader.set_epoch(epoch)
    for batch in loader:
        for index in range(len(batch.infos)):
            yield picture(batch, index, dataset.classes), caption(batch, index)
