"""Assignment by the highest IoU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from codetr_kernels.assigners import reference
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from codetr.assigners.contract import Priors
from codetr.assigners.max_iou import MaxIoUAssigner
from codetr.structures import Targets

MakeTargets = Callable[..., Targets]
MakePriors = Callable[..., Priors]

FIRST = [0.0, 0.0, 10.0, 10.0]
SECOND = [20.0, 20.0, 30.0, 40.0]
# IoU with FIRST 1, 0.8, 0.5, 0.2; the last two with SECOND 0.5 each.
PRIORS = torch.tensor(
    [[0.0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 5], [0, 0, 10, 2], [20, 20, 30, 30], [20, 30, 30, 40]]
)


@pytest.mark.parametrize(
    ("low_quality", "expected"),
    [
        (None, [0, 0, -2, -1, -2, -2]),
        (0.3, [0, 0, -2, -1, 1, 1]),  # all that tie for the best of an object
        (0.6, [0, 0, -2, -1, -2, -2]),  # its best is not good enough
    ],
)
def test_literal(
    make_targets: MakeTargets, make_priors: MakePriors, low_quality: float | None, expected: list[int]
) -> None:
    assigner = MaxIoUAssigner(0.7, 0.3, low_quality)
    assert assigner.assign(make_priors(PRIORS), make_targets([FIRST, SECOND])).tolist() == [expected]


def test_thresholds_belong_to_the_upper_zone(make_targets: MakeTargets, make_priors: MakePriors) -> None:
    targets = make_targets([FIRST])
    assert MaxIoUAssigner(0.8, 0.5).assign(make_priors(PRIORS[:4]), targets).tolist() == [[0, 0, -2, -1]]


def test_equal_overlaps_go_to_the_first_object(make_targets: MakeTargets, make_priors: MakePriors) -> None:
    assert MaxIoUAssigner(0.7, 0.3).assign(make_priors(PRIORS[:1]), make_targets([FIRST, FIRST])).tolist() == [[0]]


def test_a_rescued_prior_goes_to_the_last_object_that_it_serves_best(
    make_targets: MakeTargets, make_priors: MakePriors
) -> None:
    # The prior overlaps the first object by 0.5 and the second by 0.4: it is the best that either has.
    objects = [[0.0, 0, 10, 20], [0, 0, 10, 4]]
    assert MaxIoUAssigner(0.7, 0.3, 0.3).assign(make_priors(PRIORS[:1]), make_targets(objects)).tolist() == [[1]]


def test_an_object_without_overlap_rescues_nothing(make_targets: MakeTargets, make_priors: MakePriors) -> None:
    far = [[500.0, 500, 510, 510]]
    assert MaxIoUAssigner(0.7, 0.3, 0.0).assign(make_priors(PRIORS), make_targets(far)).tolist() == [[-1] * 6]


def test_images_differ_in_objects_and_priors(make_targets: MakeTargets) -> None:
    """The second image has no object, the third no valid prior."""
    valid = torch.tensor([[True] * 6, [True] * 5 + [False], [False] * 6])
    priors = Priors(PRIORS.expand(3, 6, 4), valid, (6,))
    index = MaxIoUAssigner(0.7, 0.3, 0.3).assign(priors, make_targets([FIRST, SECOND], [], [FIRST]))
    assert index.tolist() == [[0, 0, -2, -1, 1, 1], [-1] * 5 + [-2], [-2] * 6]


def test_an_invalid_prior_is_nobody_s_best(make_targets: MakeTargets, make_priors: MakePriors) -> None:
    priors = replace(make_priors(PRIORS[4:]), valid=torch.tensor([[True, False]]))
    assert MaxIoUAssigner(0.7, 0.3, 0.3).assign(priors, make_targets([SECOND])).tolist() == [[0, -2]]
    priors = replace(make_priors(PRIORS[:2]), valid=torch.tensor([[False, True]]))
    assert MaxIoUAssigner(0.9, 0.3, 0.3).assign(priors, make_targets([FIRST])).tolist() == [[-2, 0]]


def test_no_priors(make_targets: MakeTargets, make_priors: MakePriors) -> None:
    assert MaxIoUAssigner(0.5, 0.5).assign(make_priors(torch.zeros(0, 4)), make_targets([FIRST])).shape == (1, 0)


def random_boxes(*shape: int) -> Tensor:
    corner = torch.rand(*shape, 2) * 60
    return torch.cat([corner, corner + 5 + torch.rand(*shape, 2) * 50], dim=-1)


@pytest.mark.parametrize("low_quality", [False, True])
def test_equals_torchvision(make_targets: MakeTargets, make_priors: MakePriors, low_quality: bool) -> None:
    """A prior rescued by torchvision goes to the object that it overlaps most: there only its being positive counts."""
    objects, priors = random_boxes(2, 6), random_boxes(300)
    targets = make_targets(*objects.tolist(), padding=2)
    ours = MaxIoUAssigner(0.6, 0.4, 0.0 if low_quality else None).assign(make_priors(priors, images=2), targets)
    matcher = Matcher(0.6, 0.4, allow_low_quality_matches=low_quality)
    theirs = torch.stack([matcher(box_iou(gt, priors)) for gt in objects])
    assert {-2, -1} < set(theirs.flatten().tolist())
    if low_quality:
        ours, theirs = ours.clamp(max=0), theirs.clamp(max=0)
    assert torch.equal(ours, theirs)


def test_blocks_of_objects_make_no_difference(
    make_targets: MakeTargets, make_priors: MakePriors, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = random_boxes(2, 7)
    objects[:, 5] = objects[:, 1]  # equal overlaps across blocks
    targets, priors = make_targets(*objects.tolist()), make_priors(random_boxes(200), images=2)
    assigner = MaxIoUAssigner(0.5, 0.4, 0.1)
    whole = assigner.assign(priors, targets)
    monkeypatch.setattr(reference, "PAIRS", 2 * 200 * 3)
    assert torch.equal(assigner.assign(priors, targets), whole)
