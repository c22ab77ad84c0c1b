"""Weights of one model as the start of another: rows by class name, and what fits of the rest."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from codetr.data.coco_classes import COCO_CLASSES
from codetr.engine.checkpoint import MODEL, Meta, save_checkpoint
from codetr.errors import UserError
from codetr.models.build import ModelSpec, build
from codetr.models.collaborative import Collaborative
from codetr.models.heads.contract import Head
from codetr.models.parts.dense_head import DenseHead
from codetr.registry import names
from codetr.structures import ImageBatch
from codetr.weights.initialise import InitReport, brings_backbone, initialise, match_classes

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
from _small_bases import Size, small_heads, small_spec

TINY = Size(dim=32, queries=9, encoder_layers=1, decoder_layers=2, channels=(8, 8, 8, 8), norm="batch")
THEIRS, OURS = ("cat", "dog", "traffic_light", "bird"), ("Traffic Light", "newt", "cat")
HERE, THERE = [0, 2], [2, 0]
"""Indices of the two classes that both have."""


def spec_of(base: str, *heads: str, **changes: Any) -> ModelSpec:
    """changes: of the base's settings."""
    settings = small_spec(base, heads=False, size=TINY).model_dump()
    settings["base"] |= changes
    return ModelSpec.model_validate({**settings, "heads": small_heads(heads, size=TINY)})


def model_of(spec: ModelSpec, num_classes: int, *, seed: int) -> Collaborative:
    """Every number its own, so that none is right by chance."""
    torch.manual_seed(seed)
    model = build(spec, num_classes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def written(path: Path, model: Collaborative, spec: ModelSpec, classes: Sequence[str]) -> Path:
    meta = Meta(tuple(classes), tuple(range(len(classes))), spec.model_dump(mode="json"))
    save_checkpoint(path, model.state_dict(), meta)
    return path


def started(
    tmp_path: Path, theirs: ModelSpec, ours: ModelSpec | None = None, *, classes: Sequence[str] = OURS
) -> tuple[Collaborative, Collaborative, dict[str, Tensor], InitReport]:
    """Their model, ours, what ours was before, and the report."""
    source, own = model_of(theirs, len(THEIRS), seed=1), model_of(ours or theirs, len(classes), seed=2)
    before = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    report = initialise(own, ours or theirs, classes, written(tmp_path / "theirs", source, theirs, THEIRS))
    return source, own, before, report


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (["b", "a"], ["a", "b"], {0: 1, 1: 0}),
        (["Traffic Light"], ["car", "traffic_light"], {0: 1}),
        (["hair-drier "], ["hair  drier"], {0: 0}),
        (["Cat", "cat"], ["cat"], {1: 0}),
        (["cat"], ["Cat", "cat"], {0: 1}),
        (["CAT"], ["Cat", "cat"], {}),
        (["Cat", "CAT"], ["cat"], {}),
        (["cat", "cat"], ["cat"], {}),
        (["cat"], ["cat", "cat"], {}),
        (["cat"], ["dog"], {}),
    ],
)
def test_classes_are_matched_by_name(ours: list[str], theirs: list[str], expected: dict[int, int]) -> None:
    assert match_classes(ours, theirs) == expected


def test_three_classes_of_which_coco_has_two(tmp_path: Path) -> None:
    """DINO with denoising: the class layers, their proposals' and the labels of noisy objects."""
    spec = spec_of("dino")
    source, own = model_of(spec, 80, seed=1), model_of(spec, 3, seed=2)
    before = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    path = written(tmp_path / "coco", source, spec, COCO_CLASSES)
    report = initialise(own, spec, ("newt", "traffic_light", "zebra"), path)
    light, zebra = COCO_CLASSES.index("traffic light"), COCO_CLASSES.index("zebra")
    theirs, ours = source.state_dict(), own.state_dict()
    for name in ("base.heads.classes.0.weight", "base.proposals.heads.classes.0.bias", "base.label_embed.weight"):
        assert torch.equal(ours[name][[1, 2]], theirs[name][[light, zebra]])
        assert torch.equal(ours[name][0], before[name][0])
    assert torch.equal(own.base.label_embed.weight[3], source.base.label_embed.weight[80])
    assert report.matched == {"traffic_light": "traffic light", "zebra": "zebra"}
    assert report.new == ("newt",)
    assert len(report.partly) == 5
    assert (report.fresh, report.unused) == ({}, ())
    assert set(report.copied) | set(report.partly) == set(ours)
    assert all(torch.equal(ours[name], theirs[name]) for name in report.copied)


