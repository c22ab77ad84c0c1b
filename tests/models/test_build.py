"""From a spec to a detector."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from small import DETR, HEADS, NUM_CLASSES, ONE_STAGE, PLUS_PLUS, batch, small_spec

from codetr.errors import UserError
from codetr.models.build import ModelSpec, build


def spec_of_width(dim: int, base: dict[str, Any], heads: dict[str, Any]) -> ModelSpec:
    """The small spec with another neck."""
    settings = small_spec(base, heads).model_dump()
    return ModelSpec.model_validate({**settings, "neck": {**settings["neck"], "dim": dim}})


@pytest.mark.parametrize("num_classes", [0, -1])
def test_a_detector_without_classes_is_an_error(num_classes: int) -> None:
    with pytest.raises(UserError, match=rf"a detector needs at least one class, got {num_classes}"):
        build(small_spec(ONE_STAGE, {}), num_classes)


def test_a_plain_base_has_nothing_of_the_heads() -> None:
    model = build(small_spec(ONE_STAGE, {}), NUM_CLASSES)
    assert model.num_classes == NUM_CLASSES and model.adapter is None
    assert len(model.heads) == len(model.positive_queries) == 0
    assert all(name.startswith("base.") for name, _ in model.named_parameters())


def test_heads_need_a_width_that_their_norms_divide() -> None:
    with pytest.raises(UserError, match=r"neck\.dim is 48; the group norms of the heads need a multiple of 32"):
        build(spec_of_width(48, ONE_STAGE, HEADS["atss"]), NUM_CLASSES)
    assert build(spec_of_width(48, ONE_STAGE, {}), NUM_CLASSES).base.dim == 48


def test_attention_heads_must_divide_the_width() -> None:
    with pytest.raises(UserError, match=r"neck\.dim is 32; .*base\.num_heads \(5\)"):
        build(small_spec({**ONE_STAGE, "num_heads": 5}, {}), NUM_CLASSES)


def test_sine_embeddings_need_a_multiple_of_four() -> None:
    settings = small_spec({**ONE_STAGE, "num_heads": 2}, {}).model_dump()
    spec = ModelSpec.model_validate({**settings, "neck": {**settings["neck"], "dim": 30, "num_groups": 5}})
    with pytest.raises(UserError, match=r"neck\.dim is 30; .*multiple of 4"):
        build(spec, NUM_CLASSES)


def test_parts_come_from_their_sections() -> None:
    spec = small_spec(PLUS_PLUS, HEADS["both"], max_positives=7, fill="negatives", lambda_1=0.5)
    model = build(spec, NUM_CLASSES)
    assert model.config is spec.collaborative
    assert list(model.heads) == list(model.positive_queries) == ["faster_rcnn", "atss"]
    assert model.base.strides == (8, 16, 32)
    assert model.adapter is not None and model.adapter.strides == (8, 16, 32, 64)
    losses = model(*batch())
    assert {name.split(".")[0] for name in losses} == {"match", "encoder", "pos", "atss", "faster_rcnn"}


def test_two_heads_of_a_kind() -> None:
    model = build(small_spec(PLUS_PLUS, {"atss": {}, "atss_2": {"name": "atss", "topk": 3}}), NUM_CLASSES)
    first, second = model.heads["atss"], model.heads["atss_2"]
    assert type(first) is type(second)
    own = {id(parameter) for parameter in first.parameters()}
    assert own and own.isdisjoint(id(parameter) for parameter in second.parameters())
    losses = model(*batch())
    sum(losses.values()).backward()
    for name in ("atss", "atss_2"):
        assert {f"{name}.cls", f"pos.{name}.0.cls"} <= losses.keys()
        for module in (model.heads[name], model.positive_queries[name]):
            assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_the_caller_may_leave_out_published_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    asked = []
    create_model = timm.create_model

    def spy(name: str, *, pretrained: bool, **options: Any) -> torch.nn.Module:
        asked.append(pretrained)
        return create_model(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", spy)
    settings = small_spec(ONE_STAGE, {}).model_dump()
    spec = ModelSpec.model_validate({**settings, "backbone": {**settings["backbone"], "pretrained": True}})
    build(spec, NUM_CLASSES)
    build(spec, NUM_CLASSES, pretrained=False)
    assert asked == [True, False]


@pytest.mark.parametrize("name", ["detr", "encoder", "match", "keys", "training", "a.b", "two words"])
def test_a_head_cannot_take_a_name_that_means_something_else(name):
    with pytest.raises(ValidationError, match="cannot be the name of a head"):
        small_spec(PLUS_PLUS, {name: {"name": "atss"}})


@pytest.mark.parametrize(
    ("base", "kind", "message"),
    [
        (DETR, "focal", r"base detr classifies by softmax: criterion\.cost\.kind must be softmax, not focal"),
        (ONE_STAGE, "softmax", r"base deformable_detr classifies by sigmoid: .* must be focal, not softmax"),
    ],
)
def test_the_matching_cost_belongs_to_the_classification(base: dict[str, Any], kind: str, message: str) -> None:
    settings = small_spec(base, {}).model_dump()
    spec = ModelSpec.model_validate({**settings, "criterion": {"cost": {"kind": kind}}})
    with pytest.raises(UserError, match=message):
        build(spec, NUM_CLASSES)


def test_heads_of_a_kind_draw_from_streams_of_their_own() -> None:
    heads = {
        "atss": {},
        "atss_2": {"name": "atss"},
        "rcnn": HEADS["faster_rcnn"]["faster_rcnn"] | {"name": "faster_rcnn"},
    }
    model = build(small_spec(ONE_STAGE, heads), NUM_CLASSES)
    rcnn = model.heads["rcnn"]
    streams = [head.sampler.stream for head in model.heads.values()]
    streams += [rcnn.rpn.stream, rcnn.roi.stream, rcnn.roi.truth_stream]
    assert len(set(streams)) == 6
    again = build(small_spec(ONE_STAGE, {"atss_2": {"name": "atss"}}), NUM_CLASSES)
    assert again.heads["atss_2"].sampler.stream == streams[1], "a stream is that of the name, whatever is beside it"


@pytest.mark.parametrize(
    "base", [ONE_STAGE, {"name": "dino", **ONE_STAGE}, {"name": "dn_detr", "deformable": True, **ONE_STAGE}]
)
def test_a_step_follows_from_the_seeds_of_its_images(base: dict[str, Any]) -> None:
    """And not from the global generator, which is left as it was."""
    model = build(small_spec(base, HEADS["both"], max_positives=3), NUM_CLASSES).train()
    images, targets = batch()
    found = []
    for seed, seeds in ((0, [3, 4]), (1, [3, 4]), (0, [5, 4])):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        losses = model(images, replace(targets, seeds=torch.tensor(seeds)))
        assert torch.equal(torch.get_rng_state(), before)
        found.append({name: loss.item() for name, loss in losses.items()})
    assert found[0] == found[1]
    changed = {name.split(".")[0] for name in found[0] if found[0][name] != found[2][name]}
    assert {"pos", "faster_rcnn"} <= changed and ("dn" in changed) == (base is not ONE_STAGE)


def test_a_softmax_base_cannot_leave_classes_out() -> None:
    settings = small_spec(DETR, {}).model_dump()
    settings["criterion"] |= {"federated": True}
    with pytest.raises(UserError, match=r"base detr classifies by softmax.*leave criterion\.federated out"):
        build(ModelSpec.model_validate(settings), NUM_CLASSES)
