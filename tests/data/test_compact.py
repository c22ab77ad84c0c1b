from __future__ import annotations

import pickle

import pytest

from codetr.data.compact import Infos, Rows
from codetr.structures import ImageInfo

VALUES = [[[1.5, 2, 3]], None, {"counts": [3, 1], "size": [2, 2]}, "ü b", []]
INFOS = [ImageInfo(7, "a/ü 1.jpg", (3, 4)), ImageInfo(-2, "b.png", (5, 6)), ImageInfo(2**40, "c", (1, 1))]


def test_rows_are_the_values_they_were_made_of() -> None:
    rows = Rows(VALUES)
    assert len(rows) == 5 and list(rows) == VALUES
    assert rows[1:4] == VALUES[1:4] and rows[-1] == []
    assert list(pickle.loads(pickle.dumps(rows))) == VALUES
    assert list(Rows([])) == []


@pytest.mark.parametrize("index", [5, -6])
def test_rows_end(index: int) -> None:
    with pytest.raises(IndexError, match=f"row {index} of 5"):
        Rows(VALUES)[index]


def test_infos_are_the_images_they_were_made_of() -> None:
    infos = Infos(INFOS)
    assert list(infos) == INFOS and infos[-1] == INFOS[-1] and infos[:2] == INFOS[:2]
    assert infos.sizes.tolist() == [[3, 4], [5, 6], [1, 1]]
    assert isinstance(infos[0].image_id, int) and isinstance(infos[0].size[0], int)


def test_no_object_is_kept_for_an_image() -> None:
    """A process that reads them writes to no memory that it shares."""
    infos = Infos(INFOS)
    assert infos[0] is not infos[0] and infos[0].file is not infos[0].file
