"""The doors: every value that passes from one room of the house to another.

All of them are frozen. A batch is padded to static shapes and carries validity masks, so that nothing in a
training step has to ask the device how many objects there are.

Dimension key: B images, H W pixels, G ground-truth objects (padded), I ignored regions (padded), S memory tokens,
C channels, L levels or decoder layers, J pyramid levels, M positives, N queries, K classes, R reference width (2 or 4),
D detections, A side of a mask's crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

Door = TypeVar("Door")


def to_device(door: Door, device: torch.device | str) -> Door:
    """A copy of a door with every tensor field on `device` (asynchronous where the source is pinned)."""
    moved: dict[str, Any] = {}
    for entry in fields(door):  # type: ignore[arg-type]
        value = getattr(door, entry.name)
        if isinstance(value, Tensor):
            moved[entry.name] = value.to(device, non_blocking=True)
    return replace(door, **moved)  # type: ignore[type-var]


@dataclass(frozen=True)
class ImageBatch:
    """Images padded on the right and at the bottom to one size.

    pixels: (B, 3, H, W) float, RGB, normalised by the ImageNet mean and deviation; 0 where padded.
    padding: (B, H, W) bool, True where padded.
    sizes: (B, 2) float, height and width in pixels of each image without its padding.
    """

    pixels: Tensor
    padding: Tensor
    sizes: Tensor


@dataclass(frozen=True)
class Targets:
    """Ground truth of a batch, padded to G >= 1 objects.

    boxes: (B, G, 4) float, xyxy in pixels of the padded image; 0 where not valid.
    labels: (B, G) int64, contiguous class indices; 0 where not valid.
    valid: (B, G) bool; the valid objects of an image come first.
    counts: number of valid objects of each image, on the host, so that no code has to read `valid` back.
    mask_crops: (B, G, A, A) uint8 or None: the share of the object in each cell of its box, 255 = all of it.
    ignore_boxes, ignore_valid: (B, I, 4) and (B, I), crowd regions, never a target; I may be 0.
    seeds: (B,) int64, or None: what all random draws about an image in this epoch follow from (`ops.draws`).
    counted_classes: (B, K) bool, or None (all): the classes of an image that a federated class loss is about, its own
    among them.
    """

    boxes: Tensor
    labels: Tensor
    valid: Tensor
    counts: tuple[int, ...]
    mask_crops: Tensor | None = None
    ignore_boxes: Tensor | None = None
    ignore_valid: Tensor | None = None
    seeds: Tensor | None = None
    counted_classes: Tensor | None = None


@dataclass(frozen=True)
class ImageInfo:
    """Where an image of a batch comes from.

    size: height and width in pixels of the image file. content: those that it has in the batch, if more than it counts
    as image there (`data.resize.square`); None: `ImageBatch.sizes`.
    """

    image_id: int
    file: str
    size: tuple[int, int]
    content: tuple[int, int] | None = None


@dataclass(frozen=True)
class Batch:
    """What the loader yields."""

    images: ImageBatch
    targets: Targets
    infos: tuple[ImageInfo, ...]

    def to(self, device: torch.device | str) -> Batch:
        return Batch(to_device(self.images, device), to_device(self.targets, device), self.infos)

    def pin_memory(self) -> Batch:
        """Called by `torch.utils.data.DataLoader(pin_memory=True)`."""
        return Batch(_pinned(self.images), _pinned(self.targets), self.infos)


def _pinned(door: Door) -> Door:
    names = [entry.name for entry in fields(door)]  # type: ignore[arg-type]
    values = {name: getattr(door, name) for name in names}
    return replace(door, **{k: v.pin_memory() for k, v in values.items() if isinstance(v, Tensor)})  # type: ignore[type-var]


@dataclass(frozen=True)
class Memory:
    """The encoder's output.

    tokens: (B, S, C), levels one after the other, each row-major. pos: (B, S, C) position embedding of the tokens.
    padding: (B, S) bool, True where padded. shapes: height and width of each level. strides: pixels per cell.
    sizes: as in ImageBatch.
    """

    tokens: Tensor
    pos: Tensor
    padding: Tensor
    shapes: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]
    sizes: Tensor

    def maps(self) -> tuple[Tensor, ...]:
        """The tokens as L views (B, C, H_l, W_l)."""
        levels = self.tokens.split([h * w for h, w in self.shapes], dim=1)
        return tuple(
            level.transpose(1, 2).unflatten(2, shape) for level, shape in zip(levels, self.shapes, strict=True)
        )


@dataclass(frozen=True)
class Pyramid:
    """What the one-to-many heads see: maps J x (B, C, H_j, W_j), their strides, sizes as in ImageBatch."""

    maps: tuple[Tensor, ...]
    strides: tuple[int, ...]
    sizes: Tensor


@dataclass(frozen=True)
class Positives:
    """The positives of one head, padded to M.

    boxes: (B, M, 4) xyxy pixels, detached: the prior (anchor, point box or proposal), never the regressed box.
    features: (B, M, C), not detached. labels: (B, M) int64, K = background (only with `fill: negatives`).
    targets: (B, M, 4) xyxy pixels, the matched ground truth; 0 where background. valid: (B, M) bool.
    found: (B,) int64, how many positives there were to pick from (of a two-stage head: among the regions that it
    sampled), or None if the head does not tell.
    """

    boxes: Tensor
    features: Tensor
    labels: Tensor
    targets: Tensor
    valid: Tensor
    found: Tensor | None = None


@dataclass(frozen=True)
class HeadOutput:
    """losses: unweighted by lambda_2 and the number of layers; every value a scalar with a graph."""

    losses: dict[str, Tensor]
    positives: Positives


@dataclass(frozen=True)
class Match:
    """Supervision by Hungarian matching, each ground truth repeated `repeat` times (H-DETR)."""

    repeat: int = 1


@dataclass(frozen=True)
class Assigned:
    """Supervision fixed beforehand.

    labels: (B, N) int64, K = background. boxes: (B, N, 4) cxcywh in (0, 1), read where labels < K.
    weights: (B, N) float, weight of the class loss; 0 leaves a query out.
    """

    labels: Tensor
    boxes: Tensor
    weights: Tensor


@dataclass(frozen=True)
class QueryGroup:
    """Decoder queries that share a form, a rule about whom they see, and a source of supervision.

    content: (B, N, C). pos: (B, N, C) or None where the base derives it from the reference.
    reference: (B, N, R) in (0, 1), cxcywh for R = 4, centre for R = 2, nothing for R = 0 (boxes are absolute, as in
    DETR). valid: (B, N) bool or None (all valid). sees: names of the other groups that its queries attend to.
    weight: factor on all of the group's losses. blocks: the queries are so many runs of equal length that do not see
    each other.
    """

    name: str
    content: Tensor
    pos: Tensor | None
    reference: Tensor
    supervision: Match | Assigned
    valid: Tensor | None = None
    sees: frozenset[str] = field(default_factory=frozenset)
    weight: float = 1.0
    blocks: int = 1

    def __len__(self) -> int:
        return self.content.shape[1]


@dataclass(frozen=True)
class DecoderOutput:
    """logits: (L, B, N, K). boxes: (L, B, N, 4) cxcywh in (0, 1) of the image without its padding."""

    logits: Tensor
    boxes: Tensor

    def split(self, groups: Sequence[QueryGroup]) -> list[DecoderOutput]:
        """One output for each group, in order."""
        counts = [len(group) for group in groups]
        pairs = zip(self.logits.split(counts, dim=2), self.boxes.split(counts, dim=2), strict=True)
        return [DecoderOutput(logits, boxes) for logits, boxes in pairs]


@dataclass(frozen=True)
class EncoderPrediction:
    """Two-stage predictions made from the tokens.

    output: one layer, or one for each set of proposal heads (Group DETR); the loss is the mean over them.
    class_agnostic: True if every ground truth counts as class 0 here (Deformable DETR).
    valid: (L, B, N) bool, False where a token is padded or offers no proposal.
    """

    output: DecoderOutput
    class_agnostic: bool
    valid: Tensor


@dataclass(frozen=True)
class Proposal:
    """The groups that a base itself puts into the decoder, `match` first, and its encoder's prediction if two-stage."""

    groups: tuple[QueryGroup, ...]
    encoder: EncoderPrediction | None = None


