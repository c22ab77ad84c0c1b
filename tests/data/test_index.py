from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codetr.data.annotations import AnnotationFile, clipped, is_cut, is_empty
from codetr.data.coco import CocoDataset
from codetr.data.index import Table, read_table
from codetr.errors import UserError
from codetr.structures import ImageInfo

INFOS = [ImageInfo(5, "a", (30, 40)), ImageInfo(2, "b", (7, 9)), ImageInfo(3, "c", (10, 10))]
coordinates = st.one_of(st.integers(-12, 50), st.floats(-12, 50, width=32))


def _table(boxes: list[list[float]], images: list[int], **more: Any) -> Table:
    rows = [
        {
            "id": i,
            "image_id": image,
            "category_id": i % 2,
            "bbox": box,
            "iscrowd": int(i % 3 == 0),
            "segmentation": [i],
            **more,
        }
        for i, (box, image) in enumerate(zip(boxes, images, strict=True))
    ]
    return read_table(AnnotationFile(Path("x.json"), [], rows, [], {}), INFOS, [0, 1], masks=True)


@given(st.lists(st.tuples(st.lists(coordinates, min_size=4, max_size=4), st.sampled_from([5, 2, 3])), max_size=4))
def test_all_boxes_together_are_as_one_by_one(drawn: list[tuple[list[float], int]]) -> None:
    """The rules for one box, which the check of a data set goes by, hold for the table."""
    table = _table([box for box, _ in drawn], [image for _, image in drawn])
    rows, starts, dropped, cut = [], [0], 0, 0
    for info in INFOS:
        for i, (box, image) in enumerate(drawn):
            if image == info.image_id:
                empty = is_empty(box, info.size)
                dropped += empty
                cut += is_cut(box, info.size) and not empty
                if not empty:
                    rows.append((clipped(box, info.size), i))
        starts.append(len(rows))
    assert table.boxes.tolist() == np.array([box for box, _ in rows], dtype=np.float32).reshape(-1, 4).tolist()
    assert table.labels.tolist() == [i % 2 for _, i in rows]
    assert table.crowd.tolist() == [i % 3 == 0 for _, i in rows]
    assert table.segments == [[i] for _, i in rows]
    assert table.starts.tolist() == starts
    assert (table.dropped, table.clipped) == (dropped, cut)


class TestForms:
    BOXES = ([1.5, 2, 11, 9], [20, 3, 30, 12], [25, 15, 39, 29], [12, 12, 38, 28], [30, 20, 40, 30])

    def _open(
        self, tmp_path: Path, write_coco: Callable[..., Path], boxes: list[list[float]], **more: Any
    ) -> CocoDataset:
        images = [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}]
        rows = [{"id": i, "image_id": 1, "category_id": 3, "bbox": b, **more} for i, b in enumerate(boxes)]
        root = write_coco(images, rows)
        return CocoDataset(root / "annotations/instances_train.json", root / "images")

    def test_corners_are_not_clipped_in_silence(self, tmp_path: Path, write_coco: Callable[..., Path]) -> None:
        with pytest.raises(UserError) as caught:
            self._open(tmp_path, write_coco, [list(box) for box in self.BOXES])
        message = str(caught.value)
        assert "of 5 boxes 4 leave their images as [x, y, width, height], and all fit as [x1, y1, x2, y2]" in message
        assert "`codetr data check DIR --fix OUT`" in message

    def test_shares_of_the_image(self, tmp_path: Path, write_coco: Callable[..., Path]) -> None:
        with pytest.raises(UserError, match="of 5 boxes all are of 0 to 1, as shares of the image"):
            self._open(tmp_path, write_coco, [[0.5, 0.5, 0.2, 0.1]] * 5)

    def test_a_few_boxes_prove_nothing(self, tmp_path: Path, write_coco: Callable[..., Path]) -> None:
        assert self._open(tmp_path, write_coco, [list(box) for box in self.BOXES[:4]]).clipped == 3

    def test_one_that_is_no_corner_refutes_it(self, tmp_path: Path, write_coco: Callable[..., Path]) -> None:
        boxes = [*map(list, self.BOXES), [20, 20, 5, 5]]
        assert self._open(tmp_path, write_coco, boxes).clipped == 4
