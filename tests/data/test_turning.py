from __future__ import annotations

import numpy as np
import pytest
from hotcoco import mask as run_length
from PIL import Image, ImageOps

from codetr.data.segments import segment_flaw
from codetr.data.turning import turned_back


def shown(stored: np.ndarray, orientation: int) -> np.ndarray:
    """What Pillow makes of stored pixels that have an orientation."""
    image = Image.fromarray(stored)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.info["exif"] = exif.tobytes()
    return np.asarray(ImageOps.exif_transpose(image))


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_polygons_and_run_lengths_go_where_the_pixels_are(orientation: int) -> None:
    stored = np.zeros((30, 40), dtype=np.uint8)
    stored[4:9, 10:22] = 1
    upright = shown(stored, orientation)
    assert upright.shape == (40, 30)
    rows, columns = np.nonzero(upright)
    x, y = int(columns.min()), int(rows.min())
    width, height = int(columns.max()) + 1 - x, int(rows.max()) + 1 - y
    code = run_length.encode(np.asfortranarray(upright))
    lengths = {
        "size": [40, 30],
        "counts": code["counts"].decode() if isinstance(code["counts"], bytes) else code["counts"],
    }
    entry = {"id": 1, "bbox": [x, y, width, height], "segmentation": lengths}
    back = turned_back(entry, orientation, (30, 40))
    assert back["bbox"] == [10, 4, 12, 5]
    assert segment_flaw(back["segmentation"], (30, 40)) is None
    assert np.array_equal(run_length.decode(run_length.frPyObjects(back["segmentation"], 30, 40)), stored)
    polygon = [x, y, x + width, y, x + width, y + height, x, y + height]
    corners = turned_back({**entry, "segmentation": [polygon]}, orientation, (30, 40))["segmentation"][0]
    assert {(corners[i], corners[i + 1]) for i in range(0, 8, 2)} == {(10, 4), (22, 4), (22, 9), (10, 9)}
    assert "segmentation" not in turned_back({"id": 1, "bbox": [x, y, width, height]}, orientation, (30, 40))
    assert entry["bbox"] == [x, y, width, height]
