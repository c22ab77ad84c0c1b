"""The Mask-RCNN head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from codetr.models.heads.faster_rcnn import FasterRCNN
from codetr.models.heads.mask_rcnn import MaskRCNN
from codetr.models.parts.positive_sampler import PositiveSampler
from codetr.structures import HeadOutput, Pyramid, Targets

Objects = Callable[[str], Targets]
RCNN = {"rpn": {"channels": 16, "train_proposals": 50}, "roi": {"hidden": 24, "samples": 40}}
STRIDES = (8, 16, 32, 64)


def head(**roi: object) -> MaskRCNN:
    mask = {"channels": 16, "stacked_convs": 2}
    config = MaskRCNN.Config.model_validate({**RCNN, "roi": {**RCNN["roi"], **roi}, "mask": mask})
    return MaskRCNN(config, dim=32, num_classes=5, strides=STRIDES, sampler=PositiveSampler())


def with_masks(targets: Targets) -> Targets:
    """Objects fill the upper half of their boxes."""
    crops = (torch.arange(112) < 56).byte().mul(255)[:, None].expand(*targets.labels.shape, 112, 112)
    return replace(targets, mask_crops=crops)


def run(rcnn: MaskRCNN | FasterRCNN, pyramid: Pyramid, targets: Targets) -> HeadOutput:
    torch.manual_seed(3)
    output: HeadOutput = rcnn(pyramid, targets)
    return output


@pytest.mark.parametrize("which", ["both", "one", "none"])
def test_every_parameter_gets_a_finite_gradient(pyramid: Pyramid, objects: Objects, which: str) -> None:
    rcnn = head()
    output = rcnn(pyramid, with_masks(objects(which)))
    assert set(output.losses) == {"rpn_cls", "rpn_box", "cls", "box", "mask"}
    sum(output.losses.values()).backward()
    for name, parameter in rcnn.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert not name.startswith("mask.") or which == "none" or parameter.grad.any(), name
    assert all(features.grad is not None and features.grad.any() for features in pyramid.maps)
    assert (output.losses["mask"] == 0) == (which == "none")


def test_all_but_the_masks_is_faster_rcnn(pyramid: Pyramid, objects: Objects) -> None:
    """Bit for bit: losses, positives and detections."""
    masks = head()
    boxes = FasterRCNN(
        FasterRCNN.Config.model_validate(RCNN), dim=32, num_classes=5, strides=STRIDES, sampler=PositiveSampler()
    )
    boxes.load_state_dict({name: t for name, t in masks.state_dict().items() if not name.startswith("mask.")})
    ours, theirs = run(masks, pyramid, with_masks(objects("both"))), run(boxes, pyramid, objects("both"))
    for name, loss in theirs.losses.items():
        assert torch.equal(ours.losses[name], loss), name
    for name in ("boxes", "features", "labels", "targets", "valid"):
        assert torch.equal(getattr(ours.positives, name), getattr(theirs.positives, name)), name
    for a, b in zip(masks.predict(pyramid), boxes.predict(pyramid), strict=True):
        assert torch.equal(a.boxes, b.boxes) and torch.equal(a.scores, b.scores) and torch.equal(a.labels, b.labels)


def test_masks_are_learned(pyramid: Pyramid, objects: Objects) -> None:
    """The mask branch alone, on fixed features: the upper half of every box."""
    torch.manual_seed(0)
    rcnn, targets = head(), with_masks(objects("both"))
    optimizer = torch.optim.AdamW(rcnn.mask.parameters(), lr=3e-3)
    first = last = 0.0
    for step in range(60):
        loss = rcnn(pyramid, targets).losses["mask"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        first, last = (loss.item() if step == 0 else first), loss.item()
    assert last < 0.2 * first


def test_predictions_have_a_crop_each_and_do_not_depend_on_the_batch(pyramid: Pyramid) -> None:
    rcnn = head(max_detections=20)
    for image, detections in enumerate(rcnn.predict(pyramid)):
        assert detections.mask_crops is not None and detections.mask_crops.shape == (20, 28, 28)
        assert detections.mask_crops.min() >= 0 and detections.mask_crops.max() <= 1
        alone = Pyramid(
            tuple(m[image : image + 1] for m in pyramid.maps), pyramid.strides, pyramid.sizes[image : image + 1]
        )
        torch.testing.assert_close(rcnn.predict(alone)[0].mask_crops, detections.mask_crops)
        few = detections.first(3)
        assert few.mask_crops is not None and torch.equal(few.mask_crops, detections.mask_crops[:3])


def test_images_without_detections_have_no_crops(pyramid: Pyramid) -> None:
    for detections in head(score_threshold=0.999).predict(pyramid):
        assert len(detections.scores) == 0
        assert detections.mask_crops is not None and detections.mask_crops.shape == (0, 28, 28)


def test_half_precision_gives_losses_in_full(pyramid: Pyramid, objects: Objects) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        losses = head()(pyramid, with_masks(objects("both"))).losses
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
