"""What every one-stage head does, whatever its assignment and its losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from one_stage import LOSSES, build
from torch._subclasses.fake_tensor import FakeTensorMode

from codetr.models.parts.positive_sampler import PositiveSampler
from codetr.models.parts.priors import flat_cells
from codetr.structures import Pyramid, Targets

Objects = Callable[[str], Targets]
EVERY = pytest.mark.parametrize("name", LOSSES)


@EVERY
@pytest.mark.parametrize(("which", "stacked_convs"), [("both", 0), ("both", 5), ("one", 1), ("none", 1), ("none", 2)])
def test_every_parameter_gets_a_finite_gradient(
    pyramid: Pyramid, objects: Objects, name: str, which: str, stacked_convs: int
) -> None:
    head = build(name, stacked_convs=stacked_convs)
    assert len(head.cls_tower) == len(head.box_tower) == stacked_convs
    output = head(pyramid, objects(which))
    assert set(output.losses) == LOSSES[name]
    assert all(loss.ndim == 0 and loss.isfinite() for loss in output.losses.values())
    sum(output.losses.values()).backward()
    for parameter_name, parameter in head.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), parameter_name
    assert all(features.grad is not None and features.grad.any() for features in pyramid.maps)
    assert output.losses["cls"] > 0
    if which == "none":
        assert all(loss == 0 for term, loss in output.losses.items() if term != "cls")
        assert not output.positives.valid.any()
    elif which == "one":
        assert output.positives.valid.any(1).tolist() == [True, False]


@EVERY
def test_objects_reach_every_prediction(pyramid: Pyramid, objects: Objects, name: str) -> None:
    head = build(name)
    sum(head(pyramid, objects("both")).losses.values()).backward()
    for parameter_name, parameter in head.named_parameters():
        if not parameter_name.startswith("scales"):  # a level without positives has none
            assert parameter.grad.any(), parameter_name


@EVERY
def test_weights_scale_their_terms(pyramid: Pyramid, objects: Objects, name: str) -> None:
    """All at once and by the same factor, so that PAA keeps the same anchors."""
    plain = build(name)
    weights = {key: 3 * value for key, value in plain.config if key.endswith("_weight")}
    scaled = build(name, **weights)
    scaled.load_state_dict(plain.state_dict())
    assert len(weights) == len(LOSSES[name])
    if name == "paa":
        plain.assigner, scaled.assigner = [_First(head.assigner) for head in (plain, scaled)]
    before, after = plain(pyramid, objects("both")).losses, scaled(pyramid, objects("both")).losses
    for term in before:
        torch.testing.assert_close(after[term], 3 * before[term])


class _First:
    """Keeps whatever is offered: a mixture of scaled losses is another one."""

    def __init__(self, inner):
        self.assign = inner.assign

    def keep(self, gt_index, losses, priors, targets):
        return gt_index


@EVERY
def test_initial_scores_are_a_hundredth(pyramid: Pyramid, name: str) -> None:
    with torch.no_grad():
        logits = build(name)._predictions(pyramid.maps).logits
    assert 0.005 < logits.sigmoid().mean() < 0.02


@EVERY
@pytest.mark.parametrize("fill", ["mask", "negatives"])
def test_positives_are_priors_with_the_features_of_their_cells(
    pyramid: Pyramid, objects: Objects, name: str, fill: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, targets = build(name, sampler=PositiveSampler(limit=100, fill=fill)), objects("both")
    seen = []
    goals = type(head)._goals
    monkeypatch.setattr(
        type(head), "_goals", lambda self, index, *rest: seen.append(index) or goals(self, index, *rest)
    )
    positives = head(pyramid, targets).positives
    gt_index = seen[-1]
    priors = head.anchors.priors(pyramid)
    cells = flat_cells(pyramid.maps).repeat_interleave(len(head.anchors), dim=1)
    assert positives.features.requires_grad and not positives.boxes.requires_grad
    for image in range(2):
        wanted = (gt_index[image] >= 0).nonzero().squeeze(1).tolist()
        expected = {tuple(priors.boxes[p].tolist()): (cells[image, p], gt_index[image, p].item()) for p in wanted}
        assert wanted
        labelled = positives.valid[image] & (positives.labels[image] < 5)
        for slot in labelled.nonzero().squeeze(1).tolist():
            features, gt = expected.pop(tuple(positives.boxes[image, slot].tolist()))
            assert torch.equal(positives.features[image, slot], features)
            assert torch.equal(positives.targets[image, slot], targets.boxes[image, gt])
            assert positives.labels[image, slot] == targets.labels[image, gt]
        assert not expected
    if fill == "negatives":
        assert (positives.valid & (positives.labels == 5)).any()
    assert not positives.targets[positives.labels == 5].any()


@EVERY
def test_priors_in_the_padding_are_left_out_unless_wanted(pyramid: Pyramid, objects: Objects, name: str) -> None:
    without = build(name)
    with_padding = build(name, anchors_in_padding=True)
    with_padding.load_state_dict(without.state_dict())
    small, large = (head(pyramid, objects("none")).losses["cls"] for head in (without, with_padding))
    assert large > small * 1.1  # of 2 x 128 cells 51 lie in the second image's padding


@EVERY
def test_padded_objects_change_nothing(pyramid: Pyramid, objects: Objects, name: str) -> None:
    head, targets = build(name), objects("both")
    cut = replace(targets, boxes=targets.boxes[:, :2], labels=targets.labels[:, :2], valid=targets.valid[:, :2])
    wide, narrow = head(pyramid, targets).losses, head(pyramid, cut).losses
    assert all(torch.equal(wide[term], narrow[term]) for term in wide)


@EVERY
def test_nothing_asks_the_device(pyramid: Pyramid, objects: Objects, name: str) -> None:
    """Fake tensors have shapes and no values: reading one back is an error."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = Pyramid(tuple(mode.from_tensor(m.detach()) for m in pyramid.maps), pyramid.strides, pyramid.sizes)
        for fill in ("mask", "negatives"):
            output = build(name, sampler=PositiveSampler(limit=100, fill=fill))(fake, objects("both"))
            assert output.positives.boxes.shape == (2, 100, 4)


