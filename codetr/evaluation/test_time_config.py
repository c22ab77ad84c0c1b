"""Settings of test-time augmentation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from codetr.config import Section


class TestTime(Section):
    """Every image is detected in at several sizes, as it is and mirrored, and what is found is fused.

    scales: short sides in pixels. max_size: longest side. flip: each size mirrored too.
    fusion: `wbf`, weighted boxes fusion; `vote`, NMS and the mean of what it suppresses; `soft_nms` and `nms`.
    iou: boxes of a class that overlap more are taken for the same object.
    """

    __test__ = False  # no test, whatever its name says to pytest

    scales: tuple[int, ...] = Field((600, 800, 1000), min_length=1)
    max_size: int = Field(1666, gt=0)
    flip: bool = True
    fusion: Literal["wbf", "vote", "soft_nms", "nms"] = "wbf"
    iou: float = Field(0.65, gt=0, le=1)
