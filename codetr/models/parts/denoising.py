"""Denoising queries: ground truth made noisy, for the decoder to restore.

A batch without objects still has a group, of one empty slot a copy and of no weight: ranks that train together must
have the same losses in the same order, and every parameter must get a gradient.

Dimension key: B images, O largest number of objects in an image of the batch, at least 1, K classes, N = copies * O.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from codetr.config import Section
from codetr.ops.boxes import cxcywh_to_xyxy, normalise, xyxy_to_cxcywh
from codetr.structures import Assigned, QueryGroup, Targets


class PlainNoise(Section):
    """Denoising of DN-DETR: copies of the objects, each to be restored."""

    groups: int = Field(5, ge=1, description="noisy copies of every object, none sees another")
    label_flip: float = Field(0.2, ge=0, le=1, description="probability that a label is drawn anew from all classes")
    box_noise: float = Field(0.4, ge=0, description="largest shift of a centre in half sides, and change of a side")


class ContrastiveNoise(Section):
    """Denoising of DINO: each copy of an object to be restored comes with one, further off, to be called background."""

    queries: int = Field(
        100, ge=1, description="objects to restore, over all copies, of the image with most objects; as many decoys"
    )
    label_flip: float = Field(
        0.25, ge=0, le=1, description="probability that a label is drawn anew (half of the published label_noise_scale)"
    )
    box_noise: float = Field(1.0, ge=0, description="largest shift of a corner in half sides; decoys up to twice that")


@dataclass(frozen=True)
class NoisyObjects:
    """Objects after noise, copy after copy in blocks that must not see each other.

    labels: (B, N) int64, 0 in slots without an object. boxes: (B, N, 4) cxcywh in (0, 1), 0.5 in slots without one.
    present: (B, N) bool, the slot holds an object. supervision: what each is to become.
    """

    labels: Tensor
    boxes: Tensor
    present: Tensor
    supervision: Assigned
    blocks: int

    def group(self, content: Tensor, *, eps: float) -> QueryGroup:
        """The queries, which see the matched ones and are seen by none of those.

        content: (B, N, C), made of the labels; slots without an object get zeros. eps: least distance of a reference's
        coordinates from 0 and 1. Slots without an object are seen like all others, as in the published code.
        """
        content = content * self.present[..., None]
        boxes = self.boxes.clamp(eps, 1 - eps)
        sees = frozenset({"match"})
        return QueryGroup("dn", content, None, boxes, self.supervision, sees=sees, blocks=self.blocks)


@torch.no_grad()
def plain_noise(targets: Targets, sizes: Tensor, noise: PlainNoise, *, num_classes: int) -> NoisyObjects:
    """Copies whose centre moves and whose sides change by up to `box_noise`.

    sizes: (B, 2) height and width. Slots without an object have no part in the loss.
    Source: Li et al., DN-DETR, arXiv 2203.01305, section 4.4.
    """
    labels, boxes, present = _copies(targets, sizes, noise.groups)
    extent = torch.cat([boxes[..., 2:] / 2, boxes[..., 2:]], dim=-1)
    noisy = (boxes + (2 * torch.rand_like(boxes) - 1) * extent * noise.box_noise).clamp(0, 1)
    clean = Assigned(labels.masked_fill(~present, num_classes), boxes, present.to(boxes.dtype))
    return _noisy(labels, noisy, present, clean, noise.groups, flip=noise.label_flip, num_classes=num_classes)


@torch.no_grad()
def contrastive_noise(targets: Targets, sizes: Tensor, noise: ContrastiveNoise, *, num_classes: int) -> NoisyObjects:
    """Blocks of O objects to restore and then O decoys.

    Each corner moves, with a random sign, by up to `box_noise` half sides, that of a decoy by one to two times as much.
    There are max(1, queries // O) blocks: what the published DINO (queries doubled, over 2 O) and Co-DINO both have.
    Decoys and slots without an object are background at full weight. sizes: (B, 2) height and width.
    Source: Zhang et al., DINO, arXiv 2203.03605, section 3.3.
    """
    most = max(targets.counts)
    blocks = max(1, noise.queries // most) if most else 1
    labels, boxes, present = _copies(targets, sizes, 2 * blocks)
    decoy = torch.arange(labels.shape[1], device=boxes.device) // max(1, most) % 2 == 1
    share = torch.rand_like(boxes) + decoy[:, None]
    sign = torch.randint_like(boxes, 2) * 2 - 1
    half = (boxes[..., 2:] / 2).repeat(1, 1, 2)
    noisy = xyxy_to_cxcywh((cxcywh_to_xyxy(boxes) + sign * share * half * noise.box_noise).clamp(0, 1))
    background = decoy | ~present
    weights = boxes.new_full(labels.shape, float(most > 0))
    clean = Assigned(labels.masked_fill(background, num_classes), boxes, weights)
    return _noisy(labels, noisy, present, clean, blocks, flip=noise.label_flip, num_classes=num_classes)


def _copies(targets: Targets, sizes: Tensor, copies: int) -> tuple[Tensor, Tensor, Tensor]:
    """Labels, boxes cxcywh in units of the image, and which slots hold an object: (B, copies * O, ...) each."""
    slots = max(1, *targets.counts)
    labels, valid = targets.labels[:, :slots], targets.valid[:, :slots]
    boxes = torch.where(valid[..., None], normalise(targets.boxes[:, :slots], sizes), 0.5)
    return labels.repeat(1, copies), boxes.repeat(1, copies, 1), valid.repeat(1, copies)


def _noisy(
    labels: Tensor, boxes: Tensor, present: Tensor, clean: Assigned, blocks: int, *, flip: float, num_classes: int
) -> NoisyObjects:
    """Labels drawn anew where chance has it, and the slots without an object emptied."""
    drawn = torch.randint_like(labels, num_classes)
    flipped = torch.where(torch.rand_like(boxes[..., 0]) < flip, drawn, labels)
    boxes = torch.where(present[..., None], boxes, 0.5)
    return NoisyObjects(flipped.masked_fill(~present, 0), boxes, present, clean, blocks)
