"""From the decoder's last layer to detections: the best (query, class) pairs, without NMS."""

from __future__ import annotations

from torch import Tensor

from codetr.ops.boxes import cxcywh_to_xyxy
from codetr.ops.gather import take
from codetr.structures import DecoderOutput, Detections


def top_detections(output: DecoderOutput, sizes: Tensor, *, max_detections: int) -> list[Detections]:
    """The `max_detections` highest scores of each image over all queries and classes; boxes clipped to the image.

    sizes: (B, 2) height and width; boxes come out in pixels of the image in the batch.
    """
    num_classes = output.logits.shape[-1]
    scores = output.logits[-1].float().sigmoid().flatten(1)
    best, index = scores.topk(min(max_detections, scores.shape[1]), dim=1)
    query = index.div(num_classes, rounding_mode="floor")
    extent = sizes.flip(-1).repeat(1, 2)[:, None].to(output.boxes.dtype)
    boxes = cxcywh_to_xyxy(take(output.boxes[-1], query)) * extent
    boxes = boxes.clamp(min=0).minimum(extent)
    labels = index % num_classes
    return [Detections(b, s, c) for b, s, c in zip(boxes, best, labels, strict=True)]
