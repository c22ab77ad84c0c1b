"""A synthetic detection data set: rendered scenes, written to disk as a standard COCO folder."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from codetr.data.long_tail_plan import classes_of
from codetr.data.lvis_file import frequencies_of, lvis_file
from codetr.data.sampling_config import LongTail
from codetr.data.scene_shapes import CLASSES
from codetr.data.scene_worker import Annotation, Job, render_all
from codetr.errors import UserError

RECORD = "synthetic.json"
_FORMAT = 1  # to be raised whenever the same settings give other pictures
_SPLITS = ("train", "val")


@dataclass(frozen=True)
class SyntheticSettings:
    """What a synthetic data set depends on.

    size: side of the square pictures in pixels. objects: least and most objects of a picture, before those that are
    hidden are left out. clutter: amount of strokes and blobs that are no objects. crowds: share of pictures with a
    crowd region. long_tail: many classes, in LVIS's layout.
    """

    train: int
    val: int
    size: int
    seed: int
    objects: tuple[int, int]
    clutter: float
    crowds: float
    long_tail: LongTail | None = None

    def __post_init__(self) -> None:
        low, high = self.objects
        checks = (
            (self.train >= 1 and self.val >= 1, f"train={self.train}, val={self.val}", "1 picture or more in each"),
            (32 <= self.size <= 4096, f"size={self.size}", "32 to 4096 pixels"),
            (self.seed >= 0, f"seed={self.seed}", "0 or more"),
            (0 <= low <= high and high >= 1, f"objects={low},{high}", "a least and a most number of objects, like 1,8"),
            (self.clutter >= 0.0, f"clutter={self.clutter}", "0 or more; 1 is normal"),
            (0.0 <= self.crowds <= 1.0, f"crowds={self.crowds}", "a share between 0 and 1"),
            (self.long_tail is None or not self.crowds, f"crowds={self.crowds}", "0 with a long tail: LVIS has none"),
        )
        wrong = [f"{found}: expected {expected}" for fine, found, expected in checks if not fine]
        if wrong:
            raise UserError("synthetic data cannot be made with\n  " + "\n  ".join(wrong))

    def record(self) -> dict[str, Any]:
        """The settings as they are written beside the pictures."""
        tail = None if self.long_tail is None else self.long_tail.model_dump()
        return {"format": _FORMAT, **asdict(self), "objects": list(self.objects), "long_tail": tail}

    def annotation_file(self, split: str) -> str:
        return f"annotations/instances_{split}.json" if self.long_tail is None else f"annotations/lvis_v1_{split}.json"


def generate(
    directory: Path,
    *,
    train: int = 1200,
    val: int = 200,
    size: int = 128,
    seed: int = 0,
    objects: tuple[int, int] | None = None,
    clutter: float = 1.0,
    crowds: float | None = None,
    long_tail: LongTail | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes `directory/images/*.jpg` and `directory/annotations/instances_{train,val}.json`, or reuses them.

    With a long tail it is LVIS's layout: `directory/{train,val}2017/*.jpg`, `annotations/lvis_v1_{train,val}.json`.
    The result depends on the settings alone, not on `workers` (None: one for each core), and appears all at once: the
    pictures are rendered beside the directory and moved there when complete. objects: None grows with the size, 1 to 8
    at 128 pixels. crowds: None is 0.05, and 0 with a long tail. progress: called with the number of pictures made and
    of all, maybe from another thread, never from two at once; not called when the directory is reused.
    Returns the directory.
    Raises: UserError for settings out of range, or if the directory is in use for anything but the same data.
    """
    chosen = objects or (1, round(8 * max(1.0, size / 128) ** 0.6))
    regions = crowds if crowds is not None else 0.05 if long_tail is None else 0.0
    settings = SyntheticSettings(train, val, size, seed, chosen, clutter, regions, long_tail)
    directory = Path(directory)
    if _holds(directory, settings):
        return directory
    parent = directory.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=parent) as scratch:
        folder = Path(scratch, "data")
        _write(folder, settings, workers or os.cpu_count() or 1, progress)
        # Checked again: another process may have been making the same data meanwhile.
        if not _holds(directory, settings):
            if directory.exists():
                directory.rmdir()
            folder.rename(directory)
    return directory


