"""Group DETR: its published size, the isolation of its groups, and that all but one are of training alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from every_base import BASES, tiny_model, tiny_spec
from pydantic import ValidationError
from small import NUM_CLASSES, PLUS_PLUS, TWO_STAGE, batch
from torch import Tensor, nn

from codetr.errors import ConfigError, UserError
from codetr.models.bases.group_detr import GroupDETR
from codetr.models.build import ModelSpec, build
from codetr.models.collaborative import Collaborative
from codetr.registry import find
from codetr.spec import load_spec
from codetr.structures import Match

# One group's logits against the same group decoded in other company: float32 sums in another order, on values near 1.
SAME = 1e-5
INNER = [name for name in BASES if find("bases", name).query_source]
WRAPPERS = ["group_detr", "h_deformable_detr"]


def grouped_spec(inner: str, *, heads: bool, groups: int) -> ModelSpec:
    """Group DETR on a base with that base's neck and criterion."""
    spec = tiny_spec(inner, heads=heads).model_dump()
    return ModelSpec.model_validate({**spec, "base": {"name": "group_detr", "inner": spec["base"], "groups": groups}})


def grouped(inner: str, *, heads: bool = False, groups: int = 3) -> Collaborative:
    """Predictions start away from their regular initial values, so that order and gradients show."""
    torch.manual_seed(0)
    model = build(grouped_spec(inner, heads=heads, groups=groups), NUM_CLASSES)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def two_stage(groups: int = 3) -> Collaborative:
    """On Deformable-DETR++, whose encoder predicts."""
    spec = grouped_spec("deformable_detr", heads=False, groups=groups).model_dump()
    spec["base"]["inner"] |= PLUS_PLUS
    torch.manual_seed(0)
    return build(ModelSpec.model_validate(spec), NUM_CLASSES)


def test_published_parameter_counts() -> None:
    with torch.device("meta"):
        model = build(load_spec("group_conditional_r50"), 91, pretrained=False)
    assert sum(p.numel() for p in model.parameters()) == 44_186_401
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 43_964_001


def test_every_base_of_its_own_says_what_makes_its_queries() -> None:
    assert set(INNER) == set(BASES) - set(WRAPPERS)


@pytest.mark.parametrize("inner", INNER)
@torch.no_grad()
def test_groups_are_alike_and_separate(inner: str) -> None:
    model = grouped(inner)
    images, targets = batch()
    memory = model.base.encode(images)
    own = model.base.inner.propose(memory, targets)
    torch.manual_seed(1)
    groups = model.base.propose(memory, targets).groups
    assert [group.name for group in groups[:3]] == ["match", "group1", "group2"]
    assert [group.name for group in groups[3:]] == [group.name for group in own.groups[1:]]
    assert all(group.weight == 1.0 for group in groups[3:])
    for group in groups[:3]:
        assert group.supervision == Match() and group.sees == frozenset() and group.weight == pytest.approx(1 / 3)
        assert group.content.shape == own.groups[0].content.shape
        assert group.reference.shape == own.groups[0].reference.shape
    whole = model.base.decode(memory, groups).split(groups)
    for group, part in zip(groups[:3], whole[:3], strict=True):
        alone = model.base.decode(memory, [group])
        torch.testing.assert_close(part.logits, alone.logits, atol=SAME, rtol=0)
        torch.testing.assert_close(part.boxes, alone.boxes, atol=SAME, rtol=0)
    assert not torch.allclose(whole[0].logits, whole[1].logits, atol=1e-3)
    assert not torch.allclose(whole[1].logits, whole[2].logits, atol=1e-3)


@pytest.mark.parametrize("inner", INNER)
@torch.no_grad()
def test_inference_is_that_of_the_base_inside(inner: str) -> None:
    model = grouped(inner, heads=True).eval()
    bare = tiny_model(inner, NUM_CLASSES, heads=False).eval()
    bare.base.load_state_dict(model.base.inner.state_dict())
    images, _ = batch()
    assert [group.name for group in model.base.propose(model.base.encode(images), None).groups] == ["match"]
    for ours, theirs in zip(model.predict(images), bare.predict(images), strict=True):
        assert torch.equal(ours.boxes, theirs.boxes)
        assert torch.equal(ours.scores, theirs.scores)
        assert torch.equal(ours.labels, theirs.labels)


@pytest.mark.parametrize("heads", [False, True], ids=["plain", "heads"])
@pytest.mark.parametrize("inner", INNER)
def test_every_parameter_gets_a_finite_gradient(inner: str, heads: bool) -> None:
    model = grouped(inner, heads=heads).train()
    for counts in [(3, 1), (2, 0), (0, 0)]:
        model.zero_grad()
        losses = model(*batch(counts))
        torch.stack(list(losses.values())).sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), (name, counts)


