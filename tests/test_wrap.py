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
from codetr.wrap import load_wrapped, wrap_existing, wrap_report, wrap_spec


def test_the_text_of_a_spec() -> None:
    assert wrap_spec("deformable_detr", ["atss", "faster_rcnn"], schedule="36e") == (
        "# deformable_detr with atss and faster_rcnn (K = 2). Written by `codetr wrap`.\n"
        "extends: [bases/deformable_detr, backbones/resnet50, data/coco, schedules/36e]\n"
        "heads:\n"
        "  atss: {}\n"
        "  faster_rcnn: {}\n"
        "collaborative: {lambda_1: 1.0, lambda_2: 2.0, positive_queries: true}\n"
    )


@pytest.mark.parametrize(
    ("base", "recipe"),
    [
        ("detr", "detr_r50"),
        ("conditional_detr", "conditional_detr_r50"),
        ("dab_detr", "dab_detr_r50"),
        ("dn_detr", "dn_detr_r50"),
        ("anchor_detr", "anchor_detr_r50"),
        ("deformable_detr_pp", "deformable_pp_r50"),
        ("dab_deformable_detr", "dab_deformable_r50"),
        ("dn_deformable_detr", "dn_deformable_r50"),
        ("dino", "dino_r50"),
        ("dino_5scale", "dino_5scale_r50"),
        ("h_deformable_detr", "h_deformable_r50"),
        ("group_detr", "group_conditional_r50"),
    ],
)
def test_the_recipe_is_the_base_s_own(base: str, recipe: str, tmp_path: Path) -> None:
    """Heads apart, it is what the zoo trains the base with alone: rates, schedule, loss weights, detections."""
    wrapped = load_wrapped(wrap_spec(base, ["atss"]), tmp_path).model_dump()
    # The one recipe that departs from its base's authors: the published Co-DETR has no bias in the neck.
    overrides = ["neck.bias=true"] if recipe == "deformable_pp_r50" else []
    alone = load_spec(recipe, overrides).model_dump()
    for part in ("train", "eval", "criterion", "base", "neck", "backbone", "data", "postprocess"):
        assert wrapped[part] == alone[part], part


def test_deformable_detr_is_trained_as_its_authors_did(tmp_path: Path) -> None:
    train = load_wrapped(wrap_spec("deformable_detr", ["atss"]), tmp_path).train
    assert (train.epochs, train.milestones, train.batch_size) == (50, (40,), 32)
    assert load_wrapped(wrap_spec("deformable_detr", ["atss"], schedule="36e"), tmp_path).train.epochs == 36


def written(folder: Path, heads: list[str]) -> Spec:
    file = folder / "wrapped.yaml"
    file.write_text(wrap_spec("deformable_detr_pp", heads))
    return load_spec(file)


@pytest.mark.parametrize(
    ("base", "backbone", "stages", "strides", "neck"),
    [
        ("deformable_detr", "resnet50", (2, 3, 4), (8, 16, 32, 64), "channel_mapper"),
        ("detr", "resnet50", (4,), (32,), "projection"),
        ("conditional_detr", "resnet50", (4,), (32,), "projection"),
        ("conditional_detr", "resnet50_dc5", (4,), (16,), "projection"),
    ],
)
def test_a_base_brings_its_stages_and_its_neck(
    base: str, backbone: str, stages: tuple[int, ...], strides: tuple[int, ...], neck: str, tmp_path: Path
) -> None:
    file = tmp_path / "wrapped.yaml"
    file.write_text(wrap_spec(base, ["atss", "faster_rcnn"], backbone=backbone))
    spec = load_spec(file)
    assert spec.backbone.settings.stages == stages and spec.neck.name == neck
    assert spec.backbone.settings.model == "resnet50.tv_in1k"
    with torch.device("meta"):
        model = build(spec, 80, pretrained=False)
    assert model.base.strides == strides and list(model.heads) == ["atss", "faster_rcnn"]


@pytest.mark.parametrize("base", ["detr", "conditional_detr"])
def test_inference_of_a_single_scale_base_is_unchanged(base: str) -> None:
    settings = {
        "extends": [f"bases/{base}", "backbones/resnet50"],
        "base": {"num_queries": 8, "encoder_layers": 1, "decoder_layers": 1, "num_heads": 2, "ffn_dim": 16},
        "backbone": {"model": "resnet10t", "options": {"channels": [8, 8, 8, 8], "stem_width": 8}},
        "neck": {"dim": 32},
        "heads": {"atss": {}, "faster_rcnn": {"rpn": {"channels": 8}, "roi": {"hidden": 8}}},
    }
    report = wrap_report(load_spec(settings), num_classes=5)
    names = [part.name for part in report.parts]
    assert report.unchanged and names[:4] == ["base", "decoder, for positive queries", "adapter", "head atss"]
    assert [entry.slots for entry in report.positives] == [300, 128]


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


def test_heads_around_a_spec_of_the_zoo(tmp_path: Path) -> None:
    text = wrap_existing("zoo/dino_r50.yaml", ["atss", "faster_rcnn"], folder=tmp_path)
    assert text == (
        "# dino_r50 with atss and faster_rcnn (K = 2). Written by `codetr wrap`.\n"
        "extends: [dino_r50]\n"
        "heads:\n"
        "  atss: {}\n"
        "  faster_rcnn: {}\n"
        "collaborative: {lambda_1: 1.0, lambda_2: 2.0, positive_queries: true}\n"
    )
    spec, recipe = load_wrapped(text, tmp_path), load_spec("dino_r50")
    assert spec.base == recipe.base and spec.train == recipe.train and spec.eval == recipe.eval
    assert wrap_existing("dino_r50", ["atss", "faster_rcnn"], folder=tmp_path) == text


