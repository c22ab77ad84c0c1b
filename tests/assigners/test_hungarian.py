"""Hungarian matching: by hand, against every permutation, and by the transformers library."""

from __future__ import annotations

from itertools import permutations
from typing import Literal

import pytest
import torch
from codetr_kernels import matching_cost
from torch import Tensor
from transformers.loss import loss_deformable_detr

from codetr.assigners.hungarian import MatchingCost, hungarian_match

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
        num_objects=torch.tensor([len(objects)]),
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
        num_objects=torch.tensor([2]),
        cost=MatchingCost(),
    )
    assert found.tolist() == [[[-1, 1, 0]]]


@pytest.mark.parametrize("repeat", [1, 2])
def test_no_permutation_is_cheaper(repeat: int) -> None:
    case = random_case(queries=6)
    counts = (3, 2)
    found = hungarian_match(**case, num_objects=torch.tensor(counts), cost=MatchingCost(), repeat=repeat)
    assert found.shape == (2, 2, 6) and found.dtype == torch.int64
    costs = cost_of(case).double().view(2, 2, 3, 6).transpose(2, 3)
    for layer in range(2):
        for image, count in enumerate(counts):
            matrix = costs[layer, image]
            offered = [*range(count)] * repeat
            cheapest = min(sum(matrix[q, g] for q, g in zip(p, offered, strict=True)) for p in permutations_of(offered))
            index = found[layer, image]
            assert index[index >= 0].sort().values.tolist() == sorted(offered)
            total = sum(matrix[q, g] for q, g in enumerate(index.tolist()) if g >= 0)
            torch.testing.assert_close(total, cheapest, rtol=0, atol=1e-9)  # float64 sums of six numbers, in any order


def cost_of(case: dict[str, Tensor]) -> Tensor:
    """By the defaults of `MatchingCost`, which are Deformable DETR's."""
    return matching_cost(*case.values(), class_weight=2.0, l1_weight=5.0, giou_weight=2.0)


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
    both = hungarian_match(**case, num_objects=torch.tensor([3, 3]), cost=MatchingCost())
    second = hungarian_match(**case, num_objects=torch.tensor([0, 3]), cost=MatchingCost())
    assert (second[:, 0] == -1).all()
    assert torch.equal(second[:, 1], both[:, 1])
    assert (hungarian_match(**case, num_objects=torch.tensor([0, 0]), cost=MatchingCost(), repeat=3) == -1).all()


def test_padding_is_never_an_object() -> None:
    """Padded columns hold the very boxes of the queries, the best match there is."""
    case = random_case()
    case["target_boxes"][:, 1:] = case["boxes"][0, :, :2]
    found = hungarian_match(**case, num_objects=torch.tensor([1, 1]), cost=MatchingCost())
    assert found.max() == 0
    assert ((found == 0).sum(-1) == 1).all()


