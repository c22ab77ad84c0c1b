"""Self-attention over groups: equal to torch's attention, and who sees whom."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

from codetr.models.layers.attention import GroupedSelfAttention, Visibility
from codetr.structures import Match, QueryGroup

DIM, HEADS = 8, 2

# Two implementations of a softmax over at most nine keys, layer-normalised values of size 1, in float32.
SAME = 2e-6


def group(
    name: str, size: int, *, valid: Tensor | None = None, sees: Iterable[str] = (), blocks: int = 1
) -> QueryGroup:
    content, pos, reference = torch.randn(2, size, DIM), torch.randn(2, size, DIM), torch.rand(2, size, 2)
    return QueryGroup(name, content, pos, reference, Match(), valid=valid, sees=frozenset(sees), blocks=blocks)


def layer(dropout: float = 0.0) -> GroupedSelfAttention:
    """With biases and a norm that show."""
    module = GroupedSelfAttention(DIM, HEADS, dropout=dropout)
    for vector in (module.in_proj.bias, module.out_proj.bias, module.norm.weight, module.norm.bias):
        nn.init.normal_(vector)
    return module


def joined(groups: list[QueryGroup]) -> tuple[Tensor, Tensor]:
    return torch.cat([g.content for g in groups], 1), torch.cat([g.pos for g in groups], 1)


def run(module: GroupedSelfAttention, groups: list[QueryGroup]) -> list[Tensor]:
    """The output of each group."""
    out = module(*joined(groups), Visibility.of(groups))
    return list(out.split([len(g) for g in groups], dim=1))


def torchs(module: GroupedSelfAttention, content: Tensor, pos: Tensor, blocked: Tensor | None) -> Tensor:
    """The same by `nn.MultiheadAttention` with the same weights. blocked: (B * heads, N, N), True where hidden."""
    attention = nn.MultiheadAttention(DIM, HEADS, batch_first=True)
    weights = {
        "in_proj_weight": module.in_proj.weight,
        "in_proj_bias": module.in_proj.bias,
        "out_proj.weight": module.out_proj.weight,
        "out_proj.bias": module.out_proj.bias,
    }
    attention.load_state_dict(weights)
    query = content + pos
    attended, _ = attention(query, query, content, attn_mask=blocked, need_weights=False)
    return module.norm(content + attended)


def test_one_group_equals_multihead_attention() -> None:
    module, groups = layer(), [group("match", 5)]
    (found,) = run(module, groups)
    torch.testing.assert_close(found, torchs(module, *joined(groups), None), atol=SAME, rtol=0)


def test_groups_equal_multihead_attention_under_the_mask_that_they_stand_for() -> None:
    valid = torch.tensor([[True, True, False], [True, False, False]])
    groups = [group("a", 4), group("b", 3, valid=valid), group("c", 2, sees=["b"])]
    seen = torch.zeros(2, 9, 9, dtype=torch.bool)
    seen[:, :4, :4] = True
    seen[:, 4:7, 4:7] = valid[:, None] | torch.eye(3, dtype=torch.bool)
    seen[:, 7:, 4:7] = valid[:, None]
    seen[:, 7:, 7:] = True
    module = layer()
    expected = torchs(module, *joined(groups), ~seen.repeat_interleave(HEADS, dim=0))
    torch.testing.assert_close(torch.cat(run(module, groups), 1), expected, atol=SAME, rtol=0)


@pytest.mark.parametrize("sees", [(), ("a",)])
def test_blocks_see_themselves_and_what_the_group_sees(sees: tuple[str, ...]) -> None:
    """Once folded into the batch, once under a mask, as the group sees nothing else or something."""
    groups = [group("a", 2), group("b", 6, sees=sees, blocks=3)]
    seen = torch.zeros(8, 8, dtype=torch.bool)
    seen[:2, :2] = True
    for start in (2, 4, 6):
        seen[start : start + 2, start : start + 2] = True
    seen[2:, :2] = bool(sees)
    assert Visibility.of(groups).folds(1) is not bool(sees)
    module = layer()
    expected = torchs(module, *joined(groups), ~seen.expand(2 * HEADS, -1, -1))
    torch.testing.assert_close(torch.cat(run(module, groups), 1), expected, atol=SAME, rtol=0)


def test_invalid_keys_within_blocks() -> None:
    valid = torch.tensor([[True, False, True, True]])
    mask = Visibility.of([group("a", 4, valid=valid, blocks=2)]).mask(0)
    assert mask is not None
    rows = [[True, False, False, False], [True, True, False, False], [False, False, True, True]]
    assert mask.tolist() == [[[*rows, rows[2]]]]


def test_blocks_of_unequal_length_are_an_error() -> None:
    with pytest.raises(ValueError, match="group 'dn' has 5 queries, which are not 2 blocks"):
        Visibility.of([group("dn", 5, blocks=2)])


def changed(groups: list[QueryGroup], index: int) -> list[QueryGroup]:
    """The groups, with another content and position in one of them."""
    old = groups[index]
    new = group(old.name, len(old), valid=old.valid, sees=old.sees)
    return [*groups[:index], new, *groups[index + 1 :]]


def test_groups_do_not_see_each_other() -> None:
    module, groups = layer(), [group("a", 4), group("b", 3)]
    before, after = run(module, groups), run(module, changed(groups, 1))
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1], atol=1e-2)


def test_a_group_sees_what_it_names_and_is_not_seen_in_turn() -> None:
    module, groups = layer(), [group("a", 4, sees=["b"]), group("b", 3), group("c", 2)]
    before = run(module, groups)
    assert [torch.equal(x, y) for x, y in zip(before, run(module, changed(groups, 0)), strict=True)] == [
        False,
        True,
        True,
    ]
    assert [torch.equal(x, y) for x, y in zip(before, run(module, changed(groups, 1)), strict=True)] == [
        False,
        False,
        True,
    ]
    assert [torch.equal(x, y) for x, y in zip(before, run(module, changed(groups, 2)), strict=True)] == [
        True,
        True,
        False,
    ]


def test_invalid_keys_are_not_seen() -> None:
    valid = torch.tensor([[True, False, True], [False, False, False]])
    module, groups = layer(), [group("a", 2, sees=["b"]), group("b", 3, valid=valid)]
    before = run(module, groups)
    noisy = groups[1].content.masked_scatter(~valid[..., None], torch.randn(4 * DIM))
    other = QueryGroup("b", noisy, groups[1].pos, groups[1].reference, Match(), valid=valid)
    after = run(module, [groups[0], other])
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1][valid], after[1][valid])
    assert not torch.allclose(before[1][~valid], after[1][~valid], atol=1e-2)


def test_a_group_without_valid_queries_is_finite() -> None:
    module, groups = layer(), [group("a", 3, valid=torch.zeros(2, 3, dtype=torch.bool))]
    (out,) = run(module, groups)
    assert out.isfinite().all()
    out.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_spans_and_keys() -> None:
    visibility = Visibility.of([group("a", 4), group("b", 3, sees=["c", "a"]), group("c", 2)])
    assert visibility.spans == ((0, 4), (4, 7), (7, 9))
    assert visibility.keys == ((0,), (0, 1, 2), (2,))
    assert [visibility.mask(i) for i in range(3)] == [None, None, None]


def test_masks() -> None:
    valid = torch.tensor([[True, False], [False, False]])
    visibility = Visibility.of([group("a", 3, sees=["b"]), group("b", 2, valid=valid), group("c", 1)])
    first, second = visibility.mask(0), visibility.mask(1)
    assert first is not None and second is not None and visibility.mask(2) is None
    assert first.tolist() == [[[[True] * 3 + [True, False]] * 3], [[[True] * 3 + [False, False]] * 3]]
    # A query sees itself even where it is not valid.
    assert second.tolist() == [[[[True, False], [True, True]]], [[[True, False], [False, True]]]]


def test_a_group_that_is_not_there_is_an_error() -> None:
    groups = [group("match", 2), group("pos.atss", 2, sees=["match", "pos.rcnn"])]
    with pytest.raises(
        ValueError, match=r"group 'pos\.atss' sees \['pos\.rcnn'\], which are not among \['match', 'pos"
    ):
        Visibility.of(groups)


@pytest.mark.parametrize("rate_of_output", [0.5, 0.0])
def test_dropout_is_for_training(rate_of_output: float) -> None:
    """With the dropout of the output switched off, that of the attention weights remains."""
    module, groups = layer(dropout=0.5), [group("a", 4)]
    module.dropout.p = rate_of_output
    assert not torch.equal(run(module, groups)[0], run(module, groups)[0])
    module.eval()
    assert torch.equal(run(module, groups)[0], run(module, groups)[0])
