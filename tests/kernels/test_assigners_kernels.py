"""The Triton kernels of the assigners against the reference: bit for bit the same decisions, whatever the boxes."""

from __future__ import annotations

import itertools
import math
import warnings

import pytest
import torch
from assigner_scenes import SCENES, Scene, random_objects, scene
from codetr_kernels import atss_assign, fcos_assign, max_iou_assign, paa_assign, which_backend
from codetr_kernels.assigners import CellGrid, op
from codetr_kernels.assigners.mixture import separate_reference
from codetr_kernels.assigners.reference import (
    atss_assign_reference,
    fcos_assign_reference,
    max_iou_assign_reference,
)
from samples import DEVICE
from torch import Tensor

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("garbage")]

RESCUING = {"positive": 0.6, "negative": 0.3, "low_quality": 0.05}


@pytest.fixture(autouse=True)
def _kernels_run() -> None:
    assert which_backend(DEVICE).name == "triton"


def ranges(levels: int) -> tuple[tuple[float, float], ...]:
    limits = [-1.0, *(16.0 * 2**level for level in range(levels - 1)), math.inf]
    return tuple(itertools.pairwise(limits))


def assert_all_equal(case: Scene, *, topk: int = 9) -> None:
    """Every assigner on a scene."""
    found = max_iou_assign(*case.inputs(), **RESCUING)
    assert torch.equal(found, max_iou_assign_reference(*case.inputs(), **RESCUING))
    sizes = case.grid.level_sizes
    settings = {"level_sizes": sizes, "topk": topk, "grid": case.grid}
    assert torch.equal(atss_assign(*case.inputs(), **settings), atss_assign_reference(*case.inputs(), **settings))
    levels = {"level_sizes": sizes, "strides": case.grid.strides, "ranges": ranges(len(sizes))}
    assert torch.equal(fcos_assign(*case.points(), **levels), fcos_assign_reference(*case.points(), **levels))


def boxes_anywhere(case: Scene) -> Scene:
    """The scene with objects and priors that lie on no whole pixels, and objects missing in between."""
    case.gt_boxes += torch.rand_like(case.gt_boxes)
    case.gt_boxes[..., 2:] += 20 * torch.rand_like(case.gt_boxes[..., 2:])
    case.priors += torch.rand_like(case.priors) * 0.3
    case.gt_valid &= torch.rand(case.gt_valid.shape).to(DEVICE) < 0.8
    return case


@pytest.mark.parametrize("name", SCENES)
def test_decisions_are_those_of_the_reference(name: str) -> None:
    assert_all_equal(boxes_anywhere(SCENES[name]()))


@pytest.mark.parametrize("topk", [1, 2, 13, 32])
def test_any_number_of_candidates(topk: int) -> None:
    assert_all_equal(scene(random_objects(3), shapes=((7, 9), (2, 5)), strides=(8, 14), offset=0.5), topk=topk)


@pytest.mark.parametrize("topk", [4, 9])
def test_the_candidates_are_the_nearest_priors(topk: int) -> None:
    """An object that covers all priors has the same IoU with each: all its candidates are positive, and show.

    Everywhere around grids of two rows, and of more; cropped by images, some as large as whole cells but for a bit.
    """
    shapes, strides = ((2, 12), (7, 6)), (8, 14)
    centre = torch.cat([torch.rand(12, 2) * 140 - 20, torch.randint(0, 24, (12, 2)) * 4.0])
    objects = torch.cat([centre - 512, centre + 512], 1).numpy()
    above, below = (torch.nextafter(torch.tensor(70.0), torch.tensor(end)).item() for end in (100.0, 0.0))
    sizes = [[size, 61.0 + image] for image, size in enumerate([above, below, 70.0, 140.0] * 6)]
    case = scene(*objects[:, None], shapes=shapes, strides=strides, side=8, sizes=sizes, padding=0)
    settings = {"level_sizes": case.grid.level_sizes, "topk": topk}
    found = atss_assign(*case.inputs(), **settings, grid=case.grid)
    assert (found == 0).sum(1).tolist() == [2 * topk] * 24
    assert torch.equal(found, atss_assign_reference(*case.inputs(), **settings))


def test_eight_levels() -> None:
    shapes = tuple((1 + level % 3, 2) for level in range(8))
    assert_all_equal(scene(random_objects(2), shapes=shapes, strides=(4, 8, 12, 16, 24, 32, 40, 64)))


@pytest.mark.parametrize("candidates", [1, 2, 45, 70])
def test_separation_is_that_of_the_reference(candidates: int) -> None:
    losses, counted = mixtures(4, candidates)
    losses[0, 0] = 0.75  # all equal
    assert torch.equal(op.separate(losses, counted), separate_reference(losses, counted))


def mixtures(objects: int, candidates: int) -> tuple[Tensor, Tensor]:
    """Losses (1, G, T) in two groups, and which candidates there are: of the last object none."""
    bad = torch.rand(1, objects, candidates) < 0.6
    losses = torch.where(bad, 1.5, 0.4) + torch.rand(1, objects, candidates) * 0.5
    counted = torch.rand(1, objects, candidates) < 0.8
    counted[:, -1] = False
    return losses.to(DEVICE), counted.to(DEVICE)


