"""`codetr predict`: detect objects in images and draw them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from codetr.errors import UserError, suggestion

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
RESULTS, IMAGES = "predictions.json", "images.json"


@click.command("predict")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE|DIR...", type=click.Path(path_type=Path))
@click.option("--checkpoint", metavar="RUN|CKPT", help="What detects: a run, a checkpoint or a file [the newest run].")
@click.option(
    "--score", type=click.FloatRange(0, 1), default=0.3, show_default=True, help="Leave out what scores less."
)
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder for the pictures [predictions].")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Images computed together.")
@click.option("--branch", metavar="NAME", help="A head instead of the matched queries; mask_rcnn draws masks.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
def command(
    images: tuple[Path, ...],
    checkpoint: str | None,
    score: float,
    out: Path | None,
    batch: int,
    branch: str | None,
    device: str,
) -> None:
    """Detect objects in images, or in all images of folders.

    Writes into DIR every picture with boxes, masks if there are any, and class names; predictions.json (COCO results,
    with the category ids of the data set that the detector was trained on); and images.json (which file each image id
    is).
    """
    files = image_files(images)
    folder = out or Path("predictions")

    from codetr.api import load_detector
    from codetr.evaluation.files import write_json
    from codetr.evaluation.results import Results, image_results, write_results

    overrides = [] if branch is None else [f"eval.branch={branch}"]
    detector = load_detector(checkpoint, overrides=overrides, device=device)
    found, entries = [], []
    pictures = zip(files, picture_names(files), strict=True)
    predictions = detector.stream(files, score=score, batch_size=batch)
    try:
        for number, (prediction, (file, name)) in enumerate(zip(predictions, pictures, strict=True), start=1):
            prediction.save(folder / name)
            height, width = prediction.pixels.shape[1:]
            entries.append({"id": number, "file_name": str(file), "height": height, "width": width})
            found.append(image_results(number, prediction.detections, detector.category_ids))
            click.echo(f"{prediction} -> {folder / name}")
    finally:  # an image that cannot be read must not lose what the others gave
        if found:
            write_results(folder / RESULTS, Results.joined(found))
            write_json(folder / IMAGES, entries, indent=1)
    click.echo(f"{len(files)} pictures, {RESULTS} and {IMAGES} in {folder}")


def image_files(paths: tuple[Path, ...]) -> list[Path]:
    """Files as they are named, folders as the images in them by name. Raises: UserError if there is nothing there."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
            if not inside:
                raise UserError(f"{path}: no images in this folder; known endings: {', '.join(SUFFIXES)}")
            files.extend(inside)
        elif path.exists():
            files.append(path)
        else:
            raise UserError(f"{path}: there is no such image or folder; {_neighbours(path)}")
    return files


def picture_names(files: list[Path]) -> Iterator[str]:
    """A file name for each drawn picture; files of the same name in different folders do not overwrite one another."""
    taken: set[str] = set()
    for file in files:
        name, number = f"{file.stem}.jpg", 2
        while name in taken:
            name, number = f"{file.stem}-{number}.jpg", number + 1
        taken.add(name)
        yield name


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return f"there is no folder {path.parent} either"
    return suggestion(path.name, [file.name for file in path.parent.iterdir()][:100], kind="names there")