@dataclass(frozen=True)
class Detections:
    """Detections of one image, highest score first.

    boxes: (D, 4) xyxy pixels. scores: (D,) in (0, 1). labels: (D,) int64 contiguous class indices.
    masks: (D, H, W) bool or None, in the same pixels. mask_crops: (D, A, A) or None, the probability of the object in
    each cell of its box, whatever the pixels are: `ops.masks.paste_masks` makes masks of them.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None
    mask_crops: Tensor | None = None

    def rescale(self, size: tuple[float, float], original: tuple[int, int]) -> Detections:
        """Boxes from pixels of an image of `size` (h, w) to pixels of the `original` one, clipped to it.

        Crops of masks stay as they are. Raises: ValueError if there are masks in pixels; paste them afterwards.
        """
        if self.masks is not None:
            raise ValueError("masks in pixels cannot be rescaled; paste the crops into the rescaled image instead")
        height, width = original
        factor = self.boxes.new_tensor([width / size[1], height / size[0]]).repeat(2)
        limit = self.boxes.new_tensor([width, height]).repeat(2)
        boxes = torch.minimum((self.boxes * factor).clamp(min=0), limit)
        return replace(self, boxes=boxes)

    def above(self, score: float) -> Detections:
        """Only the detections with at least this score."""
        return self._take(self.scores >= score)

    def first(self, count: int) -> Detections:
        """At most the `count` best."""
        return self._take(slice(count))

    def _take(self, keep: Tensor | slice) -> Detections:
        masks = None if self.masks is None else self.masks[keep]
        crops = None if self.mask_crops is None else self.mask_crops[keep]
        return Detections(self.boxes[keep], self.scores[keep], self.labels[keep], masks, crops)
