"""Evaluation in the course of training: what is scored, by whose rules, and what is said of it."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import write_data
from rich.console import Console
from torch import nn

from codetr.data.coco import open_split
from codetr.engine.distributed import World
from codetr.engine.inputs import evaluation
from codetr.engine.progress import TrainingProgress
from codetr.errors import UserError
from codetr.spec import Spec, load_spec
from codetr.structures import Detections, ImageBatch

ALONE = World(0, 1, torch.device("cpu"))


class Knowing(nn.Module):
    """Finds the first object of every image of `write_data`, whose images are twice as large for the model."""

    def __init__(self, *, masks: bool) -> None:
        super().__init__()
        head = nn.Identity()
        head.has_masks = masks  # type: ignore[assignment]
        self.heads = nn.ModuleDict({"head": head})
        self.limits: list[int] = []

    def predict(self, images: ImageBatch, *, branch: str, max_detections: int) -> list[Detections]:
        self.limits.append(max_detections)
        box, score, label = torch.tensor([[8.0, 16, 56, 96]]), torch.tensor([0.9]), torch.tensor([0])
        crops = torch.ones(1, 28, 28) if branch == "head" else None
        return [Detections(box, score, label, mask_crops=crops) for _ in images.sizes]


def prepared(folder: Path, *, lvis: bool = False, masks: bool = False) -> tuple[Spec, Path]:
    """A spec, and the validation annotations of its data."""
    data = write_data(folder / "data", (1, 1, 1))
    for split in ("train", "val"):
        file = data / "annotations" / f"instances_{split}.json"
        content: dict[str, Any] = json.loads(file.read_text())
        for entry in content["annotations"] if masks else ():
            x, y, w, h = entry["bbox"]
            entry["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        if lvis:
            for image in content["images"]:
                image |= {"neg_category_ids": [9], "not_exhaustive_category_ids": []}
            for category, frequency in zip(content["categories"], "cr", strict=True):
                category["frequency"] = frequency
        file.write_text(json.dumps(content))
    overrides = ["data.workers=0", "data.resize.size=128", "data.resize.max_size=128", "eval.branch=head"]
    return load_spec("co_deformable_r50", [f"data={data}", *overrides]), file


def evaluated(spec: Spec, model: Knowing) -> tuple[dict[str, float], str]:
    """Figures, and what was printed."""
    printed = StringIO()
    progress = TrainingProgress(Console(file=printed, width=200), epochs=1)
    evaluate = evaluation(spec, model, open_split(spec.data, "train"), ALONE, progress)  # type: ignore[arg-type]
    return dict(evaluate(model)), printed.getvalue()


def test_boxes(tmp_path: Path) -> None:
    figures, printed = evaluated(prepared(tmp_path)[0], model := Knowing(masks=False))
    assert figures["AP"] == pytest.approx(1, abs=1e-12)
    assert len(figures) == 12
    assert (printed, set(model.limits)) == ("", {100})


def test_masks_beside_boxes(tmp_path: Path) -> None:
    figures, _ = evaluated(prepared(tmp_path, masks=True)[0], Knowing(masks=True))
    assert next(iter(figures)) == "AP"
    assert [name for name in figures if name.startswith("segm/")] == [f"segm/{name}" for name in list(figures)[:12]]
    assert figures["segm/AP"] == pytest.approx(1, abs=1e-12)
    assert figures["AP"] == pytest.approx(1, abs=1e-12)


def test_validation_images_without_masks(tmp_path: Path) -> None:
    spec, file = prepared(tmp_path)
    figures, printed = evaluated(spec, Knowing(masks=True))
    assert len(figures) == 12
    assert printed == f"warning: only boxes are evaluated, as some annotations of {file} have no segmentation\n"


def test_the_rules_of_lvis_where_the_annotations_are_federated(tmp_path: Path) -> None:
    spec, _ = prepared(tmp_path, lvis=True)
    figures, _ = evaluated(spec, model := Knowing(masks=False))
    assert figures["APc"] == figures["AP"] == pytest.approx(1, abs=1e-12)
    assert figures["APr"] == figures["APf"] == -1
    assert "AR@300" in figures
    assert set(model.limits) == {300}
    as_coco = spec.model_copy(update={"eval": spec.eval.model_copy(update={"protocol": "coco"})})
    assert "APc" not in evaluated(as_coco, Knowing(masks=False))[0]


def test_lvis_rules_need_an_lvis_file(tmp_path: Path) -> None:
    spec, _ = prepared(tmp_path)
    asked = spec.model_copy(update={"eval": spec.eval.model_copy(update={"protocol": "lvis"})})
    with pytest.raises(UserError, match="Use an LVIS annotation file, or COCO's rules"):
        evaluated(asked, Knowing(masks=False))


def test_classes_in_training_are_the_same_or_an_error(tmp_path: Path) -> None:
    spec, file = prepared(tmp_path)
    content = json.loads(file.read_text())
    content["categories"][1]["name"] = "wolf"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="both files must list the same ids with the same names"):
        evaluated(spec, Knowing(masks=False))
