from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch

from codetr.data.coco import Sample
from codetr.data.collate import collate
from codetr.data.counted_classes import ClassDraw, not_exhaustive_labels
from codetr.data.sampling_config import FederatedClasses
from codetr.structures import ImageInfo

IMAGES = [[0, 0, 1], [0, 2], [0], [0, 1], [], [3]]  # classes 0 to 3 are in 4, 2, 1 and 1 images, class 4 in none


def draw(classes: int, power: float = 1.0, **more: object) -> ClassDraw:
    return ClassDraw.of(IMAGES, FederatedClasses(classes=classes, power=power), num_classes=5, **more)  # type: ignore[arg-type]


def chosen(found: torch.Tensor) -> set[int]:
    return set(found.nonzero()[:, 0].tolist())


def labels(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


def test_weights_are_numbers_of_images_to_a_power() -> None:
    assert draw(3, power=1.0).weights.tolist() == [4.0, 2.0, 1.0, 1.0, 0.0]
    assert draw(3, power=0.5).weights.tolist() == pytest.approx([2.0, 2.0**0.5, 1.0, 1.0, 0.0])
    assert draw(3, power=0.0).weights.tolist() == [1.0] * 5


@pytest.mark.parametrize("seed", range(20))
def test_an_image_has_its_own_classes_and_others_up_to_the_number(seed: int) -> None:
    found = draw(3)(labels(2, 2), seed=seed, image_id=1)
    assert found.shape == (5,) and found.dtype == torch.bool
    assert len(chosen(found)) == 3 and 2 in chosen(found)
    assert 4 not in chosen(found)  # a class without images is never drawn
    assert chosen(draw(1)(labels(), seed=seed, image_id=1)) < {0, 1, 2, 3}
    assert chosen(draw(2)(labels(0, 1, 4), seed=seed, image_id=1)) == {0, 1, 4}  # more of its own than the number
    assert chosen(draw(9)(labels(), seed=seed, image_id=1)) == {0, 1, 2, 3}  # not as many can be drawn


def test_the_same_image_has_the_same_classes_and_another_seed_others() -> None:
    found = [chosen(draw(2)(labels(), seed=seed, image_id=1)) for seed in (7, 7, *range(40))]
    assert found[0] == found[1]
    assert len({frozenset(one) for one in found}) > 3


def test_chances_without_replacement() -> None:
    """Two of four with weights 4, 2, 1, 1, one after the other: the pair {a, b} has w_a / 8 * w_b / (8 - w_a) and the
    same with a and b exchanged. The tolerance is four standard deviations of 4000 draws."""
    weights, number = (4, 2, 1, 1), 4000
    found = Counter(frozenset(chosen(draw(2)(labels(), seed=seed, image_id=1))) for seed in range(number))
    for a, b in itertools.combinations(range(4), 2):
        chance = weights[a] / 8 * weights[b] / (8 - weights[a]) + weights[b] / 8 * weights[a] / (8 - weights[b])
        tolerance = 4 * (chance * (1 - chance) / number) ** 0.5
        assert found[frozenset((a, b))] / number == pytest.approx(chance, abs=tolerance)


@pytest.mark.parametrize("seed", range(10))
def test_a_class_that_is_not_fully_annotated_is_no_negative_of_its_image(seed: int) -> None:
    partly = draw(9, not_exhaustive={1: (0, 3)})
    assert chosen(partly(labels(2), seed=seed, image_id=1)) == {1, 2}
    assert chosen(partly(labels(2, 3), seed=seed, image_id=1)) == {1, 2, 3}  # what is annotated of it is an object
    assert chosen(partly(labels(2), seed=seed, image_id=2)) == {0, 1, 2, 3}


def test_labels_of_lvis_entries() -> None:
    entries = [
        {"id": 5, "not_exhaustive_category_ids": [30, 10]},
        {"id": 6, "not_exhaustive_category_ids": []},
        {"id": 7},
        {"id": 8, "not_exhaustive_category_ids": [99]},  # none of the data set's classes
    ]
    assert not_exhaustive_labels(entries, [10, 20, 30]) == {5: (2, 0)}


def sample(image_id: int, *values: int) -> Sample:
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]]).expand(len(values), 4)
    info = ImageInfo(image_id, "x.jpg", (8, 8))
    return Sample(torch.zeros(3, 8, 8), boxes, labels(*values), torch.zeros(0, 4), None, info)


def test_a_batch_has_what_each_image_has_alone() -> None:
    samples, seeds = [sample(1, 2), sample(2, 0, 1), sample(3)], [11, 12, 13]
    chance = draw(3, not_exhaustive={2: (3,)})
    together = collate(samples, seeds=seeds, class_draw=chance).targets.counted_classes
    assert together is not None
    for row, one, seed in zip(together, samples, seeds, strict=True):
        alone = collate([one], seeds=[seed], class_draw=chance).targets.counted_classes
        assert alone is not None and row.tolist() == alone[0].tolist()
    assert not together[1, 3]
    assert collate(samples, seeds=seeds).targets.counted_classes is None
