"""Results files as the servers of COCO test-dev and LVIS take them."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from codetr.engine.files import replaced_file
from codetr.errors import UserError
from codetr.evaluation.evaluators import Protocol
from codetr.evaluation.results import IouType, Results

SERVERS: dict[Protocol, str] = {
    "coco": "https://cocodataset.org/#upload",
    "lvis": "https://www.lvisdataset.org",
}
BOX_DECIMALS, SCORE_DECIMALS = 2, 5


@dataclass(frozen=True)
class Submission:
    """A file to be written.

    file: `.json`, or `.zip`, which holds the JSON file under the name that COCO's server asks for.
    annotations: the file of the images, whose name names the split.
    """

    file: Path
    annotations: Path
    iou_type: IouType
    protocol: Protocol

    @property
    def member(self) -> str:
        """Name of the JSON file inside a zip."""
        stem = self.file.stem
        if self.protocol != "coco" or re.fullmatch(r"detections_.+_results", stem):
            return f"{stem}.json"
        return f"detections_{_split_name(self.annotations)}_{stem}_results.json"

    @property
    def server(self) -> str:
        """Where it is uploaded."""
        return SERVERS[self.protocol]

    def check(self) -> None:
        """Before hours of detection. Raises: UserError for a name that says no format, or a folder that cannot be."""
        if self.file.suffix not in (".json", ".zip"):
            raise UserError(
                f"--submission {self.file}: a submission is a .json file, or a .zip file that holds it. "
                f"Name it {self.file.with_suffix('.zip').name}."
            )
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(self.file, error) from error

    def write(self, portions: Iterator[Results]) -> int:
        """Write detections, boxes or masks alone, rounded: boxes to 0.01 pixels, scores to 0.00001.

        Returns their number. Raises: UserError if the file cannot be written; what was there before is then untouched.
        """
        try:
            with replaced_file(self.file) as path:
                if self.file.suffix == ".json":
                    with path.open("wb") as out:
                        return _write_entries(out.write, portions, self.iou_type)
                with (
                    zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
                    archive.open(self.member, "w", force_zip64=True) as out,
                ):
                    return _write_entries(out.write, portions, self.iou_type)
        except OSError as error:
            raise _unwritable(self.file, error) from error


def _write_entries(write: Callable[[bytes], object], portions: Iterator[Results], iou_type: IouType) -> int:
    count = 0
    for results in portions:
        for entry in _entries(results, iou_type):
            write((",\n" if count else "[\n").encode() + json.dumps(entry, separators=(",", ":")).encode())
            count += 1
    write(b"\n]\n" if count else b"[]\n")
    return count


def _entries(results: Results, iou_type: IouType) -> Iterator[dict[str, object]]:
    """Masks come without boxes: the servers would take the area of the box for that of the object."""
    columns = (results.image_ids, results.category_ids, results.boxes, results.scores)
    masks = results.segmentations or (None,) * len(results)
    for image, category, box, score, mask in zip(*(column.tolist() for column in columns), masks, strict=True):
        shape = {"segmentation": mask} if iou_type == "segm" else {"bbox": [round(v, BOX_DECIMALS) for v in box]}
        yield {"image_id": image, "category_id": category, **shape, "score": round(score, SCORE_DECIMALS)}


def _split_name(annotations: Path) -> str:
    """`test-dev2017` of `image_info_test-dev2017.json`, `val2017` of `instances_val2017.json`."""
    return re.sub(r"^(image_info|instances)_", "", annotations.stem)


def _unwritable(file: Path, error: OSError) -> UserError:
    return UserError(f"{file}: cannot be written: {error.strerror}. Name a file in a folder of yours.")
