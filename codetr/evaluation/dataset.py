"""A detector on the validation split that a spec's `data` section names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from codetr.data.coco import open_split
from codetr.data.config import DataConfig, Split
from codetr.data.loader import build_loader
from codetr.evaluation.config import EvalConfig
from codetr.evaluation.evaluators import CocoRules, Evaluator, open_evaluator, score
from codetr.evaluation.figures import CocoFigures
from codetr.evaluation.results import IouType
from codetr.evaluation.runner import Detector, check_branch, detect, iou_types_of
from codetr.evaluation.truth import GroundTruth


def evaluate_split(
    model: Detector,
    *,
    classes: Sequence[str],
    category_ids: Sequence[int],
    data: DataConfig,
    settings: EvalConfig,
    iou_type: IouType | None = None,
    evaluator: Evaluator | None = None,
    device: torch.device | str = "cpu",
    start: Callable[[int], Callable[[int], None]] | None = None,
) -> dict[IouType, CocoFigures]:
    """The COCO figures of a model on the validation images, on this process alone.

    classes, category_ids: the model's, in order of its class index; the data set's are found by name.
    iou_type: boxes or masks alone; boxes, and masks of a branch that predicts them, unless given.
    evaluator: the one that `settings` names unless given. start: given the number of images, returns the `progress` of
    `detect`.

    Raises:
        UserError: the data cannot be read, its classes are not the model's, the model has no such branch, or masks are
        to be scored that the branch or the data do not have.
    """
    check_branch(model, settings.branch)
    kinds = iou_types_of(model, settings.branch, iou_type)
    dataset = open_split(data.model_copy(update={"masks": False}), "val")  # the truth has its own
    truth = GroundTruth.load(dataset.annotations)
    if "segm" in kinds:
        truth.require_masks()
    results = detect(
        model,
        build_loader(dataset, data, split="val", batch_size=settings.batch_size, seed=0),
        category_ids=truth.ids_of(classes, category_ids),
        branch=settings.branch,
        max_detections=settings.max_detections,
        with_masks="segm" in kinds,
        device=device,
        progress=start(len(dataset)) if start else None,
    )
    chosen = evaluator or open_evaluator(settings.evaluator)
    return {
        kind: score(truth, results, evaluator=chosen, rules=CocoRules(kind, settings.max_detections)) for kind in kinds
    }


def elsewhere(data: DataConfig, folder: Path) -> DataConfig:
    """The same settings for the data set in another folder, in one of the known layouts."""
    return data.model_copy(update={"dir": folder, "synthetic": None, "train": Split(), "val": Split()})
