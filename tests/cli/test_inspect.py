"""`codetr inspect assign`: from an image and a spec to a table, a picture and a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from codetr.api import train
from codetr.cli.main import main
from codetr.data.synthetic import generate

SMALL = [
    "base.num_queries=12",
    "backbone.options.channels=[8, 16, 16, 16]",
    "data.resize.size=96",
    "heads={atss: {}, faster_rcnn: {rpn: {channels: 16}, roi: {hidden: 16}}}",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("data") / "scenes", train=4, val=2, size=96, objects=(3, 5), crowds=0.0)


def subject(data: Path, split: str = "val") -> tuple[str, str, list[dict[str, object]]]:
    """An image with objects, its annotation file, and its objects."""
    file = data / "annotations" / f"instances_{split}.json"
    content = json.loads(file.read_text())
    for entry in content["images"]:
        own = [found for found in content["annotations"] if found["image_id"] == entry["id"]]
        if own:
            return str(data / "images" / entry["file_name"]), str(file), own
    raise AssertionError("no image has objects")


def test_untrained(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, annotations, objects = subject(data)
    out = [str(tmp_path / "a.png"), str(tmp_path / "a.json")]
    arguments = ["inspect", "assign", image, "--annotations", annotations, "--spec", "quickstart", *SMALL]
    assert main([*arguments, "-o", out[0], "--json", out[1]]) == 0
    shown = capsys.readouterr().out
    assert shown.endswith(f"drawn: {out[0]}\n")
    lines = [line.split() for line in shown.splitlines()]
    assert ["object", "Hungarian", "atss", "faster_rcnn"] in lines
    record = json.loads(Path(out[1]).read_text())
    assert record["model"] == "quickstart, untrained" and len(record["objects"]) == len(objects)
    matched, atss, _ = record["branches"]
    assert matched["counts"] == [1] * len(objects)
    assert sum(atss["counts"]) == len(atss["positives"]) > len(objects)
    with Image.open(out[0]) as picture:
        assert picture.width > 1000
    assert main([*arguments, "--json", str(tmp_path / "b.json")]) == 0
    assert json.loads((tmp_path / "b.json").read_text()) == record


def test_trained(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = tmp_path / "run", str(tmp_path / "a.json")
    settings = [*SMALL, f"data={data}", "data.augment=null", "data.workers=0", "train.batch_size=2"]
    train("quickstart", overrides=settings, out=run, max_steps=1)
    capsys.readouterr()
    image, annotations, _ = subject(data)
    arguments = ["inspect", "assign", image, "--annotations", annotations, "--checkpoint", str(run)]
    assert main([*arguments, "--json", out]) == 0
    record = json.loads(Path(out).read_text())
    assert record["model"] == str(run)
    assert [branch["name"] for branch in record["branches"]] == ["hungarian", "atss", "faster_rcnn"]
    assert main([*arguments, "--spec", "quickstart", *SMALL, "base.num_queries=13"]) == 2
    assert "these weights do not fit the model" in capsys.readouterr().err


def test_mistakes(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, annotations, _ = subject(data)

    def error(*arguments: str) -> str:
        assert main(["inspect", "assign", *arguments]) == 2
        written = capsys.readouterr()
        assert written.out == ""
        return written.err

    assert "--spec SPEC, or --checkpoint RUN" in error(image, "--annotations", annotations)
    assert "there is no such image" in error("none.jpg", "--annotations", annotations, "--spec", "quickstart")
    assert "cannot be read" in error(image, "--annotations", "none.json", "--spec", "quickstart")
    assert "did you mean 'quickstart'" in error(image, "--annotations", annotations, "--spec", "quickstrat")
    content = json.loads(Path(annotations).read_text())
    content["annotations"] = []
    empty = tmp_path / "empty.json"
    empty.write_text(json.dumps(content))
    assert "has no objects" in error(image, "--annotations", str(empty), "--spec", "quickstart")
