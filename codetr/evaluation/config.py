"""The `eval` section of a spec."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from codetr.config import Section
from codetr.evaluation.test_time_config import TestTime


class EvalConfig(Section):
    """How a detector is evaluated.

    evaluator: which library computes the figures; both give the same ones.
    max_detections: detections kept in each image, and the largest number that the figures count in an image and class.
    branch: `detr` for the matched queries, or the instance name of a head.
    batch_size: images in a batch; it does not change what is found, only the padding that is computed along.
    test_time: test-time augmentation, or null.
    """

    evaluator: Literal["hotcoco", "pycocotools"] = "hotcoco"
    max_detections: int = Field(default=100, ge=1)
    branch: str = "detr"
    batch_size: int = Field(default=2, ge=1)
    test_time: TestTime | None = None
