"""Conditional attention: equal to torch's attention on queries and keys put together by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from codetr.models.layers.attention import Visibility
from codetr.models.layers.conditional import ConditionalCrossAttention, ConditionalSelfAttention
from codetr.structures import Match, Memory, QueryGroup

DIM, HEADS = 8, 2

# Two implementations of a softmax over at most nine keys, layer-normalised values of size 1, in float32.
SAME = 2e-6


def scattered(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module


def group(name: str, size: int) -> QueryGroup:
    content, pos = torch.randn(2, size, DIM), torch.randn(2, size, DIM)
    return QueryGroup(name, content, pos, torch.rand(2, size, 2), Match())


def memory(padded: int = 2) -> Memory:
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[1, 6 - padded :] = True
    tokens, pos = torch.randn(2, 6, DIM), torch.randn(2, 6, DIM)
    return Memory(tokens, pos, padding, ((2, 3),), (32,), torch.tensor([[64.0, 96.0]] * 2))


def attention(query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None = None) -> Tensor:
    """One head, by its definition."""
    logits = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    if seen is not None:
        logits = logits.masked_fill(~seen[:, None], -torch.inf)
    return logits.softmax(-1) @ value


def test_self_attention_adds_the_two_projections() -> None:
    module = scattered(ConditionalSelfAttention(DIM, HEADS, dropout=0.0))
    assert isinstance(module, ConditionalSelfAttention)
    queries = group("match", 5)
    content, pos = queries.content, queries.pos
    query = module.query_content(content) + module.query_pos(pos)
    key, value = module.key_content(content) + module.key_pos(pos), module.value(content)
    heads = [attention(q, k, v) for q, k, v in zip(*(x.chunk(HEADS, -1) for x in (query, key, value)), strict=True)]
    expected = module.norm(content + module.out_proj(torch.cat(heads, -1)))
    torch.testing.assert_close(module(content, pos, Visibility.of([queries])), expected, atol=SAME, rtol=0)


def test_groups_do_not_see_each_other() -> None:
    module = scattered(ConditionalSelfAttention(DIM, HEADS, dropout=0.0))
    groups = [group("match", 4), group("pos.atss", 3)]
    content, pos = (torch.cat([getattr(g, name) for g in groups], 1) for name in ("content", "pos"))
    joint = module(content, pos, Visibility.of(groups)).split([4, 3], 1)
    for part, alone in zip(joint, groups, strict=True):
        expected = module(alone.content, alone.pos, Visibility.of([alone]))
        torch.testing.assert_close(part, expected, atol=SAME, rtol=0)


@pytest.mark.parametrize("first", [True, False])
def test_cross_attention_puts_content_and_place_side_by_side_in_each_head(first: bool) -> None:
    module = scattered(ConditionalCrossAttention(DIM, HEADS, dropout=0.0, first=first))
    assert isinstance(module, ConditionalCrossAttention)
    content, pos, sine, tokens = torch.randn(2, 5, DIM), torch.randn(2, 5, DIM), torch.randn(2, 5, DIM), memory()
    query, key, key_pos = module.query_content(content), module.key_content(tokens.tokens), module.key_pos(tokens.pos)
    if first:
        assert module.query_pos is not None
        query, key = query + module.query_pos(pos), key + key_pos
    spatial, value = module.query_sine(sine), module.value(tokens.tokens)
    parts = zip(*(x.chunk(HEADS, -1) for x in (query, spatial, key, key_pos, value)), strict=True)
    heads = [attention(torch.cat([q, s], -1), torch.cat([k, p], -1), v, ~tokens.padding) for q, s, k, p, v in parts]
    expected = module.norm(content + module.out_proj(torch.cat(heads, -1)))
    torch.testing.assert_close(module(content, pos, sine, tokens), expected, atol=SAME, rtol=0)


def test_only_the_first_layer_reads_positions() -> None:
    content, pos, sine, tokens = torch.randn(2, 5, DIM), torch.randn(2, 5, DIM), torch.randn(2, 5, DIM), memory()
    first, later = (ConditionalCrossAttention(DIM, HEADS, dropout=0.0, first=first) for first in (True, False))
    assert not torch.equal(first(content, pos, sine, tokens), first(content, -pos, sine, tokens))
    assert torch.equal(later(content, pos, sine, tokens), later(content, -pos, sine, tokens))
    names = {name for name, _ in first.named_parameters()} - {name for name, _ in later.named_parameters()}
    assert names == {"query_pos.weight", "query_pos.bias"}


def test_dropout_is_for_training() -> None:
    queries, tokens = group("match", 5), memory()
    given = Visibility.of([queries])
    own = ConditionalSelfAttention(DIM, HEADS, dropout=0.5)
    cross = ConditionalCrossAttention(DIM, HEADS, dropout=0.5, first=True)
    for run in (
        lambda: own(queries.content, queries.pos, given),
        lambda: cross(queries.content, queries.pos, queries.pos, tokens),
    ):
        own.train(), cross.train()
        assert not torch.equal(run(), run())
        own.eval(), cross.eval()
        assert torch.equal(run(), run())


def test_initial_weights() -> None:
    module = ConditionalCrossAttention(DIM, HEADS, dropout=0.0, first=True)
    for name, linear in module.named_children():
        if isinstance(linear, nn.Linear):
            bound = (6 / (2 * DIM)) ** 0.5
            # Xavier: uniform up to the bound; of 64 draws the largest is above half of it.
            assert bound / 2 < linear.weight.abs().max() <= bound, name
            assert (linear.bias == 0).all() == (name == "out_proj"), name
