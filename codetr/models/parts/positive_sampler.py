"""Which positives of a head become queries: a random subset of static size.

Dimension key: B images, P candidates, M picked (padded), C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from codetr.ops.distributed import max_over_ranks
from codetr.ops.draws import priorities
from codetr.ops.gather import take
from codetr.structures import Positives


@dataclass(frozen=True)
class PositiveSampler:
    """Pick at most `limit` positives of each image at random and pad the rest of the slots.

    fill: `mask` leaves the padded slots invalid (the paper: positives only). `negatives` fills images with fewer than N
    positives up to N with random negatives, which the decoder learns to call background; N is the largest number of
    positives in the batch, over all ranks, at least `minimum` (the published code). `minimum` has no part in `mask`.
    stream: of its draws (`ops.draws`); those of a head that draws more are children of it.

    Source: paper section 3.3; Sense-X/Co-DETR projects/models/co_deformable_detr_head.py, get_aux_targets.
    """

    limit: int = 300
    fill: Literal["mask", "negatives"] = "mask"
    minimum: int = 9
    stream: int = 0

    def pick(
        self, labels: Tensor, candidate: Tensor, num_classes: int, *, seeds: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Slots of every image, positives first, without asking the device anything.

        labels: (B, P) int64, num_classes = background. candidate: (B, P) bool, False where a slot may not be picked.
        Returns index (B, M) int64 into the candidates and valid (B, M) bool, M = min(limit, P), with `negatives`
        min(max(limit, minimum), P). seeds: of the images, as in `Targets`.
        """
        positive = candidate & (labels < num_classes)
        priority = priorities(seeds, labels, self.stream)
        if self.fill == "mask":
            score, index = priority.masked_fill(~positive, -1).topk(min(self.limit, labels.shape[1]), dim=1)
            return index, score >= 0
        slots = min(max(self.limit, self.minimum), labels.shape[1])
        score, index = (priority + (positive.long() << 62)).masked_fill(~candidate, -1).topk(slots, dim=1)
        wanted = max_over_ranks(positive.sum(1).amax()).clamp(max=self.limit).clamp(min=self.minimum)
        return index, (score >= 0) & (torch.arange(slots, device=labels.device) < wanted)


def gather_positives(
    picked: tuple[Tensor, Tensor],
    *,
    boxes: Tensor,
    features: Tensor,
    labels: Tensor,
    targets: Tensor,
    background: int,
    per_cell: int = 1,
) -> Positives:
    """The door `Positives` from what `PositiveSampler.pick` returned.

    boxes: (B, P, 4) xyxy pixels. features: (B, P / per_cell, C), one for so many candidates in a row. labels: (B, P).
    targets: (B, P, 4), 0 for background. Invalid slots hold label `background` and target 0.
    """
    index, valid = picked
    return Positives(
        boxes=take(boxes, index).detach(),
        features=take(features, index // per_cell),
        labels=labels.gather(1, index).masked_fill(~valid, background),
        targets=take(targets, index).masked_fill(~valid.unsqueeze(-1), 0),
        valid=valid,
        found=(labels < background).sum(1),
    )
