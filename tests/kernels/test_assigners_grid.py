"""The nearest cells of a grid, without looking at all of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from assigner_scenes import Scene, scene
from codetr_kernels import atss_assign
from codetr_kernels.assigners.grid import candidates, nearest_ranks, ranked_cells
from codetr_kernels.assigners.reference import _nearest, _nearest_on_grid

NOBODY = torch.zeros(0, 4).numpy()


def test_ranks_literal() -> None:
    rows, columns = nearest_ranks(4, torch.device("cpu"))
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [
        *[(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (2, 0), (3, 0)]
    ]
    assert [candidates(topk) for topk in (1, 2, 4, 9, 32)] == [1, 3, 8, 23, 119]


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        (20.0, [2, 3, 1, 4, 0, 5]),  # 2.5: of equal distances the lower index first
        (21.0, [3, 2, 4, 1, 5, 0]),
        (16.0, [2, 1, 3, 0, 4, 5]),  # on a cell
        (33.0, [4, 5, 3, 2, 1, 0]),
        (-900.0, [0, 1, 2, 3, 4, 5]),
        (1e30, [5, 4, 3, 2, 1, 0]),
        (float("nan"), [0, 1, 2, 3, 4, 5]),
    ],
)
def test_an_axis_literal(point: float, expected: list[int]) -> None:
    counts, rank = torch.tensor([[6]]), torch.arange(6)
    assert ranked_cells(torch.tensor([[point]]), counts, rank, stride=8, offset=0.0).tolist() == [[expected]]


def places(case: Scene, spread: str) -> Scene:
    """2,000 objects of one pixel: inside the image, far around it, or on the lines where distances are equal."""
    count = 2000
    (tall, wide), stride = case.grid.shapes[0], case.grid.strides[0]
    extent = torch.tensor([wide, tall]) * stride
    if spread == "inside":
        centre = torch.rand(1, count, 2) * extent
    elif spread == "around":
        centre = (torch.rand(1, count, 2) * 3 - 1) * extent
    else:
        centre = torch.randint(-4, 2 * max(tall, wide) + 4, (1, count, 2)) * stride / 2
    boxes = torch.cat([centre - 0.5, centre + 0.5], -1)
    return replace(case, gt_boxes=boxes, gt_valid=torch.ones(1, count, dtype=torch.bool))


@pytest.mark.parametrize("spread", ["inside", "around", "ties"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 20), (20, 1), (2, 9), (3, 3), (7, 11), (13, 21)])
def test_they_are_those_among_all_cells(shape: tuple[int, int], spread: str) -> None:
    """In the same order, for grids of one row and more, whole or cropped by the image."""
    for stride, offset in ((8, 0.0), (14, 0.5)):
        crops = [None, [[shape[0] * stride * 0.7, shape[1] * stride * 0.6]]]
        for sizes in crops:
            case = scene(NOBODY, shapes=(shape,), strides=(stride,), offset=offset, sizes=sizes)
            case = places(replace(case, **{name: getattr(case, name).cpu() for name in ("priors", "valid")}), spread)
            grid = case.grid._replace(sizes=None if sizes is None else torch.tensor(sizes))
            boxes = case.priors.expand(1, -1, -1)
            for topk in (1, 2, 9, 16):
                all_cells = _nearest(boxes, case.valid, case.gt_boxes, grid.level_sizes, topk)
                index, exists = _nearest_on_grid(boxes, case.gt_boxes, grid, topk)
                there = case.valid[0][all_cells]
                count = all_cells.shape[2]
                assert torch.equal(exists[..., :count], there) and not exists[..., count:].any()
                assert torch.equal(index[..., :count][there], all_cells[there])


def test_a_grid_does_not_change_the_assignment() -> None:
    """Objects of every size, on five levels cropped by the image."""
    strides = (8, 16, 32, 64, 128)
    shapes = tuple((-(-200 // stride), -(-300 // stride)) for stride in strides)
    case = scene(NOBODY, NOBODY, shapes=shapes, strides=strides, side=64, sizes=[[200.0, 300.0], [131.0, 222.0]])
    low = torch.rand(2, 40, 2) * 250 - 20
    gt_boxes = torch.cat([low, low + 4 + torch.rand(2, 40, 2) * 120], -1)
    inputs = (case.priors.cpu(), case.valid.cpu(), gt_boxes, torch.rand(2, 40) < 0.9)
    sizes = case.grid.sizes
    assert sizes is not None
    settings = {"level_sizes": case.grid.level_sizes}
    alone = atss_assign(*inputs, **settings)
    assert (alone >= 0).sum() > 50
    assert torch.equal(atss_assign(*inputs, **settings, grid=case.grid._replace(sizes=sizes.cpu())), alone)
