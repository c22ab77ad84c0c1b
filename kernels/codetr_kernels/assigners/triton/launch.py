"""From tensors to launches: constants, grids, buffers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from codetr_kernels.assigners import mixture
from codetr_kernels.assigners.checks import MOST_LEVELS
from codetr_kernels.assigners.grid import candidates
from codetr_kernels.assigners.triton.kernels import (
    atss_kernel,
    best_overlap_kernel,
    decode_kernel,
    fcos_kernel,
    max_iou_kernel,
    separate_kernel,
)
from codetr_kernels.launching import device_of

BLOCK, NUM_WARPS = 256, 4
"""Priors of a program, and its warps: at least two programs for each processor of an H100 at 44,000 priors."""

NO_LEVEL = 1 << 32
"""Height and width of a level without cells; as wide an integer as those of a level."""

_LEAST = 2.0**-126
"""An IoU above 0: the smallest float32 that no GPU takes for 0."""


class Scene(NamedTuple):
    """Priors (or points) and objects, contiguous float32, validity as bytes."""

    priors: Tensor
    prior_valid: Tensor
    gt_boxes: Tensor
    gt_valid: Tensor

    @staticmethod
    def of(priors: Tensor, prior_valid: Tensor, gt_boxes: Tensor, gt_valid: Tensor) -> Scene:
        """Of the arguments of an assigner; priors that are one row for all images, expanded, are taken as that row."""
        if priors.dim() == 3 and priors.stride(0) == 0:
            priors = priors[0]
        return Scene(
            priors.float().contiguous(),
            prior_valid.contiguous().view(torch.uint8),
            gt_boxes.float().contiguous(),
            gt_valid.contiguous().view(torch.uint8),
        )

    @property
    def is_shared(self) -> bool:
        """Whether all images have the same priors."""
        return self.priors.dim() == 2

    @property
    def counts(self) -> dict[str, int]:
        """P and G of the kernels."""
        return {"P": self.prior_valid.shape[1], "G": self.gt_boxes.shape[1]}

    def indices(self) -> Tensor:
        """An int64 tensor (B, P)."""
        return torch.empty(self.prior_valid.shape, dtype=torch.int64, device=self.priors.device)


class Place(NamedTuple):
    """A `CellGrid` as the operator takes it. sides: height and width of each level in turn."""

    sides: Sequence[int]
    strides: Sequence[int]
    offset: float
    sizes: Tensor | None


class Levels(NamedTuple):
    """What FCOS knows of each level: its points, stride, least and largest size of an object."""

    level_sizes: Sequence[int]
    strides: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


class Launch(NamedTuple):
    """Arguments and constants of a kernel, by name."""

    arguments: dict[str, object]
    constants: dict[str, object]
    num_warps: int

    def __call__(self, kernel: object, grid: tuple[int, ...]) -> None:
        """Launch the kernel, on the current device."""
        options = {"num_warps": self.num_warps, "enable_fp_fusion": False}
        kernel[grid](**self.arguments, **self.constants, **options)  # type: ignore[index]


def max_iou(scene: Scene, *, positive: float, negative: float, low_quality: float | None) -> Tensor:
    """`max_iou_assign`."""
    gt_index = scene.indices()
    if gt_index.numel() == 0:
        return gt_index
    with device_of(scene.priors):
        tops = scene.gt_valid
        if low_quality is not None:
            tops = torch.zeros(scene.gt_valid.shape, dtype=torch.int32, device=scene.priors.device)
            if tops.numel():
                best_overlap_launch(scene, tops)(best_overlap_kernel, _blocks(scene))
        thresholds = {"positive": positive, "negative": negative, "low_quality": low_quality}
        max_iou_launch(scene, tops, gt_index, thresholds)(max_iou_kernel, _blocks(scene))
    return gt_index


def best_overlap_launch(scene: Scene, tops: Tensor) -> Launch:
    """Of `best_overlap_kernel`."""
    arguments = {**scene._asdict(), "tops": tops, **scene.counts}
    return Launch(arguments, {"SHARED": scene.is_shared, "BLOCK": BLOCK}, NUM_WARPS)


def max_iou_launch(scene: Scene, tops: Tensor, gt_index: Tensor, thresholds: Mapping[str, float | None]) -> Launch:
    """Of `max_iou_kernel`."""
    rescue = thresholds["low_quality"] is not None
    numbers = {name: 0.0 if value is None else float(value) for name, value in thresholds.items()}
    numbers["low_quality"] = max(numbers["low_quality"], _LEAST)
    arguments = {**scene._asdict(), "tops": tops, "gt_index": gt_index, **scene.counts, **numbers}
    return Launch(arguments, {"RESCUE": rescue, "SHARED": scene.is_shared, "BLOCK": BLOCK}, NUM_WARPS)


def fcos(scene: Scene, levels: Levels, *, radius: float | None) -> Tensor:
    """`fcos_assign`."""
    gt_index = scene.indices()
    if gt_index.numel():
        with device_of(scene.priors):
            fcos_launch(scene, levels, gt_index, radius)(fcos_kernel, _blocks(scene))
    return gt_index


def fcos_launch(scene: Scene, levels: Levels, gt_index: Tensor, radius: float | None) -> Launch:
    """Of `fcos_kernel`."""
    points, point_valid, gt_boxes, gt_valid = scene
    tensors = {"points": points, "point_valid": point_valid, "gt_boxes": gt_boxes, "gt_valid": gt_valid}
    sizes = _numbered([*levels.level_sizes, *[0] * (MOST_LEVELS - len(levels.level_sizes))])
    arguments = {**tensors, "gt_index": gt_index, **sizes, **scene.counts, "radius": float(radius or 0)}
    settings = {"STRIDES": levels.strides, "LOW": levels.low, "HIGH": levels.high, "CENTRE": radius is not None}
    constants = {
        name: tuple(map(float, value)) if isinstance(value, tuple) else value for name, value in settings.items()
    }
    return Launch(arguments, {**constants, "SHARED": scene.is_shared, "BLOCK": BLOCK}, NUM_WARPS)


def atss(scene: Scene, place: Place, *, topk: int, margin: float) -> Tensor:
    """`atss_assign`."""
    keys = scene.indices().fill_(-1)
    batch, num_gts = scene.gt_valid.shape
    with device_of(scene.priors):
        if keys.numel() and num_gts:
            atss_launch(scene, place, keys, topk=topk, margin=margin)(atss_kernel, (num_gts, batch))
        if keys.numel():
            decode_launch(scene, keys)(decode_kernel, (triton.cdiv(keys.numel(), 4 * BLOCK),))
    return keys


def atss_launch(scene: Scene, place: Place, keys: Tensor, *, topk: int, margin: float) -> Launch:
    """Of `atss_kernel`."""
    heights, widths = place.sides[::2], place.sides[1::2]
    packed = [height << 32 | width for height, width in zip(heights, widths, strict=True)]
    tensors = {"priors": scene.priors, "gt_boxes": scene.gt_boxes, "gt_valid": scene.gt_valid}
    sizes = scene.gt_boxes if place.sizes is None else place.sizes.float().contiguous()
    levels = _numbered([*packed, *[NO_LEVEL] * (MOST_LEVELS - len(packed))])
    numbers = {**scene.counts, "offset": float(place.offset), "margin": float(margin)}
    constants = {
        "STRIDES": tuple(map(float, place.strides)),
        "TOPK": topk,
        "CROPPED": place.sizes is not None,
        "SHARED": scene.is_shared,
        "BLOCK_L": triton.next_power_of_2(len(packed)),
        "BLOCK_C": triton.next_power_of_2(candidates(topk)),
    }
    return Launch({**tensors, "sizes": sizes, "keys": keys, **levels, **numbers}, constants, NUM_WARPS)


def decode_launch(scene: Scene, keys: Tensor) -> Launch:
    """Of `decode_kernel`."""
    arguments = {"keys": keys, "prior_valid": scene.prior_valid, "total": keys.numel()}
    return Launch(arguments, {"BLOCK": 4 * BLOCK}, NUM_WARPS)


def separate(losses: Tensor, counted: Tensor) -> Tensor:
    """`separate_reference`."""
    positive = torch.empty(counted.shape, dtype=torch.uint8, device=losses.device)
    if positive.numel():
        with device_of(losses):
            separate_launch(losses, counted, positive)(separate_kernel, (positive[..., 0].numel(),))
    return positive.view(torch.bool)


def separate_launch(losses: Tensor, counted: Tensor, positive: Tensor) -> Launch:
    """Of `separate_kernel`."""
    tensors = {"losses": losses.contiguous(), "counted": counted.contiguous().view(torch.uint8), "positive": positive}
    block = triton.next_power_of_2(losses.shape[-1])
    constants = {
        "MOST_STEPS": mixture.MOST_STEPS,
        "TOLERANCE": mixture.TOLERANCE,
        "LEAST_VARIANCE": mixture.LEAST_VARIANCE,
        "BLOCK_T": block,
    }
    # One warp needs no barriers for its sums; with more, a lane holds one candidate: two are spilled.
    return Launch({**tensors, "T": losses.shape[-1]}, constants, 1 if block <= 64 else block // 32)


def _numbered(values: Sequence[int]) -> dict[str, object]:
    return {f"size{level}": value for level, value in enumerate(values)}


def _blocks(scene: Scene) -> tuple[int, int]:
    return triton.cdiv(scene.prior_valid.shape[1], BLOCK), len(scene.prior_valid)
