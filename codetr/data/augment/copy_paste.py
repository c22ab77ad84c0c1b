"""Copy-paste: objects of another image, cut out along their masks, over those of this one.

Source: Ghiasi et al., arXiv 2012.07177; the rules for what is kept are those of `CopyPaste` of mmdetection 2.25, with
which Co-DETR was trained.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codetr.data.augment.objects import blank_masks, copy_masks, join, take, tight_boxes, uniform
from codetr.data.coco import Sample

MOVED = 10.0
"""px; an object is kept if no side of its box moved farther than this ..."""
REMAINING = 300
"""px; ... or if more than so many of its pixels are left."""


def copy_paste(sample: Sample, source: Sample, *, most: int) -> Sample:
    """`sample` with a random number of objects of `source` pasted over it, from none to all, or to `most`.

    Both have masks, boxes that are tight around them, and the same size. Pasted objects keep their label, mask and box;
    those of `sample` lose the pixels that are covered. Crowd regions of `sample` stay, those of `source` are not
    copied: only pixels of objects are.
    """
    count = len(source.labels)
    chosen = torch.randperm(count)[: uniform(0, min(count, most))]
    return paste(sample, source, chosen)


def paste(sample: Sample, source: Sample, chosen: Tensor) -> Sample:
    """`sample` with the objects `chosen` (N,) of `source` over it."""
    assert sample.masks is not None and source.masks is not None
    if not len(chosen):
        return sample
    pasted = replace(source, boxes=source.boxes[chosen], labels=source.labels[chosen], masks=source.masks[chosen])
    assert pasted.masks is not None
    image = sample.image.clone()
    masks = blank_masks(len(sample.masks) + len(pasted.masks), (image.shape[1], image.shape[2]))
    copy_masks(pasted.masks, masks[len(sample.masks) :])
    cover = _paste_pixels(image, pasted)
    boxes, areas = _uncover(sample, cover, masks[: len(sample.masks)])
    keep = ((boxes - sample.boxes).abs() <= MOVED).all(dim=1) | (areas > REMAINING)
    keep &= areas > 0  # what lies at the top left may vanish without its box moving far
    remaining = take(replace(sample, boxes=boxes, masks=None), keep)
    whole = torch.cat([keep, torch.ones(len(chosen), dtype=torch.bool)])
    masks = masks if bool(keep.all()) else masks[whole]
    return join(image, [remaining, replace(pasted, ignore_boxes=sample.ignore_boxes[:0])], masks)


def _paste_pixels(image: Tensor, pasted: Sample) -> NDArray[np.bool_]:
    """Put the pixels of the objects of `pasted` on `image`, in place; (H, W), where they are."""
    assert pasted.masks is not None
    cover = np.zeros(image.shape[1:], dtype=np.bool_)
    for mask, box in zip(pasted.masks.numpy(), pasted.boxes.tolist(), strict=True):
        window = _window(box)
        cover[window] |= mask[window]
        target, source = (pixels.numpy()[:, window[0], window[1]] for pixels in (image, pasted.image))
        np.copyto(target, source, where=mask[window])
    return cover


def _uncover(sample: Sample, cover: NDArray[np.bool_], out: Tensor) -> tuple[Tensor, Tensor]:
    """Fill `out` (G, H, W), all false, with the masks of `sample` without what is covered.

    Returns their boxes (G, 4) and numbers of pixels (G,).
    """
    assert sample.masks is not None
    boxes = torch.zeros(len(out), 4)
    areas = torch.zeros(len(out), dtype=torch.int64)
    for index, (mask, box) in enumerate(zip(sample.masks.numpy(), sample.boxes.tolist(), strict=True)):
        window = _window(box)
        rest = mask[window] & ~cover[window]
        out[index].numpy()[window] = rest
        areas[index] = int(np.count_nonzero(rest))
        if areas[index]:
            boxes[index] = tight_boxes(torch.from_numpy(rest)[None])[0] + torch.tensor([*box[:2], *box[:2]])
    return boxes, areas


def _window(box: list[float]) -> tuple[slice, slice]:
    """The rows and columns of a box that is tight around a mask, and so of whole pixels."""
    x1, y1, x2, y2 = (int(value) for value in box)
    return slice(y1, y2), slice(x1, x2)
