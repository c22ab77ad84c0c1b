"""A detector on the validation split that a spec's `data` section names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from codetr.data.coco import open_split
from codetr.data.config import DataConfig, Split
from codetr.data.loader import build_loader
from codetr.evaluation.config import EvalConfig
from codetr.evaluation.evaluators import Evaluator, open_evaluator
from codetr.evaluation.figures import CocoFigures
from codetr.evaluation.runner import Detector, check_branch, evaluate_model
from codetr.evaluation.truth import GroundTruth


def evaluate_split(
    model: Detector,
    *,
    classes: Sequence[str],
    category_ids: Sequence[int],
    data: DataConfig,
    settings: EvalConfig,
    evaluator: Evaluator | None = None,
    device: torch.device | str = "cpu",
    start: Callable[[int], Callable[[int], None]] | None = None,
) -> CocoFigures:
    """The COCO figures of a model on the validation images, on this process alone.

    classes, category_ids: the model's, in order of its class index; the data set's are found by name.
    evaluator: the one that `settings` names unless given. start: given the number of images, returns the `progress` of
    `detect`.

    Raises:
        UserError: the data cannot be read, its classes are not the model's, or the model has no such branch.
    """
    check_branch(model, settings.branch)
    dataset = open_split(data, "val")
    truth = GroundTruth.load(dataset.annotations)
    return evaluate_model(
        model,
        build_loader(dataset, data, split="val", batch_size=settings.batch_size, seed=0),
        truth=truth,
        category_ids=truth.ids_of(classes, category_ids),
        branch=settings.branch,
        max_detections=settings.max_detections,
        evaluator=evaluator or open_evaluator(settings.evaluator),
        device=device,
        progress=start(len(dataset)) if start else None,
    )


def elsewhere(data: DataConfig, folder: Path) -> DataConfig:
    """The same settings for the data set in another folder, in one of the known layouts."""
    return data.model_copy(update={"dir": folder, "synthetic": None, "train": Split(), "val": Split()})
