"""Noisy objects: where they lie, how noisy they are, what they are to become, and whom they see."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from codetr.models.layers.attention import GroupedSelfAttention, Visibility
from codetr.models.parts import denoising
from codetr.models.parts.denoising import ContrastiveNoise, NoisyObjects, PlainNoise, contrastive_noise, plain_noise
from codetr.structures import Match, QueryGroup, Targets

K = 5
# cxcywh in units of an image of 100 x 200 pixels (height, width), and the same as corners in pixels.
FIRST, SECOND, THIRD = [0.5, 0.5, 0.2, 0.4], [0.25, 0.25, 0.1, 0.1], [0.75, 0.5, 0.5, 1.0]
NOTHING = [0.5, 0.5, 0.5, 0.5]


def targets(counts: tuple[int, ...] = (2, 1)) -> Targets:
    """Objects of two images; there is room for one more than the most."""
    pixels = [[[80.0, 30.0, 120.0, 70.0], [40.0, 20.0, 60.0, 30.0]], [[100.0, 0.0, 200.0, 100.0], [0.0] * 4]]
    boxes = torch.cat([torch.tensor(pixels), torch.zeros(2, 1, 4)], 1)
    valid = torch.arange(3)[None] < torch.tensor(counts)[:, None]
    labels = torch.tensor([[1, 4, 0], [2, 0, 0]])
    return Targets(boxes.masked_fill(~valid[..., None], 0.0), labels.masked_fill(~valid, 0), valid, counts)


SIZES = torch.tensor([[100.0, 200.0], [100.0, 200.0]])


def contrastive(given: Targets | None = None, **settings: float) -> NoisyObjects:
    noise = ContrastiveNoise(**{"queries": 4, "label_flip": 0.0, "box_noise": 0.0, **settings})  # type: ignore[arg-type]
    return contrastive_noise(given or targets(), SIZES, noise, num_classes=K)


def plain(given: Targets | None = None, **settings: float) -> NoisyObjects:
    noise = PlainNoise(**{"groups": 2, "label_flip": 0.0, "box_noise": 0.0, **settings})  # type: ignore[arg-type]
    return plain_noise(given or targets(), SIZES, noise, num_classes=K)


def test_contrastive_blocks_are_objects_and_then_decoys() -> None:
    found = contrastive()
    assert found.blocks == 2
    assert found.labels.tolist() == [[1, 4] * 4, [2, 0] * 4]
    assert found.present.tolist() == [[True] * 8, [True, False] * 4]
    torch.testing.assert_close(found.boxes, torch.tensor([[FIRST, SECOND] * 4, [THIRD, NOTHING] * 4]))
    clean = found.supervision
    assert clean.labels.tolist() == [[1, 4, K, K] * 2, [2, K, K, K] * 2]
    assert clean.weights.tolist() == [[1.0] * 8] * 2
    torch.testing.assert_close(clean.boxes[:, 4:6], torch.tensor([[FIRST, SECOND], [THIRD, NOTHING]]))


def test_plain_groups_are_copies_and_empty_slots_have_no_weight() -> None:
    found = plain()
    assert found.blocks == 2
    assert found.labels.tolist() == [[1, 4] * 2, [2, 0] * 2]
    torch.testing.assert_close(found.boxes, torch.tensor([[FIRST, SECOND] * 2, [THIRD, NOTHING] * 2]))
    assert found.supervision.labels.tolist() == [[1, 4] * 2, [2, K] * 2]
    assert found.supervision.weights.tolist() == [[1.0] * 4, [1.0, 0.0] * 2]


@pytest.mark.parametrize(("most", "blocks"), [(1, 100), (3, 33), (50, 2), (51, 1), (100, 1), (101, 1), (700, 1)])
def test_the_number_of_blocks_is_that_of_both_published_codes(most: int, blocks: int) -> None:
    assert blocks == max(1, 200 // (2 * most)) == max(1, 100 // most)  # DINO, Co-DINO
    empty = torch.zeros(2, most, 4)
    given = Targets(empty, torch.zeros(2, most, dtype=torch.int64), torch.ones(2, most) > 0, (most, 0))
    found = contrastive(given, queries=100)
    assert found.blocks == blocks and found.labels.shape == (2, 2 * most * blocks)


def test_a_batch_without_objects_has_a_group_of_no_weight() -> None:
    """Ranks that train together have the same losses, and a gradient for every parameter."""
    for found, slots, blocks in ((contrastive(targets((0, 0))), 2, 1), (plain(targets((0, 0)), groups=5), 5, 5)):
        assert (found.labels.shape, found.blocks) == ((2, slots), blocks)
        assert not found.present.any() and (found.supervision.weights == 0).all()
        assert (found.supervision.labels == K).all() and found.boxes.isfinite().all()


def test_queries_of_empty_slots_are_zeros_and_references_keep_off_the_edges() -> None:
    found = contrastive()
    content = torch.ones(2, 8, 3, requires_grad=True)
    group = found.group(content, eps=1e-3)
    assert group.content[..., 0].tolist() == [[1.0] * 8, [1.0, 0.0] * 4]
    assert (group.name, group.pos, group.valid, group.sees, group.blocks) == ("dn", None, None, {"match"}, 2)
    assert group.supervision is found.supervision
    # The third box is as high as the image.
    assert group.reference.max().item() == pytest.approx(0.999) and found.boxes.max().item() == 1
    group.content.sum().backward()  # type: ignore[no-untyped-call]
    assert content.grad is not None and torch.equal(content.grad, found.present[..., None].float().expand(2, 8, 3))


def crowd(count: int = 400) -> Targets:
    """The same small box in the middle many times, so that nothing is clamped; labels 2."""
    boxes = torch.tensor([90.0, 40.0, 110.0, 60.0]).expand(2, count, 4)
    return Targets(boxes, torch.full((2, count), 2), torch.ones(2, count) > 0, (count, count))


HALF = torch.tensor([0.05, 0.1])  # sides of that box, in units of the image


def corner_shifts(found: NoisyObjects) -> Tensor:
    """(.., 4) shifts of the corners in half sides."""
    low, high = found.boxes[..., :2] - found.boxes[..., 2:] / 2, found.boxes[..., :2] + found.boxes[..., 2:] / 2
    return torch.cat([(low - 0.5 + HALF) / HALF, (high - 0.5 - HALF) / HALF], -1)


def assert_uniform(values: Tensor, low: float, high: float) -> None:
    """Mean and variance within five standard errors, ends within a hundredth of the range."""
    width, count = high - low, values.numel()
    assert low - 1e-5 <= values.min() < low + width / 100
    assert high - width / 100 < values.max() <= high + 1e-5
    assert values.mean().item() == pytest.approx((low + high) / 2, abs=5 * width / math.sqrt(12 * count))
    # The fourth moment of a uniform variable about its mean is width**4 / 80: the variance's own variance is 1/180.
    error = 5 * width**2 * math.sqrt(1 / 180 / count)
    assert values.var().item() == pytest.approx(width**2 / 12, abs=error)


@pytest.mark.parametrize("scale", [0.4, 1.0])
def test_corners_of_objects_move_less_than_those_of_decoys(scale: float) -> None:
    torch.manual_seed(0)
    found = contrastive(crowd(), queries=800, box_noise=scale)
    shifts = corner_shifts(found).unflatten(1, (2, 2, 400)) / scale
    assert_uniform(shifts[:, :, 0].abs(), 0, 1)
    assert_uniform(shifts[:, :, 1].abs(), 1, 2)
    # Each coordinate has a sign of its own: none of the 16 patterns is rarer than it should be, by five deviations.
    pattern = ((shifts > 0) * torch.tensor([1, 2, 4, 8])).sum(-1).flatten().bincount(minlength=16)
    expected = shifts[..., 0].numel() / 16
    assert (pattern - expected).abs().max() < 5 * math.sqrt(expected)


def test_corners_stay_in_the_image() -> None:
    torch.manual_seed(0)
    found = contrastive(queries=2000, box_noise=1.0)
    box, present = found.boxes, found.present
    edges = torch.cat([box[..., :2] - box[..., 2:] / 2, box[..., :2] + box[..., 2:] / 2], -1)[present]
    assert edges.min() >= -1e-6 and edges.max() <= 1 + 1e-6
    # A decoy's corners may have changed places; what the decoder is given is a box all the same.
    assert box[..., 2:].min() < 0 and found.group(torch.zeros(2, 4000, 1), eps=1e-3).reference.min() >= 1e-3


def test_plain_noise_moves_centres_and_changes_sides() -> None:
    torch.manual_seed(0)
    found = plain(crowd(), groups=5, box_noise=0.4)
    centre, side = found.boxes[..., :2] - 0.5, found.boxes[..., 2:] - 2 * HALF
    assert_uniform(centre / HALF, -0.4, 0.4)
    assert_uniform(side / (2 * HALF), -0.4, 0.4)


@pytest.mark.parametrize(("kind", "flip"), [(contrastive, 0.25), (plain, 0.2)])
def test_labels_are_drawn_anew_from_all_classes(kind: object, flip: float) -> None:
    torch.manual_seed(0)
    assert callable(kind)
    size = {"queries": 1200} if kind is contrastive else {"groups": 10}
    labels = kind(crowd(), label_flip=flip, **size).labels
    count = labels.numel()
    share = labels.flatten().bincount(minlength=K) / count
    # A drawn label may be the old one.
    expected = torch.full((K,), flip / K) + (torch.arange(K) == 2) * (1 - flip)
    assert (share - expected).abs().max() < 5 * math.sqrt(0.25 / count)


def test_noise_comes_from_the_default_generator() -> None:
    def once(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return contrastive(box_noise=1.0).boxes

    assert torch.equal(once(3), once(3)) and not torch.equal(once(3), once(4))


def seeded(given: Targets, *seeds: int) -> Targets:
    return replace(given, seeds=torch.tensor(seeds))


NOISES = [(contrastive, {"queries": 4}), (plain, {"groups": 4})]


@pytest.mark.parametrize(("kind", "size"), NOISES)
def test_noise_of_an_image_follows_from_its_seed_alone(
    kind: Callable[..., NoisyObjects], size: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not from its place in the batch, nor from how many slots the batch has."""
    settings = {"label_flip": 0.5, "box_noise": 1.0, **size}
    found = kind(seeded(targets(), 8, 9), **settings)
    copies = found.labels.shape[1] // 2
    again = kind(seeded(targets((2, 2)), 9, 9), **settings)  # the first image with the seed of the second
    turned = kind(seeded(targets(), 9, 8), **settings)
    assert torch.equal(turned.boxes[0], again.boxes[0]) and not torch.equal(turned.boxes[0], found.boxes[0])
    monkeypatch.setattr(denoising, "largest_over_ranks", lambda most: 4)
    wide = kind(seeded(targets(), 8, 9), **{**settings, **({"queries": 8} if kind is contrastive else {})})
    assert wide.labels.shape[1] == 4 * copies, "another rank has an image of four objects, here there is room for three"
    boxes, labels = wide.boxes.unflatten(1, (copies, 4)), wide.labels.unflatten(1, (copies, 4))
    assert torch.equal(boxes[:, :, :2].flatten(1, 2), found.boxes)
    assert torch.equal(labels[:, :, :2].flatten(1, 2), found.labels)
    assert not wide.present.unflatten(1, (copies, 4))[:, :, 2:].any()


