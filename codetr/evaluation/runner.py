"""A detector on a data set: predict, bring the boxes into the files' pixels, gather, score."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
from torch import nn

from codetr.errors import UserError
from codetr.evaluation.evaluators import CocoRules, Evaluator, score
from codetr.evaluation.figures import FIGURE_NAMES, CocoFigures
from codetr.evaluation.gather import from_leader, gather_rows, is_distributed
from codetr.evaluation.results import IouType, Results, image_results
from codetr.evaluation.truth import GroundTruth
from codetr.structures import Batch, Detections, ImageBatch, to_device

MATCHED_BRANCH = "detr"


class Detector(Protocol):
    """What is evaluated: the wrapped model, or anything that predicts as it does."""

    training: bool
    heads: nn.ModuleDict

    def train(self, mode: bool = True) -> object: ...

    def predict(self, images: ImageBatch, *, branch: str, max_detections: int) -> list[Detections]: ...


def check_branch(model: Detector, branch: str) -> None:
    """Check that the model has a branch of that name.

    Raises:
        UserError: it has none; the message lists those it has.
    """
    branches = (MATCHED_BRANCH, *model.heads)
    if branch not in branches:
        kept = "" if model.heads else " It was built or saved without its heads."
        raise UserError(f"The model has no branch {branch!r}. It has {', '.join(branches)}.{kept}")


def iou_types_of(model: Detector, branch: str, wanted: IouType | None = None) -> tuple[IouType, ...]:
    """What is scored of a branch: boxes, and masks if it predicts them; or what is `wanted` alone.

    Raises:
        UserError: masks are wanted, and the branch has none.
    """
    has_masks = branch in model.heads and getattr(model.heads[branch], "has_masks", False)
    if wanted == "segm" and not has_masks:
        others = [name for name, head in model.heads.items() if getattr(head, "has_masks", False)]
        cure = f"Use --branch {others[0]}" if others else "Train with the head mask_rcnn"
        raise UserError(f"The branch {branch!r} predicts boxes, no masks. {cure}, or --iou-type bbox.")
    if wanted is not None:
        return (wanted,)
    return ("bbox", "segm") if has_masks else ("bbox",)


@torch.no_grad()
def detect(
    model: Detector,
    loader: Iterable[Batch],
    *,
    category_ids: Sequence[int],
    branch: str = MATCHED_BRANCH,
    max_detections: int = 100,
    with_masks: bool = True,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> Results:
    """Detections of this rank's images, in pixels of the image files; an image that comes twice counts once.

    category_ids: the annotation file's id of each class index. with_masks: keep the masks of a branch that has them.
    progress: called with each batch's number of images.
    The model is in evaluation mode meanwhile, and afterwards in the mode that it came in.
    """
    check_branch(model, branch)
    was_training = model.training
    model.train(False)
    found_in: dict[int, Results] = {}
    try:
        for batch in loader:
            found = model.predict(to_device(batch.images, device), branch=branch, max_detections=max_detections)
            sizes = batch.images.sizes.tolist()
            for info, size, detections in zip(batch.infos, sizes, found, strict=True):
                in_file = detections.rescale((size[0], size[1]), info.size)
                own_size = info.size if with_masks else None
                found_in[info.image_id] = image_results(info.image_id, in_file, category_ids, size=own_size)
            if progress is not None:
                progress(len(batch.infos))
    finally:
        model.train(was_training)
    return Results.joined(list(found_in.values()))


def evaluate_model(
    model: Detector,
    loader: Iterable[Batch],
    *,
    truth: GroundTruth,
    category_ids: Sequence[int],
    branch: str = MATCHED_BRANCH,
    max_detections: int = 100,
    evaluator: Evaluator | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> CocoFigures:
    """The COCO figures of a detector's boxes, the same on every rank.

    With several ranks, each predicts what its loader yields and rank 0 scores them all. Images of `truth` that no
    loader yields count as images without detections. Arguments as in `detect`.

    Raises:
        UserError: the model has no such branch, or the loader's images are not those of `truth`.
    """
    results = detect(
        model,
        loader,
        category_ids=category_ids,
        branch=branch,
        max_detections=max_detections,
        with_masks=False,
        device=device,
        progress=progress,
    )
    return score_gathered(results, truth=truth, evaluator=evaluator, rules=CocoRules(max_detections=max_detections))


def score_gathered(
    results: Results, *, truth: GroundTruth, evaluator: Evaluator | None = None, rules: CocoRules
) -> CocoFigures:
    """Score the boxes that all ranks hold together, on rank 0, and give every rank the figures.

    Raises: ValueError for masks of several ranks, which are not gathered.
    """
    if not is_distributed():
        return score(truth, results, evaluator=evaluator, rules=rules)
    if rules.iou_type == "segm":
        raise ValueError("masks are scored by a process alone; ranks exchange boxes")
    gathered = Results.of(gather_rows(torch.from_numpy(results.rows())).numpy())
    names = () if rules.class_agnostic else truth.names

    def compute() -> list[float]:
        figures = score(truth, gathered, evaluator=evaluator, rules=rules)
        return [*(getattr(figures, name) for name in FIGURE_NAMES), *figures.per_class.values()]

    values = from_leader(compute, len(FIGURE_NAMES) + len(names))
    twelve = dict(zip(FIGURE_NAMES, values, strict=False))
    per_class = dict(zip(names, values[len(FIGURE_NAMES) :], strict=True))
    return CocoFigures(**twelve, per_class=per_class, max_detections=rules.max_detections)
