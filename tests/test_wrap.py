"""Heads around a base: the text of the spec, the counts, and the proof that inference is unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from codetr import wrap
from codetr.errors import UserError
from codetr.models.build import build
from codetr.models.collaborative import Collaborative
from codetr.models.heads.atss import ATSS
from codetr.models.heads.faster_rcnn import FasterRCNN
from codetr.registry import find
from codetr.spec import Spec, load_spec
from codetr.structures import Detections, ImageBatch
from codetr.wrap import wrap_report, wrap_spec


def test_the_text_of_a_spec() -> None:
    assert wrap_spec("deformable_detr", ["atss", "faster_rcnn"], schedule="36e") == (
        "# deformable_detr with atss and faster_rcnn (K = 2). Written by `codetr wrap`.\n"
        "extends: [bases/deformable_detr, backbones/resnet50, data/coco, schedules/36e]\n"
        "heads:\n"
        "  atss: {}\n"
        "  faster_rcnn: {}\n"
        "collaborative: {lambda_1: 1.0, lambda_2: 2.0, positive_queries: true}\n"
    )


def written(folder: Path, heads: list[str]) -> Spec:
    file = folder / "wrapped.yaml"
    file.write_text(wrap_spec("deformable_detr_pp", heads))
    return load_spec(file)


def test_two_of_a_kind(tmp_path: Path) -> None:
    assert "\n  atss: {}\n  atss_2: {name: 'atss'}\n  faster_rcnn: {}\n  atss_3: {name: 'atss'}\n" in wrap_spec(
        "deformable_detr", ["atss", "atss", "faster_rcnn", "atss"]
    )
    spec = written(tmp_path, ["atss", "faster_rcnn", "atss"])
    kinds = {name: find("heads", head.name) for name, head in spec.heads.items()}
    assert kinds == {"atss": ATSS, "faster_rcnn": FasterRCNN, "atss_2": ATSS}


def test_a_written_spec_is_the_base_of_the_zoo_with_heads(tmp_path: Path) -> None:
    spec, recipe = written(tmp_path, ["atss"]), load_spec("deformable_pp_r50")
    assert spec.base == recipe.base and spec.backbone == recipe.backbone and spec.train == recipe.train
    assert (spec.collaborative.lambda_1, spec.collaborative.lambda_2) == (1.0, 2.0)


def test_a_head_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wrap_test_heads.py").write_text(
        "from codetr.models.heads.atss import ATSS\n\n\nclass MyHead(ATSS):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    spec = written(tmp_path, ["wrap_test_heads:MyHead", "wrap_test_heads:MyHead"])
    assert {name: head.name for name, head in spec.heads.items()} == {
        "myhead": "wrap_test_heads:MyHead",
        "myhead_2": "wrap_test_heads:MyHead",
    }


@pytest.mark.parametrize(
    ("base", "heads", "options", "message"),
    [
        ("deformable_dert", ["atss"], {}, "no 'deformable_dert' in the zoo's bases; did you mean 'deformable_detr'?"),
        (
            "resnet50",
            ["atss"],
            {},
            "no 'resnet50' in the zoo's bases; valid names: deformable_detr, deformable_detr_pp",
        ),
        ("deformable_detr", ["ats"], {}, "no head is called 'ats'; did you mean 'atss'?"),
        ("deformable_detr", ["atss"], {"backbone": "resnet5"}, "the zoo's backbones; did you mean 'resnet50'?"),
        ("deformable_detr", ["atss"], {"schedule": "12ep"}, "no '12ep' in the zoo's schedules; did you mean '12e'?"),
    ],
)
def test_a_wrong_name_meets_the_nearest(base: str, heads: list[str], options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        wrap_spec(base, heads, **options)
    assert message in str(caught.value)


@pytest.fixture
def small() -> Spec:
    settings = {
        "extends": ["bases/deformable_detr_pp", "backbones/resnet50"],
        "base": {
            "num_queries": 8,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "num_heads": 2,
            "num_points": 2,
            "ffn_dim": 16,
        },
        "backbone": {
            "model": "resnet10t",
            "pretrained": False,
            "frozen_stages": 1,
            "options": {"channels": [8, 8, 8, 8], "stem_width": 8},
        },
        "neck": {"dim": 32, "num_groups": 4, "num_levels": 3},
        "heads": {"atss": {}, "atss_2": {"name": "atss"}},
    }
    return load_spec(settings)


def count(model: torch.nn.Module, *, trained: bool) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trained)


def test_the_counts_are_those_of_the_models(small: Spec) -> None:
    report = wrap_report(small, num_classes=5)
    model = build(small, 5, pretrained=False)
    bare = build(small.model_copy(update={"heads": {}}), 5, pretrained=False)
    assert report.unchanged
    assert sum(report.trained.values()) == count(model, trained=True)
    assert report.shipped == count(bare, trained=False) > report.trained["base"] == count(bare, trained=True)
    assert list(report.trained) == [
        "base",
        "adapter",
        "head atss",
        "head atss_2",
        "positive queries of atss",
        "positive queries of atss_2",
    ]
    assert report.trained["head atss"] == count(model.heads["atss"], trained=True)


def test_without_heads_all_that_is_trained_is_the_base(small: Spec) -> None:
    report = wrap_report(small.model_copy(update={"heads": {}}), num_classes=5)
    assert list(report.trained) == ["base"] and report.unchanged


@pytest.mark.parametrize("field", ["boxes", "scores"])
def test_the_proof_sees_a_difference_of_one_bit(small: Spec, monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    plain = Collaborative.predict

    def predict(self: Collaborative, images: ImageBatch) -> list[Detections]:
        (found,) = plain(self, images)
        assert len(found.scores) > 0
        if len(self.heads):
            values = getattr(found, field)
            values.view(-1)[-1] = torch.nextafter(values.view(-1)[-1], values.new_tensor(torch.inf))
        return [found]

    monkeypatch.setattr(Collaborative, "predict", predict)
    assert not wrap_report(small, num_classes=5).unchanged
    monkeypatch.setattr(wrap, "_PROBE_SIDE", 128)
    monkeypatch.setattr(Collaborative, "predict", plain)
    assert wrap_report(small, num_classes=5).unchanged
