"""H-DETR: its published size, how it divides queries, and that the one-to-many part is of training alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from small import HEADS, NUM_CLASSES, ONE_STAGE, PLUS_PLUS, batch, small_model

from codetr.errors import ConfigError
from codetr.models.build import build
from codetr.models.collaborative import Collaborative
from codetr.spec import load_spec
from codetr.structures import Match

# One group's logits against the same group decoded in other company: float32 sums in another order, on values near 1.
SAME = 1e-5
INNER = {"++": PLUS_PLUS, "one-stage": ONE_STAGE}


def hybrid(inner: dict[str, Any] = PLUS_PLUS, heads: str = "none", **settings: Any) -> Collaborative:
    """Six matched queries and fourteen one-to-many ones."""
    own = {"one_to_one": 6, "repeat": 3, **settings}
    base = {"name": "h_deformable_detr", "inner": {"name": "deformable_detr", **inner, "num_queries": 20}, **own}
    return small_model(base, HEADS[heads])


def test_published_parameter_counts() -> None:
    with torch.device("meta"):
        model = build(load_spec("h_deformable_r50"), 91, pretrained=False)
    assert sum(p.numel() for p in model.parameters()) == 47_946_073
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 47_723_673


@pytest.mark.parametrize("inner", INNER)
@torch.no_grad()
def test_the_first_queries_are_matched_and_the_rest_are_one_to_many(inner: str) -> None:
    model = hybrid(INNER[inner], weight=0.5)
    images, targets = batch()
    memory = model.base.encode(images)
    (whole,) = model.base.inner.propose(memory, targets).groups
    match, rest = model.base.propose(memory, targets).groups
    assert (match.name, len(match), match.supervision, match.weight) == ("match", 6, Match(), 1.0)
    assert (rest.name, len(rest), rest.supervision, rest.weight) == ("hybrid", 14, Match(3), 0.5)
    assert match.sees == rest.sees == frozenset()
    for part in ("content", "pos", "reference"):
        torch.testing.assert_close(
            torch.cat([getattr(match, part), getattr(rest, part)], dim=1), getattr(whole, part), atol=0, rtol=0
        )


@torch.no_grad()
def test_the_best_proposals_are_matched() -> None:
    model = hybrid()
    images, targets = batch()
    memory = model.base.encode(images)
    proposal = model.base.propose(memory, targets)
    logits, boxes = proposal.encoder.output.logits[0, ..., 0], proposal.encoder.output.boxes[0]
    best = logits.topk(6).indices
    torch.testing.assert_close(
        proposal.groups[0].reference, boxes.gather(1, best[..., None].expand(-1, -1, 4)), atol=0, rtol=0
    )


@torch.no_grad()
def test_inference_is_that_of_a_base_without_the_one_to_many_queries() -> None:
    model = hybrid(heads="atss").eval()
    inner = {**PLUS_PLUS, "num_queries": 6}
    bare = small_model(inner, HEADS["none"]).eval()
    state = model.base.inner.state_dict()
    bare.base.load_state_dict({**state, "query_embed.weight": state["query_embed.weight"][:6]})
    images, _ = batch()
    assert [len(group) for group in model.base.propose(model.base.encode(images), None).groups] == [6]
    for ours, theirs in zip(model.predict(images), bare.predict(images), strict=True):
        assert torch.equal(ours.boxes, theirs.boxes)
        assert torch.equal(ours.scores, theirs.scores)
        assert torch.equal(ours.labels, theirs.labels)


@pytest.mark.parametrize("inner", INNER)
@torch.no_grad()
def test_matched_outputs_do_not_depend_on_the_one_to_many_queries(inner: str) -> None:
    model = hybrid(INNER[inner])
    images, targets = batch()
    memory = model.base.encode(images)
    match, rest = model.base.propose(memory, targets).groups
    before = model.base.decode(memory, [match, rest]).split([match, rest])
    other = replace(rest, content=rest.content + torch.randn_like(rest.content))
    after = model.base.decode(memory, [match, other]).split([match, other])
    torch.testing.assert_close(after[0].logits, before[0].logits, atol=SAME, rtol=0)
    torch.testing.assert_close(after[0].boxes, before[0].boxes, atol=SAME, rtol=0)
    assert not torch.allclose(after[1].logits, before[1].logits, atol=1e-2)


def test_objects_are_repeated_as_often_as_queries_last() -> None:
    model = hybrid(repeat=6)
    images, targets = batch((3, 1))
    memory = model.base.encode(images)
    _, rest = model.base.propose(memory, targets).groups
    output = model.base.decode(memory, [rest])
    goal = model.criterion._goal(rest.supervision, None, output, targets, images.sizes)
    # 18 copies of three objects for 14 queries, six of one.
    assert ((goal.labels < NUM_CLASSES).sum(-1) == torch.tensor([14, 6])).all()


def test_the_one_to_many_losses_have_their_weight_and_the_encoder_is_trained_once() -> None:
    images, targets = batch()

    def losses(weight: float) -> dict[str, torch.Tensor]:
        return hybrid(weight=weight)(images, targets)

    plain, doubled = losses(1.0), losses(2.0)
    assert {name.split(".")[0] for name in plain} == {"match", "hybrid", "encoder"}
    assert {"encoder.cls", "encoder.l1", "encoder.giou", "hybrid.0.cls", "hybrid.1.giou"} <= plain.keys()
    for name, value in plain.items():
        factor = 2.0 if name.startswith("hybrid.") else 1.0
        assert doubled[name].item() == pytest.approx(factor * value.item(), rel=1e-6), name


@pytest.mark.parametrize("counts", [(3, 1), (2, 0), (0, 0)], ids=["objects", "one empty image", "no objects"])
@pytest.mark.parametrize("heads", ["none", "both"])
@pytest.mark.parametrize("inner", INNER)
def test_every_parameter_gets_a_finite_gradient(inner: str, heads: str, counts: tuple[int, int]) -> None:
    model = hybrid(INNER[inner], heads).train()
    losses = model(*batch(counts))
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_an_image_with_too_few_tokens_offers_its_last_query_to_both_groups() -> None:
    tokens = 12 * 16 + 6 * 8 + 3 * 4
    base = {
        "name": "h_deformable_detr",
        "inner": {"name": "deformable_detr", **PLUS_PLUS, "num_queries": 500},
        "one_to_one": tokens,
    }
    model = small_model(base, HEADS["none"]).train()
    images, targets = batch()
    match, rest = model.base.propose(model.base.encode(images), targets).groups
    assert (len(match), len(rest)) == (tokens, 1)
    assert torch.equal(rest.reference, match.reference[:, -1:])
    # Every rank takes part in as many reductions, whatever the sizes of its images.
    assert {name.split(".")[0] for name in model(images, targets)} == {"match", "hybrid", "encoder"}


def test_denoising_of_the_base_inside_stays() -> None:
    inner = {"name": "dino", "num_queries": 20, "encoder_layers": 1, "decoder_layers": 2, "num_heads": 4, "ffn_dim": 32}
    model = small_model({"name": "h_deformable_detr", "inner": inner, "one_to_one": 6}, HEADS["none"])
    images, targets = batch()
    groups = model.base.propose(model.base.encode(images), targets).groups
    assert [group.name for group in groups] == ["match", "hybrid", "dn"]
    assert groups[2].sees == frozenset({"match"})
    assert model.base.query_width == 1 and model.base.num_layers == 2 and model.base.classification == "sigmoid"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("base.inner.num_queries=300", r"base: inner\.num_queries is 300; it must exceed one_to_one \(300\)"),
        ("base.inner.num_querys=3", r"base\.inner\.num_querys: unknown key; did you mean 'num_queries'"),
        ("base.inner.num_queries=many", r"base\.inner\.num_queries: found 'many', must be a whole number"),
        ("base.inner.name=deformable", r"base\.inner\.name: no base is called 'deformable'"),
        ("base.inner.two_stage=false", r"base\.inner: mixed_selection: true needs two_stage: true"),
        ("base.one_to_on=3", r"base\.one_to_on: unknown key; did you mean 'one_to_one'"),
    ],
)
def test_errors_name_their_place_in_the_base_inside(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_spec("h_deformable_r50", [override])


def test_settings_of_the_base_inside() -> None:
    spec = load_spec("h_deformable_r50", ["base.inner.num_queries=900"])
    assert spec.base.settings.inner.settings.num_queries == 900
    assert spec.document.explain("base.inner.num_queries").name == "command line"
    assert load_spec(spec.model_dump(mode="json")) == spec
    # Another base inside: the settings of the first are not for it.
    other = load_spec("h_deformable_r50", ["base.inner.name=dino"]).base.settings.inner
    assert other.name == "dino" and other.settings.num_queries == 900
