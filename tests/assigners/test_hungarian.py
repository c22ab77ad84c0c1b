"""Hungarian matching: by hand, against every permutation, and its cost against independent formulas."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

from codetr.assigners.hungarian import MatchingCost, hungarian_match, matching_cost

L1_ONLY = MatchingCost(class_weight=0.0, l1_weight=1.0, giou_weight=0.0)


def random_case(*, layers: int = 2, images: int = 2, queries: int = 5, objects: int = 3) -> dict[str, Tensor]:
    """Logits of four classes, boxes and targets in units of the image."""
    generator = torch.Generator().manual_seed(3)

    def boxes(*shape: int) -> Tensor:
        return 0.1 + 0.5 * torch.rand(*shape, 4, generator=generator)

    return {
        "logits": torch.randn(layers, images, queries, 4, generator=generator),
        "boxes": boxes(layers, images, queries),
        "target_labels": torch.randint(0, 4, (images, objects), generator=generator),
        "target_boxes": boxes(images, objects),
    }


def along_x(*centres: float) -> Tensor:
    """Boxes of one size that differ in the centre's x alone, so that their L1 distance is that of the numbers."""
    return torch.tensor([[x, 0.5, 0.2, 0.2] for x in centres])


def match_along_x(
    queries: list[float], objects: list[float], *, repeat: int = 1, valid: list[bool] | None = None
) -> list[int]:
    found = hungarian_match(
        torch.zeros(1, 1, len(queries), 1),
        along_x(*queries)[None, None],
        target_labels=torch.zeros(1, len(objects), dtype=torch.int64),
        target_boxes=along_x(*objects)[None],
        counts=(len(objects),),
        cost=L1_ONLY,
        repeat=repeat,
        valid=None if valid is None else torch.tensor([valid]),
    )
    return found[0, 0].tolist()


def test_the_cheapest_whole_is_not_the_cheapest_pair() -> None:
    # Distances: [0.1, 0.3], [0.2, 0.6], [1.0, 0.6]. The nearest pair (0, 0) leaves 0.6: 0.7 in all, against 0.3 + 0.2.
    assert match_along_x([0.3, 0.0, 1.2], [0.2, 0.6]) == [1, 0, -1]


def test_the_class_decides_among_equal_boxes() -> None:
    logits = torch.tensor([[[[0.0, -2.0], [2.0, 0.0], [0.0, 2.0]]]])
    found = hungarian_match(
        logits,
        along_x(0.5, 0.5, 0.5)[None, None],
        target_labels=torch.tensor([[1, 0]]),
        target_boxes=along_x(0.5, 0.5)[None],
        counts=(2,),
        cost=MatchingCost(),
    )
    assert found.tolist() == [[[-1, 1, 0]]]


@pytest.mark.parametrize("repeat", [1, 2])
def test_no_permutation_is_cheaper(repeat: int) -> None:
    case = random_case(queries=6)
    counts = (3, 2)
    found = hungarian_match(**case, counts=counts, cost=MatchingCost(), repeat=repeat)
    assert found.shape == (2, 2, 6) and found.dtype == torch.int64
    costs = matching_cost(**case, cost=MatchingCost()).double()
    for layer in range(2):
        for image, count in enumerate(counts):
            matrix = costs[layer, image]
            offered = [*range(count)] * repeat
            cheapest = min(sum(matrix[q, g] for q, g in zip(p, offered, strict=True)) for p in permutations_of(offered))
            index = found[layer, image]
            assert index[index >= 0].sort().values.tolist() == sorted(offered)
            total = sum(matrix[q, g] for q, g in enumerate(index.tolist()) if g >= 0)
            torch.testing.assert_close(total, cheapest, rtol=0, atol=1e-9)  # float64 sums of six numbers, in any order


def permutations_of(offered: list[int]) -> list[tuple[int, ...]]:
    """Every choice of one of six queries for each object."""
    return list(permutations(range(6), len(offered)))


def test_every_object_is_offered_as_often_as_asked() -> None:
    assert match_along_x([0.1, 0.12, 0.5, 0.52, 0.9], [0.1, 0.5], repeat=2) == [0, 0, 1, 1, -1]


def test_more_objects_than_queries() -> None:
    assert match_along_x([0.5, 0.1], [0.9, 0.5, 0.1, 0.7]) == [1, 2]
    assert sorted(match_along_x([0.1, 0.2, 0.8], [0.1, 0.8], repeat=2)) == [0, 0, 1]


def test_an_image_without_objects_matches_nothing() -> None:
    case = random_case()
    both = hungarian_match(**case, counts=(3, 3), cost=MatchingCost())
    second = hungarian_match(**case, counts=(0, 3), cost=MatchingCost())
    assert (second[:, 0] == -1).all()
    assert torch.equal(second[:, 1], both[:, 1])
    assert (hungarian_match(**case, counts=(0, 0), cost=MatchingCost(), repeat=3) == -1).all()