@pytest.mark.parametrize("name", names("heads"))
def test_a_head_says_of_a_known_class_what_it_said_before(name: str, tmp_path: Path) -> None:
    """As the head itself reads its layers, whatever their layout."""
    source, own, _, report = started(tmp_path, spec_of("deformable_detr", name))
    theirs, ours = _answers(source.heads[name]), _answers(own.heads[name])
    assert theirs.keys() == ours.keys()
    for answer in theirs:
        torch.testing.assert_close(ours[answer][..., HERE], theirs[answer][..., THERE], rtol=0, atol=1e-5)
        assert (ours[answer][..., 1] - theirs[answer][..., 1]).abs().max() > 1e-3
    if "deltas" in ours:
        torch.testing.assert_close(ours["logits"][..., -1], theirs["logits"][..., -1], rtol=0, atol=1e-5)  # background
    assert report.fresh == {}
    assert any(part.startswith(f"heads.{name}.") for part in report.partly)


@torch.no_grad()
def _answers(head: nn.Module) -> dict[str, Tensor]:
    """What a head computes of one input, the classes last."""
    generator = torch.Generator().manual_seed(3)
    if isinstance(head, DenseHead):
        maps = tuple(torch.randn(1, 32, 4, 4, generator=generator) for _ in range(4))
        return {"logits": head._predictions(maps).logits}
    assert isinstance(head, Head)
    roi: Any = head.roi
    logits, deltas = roi(torch.randn(1, 5, 32, 7, 7, generator=generator))
    answers = {"logits": logits, "deltas": deltas.transpose(2, 3)}
    if "mask" in dict(head.named_children()):
        mask: Any = head.mask
        features = torch.randn(1, 5, 32, 14, 14, generator=generator)
        each = [mask(features, torch.full((1, 5), label)) for label in range(roi.num_classes)]
        answers["masks"] = torch.stack(each, dim=-1)
    return answers


@pytest.mark.parametrize("base", ["detr", "dn_detr", "deformable_detr_pp", "h_deformable_detr", "dino"])
def test_a_base_says_of_a_known_class_what_it_said_before(base: str, tmp_path: Path) -> None:
    source, own, _, report = started(tmp_path, spec_of(base))
    hidden = torch.randn(1, 6, 32)
    for theirs, ours in zip(_class_heads(source), _class_heads(own), strict=True):
        before, after = theirs(hidden, 0)[0], ours(hidden, 0)[0]
        if source.base.any_object_first and theirs is _class_heads(source)[-1]:
            # Any object; of the class whose row it is there, the row here starts afresh.
            torch.testing.assert_close(after[..., 0], before[..., 0], rtol=0, atol=1e-5)
            assert (after[..., 2] - before[..., 0]).abs().max() > 1e-3
            continue
        torch.testing.assert_close(after[..., HERE], before[..., THERE], rtol=0, atol=1e-5)
        assert (after[..., 1] - before[..., 1]).abs().max() > 1e-3
        if base == "detr":
            torch.testing.assert_close(after[..., -1], before[..., -1], rtol=0, atol=1e-5)
    assert report.fresh == {}


def _class_heads(model: Collaborative) -> list[Any]:
    """Of the decoder and, last, of two-stage proposals."""
    base: Any = getattr(model.base, "inner", model.base)
    proposals = getattr(base, "proposals", None)
    return [base.heads] if proposals is None else [base.heads, proposals.heads]


@pytest.mark.parametrize("base", ["dino", "deformable_detr_pp", "detr"])
def test_the_same_classes_in_another_order_are_found_under_the_same_names(base: str, tmp_path: Path) -> None:
    order = (2, 0, 3, 1)
    spec, classes = spec_of(base, "atss"), tuple(THEIRS[index] for index in order)
    source, own, _, report = started(tmp_path, spec, classes=classes)
    assert report.new == ()
    generator = torch.Generator().manual_seed(4)
    images = ImageBatch(
        torch.randn(1, 3, 256, 256, generator=generator),
        torch.zeros(1, 256, 256, dtype=torch.bool),
        torch.tensor([[256.0, 256]]),
    )
    for branch in ("detr", "atss"):
        with torch.no_grad():
            (theirs,), (ours,) = (model.predict(images, branch=branch, max_detections=5) for model in (source, own))
        torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.boxes, theirs.boxes, rtol=1e-4, atol=1e-3)
        assert [classes[label] for label in ours.labels] == [THEIRS[label] for label in theirs.labels]


