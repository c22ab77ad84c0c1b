"""The RetinaNet head: losses by hand and against torchvision."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from one_stage import NO, YES, build, constant, four_cells, one_object
from pydantic import ValidationError
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import box_iou

from codetr.models.heads.retinanet import RetinaNet
from codetr.structures import Pyramid, Targets

Objects = Callable[[str], Targets]
ONE_SQUARE = {"anchor_scale": 1, "scales_per_octave": 1, "ratios": [1.0]}


def test_losses_by_hand() -> None:
    """Anchors of 8 x 8: IoU 64 / 120 with the object, 56 / 120 (between the thresholds), 0 and 0.

    The positive's box is shifted by half its width, to (8, 4, 16, 12): of its 64 pixels 32 lie in the object, the union
    is 152, and so is the hull, 19 x 8.
    """
    head = constant("retinanet", box=[0.5, 0, 0, 0], **ONE_SQUARE)
    output = head(four_cells(), one_object(-3, 4, 12, 12))
    losses = {term: loss.item() for term, loss in output.losses.items()}
    assert losses == pytest.approx({"cls": YES + 5 * NO, "box": 2 * (1 - 32 / 152)}, rel=1e-6)


def test_the_best_anchor_of_an_object_is_positive_whatever_its_overlap() -> None:
    """All anchors overlap the object by 16 of its 256 pixels and their 64: IoU 16 / 304 each."""
    head = constant("retinanet", box=[0.0] * 4, **ONE_SQUARE)
    positives = head(four_cells(), one_object(0, 0, 8, 8)).positives
    assert positives.valid.sum() == 4
    head = constant("retinanet", box=[0.0] * 4, low_quality_iou=0.3, **ONE_SQUARE)
    assert not head(four_cells(), one_object(0, 0, 8, 8)).positives.valid.any()


def test_nine_anchors_share_the_feature_of_their_cell() -> None:
    pyramid = four_cells()
    head = build("retinanet", strides=(8,))
    positives = head(pyramid, one_object(-12, -12, 20, 20)).positives
    assert len(head.anchors) == 9
    centre = (positives.boxes[..., :2] + positives.boxes[..., 2:]) / 2
    assert positives.valid.sum() > 4
    for (x, y), feature in zip(centre[positives.valid], positives.features[positives.valid], strict=True):
        assert torch.equal(feature, pyramid.maps[0][0, :, (y / 8).round().int(), (x / 8).round().int()])


def test_thresholds_out_of_order_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"negative_iou 0\.6 is above positive_iou 0\.5"):
        RetinaNet.Config(negative_iou=0.6)


@pytest.mark.parametrize("image", [0, 1])
def test_equals_torchvision(pyramid: Pyramid, objects: Objects, image: int) -> None:
    """Matching and both losses. It divides by the positives of each image: one at a time. Its GIoU has the weight 1."""
    targets = objects("both")
    pyramid = Pyramid(tuple(m[:1] for m in pyramid.maps), pyramid.strides, torch.tensor([[64.0, 96.0]]))
    targets = Targets(*(t[image : image + 1] for t in (targets.boxes, targets.labels, targets.valid)), (0,))
    head = build("retinanet", giou_weight=1.0)
    with torch.no_grad():
        for parameter in (head.cls.weight, head.box.weight):
            parameter.mul_(20)
    output = head._output(pyramid)
    priors = output.priors
    gt_index = head.assigner.assign(priors, targets)
    real = {"boxes": targets.boxes[targets.valid], "labels": targets.labels[targets.valid]}
    matches = Matcher(0.5, 0.4, allow_low_quality_matches=True)(box_iou(real["boxes"], priors.boxes))
    assert torch.equal(gt_index[0], matches) and (matches == -2).any() and (matches >= 0).any()

    theirs = RetinaNetHead(32, len(head.anchors), 5)
    theirs.regression_head._loss_type = "giou"
    expected = theirs.compute_loss(
        [real],
        {"cls_logits": output.logits, "bbox_regression": output.box},
        [priors.boxes],
        [matches],
    )
    losses = head.losses(output, head._goals(gt_index, priors, targets))
    torch.testing.assert_close(losses["cls"], expected["classification"], rtol=1e-5, atol=0)
    torch.testing.assert_close(losses["box"], expected["bbox_regression"], rtol=1e-5, atol=0)
