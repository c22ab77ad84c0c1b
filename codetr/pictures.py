"""Pictures for people: detections drawn on images, ground truth beside prediction."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from codetr.data.sheet import draw_objects, side_by_side
from codetr.structures import Detections


def draw_detections(
    image: Image.Image,
    detections: Detections,
    classes: Sequence[str],
    *,
    score: float = 0.3,
    targets: Detections | None = None,
) -> Image.Image:
    """An image with the detections of at least this score: boxes, masks if there are any, class names and scores.

    detections: in pixels of the image. targets: ground truth in the same form (its scores are not shown); with it the
    picture becomes two side by side, ground truth on the left, prediction on the right.
    Small images are enlarged by a whole factor, so that labels can be read. The given image is not changed.
    Returns an RGB image.
    """
    prediction = _annotated(image, detections.above(score), classes, scores=True)
    if targets is None:
        return prediction
    truth = _annotated(image, targets, classes, scores=False)
    return side_by_side((("ground truth", truth), ("prediction", prediction)))


def _annotated(image: Image.Image, detections: Detections, classes: Sequence[str], *, scores: bool) -> Image.Image:
    labels = detections.labels.tolist()
    texts = [classes[label] for label in labels]
    if scores:
        texts = [f"{text} {value:.2f}" for text, value in zip(texts, detections.scores.tolist(), strict=True)]
    masks = None if detections.masks is None else detections.masks.cpu().numpy()
    return draw_objects(image, detections.boxes.cpu().numpy(), labels, texts, masks=masks)
