"""A results file read in portions is what it is as a whole, whatever its layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from codetr.errors import UserError
from codetr.evaluation import results_file
from codetr.evaluation.results import Results, read_results

ENTRIES: list[dict[str, Any]] = [
    {"image_id": number, "category_id": 7, "bbox": [number, 2.5, 3, 4], "score": number / 64} for number in range(40)
]
WITH_MASKS = [
    {**entry, "segmentation": {"size": [4, 5], "counts": "0" * (index % 9)}} for index, entry in enumerate(ENTRIES)
]
WITH_MORE = [{**entry, "parts": [{"a": 1}, {"b": "}, {"}], "note": "}, {"} for entry in ENTRIES]
LAYOUTS = {
    "one line": lambda entries: json.dumps(entries),
    "close": lambda entries: json.dumps(entries, separators=(",", ":")),
    "indented": lambda entries: "\n " + json.dumps(entries, indent=4) + "\n\n",
    "far apart": lambda entries: f",{' ' * 100}".join(json.dumps(entry) for entry in entries).join("[]"),
    "object": lambda entries: json.dumps({"annotations": entries}),
}


@pytest.fixture(autouse=True, params=[64, 500, 1 << 20])
def portion(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results_file, "_PORTION", request.param)


def read(folder: Path, text: str, **settings: Any) -> Results:
    (folder / "dt.json").write_text(text)
    return read_results(folder / "dt.json", **settings)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("entries", [ENTRIES, WITH_MASKS, WITH_MORE, ENTRIES[:1]], ids=["plain", "masks", "more", "1"])
def test_every_layout_is_read(tmp_path: Path, layout: str, entries: list[dict[str, Any]]) -> None:
    results = read(tmp_path, LAYOUTS[layout](entries))
    assert results.image_ids.tolist() == list(range(len(entries)))
    assert results.boxes.tolist() == [entry["bbox"] for entry in entries]
    assert results.scores.tolist() == [entry["score"] for entry in entries]
    assert results.segmentations is None


def test_masks_are_read(tmp_path: Path) -> None:
    results = read(tmp_path, json.dumps(WITH_MASKS), iou_type="segm")
    assert results.segmentations == tuple(entry["segmentation"] for entry in WITH_MASKS)
    assert not results.boxes.any()


def test_a_large_file_is_read_in_portions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(results_file, "_PORTION", 500)
    loads = json.loads
    monkeypatch.setattr(json, "loads", lambda text: sizes.append(len(text)) or loads(text))
    assert len(read(tmp_path, json.dumps(ENTRIES))) == len(ENTRIES)
    assert len(sizes) > 4 and max(sizes) < 700  # a portion, and the rest of the one before


def test_nothing_found(tmp_path: Path) -> None:
    assert len(read(tmp_path, "[]")) == 0
    assert read(tmp_path, " [ ] ", iou_type="segm").segmentations == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps([*ENTRIES, {**ENTRIES[0], "score": "high"}]), "entry 40 has score 'high'; it must be a number"),
        (json.dumps([*ENTRIES, 7]), "entry 40 is a number; each detection is an object"),
        (json.dumps(ENTRIES)[:-1], r"dt\.json:1:\d+: .* not valid JSON .* cut off"),
        (json.dumps(ENTRIES)[:-30], r"dt\.json:1:\d+: .* not valid JSON .* cut off"),
        (json.dumps(ENTRIES, indent=1) + "]", r"dt\.json:\d+:2: .* not valid JSON"),
        (json.dumps(ENTRIES[:9]) + ", " + json.dumps(ENTRIES[9:]), r"dt\.json:1:\d+: .* not valid JSON"),
        ("", "not valid JSON"),
        ("7", "this is a number. Write the list alone"),
        ("[[1, 2]]", "entry 0 is a list"),
    ],
)
def test_faults_are_named_wherever_they_are(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, text)