@torch.no_grad()
def test_the_loss_is_the_mean_over_the_groups() -> None:
    model = grouped("conditional_detr")
    images, targets = batch()
    losses = model(images, targets)
    memory = model.base.encode(images)
    for group in model.base.propose(memory, targets).groups:
        alone = model.criterion.group(
            replace(group, weight=1.0), model.base.decode(memory, [group]), targets, images.sizes
        )
        for name, value in alone.items():
            assert 3 * losses[name].item() == pytest.approx(value.item(), rel=1e-4), name


@torch.no_grad()
def test_each_group_takes_the_best_proposals_of_its_own_heads() -> None:
    model = two_stage()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    images, targets = batch()
    memory = model.base.encode(images)
    proposal = model.base.propose(memory, targets)
    prediction = proposal.encoder
    assert prediction is not None and prediction.class_agnostic
    tokens = memory.tokens.shape[1]
    assert prediction.output.logits.shape == (3, 2, tokens, NUM_CLASSES)
    assert prediction.output.boxes.shape == (3, 2, tokens, 4)
    assert prediction.valid.shape == (3, 2, tokens)
    for index, group in enumerate(proposal.groups):
        best = prediction.output.logits[index, ..., 0].topk(len(group)).indices
        boxes = prediction.output.boxes[index].gather(1, best[..., None].expand(-1, -1, 4))
        torch.testing.assert_close(group.reference, boxes, atol=0, rtol=0)


@torch.no_grad()
def test_the_encoders_loss_is_the_mean_over_the_groups() -> None:
    model = two_stage()
    images, targets = batch()
    memory = model.base.encode(images)
    prediction = model.base.propose(memory, targets).encoder
    assert prediction is not None

    def losses(rows: slice) -> dict[str, Tensor]:
        output = replace(prediction.output, logits=prediction.output.logits[rows], boxes=prediction.output.boxes[rows])
        part = replace(prediction, output=output, valid=prediction.valid[rows])
        return model.criterion.encoder(part, targets, images.sizes)

    together, apart = losses(slice(None)), [losses(slice(index, index + 1)) for index in range(3)]
    assert set(together) == {"encoder.cls", "encoder.l1", "encoder.giou"}
    for name, value in together.items():
        assert value.item() == pytest.approx(sum(part[name].item() for part in apart) / 3, rel=1e-5)


def test_initial_values_are_another_draw_from_the_same_distribution() -> None:
    model = two_stage()
    assert isinstance(model.base, GroupDETR)
    first, second = model.base.sources
    assert isinstance(first, nn.ModuleDict) and isinstance(second, nn.ModuleDict)
    assert list(first) == list(second) == ["proposals", "query_embed"]
    own = dict(model.base.inner.named_parameters())
    for name, parameter in first.named_parameters():
        torch.testing.assert_close(parameter.sort(0).values, own[name].sort(0).values, atol=0, rtol=0)
    for name in ("proposals.project.weight", "query_embed.weight"):
        values = [own[name], first.get_parameter(name), second.get_parameter(name)]
        assert not any(torch.equal(values[i], values[j]) for i, j in [(0, 1), (0, 2), (1, 2)]), name


def test_what_is_not_of_a_query_is_shared() -> None:
    model = grouped("conditional_detr")
    names = [name for name, _ in model.named_parameters() if ".sources." in name]
    assert names == ["base.sources.0.query_embed.weight", "base.sources.1.query_embed.weight"]
    assert [name for name, _ in grouped("conditional_detr", groups=1).named_parameters() if ".sources." in name] == []


def test_one_group_is_the_base_inside() -> None:
    images, targets = batch()
    plain = tiny_model("conditional_detr", NUM_CLASSES, heads=False)
    model = grouped("conditional_detr", groups=1)
    model.base.inner.load_state_dict(plain.base.state_dict())
    ours, theirs = model(images, targets), plain(images, targets)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_base_must_say_what_makes_its_queries() -> None:
    spec = tiny_spec("h_deformable_detr", heads=False).model_dump()
    nested = ModelSpec.model_validate({**spec, "base": {"name": "group_detr", "inner": spec["base"]}})
    with pytest.raises(UserError, match="base h_deformable_detr cannot have further groups"):
        build(nested, NUM_CLASSES)


def test_settings() -> None:
    spec = load_spec("group_conditional_r50", ["base.inner.num_queries=50", "base.groups=2"])
    assert spec.base.settings.groups == 2 and spec.base.settings.inner.settings.num_queries == 50
    with pytest.raises(ConfigError, match=r"base\.inner\.nam: unknown key|base\.inner: wants the name of a base|inner"):
        load_spec("group_conditional_r50", ["base.inner={nam: detr}"])
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        GroupDETR.Config.model_validate({"inner": {"name": "deformable_detr", **TWO_STAGE}, "groups": 0})
