"""The second stage."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from codetr.models.parts.roi_stage import Regions, RoiConfig, RoiStage
from codetr.structures import Pyramid, Targets

K = 3


def stage(*, strides: tuple[int, ...] = (8, 16, 32), **settings: object) -> RoiStage:
    config = RoiConfig.model_validate({"hidden": 16, "output_size": 2, **settings})
    return RoiStage(config, dim=4, num_classes=K, strides=strides)


def targets() -> Targets:
    """Two objects in the first image, none in the second."""
    boxes = torch.tensor([[[0.0, 0, 10, 10], [20, 20, 40, 40]], [[0, 0, 0, 0], [0, 0, 0, 0]]])
    labels, valid = torch.tensor([[1, 2], [0, 0]]), torch.tensor([[True, True], [False, False]])
    return Targets(boxes, labels, valid, (2, 0))


PROPOSALS = torch.tensor([[[0.0, 0, 10, 8], [0, 0, 10, 4], [0, 0, 0, 0]], [[5, 5, 9, 9], [0, 0, 0, 0], [0, 0, 0, 0]]])
VALID = torch.tensor([[True, True, False], [True, False, False]])


def rows(regions: Regions, image: int) -> set[tuple[object, ...]]:
    keep = regions.valid[image]
    columns = (regions.boxes, regions.gt_index, regions.labels, regions.targets)
    parts = [column[image][keep].tolist() for column in columns]
    return {tuple(tuple(v) if isinstance(v, list) else v for v in row) for row in zip(*parts, strict=True)}


def test_room_for_more_objects_changes_no_choice() -> None:
    """Two of four positives and three of eight negatives: the same ones in a batch that is padded to more objects."""
    near = torch.tensor([[[0.0, 0, 10, 9], [20, 20, 40, 38]]]).repeat(2, 1, 1)
    far = torch.arange(8.0)[:, None] + torch.tensor([50.0, 50, 60, 60])
    proposals = torch.cat([near, far.expand(2, -1, -1)], 1)
    given = replace(targets(), seeds=torch.tensor([3, 4]))
    wide = replace(
        given,
        boxes=torch.nn.functional.pad(given.boxes, (0, 0, 0, 5)),
        labels=torch.nn.functional.pad(given.labels, (0, 5)),
        valid=torch.nn.functional.pad(given.valid, (0, 5)),
    )
    second = stage(samples=5, positive_fraction=0.4)
    once = second.sample(proposals, torch.ones(2, 10, dtype=torch.bool), given)
    again = second.sample(proposals, torch.ones(2, 10, dtype=torch.bool), wide)
    assert once.valid.sum(1).tolist() == [5, 5] and (once.labels[0, :2] < K).all()
    for name in ("boxes", "gt_index", "labels", "targets", "valid"):
        assert torch.equal(getattr(once, name), getattr(again, name)), name
    other = stage(samples=5, positive_fraction=0.4)
    other.stream, other.truth_stream = 1, 2
    assert not torch.equal(other.sample(proposals, torch.ones(2, 10, dtype=torch.bool), given).boxes, once.boxes)


def test_ground_truths_join_the_proposals() -> None:
    regions = stage(samples=100, positive_fraction=0.5).sample(PROPOSALS, VALID, targets())
    assert regions.boxes.shape == (2, 5, 4)
    first, second = (0.0, 0.0, 10.0, 10.0), (20.0, 20.0, 40.0, 40.0)
    none = (0.0, 0.0, 0.0, 0.0)
    assert rows(regions, 0) == {
        (first, 0, 1, first),
        (second, 1, 2, second),
        ((0.0, 0.0, 10.0, 8.0), 0, 1, first),
        ((0.0, 0.0, 10.0, 4.0), -1, K, none),
    }
    assert rows(regions, 1) == {((5.0, 5.0, 9.0, 9.0), -1, K, none)}
    assert (regions.labels[~regions.valid] == K).all() and not regions.boxes[~regions.valid].any()


def test_ground_truths_may_stay_away() -> None:
    regions = stage(samples=100, positive_fraction=0.5, add_ground_truth=False).sample(PROPOSALS, VALID, targets())
    assert regions.boxes.shape == (2, 3, 4) and regions.valid.tolist() == [[True, True, False], [True, False, False]]
    assert regions.labels[0].tolist() == [1, K, K]


def test_samples_are_bounded() -> None:
    regions = stage(samples=4, positive_fraction=0.25).sample(PROPOSALS, VALID, targets())
    assert regions.valid.sum(1).tolist() == [2, 1]  # one positive of three, one negative
    assert (regions.labels[0] < K).tolist() == [True, False, False, False]


def test_finest_scale_follows_the_finest_stride() -> None:
    assert stage(strides=(8, 16, 32, 64, 128)).finest_scale == 112
    assert stage(strides=(4, 8, 16, 32, 64, 128)).finest_scale == 56
    assert stage(finest_scale=100).finest_scale == 100


def test_the_appended_level_is_not_pooled_from() -> None:
    maps = tuple(torch.full((1, 4, 32 // s, 32 // s), float(s)) for s in (8, 16, 32))
    pyramid = Pyramid(maps, (8, 16, 32), torch.tensor([[32.0, 32.0]]))
    boxes = torch.tensor([[[8.0, 8, 24, 24], [-500, -500, 532, 532]]])
    pooled = stage().pool(pyramid, boxes, output_size=1).flatten()
    assert pooled[:4].tolist() == [8] * 4
    assert (pooled[4:] > 0).all() and (pooled[4:] <= 16).all()


def test_losses_literal() -> None:
    """A perfect positive, one whose box has IoU 1/2, a negative and a padded slot."""
    head = stage(class_weight=2.0, giou_weight=10.0)
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 5], [5, 5, 9, 9], [0, 0, 0, 0]]])
    goal = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 0, 0], [0, 0, 0, 0]]])
    labels = torch.tensor([[1, 0, K, K]])
    regions = Regions(boxes, torch.tensor([[0, 0, -1, -1]]), labels, goal, torch.tensor([[True, True, True, False]]))
    deltas = torch.full((1, 4, K, 4), 1.0)
    deltas[0, 0, 1] = deltas[0, 1, 0] = 0  # only the deltas of the own class count
    losses = head.losses(torch.zeros(1, 4, K + 1), deltas, regions)
    assert losses["cls"].item() == pytest.approx(2 * math.log(4))
    assert losses["box"].item() == pytest.approx(10 * 0.5 / 3)


def test_detect_clips_and_suppresses_within_a_class() -> None:
    head = stage(max_detections=4)
    for parameter in head.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        head.cls.bias.copy_(torch.tensor([2.0, 1.0, 0.0, 0.0]))
    pyramid = Pyramid(tuple(torch.zeros(1, 4, n, n) for n in (4, 2, 1)), (8, 16, 32), torch.tensor([[30.0, 32.0]]))
    proposals = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 40, 40], [1, 1, 2, 2]]])
    (found,) = head.detect(pyramid, proposals, torch.tensor([[True, True, True, False]]))
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert found.boxes.tolist() == [[0, 0, 10, 10], [20, 20, 32, 30]] * 2
    expected = torch.tensor([2.0, 1.0, 0.0, 0.0]).softmax(0)
    torch.testing.assert_close(found.scores, expected[[0, 0, 1, 1]])


def test_detect_obeys_the_score_threshold() -> None:
    head = stage(score_threshold=0.5)
    pyramid = Pyramid(tuple(torch.zeros(1, 4, n, n) for n in (4, 2, 1)), (8, 16, 32), torch.tensor([[32.0, 32.0]]))
    (found,) = head.detect(pyramid, torch.tensor([[[0.0, 0, 10, 10]]]), torch.tensor([[True]]))
    assert len(found.scores) == 0


def test_sigmoid_losses_literal() -> None:
    """Each class on its own: a region costs log 2 for each of the classes that count, whatever its label; the padded
    slot costs nothing."""
    head = stage(class_loss="sigmoid", federated=True, class_weight=2.0)
    assert head.cls.out_features == K
    boxes = torch.tensor([[[0.0, 0, 10, 10], [5, 5, 9, 9], [0, 0, 0, 0]]])
    labels = torch.tensor([[1, K, K]])
    regions = Regions(boxes, torch.tensor([[0, -1, -1]]), labels, boxes, torch.tensor([[True, True, False]]))
    logits, deltas = torch.zeros(1, 3, K), torch.zeros(1, 3, K, 4)
    assert head.losses(logits, deltas, regions)["cls"].item() == pytest.approx(2 * K * math.log(2))
    some = head.losses(logits, deltas, regions, torch.tensor([[False, True, True]]))
    assert some["cls"].item() == pytest.approx(2 * 2 * math.log(2))
    # Of the labelled class -log p, of others -log(1 - p), with p = 3/4 of class 1 in both regions.
    logits[..., 1] = math.log(3)
    one = head.losses(logits, deltas, regions, torch.tensor([[False, True, False]]))
    assert one["cls"].item() == pytest.approx(2 * (-math.log(3 / 4) - math.log(1 / 4)) / 2)


def test_sigmoid_scores_and_first_probabilities() -> None:
    head = stage(class_loss="sigmoid", max_detections=4)
    pyramid = Pyramid(tuple(torch.zeros(1, 4, n, n) for n in (4, 2, 1)), (8, 16, 32), torch.tensor([[32.0, 32.0]]))
    proposals, valid = torch.tensor([[[0.0, 0, 10, 10]]]), torch.tensor([[True]])
    (found,) = head.detect(pyramid, proposals, valid)
    assert found.scores.tolist() == pytest.approx([0.01] * K, rel=1e-5)
    with torch.no_grad():
        head.cls.bias.copy_(torch.tensor([2.0, 1.0, 3.0]))
    (found,) = head.detect(pyramid, proposals, valid)
    assert found.labels.tolist() == [2, 0, 1]
    torch.testing.assert_close(found.scores, torch.tensor([3.0, 2.0, 1.0]).sigmoid())
