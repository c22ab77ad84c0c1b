from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from torch import nn

from codetr.errors import UserError
from codetr.evaluation.config import EvalConfig
from codetr.evaluation.evaluators import EVALUATORS, open_evaluator
from codetr.evaluation.results import Results
from codetr.evaluation.runner import check_branch, detect, evaluate_model
from codetr.evaluation.truth import GroundTruth
from codetr.structures import Batch, Detections, ImageBatch, ImageInfo, Targets

TRUTH = GroundTruth.parse(
    {
        "images": [{"id": 11}, {"id": 4}, {"id": 5}],
        "categories": [{"id": 30, "name": "cat"}, {"id": 7, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 11, "category_id": 30, "bbox": [20, 40, 60, 80]},
            {"id": 2, "image_id": 4, "category_id": 7, "bbox": [0, 0, 50, 50]},
        ],
    },
    file="gt.json",
)
CATEGORY_IDS = (7, 30)


class Remembering(nn.Module):
    """Answers for each image, by the number in its first pixel, what it was told to; in pixels of the batch."""

    def __init__(self, answers: dict[int, Detections]) -> None:
        super().__init__()
        self.answers = answers
        self.heads = nn.ModuleDict({"atss": nn.Identity()})
        self.calls: list[tuple[str, int, bool, bool]] = []

    def predict(self, images: ImageBatch, *, branch: str, max_detections: int) -> list[Detections]:
        self.calls.append((branch, max_detections, self.training, torch.is_grad_enabled()))
        return [self.answers[int(number)] for number in images.pixels[:, 0, 0, 0]]


def detections(*rows: tuple[float, ...]) -> Detections:
    table = torch.tensor(rows).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].long())


def batch(*images: tuple[int, tuple[int, int], tuple[int, int]]) -> Batch:
    """Images of (id, size in the batch, size of the file)."""
    numbers = torch.tensor([float(image_id) for image_id, _, _ in images])
    sizes = torch.tensor([list(map(float, size)) for _, size, _ in images])
    count = len(images)
    return Batch(
        ImageBatch(numbers.reshape(-1, 1, 1, 1).expand(count, 3, 8, 8), torch.zeros(count, 8, 8).bool(), sizes),
        Targets(torch.zeros(count, 1, 4), torch.zeros(count, 1).long(), torch.zeros(count, 1).bool(), (0,) * count),
        tuple(ImageInfo(image_id, f"{image_id}.jpg", size) for image_id, _, size in images),
    )


# Image 11 is halved in the batch, image 4 has its own size, image 5 is empty.
LOADER = [batch((11, (100, 120), (200, 240)), (4, (50, 60), (50, 60))), batch((5, (10, 10), (20, 20)))]
RIGHT = {
    11: detections((10, 20, 40, 60, 0.9, 1)),
    4: detections((-3, 0, 50, 55, 0.8, 0)),  # reaches out of the image, and is cut to it
    5: detections(),
}


def detected(model: Remembering, loader: list[Batch], ids: Sequence[int | None] = CATEGORY_IDS) -> list[list[float]]:
    """Rows of all detections."""
    found: list[Results] = []
    detect(model, loader, lambda image_id, results: found.append(results), category_ids=ids)
    return Results.joined(found).rows().tolist()


def ignore(image_id: int, results: Results) -> None:
    """What is found is of no interest."""


@pytest.mark.parametrize("name", EVALUATORS)
def test_boxes_are_scored_in_pixels_of_the_files(name: str) -> None:
    figures = evaluate_model(
        Remembering(RIGHT), LOADER, truth=TRUTH, category_ids=CATEGORY_IDS, evaluator=open_evaluator(name)
    )["bbox"]
    assert figures.per_class == pytest.approx({"dog": 1.0, "cat": 1.0}, abs=1e-12)


def test_results_carry_the_ids_of_the_file() -> None:
    rows = detected(Remembering(RIGHT), LOADER)
    assert rows == [[11, 20, 40, 60, 80, pytest.approx(0.9), 30], [4, 0, 0, 50, 50, pytest.approx(0.8), 7]]


