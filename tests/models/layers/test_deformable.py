"""Deformable attention as a layer: where it looks, and what it must not see."""

from __future__ import annotations

import pytest
import torch
from codetr_kernels import deform_attention, deform_attention_fused
from codetr_kernels.deform_attention import sampling_locations
from torch import Tensor, nn

from codetr.models.layers import deformable
from codetr.models.layers.deformable import DeformableAttention, LayerSize

SHAPES = ((2, 4), (1, 2))
SIZE = LayerSize(dim=8, num_heads=2, num_levels=2, num_points=3, ffn_dim=16, dropout=0.0)

# Layer-normalised values of size 1, the same float32 sums in batches of another size.
SAME = 1e-6


def layer() -> DeformableAttention:
    """With every parameter away from its initial value."""
    module = DeformableAttention(SIZE)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def inputs(queries: int) -> dict[str, Tensor]:
    return {"content": torch.randn(2, queries, 8), "pos": torch.randn(2, queries, 8)}


def memory(padded: tuple[int, ...] = ()) -> dict[str, object]:
    """Ten tokens of two images; those at the indices `padded` are padded in the second image."""
    padding = torch.zeros(2, 10, dtype=torch.bool)
    padding[1, list(padded)] = True
    return {"tokens": torch.randn(2, 10, 8), "padding": padding, "shapes": SHAPES}


def test_offsets_start_in_compass_directions() -> None:
    module = DeformableAttention(LayerSize(dim=8, num_heads=8, num_levels=2, num_points=3, ffn_dim=8, dropout=0.0))
    east, south_east, south = (1, 0), (1, 1), (0, 1)
    compass = [east, south_east, south, (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    expected = torch.tensor([[[[p * x, p * y] for p in (1, 2, 3)]] * 2 for x, y in compass], dtype=torch.float32)
    offsets = module.sampling_offsets(torch.randn(8)).view(8, 2, 3, 2)
    # Sine and cosine of multiples of pi / 4 in float32, times 3.
    torch.testing.assert_close(offsets, expected, atol=2e-6, rtol=0)


def test_weights_start_equal() -> None:
    module = DeformableAttention(SIZE)
    assert module.attention_weights(torch.randn(3, 8)).abs().max() == 0


def test_offsets_from_a_point_are_in_cells() -> None:
    # Levels 2 x 4 and 1 x 2 (height x width), one head, two points.
    offsets = torch.tensor([[[1.0, 1.0], [-2.0, 0.5]], [[1.0, 1.0], [0.0, -1.0]]]).view(1, 1, 1, 2, 2, 2)
    reference = torch.tensor([[0.5, 0.5], [0.25, 0.75]]).view(1, 1, 2, 2)
    expected = [[[0.75, 1.0], [0.0, 0.75]], [[0.75, 1.75], [0.25, -0.25]]]
    assert sampling_locations(offsets, reference, SHAPES)[0, 0, 0].tolist() == expected


def test_offsets_from_a_box_are_in_shares_of_half_its_side() -> None:
    # Two points: an offset of 2 reaches the edge of the box, whatever the level.
    offsets = torch.tensor([[[2.0, 2.0], [-2.0, 0.0]], [[1.0, -1.0], [0.0, 4.0]]]).view(1, 1, 1, 2, 2, 2)
    reference = torch.tensor([[0.5, 0.5, 0.5, 0.25], [0.5, 0.5, 0.5, 0.25]]).view(1, 1, 2, 4)
    expected = [[[0.75, 0.625], [0.25, 0.5]], [[0.625, 0.4375], [0.5, 0.75]]]
    assert sampling_locations(offsets, reference, SHAPES)[0, 0, 0].tolist() == expected


@pytest.mark.parametrize("width", [2, 4])
def test_equals_its_definition(width: int) -> None:
    module, given, seen = layer(), inputs(4), memory((3, 7, 9))
    reference = torch.rand(2, 4, 2, width)
    found = module(**given, references=[reference], **seen)
    query = given["content"] + given["pos"]
    locations = sampling_locations(module.sampling_offsets(query).view(2, 4, 2, 2, 3, 2), reference, SHAPES)
    # One softmax over the samples of all levels.
    weights = module.attention_weights(query).view(2, 4, 2, 6).softmax(-1).view(2, 4, 2, 2, 3)
    tokens, padding = seen["tokens"], seen["padding"]
    value = (module.value_proj(tokens) * ~padding[..., None]).view(2, 10, 2, 4)
    attended = module.output_proj(deform_attention(value, SHAPES, locations, weights))
    torch.testing.assert_close(found, module.norm(given["content"] + attended), atol=SAME, rtol=0)


def test_mixed_references_equal_separate_calls() -> None:
    module, given, seen = layer(), inputs(7), memory()
    points, boxes = torch.rand(2, 3, 2, 2), torch.rand(2, 4, 2, 4)
    found = module(**given, references=[points, boxes], **seen)
    first = module(given["content"][:, :3], given["pos"][:, :3], [points], **seen)
    second = module(given["content"][:, 3:], given["pos"][:, 3:], [boxes], **seen)
    torch.testing.assert_close(found, torch.cat([first, second], dim=1), atol=SAME, rtol=0)


def test_padded_tokens_are_not_seen() -> None:
    padded = (3, 7, 9)
    module, given, seen = layer(), inputs(6), memory(padded)
    reference = torch.rand(2, 6, 2, 2)
    before = module(**given, references=[reference], **seen)
    noisy = seen["tokens"].clone()
    noisy[1, list(padded)] += 100
    assert torch.equal(module(**given, references=[reference], **{**seen, "tokens": noisy}), before)
    noisy[1, 0] += 1
    assert not torch.equal(module(**given, references=[reference], **{**seen, "tokens": noisy}), before)


def test_padded_tokens_count_as_zero_and_not_as_the_bias() -> None:
    module, given, seen = layer(), inputs(3), memory(tuple(range(10)))
    nn.init.constant_(module.value_proj.bias, 5.0)
    found = module(**given, references=[torch.rand(2, 3, 2, 2)], **seen)
    empty = module.norm(given["content"] + module.output_proj.bias)
    torch.testing.assert_close(found[1], empty[1], atol=SAME, rtol=0)
    assert not torch.allclose(found[0], empty[0], atol=0.1)


def test_references_stay_in_single_precision_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    seen_types = []

    def spy(value: Tensor, shapes: object, references: Tensor, *rest: Tensor) -> Tensor:
        seen_types.append((value.dtype, references.dtype))
        return deform_attention_fused(value, shapes, references, *rest)

    monkeypatch.setattr(deformable, "deform_attention_fused", spy)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer()(**inputs(3), references=[torch.rand(2, 3, 2, 2)], **memory())
    assert seen_types == [(torch.bfloat16, torch.float32)]