def test_an_invalid_query_is_not_matched() -> None:
    assert match_along_x([0.5, 0.7, 0.9], [0.5]) == [0, -1, -1]
    assert match_along_x([0.5, 0.7, 0.9], [0.5], valid=[False, True, True]) == [-1, 0, -1]
    # Two valid queries for three objects: both are used, on the two that are nearest.
    assert match_along_x([0.5, 0.7, 0.9], [0.5, 0.88, 0.72], valid=[False, True, True]) == [-1, 2, 1]
    assert match_along_x([0.5, 0.7], [0.5], valid=[False, False]) == [-1, -1]


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # Of numpy, in Triton's interpreter.
@pytest.mark.parametrize("name", ["logits", "boxes"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_do_not_stop_the_matching(name: str, value: float) -> None:
    """They are found by the check of the losses, which can name the term. The other images are matched as before."""
    case = random_case()
    before = hungarian_match(**case, num_objects=torch.tensor([3, 3]), cost=MatchingCost())
    case[name][:, 0] = value
    after = hungarian_match(**case, num_objects=torch.tensor([3, 3]), cost=MatchingCost())
    assert torch.equal(after[:, 1], before[:, 1])
    assert sorted(after[0, 0].tolist()) == [-1, -1, 0, 1, 2]


def test_a_query_that_diverged_is_the_last_choice() -> None:
    case = random_case(layers=1, images=1, queries=4, objects=3)
    case["logits"][0, 0, 2] = float("nan")
    found = hungarian_match(**case, num_objects=torch.tensor([3]), cost=MatchingCost())
    assert found[0, 0, 2] == -1
    assert sorted(found[0, 0].tolist()) == [-1, 0, 1, 2]


def test_by_softmax_the_whole_row_of_classes_counts() -> None:
    """Equal logits of the object's class: by focal a tie, by softmax the first query is the surer one."""
    settings = {
        "logits": torch.tensor([[[[1.0, 3.0], [1.0, 0.0], [1.0, 2.0]]]]),
        "boxes": along_x(0.5, 0.5, 0.5)[None, None],
        "target_labels": torch.tensor([[0]]),
        "target_boxes": along_x(0.5)[None],
        "num_objects": torch.tensor([1]),
    }
    assert hungarian_match(**settings, cost=MatchingCost(kind="softmax")).tolist() == [[[-1, 0, -1]]]
    assert hungarian_match(**settings, cost=MatchingCost(kind="focal")).tolist() == [[[0, -1, -1]]]


@pytest.mark.parametrize("kind", ["focal", "softmax"])
def test_the_pairs_are_those_of_transformers(kind: Literal["focal", "softmax"]) -> None:
    name = {"focal": "DeformableDetrHungarianMatcher", "softmax": "HungarianMatcher"}[kind]
    matcher = getattr(loss_deformable_detr, name)(class_cost=2.0, bbox_cost=5.0, giou_cost=2.0)
    case, counts = random_case(queries=40, objects=9), (9, 4)
    found = hungarian_match(**case, num_objects=torch.tensor(counts), cost=MatchingCost(kind=kind))
    for layer in range(2):
        targets = [
            {"class_labels": labels[:count], "boxes": boxes[:count]}
            for labels, boxes, count in zip(case["target_labels"], case["target_boxes"], counts, strict=True)
        ]
        pairs = matcher({"logits": case["logits"][layer], "pred_boxes": case["boxes"][layer]}, targets)
        for image, (queries, objects) in enumerate(pairs):
            wanted = torch.full((40,), -1).scatter(0, queries, objects)
            assert torch.equal(found[layer, image], wanted)


def test_every_token_of_an_encoder_is_matched_by_one_class() -> None:
    """Two-stage: one layer, many queries, class 0 for any object; the nearest of three takes each."""
    centres = torch.linspace(0, 1, 1001)
    boxes = torch.stack([centres, *torch.full((3, 1001), 0.2)], -1)[None, None].repeat(1, 2, 1, 1)
    found = hungarian_match(
        torch.zeros(1, 2, 1001, 80),
        boxes,
        target_labels=torch.zeros(2, 3, dtype=torch.int64),
        target_boxes=boxes[0, :, [17, 400, 999]],
        num_objects=torch.tensor([3, 1]),
        cost=MatchingCost(),
    )
    assert (found >= 0).nonzero().tolist() == [[0, 0, 17], [0, 0, 400], [0, 0, 999], [0, 1, 17]]
    assert found[found >= 0].tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_the_number_of_objects_is_a_tensor(dtype: torch.dtype) -> None:
    case = random_case()
    found = hungarian_match(**case, num_objects=torch.tensor([2, 0], dtype=dtype), cost=MatchingCost())
    assert [sorted(row.tolist()) for row in found[:, 0]] == [[-1, -1, -1, 0, 1]] * 2
    assert (found[:, 1] == -1).all()


def test_what_padding_holds_does_not_matter() -> None:
    case = random_case()
    counts = torch.tensor([2, 0])
    before = hungarian_match(**case, num_objects=counts, cost=MatchingCost())
    case["target_boxes"][0, 2], case["target_boxes"][1] = float("nan"), float("inf")
    case["target_labels"][0, 2], case["target_labels"][1] = -1, 255
    assert torch.equal(hungarian_match(**case, num_objects=counts, cost=MatchingCost()), before)


def test_settings_without_effect_are_errors() -> None:
    with pytest.raises(ValueError, match=r"alpha and gamma belong to kind: focal"):
        MatchingCost(kind="softmax", alpha=0.5, gamma=1.0)
    with pytest.raises(ValueError, match=r"gamma belongs? to kind: focal"):
        MatchingCost(kind="softmax", gamma=1.0)
    assert MatchingCost.model_validate(MatchingCost(kind="softmax").model_dump()).kind == "softmax"


@pytest.mark.gpu
def test_nothing_waits_for_the_gpu() -> None:
    case = {name: tensor.cuda() for name, tensor in random_case(layers=6, queries=300, objects=40).items()}
    given = {"num_objects": torch.tensor([40, 7], device="cuda"), "valid": torch.ones(2, 300).bool().cuda()}
    wanted = hungarian_match(**case, **given, cost=MatchingCost(), repeat=2)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = hungarian_match(**case, **given, cost=MatchingCost(), repeat=2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(found, wanted)
    on_host = {name: tensor.cpu() for name, tensor in (case | given).items()}
    assert torch.equal(found.cpu(), hungarian_match(**on_host, cost=MatchingCost(), repeat=2))


def test_matching_leaves_no_graph() -> None:
    case = random_case()
    case["boxes"].requires_grad_()
    case["logits"].requires_grad_()
    assert not hungarian_match(**case, num_objects=torch.tensor([3, 3]), cost=MatchingCost()).requires_grad
