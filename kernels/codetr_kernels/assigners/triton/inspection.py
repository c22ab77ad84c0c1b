"""Every variant of the assigners' kernels, compiled for a GPU that is not there."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from codetr_kernels.assigners.triton import kernels, launch
from codetr_kernels.assigners.triton.launch import Launch, Levels, Place, Scene
from codetr_kernels.compilation import Compiled
from codetr_kernels.compilation.signature import compile_launch, meta

IMAGE = (800, 1333)
STRIDES = (8, 16, 32, 64, 128)
SIDES = tuple(-(-side // stride) for stride in STRIDES for side in IMAGE)
BATCH, OBJECTS = 2, 60


def rows(target: str) -> Iterator[Compiled]:
    """Compile each kernel as it is launched for two images, five levels and 60 objects each."""
    for name, (kernel, planned) in variants().items():
        yield compile_launch(
            kernel,
            name=name,
            target=target,
            arguments=planned.arguments,
            constants=planned.constants,
            num_warps=planned.num_warps,
            enable_fp_fusion=False,
        )


def variants() -> dict[str, tuple[object, Launch]]:
    """Kernels and launches, by name; tensors on the meta device."""
    shared, own, points = scene(4, is_shared=True), scene(4, is_shared=False), scene(2, is_shared=True)
    gt_index, tops = indices(), meta(BATCH, OBJECTS, dtype=torch.int32)
    both = {"positive": 0.5, "negative": 0.5, "low_quality": None}
    rescuing = {"positive": 0.7, "negative": 0.3, "low_quality": 0.3}
    levels = Levels(sizes(), STRIDES, (-1.0, 64.0, 128.0, 256.0, 512.0), (64.0, 128.0, 256.0, 512.0, float("inf")))
    place = Place(SIDES, STRIDES, 0.0, meta(BATCH, 2, dtype=torch.float32))
    found: dict[str, tuple[object, Launch]] = {
        "best_overlap/anchors": (kernels.best_overlap_kernel, launch.best_overlap_launch(shared, tops)),
        "max_iou/anchors": (kernels.max_iou_kernel, launch.max_iou_launch(shared, tops, gt_index, rescuing)),
        "max_iou/proposals": (kernels.max_iou_kernel, launch.max_iou_launch(own, tops, gt_index, both)),
        "fcos/5 levels": (kernels.fcos_kernel, launch.fcos_launch(points, levels, gt_index, 1.5)),
        "decode": (kernels.decode_kernel, launch.decode_launch(shared, gt_index)),
    }
    for topk in (9, 32):
        planned = launch.atss_launch(shared, place, gt_index, topk=topk, margin=0.01)
        found[f"atss/top {topk}"] = (kernels.atss_kernel, planned)
    for candidates in (45, 256):
        found[f"separate/{candidates}"] = (kernels.separate_kernel, separate_launch(candidates))
    return found


def separate_launch(candidates: int) -> Launch:
    """Of so many candidates of an object."""
    losses = meta(BATCH, OBJECTS, candidates, dtype=torch.float32)
    return launch.separate_launch(losses, losses.bool(), losses.to(torch.uint8))


def scene(width: int, *, is_shared: bool) -> Scene:
    """Anchors (width 4) or points (2) of the levels."""
    count = sum(sizes())
    own = () if is_shared else (BATCH,)
    return Scene(
        meta(*own, count, width, dtype=torch.float32),
        meta(BATCH, count, dtype=torch.uint8),
        meta(BATCH, OBJECTS, 4, dtype=torch.float32),
        meta(BATCH, OBJECTS, dtype=torch.uint8),
    )


def sizes() -> tuple[int, ...]:
    """Priors of each level."""
    return tuple(height * width for height, width in zip(SIDES[::2], SIDES[1::2], strict=True))


def indices() -> torch.Tensor:
    return meta(BATCH, sum(sizes()), dtype=torch.int64)