def test_heads_beside_those_of_a_spec(tmp_path: Path) -> None:
    text = wrap_existing("quickstart", ["atss", "faster_rcnn", "atss"], folder=tmp_path)
    assert text == (
        "# quickstart with atss and faster_rcnn and atss beside the 1 it has (K = 4). Written by `codetr wrap`.\n"
        "extends: [quickstart]\n"
        "heads:\n"
        "  atss_2: {name: 'atss'}\n"
        "  faster_rcnn: {}\n"
        "  atss_3: {name: 'atss'}\n"
    )
    spec = load_wrapped(text, tmp_path)
    assert list(spec.heads) == ["atss", "atss_2", "faster_rcnn", "atss_3"]
    assert spec.collaborative.max_positives == 60


def test_heads_around_a_file_in_another_folder(tmp_path: Path) -> None:
    source, folder = tmp_path / "my specs" / "a, b.yaml", tmp_path / "out"
    source.parent.mkdir()
    folder.mkdir()
    source.write_text("extends: [dino_r50]\nbase: {num_queries: 77}\n")
    text = wrap_existing(str(source), ["atss"], folder=folder)
    assert 'extends: ["../my specs/a, b.yaml"]\n' in text
    assert load_wrapped(text, folder).base.settings.num_queries == 77
    (folder / "written.yaml").write_text(text)
    assert load_spec(folder / "written.yaml").base.settings.num_queries == 77


def test_a_spec_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file and no zoo spec is called 'dino_r5'; did you mean 'dino_r50'\?$"):
        wrap_existing("dino_r5", ["atss"], folder=tmp_path)


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
            "no 'resnet50' in the zoo's bases; valid names: ",
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
        "data": {"resize": {"size": 128}},
    }
    return load_spec(settings)


def count(model: torch.nn.Module, *, trained: bool) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trained)


def test_the_counts_are_those_of_the_models(small: Spec) -> None:
    report = wrap_report(small, num_classes=5)
    model = build(small, 5, pretrained=False)
    bare = build(small.model_copy(update={"heads": {}}), 5, pretrained=False)
    assert report.unchanged
    trained = {part.name: part.trained for part in report.parts}
    assert sum(trained.values()) == count(model, trained=True)
    assert sum(part.parameters for part in report.parts) == count(model, trained=False)
    (shipped,) = [part for part in report.parts if part.ships]
    assert shipped.name == "base" and shipped.parameters == count(bare, trained=False)
    assert shipped.parameters > trained["base"] == count(bare, trained=True)
    assert list(trained) == [
        "base",
        "decoder, for positive queries",
        "adapter",
        "head atss",
        "head atss_2",
        "positive queries of atss",
        "positive queries of atss_2",
    ]
    assert trained["head atss"] == count(model.heads["atss"], trained=True)


def test_the_operations_and_the_positives(small: Spec) -> None:
    report = wrap_report(small, num_classes=5)
    flops = {part.name: part.flops for part in report.parts}
    assert report.uncounted == "" and all(flops.values())
    assert flops["head atss"] == flops["head atss_2"]
    # A training step of this base without heads is its inference.
    assert flops["base"] == report.inference_flops
    first, second = report.positives
    assert (first.head, first.slots, second.head, second.slots) == ("atss", 300, "atss_2", 300)
    assert first.found == second.found and first.found.images == 2
    assert report.images == "2 rendered scenes" and report.num_classes == 5


def test_positives_of_a_data_set(small: Spec, tmp_path: Path) -> None:
    data = {"dir": str(tmp_path / "data"), "synthetic": {"train": 1, "val": 3, "size": 64}, "resize": {"size": 128}}
    spec = load_spec({**small.model_dump(mode="json"), "data": data})
    report = wrap_report(spec, has_data=True)
    assert report.num_classes == 10
    assert report.images == f"3 images of {tmp_path / 'data' / 'annotations' / 'instances_val.json'}"
    assert report.positives[0].found.images == 3


def test_a_step_that_reads_numbers_is_not_counted(small: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wrap_test_reading.py").write_text(
        "from codetr.models.heads.atss import ATSS\n\n\n"
        "class Reading(ATSS):\n"
        "    def forward(self, pyramid, targets):\n"
        "        assert targets.valid.sum().item() >= 0\n"
        "        return super().forward(pyramid, targets)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    spec = load_spec({**small.model_dump(mode="json"), "heads": {"reading": {"name": "wrap_test_reading:Reading"}}})
    report = wrap_report(spec, num_classes=5)
    assert "item" in report.uncounted
    assert [part.flops for part in report.parts] == [None] * len(report.parts)
    assert report.unchanged and report.positives[0].slots is None and report.positives[0].found.images == 2


def test_without_heads_all_that_is_trained_is_the_base(small: Spec) -> None:
    report = wrap_report(small.model_copy(update={"heads": {}}), num_classes=5)
    assert [part.name for part in report.parts] == ["base"] and report.unchanged and report.positives == ()
    assert report.parts[0].flops == report.inference_flops


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

    model = build(small, 5, pretrained=False)
    monkeypatch.setattr(Collaborative, "predict", predict)
    assert not wrap._is_inference_unchanged(model, small)
    monkeypatch.setattr(wrap, "_PROBE_SIDE", 128)
    monkeypatch.setattr(Collaborative, "predict", plain)
    assert wrap._is_inference_unchanged(model, small)
