"""The fused form: what it means, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from codetr_kernels import deform_attention, deform_attention_fused
from codetr_kernels.deform_attention import sampling_locations
from samples import fused

# One head of one channel: a level [[1, 2], [3, 4]] and a level [[10]].
SHAPES = ((2, 2), (1, 1))
VALUE = torch.tensor([1.0, 2.0, 3.0, 4.0, 10.0]).view(1, 5, 1, 1)


@pytest.mark.literal
def test_points_shift_by_cells_and_logits_by_softmax() -> None:
    # At the level's middle, shifted by half a cell to the first cell's centre: 1. The other level's cell: 10.
    references = torch.full((1, 1, 2, 2), 0.5)
    offsets = torch.tensor([[-0.5, -0.5], [0.0, 0.0]]).view(1, 1, 1, 2, 1, 2)
    logits = torch.tensor([0.75, 0.25]).log().view(1, 1, 1, 2)
    out = deform_attention_fused(VALUE, SHAPES, references, offsets, logits)
    torch.testing.assert_close(out, torch.tensor([[[0.75 * 1 + 0.25 * 10]]]), rtol=1e-6, atol=0)


@pytest.mark.literal
def test_boxes_shift_by_shares_of_half_their_side() -> None:
    # One point: an offset of 1 is half a side, here a quarter of the level, half a cell.
    references = torch.tensor([0.5, 0.5, 0.5, 0.5]).expand(1, 1, 2, 4)
    offsets = torch.tensor([[1.0, -1.0], [0.0, 0.0]]).view(1, 1, 1, 2, 1, 2)
    logits = torch.tensor([0.0, -200.0]).view(1, 1, 1, 2)  # exp(-200) is nothing in float32
    assert deform_attention_fused(VALUE, SHAPES, references, offsets, logits).item() == 2.0


@pytest.mark.literal
def test_padded_tokens_count_as_zeros_whatever_they_hold() -> None:
    value = VALUE.clone()
    value[0, 1] = float("nan")
    padding = torch.tensor([[False, True, False, False, False]])
    references, offsets = torch.full((1, 1, 2, 2), 0.5), torch.zeros(1, 1, 1, 2, 1, 2)
    logits = torch.tensor([0.0, -200.0]).view(1, 1, 1, 2)
    out = deform_attention_fused(value, SHAPES, references, offsets, logits, padding)
    assert out.item() == (1 + 0 + 3 + 4) / 4


@pytest.mark.parametrize("width", [2, 4])
def test_is_the_plain_form_after_its_parts(width: int) -> None:
    p = fused(width=width, dtype=torch.float64)
    masked = p.value.masked_fill(p.padding[..., None, None], 0.0)
    locations = sampling_locations(p.offsets, p.references, p.shapes)
    weights = p.logits.softmax(-1).view(p.offsets.shape[:-1])
    plain = deform_attention(masked, p.shapes, locations, weights)
    out = deform_attention_fused(p.value, p.shapes, p.references, p.offsets, p.logits, p.padding)
    torch.testing.assert_close(out, plain, rtol=0, atol=1e-14)


@pytest.mark.literal
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": torch.zeros(1, 5, 1)}, r"value must be \(B, S, H, D\)"),
        ({"offsets": torch.zeros(1, 3, 1, 2, 4)}, r"offsets must be \(B, Q, H, L, P, 2\)"),
        (
            {"logits": torch.zeros(1, 3, 1, 2, 4)},
            r"logits must be \(1, 3, 1, 8\), one a sample of offsets, got \(1, 3,",
        ),
        ({"references": torch.zeros(1, 3, 2, 3)}, r"references must be \(1, 3, 2\) points \(2\) or boxes \(4\), got"),
        ({"references": torch.zeros(1, 3, 2)}, r"references must be \(1, 3, 2\) points"),
        ({"references": torch.zeros(1, 4, 2, 2)}, r"references must be \(1, 3, 2\) points"),
        ({"shapes": ((5, 1),)}, "1 level shapes, but offsets has 2 levels"),
        ({"shapes": torch.tensor([[2.0, 2.0], [1.0, 1.0]])}, r"shapes must be int \(L, 2\), height then width"),
        ({"shapes": torch.tensor([[2, 2, 1], [1, 1, 1]])}, r"shapes must be int \(L, 2\)"),
        ({"shapes": torch.tensor([[5, 1], [0, 2]])}, "every level needs a positive height and width"),
        ({"padding": torch.zeros(1, 5)}, r"padding must be bool \(1, 5\), got torch.float32 \(1, 5\)"),
        ({"padding": torch.zeros(1, 4, dtype=torch.bool)}, r"padding must be bool \(1, 5\), got torch.bool \(1, 4\)"),
        ({"padding": torch.zeros(1, 5, dtype=torch.bool, device="meta")}, "value on cpu, padding on meta"),
        ({"logits": torch.zeros(1, 3, 1, 8, dtype=torch.int64)}, "floating-point tensors needed"),
        ({"accumulate": "bfloat16"}, """accumulate must be "float32" or "native", got 'bfloat16'"""),
        ({"accumulate": "native", "deterministic": True}, "fixed point, accumulate=.native. in 16 bits: choose one"),
    ],
)
def test_what_does_not_fit_is_an_error(changes: dict[str, object], message: str) -> None:
    arguments = {
        "value": VALUE,
        "shapes": SHAPES,
        "references": torch.zeros(1, 3, 2, 2),
        "offsets": torch.zeros(1, 3, 1, 2, 4, 2),
        "logits": torch.zeros(1, 3, 1, 8),
        "padding": torch.zeros(1, 5, dtype=torch.bool),
        "accumulate": "float32",
    }
    assert deform_attention_fused(**arguments).shape == (1, 3, 1)
    with pytest.raises(ValueError, match=message):
        deform_attention_fused(**{**arguments, **changes})
