"""The settings of a sigmoid class loss, which the criterion and the heads share."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from codetr.config import Section


class FocalSettings(Section):
    """Which of the focal losses, and its numbers."""

    class_loss: Literal["focal", "quality_focal"] = Field(
        "focal", description="sigmoid: focal loss, or quality focal loss, whose target is the IoU of the predicted box"
    )
    alpha: float = Field(0.25, ge=0, le=1, description="focal loss: weight of positives against negatives")
    gamma: float = Field(2.0, ge=0, description="focal loss: exponent; quality focal loss: its beta, at least 1")

    @model_validator(mode="after")
    def _settings_take_effect(self) -> FocalSettings:
        if self.class_loss == "quality_focal":
            if self.alpha != type(self).model_fields["alpha"].default:
                raise ValueError("alpha belongs to class_loss: focal; with class_loss: quality_focal leave it out")
            if self.gamma < 1:
                raise ValueError("gamma must be at least 1 with class_loss: quality_focal")
        return self
