"""The FCOS head: losses by hand and against torchvision, the form of its positives."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from one_stage import LN2, NO, YES, build, constant, four_cells, one_object
from pydantic import ValidationError
from torchvision.models.detection.fcos import FCOS as TheirFCOS
from torchvision.models.detection.fcos import FCOSHead

from codetr.models.heads.fcos import FCOS
from codetr.structures import Pyramid, Targets

Objects = Callable[[str], Targets]


def test_losses_by_hand() -> None:
    """Points at 4 and 12 in each direction; the upper two lie inside (0, 0, 16, 12), the lower two on its side.

    Distances of (4, 4): 4, 4, 12, 8 pixels, which is what every point predicts. From (12, 4) that is (8, 0, 24, 12):
    96 pixels in the object, union and hull 288. Both have centerness sqrt(4/12 * 4/8), together less than 1.
    """
    head = constant("fcos", box=[0.5, 0.5, 1.5, 1.0])
    losses = head(four_cells(), one_object(0, 0, 16, 12)).losses
    centerness = math.sqrt(1 / 6)
    expected = {"cls": (2 * YES + 6 * NO) / 2, "box": centerness * 2 / 3, "centerness": LN2}
    assert {term: loss.item() for term, loss in losses.items()} == pytest.approx(expected, rel=1e-6)


def test_negative_distances_count_as_none() -> None:
    """To the left and above nothing, to the right 12, below 8: of the object's 192 pixels 96."""
    head = constant("fcos", box=[-0.5, -1, 1.5, 1.0])
    priors = head.anchors.priors(four_cells())
    boxes = head.decode(priors.boxes, head.box.bias, torch.tensor(8.0))
    assert boxes[0].tolist() == [4, 4, 16, 12]


def test_positives_are_squares_of_eight_strides_round_points(pyramid: Pyramid, objects: Objects) -> None:
    """Points lie in the middle of cells. The object of 42 x 48 is one for stride 8, within 12 of (29, 32)."""
    targets = objects("both")
    positives = build("fcos")(pyramid, targets).positives
    boxes = positives.boxes[0, positives.valid[0] & (positives.labels[0] == 1)]
    assert (boxes[:, 2:] - boxes[:, :2] == 64).all()
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    wanted = [(x, y) for x in (20, 28, 36) for y in (28, 36)]
    assert sorted(map(tuple, centre.tolist())) == wanted


def test_positives_of_the_paper_s_pyramid() -> None:
    """Table 1: w = h = 8 * 2^(2 + j) on the levels j = 1 to 5, of strides 8 to 128."""
    strides = (8, 16, 32, 64, 128)
    maps = tuple(torch.randn(1, 32, 1024 // s, 1024 // s) for s in strides)
    pyramid = Pyramid(maps, strides, torch.tensor([[1024.0, 1024.0]]))
    head = build("fcos", strides=strides, stacked_convs=0)
    sides = {}
    # Objects of 2 * half round a point's neighbourhood: the farthest side is at least `half` away, and less than twice.
    for level, half in enumerate((40, 80, 160, 320, 600), start=1):
        low, high = 512 - half, 512 + half
        positives = head(pyramid, one_object(low, low, high, high)).positives
        boxes = positives.boxes[positives.valid]
        sides[level] = set((boxes[:, 2:] - boxes[:, :2]).flatten().tolist())
    assert sides == {1: {64}, 2: {128}, 3: {256}, 4: {512}, 5: {1024}}


def test_levels_share_the_sizes_by_halving() -> None:
    """A pyramid from stride 4 has one range more at the fine end: up to 32 pixels, then 64, 128 and so on."""
    strides = (4, 8, 16, 32, 64, 128)
    maps = tuple(torch.randn(1, 32, -(-128 // s), -(-128 // s)) for s in strides)
    pyramid = Pyramid(maps, strides, torch.tensor([[128.0, 128.0]]))
    sides = {}
    for half in (10, 20, 40):
        head, low, high = build("fcos", strides=strides, stacked_convs=0), 64 - half, 64 + half
        positives = head(pyramid, one_object(low, low, high, high)).positives
        side = (positives.boxes[..., 2] - positives.boxes[..., 0])[positives.valid]
        sides[half] = set((side / 8).tolist())
    # The farthest sides: of points of stride 4 at most 6 + half away, of stride 8 at least 4 + half.
    assert sides == {10: {4}, 20: {4}, 40: {8}}


def test_centerness_may_come_from_either_tower(pyramid: Pyramid, objects: Objects) -> None:
    for tower, reached in (("box", False), ("cls", True)):
        head = build("fcos", centerness_tower=tower)
        head(pyramid, objects("both")).losses["centerness"].backward()
        assert (head.cls_tower[0].conv.weight.grad is not None) is reached
        assert (head.box_tower[0].conv.weight.grad is not None) is not reached
    with pytest.raises(ValidationError, match="centerness_tower"):
        FCOS.Config.model_validate({"centerness_tower": "both"})


def test_equals_torchvision(pyramid: Pyramid, objects: Objects) -> None:
    """Matching, class loss and centerness; its box loss has no weight of centerness. Its points come with its anchors:
    squares of one stride."""
    targets = objects("both")
    pyramid = Pyramid(pyramid.maps, pyramid.strides, torch.tensor([[64.0, 96.0]] * 2))
    head = build("fcos")
    with torch.no_grad():
        head.box.bias.fill_(1.0)
        for parameter in (head.cls.weight, head.box.weight, head.centerness.weight):
            parameter.mul_(10)
    losses = head(pyramid, targets).losses
    priors = head.anchors.priors(pyramid)
    logits, box, centerness = head._predictions(pyramid.maps)
    unit = torch.cat([torch.full((n, 1), float(s)) for n, s in zip(priors.level_sizes, pyramid.strides, strict=True)])
    middle = (priors.boxes[:, :2] + priors.boxes[:, 2:]) / 2
    anchors = torch.cat([middle - unit / 2, middle + unit / 2], 1)
    real = [
        {"boxes": boxes[valid], "labels": labels[valid]}
        for boxes, labels, valid in zip(targets.boxes, targets.labels, targets.valid, strict=True)
    ]
    outputs = {"cls_logits": logits, "bbox_regression": box.relu(), "bbox_ctrness": centerness.unsqueeze(2)}
    theirs = SimpleNamespace(center_sampling_radius=1.5, head=FCOSHead(32, 1, 5))
    expected = TheirFCOS.compute_loss(theirs, real, outputs, [anchors, anchors], list(priors.level_sizes))
    assert expected["bbox_ctrness"] > 0
    torch.testing.assert_close(losses["cls"], expected["classification"], rtol=1e-5, atol=0)
    torch.testing.assert_close(losses["centerness"], expected["bbox_ctrness"], rtol=1e-5, atol=0)
