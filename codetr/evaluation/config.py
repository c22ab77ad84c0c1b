"""The `eval` section of a spec."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from codetr.config import Section
from codetr.evaluation.test_time_config import TestTime


class EvalConfig(Section):
    """How a detector is evaluated.

    evaluator: which library computes the figures; both give the same ones.
    protocol: COCO's rules or LVIS's; `auto` takes LVIS's where the annotations are federated.
    max_detections: detections kept in each image, and the largest number that the figures count; null takes the
    protocol's own, 100 (COCO) or 300 (LVIS).
    branch: `detr` for the matched queries, or the instance name of a head. If it predicts masks, they are scored too.
    batch_size: images in a batch; it does not change what is found, only the padding that is computed along.
    test_time: test-time augmentation, or null. Evaluations in the course of training go without it.
    precision: `bf16` runs the model under autocast. Evaluations in the course of training are in fp32.
    """

    evaluator: Literal["hotcoco", "pycocotools"] = "hotcoco"
    protocol: Literal["auto", "coco", "lvis"] = "auto"
    max_detections: int | None = Field(default=None, ge=1)
    branch: str = "detr"
    batch_size: int = Field(default=2, ge=1)
    test_time: TestTime | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
