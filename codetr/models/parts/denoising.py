"""Denoising queries: ground truth made noisy, for the decoder to restore.

A batch without objects still has a group, of one empty slot a copy and of no weight: ranks that train together must
have the same losses in the same order, and every parameter must get a gradient.

Noise is drawn for an object and a copy, from the seed of the image. How many copies and slots there are follows, as
published, from the largest number of objects in an image, here of any rank: empty slots are seen by an image's other
queries, and copies are counted by the losses, so that the largest number of each rank alone would make the losses
depend on the number of ranks. The hosts agree on it, no device waits. A piece of an accumulated batch has its own.

Dimension key: B images, O largest number of objects in an image of the batch on any rank, at least 1, K classes,
N = copies * O.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import pad

from codetr.config import Section
from codetr.ops.boxes import cxcywh_to_xyxy, normalise, xyxy_to_cxcywh
from codetr.ops.distributed import largest_over_ranks
from codetr.ops.draws import integers, stream, uniform
from codetr.structures import Assigned, QueryGroup, Targets

_SHIFT, _SIGN, _FLIP, _LABEL = (stream(f"denoising.{name}") for name in ("shift", "sign", "flip", "label"))


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
    clean = _copies(targets, sizes, noise.groups, most=largest_over_ranks(max(targets.counts)))
    extent = torch.cat([clean.boxes[..., 2:] / 2, clean.boxes[..., 2:]], dim=-1)
    shift = 2 * uniform(targets.seeds, clean.boxes, _SHIFT) - 1
    noisy = (clean.boxes + shift * extent * noise.box_noise).clamp(0, 1)
    labels = clean.flipped(targets.seeds, probability=noise.label_flip, num_classes=num_classes)
    weights = clean.present.to(clean.boxes.dtype)
    return clean.noisy(labels, noisy, ~clean.present, weights, blocks=noise.groups, num_classes=num_classes)


@torch.no_grad()
def contrastive_noise(targets: Targets, sizes: Tensor, noise: ContrastiveNoise, *, num_classes: int) -> NoisyObjects:
    """Blocks of O objects to restore and then O decoys.

    Each corner moves, with a random sign, by up to `box_noise` half sides, that of a decoy by one to two times as much.
    There are max(1, queries // O) blocks: what the published DINO (queries doubled, over 2 O) and Co-DINO both have.
    Decoys and slots without an object are background at full weight. sizes: (B, 2) height and width.
    Source: Zhang et al., DINO, arXiv 2203.03605, section 3.3.
    """
    most = largest_over_ranks(max(targets.counts))
    blocks = max(1, noise.queries // most) if most else 1
    clean = _copies(targets, sizes, 2 * blocks, most=most)
    decoy = torch.arange(2 * blocks, device=sizes.device)[:, None] % 2 == 1
    share = uniform(targets.seeds, clean.boxes, _SHIFT) + decoy[..., None]
    sign = integers(targets.seeds, clean.boxes, _SIGN, high=2) * 2 - 1
    half = (clean.boxes[..., 2:] / 2).repeat(1, 1, 1, 2)
    corners = cxcywh_to_xyxy(clean.boxes) + sign * share * half * noise.box_noise
    noisy = xyxy_to_cxcywh(corners.clamp(0, 1))
    labels = clean.flipped(targets.seeds, probability=noise.label_flip, num_classes=num_classes)
    weights = clean.boxes.new_full(clean.labels.shape, float(most > 0))
    return clean.noisy(labels, noisy, decoy | ~clean.present, weights, blocks=blocks, num_classes=num_classes)


@dataclass(frozen=True)
class _Copies:
    """Of the objects: labels (B, copies, O), boxes (B, copies, O, 4) cxcywh in units of the image, 0.5 in slots without
    one, and present (B, copies, O), the slot holds one."""

    labels: Tensor
    boxes: Tensor
    present: Tensor

    def flipped(self, seeds: Tensor | None, *, probability: float, num_classes: int) -> Tensor:
        """The labels, drawn anew where chance has it."""
        drawn = integers(seeds, self.labels, _LABEL, high=num_classes)
        return torch.where(uniform(seeds, self.labels, _FLIP) < probability, drawn, self.labels)

    def noisy(
        self, labels: Tensor, boxes: Tensor, background: Tensor, weights: Tensor, *, blocks: int, num_classes: int
    ) -> NoisyObjects:
        """Queries of noisy labels and boxes; slots without an object are emptied, `background` ones have no label."""
        clean = Assigned(
            self.labels.masked_fill(background, num_classes).flatten(1), self.boxes.flatten(1, 2), weights.flatten(1)
        )
        labels = labels.masked_fill(~self.present, 0)
        boxes = torch.where(self.present[..., None], boxes, 0.5)
        return NoisyObjects(labels.flatten(1), boxes.flatten(1, 2), self.present.flatten(1), clean, blocks)


def _copies(targets: Targets, sizes: Tensor, copies: int, *, most: int) -> _Copies:
    """most: objects that there is room for, at least one slot; an image of another rank may have more than any here."""
    slots = max(1, most)
    missing = max(0, slots - targets.labels.shape[1])
    labels, valid = (pad(tensor, (0, missing))[:, :slots] for tensor in (targets.labels, targets.valid))
    boxes = normalise(pad(targets.boxes, (0, 0, 0, missing))[:, :slots], sizes)
    boxes = torch.where(valid[..., None], boxes, 0.5)
    return _Copies(*(tensor[:, None].expand(-1, copies, *tensor.shape[1:]) for tensor in (labels, boxes, valid)))
