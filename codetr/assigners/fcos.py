"""Assignment of points to objects whose middle they lie in (FCOS)."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from codetr_kernels.assigners import fcos_assign
from torch import Tensor

from codetr.assigners.contract import Assigner, Priors
from codetr.structures import Targets


def size_ranges(strides: tuple[int, ...]) -> tuple[tuple[float, float], ...]:
    """The sizes of objects of each level: up to eight strides, the last level everything larger.

    (-1, 64), (64, 128), (128, 256), (256, 512), (512, inf) for strides of 8 to 128, as in the paper.
    """
    limits = [-1.0, *(8.0 * stride for stride in strides[:-1]), math.inf]
    return tuple(itertools.pairwise(limits))


@dataclass(frozen=True)
class FCOSAssigner(Assigner):
    """A point, the centre of its prior, belongs to the smallest ground truth whose middle it lies in.

    strides: of each level. ranges: least and largest distance to the farthest side on each level; None: `size_ranges`.
    radius: the middle is the square of this many strides round the centre; None: the whole box. `fcos_assign` states
    the rule.

    Source: Tian et al., FCOS: A Simple and Strong Anchor-free Object Detector, section 3.
    """

    strides: tuple[int, ...]
    ranges: tuple[tuple[float, float], ...] | None = None
    radius: float | None = 1.5

    def assign(self, priors: Priors, targets: Targets) -> Tensor:
        return fcos_assign(
            (priors.boxes[..., :2] + priors.boxes[..., 2:]) * 0.5,
            priors.valid,
            targets.boxes,
            targets.valid,
            level_sizes=priors.level_sizes,
            strides=self.strides,
            ranges=size_ranges(self.strides) if self.ranges is None else self.ranges,
            radius=self.radius,
        )
