"""Dense attention: equal to torch's attention, and nobody looks at padding."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from codetr.models.layers.dense import DenseAttention, dense_attention

DIM, HEADS = 8, 2

# Two implementations of a softmax over seven keys, layer-normalised values of size 1, in float32.
SAME = 2e-6


def layer(dropout: float = 0.0) -> DenseAttention:
    """With biases and a norm that show."""
    module = DenseAttention(DIM, HEADS, dropout=dropout)
    for vector in (module.in_proj.bias, module.out_proj.bias, module.norm.weight, module.norm.bias):
        nn.init.normal_(vector)
    return module


def inputs(queries: int = 5, tokens: int = 7) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return tuple(torch.randn(2, n, DIM) for n in (queries, queries, tokens, tokens))  # type: ignore[return-value]


def test_literal() -> None:
    """One head; keys 0 and log 3 give weights 1/4 and 3/4, so values 4 and 8 give 7; the third key is padding."""
    query, key = torch.ones(1, 1, 1), torch.tensor([[[0.0], [math.log(3)], [50.0]]])
    value = torch.tensor([[[4.0, 0.0], [8.0, 4.0], [100.0, 100.0]]])
    padding = torch.tensor([[False, False, True]])
    found = dense_attention(query, key, value, padding, num_heads=1, dropout=0.0)
    torch.testing.assert_close(found, torch.tensor([[[7.0, 3.0]]]))


def test_it_equals_multihead_attention() -> None:
    module, (content, pos, tokens, token_pos) = layer(), inputs()
    padding = torch.zeros(2, 7, dtype=torch.bool)
    padding[1, 4:] = True
    attention = nn.MultiheadAttention(DIM, HEADS, batch_first=True)
    weights = {
        "in_proj_weight": module.in_proj.weight,
        "in_proj_bias": module.in_proj.bias,
        "out_proj.weight": module.out_proj.weight,
        "out_proj.bias": module.out_proj.bias,
    }
    attention.load_state_dict(weights)
    attended, _ = attention(content + pos, tokens + token_pos, tokens, key_padding_mask=padding, need_weights=False)
    expected = module.norm(content + attended)
    torch.testing.assert_close(module(content, pos, tokens, token_pos, padding), expected, atol=SAME, rtol=0)


def test_padded_tokens_have_no_part() -> None:
    module, (content, pos, tokens, token_pos) = layer(), inputs()
    padding = torch.zeros(2, 7, dtype=torch.bool)
    padding[0, 5:] = True
    before = module(content, pos, tokens, token_pos, padding)
    other = torch.where(padding[..., None], torch.randn_like(tokens), tokens)
    assert torch.equal(module(content, pos, other, token_pos, padding), before)
    assert not torch.equal(module(content, pos, other, token_pos, ~padding), before)


def test_dropout_is_for_training() -> None:
    module, (content, pos, tokens, token_pos) = layer(dropout=0.5), inputs()
    padding = torch.zeros(2, 7, dtype=torch.bool)
    given = (content, pos, tokens, token_pos, padding)
    assert not torch.equal(module(*given), module(*given))
    module.eval()
    assert torch.equal(module(*given), module(*given))


def test_initial_projections_are_those_of_multihead_attention() -> None:
    module = DenseAttention(DIM, HEADS, dropout=0.0)
    for linear in (module.in_proj, module.out_proj):
        bound = (6 / (linear.in_features + linear.out_features)) ** 0.5
        # Xavier: uniform up to the bound; of 64 or more draws the largest is above half of it.
        assert bound / 2 < linear.weight.abs().max() <= bound
        assert (linear.bias == 0).all()