def test_what_one_of_the_models_lacks_is_listed(tmp_path: Path) -> None:
    theirs = spec_of("dino", "atss")
    ours = spec_of("dino", "fcos", num_queries=7, decoder_layers=3, denoising=None)
    source, own, before, report = started(tmp_path, theirs, ours)
    assert report.fresh["base.query_embed.weight"] == "shape (7, 32), in the checkpoint (9, 32)"
    assert report.fresh["heads.fcos.cls.weight"] == "not in the checkpoint"
    assert report.fresh["base.decoder.layers.2.ffn.linear1.weight"] == "not in the checkpoint"
    assert "base.decoder.layers.1.ffn.linear1.weight" in report.copied
    assert {"heads.atss.cls.weight", "base.label_embed.weight"} <= set(report.unused)
    assert {*report.copied, *report.partly, *report.fresh} == set(own.state_dict())
    assert all(torch.equal(own.state_dict()[name], before[name]) for name in report.fresh)
    line = report.line()
    assert line.startswith(f"{tmp_path / 'theirs'}: 2 of 3 classes by name (new: newt); tensors: ")
    assert line.endswith(f"{len(report.fresh)} fresh, {len(report.unused)} unused")
    listing = report.listing().splitlines()
    assert "  Traffic Light (there traffic_light)" in listing
    assert "  heads.fcos.cls.weight: not in the checkpoint" in listing
    assert sum(part.startswith("  ") for part in listing) == 3 + len({*own.state_dict(), *source.state_dict()})


def test_without_a_known_class_the_rest_is_copied(tmp_path: Path) -> None:
    _, own, before, report = started(tmp_path, spec_of("conditional_detr"), classes=("newt", "eft"))
    assert set(report.fresh) == {"base.heads.classes.0.weight", "base.heads.classes.0.bias"}
    assert set(report.fresh.values()) == {"none of its classes is in the checkpoint"}
    assert report.new == ("newt", "eft")
    assert torch.equal(own.base.heads.classes[0].weight, before["base.heads.classes.0.weight"])


def test_what_a_checkpoint_holds_beyond_its_classes_is_not_mistaken_for_them(tmp_path: Path) -> None:
    """Its description has fewer classes than its tensors have rows."""
    spec = spec_of("conditional_detr")
    path = written(tmp_path / "theirs", model_of(spec, 4, seed=1), spec, THEIRS[:3])
    report = initialise(model_of(spec, 2, seed=2), spec, ("cat", "dog"), path)
    assert report.fresh["base.heads.classes.0.bias"] == "shape (2,), in the checkpoint (4,)"


def test_a_source_is_a_run_or_a_file_too(tmp_path: Path) -> None:
    spec = spec_of("conditional_detr")
    source, own = model_of(spec, 1, seed=1), model_of(spec, 1, seed=2)
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "spec.yaml").write_text("")
    best = written(run / "checkpoints" / "best", source, spec, ("cat",))
    for path in (run, best / MODEL):
        report = initialise(own, spec, ("cat",), path)
        assert set(report.copied) == set(own.state_dict())
        assert report.line().endswith(f"1 of 1 classes by name; tensors: {len(report.copied)} copied")
    assert report.source == best / MODEL


def test_nothing_that_fits_is_an_error(tmp_path: Path) -> None:
    theirs = small_spec("dino", heads=False, size=Size(**{**vars(TINY), "dim": 64, "channels": (16, 16, 16, 16)}))
    with pytest.raises(UserError, match=r"nothing of .*theirs fits the model: its base is dino on resnet.*conditional"):
        started(tmp_path, theirs, spec_of("conditional_detr"))


def test_another_kind_of_file_is_to_be_converted(tmp_path: Path) -> None:
    spec = spec_of("conditional_detr")
    (tmp_path / "published.pth").write_bytes(b"")
    with pytest.raises(UserError, match=r"Convert it first: codetr convert .*published\.pth published\.safetensors"):
        initialise(model_of(spec, 1, seed=1), spec, ("cat",), tmp_path / "published.pth")
    with pytest.raises(UserError, match="there is no such run or checkpoint"):
        initialise(model_of(spec, 1, seed=1), spec, ("cat",), tmp_path / "nowhere")


def test_a_checkpoint_with_the_same_backbone_spares_the_published_one(tmp_path: Path) -> None:
    spec = spec_of("conditional_detr")
    path = written(tmp_path / "theirs", model_of(spec, 1, seed=1), spec, ("cat",))
    assert brings_backbone(path, spec_of("conditional_detr", "atss"))
    assert not brings_backbone(path, spec_of("dino"))  # of other stages
