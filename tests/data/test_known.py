from __future__ import annotations

import json
from pathlib import Path

import pytest

from codetr.data.config import DataConfig, Split
from codetr.data.known import find
from codetr.data.layout import open_annotations
from codetr.errors import UserError


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("CODETR_DATA", raising=False)


def _write(path: Path, *, lvis: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    own = {"coco_url": "http://localhost/val2017/1.jpg", "neg_category_ids": []} if lvis else {"file_name": "1.jpg"}
    images = [{"id": 1, "width": 2, "height": 2, **own}]
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    return path


FILES = {
    "coco": "annotations/instances_val2017.json",
    "lvis": "annotations/lvis_v1_val.json",
    "objects365": "zhiyuan_objv2_val.json",
}


@pytest.mark.parametrize("name", FILES)
def test_the_order_of_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    own, variable = tmp_path / "own", tmp_path / "all"
    config = DataConfig(dir=own, train=Split(annotations=Path("old.json")), on_bad_image="skip")
    monkeypatch.setenv("CODETR_DATA", str(variable))
    places = [own, variable / name, Path("data") / name, Path("datasets") / name]
    for place in reversed(places):  # each new one comes before all that are there
        path = _write(place / FILES[name])
        found = find(name, config)
        assert found.dir == place
        assert found.val.annotations == path.resolve()
        assert found.train == Split()
        assert found.on_bad_image == "skip"


def test_lvis_in_the_folder_of_coco_is_not_coco(tmp_path: Path) -> None:
    root = Path("data/coco")
    _write(root / FILES["coco"])
    lvis = _write(root / FILES["lvis"], lvis=True)
    train = _write(root / "annotations/lvis_v1_train.json", lvis=True)
    (root / "val2017").mkdir()
    (root / "val2017/1.jpg").touch()
    found = find("lvis", DataConfig())
    assert (found.val.annotations, found.train.annotations) == (lvis.resolve(), train.resolve())
    file, images = open_annotations(found, "val")
    assert (file.dialect, images, file.images[0]["file_name"]) == ("lvis", root, "val2017/1.jpg")
    assert find("coco", DataConfig()).val.annotations == (root / FILES["coco"]).resolve()


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("coco", ["zips/train2017.zip", "annotations_trainval2017.zip", "annotations/instances_val2017.json"]),
        ("lvis", ["LVIS/lvis_v1_train.json.zip", "lvis_v1_val.json.zip", "annotations/lvis_v1_val.json"]),
        ("objects365", ["zhiyuan_objv2_train.tar.gz", "patch50.tar.gz", "annotations/zhiyuan_objv2_val.json"]),
    ],
)
def test_a_missing_one_says_what_to_download_and_where_to_put_it(tmp_path: Path, name: str, files: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        find(name, DataConfig(dir=tmp_path / "own"))
    message = str(caught.value)
    assert message.startswith(f"{name} was not found; looked in {tmp_path / 'own'}/, data/{name}/, ")
    assert f"datasets/{name}/" in message
    assert "CODETR_DATA" in message
    assert all(file in message for file in files)


@pytest.mark.parametrize(
    ("folder", "part"), [("coco", "zips/val2017.zip"), ("LVIS", "lvis_v1_val"), ("objects365", "patch0")]
)
def test_an_incomplete_folder_of_that_name_gets_the_same_help(tmp_path: Path, folder: str, part: str) -> None:
    root = tmp_path / folder
    root.mkdir()
    with pytest.raises(UserError) as caught:
        open_annotations(DataConfig(dir=root), "val")
    assert part in str(caught.value)
    assert f"Unpack them so that there are\n  {root}/\n" in str(caught.value)


def test_an_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--dataset lviss: .* did you mean 'lvis'"):
        find("lviss", DataConfig())


def test_annotations_without_images_get_it_too(tmp_path: Path) -> None:
    _write(tmp_path / "coco" / FILES["coco"])
    with pytest.raises(UserError, match="its images were not found") as caught:
        open_annotations(DataConfig(dir=tmp_path / "coco"), "val")
    assert "zips/val2017.zip" in str(caught.value)
    _write(tmp_path / "other" / FILES["coco"])
    with pytest.raises(UserError, match="its images were not found") as caught:
        open_annotations(DataConfig(dir=tmp_path / "other"), "val")
    assert "zips" not in str(caught.value)


def test_half_of_a_known_set_gets_it_too(tmp_path: Path) -> None:
    _write(tmp_path / "coco" / FILES["coco"])
    with pytest.raises(UserError, match=r"no train annotations in .*, which is in the COCO layout") as caught:
        open_annotations(DataConfig(dir=tmp_path / "coco"), "train")
    assert "annotations_trainval2017.zip" in str(caught.value)
