"""The `data.augment` section of a spec."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from codetr.config import Section

Pixels = Annotated[int, Field(gt=0)]


class Crop(Section):
    """The second branch of the DETR recipe: resize, crop, then resize as the first branch does.

    probability: how often this branch is taken. scales, max_size: short sides and longest side before the crop, in
    pixels. low, high: height and width of the crop are each a uniform integer in [min(side, low), min(side, high)].
    """

    probability: float = Field(0.5, ge=0, le=1)
    scales: tuple[Pixels, ...] = Field((400, 500, 600), min_length=1)
    max_size: int = Field(4200, gt=0)
    low: int = Field(384, gt=0)
    high: int = Field(600, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Crop:
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) must not exceed high ({self.high})")
        return self


class Color(Section):
    """Jitter of brightness, contrast and saturation (factor in [1 - x, 1 + x]) and of hue (shift in [-x, x])."""

    probability: float = Field(0.8, ge=0, le=1)
    brightness: float = Field(0.2, ge=0)
    contrast: float = Field(0.2, ge=0)
    saturation: float = Field(0.2, ge=0)
    hue: float = Field(0.0, ge=0, le=0.5)


class Jitter(Section):
    """Large-scale jitter, in place of `scales`, `max_size` and `crop`.

    size: side of the square that every image ends in, in pixels. low, high: an image is resized so that it fits into a
    square of `size` times a factor that is uniform in [low, high]; what exceeds `size` is cropped at random, the rest
    is padded.
    """

    size: int = Field(1024, gt=0)
    low: float = Field(0.1, gt=0)
    high: float = Field(2.0, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Jitter:
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) must not exceed high ({self.high})")
        return self


class CopyPaste(Section):
    """Objects of another image are pasted, with their masks, over those of this one. Needs `jitter` and `data.masks`.

    probability: share of images that are pasted into. max_objects: most objects pasted; their number is uniform from
    none to all objects of the other image, or to this.
    """

    probability: float = Field(1.0, ge=0, le=1)
    max_objects: int = Field(99, ge=1)


class Mosaic(Section):
    """Four images around a random point, before all other augmentation.

    probability: share of images that become one. size: each of the four is resized to fit into a square of so many
    pixels, and the canvas is twice as wide and high. visible: an object that is cut at the border is dropped if at most
    this share of its box is left.
    """

    probability: float = Field(0.5, ge=0, le=1)
    size: int = Field(640, ge=2)
    visible: float = Field(0.1, ge=0, lt=1)


class MixUp(Section):
    """A weighted mean of two images, with the objects of both, after all other augmentation.

    probability: share of images that become one. alpha: the weight is drawn from Beta(alpha, alpha).
    """

    probability: float = Field(0.15, ge=0, le=1)
    alpha: float = Field(8.0, gt=0)


class Augment(Section):
    """Augmentation of training images; the defaults are the DETR recipe.

    scales: short side in pixels, one drawn for each image. max_size: longest side in pixels.
    flip, vertical_flip: probabilities. crop, color: null leaves them out. jitter: large-scale jitter in place of scales
    and crop. copy_paste, mosaic, mixup: of several images; null leaves them out.
    """

    scales: tuple[Pixels, ...] = Field(tuple(range(480, 801, 32)), min_length=1)
    max_size: int = Field(1333, gt=0)
    crop: Crop | None = Crop()
    flip: float = Field(0.5, ge=0, le=1)
    vertical_flip: float = Field(0.0, ge=0, le=1)
    color: Color | None = None
    jitter: Jitter | None = None
    copy_paste: CopyPaste | None = None
    mosaic: Mosaic | None = None
    mixup: MixUp | None = None

    @model_validator(mode="after")
    def _without_contradictions(self) -> Augment:
        if self.copy_paste is not None and self.jitter is None:
            raise ValueError("copy_paste needs jitter, which brings both images to one size; add jitter: {}")
        if self.jitter is None:
            return self
        fields = type(self).model_fields
        idle = [
            name for name in ("scales", "max_size", "crop") if getattr(self, name) not in (fields[name].default, None)
        ]
        if idle:
            raise ValueError(
                f"jitter takes the place of scales, max_size and crop, so {' and '.join(idle)} would have no effect; "
                "leave them out (data.augment={jitter: {}} replaces all that a spec has set there)"
            )
        return self
