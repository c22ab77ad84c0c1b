"""`codetr predict`: detect objects in images and draw them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codetr.cli.bar import progress_bar
from codetr.errors import UserError, suggestion

if TYPE_CHECKING:
    from codetr.evaluation.results import Results
    from codetr.prediction import Detector, Prediction

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
RESULTS, IMAGES = "predictions.json", "images.json"
DRAWERS = 2
"""Threads that draw and write pictures."""
WAITING = 4
"""Predictions that wait to be drawn; each holds its picture."""


@click.command("predict")
@click.argument("arguments", nargs=-1, required=True, metavar="IMAGE|DIR... [KEY=VALUE]...")
@click.option("--checkpoint", metavar="RUN|CKPT", help="What detects: a run, a checkpoint or a file [the newest run].")
@click.option(
    "--score", type=click.FloatRange(0, 1), default=0.3, show_default=True, help="Leave out what scores less."
)
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder for what is written [predictions].")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Images computed together.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Threads that read images [one a core, 8].")
@click.option("--branch", metavar="NAME", help="A head instead of the matched queries; mask_rcnn draws masks.")
@click.option("--tta", is_flag=True, help="Several sizes and mirrored, fused: eval.test_time={} if the spec has none.")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), help="eval.precision; bf16 is quicker on a GPU.")
@click.option("--no-pictures", is_flag=True, help="Write the JSON files alone.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
def command(
    arguments: tuple[str, ...],
    checkpoint: str | None,
    score: float,
    out: Path | None,
    batch: int,
    workers: int | None,
    branch: str | None,
    tta: bool,
    precision: str | None,
    no_pictures: bool,
    device: str,
) -> None:
    """Detect objects in images, or in all images of folders and the folders in them.

    Writes into DIR every picture with boxes, masks if there are any, and class names; predictions.json (COCO results,
    with the category ids of the data set that the detector was trained on); and images.json (which file each image id
    is, and its size). Pictures are turned upright by their EXIF orientation, and boxes refer to the upright picture.
    KEY=VALUE changes settings of the checkpoint's spec: data.*, eval.* and postprocess.*.

    An image that cannot be read is named and left out; the exit code is then 2.
    """
    overrides = [argument for argument in arguments if "=" in argument and not Path(argument).exists()]
    folder = out or Path("predictions")
    files = image_files([Path(argument) for argument in arguments if argument not in overrides], leave_out=folder)

    from codetr.api import load_detector

    chosen = {"branch": branch, "precision": precision}
    overrides += [f"eval.{name}={value}" for name, value in chosen.items() if value is not None]
    detector = load_detector(checkpoint, device=device)
    if tta and detector.spec.eval.test_time is None and not any(o.startswith("eval.test_time") for o in overrides):
        overrides.append("eval.test_time={}")
    work = Work(files, folder, detector.configured(overrides), pictures=not no_pictures)
    try:
        with progress_bar("detecting") as advance:
            work.run(score=score, batch=batch, workers=workers, advance=advance)
    finally:  # an interruption must not lose what was found
        work.write()
    wrote = f"{RESULTS} and {IMAGES}" if no_pictures else f"pictures, {RESULTS} and {IMAGES}"
    click.echo(f"{len(work.entries)} of {len(files)} images, {wrote} in {folder}")
    if work.failed:
        raise UserError(f"{work.failed} of {len(files)} images could not be used; they are named above.")


@dataclass(frozen=True)
class ImageFile:
    """A file, and the name of its drawn picture in the folder for them."""

    path: Path
    drawn: Path


@dataclass
class Work:
    """What is done with the files, and what came of it so far.

    entries, found: of images.json, and the results of each image, by image id. failed: images that cannot be used.
    """

    files: Sequence[ImageFile]
    folder: Path
    detector: Detector
    pictures: bool = True
    entries: dict[int, dict[str, Any]] = field(default_factory=dict)
    found: dict[int, Results] = field(default_factory=dict)
    failed: int = 0

    def run(self, *, score: float, batch: int, workers: int | None, advance: Any) -> None:
        """Detect in every file. Pictures are drawn and written by threads meanwhile."""
        predictions = self.detector.stream(
            [file.path for file in self.files], score=score, batch_size=batch, workers=workers, on_error=self._fail
        )
        waiting: deque[Future[None]] = deque()
        with ThreadPoolExecutor(DRAWERS, thread_name_prefix="draw") as pool:
            for prediction in predictions:
                self._note(prediction)
                if self.pictures:
                    waiting.append(pool.submit(prediction.save, self.folder / self.files[prediction.index].drawn))
                while len(waiting) > WAITING:
                    waiting.popleft().result()
                advance(len(self.entries) + self.failed, len(self.files))
            for future in waiting:
                future.result()

    def write(self) -> None:
        """Write what was found, in order of the image ids."""
        from codetr.evaluation.files import write_json
        from codetr.evaluation.results import Results, write_results

        if self.entries:
            write_results(self.folder / RESULTS, Results.joined([self.found[key] for key in sorted(self.found)]))
            write_json(self.folder / IMAGES, [self.entries[key] for key in sorted(self.entries)], indent=1)

    def _note(self, prediction: Prediction) -> None:
        from codetr.evaluation.results import image_results

        identity, file = prediction.index + 1, self.files[prediction.index]
        height, width = prediction.size
        entry: dict[str, Any] = {"id": identity, "file_name": str(file.path), "height": height, "width": width}
        if prediction.orientation != 1:  # so that readers of the stored pixels know
            entry["exif_orientation"] = prediction.orientation
        self.entries[identity] = entry
        ids = self.detector.category_ids
        self.found[identity] = image_results(identity, prediction.detections, ids, size=prediction.size)
        click.echo(f"{prediction} -> {self.folder / file.drawn}" if self.pictures else str(prediction))

    def _fail(self, index: int, error: UserError) -> None:
        self.failed += 1
        click.echo(f"{click.style('left out:', fg='yellow', bold=True)} {error}", err=True)


def image_files(paths: Sequence[Path], *, leave_out: Path | None = None) -> list[ImageFile]:
    """Files as they are named, folders as the images in them and in their folders, in order of their names.

    leave_out: a folder whose images are not taken, since they were drawn before. Hidden files and folders are left out.
    Raises: UserError if there is nothing there.
    """
    if not paths:
        raise click.UsageError("name an image or a folder of images")
    files: list[tuple[Path, Path]] = []
    for path in paths:
        if path.is_dir():
            inside = [(file, file.relative_to(path)) for file in _images_in(path, leave_out)]
            if not inside:
                raise UserError(f"{path}: no images in this folder; known endings: {', '.join(SUFFIXES)}")
            files.extend(inside)
        elif path.exists():
            files.append((path, Path(path.name)))
        else:
            raise UserError(f"{path}: there is no such image or folder; {_neighbours(path)}")
    names = picture_names([name for _, name in files])
    return [ImageFile(path, name) for (path, _), name in zip(files, names, strict=True)]


def picture_names(files: Sequence[Path]) -> Iterator[Path]:
    """A name for each drawn picture, none of them twice, also where upper and lower case are the same."""
    taken: set[str] = set()
    for file in files:
        name, number = file.with_suffix(".jpg"), 2
        while str(name).casefold() in taken:
            name, number = file.with_name(f"{file.stem}-{number}.jpg"), number + 1
        taken.add(str(name).casefold())
        yield name


def _images_in(folder: Path, leave_out: Path | None) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        inside = sorted(name for name in folders if not name.startswith("."))
        folders[:] = [name for name in inside if leave_out is None or not _same(Path(place, name), leave_out)]
        for name in sorted(names):
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                yield Path(place, name)


def _same(folder: Path, other: Path) -> bool:
    return folder.resolve() == other.resolve()


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return f"there is no folder {path.parent} either"
    return suggestion(path.name, [file.name for file in path.parent.iterdir()][:100], kind="names there")
