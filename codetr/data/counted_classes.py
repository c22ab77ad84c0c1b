"""Which classes of an image a federated class loss is about: its own and some drawn at random."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from codetr.data.annotations import Entry
from codetr.data.sampling_config import FederatedClasses
from codetr.ops.draws import stream, uniform

_STREAM = stream("federated classes")


@dataclass(frozen=True)
class ClassDraw:
    """Draws the classes of an image that count, from nothing but the image, so that its company does not matter.

    weights: (K,) float64, at least 0; another class comes with a chance in proportion to it, never if it is 0. classes:
    how many count in all, unless the image has more, or not as many can be drawn. not_exhaustive: by image id, labels
    of which not every object is annotated; none is drawn as another class of that image, since its objects would be
    taken for background.

    Source: Zhou et al., arXiv 2103.07461, section 5.4; Detectron2's `get_fed_loss_cls_weights` draws once for all
    images of a process instead.
    """

    weights: Tensor
    classes: int
    not_exhaustive: Mapping[int, Collection[int]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        image_classes: Sequence[Collection[int]],
        config: FederatedClasses,
        *,
        num_classes: int,
        not_exhaustive: Mapping[int, Collection[int]] | None = None,
    ) -> ClassDraw:
        """image_classes: labels that each image of the data set shows (repetitions do not count)."""
        images = Counter(label for shown in image_classes for label in set(shown))
        counts = torch.tensor([images[label] for label in range(num_classes)], dtype=torch.float64)
        return cls(counts**config.power, config.classes, not_exhaustive or {})

    def __call__(self, labels: Tensor, *, seed: int, image_id: int) -> Tensor:
        """(K,) bool. labels: (G,) int64, the objects that the image shows after augmentation. seed: as in `Item`."""
        own = torch.zeros(len(self.weights), dtype=torch.bool)
        own[labels] = True
        weights = self.weights.masked_fill(own, 0.0)
        weights[list(self.not_exhaustive.get(image_id, ()))] = 0.0
        number = min(max(0, self.classes - int(own.sum())), int((weights > 0).sum()))
        # A race of exponential waiting times: the first so many are a draw without replacement (Efraimidis, Spirakis).
        chance = uniform(torch.tensor([seed]), own[None], _STREAM)[0].double()
        first = (-torch.log1p(-chance) / weights).nan_to_num(nan=torch.inf).topk(number, largest=False).indices
        return own.index_fill(0, first, True)


def not_exhaustive_labels(images: Sequence[Entry], category_ids: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """By image id, the labels of its `not_exhaustive_category_ids` (LVIS); images without any are left out."""
    labels = {identity: label for label, identity in enumerate(category_ids)}
    found: dict[int, tuple[int, ...]] = {}
    for entry in images:
        listed = entry.get("not_exhaustive_category_ids") or ()
        own = tuple(labels[identity] for identity in listed if identity in labels)
        if own:
            found[entry["id"]] = own
    return found
