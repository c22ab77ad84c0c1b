"""Which settings of a training run follow from what a data set consists of. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from codetr.data.config import Resize
from codetr.data.findings import Finding
from codetr.data.sampling_config import RepeatFactor
from codetr.data.statistics import SplitStatistics

NAMED = 5
_FINEST = 8  # px, the stride of the finest level that the variants look at
_MANY = 0.1  # share of boxes or images that is worth a word


def advice(splits: Sequence[SplitStatistics], shared: Sequence[Sequence[Finding]] = ()) -> list[str]:
    """Sentences, each with the setting or the command that it is about. The first split is the one to train on.

    shared: for each split but the first, its images that are or look like images of the first.
    """
    train = splits[0]
    found = [
        *_missing_classes(train, splits[1:]),
        *_leaks(train, splits[1:], shared),
        *_queries(splits),
        *_long_tail(train),
        *_small_boxes(train),
        *_enlarged(train),
    ]
    skipped = sum(split.skipped for split in splits)
    if skipped:
        found.append(f"{skipped} annotations cannot be used and are not counted: codetr data check names them")
    return found


def _missing_classes(train: SplitStatistics, others: Sequence[SplitStatistics]) -> list[str]:
    found = []
    ours = {train.classes[i] for i, (objects, _) in train.per_class().items() if objects}
    for other in others:
        theirs = {other.classes[i] for i, (objects, _) in other.per_class().items() if objects}
        if theirs - ours:
            found.append(f"classes of {other.split} that {train.split} has no object of: {_named(theirs - ours)}")
        if ours - theirs and other.objects:
            text = f"classes without an object in {other.split}, so without a figure there: {_named(ours - theirs)}"
            found.append(text)
    return found


def _leaks(train: SplitStatistics, others: Sequence[SplitStatistics], shared: Sequence[Sequence[Finding]]) -> list[str]:
    found = []
    for other, findings in zip(others, shared, strict=False):
        if len(findings) > _MANY * other.images:
            share = 100 * len(findings) / other.images
            text = f"{share:.0f} % of the images of {other.split} are, or look like, images of {train.split}, so that"
            found.append(f"{text} figures will be higher than on new images: split by scene, video or source instead")
    return found


def _queries(splits: Sequence[SplitStatistics]) -> list[str]:
    """A query finds one object, and as many detections are counted as `eval.max_detections` says."""
    most = max((int(split.counts().max()) for split in splits if split.images), default=0)
    if most <= 100:
        return []
    crowded = sum(int((split.counts() > 100).sum()) for split in splits)
    federated = any(split.frequency for split in splits)
    text = f"{crowded} images have more than 100 objects, the most {most}: base.num_queries must be higher than that"
    return [text if federated else f"{text}, and eval.max_detections too (COCO's figures count 100 detections)"]


def _long_tail(train: SplitStatistics) -> list[str]:
    found = []
    threshold = RepeatFactor().threshold
    limit = threshold * train.images
    rare = [images for _, images in train.per_class().values() if 0 < images < limit]
    if rare:
        text = f"{len(rare)} classes are in fewer than {100 * threshold:g} % of the images of {train.split}"
        found.append(f"{text}: data.repeat={{}} repeats these images (repeat-factor sampling)")
    elif len(train.classes) > 1 and train.objects:
        counts = sorted(objects for objects, _ in train.per_class().values() if objects)
        if counts[-1] > 20 * counts[0]:
            text = f"the most frequent class has {counts[-1] // counts[0]} times the objects of the rarest"
            share = min(images for _, images in train.per_class().values() if images) / train.images
            if share < 0.1:
                found.append(f"{text}: data.repeat.threshold={2 * share:.2g} repeats images of classes rarer than that")
    if train.file.dialect == "lvis":
        text = "not every class is annotated in every image (LVIS): data.federated={} and federated: true of the base"
        found.append(f"{text} and heads count the classes that are known of an image")
    return found


def _small_boxes(train: SplitStatistics) -> list[str]:
    """Boxes below one cell of the finest level once the image is resized."""
    if not train.objects:
        return []
    sides = np.sqrt(train.boxes.prod(axis=1)) * _factors(train)[train.owners]
    share = float((sides < _FINEST).mean())
    if share < _MANY:
        return []
    text = (
        f"{100 * share:.0f} % of the boxes have sides below {_FINEST} px, one cell of the finest level, at the default"
    )
    return [f"{text} sizes: raise data.resize.size and data.augment.scales, or cut the images into tiles"]


def _enlarged(train: SplitStatistics) -> list[str]:
    factors = _factors(train)
    factor = float(np.median(factors)) if factors.size else 1.0
    if factor < 2:
        return []
    side = int(np.median(train.sizes.min(axis=1)))
    text = f"half of the images are enlarged {factor:.1f} times or more by the default sizes"
    return [f"{text}: data.resize.size={side} and smaller data.augment.scales cost less"]


def _factors(split: SplitStatistics) -> np.ndarray:
    """By how much the evaluation resize enlarges each image; 1 where its size is not known."""
    resize = Resize()
    sizes = split.sizes.astype(np.float64)
    known = sizes.min(axis=1, initial=np.inf) > 0
    factors = np.ones(len(sizes))
    short, long = sizes[known].min(axis=1, initial=np.inf), sizes[known].max(axis=1, initial=1)
    factors[known] = np.minimum(resize.size / short, resize.max_size / long)
    return factors


def _named(names: set[str]) -> str:
    shown = ", ".join(repr(name) for name in sorted(names)[:NAMED])
    return shown + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
