"""DINO: its published size, its proposals, its denoising, and its part in collaborative training."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from small import HEADS, batch, small_model, small_spec
from torch import Tensor

from codetr.models.bases.dino import DINO
from codetr.models.build import ModelSpec, build
from codetr.models.collaborative import Collaborative
from codetr.models.parts.two_stage import token_boxes
from codetr.ops.boxes import normalise
from codetr.spec import load_spec
from codetr.structures import Assigned, DecoderOutput, Targets
from codetr.wrap import wrap_report, wrap_spec

# Counted on the official class with ResNet-50 and 91 class ids: all parameters, and without stem and first stage.
PUBLISHED_SIZES = {"dino_r50": (46_893_182, 46_670_782), "dino_5scale_r50": (47_255_806, 47_033_406)}
SMALL = {
    "name": "dino",
    "num_queries": 9,
    "ffn_dim": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_heads": 4,
    "denoising": {"queries": 6},
}
SEPARATE = {**SMALL, "shared_heads": False, "query_init": "normal"}

# One group's logits against the same group decoded in other company: float32 sums in another order, on values near 1.
SAME = 1e-5


@pytest.mark.parametrize("name", PUBLISHED_SIZES)
def test_published_parameter_counts(name: str) -> None:
    with torch.device("meta"):
        model = build(load_spec(name), 91, pretrained=False)
    total, trained = PUBLISHED_SIZES[name]
    assert sum(p.numel() for p in model.parameters()) == total
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trained


def test_co_dino_differs_from_dino_by_its_separate_heads_and_its_neck() -> None:
    with torch.device("meta"):
        model = build(load_spec("co_dino_5scale_r50"), 80, pretrained=False)
        plain = build(load_spec("dino_5scale_r50"), 80, pretrained=False)
    pair = 80 * 257 + 2 * 256 * 257 + 4 * 257
    added = sum(p.numel() for p in model.base.parameters()) - sum(p.numel() for p in plain.base.parameters())
    assert added == 5 * pair - 5 * 256  # five more pairs; no bias in five convolutions of the neck
    assert model.adapter is not None and model.adapter.strides == (4, 8, 16, 32, 64, 128)
    assert model.heads["faster_rcnn"].roi.finest_scale == 56
    assert all(queries.feature is None for queries in model.positive_queries.values())


def untrained(base: dict[str, Any] = SMALL) -> tuple[Collaborative, DINO]:
    torch.manual_seed(0)
    model = build(small_spec(base, {}), 4).eval()
    assert isinstance(model.base, DINO)
    return model, model.base


def test_boxes_start_at_the_proposals_and_classes_at_one_percent() -> None:
    _, base = untrained()
    images, _ = batch()
    with torch.no_grad():
        memory = base.encode(images)
        (match,) = base.propose(memory, None).groups
        output = base.decode(memory, [match])
    assert match.pos is None and match.reference.shape == (2, 9, 4)
    anchors, _ = token_boxes(memory)
    distance = torch.cdist(match.reference, anchors).amin(-1)
    # Clamped to a thousandth from the edges; 1 where a token may not propose.
    assert ((distance < 1e-2) | (match.reference == 1).all(-1)).all()
    torch.testing.assert_close(output.boxes[-1], match.reference.clamp(1e-3, 1 - 1e-3), atol=1e-5, rtol=0)
    for linear in [*base.heads.classes, base.proposals.heads.classes[0]]:
        torch.testing.assert_close(linear.bias.sigmoid(), torch.full((4,), 0.01))


@torch.no_grad()
def test_positions_of_tokens_have_a_temperature_of_twenty_and_no_offset() -> None:
    """The second image, by hand: row r of n valid ones is at (r + 1) / n of a turn, y first."""
    _, base = untrained()
    images, _ = batch()
    memory = base.encode(images)
    height, width = memory.shapes[0]
    padding = memory.padding[1, : height * width].view(height, width)
    rows, columns = int((~padding[:, 0]).sum()), int((~padding[0]).sum())
    assert (rows, columns) == (9, 13)
    pos = (memory.pos[1, : height * width] - base.encoder.level_embed[0]).view(height, width, 32)
    for row, column in ((0, 0), (4, 7), (8, 12)):
        expected = []
        for share in ((row + 1) / rows, (column + 1) / columns):
            for pair in range(8):
                angle = 2 * math.pi * share / 20 ** (2 * pair / 16)
                expected += [math.sin(angle), math.cos(angle)]
        # float32 angles up to two pi, and one over a millionth more than n.
        torch.testing.assert_close(pos[row, column], torch.tensor(expected), atol=1e-5, rtol=0)


def test_boxes_look_forward_twice() -> None:
    model = small_model(SEPARATE, {})
    images, _ = batch()
    memory = model.base.encode(images)
    output = model.base.decode(memory, model.base.propose(memory, None).groups)
    bias = model.base.heads.boxes[0].last.bias
    (grad,) = torch.autograd.grad(output.boxes[1].sum(), bias)
    assert (grad != 0).all()


def test_contents_start_xavier_or_normal() -> None:
    deviation = {name: untrained({**SMALL, "num_queries": 500, "query_init": name})[1] for name in ("xavier", "normal")}
    # Uniform to the root of 6 / (500 + 32): deviation the root of 2 / 532.
    assert deviation["xavier"].query_embed.weight.std().item() == pytest.approx((2 / 532) ** 0.5, rel=0.05)
    assert deviation["normal"].query_embed.weight.std().item() == pytest.approx(1, rel=0.05)


@torch.no_grad()
def test_the_best_tokens_by_their_best_class_propose_and_are_trained_with_real_classes() -> None:
    model = small_model(SMALL, {})
    images, _ = batch()
    memory = model.base.encode(images)
    proposal = model.base.propose(memory, None)
    logits, boxes, valid = model.base.proposals(memory)
    encoder = proposal.encoder
    assert encoder is not None and not encoder.class_agnostic
    for image in range(2):
        order = sorted(range(logits.shape[1]), key=lambda token: -max(logits[image, token].tolist()))[:9]
        assert torch.equal(encoder.output.logits[0, image], logits[image, order])
        assert torch.equal(encoder.output.boxes[0, image], boxes[image, order])
        assert torch.equal(encoder.valid.view(2, 9)[image], valid[image, order])
        assert torch.equal(proposal.groups[0].reference[image], boxes[image, order])
    assert torch.equal(proposal.groups[0].content[1], model.base.query_embed.weight)


def test_proposals_are_detached_for_the_decoder_and_not_for_their_own_loss() -> None:
    model = small_model(SMALL, {})
    images, targets = batch()
    memory = model.base.encode(images)
    proposal = model.base.propose(memory, targets)
    assert not any(group.reference.requires_grad for group in proposal.groups)
    assert proposal.encoder is not None and proposal.encoder.output.boxes.requires_grad


def decoded(model: Collaborative, memory: Any, groups: list[Any]) -> list[DecoderOutput]:
    torch.manual_seed(0)
    return model.base.decode(memory, groups).split(groups)


def apart(a: DecoderOutput, b: DecoderOutput) -> float:
    return max((a.logits - b.logits).abs().max().item(), (a.boxes - b.boxes).abs().max().item())


@pytest.mark.parametrize("base", [SMALL, SEPARATE], ids=["shared", "separate"])
@torch.no_grad()
def test_denoising_sees_the_matched_queries_and_never_the_reverse(base: dict[str, Any]) -> None:
    model = small_model(base, {})
    images, targets = batch()
    memory = model.base.encode(images)
    match, noisy = model.base.propose(memory, targets).groups
    assert (match.name, noisy.name, noisy.blocks, len(noisy)) == ("match", "dn", 2, 12)
    first, second = decoded(model, memory, [match, noisy])
    assert apart(first, decoded(model, memory, [match])[0]) < SAME
    # Another matched content moves the noisy queries; another noisy content moves its own block alone.
    moved = replace(match, content=match.content + 1)
    assert apart(second, decoded(model, memory, [moved, noisy])[1]) > 1e-3
    content = noisy.content.clone()
    content[:, :6] += 1
    others = decoded(model, memory, [match, replace(noisy, content=content)])
    assert apart(first, others[0]) < SAME
    before, after = second.boxes.split(6, dim=2), others[1].boxes.split(6, dim=2)
    assert (before[1] - after[1]).abs().max() < SAME < 1e-3 < (before[0] - after[0]).abs().max()


def test_noisy_queries_carry_the_embedding_of_their_label_and_the_objects_they_are_to_become() -> None:
    model = small_model({**SMALL, "denoising": {"queries": 6, "label_flip": 0.0, "box_noise": 0.0}}, {})
    images, targets = batch()
    _, noisy = model.base.propose(model.base.encode(images), targets).groups
    table, labels = model.base.label_embed.weight, targets.labels
    assert table.shape == (5, 32)
    for slot in range(12):
        assert torch.equal(noisy.content[0, slot], table[labels[0, slot % 3]])
        assert torch.equal(noisy.content[1, slot], table[labels[1, 0]] * (slot % 3 == 0))
    supervision = noisy.supervision
    assert isinstance(supervision, Assigned) and supervision.weights.min() == 1
    assert supervision.labels[0].tolist() == [*labels[0].tolist(), 4, 4, 4] * 2
    assert supervision.labels[1].tolist() == [labels[1, 0].item(), 4, 4, 4, 4, 4] * 2
    boxes = normalise(targets.boxes, images.sizes)
    torch.testing.assert_close(supervision.boxes[0, :3], boxes[0])
    torch.testing.assert_close(noisy.reference[0, 6:9], boxes[0].clamp(1e-3, 1 - 1e-3))


def test_denoising_losses_are_divided_by_the_objects_times_the_blocks() -> None:
    """Logits of zero, K = 4: every entry of background costs 0.75 / 4 log 2, that of a label 0.25 / 4 log 2."""
    model = small_model(SMALL, {})
    images, targets = batch()
    _, noisy = model.base.propose(model.base.encode(images), targets).groups
    boxes = noisy.supervision.boxes[None]  # type: ignore[union-attr]
    output = DecoderOutput(torch.zeros(1, 2, 12, 4), boxes)
    losses = model.criterion.group(noisy, output, targets, images.sizes)
    objects = 2 * (3 + 1)
    entry = 0.25 * torch.log(torch.tensor(2.0)).item()
    expected = (objects * 0.25 + (2 * 12 * 4 - objects) * 0.75) * entry / objects
    weight = model.criterion.config.class_weight
    assert losses["dn.0.cls"].item() == pytest.approx(weight * expected, rel=1e-5)
    assert losses["dn.0.l1"].item() == pytest.approx(0, abs=1e-6)


def test_without_denoising_there_is_no_table_of_labels() -> None:
    model = small_model({**SMALL, "denoising": None}, {})
    images, targets = batch()
    assert [g.name for g in model.base.propose(model.base.encode(images), targets).groups] == ["match"]
    assert not any("label_embed" in name for name, _ in model.named_parameters())


def test_evaluation_is_unchanged_when_all_that_serves_training_is_deleted() -> None:
    model = small_model(SMALL, HEADS["both"], use_features=False).eval()
    bare = small_model({**SMALL, "denoising": None}, {}).eval()
    state = {name: t for name, t in model.base.state_dict().items() if not name.startswith("label_embed")}
    bare.base.load_state_dict(state)
    images, _ = batch()
    with torch.no_grad():
        for ours, theirs in zip(model.predict(images), bare.predict(images), strict=True):
            assert torch.equal(ours.boxes, theirs.boxes) and torch.equal(ours.scores, theirs.scores)


def with_loss(model: Collaborative, class_loss: str) -> Collaborative:
    model.criterion.config = model.criterion.config.model_copy(update={"class_loss": class_loss})
    return model


@pytest.mark.filterwarnings("ignore:an image has 14 objects:RuntimeWarning")
@pytest.mark.parametrize("counts", [(3, 1), (0, 2), (0, 0), (14, 0)], ids=str)
@pytest.mark.parametrize(("base", "loss"), [(SMALL, "focal"), (SEPARATE, "quality_focal")], ids=["dino", "co-dino"])
def test_a_step_with_heads(base: dict[str, Any], loss: str, counts: tuple[int, int]) -> None:
    """Fourteen objects are more than there are queries. Every parameter gets a gradient, whatever the batch."""
    model = with_loss(small_model(base, HEADS["both"], use_features=False), loss).train()
    images, targets = batch(counts)
    losses = model(images, targets)
    names = {f"{g}.{layer}.{term}" for g in ("match", "dn") for layer in (0, 1) for term in ("cls", "l1", "giou")}
    assert names | {"encoder.cls", "pos.atss.1.l1", "pos.faster_rcnn.0.cls", "atss.cls"} <= set(losses)
    assert all(value.isfinite() for value in losses.values())
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    missing = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or p.grad.isnan().any())]
    assert missing == []
    if counts == (0, 0):
        assert losses["dn.0.cls"] == losses["dn.1.giou"] == 0


def test_five_levels_and_their_pyramid_of_six() -> None:
    """Co-DINO: heads on strides 4 to 128, regions pooled from the first five."""
    spec = small_spec(SEPARATE, HEADS["both"], use_features=False).model_dump()
    spec["backbone"]["stages"] = (1, 2, 3, 4)
    spec["neck"]["num_levels"] = 5
    model = with_loss(build(ModelSpec.model_validate(spec), 4), "quality_focal").train()
    images, targets = batch()
    pyramid = model.adapter(model.base.encode(images))  # type: ignore[misc]
    assert pyramid.strides == (4, 8, 16, 32, 64, 128)
    assert [m.shape[-2:] for m in pyramid.maps] == [(24, 32), (12, 16), (6, 8), (3, 4), (2, 2), (1, 1)]
    losses = model(images, targets)
    assert all(value.isfinite() for value in losses.values())
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_adopted_positives_have_no_position_of_their_own() -> None:
    model = small_model(SMALL, HEADS["atss"], use_features=False)
    embedding, boxes = torch.randn(2, 5, 32), torch.rand(2, 5, 4)
    content, pos, reference = model.base.adopt(embedding, boxes)
    assert content is embedding and pos is None and reference is boxes
    assert model.positive_queries["atss"].position.weight.shape == (32, 64)


@torch.no_grad()
def test_positives_leave_the_matched_and_the_noisy_branch_unchanged() -> None:
    model = small_model(SMALL, HEADS["both"], use_features=False)
    images, targets = batch()
    memory = model.base.encode(images)
    groups = list(model.base.propose(memory, targets).groups)
    alone = decoded(model, memory, groups)
    for name, head in model.heads.items():
        positives = head(model.adapter(memory), targets).positives  # type: ignore[misc]
        groups.append(model._positive_group(name, positives, images.sizes))
    joint = decoded(model, memory, groups)
    assert apart(joint[0], alone[0]) < SAME and apart(joint[1], alone[1]) < SAME


def test_a_tiny_image_offers_fewer_queries() -> None:
    model, base = untrained({**SMALL, "num_queries": 500})
    images, _ = batch()
    tokens = 12 * 16 + 6 * 8 + 3 * 4
    assert len(base.propose(base.encode(images), None).groups[0]) == tokens
    assert all(len(d.scores) == 10 for d in model.predict(images, max_detections=10))


@torch.no_grad()
def test_what_lies_in_the_padding_changes_nothing() -> None:
    """Behind the backbone: the maps' padded cells may hold anything, but for the group norms of the neck."""
    model = small_model(SMALL, {})
    images, _ = batch()
    maps = model.base.neck(model.base.backbone(images.pixels))

    def predicted(maps: list[Tensor]) -> Tensor:
        memory = model.base.encoder(maps, images, model.base.strides)
        return model.base.decode(memory, model.base.propose(memory, None).groups).boxes

    padded = model.base.encode(images).padding.split([m.shape[2] * m.shape[3] for m in maps], dim=1)
    other = [torch.where(p.view(2, 1, *m.shape[2:]), torch.randn_like(m), m) for p, m in zip(padded, maps, strict=True)]
    torch.testing.assert_close(predicted(other), predicted(maps), atol=SAME, rtol=0)