def test_streams_of_shift_sign_flip_and_label_differ() -> None:
    assert len({denoising._SHIFT, denoising._SIGN, denoising._FLIP, denoising._LABEL}) == 4


def test_a_rank_without_objects_has_as_many_blocks_and_background_as_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As an image without objects beside one with two has in one process."""
    monkeypatch.setattr(denoising, "largest_over_ranks", lambda most: 2)
    found, beside = contrastive(targets((0, 0))), contrastive(targets((2, 0)))
    assert found.blocks == beside.blocks == 2
    assert torch.equal(found.supervision.weights[1], beside.supervision.weights[1])
    assert torch.equal(found.supervision.labels[1], beside.supervision.labels[1])
    assert (found.supervision.weights == 1).all() and (found.supervision.labels == K).all()


def published_mask(match: int, blocks: int, width: int) -> list[list[bool]]:
    """Who may look at whom, denoising queries first: block by block, as the published code builds it."""
    pad = blocks * width
    allowed = [[True] * (pad + match) for _ in range(pad + match)]
    for row in range(pad + match):
        for column in range(pad):
            allowed[row][column] = row < pad and row // width == column // width
    return allowed


def test_attention_equals_the_published_mask_in_double_precision() -> None:
    """Softmax by hand over what the mask leaves, one query and head after the other."""
    torch.manual_seed(0)
    dim, heads, match, found = 8, 2, 3, contrastive()
    layer = GroupedSelfAttention(dim, heads, dropout=0.0).double()
    learned = torch.randn(2, match, dim, dtype=torch.float64)
    groups = [
        QueryGroup("match", learned, None, torch.rand(2, match, 4), Match()),
        found.group(torch.randn(2, 8, dim, dtype=torch.float64), eps=1e-3),
    ]
    content = torch.cat([group.content for group in groups], 1)
    pos = torch.randn_like(content)
    ours = layer(content, pos, Visibility.of(groups))

    order = [*range(match, match + 8), *range(match)]  # denoising queries first
    mask = published_mask(match, blocks=2, width=4)
    weight, bias = layer.in_proj.weight, layer.in_proj.bias
    query, key, _ = ((content + pos) @ weight.T + bias).chunk(3, -1)
    value = (content @ weight.T + bias).chunk(3, -1)[2]
    attended = torch.zeros_like(content)
    for image in range(2):
        for row, q in enumerate(order):
            seen = [k for column, k in enumerate(order) if mask[row][column]]
            for head in range(heads):
                part = slice(head * dim // heads, (head + 1) * dim // heads)
                scores = key[image, seen, part] @ query[image, q, part] / math.sqrt(dim // heads)
                attended[image, q, part] = scores.softmax(0) @ value[image, seen, part]
    expected = layer.norm(content + layer.out_proj(attended))
    torch.testing.assert_close(ours, expected, atol=1e-12, rtol=0)
