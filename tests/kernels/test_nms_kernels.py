"""The kernel of greedy suppression against a plain loop in float64 and torchvision."""

from __future__ import annotations

import pytest
import torch
from codetr_kernels import batched_nms, batched_nms_reference, which_backend
from samples import DEVICE
from suppression import Scored, chain, greedy, random, rows, scored
from torch import Tensor

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("garbage")]


@pytest.fixture(autouse=True)
def _kernels_run() -> None:
    assert which_backend(DEVICE).name == "triton"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of four candidates, so that a few boxes are many blocks."""
    from codetr_kernels.nms.triton import launch

    monkeypatch.setattr(launch, "GREEDY_BLOCK", 4)


def run(problem: Scored, *, iou_threshold: float = 0.5, limit: int = 100) -> list[list[int]]:
    return rows(*batched_nms(*problem.arguments(), iou_threshold=iou_threshold, limit=limit))


def check(problem: Scored, *, iou_threshold: float = 0.5, limit: int = 100) -> None:
    expected = greedy(problem, iou_threshold=iou_threshold, limit=limit)
    assert run(problem, iou_threshold=iou_threshold, limit=limit) == expected


FALLING = [1 - 0.01 * i for i in range(40)]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 21])
@pytest.mark.parametrize("groups", [1, 3])
def test_random_boxes_over_several_blocks(count: int, groups: int) -> None:
    check(random(2, count, groups=groups, side=30))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("limit", [1, 3, 4, 5, 9, 21, 30])
def test_limits(limit: int) -> None:
    check(random(2, 21, groups=4, side=120), limit=limit)


@pytest.mark.usefixtures("small")
def test_everything_kept() -> None:
    corner = torch.arange(18.0)[:, None] * 20
    problem = scored(torch.cat([corner, corner, corner + 10, corner + 10], 1), FALLING[:18])
    assert run(problem) == [list(range(18))]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("length", [4, 13])
def test_a_chain_through_blocks(length: int) -> None:
    assert run(scored(chain(length), FALLING[:length]), iou_threshold=0.4) == [list(range(0, length, 2))]


def test_a_chain_as_long_as_a_block() -> None:
    """The longest that a block can need: each box waits for the one before."""
    assert run(scored(chain(40), FALLING), iou_threshold=0.4) == [list(range(0, 40, 2))]


@pytest.mark.usefixtures("small")
def test_kept_boxes_of_an_earlier_block_suppress_and_suppressed_ones_do_not() -> None:
    # 0 over 1, 1 over 5 by more than the threshold, 0 over 5 by less; 4 is a copy of 0, 6 one of 5.
    far = [[100.0, 100 + 20 * i, 110, 110 + 20 * i] for i in range(2)]
    row = chain(3)
    boxes = [row[0], row[1], *far, row[0], row[2], row[2]]
    assert run(scored(boxes, FALLING[:7]), iou_threshold=0.4) == [[0, 2, 3, 5]]


@pytest.mark.usefixtures("small")
def test_identical_boxes_of_equal_scores() -> None:
    boxes = torch.tensor([0.0, 0, 10, 10]).repeat(13, 1)
    assert run(scored(boxes, torch.full((13,), 0.5), torch.arange(13) % 3)) == [[0, 1, 2]]


@pytest.mark.usefixtures("small")
def test_only_what_is_valid_is_walked() -> None:
    problem = random(3, 12, side=60)
    valid = torch.zeros(3, 12, dtype=torch.bool, device=DEVICE)
    valid[1, 8:] = True
    valid[2] = True
    check(Scored(problem.boxes, problem.scores, problem.groups, valid))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_types(dtype: torch.dtype) -> None:
    """The loop has the numbers as they were rounded, and many equal scores."""
    check(random(2, 13, side=30, dtype=dtype))


@pytest.mark.usefixtures("small")
def test_scores_may_be_of_another_type_than_boxes() -> None:
    problem = random(1, 9, side=30)
    # Numbers that no float32 holds.
    check(problem.with_scores(problem.scores.double() * -1e300))


@pytest.mark.usefixtures("small")
def test_tensors_that_are_not_contiguous() -> None:
    problem = random(3, 9, side=30)
    turned = [tensor.transpose(0, 1).contiguous().transpose(0, 1) for tensor in problem.arguments()]
    expanded = turned[2][:1].expand(3, 9)
    check(Scored(turned[0], turned[1], expanded, turned[3]))


def test_the_form_for_cpus_agrees() -> None:
    problem = random(2, 40, groups=2, side=50)
    found = batched_nms(*problem.arguments(), iou_threshold=0.4, limit=30)
    wanted = batched_nms_reference(*problem.arguments(), iou_threshold=0.4, limit=30)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


# On a GPU only: sizes of detectors.


def proposals(batch: int, levels: int = 5, candidates: int = 4000) -> Scored:
    """Candidates of a region proposal network in training: half of them about a few objects, boxes of each level."""
    boxes = []
    for level in range(levels):
        centre = torch.rand(batch, candidates, 2) * torch.tensor([1333.0, 800.0])
        near = torch.rand(batch, 1, 2) * 800 + torch.randn(batch, candidates, 2) * 8 * 2**level
        centre = torch.where(torch.rand(batch, candidates, 1) < 0.5, centre, near)
        size = 32 * 2**level * torch.exp(0.3 * torch.randn(batch, candidates, 2))
        boxes.append(torch.cat([centre - size / 2, centre + size / 2], -1))
    groups = torch.arange(levels).repeat_interleave(candidates).expand(batch, -1)
    scores = torch.randn(batch, levels * candidates)
    return scored(torch.cat(boxes, 1), scores, groups, torch.rand(scores.shape) < 0.95)


def classes(batch: int, count: int = 1000, number: int = 80) -> Scored:
    """Each box in every class, most with a score next to nothing."""
    corner = torch.rand(batch, count, 2) * 1000
    boxes = torch.cat([corner, corner + 5 + torch.rand(batch, count, 2) * 200], -1)
    scores = torch.rand(batch, count * number) ** 8
    groups = torch.arange(number).repeat(count).expand(batch, -1)
    return scored(boxes.repeat_interleave(number, 1), scores, groups, scores > 0.001)


def agree(problem: Scored, *, iou_threshold: float, limit: int) -> None:
    """As torchvision in float64. An overlap within a rounding of the threshold could differ: none of these does."""
    found = batched_nms(*problem.arguments(), iou_threshold=iou_threshold, limit=limit)
    on_host = [tensor.cpu() for tensor in problem.arguments()]
    wanted = batched_nms_reference(*on_host, iou_threshold=iou_threshold, limit=limit)
    assert rows(*(tensor.cpu() for tensor in found)) == rows(*wanted)


@pytest.mark.gpu
@pytest.mark.parametrize("limit", [1, 63, 64, 65, 1000, 20000])
def test_proposals(limit: int) -> None:
    agree(proposals(2), iou_threshold=0.7, limit=limit)


@pytest.mark.gpu
@pytest.mark.parametrize("limit", [100, 300])
def test_classwise(limit: int) -> None:
    agree(classes(4), iou_threshold=0.5, limit=limit)


@pytest.mark.gpu
def test_long_chains_and_copies() -> None:
    row = torch.tensor(chain(5000))
    copies = torch.tensor([0.0, 0, 10, 10]).repeat(5000, 1)
    problem = scored(torch.stack([row, copies]), torch.linspace(1, 0, 5000).repeat(2, 1))
    assert run(problem, iou_threshold=0.4, limit=5000) == [list(range(0, 5000, 2)), [0]]


@pytest.mark.gpu
@pytest.mark.parametrize("tenths", [1, 3, 7, 9])
def test_as_much_as_the_threshold_is_not_more(tenths: int) -> None:
    """At a thousand sizes, of which a product with the threshold would round some up."""
    side = torch.arange(1, 1001.0)
    box = torch.stack([0 * side, 0 * side, 10 * side, 0 * side + 1], -1)
    boxes = torch.stack([box, box * torch.tensor([1, 1, tenths / 10, 1])], 1).round()
    assert run(scored(boxes, torch.tensor([[0.9, 0.8]]).repeat(1000, 1)), iou_threshold=tenths / 10) == [[0, 1]] * 1000


@pytest.mark.gpu
def test_the_host_waits_for_nothing() -> None:
    from codetr_kernels import soft_nms

    problem = classes(2, count=200)

    def both() -> list[Tensor]:
        hard = batched_nms(*problem.arguments(), iou_threshold=0.5, limit=100)
        return [*hard, *soft_nms(*problem.arguments(), limit=100)]

    wanted = both()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = both()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