def test_codetr_wrap_puts_heads_around_dino() -> None:
    for base in ("dino", "dino_5scale"):
        settings = {"num_queries": 9, "encoder_layers": 1, "decoder_layers": 1, "num_heads": 2, "ffn_dim": 16}
        text = wrap_spec(base, ["atss"])
        assert f"bases/{base}" in text
        spec = load_spec(
            {
                "extends": [f"bases/{base}", "backbones/resnet50"],
                "base": settings,
                "backbone": {
                    "model": "resnet10t",
                    "pretrained": False,
                    "options": {"channels": [8, 8, 8, 8], "stem_width": 8},
                },
                "neck": {"dim": 32, "num_groups": 4},
                "heads": {"atss": {}},
            }
        )
        assert len(spec.backbone.settings.stages) == (4 if "5scale" in base else 3)  # type: ignore[attr-defined]
        assert wrap_report(spec, num_classes=5).unchanged


def test_every_object_beyond_the_noise_budget_is_still_denoised_once() -> None:
    images, _ = batch()
    boxes = torch.rand(2, 20, 4).cumsum(-1) * 20
    targets = Targets(boxes, torch.zeros(2, 20, dtype=torch.int64), torch.ones(2, 20) > 0, (20, 20))
    model = small_model(SMALL, {})
    _, noisy = model.base.propose(model.base.encode(images), targets).groups
    assert (noisy.blocks, len(noisy)) == (1, 40)
