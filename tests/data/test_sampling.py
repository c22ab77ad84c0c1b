from __future__ import annotations

import math
from collections import Counter

import pytest

from codetr.data.sampling import epoch_order, repeat_factors


def test_factors_of_a_hand_example() -> None:
    """detectron2's repeat_factors_from_category_frequency, written out for ten images.

    Class 0 is in 9 of 10 images, class 1 in 2, class 2 in 1; t = 0.4. f = 0.9, 0.2, 0.1, so the classes have
    max(1, sqrt(0.4 / 0.9)) = 1, sqrt(0.4 / 0.2) = sqrt(2) and sqrt(0.4 / 0.1) = 2.
    """
    classes = [[0, 0, 0]] * 7 + [[0, 1], [1, 0, 2], []]
    assert repeat_factors(classes, threshold=0.4) == pytest.approx([1.0] * 7 + [math.sqrt(2), 2.0, 1.0])


def test_a_class_counts_once_for_an_image() -> None:
    """Class 1 lies five times in one image of two: f = 1/2, not 5/2."""
    assert repeat_factors([[1] * 5, []], threshold=1.0) == pytest.approx([math.sqrt(2), 1.0])


def test_without_images_there_is_nothing() -> None:
    assert repeat_factors([], threshold=0.1) == []
    assert epoch_order([], seed=0, epoch=0) == []


def test_factors_of_one_give_a_permutation_that_changes() -> None:
    orders = [epoch_order([1.0] * 20, seed=3, epoch=epoch) for epoch in range(3)]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert epoch_order([1.0] * 20, seed=3, epoch=1) == orders[1]
    assert epoch_order([1.0] * 20, seed=4, epoch=1) != orders[1]


FACTORS = [1.0, 2.0, 1.25, 3.75, 1.5, 1.0, 7.1, 1.3, 2.6, 1.05]  # 22.55 in all, of it 2.55 in fractions


@pytest.mark.parametrize("epoch", range(5))
def test_each_image_comes_floor_or_ceil_times_and_all_epochs_are_equally_long(epoch: int) -> None:
    order = epoch_order(FACTORS, seed=0, epoch=epoch)
    assert len(order) == 22
    counts = Counter(order)
    assert all(math.floor(factor) <= counts[index] <= math.ceil(factor) for index, factor in enumerate(FACTORS))


def test_expected_number_of_times() -> None:
    """A part p is drawn with the chance p * 2 / 2.55: the tolerance is four standard deviations of 2000 draws."""
    epochs = 2000
    counts = Counter(index for epoch in range(epochs) for index in epoch_order(FACTORS, seed=1, epoch=epoch))
    for index, factor in enumerate(FACTORS):
        chance = (factor % 1) * 2 / 2.55
        tolerance = 4 * math.sqrt(chance * (1 - chance) / epochs) + 1e-6
        assert counts[index] / epochs == pytest.approx(math.floor(factor) + chance, abs=tolerance)


@pytest.mark.parametrize("part", [0.3, 1 - 2**-40, 0.1])
def test_no_rounding_adds_or_loses_an_image(part: float) -> None:
    order = epoch_order([1 + part] * 999, seed=0, epoch=0)
    assert len(order) == 999 + math.floor(999 * part)
    assert max(Counter(order).values()) == 2


def test_the_places_of_the_copies_are_random() -> None:
    """The repeated half of a file is not repeated at the end of the epoch."""
    order = epoch_order([2.0] * 50 + [1.0] * 50, seed=0, epoch=0)
    first = sum(index < 50 for index in order[:75])
    assert 35 <= first <= 65  # expected 50, standard deviation 2.9
