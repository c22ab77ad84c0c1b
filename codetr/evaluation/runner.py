"""A detector on images: predict, bring the boxes into the files' pixels, and hand them on image by image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn

from codetr.errors import UserError
from codetr.evaluation.evaluators import Evaluator, Rules
from codetr.evaluation.figures import Figures
from codetr.evaluation.results import IouType, Results, image_results
from codetr.evaluation.scorer import Scorer, Take, score_all
from codetr.evaluation.truth import GroundTruth
from codetr.structures import Batch, Detections, ImageBatch, to_device

MATCHED_BRANCH = "detr"
FIXED_PER_IMAGE = 3000
"""Detections that a model gives of an image for fixed AP: on LVIS, five times what 10,000 of each class come to."""
FOREIGN_FACTOR = 10
"""As many times more detections are asked for at most, so that some are left where classes are not in the data."""


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


def per_image(rules: Rules) -> int:
    """Detections that a model gives of an image to be scored by some rules."""
    return FIXED_PER_IMAGE if rules.limit is None else rules.limit


@torch.no_grad()
def detect(
    model: Detector,
    loader: Iterable[Batch],
    take: Take,
    *,
    category_ids: Sequence[int | None],
    branch: str = MATCHED_BRANCH,
    max_detections: int = 100,
    with_masks: bool = True,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> int:
    """Hand the detections of this rank's images to `take`, in pixels of the image files, and forget them.

    category_ids: the annotation file's id of each class index; None where the data have no such class, whose detections
    are dropped. with_masks: keep the masks of a branch that has them.
    progress: called with each batch's number of images.
    Returns how many were dropped of the `max_detections` best of each image.
    The model is in evaluation mode meanwhile, and afterwards in the mode that it came in.
    """
    check_branch(model, branch)
    asked = _asked(max_detections, category_ids)
    known = torch.tensor([identity is not None for identity in category_ids])
    ids = [-1 if identity is None else identity for identity in category_ids]
    was_training, dropped = model.training, 0
    model.train(False)
    try:
        for batch in loader:
            found = model.predict(to_device(batch.images, device), branch=branch, max_detections=asked)
            sizes = batch.images.sizes.tolist()
            for info, size, detections in zip(batch.infos, sizes, found, strict=True):
                if asked != max_detections:
                    keep = known.to(detections.labels.device)[detections.labels]
                    dropped += int((~keep[:max_detections]).sum())
                    detections = _chosen(detections, keep).first(max_detections)
                in_file = detections.rescale(info.content or (size[0], size[1]), info.size)
                own_size = info.size if with_masks else None
                take(info.image_id, image_results(info.image_id, in_file, ids, size=own_size))
            if progress is not None:
                progress(len(batch.infos))
    finally:
        model.train(was_training)
    return dropped


def _asked(max_detections: int, category_ids: Sequence[int | None]) -> int:
    """More than `max_detections`, in the measure in which classes are foreign; exactly that many if none is."""
    known = sum(identity is not None for identity in category_ids)
    if known == len(category_ids):
        return max_detections
    factor = min(FOREIGN_FACTOR, 1 + len(category_ids) / max(known, 1))
    return int(max_detections * factor)


def _chosen(detections: Detections, keep: Tensor) -> Detections:
    columns = (detections.boxes, detections.scores, detections.labels, detections.masks, detections.mask_crops)
    boxes, scores, labels, masks, crops = (None if column is None else column[keep] for column in columns)
    assert boxes is not None and scores is not None and labels is not None
    return replace(detections, boxes=boxes, scores=scores, labels=labels, masks=masks, mask_crops=crops)


def evaluate_model(
    model: Detector,
    loader: Iterable[Batch],
    *,
    truth: GroundTruth,
    category_ids: Sequence[int],
    branch: str = MATCHED_BRANCH,
    rules: Sequence[Rules] = (Rules(),),
    evaluator: Evaluator | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> dict[IouType, Figures]:
    """The figures of a detector by what is scored, the same on every rank.

    With several ranks, each predicts what its loader yields and rank 0 makes the figures. Images of `truth` that no
    loader yields count as images without detections. rules: for boxes, masks or both, with one limit of detections.
    Other arguments as in `detect`.

    Raises:
        UserError: the model has no such branch, or the loader's images are not those of `truth`.
    """
    scorers = [Scorer(truth, one, evaluator=evaluator) for one in rules]

    detect(
        model,
        loader,
        to_all([scorer.add for scorer in scorers]),
        category_ids=category_ids,
        branch=branch,
        max_detections=per_image(rules[0]),
        with_masks=any(one.iou_type == "segm" for one in rules),
        device=device,
        progress=progress,
    )
    return score_all(scorers)


def to_all(takes: Sequence[Take]) -> Take:
    """One `take` for several."""

    def take(image_id: int, results: Results) -> None:
        for each in takes:
            each(image_id, results)

    return take
