"""What `codetr eval` prints, and what it writes to a JSON file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from codetr.evaluation.dataset import Evaluation
    from codetr.evaluation.figures import Figures
    from codetr.evaluation.results import IouType

KINDS: dict[IouType, str] = {"bbox": "boxes", "segm": "masks"}


@dataclass(frozen=True)
class Report:
    """title: what was scored. settings: how. evaluation: of a model."""

    title: str
    figures: Mapping[IouType, Figures]
    settings: dict[str, Any]
    evaluation: Evaluation | None = None


def report(found: Report, *, per_class: bool, json_file: Path | None) -> None:
    """Print tables, and write everything to a file if wanted."""
    from rich.console import Console

    from codetr.evaluation.files import write_json
    from codetr.evaluation.tables import print_figures

    console, evaluation = Console(), found.evaluation
    if evaluation is not None:
        _print_lines(console, _class_lines(evaluation))
    for kind, figures in found.figures.items():
        matched = None if evaluation is None else evaluation.matched.get(kind)
        everything = None if matched is None else f"all {_classes(figures)}"
        heading = _heading(kind, alone=len(found.figures) == 1, classes=everything)
        print_figures(figures, console, title=found.title, heading=heading, per_class=per_class)
        if matched is not None:
            known = f"the {_classes(matched)} that the model knows"
            heading = _heading(kind, alone=len(found.figures) == 1, classes=known)
            print_figures(matched, console, title=found.title, heading=heading)
    if evaluation is not None and evaluation.submission is not None:
        _print_lines(console, _submission_lines(evaluation))
    if json_file is not None:
        write_json(json_file, _content(found), indent=2)


def _classes(figures: Figures) -> str:
    return _counted(len(figures.by_class), "class", "classes")


def _counted(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _heading(kind: IouType, *, alone: bool, classes: str | None) -> str | None:
    """None where there is one table."""
    if alone:
        return classes
    return KINDS[kind] if classes is None else f"{KINDS[kind]}, {classes}"


def _class_lines(evaluation: Evaluation) -> Iterator[str]:
    yield from evaluation.classes.describe()
    if evaluation.classes.foreign:
        dropped = _counted(evaluation.dropped, "detection of these was", "detections of these were")
        yield f"{dropped} dropped from the best of {_counted(evaluation.images, 'image', 'images')}"


def _submission_lines(evaluation: Evaluation) -> Iterator[str]:
    submission = evaluation.submission
    assert submission is not None
    inside = f" as {submission.member}" if submission.file.suffix == ".zip" else ""
    what = KINDS[submission.iou_type]
    yield f"wrote {evaluation.written:,} {what} in {evaluation.images:,} images to {submission.file}{inside}"
    if not evaluation.figures:
        yield f"{evaluation.annotations} has no annotations to score against; upload the file: {submission.server}"


def _print_lines(console: Console, lines: Iterator[str]) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def _content(found: Report) -> dict[str, Any]:
    """The first kind's figures at the top, masks beside boxes in `segm`."""
    entries: dict[str, dict[str, Any]] = {kind: _entry(figures) for kind, figures in found.figures.items()}
    evaluation = found.evaluation
    if evaluation is not None:
        for kind, matched in evaluation.matched.items():
            entries[kind]["matched_classes"] = matched.as_dict()
    kinds = list(entries)
    content = {**(entries[kinds[0]] if kinds else {}), **{kind: entries[kind] for kind in kinds[1:]}}
    if evaluation is not None:
        content["images"] = evaluation.images
        content["classes"] = {**evaluation.classes.as_dict(), "dropped_detections": evaluation.dropped}
        if evaluation.submission is not None:
            content["submission"] = {"file": str(evaluation.submission.file), "detections": evaluation.written}
    return {**content, "settings": found.settings}


def _entry(figures: Figures) -> dict[str, Any]:
    by_class = {name: asdict(entry) for name, entry in figures.by_class.items()}
    return {**figures.as_dict(), "per_category_AP": figures.per_class, "per_category": by_class}
