from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from codetr.errors import UserError
from codetr.evaluation.results import Results, collect, read_results, write_results
from codetr.evaluation.truth import GroundTruth
from codetr.structures import Detections

ENTRY: dict[str, Any] = {"image_id": 2, "category_id": 3, "bbox": [1.5, 2, 10, 5], "score": 0.25}
TRUTH = GroundTruth.parse(
    {"images": [{"id": 2}, {"id": 9}], "categories": [{"id": 3}, {"id": 7}], "annotations": []}, file="gt.json"
)


def save(folder: Path, content: Any) -> Path:
    file = folder / "dt.json"
    file.write_text(json.dumps(content))
    return file


def test_columns(tmp_path: Path) -> None:
    results = read_results(save(tmp_path, [ENTRY, {**ENTRY, "image_id": 9, "category_id": 7}]))
    assert results.image_ids.tolist() == [2, 9]
    assert results.category_ids.tolist() == [3, 7]
    assert results.boxes.tolist() == [[1.5, 2, 10, 5]] * 2
    assert results.scores.tolist() == [0.25, 0.25]
    images, categories = results.positions(TRUTH)
    assert images.tolist() == [0, 1]
    assert categories.tolist() == [0, 1]


def test_no_detections(tmp_path: Path) -> None:
    results = read_results(save(tmp_path, []))
    assert len(results) == 0
    assert results.boxes.shape == (0, 4)
    assert all(len(column) == 0 for column in results.positions(TRUTH))
    assert len(collect([], [3, 7])) == 0


def test_annotations_with_scores_are_results(tmp_path: Path) -> None:
    assert len(read_results(save(tmp_path, {"images": [], "annotations": [ENTRY]}))) == 1


def test_detections_become_results_with_the_files_ids() -> None:
    found = Detections(torch.tensor([[1.0, 2, 11, 7]]), torch.tensor([0.5]), torch.tensor([1]))
    none = Detections(torch.empty(0, 4), torch.empty(0), torch.empty(0, dtype=torch.int64))
    results = collect([(9, found), (2, none)], (3, 7))
    assert results.rows().tolist() == [[9, 1, 2, 10, 5, 0.5, 7]]


def test_written_results_are_standard_and_exact(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).random((5, 7))
    rows[:, 0], rows[:, 6] = 2**52 + 1, 7
    file = tmp_path / "new" / "dt.json"
    write_results(file, Results.of(rows))
    first = json.loads(file.read_text())[0]
    assert first == {"image_id": 2**52 + 1, "category_id": 7, "bbox": rows[0, 1:5].tolist(), "score": rows[0, 5]}
    assert np.array_equal(read_results(file).rows(), rows)
    assert [path.name for path in file.parent.iterdir()] == ["dt.json"]  # nothing left from writing


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = save(tmp_path, [ENTRY])

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(UserError, match=r"dt.json: cannot be written: No space left"):
        write_results(file, Results.of(np.empty((0, 7))))
    assert json.loads(file.read_text()) == [ENTRY]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": [], "annotations": [{"id": 1}], "categories": []}, "this is a data set .* as --annotations"),
        ({"predictions": []}, "a results file is a list .* this is an object"),
        ("text", ".* this is a text"),
        ([ENTRY, 5], "entry 1 is a number"),
        ([ENTRY, {"image_id": 2}], "entry 1 has no `bbox`"),
        ([{**ENTRY, "score": None}], "entry 0 has score None"),
        ([{**ENTRY, "score": float("nan")}], "entry 0 has score nan"),
        ([ENTRY, {**ENTRY, "bbox": [1, 2, -3, 4]}], r"entry 1 has bbox \[1, 2, -3, 4\]; .* not negative"),
        ([{**ENTRY, "bbox": [1, 2, 3]}], "entry 0 has bbox"),
        ([{**ENTRY, "bbox": ["1", 2, 3, 4]}], "entry 0 has bbox"),
        ([{**ENTRY, "image_id": 1.5}], "entry 0 has image_id 1.5; it must be a whole number"),
        ([{**ENTRY, "image_id": "2"}], "entry 0 has image_id '2'"),
    ],
)
def test_faults_are_named(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"dt.json: {message}"):
        read_results(save(tmp_path, content))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (None, "has no `segmentation`"),
        ([[1, 1, 5, 1, 5, 5]], "not a compressed RLE"),
        ({"size": [4, 4], "counts": [3, 2]}, "not a compressed RLE"),
        ({"counts": "0a"}, "not a compressed RLE"),
    ],
)
def test_masks_must_be_compressed(tmp_path: Path, mask: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"entry 0 has .*{message.removeprefix('has ')}.*--iou-type bbox"):
        read_results(save(tmp_path, [{**ENTRY, "segmentation": mask}]), iou_type="segm")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 5}, "1 of 2 detections name image ids that gt.json does not have: 5 .*it has 2, from 2 to 9"),
        ({"image_id": 99}, "image ids .*: 99"),
        ({"category_id": 0}, "category ids .*: 0 .* not contiguous class indices"),
    ],
)
def test_unknown_ids_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    results = read_results(save(tmp_path, [ENTRY, {**ENTRY, **change}]))
    with pytest.raises(UserError, match=f"dt.json: .*{message}"):
        results.positions(TRUTH)
