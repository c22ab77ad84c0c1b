"""DN-DETR: its published size, its contents and their indicator, who sees whom, and what denoising leaves alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from every_base import tiny_model, tiny_spec
from pydantic import ValidationError
from small import NUM_CLASSES, batch

from codetr.models.bases.dn_detr import DnDETR
from codetr.models.build import build
from codetr.spec import load_spec

FORMS = ["dn_detr", "dn_deformable_detr"]
# One group's logits against the same group decoded in other company: float32 sums in another order, on values near 1.
SAME = 1e-5
QUIET = {"groups": 2, "label_flip": 0.0, "box_noise": 0.0}


# Counted on the official classes with ResNet-50 and 91 class ids: all parameters, and without stem and first stage.
@pytest.mark.parametrize(
    ("name", "total", "trained"),
    [("dn_detr_r50", 43_694_977, 43_472_577), ("dn_deformable_r50", 47_429_154, 47_206_754)],
)
def test_published_parameter_counts(name, total, trained):
    with torch.device("meta"):
        model = build(load_spec(name, []), 91, pretrained=False)
    assert sum(p.numel() for p in model.parameters()) == total
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trained


@pytest.mark.parametrize("name", ["dn_detr_r50", "dn_deformable_r50"])
def test_the_recipe_is_that_of_the_authors(name):
    spec = load_spec(name, [])
    denoising = spec.base.settings.denoising
    assert (denoising.groups, denoising.label_flip, denoising.box_noise) == (5, 0.2, 0.4)
    assert (spec.criterion.class_weight, spec.criterion.cost.class_weight) == (1.0, 2.0)
    assert [group.match for group in spec.train.lr_groups] == ["backbone"]
    assert spec.eval.max_detections == 300


def test_patterns_are_of_the_dense_form():
    with pytest.raises(ValidationError, match="num_patterns needs deformable: false"):
        DnDETR.Config(deformable=True, num_patterns=3)


@pytest.mark.parametrize("form", FORMS)
def test_boxes_start_at_the_anchors(form):
    torch.manual_seed(0)
    base = build(tiny_spec(form, heads=False), NUM_CLASSES, pretrained=False).base
    images, _ = batch()
    with torch.no_grad():
        memory = base.encode(images)
        (group,) = base.propose(memory, None).groups
        boxes = base.decode(memory, [group]).boxes
    anchors = base.anchor_embed.weight.sigmoid().expand(2, -1, -1)
    assert group.pos is None and torch.equal(group.reference, anchors)
    if form == "dn_detr":
        torch.testing.assert_close(boxes, anchors.expand_as(boxes), atol=1e-5, rtol=0)
    else:
        # One-stage Deformable DETR: the first layer starts at an eighth of the image, here in logits off the anchor.
        torch.testing.assert_close(boxes[0, ..., :2], anchors[..., :2], atol=1e-5, rtol=0)
        torch.testing.assert_close(boxes[0, ..., 2:].logit(), anchors[..., 2:].logit() - 2, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("form", "plain", "settings", "contents"),
    [
        ("dn_detr", "dab_detr", {"num_patterns": 1}, "pattern_embed"),
        ("dn_deformable_detr", "dab_deformable_detr", {}, "query_embed"),
    ],
    ids=FORMS,
)
@torch.no_grad()
def test_inference_is_that_of_dab_detr_with_the_same_contents(form, plain, settings, contents):
    ours = tiny_model(form, NUM_CLASSES, heads=False).base.eval()
    theirs = tiny_model(plain, NUM_CLASSES, heads=False, **settings).base.eval()
    # Beyond the clamp of the inverse sigmoid.
    ours.anchor_embed.weight[0] = torch.tensor([9.0, -9.0, -9.0, 9.0])
    images, _ = batch()
    state = {name: tensor for name, tensor in ours.state_dict().items() if name in theirs.state_dict()}
    (group,) = ours.propose(ours.encode(images), None).groups
    state[f"{contents}.weight"] = group.content[0, : len(theirs.get_submodule(contents).weight)]
    theirs.load_state_dict(state)
    outputs = []
    for base in (ours, theirs):
        memory = base.encode(images)
        outputs.append(base.decode(memory, base.propose(memory, None).groups))
    assert torch.equal(outputs[0].logits, outputs[1].logits) and torch.equal(outputs[0].boxes, outputs[1].boxes)


def test_boxes_of_the_deformable_form_look_forward_once():
    base = tiny_model("dn_deformable_detr", NUM_CLASSES, heads=False).base
    memory = base.encode(batch()[0])
    boxes = base.decode(memory, base.propose(memory, None).groups).boxes
    first, second = (list(head.parameters()) for head in base.heads.boxes)
    assert not any(g.any() for g in torch.autograd.grad(boxes[1].sum(), first, retain_graph=True))
    assert all(g.any() for g in torch.autograd.grad(boxes[1].sum(), second))


def test_dense_contents_are_one_unknown_label_and_a_zero():
    base = tiny_model("dn_detr", NUM_CLASSES, heads=False).base
    (group,) = base.propose(base.encode(batch()[0]), None).groups
    assert base.label_embed.weight.shape == (NUM_CLASSES + 1, 31)
    assert torch.equal(group.content[..., :-1], base.label_embed.weight[NUM_CLASSES].expand(2, 9, -1))
    assert not group.content[..., -1].any()


def test_deformable_contents_are_learned_for_each_query_and_a_zero():
    base = tiny_model("dn_deformable_detr", NUM_CLASSES, heads=False).base
    (group,) = base.propose(base.encode(batch()[0]), None).groups
    assert torch.equal(group.content[1, :, :-1], base.query_embed.weight)
    assert not group.content[..., -1].any()


def test_a_pattern_is_added_to_matched_contents_alone():
    base = tiny_model("dn_detr", NUM_CLASSES, heads=False, num_patterns=2, num_queries=3, denoising=QUIET).base
    images, targets = batch()
    match, noisy = base.propose(base.encode(images), targets).groups
    unknown = torch.cat([base.label_embed.weight[-1], torch.zeros(1)])
    expected = unknown + base.pattern_embed.weight[[0, 0, 0, 1, 1, 1]]
    torch.testing.assert_close(match.content[1], expected)
    assert torch.equal(match.reference[1], base.anchor_embed.weight.sigmoid().repeat(2, 1))
    assert torch.equal(noisy.content[0, 0, :-1], base.label_embed.weight[targets.labels[0, 0]])


@pytest.mark.parametrize("form", FORMS)
def test_denoising_queries_copy_the_objects_group_after_group(form):
    base = tiny_model(form, NUM_CLASSES, heads=False, denoising=QUIET).base
    images, targets = batch((3, 1))
    match, noisy = base.propose(base.encode(images), targets).groups
    assert (match.name, noisy.name, noisy.blocks, noisy.sees) == ("match", "dn", 2, {"match"})
    assert not match.sees and noisy.weight == 1.0
    labels = base.label_embed.weight
    for group in range(2):
        for slot in range(3):
            content = noisy.content[0, 3 * group + slot]
            assert torch.equal(content[:-1], labels[targets.labels[0, slot]]) and content[-1] == 1
    # The second image has one object: the other slots are empty, their box is in the middle, and no loss counts them.
    assert torch.equal(noisy.content[1, 0], noisy.content[1, 3]) and noisy.content[1, 0, -1] == 1
    empty = [1, 2, 4, 5]
    assert not noisy.content[1, empty].any() and (noisy.reference[1, empty] == 0.5).all()
    assert noisy.supervision.weights.tolist() == [[1.0] * 6, [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]]
    assert (noisy.supervision.labels[1, empty] == NUM_CLASSES).all()
    height, width = images.sizes[0]
    x1, y1, x2, y2 = targets.boxes[0, 2].tolist()
    box = torch.tensor([(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height])
    torch.testing.assert_close(noisy.reference[0, 5], box.clamp(1e-3, 1 - 1e-3))
    torch.testing.assert_close(noisy.supervision.boxes[0, 5], box)


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_matched_queries_know_nothing_of_denoising_which_sees_them_and_its_own_group(form):
    base = tiny_model(form, NUM_CLASSES, heads=False, denoising={**QUIET, "groups": 3}).base.eval()
    images, targets = batch()
    memory = base.encode(images)
    match, noisy = base.propose(memory, targets).groups

    def outputs(*groups):
        return [part.logits for part in base.decode(memory, groups).split(groups)]

    before = outputs(match, noisy)
    torch.testing.assert_close(before[0], outputs(match)[0], atol=SAME, rtol=0)
    content = noisy.content.clone()
    content[:, 3:6] += torch.randn_like(content[:, 3:6])
    matched, after = outputs(match, replace(noisy, content=content))
    torch.testing.assert_close(before[0], matched, atol=SAME, rtol=0)
    others = [0, 1, 2, 6, 7, 8]
    torch.testing.assert_close(before[1][:, :, others], after[:, :, others], atol=SAME, rtol=0)
    assert ((before[1] - after)[:, :, 3:6].abs().amax(-1) > 1e-3).all()
    moved = replace(match, content=match.content + torch.randn_like(match.content))
    assert ((before[1] - outputs(moved, noisy)[1]).abs().amax(-1) > 1e-4).all()
    # Slots without an object are seen by their group, as in the published code.
    content = noisy.content.clone()
    content[1, 1] += 1
    after = outputs(match, replace(noisy, content=content))[1]
    assert ((before[1] - after)[:, 1, [0, 2]].abs().amax(-1) > 1e-4).all()


@pytest.mark.parametrize("form", FORMS)
def test_denoising_losses_are_divided_by_the_objects_times_the_groups(form):
    model = tiny_model(form, NUM_CLASSES, heads=False).eval()
    images, targets = batch((3, 1))
    memory = model.base.encode(images)
    groups = model.base.propose(memory, targets).groups
    part = model.base.decode(memory, groups).split(groups)[1]
    losses = model.criterion.group(groups[1], part, targets, images.sizes)
    assert {name.split(".")[1] for name in losses} == {"0", "1"}
    supervision = groups[1].supervision
    real = supervision.weights.bool()
    assert real.sum() == 5 * 4
    distance = (part.boxes[1] - supervision.boxes).abs().sum(-1)[real].sum() / 20
    torch.testing.assert_close(losses["dn.1.l1"], 5 * distance)
    prob = part.logits[1][real].sigmoid()
    truth = torch.nn.functional.one_hot(supervision.labels[real], NUM_CLASSES).bool()
    right = torch.where(truth, prob, 1 - prob)
    focal = torch.where(truth, 0.25, 0.75) * (1 - right) ** 2 * -right.log()
    torch.testing.assert_close(losses["dn.1.cls"], focal.sum() / 20)


@pytest.mark.parametrize("form", FORMS)
def test_positives_are_marked_as_none_of_denoising(form):
    base = tiny_model(form, NUM_CLASSES, heads=True).base
    embedding, boxes = torch.randn(2, 5, 32), torch.rand(2, 5, 4)
    content, pos, reference = base.adopt(embedding, boxes)
    assert base.query_width == 1 and pos is None and torch.equal(reference, boxes)
    assert torch.equal(content[..., :-1], embedding[..., :-1]) and not content[..., -1].any()


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_evaluation_with_heads_equals_the_base_without_what_serves_training_only(form):
    """The rows of the labels serve denoising; the dense form reads the last one, "unknown"."""
    wrapped = tiny_model(form, NUM_CLASSES, heads=True).eval()
    bare = tiny_model(form, NUM_CLASSES, heads=False).eval()
    bare.base.load_state_dict(wrapped.base.state_dict())
    kept = NUM_CLASSES if form == "dn_detr" else NUM_CLASSES + 1
    bare.base.label_embed.weight[:kept] = float("nan")
    images, _ = batch()
    for ours, theirs in zip(wrapped.predict(images), bare.predict(images), strict=True):
        assert torch.equal(ours.boxes, theirs.boxes) and torch.equal(ours.scores, theirs.scores)
        assert torch.equal(ours.labels, theirs.labels)


@pytest.mark.parametrize("counts", [(3, 1), (2, 0), (0, 0)], ids=["objects", "one empty image", "no objects"])
@pytest.mark.parametrize("form", FORMS)
def test_every_parameter_gets_a_finite_gradient(form, counts):
    model = tiny_model(form, NUM_CLASSES, heads=counts[0] != 2).train()
    losses = model(*batch(counts))
    denoising = [value for name, value in losses.items() if name.startswith("dn.")]
    assert len(denoising) == 2 * 3 and all(value.item() > 0 for value in denoising) == any(counts)
    assert all(value.ndim == 0 and value.isfinite() for value in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        # The backbone is left out: of eight channels at random some are dead.
        assert not any(counts) or parameter.grad.any() or not name.startswith(("base.encoder", "base.decoder")), name