def test_beyond_the_kernels_the_reference_runs_and_says_so() -> None:
    case = scene(random_objects(2), shapes=((2, 2),), strides=(16,))
    with pytest.warns(RuntimeWarning, match="33 candidates a level, the kernels take 32"):
        atss_assign(*case.inputs(), level_sizes=(4,), topk=33, grid=case.grid)
    losses, index = torch.rand(1, 9, device=DEVICE), torch.zeros(1, 9, dtype=torch.int64, device=DEVICE)
    with pytest.warns(RuntimeWarning, match="297 candidates an object, the kernels take 256"):
        paa_assign(losses, index, num_gts=1, level_sizes=(1,) * 9, topk=33)


def test_float64_and_priors_off_a_grid_run_in_torch() -> None:
    case = scene(random_objects(2))
    wide = [x.double() if x.is_floating_point() else x for x in case.inputs()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(max_iou_assign(*wide, **RESCUING), max_iou_assign(*case.inputs(), **RESCUING))
        sizes = case.grid.level_sizes
        alone = atss_assign(*case.inputs(), level_sizes=sizes)
    assert torch.equal(alone, atss_assign(*case.inputs(), level_sizes=sizes, grid=case.grid))


def test_operators() -> None:
    case = scene(random_objects(2), shapes=((2, 3),), strides=(8,), sizes=[[16.0, 24.0]])
    torch.library.opcheck(op.max_iou_assign, (*case.inputs(), 0.5, 0.4, 0.1))
    torch.library.opcheck(op.atss_assign, (*case.inputs(), [2, 3], [8], 0.0, case.grid.sizes, 3, 0.01))
    torch.library.opcheck(op.fcos_assign, (*case.points(), [6], [8.0], [-1.0], [64.0], 1.5))
    torch.library.opcheck(op.separate, mixtures(1, 5))


class AllAssigners(torch.nn.Module):
    """Those of one level of six cells."""

    def forward(self, priors: Tensor, valid: Tensor, gt_boxes: Tensor, gt_valid: Tensor) -> tuple[Tensor, ...]:
        inputs = (priors, valid, gt_boxes, gt_valid)
        offered = max_iou_assign(*inputs, positive=0.1, negative=0.1, low_quality=0.0)
        losses = (priors[:, 0] * 0.37).sin().abs().expand(valid.shape)
        return (
            offered,
            paa_assign(losses, offered, num_gts=gt_boxes.shape[1], level_sizes=(6,)),
            atss_assign(*inputs, level_sizes=(6,), grid=CellGrid(((2, 3),), (8,))),
            fcos_assign(priors[:, :2] + 8, *inputs[1:], level_sizes=(6,), strides=(8,), ranges=((-1, 64),)),
        )


def test_compile_and_export() -> None:
    case = scene(random_objects(3, low=0, high=10), shapes=((2, 3),), strides=(8,))
    expected = AllAssigners()(*case.inputs())
    compiled = torch.compile(AllAssigners(), fullgraph=True, backend="aot_eager")
    exported = torch.export.export(AllAssigners(), case.inputs())
    for function in (compiled, exported.module()):
        for a, b in zip(function(*case.inputs()), expected, strict=True):
            assert torch.equal(a, b)
    # What runs without gradients is a graph within the graph.
    graphs = [module.graph for module in exported.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]
    targets = {str(node.target) for graph in graphs for node in graph.nodes}
    assert {f"codetr_kernels.{name}.default" for name in ("max_iou_assign", "atss_assign", "paa_separate")} <= targets


@pytest.mark.gpu
@pytest.mark.parametrize("count", [60, 1000])
def test_a_training_batch(count: int) -> None:
    """Two images of 800 x 1333 pixels, 22,000 anchors, and the same in every run."""
    strides = (8, 16, 32, 64, 128)
    shapes = tuple((-(-800 // stride), -(-1333 // stride)) for stride in strides)
    objects = [random_objects(count, low=-50, high=1300, most=300, seed=seed) for seed in range(2)]
    case = boxes_anywhere(scene(*objects, shapes=shapes, strides=strides, sizes=[[800.0, 1333.0], [640.0, 1000.0]]))
    assert_all_equal(case)
    settings = {"level_sizes": case.grid.level_sizes, "grid": case.grid}
    assert torch.equal(atss_assign(*case.inputs(), **settings), atss_assign(*case.inputs(), **settings))


@pytest.mark.gpu
def test_the_device_is_asked_nothing() -> None:
    case = scene(random_objects(20), random_objects(9), sizes=[[48.0, 64.0], [17.0, 40.0]])
    sizes = case.grid.level_sizes
    points = case.points()
    levels = {"level_sizes": sizes, "strides": case.grid.strides, "ranges": ranges(3)}
    for mode in ("default", "error"):  # compiled in the first turn
        torch.cuda.set_sync_debug_mode(mode)
        try:
            offered = max_iou_assign(*case.inputs(), **RESCUING)
            paa_assign(offered.float(), offered, num_gts=20, level_sizes=sizes)
            atss_assign(*case.inputs(), level_sizes=sizes, grid=case.grid)
            fcos_assign(*points, **levels)
        finally:
            torch.cuda.set_sync_debug_mode("default")
