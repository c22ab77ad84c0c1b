"""The Faster-RCNN head."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from codetr.models.heads.faster_rcnn import FasterRCNN
from codetr.models.parts.positive_sampler import PositiveSampler
from codetr.structures import Pyramid, Targets

Objects = Callable[[str], Targets]


def head(sampler: PositiveSampler | None = None, **roi: object) -> FasterRCNN:
    config = FasterRCNN.Config.model_validate(
        {"rpn": {"channels": 16, "train_proposals": 50}, "roi": {"hidden": 24, "samples": 40, **roi}}
    )
    return FasterRCNN(config, dim=32, num_classes=5, strides=(8, 16, 32, 64), sampler=sampler or PositiveSampler())


@pytest.mark.parametrize("which", ["both", "one", "none"])
def test_every_parameter_gets_a_finite_gradient(pyramid: Pyramid, objects: Objects, which: str) -> None:
    rcnn = head()
    output = rcnn(pyramid, objects(which))
    assert set(output.losses) == {"rpn_cls", "rpn_box", "cls", "box"}
    sum(output.losses.values()).backward()
    for name, parameter in rcnn.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert all(features.grad is not None and features.grad.any() for features in pyramid.maps)
    assert (output.losses["box"] == 0) == (which == "none")


def test_positives_are_sampled_regions(pyramid: Pyramid, objects: Objects) -> None:
    """At most a quarter of 40 samples; the ground truths are among them while there is room."""
    rcnn, targets = head(), objects("both")
    positives = rcnn(pyramid, targets).positives
    assert positives.boxes.shape == (2, 10, 4) and positives.features.shape == (2, 10, 32)
    assert positives.features.requires_grad and not positives.boxes.requires_grad
    for image, count in enumerate(targets.counts):
        keep = positives.valid[image]
        found = positives.boxes[image, keep].tolist()
        assert all(box in found for box in targets.boxes[image, :count].tolist()) or len(found) == 10
        for label, box in zip(positives.labels[image, keep], positives.targets[image, keep], strict=True):
            gt = targets.boxes[image].tolist().index(box.tolist())
            assert label == targets.labels[image, gt]


def test_features_are_the_mean_of_the_pooled_region(pyramid: Pyramid, objects: Objects) -> None:
    rcnn = head()
    positives = rcnn(pyramid, objects("both")).positives
    pooled = rcnn.roi.pool(pyramid, positives.boxes, output_size=7).mean((3, 4))
    torch.testing.assert_close(positives.features[positives.valid], pooled[positives.valid])


def test_short_images_may_be_filled_with_negatives(pyramid: Pyramid, objects: Objects) -> None:
    positives = head(PositiveSampler(fill="negatives"))(pyramid, objects("one")).positives
    assert positives.valid[1].sum() >= 9 and (positives.labels[1] == 5).all()
    assert not positives.targets[1].any()


def test_half_precision_gives_losses_in_full(pyramid: Pyramid, objects: Objects) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        losses = head()(pyramid, objects("both")).losses
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())


def test_predictions_lie_in_their_images_and_do_not_depend_on_the_batch(pyramid: Pyramid) -> None:
    rcnn = head(max_detections=20)
    for image, detections in enumerate(rcnn.predict(pyramid)):
        assert len(detections.scores) == 20
        height, width = pyramid.sizes[image].tolist()
        assert detections.boxes.min() >= 0
        assert detections.boxes[:, 0::2].max() <= width and detections.boxes[:, 1::2].max() <= height
        alone = Pyramid(
            tuple(m[image : image + 1] for m in pyramid.maps), pyramid.strides, pyramid.sizes[image : image + 1]
        )
        torch.testing.assert_close(rcnn.predict(alone)[0].scores, detections.scores)
