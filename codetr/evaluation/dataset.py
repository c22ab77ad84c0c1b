"""A detector on the validation images that a spec's `data` section names, or on those of another data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from codetr.data.annotations import AnnotationFile
from codetr.data.coco import CocoDataset
from codetr.data.config import DataConfig, Split
from codetr.data.known import KNOWN, find
from codetr.data.layout import open_annotations
from codetr.data.loader import Loader, build_loader
from codetr.data.prepare import prepare
from codetr.errors import UserError
from codetr.evaluation.classes import ClassMatch, match_classes
from codetr.evaluation.config import EvalConfig
from codetr.evaluation.evaluators import Evaluator, Rules, open_evaluator
from codetr.evaluation.figures import Figures
from codetr.evaluation.images_only import read_images_only
from codetr.evaluation.protocol import rules_for
from codetr.evaluation.results import IouType
from codetr.evaluation.runner import Detector, check_branch, detect, iou_types_of, per_image, to_all
from codetr.evaluation.scorer import Scorer
from codetr.evaluation.streams import KeptDetections
from codetr.evaluation.submissions import Submission
from codetr.evaluation.truth import GroundTruth, distinct_names


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    figures: by what is scored, over all classes of the data set, as papers report them; empty without annotations.
    matched: the same over the classes that the model knows; empty if it knows them all. classes: which these are.
    dropped: detections among the best of their images, of classes that the data set does not have.
    annotations: the file that lists the images. images: how many there are.
    submission, written: the file for a server and the number of detections in it, if there is one.
    """

    rules: tuple[Rules, ...]
    classes: ClassMatch
    annotations: Path
    images: int
    figures: dict[IouType, Figures] = field(default_factory=dict)
    matched: dict[IouType, Figures] = field(default_factory=dict)
    dropped: int = 0
    submission: Submission | None = None
    written: int = 0


def evaluate_split(
    model: Detector,
    *,
    classes: Sequence[str],
    category_ids: Sequence[int],
    data: DataConfig,
    settings: EvalConfig,
    iou_type: IouType | None = None,
    fixed: bool = False,
    submission: Path | None = None,
    evaluator: Evaluator | None = None,
    device: torch.device | str = "cpu",
    start: Callable[[int], Callable[[int], None]] | None = None,
) -> Evaluation:
    """A model on the validation images, on this process alone.

    classes, category_ids: the model's, in order of its class index; the data set's are found by name, and need not be
    the same. iou_type: boxes or masks alone; boxes, and masks of a branch that predicts them, unless given.
    fixed: fixed AP, for LVIS. submission: a file to write for a server, whether there are annotations or not.
    evaluator: the one that `settings` names unless given. start: given the number of images, returns the `progress` of
    `detect`.

    Raises:
        UserError: the data cannot be read, have no class of the model or no annotations, the model has no such branch,
        or masks are to be scored that the branch or the data do not have.
    """
    check_branch(model, settings.branch)
    kinds = iou_types_of(model, settings.branch, iou_type)
    dataset, file = open_val(data)
    matching = _matching(file, dataset, classes, category_ids)
    truth = _truth(file, submits=submission is not None)
    federated = file.dialect == "lvis" if truth is None else truth.is_federated
    rules = rules_for(settings, kinds, federated=federated, fixed=fixed)
    library = evaluator or open_evaluator(settings.evaluator)
    scorers = () if truth is None else tuple(Scorer(truth, one, evaluator=library) for one in rules)
    target = None if submission is None else _submission(submission, file, rules)
    kept = KeptDetections(rules=rules[0])
    takes = [*(scorer.add for scorer in scorers), *([kept.add] if target is not None else [])]
    # The one place where a model is wrapped for test-time augmentation; its loader then gives pixels as they are read.
    detector, loader = _for_test_time(model, dataset, data, settings)
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=settings.precision == "bf16"):
        dropped = detect(
            detector,
            loader,
            to_all(takes),
            category_ids=[None if at is None else dataset.category_ids[at] for at in matching.index],
            branch=settings.branch,
            max_detections=per_image(rules[0]),
            with_masks="segm" in kinds,
            device=device,
            progress=start(len(dataset)) if start else None,
        )
    found = Evaluation(rules, matching, file.path, len(dataset), dropped=dropped)
    for scorer in scorers:
        kind = scorer.rules.iou_type
        found.figures[kind], *known = scorer.figures(classes=matching.matched if matching.unknown else None)
        if known:
            found.matched[kind] = known[0]
    if target is None:
        return found
    return replace(found, submission=target, written=target.write(kept.results()))


def open_val(data: DataConfig) -> tuple[CocoDataset, AnnotationFile]:
    """The validation images, and the file that lists them; without annotations if it has none (COCO's test-dev).

    Raises: UserError if they cannot be used.
    """
    prepare(data)
    listed = read_images_only(data)
    file, images = listed if listed is not None else open_annotations(data, "val")
    return CocoDataset(file, images, max_pixels=data.max_pixels), file


def dataset_named(data: DataConfig, name: str | Path) -> DataConfig:
    """The same settings for another data set: a folder, or coco, lvis or objects365 where they are found.

    Raises: UserError if a known data set is nowhere.
    """
    folder = Path(name)
    if isinstance(name, str) and name.lower() in KNOWN:
        return find(name.lower(), data.model_copy(update={"dir": folder}) if folder.is_dir() else data)
    return data.model_copy(update={"dir": folder, "synthetic": None, "train": Split(), "val": Split()})


def from_files(data: DataConfig, annotations: Path, images: Path | None) -> DataConfig:
    """The same settings for the images of an annotation file. images: their folder, if it does not lie beside it."""
    split = Split(annotations=annotations.absolute(), images=images and images.absolute())
    return data.model_copy(update={"dir": None, "synthetic": None, "train": Split(), "val": split})


def _matching(
    file: AnnotationFile, dataset: CocoDataset, classes: Sequence[str], category_ids: Sequence[int]
) -> ClassMatch:
    names = distinct_names(dataset.classes, dataset.category_ids)
    synonyms = {entry["id"]: [str(s) for s in entry.get("synonyms") or ()] for entry in file.categories}
    further = {name: synonyms[key] for name, key in zip(names, dataset.category_ids, strict=True)}
    return match_classes(distinct_names(classes, category_ids), names, synonyms=further, source=str(file.path))


def _truth(file: AnnotationFile, *, submits: bool) -> GroundTruth | None:
    if file.annotations:
        return GroundTruth.of(file)
    if submits:
        return None
    raise UserError(
        f"{file.path}: there are no annotations to score against. To write a results file for a server, add "
        "--submission FILE."
    )


def _submission(path: Path, file: AnnotationFile, rules: Sequence[Rules]) -> Submission:
    if len(rules) > 1:
        raise UserError("--submission holds boxes or masks, and the branch predicts both. Add --iou-type bbox or segm.")
    submission = Submission(path, file.path, rules[0].iou_type, rules[0].protocol)
    submission.check()
    return submission


def _for_test_time(
    model: Detector, dataset: CocoDataset, data: DataConfig, settings: EvalConfig
) -> tuple[Detector, Loader]:
    transform = None
    if settings.test_time is not None:
        from codetr.evaluation.test_time import TestTimeDetector, as_read

        model, transform = TestTimeDetector(model, settings.test_time, pad_multiple=data.pad_multiple), as_read
    loader = build_loader(dataset, data, split="val", batch_size=settings.batch_size, seed=0, transform=transform)
    return model, loader