def test_boxes_of_a_square_are_scaled_by_its_content() -> None:
    """A file of 50 x 100 pixels is 4 x 8 in a square of 8 x 8: a box of the whole square is the whole picture."""
    squared = batch((4, (8, 8), (50, 100)))
    squared = replace(squared, infos=(replace(squared.infos[0], content=(4, 8)),))
    rows = detected(Remembering({4: detections((2, 1, 4, 3, 0.9, 0), (0, 0, 8, 8, 0.5, 0))}), [squared])
    assert [row[1:5] for row in rows] == [[25, 12.5, 25, 25], [0, 0, 100, 50]]


def test_detections_of_classes_that_the_data_lack_make_room_for_others() -> None:
    many = detections((0, 0, 8, 8, 0.9, 0), (0, 0, 7, 7, 0.8, 1), (0, 0, 6, 6, 0.7, 0), (0, 0, 5, 5, 0.6, 1))
    found: list[Results] = []
    model = Remembering({4: many})
    dropped = detect(
        model,
        [batch((4, (50, 60), (50, 60)))],
        lambda image_id, results: found.append(results),
        category_ids=(None, 30),
        max_detections=2,
    )
    assert model.calls[0][1] == 6  # 1 + 2 classes for 1 that is known, for each that is wanted
    assert found[0].boxes[:, 2].tolist() == [7, 5]
    assert found[0].category_ids.tolist() == [30, 30]
    assert dropped == 1  # the other would not have been among the two best


def test_an_image_that_comes_twice_counts_once() -> None:
    once = evaluate_model(Remembering(RIGHT), LOADER, truth=TRUTH, category_ids=CATEGORY_IDS)
    wrong = {11: detections((0, 0, 5, 5, 0.95, 1), (10, 20, 40, 60, 0.9, 1)), 4: RIGHT[4]}
    model = Remembering(RIGHT)

    def loader() -> Iterator[Batch]:
        yield from LOADER
        model.answers = wrong
        yield LOADER[0]

    assert evaluate_model(model, loader(), truth=TRUTH, category_ids=CATEGORY_IDS) == once
    assert evaluate_model(model, LOADER[:1], truth=TRUTH, category_ids=CATEGORY_IDS) != once


def test_images_that_were_not_loaded_count_as_missed() -> None:
    figures = evaluate_model(Remembering(RIGHT), LOADER[1:], truth=TRUTH, category_ids=CATEGORY_IDS)
    assert figures["bbox"].AP == 0


def test_the_model_is_evaluated_in_evaluation_mode_and_given_back_as_it_came() -> None:
    model = Remembering(RIGHT)
    done: list[int] = []
    detect(model, LOADER, ignore, category_ids=CATEGORY_IDS, branch="atss", max_detections=7, progress=done.append)
    assert model.calls == [("atss", 7, False, False)] * 2
    assert model.training
    assert done == [2, 1]
    model.eval()
    detect(model, LOADER, ignore, category_ids=CATEGORY_IDS)
    assert not model.training


def test_the_mode_comes_back_after_an_error() -> None:
    model = Remembering({})
    with pytest.raises(KeyError):
        detect(model, LOADER, ignore, category_ids=CATEGORY_IDS)
    assert model.training


def test_an_unknown_branch_is_answered_with_those_there_are() -> None:
    model = Remembering(RIGHT)
    check_branch(model, "detr")
    with pytest.raises(UserError, match=r"no branch 'faster_rcnn'\. It has detr, atss\.$"):
        detect(model, LOADER, ignore, category_ids=CATEGORY_IDS, branch="faster_rcnn")
    model.heads = nn.ModuleDict()
    with pytest.raises(UserError, match=r"no branch 'atss'\. It has detr\. .* without its heads"):
        check_branch(model, "atss")


def test_images_of_another_data_set_are_named() -> None:
    model = Remembering({77: RIGHT[4]})
    with pytest.raises(UserError, match=r"image ids that gt\.json does not have: 77"):
        evaluate_model(model, [batch((77, (8, 8), (8, 8)))], truth=TRUTH, category_ids=CATEGORY_IDS)


def test_settings_name_their_limits() -> None:
    assert EvalConfig().model_dump() == {
        "evaluator": "hotcoco",
        "protocol": "auto",
        "max_detections": None,
        "branch": "detr",
        "batch_size": 2,
        "test_time": None,
        "precision": "fp32",
    }
    with pytest.raises(ValueError, match="max_detections"):
        EvalConfig(max_detections=0)
