from __future__ import annotations

import gc
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codetr.cli.main import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    images = []
    for number in range(1, 6):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 48, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{number}.jpg")
        images.append({"id": number, "file_name": f"{number}.jpg", "width": 48, "height": 40})
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [2, 2, 20, 20], "area": 400} for n in range(1, 6)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
    for split in ("train", "val"):
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def _run(line: str) -> int:
    return main(line.split())


def test_packing_twice(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert _run(f"data pack {folder} -o {out} --shard-size 20.48kB") == 0
    assert capsys.readouterr().out == (
        f"{out}/shards/train: 5 images in 1 shard, 0.0 MB\n"
        f"{out}/shards/val: 5 images in 1 shard, 0.0 MB\n"
        f"use it with data={out}\n"
    )
    assert _run(f"data pack {folder} -o {out} --shard-size 20.48kB --split val --verify") == 0
    assert capsys.readouterr().out == (
        f"{out}/shards/val: 5 images in 1 shard, 1 of them there before, 0.0 MB\n"
        f"{out}/shards/val: every image is as it was packed\n"
        f"use it with data={out}\n"
    )


@pytest.mark.parametrize("size", ["256", "256MiB", "1kB", "-1MB", "MB"])
def test_sizes_that_are_none(folder: Path, tmp_path: Path, size: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(f"data pack {folder} -o {tmp_path}/out --shard-size={size}") == 2
    assert f"{size!r} is no size of a shard. Write a number and kB, MB or GB, such as 256MB." in capsys.readouterr().err


def test_a_missing_image(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "images" / "3.jpg").unlink()
    assert _run(f"data pack {folder} -o {tmp_path}/out") == 2
    error = capsys.readouterr().err
    assert "1 of 5 images are not in" in error and "3.jpg (image id 3)" in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its last file open
def test_readers_are_measured(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All of them, on five images that are resized to 32 pixels."""
    small = "data.augment.scales=[32] data.augment.crop=null data.augment.max_size=48"
    code = _run(f"bench data data={folder} {small} --images 4 --rounds 1 --workers 0 --json {tmp_path}/found.json")
    gc.collect()
    captured = capsys.readouterr()
    assert code == 0, captured.err
    found = json.loads((tmp_path / "found.json").read_text())
    measured = {*found["readers"], *found["absent"]}
    expected = {"codetr, files", "codetr, shards", "codetr, Pillow"}
    expected |= {"torchvision, tensors", "torchvision, PIL", "plain PIL", "webdataset"}
    assert measured == expected
    assert all(entry["images_per_second"] > 0 for entry in found["readers"].values())
    assert found["readers"]["codetr, files"]["of codetr, files"] == 1
    assert set(found["stages_ms"]) == {"files", "shards"}
    assert "images per second, median of 1 round of 4 images or more" in captured.out
    assert _run(f"bench data data={folder} --only codter") == 2
    assert "no reader is called 'codter'" in capsys.readouterr().err
