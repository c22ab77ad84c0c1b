"""The example of a head from outside: installed as a package, found by its name, trained."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

import codetr
from codetr.registry import components, find
from codetr.spec import load_spec
from codetr.wrap import wrap_spec


@pytest.fixture(scope="module")
def site(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package, installed without a network."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for file in (root / "docs" / "example_head").iterdir():
        if file.is_file():
            (source / file.name).write_bytes(file.read_bytes())  # a build leaves files beside its sources
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "--target", str(folder), str(source)], check=True)
    return folder


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(site)
    yield
    sys.modules.pop("codetr_best_anchor", None)


pytestmark = pytest.mark.usefixtures("installed")


def test_it_is_found_beside_the_built_in_heads() -> None:
    assert find("heads", "best_anchor") is find("heads", "codetr_best_anchor:BestAnchor")
    (entry,) = [entry for entry in components() if entry.name == "best_anchor"]
    assert (entry.kind, entry.origin, entry.place) == (
        "heads",
        "codetr-best-anchor 0.1.0",
        "codetr_best_anchor:BestAnchor",
    )
    assert entry.description == "Best anchors: the few anchors of largest overlap with an object are its positives"


def test_the_two_best_anchors_of_two_objects() -> None:
    from codetr_best_anchor import best_anchors

    from codetr.assigners.contract import Priors
    from codetr.structures import Targets

    anchors = torch.tensor([[0.0, 0, 10, 10], [2, 0, 12, 10], [8, 0, 18, 10], [40, 0, 50, 10], [0, 0, 10, 10]])
    valid = torch.tensor([[True, True, True, True, False]])
    boxes = torch.tensor([[[0.0, 0, 10, 10], [9, 0, 19, 10], [0, 0, 0, 0]]])
    targets = Targets(boxes, torch.zeros(1, 3, dtype=torch.int64), torch.tensor([[True, True, False]]), (2,))
    # The second anchor is among the two best of both objects and overlaps the first more; the last is in the padding.
    assert best_anchors(Priors(anchors, valid, (5,)), targets, count=2).tolist() == [[0, 0, 1, -1, -2]]


def test_it_is_wrapped_around_a_base(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(wrap_spec("deformable_detr", ["best_anchor", "best_anchor"]))
    spec = load_spec(file)
    assert {name: head.name for name, head in spec.heads.items()} == {
        "best_anchor": "best_anchor",
        "best_anchor_2": "best_anchor",
    }


def test_it_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    overrides = [
        "heads={best_anchor: {positives: 3}}",
        "data.dir=data",
        "data.synthetic={train: 8, val: 2, size: 64}",
        "data.augment=null",
        "data.resize.size=64",
        "data.workers=0",
        "train.batch_size=2",
        "base.num_queries=10",
        "backbone.options.channels=[8, 16, 16, 16]",
    ]
    result = codetr.train("quickstart", overrides=overrides, out="run", max_steps=3)
    assert result.outcome.step == 3
    detector = codetr.load("run")
    assert type(detector.model.heads["best_anchor"]).__name__ == "BestAnchor"
    picture = next((tmp_path / "data" / "images").rglob("*.jpg"))
    with Image.open(picture) as image:
        detector.predict(image)
