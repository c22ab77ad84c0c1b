"""The `data` section of a spec: where the images are, and how they are decoded, augmented and batched."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from codetr.config import Section
from codetr.data.augment_config import Augment, Pixels
from codetr.data.sampling_config import FederatedClasses, LongTail, RepeatFactor

MAX_PIXELS = 100_000_000  # 300 MB of RGB, and about a gigabyte while a PNG is decoded


class Split(Section):
    """Where one split lies, when it follows no known layout. Relative paths start at `data.dir`, if it is set."""

    annotations: Path | None = None
    images: Path | None = None


class Resize(Section):
    """Size of images in evaluation and prediction: short side and longest side, in pixels.

    square: fill up to a square of `max_size` with grey, which the model takes for image: as it was trained with
    large-scale jitter. Test-time augmentation has sizes of its own and fills up nothing.
    """

    size: int = Field(800, gt=0)
    max_size: int = Field(1333, gt=0)
    square: bool = False


class Synthetic(Section):
    """A rendered data set, made in `data.dir` when it is first used.

    train, val: number of images. size: side of the square images in pixels. objects: least and most objects of an
    image; null grows with the size. clutter: amount of distracting strokes. crowds: share of images with a crowd; null
    is 0.05, and 0 with a long tail. long_tail: many classes, most of them rare, in LVIS's layout.
    """

    train: int = Field(1200, ge=1)
    val: int = Field(200, ge=1)
    size: int = Field(128, ge=32, le=4096)
    seed: int = Field(0, ge=0)
    objects: tuple[int, int] | None = None
    clutter: float = Field(1.0, ge=0)
    crowds: float | None = Field(None, ge=0, le=1)
    long_tail: LongTail | None = None


class DataConfig(Section):
    """Settings of the data.

    dir: a folder with `images/` and `annotations/instances_{train,val}.json`, or COCO's own layout.
    synthetic: render the data set there first. train, val: files that lie elsewhere.
    augment: null trains on images resized as in evaluation.
    on_bad_image: stop at a truncated or undecodable image, or leave it out and warn once for each file.
    max_pixels: a larger JPEG is decoded at a half, a quarter or an eighth of its size; larger files that have to be
    decoded whole (PNG, progressive JPEG and others) are bad images, with a message of their own.
    masks: decode instance masks. workers: processes that load images; null takes up to four, fewer on a small machine.
    group_by_shape: images of a batch have a similar aspect ratio, so that little of it is padding.
    pad_multiple: pad height and width of a batch to multiples of so many pixels, so that there are few shapes; or null.
    drop_last: leave out the images that do not fill the last batch of a training epoch.
    shuffle_shards: of packed data, how many shards are read at a time and their images shuffled together; null: all.
    repeat: images of rare classes come several times in an epoch. federated: the classes of an image whose class loss
    counts, for a base or head with `federated: true`.
    """

    dir: Path | None = None
    synthetic: Synthetic | None = None
    train: Split = Split()
    val: Split = Split()
    on_bad_image: Literal["error", "skip"] = "error"
    max_pixels: int = Field(MAX_PIXELS, gt=0)
    masks: bool = False
    augment: Augment | None = Augment()
    resize: Resize = Resize()
    workers: int | None = Field(None, ge=0)
    group_by_shape: bool = True
    pad_multiple: Pixels | None = None
    drop_last: bool = True
    shuffle_shards: int | None = Field(8, ge=1)
    repeat: RepeatFactor | None = None
    federated: FederatedClasses | None = None

    @model_validator(mode="after")
    def _has_a_place(self) -> DataConfig:
        if self.synthetic is not None and self.dir is None:
            raise ValueError("synthetic needs dir, the folder to render the images into")
        return self

    @model_validator(mode="after")
    def _has_masks_to_paste(self) -> DataConfig:
        if self.augment is not None and self.augment.copy_paste is not None and not self.masks:
            raise ValueError(
                "augment.copy_paste cuts objects out along their masks; set masks: true, or, for data that has boxes "
                "alone, leave copy_paste out: jitter works without masks"
            )
        return self