def test_padding_is_never_an_object() -> None:
    """Padded columns hold the very boxes of the queries, the best match there is."""
    case = random_case()
    case["target_boxes"][:, 1:] = case["boxes"][0, :, :2]
    found = hungarian_match(**case, counts=(1, 1), cost=MatchingCost())
    assert found.max() == 0
    assert ((found == 0).sum(-1) == 1).all()


def test_an_invalid_query_is_not_matched() -> None:
    assert match_along_x([0.5, 0.7, 0.9], [0.5]) == [0, -1, -1]
    assert match_along_x([0.5, 0.7, 0.9], [0.5], valid=[False, True, True]) == [-1, 0, -1]
    # Two valid queries for three objects: both are used, on the two that are nearest.
    assert match_along_x([0.5, 0.7, 0.9], [0.5, 0.88, 0.72], valid=[False, True, True]) == [-1, 2, 1]
    assert match_along_x([0.5, 0.7], [0.5], valid=[False, False]) == [-1, -1]


@pytest.mark.parametrize("name", ["logits", "boxes"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_do_not_stop_the_matching(name: str, value: float) -> None:
    """They are found by the check of the losses, which can name the term. The other images are matched as before."""
    case = random_case()
    before = hungarian_match(**case, counts=(3, 3), cost=MatchingCost())
    case[name][:, 0] = value
    after = hungarian_match(**case, counts=(3, 3), cost=MatchingCost())
    assert torch.equal(after[:, 1], before[:, 1])
    assert sorted(after[0, 0].tolist()) == [-1, -1, 0, 1, 2]


def test_a_query_that_diverged_is_the_last_choice() -> None:
    case = random_case(layers=1, images=1, queries=4, objects=3)
    case["logits"][0, 0, 2] = float("nan")
    found = hungarian_match(**case, counts=(3,), cost=MatchingCost())
    assert found[0, 0, 2] == -1
    assert sorted(found[0, 0].tolist()) == [-1, 0, 1, 2]


# Float32 against float64 formulas on terms below 10.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def test_the_class_term_is_the_focal_loss_of_a_yes_less_that_of_a_no() -> None:
    case = random_case()
    cost = MatchingCost(class_weight=3.0, l1_weight=0.0, giou_weight=0.0, alpha=0.3, gamma=1.5)
    ours = matching_cost(**case, cost=cost)
    for image in range(2):
        p = case["logits"].double().sigmoid()[:, image][..., case["target_labels"][image]]
        focal = 0.3 * (1 - p) ** 1.5 * -p.log() - 0.7 * p**1.5 * -(1 - p).log()
        torch.testing.assert_close(ours[:, image].double(), 3.0 * focal, **TOLERANCE)


def test_the_box_terms_are_the_l1_distance_and_the_giou() -> None:
    case = random_case()
    distance = matching_cost(**case, cost=MatchingCost(class_weight=0.0, l1_weight=5.0, giou_weight=0.0))
    overlap = matching_cost(**case, cost=MatchingCost(class_weight=0.0, l1_weight=0.0, giou_weight=2.0))
    for layer in range(2):
        for image in range(2):
            boxes, targets = case["boxes"][layer, image].double(), case["target_boxes"][image].double()
            expected = 5.0 * (boxes[:, None] - targets[None]).abs().sum(-1)
            torch.testing.assert_close(distance[layer, image].double(), expected, **TOLERANCE)
            giou = generalized_box_iou(*(box_convert(b, "cxcywh", "xyxy") for b in (boxes, targets)))
            torch.testing.assert_close(overlap[layer, image].double(), -2.0 * giou, **TOLERANCE)


def test_the_cost_is_the_sum_of_its_terms_in_single_precision() -> None:
    case = random_case()
    none = {"class_weight": 0.0, "l1_weight": 0.0, "giou_weight": 0.0}
    weights = {"class_weight": 2.0, "l1_weight": 5.0, "giou_weight": 2.0}
    terms = [matching_cost(**case, cost=MatchingCost(**none | {name: weight})) for name, weight in weights.items()]
    torch.testing.assert_close(matching_cost(**case, cost=MatchingCost()), sum(terms), **TOLERANCE)
    half = {**case, "logits": case["logits"].bfloat16(), "boxes": case["boxes"].bfloat16()}
    assert matching_cost(**half, cost=MatchingCost()).dtype == torch.float32


def test_matching_leaves_no_graph() -> None:
    case = random_case()
    case["boxes"].requires_grad_()
    case["logits"].requires_grad_()
    assert not hungarian_match(**case, counts=(3, 3), cost=MatchingCost()).requires_grad