@EVERY
def test_half_precision_gives_losses_in_full(pyramid: Pyramid, objects: Objects, name: str) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        losses = build(name)(pyramid, objects("both")).losses
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())


@EVERY
def test_predictions_lie_in_their_images_and_do_not_depend_on_the_batch(pyramid: Pyramid, name: str) -> None:
    head = build(name, max_detections=20, nms_iou=1.0)
    for image, detections in enumerate(head.predict(pyramid)):
        assert len(detections.scores) == 20
        assert torch.equal(detections.scores, detections.scores.sort(descending=True).values)
        height, width = pyramid.sizes[image].tolist()
        assert detections.boxes.min() >= 0
        assert detections.boxes[:, 0::2].max() <= width and detections.boxes[:, 1::2].max() <= height
        alone = Pyramid(
            tuple(m[image : image + 1] for m in pyramid.maps), pyramid.strides, pyramid.sizes[image : image + 1]
        )
        torch.testing.assert_close(head.predict(alone)[0].scores, detections.scores)


@EVERY
def test_a_few_steps_teach_it_the_objects(pyramid: Pyramid, objects: Objects, name: str) -> None:
    """Trained on two images, it finds their objects there: class and an IoU of more than a half."""
    torch.manual_seed(0)
    head, targets = build(name), objects("both")
    frozen = Pyramid(tuple(m.detach() for m in pyramid.maps), pyramid.strides, pyramid.sizes)
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3)
    for _ in range(60):
        loss = torch.stack(list(head(frozen, targets).losses.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for image, found in enumerate(head.predict(frozen)):
        best = found.first(targets.counts[image])
        for box, label in zip(targets.boxes[image], targets.labels[image], strict=True):
            if box.any():
                overlap = _iou(best.boxes[best.labels == label], box)
                assert len(overlap) and overlap.max() > 0.5, (name, image, found.scores[:4], found.boxes[:4])


def _iou(boxes, box):
    from torchvision.ops import box_iou

    return box_iou(boxes, box[None])[:, 0]
