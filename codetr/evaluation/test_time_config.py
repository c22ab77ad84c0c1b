"""Settings of test-time augmentation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from codetr.config import Section

Pixels = Annotated[int, Field(gt=0)]


class TestTime(Section):
    """Every image is detected in at several sizes, as it is and mirrored, and what is found is fused.

    scales: short sides in pixels. max_size: longest side. flip: each size mirrored too.
    fusion: `wbf`, weighted boxes fusion; `vote`, NMS and the mean of what it suppresses; `soft_nms` and `nms`.
    iou: boxes of a class that overlap more are taken for the same object (of `soft_nms`, `linear`: lose score).
    decay, sigma: of `soft_nms`; `linear` multiplies a score by 1 - IoU, `gaussian` by exp(-IoU^2 / sigma).
    min_score: what scores less does not take part. A single size that is not mirrored is left as it is.
    """

    __test__ = False  # no test, whatever its name says to pytest

    scales: tuple[Pixels, ...] = Field((600, 800, 1000), min_length=1)
    max_size: int = Field(1666, gt=0)
    flip: bool = True
    fusion: Literal["wbf", "vote", "soft_nms", "nms"] = "wbf"
    iou: float = Field(0.65, gt=0, le=1)
    decay: Literal["linear", "gaussian"] = "linear"
    sigma: float = Field(0.5, gt=0)
    min_score: float = Field(0.001, ge=0, lt=1)

    @property
    def passes(self) -> int:
        """Detections of an image before they are fused."""
        return len(self.scales) * (1 + self.flip)
