"""What each branch calls positive in an image: its priors, the objects that they belong to, and their levels.

Dimension key: M positives, G objects, P pyramid levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import torch
from torch import Tensor

from codetr.assigners.hungarian import MatchingCost, hungarian_match
from codetr.models.build import ModelSpec
from codetr.models.collaborative import Collaborative
from codetr.models.heads.contract import Head
from codetr.models.parts.priors import AnchorGrid
from codetr.ops.boxes import area, denormalise, normalise
from codetr.ops.masks import CROP_SIDE
from codetr.ops.roi import roi_levels
from codetr.structures import Batch, Memory, Positives, Pyramid, Targets

AnySpec = TypeVar("AnySpec", bound=ModelSpec)
MATCHED = "hungarian"
_ALL = 1_000_000
_POOLED_SCALE = 14.0
"""Side, in finest strides, below which regions are pooled from the finest level (Lin et al., FPN, Eq. 1)."""


@dataclass(frozen=True)
class Branch:
    """The positives of one branch in one image.

    name: of the head, or `MATCHED`. kind: its component. boxes: (M, 4) xyxy pixels of the resized image: anchors,
    proposals, or the boxes that the matched queries predict. objects: (M,) index of the object. levels: (M,) index into
    strides, or None for queries. form: points stand for priors of a grid, boxes for what has a box of its own.
    sampled: there are as many as the head samples of an image, so that there may be more.
    """

    name: str
    kind: str
    boxes: Tensor
    objects: Tensor
    levels: Tensor | None
    strides: tuple[int, ...]
    form: Literal["points", "boxes"]
    sampled: bool = False

    def counts(self, num_objects: int) -> list[int]:
        """Positives of each object."""
        counts: list[int] = self.objects.bincount(minlength=num_objects).tolist()
        return counts

    def level_counts(self, num_objects: int) -> list[list[int]]:
        """Positives of each object on each level; empty for queries."""
        if self.levels is None:
            return []
        cells = self.objects * len(self.strides) + self.levels
        counts = cells.bincount(minlength=num_objects * len(self.strides)).view(num_objects, -1)
        rows: list[list[int]] = counts.tolist()
        return rows


def with_all_positives(spec: AnySpec) -> AnySpec:
    """The spec whose heads hand over every positive, not as many as become queries, and no negatives."""
    changes = {"max_positives": _ALL, "fill": "mask"}
    return spec.model_copy(update={"collaborative": spec.collaborative.model_copy(update=changes)})


@torch.no_grad()
def branches(model: Collaborative, batch: Batch, spec: ModelSpec, *, seed: int = 0) -> list[Branch]:
    """The Hungarian branch and every head on the one image of a batch.

    model: built from `with_all_positives`; without dropout meanwhile. A head that samples its positives, as a second
    stage does, shows those that it trains with.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            memory = model.base.encode(batch.images)
            found = [_matched(model, memory, batch, spec.criterion.cost, spec.base.name)]
            if model.adapter is not None:
                pyramid = model.adapter(memory)
                for name, head in model.heads.items():
                    assert isinstance(head, Head)
                    found.append(head_branch(name, spec.heads[name].name, head, pyramid, batch.targets))
    finally:
        model.train(was_training)
    return found


def head_branch(name: str, kind: str, head: Head, pyramid: Pyramid, targets: Targets) -> Branch:
    """A head on the one image of a pyramid. Masks have no part in what is positive: empty ones will do."""
    if head.has_masks and targets.mask_crops is None:
        shape = (*targets.labels.shape, CROP_SIDE, CROP_SIDE)
        targets = replace(targets, mask_crops=targets.labels.new_zeros(shape, dtype=torch.uint8))
    positives = head(pyramid, targets).positives
    chosen = (positives.valid & (positives.targets != 0).any(2))[0]
    boxes = positives.boxes[0, chosen]
    grid = getattr(head, "anchors", None)
    objects = object_of(positives, targets)[chosen]
    form: Literal["points", "boxes"] = "points" if isinstance(grid, AnchorGrid) else "boxes"
    if isinstance(grid, AnchorGrid):
        levels = _grid_levels(boxes, pyramid.strides, grid)
    else:
        levels = _pooled_levels(boxes, pyramid.strides)
    sampled = len(boxes) == positives.valid.shape[1]
    return Branch(name, kind, boxes, objects, levels, pyramid.strides, form, sampled)


def object_of(positives: Positives, targets: Targets) -> Tensor:
    """(M,) the object of each positive of the first image: the one with its target's box and class."""
    same = (positives.targets[0, :, None] == targets.boxes[0]).all(2)
    same_class = same & (positives.labels[0, :, None] == targets.labels[0]) & targets.valid[0]
    return same_class.int().argmax(1)


def _grid_levels(boxes: Tensor, strides: Sequence[int], grid: AnchorGrid) -> Tensor:
    """The level of anchors: their smallest size on a level is `grid.scale` strides, their largest below twice that."""
    side = area(boxes).sqrt()
    smallest = side.new_tensor([grid.scale * stride for stride in strides])
    return ((side[:, None] >= smallest * (1 - 1e-3)).sum(1) - 1).clamp(min=0)


def _pooled_levels(boxes: Tensor, strides: Sequence[int]) -> Tensor:
    """The level that a region of this size is pooled from."""
    return roi_levels(boxes, num_levels=max(1, len(strides) - 1), finest_scale=_POOLED_SCALE * strides[0])


def _matched(model: Collaborative, memory: Memory, batch: Batch, cost: MatchingCost, kind: str) -> Branch:
    """The queries that the last layer's matching gives to the objects, with the boxes that they predict."""
    (group, *_), targets, sizes = model.base.propose(memory, None).groups, batch.targets, batch.images.sizes
    output = model.base.decode(memory, [group])
    index = hungarian_match(
        output.logits[-1:],
        output.boxes[-1:],
        target_labels=targets.labels,
        target_boxes=normalise(targets.boxes, sizes),
        num_objects=targets.valid.sum(1),
        cost=cost,
        valid=group.valid,
    )[0, 0]
    chosen = index >= 0
    boxes = denormalise(output.boxes[-1], sizes)[0, chosen]
    return Branch(MATCHED, kind, boxes, index[chosen], None, (), "boxes")
