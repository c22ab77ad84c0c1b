"""`codetr data stats`: what a data set consists of."""

from __future__ import annotations

import json
from pathlib import Path

import click

from codetr.cli.bar import progress_bar
from codetr.errors import UserError


@click.command("stats")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--no-images", is_flag=True, help="Read the annotations alone: no duplicates, no leaks.")
@click.option("--all-classes", is_flag=True, help="Show every class, however many there are.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write all figures as JSON.")
@click.option(
    "--pictures", type=click.Path(path_type=Path), metavar="OUT.png", help="Draw random images with their boxes."
)
@click.option("--samples", type=click.IntRange(min=1), default=12, show_default=True, help="Images of --pictures.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed draws the same images.")
def command(
    directory: Path,
    no_images: bool,
    all_classes: bool,
    json_file: Path | None,
    pictures: Path | None,
    samples: int,
    seed: int,
) -> None:
    """Show what the data set in DIR consists of, and which settings follow from it.

    Classes, sizes of boxes and images, objects per image, differences between the splits, images that come twice, and
    images of one split that look like one of another (a perceptual hash: copies in another size, quality or brightness,
    mirrored, or cropped by up to 5 %). DIR may have any layout that `codetr data convert` reads. Images are decoded at
    a reduced size; `codetr data check` decodes them to their end and says what is wrong with them.
    """
    from codetr.cli.stats_tables import show
    from codetr.data.annotations import ImageFolder
    from codetr.data.layout import SPLITS, open_folder, splits_of
    from codetr.data.leaks import leaks
    from codetr.data.statistics import split_statistics

    splits, folders = [], []
    with progress_bar("images") as progress:
        for split in splits_of(directory) or SPLITS:  # without any, opening the first says what was looked for
            file, folder = open_folder(directory, split)
            images = None if no_images else ImageFolder(folder)
            found = split_statistics(file, images, split=split, progress=progress)
            splits.append(found)
            folders.append(folder)
    train = splits[0]
    shared = [leaks(train.file, train.facts, s.file, s.facts, split=train.split) for s in splits[1:]]
    show(splits, shared, looked=not no_images, all_classes=all_classes)
    if json_file is not None:
        from codetr.data.advice import advice

        record = {
            "splits": {
                split.split: {
                    **split.record(),
                    "findings": [finding.record() for finding in (*split.facts.findings, *found)],
                }
                for split, found in zip(splits, [[], *shared], strict=True)
            },
            "advice": advice(splits, shared),
        }
        try:
            json_file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"--json {json_file}: cannot be written ({error.strerror})") from error
    if pictures is not None:
        from codetr.data.samples import sample_sheet

        sheet = sample_sheet(list(zip(splits, folders, strict=True)), samples=samples, seed=seed)
        try:
            sheet.save(pictures)
        except (OSError, ValueError) as error:
            raise UserError(
                f"--pictures {pictures}: cannot be written ({error}); use a name such as out.png"
            ) from error
        click.echo(f"{pictures}: random images with their boxes")
