"""The ATSS head."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from codetr.models.heads.atss import ATSS, centerness_target
from codetr.models.parts.positive_sampler import PositiveSampler
from codetr.models.parts.priors import flat_cells
from codetr.structures import Pyramid, Targets

Objects = Callable[[str], Targets]


def head(sampler: PositiveSampler | None = None, **settings: object) -> ATSS:
    config = ATSS.Config.model_validate(settings)
    return ATSS(config, dim=32, num_classes=5, strides=(8, 16, 32, 64), sampler=sampler or PositiveSampler())


def test_centerness_literals() -> None:
    gt = torch.tensor([0.0, 0.0, 10.0, 20.0])
    middle, off, edge = torch.tensor([[0.0, 0, 10, 20], [-3, 0, 8, 20], [-5, 0, 5, 20]])
    assert centerness_target(middle, gt).item() == 1
    assert centerness_target(off, gt).item() == pytest.approx(math.sqrt(2.5 / 7.5))
    assert centerness_target(edge, gt).item() == 0


@pytest.mark.parametrize("which", ["both", "one", "none"])
@pytest.mark.parametrize("stacked_convs", [0, 1, 2])
def test_every_parameter_gets_a_finite_gradient(
    pyramid: Pyramid, objects: Objects, which: str, stacked_convs: int
) -> None:
    atss = head(stacked_convs=stacked_convs)
    output = atss(pyramid, objects(which))
    assert set(output.losses) == {"cls", "box", "centerness"}
    sum(output.losses.values()).backward()
    for name, parameter in atss.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert all(features.grad is not None and features.grad.any() for features in pyramid.maps)
    if which == "none":
        assert output.losses["cls"] > 0
        assert output.losses["box"] == output.losses["centerness"] == 0


def test_weights_scale_their_terms(pyramid: Pyramid, objects: Objects) -> None:
    torch.manual_seed(1)
    plain = head()(pyramid, objects("both")).losses
    torch.manual_seed(1)
    scaled = head(class_weight=2.0, giou_weight=6.0, centerness_weight=0.5)(pyramid, objects("both")).losses
    for term, factor in (("cls", 2), ("box", 3), ("centerness", 0.5)):
        torch.testing.assert_close(scaled[term], plain[term] * factor)


def test_initial_scores_are_a_hundredth(pyramid: Pyramid) -> None:
    with torch.no_grad():
        logits = head()._predictions(pyramid.maps)[0]
    assert 0.005 < logits.sigmoid().mean() < 0.02


def test_positives_are_anchors_with_the_features_of_their_cells(pyramid: Pyramid, objects: Objects) -> None:
    atss, targets = head(), objects("both")
    positives = atss(pyramid, targets).positives
    priors = atss.anchors.priors(pyramid)
    gt_index = atss.assigner.assign(priors, targets)
    cells = flat_cells(pyramid.maps)
    assert positives.valid.sum(1).tolist() == (gt_index >= 0).sum(1).tolist() and positives.valid.any(1).all()
    assert positives.features.requires_grad and not positives.boxes.requires_grad
    for image in range(2):
        anchors = (gt_index[image] >= 0).nonzero().squeeze(1).tolist()
        expected = {tuple(priors.boxes[a].tolist()): (cells[image, a], gt_index[image, a].item()) for a in anchors}
        for slot in positives.valid[image].nonzero().squeeze(1).tolist():
            features, gt = expected.pop(tuple(positives.boxes[image, slot].tolist()))
            assert torch.equal(positives.features[image, slot], features)
            assert torch.equal(positives.targets[image, slot], targets.boxes[image, gt])
            assert positives.labels[image, slot] == targets.labels[image, gt]
        assert not expected


def test_anchors_in_the_padding_are_left_out_unless_wanted(pyramid: Pyramid, objects: Objects) -> None:
    torch.manual_seed(2)
    without = head()(pyramid, objects("none")).losses["cls"]
    torch.manual_seed(2)
    with_padding = head(anchors_in_padding=True)(pyramid, objects("none")).losses["cls"]
    assert with_padding > without * 1.1  # of 2 x 128 anchors 51 lie in the second image's padding


def test_padded_objects_change_nothing(pyramid: Pyramid, objects: Objects) -> None:
    atss, targets = head(), objects("both")
    cut = replace(targets, boxes=targets.boxes[:, :2], labels=targets.labels[:, :2], valid=targets.valid[:, :2])
    wide, narrow = atss(pyramid, targets).losses, atss(pyramid, cut).losses
    assert all(torch.equal(wide[term], narrow[term]) for term in wide)


def test_nothing_asks_the_device(pyramid: Pyramid, objects: Objects) -> None:
    """Fake tensors have shapes and no values: reading one back is an error."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = Pyramid(tuple(mode.from_tensor(m.detach()) for m in pyramid.maps), pyramid.strides, pyramid.sizes)
        for fill in ("mask", "negatives"):
            output = head(PositiveSampler(fill=fill))(fake, objects("both"))
            assert output.positives.boxes.shape == (2, 128, 4)


def test_half_precision_gives_losses_in_full(pyramid: Pyramid, objects: Objects) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        losses = head()(pyramid, objects("both")).losses
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())


def test_predictions_lie_in_their_images_and_do_not_depend_on_the_batch(pyramid: Pyramid) -> None:
    atss = head(max_detections=20)
    found = atss.predict(pyramid)
    for image, detections in enumerate(found):
        assert len(detections.scores) == 20
        assert torch.equal(detections.scores, detections.scores.sort(descending=True).values)
        height, width = pyramid.sizes[image].tolist()
        assert detections.boxes.min() >= 0
        assert detections.boxes[:, 0::2].max() <= width and detections.boxes[:, 1::2].max() <= height
        alone = Pyramid(
            tuple(m[image : image + 1] for m in pyramid.maps), pyramid.strides, pyramid.sizes[image : image + 1]
        )
        torch.testing.assert_close(atss.predict(alone)[0].scores, detections.scores)