def _holds(directory: Path, settings: SyntheticSettings) -> bool:
    """Whether a directory holds exactly this data; False if it is missing or empty.

    Raises: UserError if it holds anything else.
    """
    if not directory.exists():
        return False
    if not directory.is_dir():
        raise UserError(f"{directory}: is a file, and the synthetic data need a directory; name another one")
    if not any(directory.iterdir()):
        return False
    problem = _difference(directory, settings)
    if problem:
        raise UserError(f"{directory}: {problem}; name another directory, or delete this one to make the data anew")
    return True


def _difference(directory: Path, settings: SyntheticSettings) -> str:
    """What keeps a directory from being the wanted data, or nothing."""
    record, wanted = directory / RECORD, settings.record()
    if not record.is_file():
        return f"is not empty, and holds no synthetic data ({RECORD} is missing)"
    try:
        found = dict(json.loads(record.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        return f"its {RECORD} cannot be read ({error})"
    changes = [f"{key} is {found.get(key)}, not {value}" for key, value in wanted.items() if found.get(key) != value]
    if changes:
        return f"holds synthetic data of other settings ({', '.join(changes)})"
    missing = [name for name in map(settings.annotation_file, _SPLITS) if not (directory / name).is_file()]
    return f"holds incomplete synthetic data (without {', '.join(missing)})" if missing else ""


def _write(
    folder: Path, settings: SyntheticSettings, workers: int, progress: Callable[[int, int], None] | None
) -> None:
    total = settings.train + settings.val
    made = 0

    def advance() -> None:
        nonlocal made
        made += 1
        if progress is not None:
            progress(made, total)

    tail = settings.long_tail
    (folder / "annotations").mkdir(parents=True)
    offset = 0
    frequencies: dict[int, str] | None = None
    for number, (split, count) in enumerate(zip(_SPLITS, (settings.train, settings.val), strict=True)):
        images = folder / ("images" if tail is None else f"{split}2017")
        images.mkdir(exist_ok=True)
        job = Job(
            folder=str(images),
            files=split + "_{:06d}.jpg" if tail is None else "{:012d}.jpg",
            split=number,
            count=count,
            seed=settings.seed,
            size=settings.size,
            objects=settings.objects,
            clutter=settings.clutter,
            crowds=settings.crowds,
            offset=0 if tail is None else offset,
            long_tail=None if tail is None else tail.model_dump(),
        )
        pictures = render_all(job, workers=workers, progress=advance)
        if tail is None:
            content = _coco(job, pictures, offset=offset)
        else:
            content = lvis_file(
                classes_of(tail),
                pictures,
                tail,
                split=split,
                size=settings.size,
                first_id=offset + 1,
                seed=settings.seed,
                frequencies=frequencies,
            )
            frequencies = frequencies_of(content)
        (folder / settings.annotation_file(split)).write_text(
            json.dumps(content, separators=(",", ":")), encoding="utf-8"
        )
        offset += count
    (folder / RECORD).write_text(json.dumps(settings.record(), indent=1), encoding="utf-8")


def _coco(job: Job, pictures: list[list[Annotation]], *, offset: int) -> dict[str, Any]:
    """A COCO file. Image ids go on from one split to the next, annotation ids start at 1 in each."""
    images: list[dict[str, Any]] = []
    items: list[dict[str, Any]] = []
    for index, found in enumerate(pictures):
        image_id = offset + index + 1
        name = job.files.format(index + 1)
        images.append({"id": image_id, "file_name": name, "width": job.size, "height": job.size, "license": 1})
        items += [{"id": len(items) + k, "image_id": image_id, **item} for k, item in enumerate(found, 1)]
    return {
        "info": {"description": f"Synthetic scenes, seed {job.seed}", "version": str(_FORMAT)},
        "licenses": [{"id": 1, "name": "CC0 1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}],
        "images": images,
        "annotations": items,
        "categories": [{"id": k, "name": name, "supercategory": "shape"} for k, name in enumerate(CLASSES, 1)],
    }
