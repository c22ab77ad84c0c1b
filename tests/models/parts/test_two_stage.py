"""Boxes that the tokens stand for, and the proposals made from them."""

from __future__ import annotations

import torch
from torch import Tensor

from codetr.models.parts.prediction_heads import apply_deltas
from codetr.models.parts.two_stage import TokenProposals, best_tokens, token_boxes
from codetr.structures import Memory

DIM = 8


def memory(shapes: tuple[tuple[int, int], ...], padding: Tensor | None = None) -> Memory:
    count = sum(h * w for h, w in shapes)
    tokens = torch.randn(1, count, DIM)
    padding = torch.zeros(1, count, dtype=torch.bool) if padding is None else padding
    strides = tuple(8 * 2**level for level in range(len(shapes)))
    return Memory(tokens, torch.zeros_like(tokens), padding, shapes, strides, torch.tensor([[16.0, 16.0]]))


def test_boxes_of_two_levels() -> None:
    boxes, valid = token_boxes(memory(((2, 2), (1, 1))))
    expected = [[x, y, 0.05, 0.05] for y in (0.25, 0.75) for x in (0.25, 0.75)] + [[0.5, 0.5, 0.1, 0.1]]
    torch.testing.assert_close(boxes, torch.tensor([expected]))
    assert valid.tolist() == [[True] * 5]


def test_boxes_count_in_units_of_the_image_without_padding() -> None:
    # A level of 2 x 2 cells whose right column is padded.
    boxes, valid = token_boxes(memory(((2, 2),), torch.tensor([[False, True, False, True]])))
    expected = [[0.5, 0.25, 0.05, 0.05], [1.5, 0.25, 0.05, 0.05], [0.5, 0.75, 0.05, 0.05], [1.5, 0.75, 0.05, 0.05]]
    torch.testing.assert_close(boxes, torch.tensor([expected]))
    assert valid.tolist() == [[True, False, True, False]]


def test_a_padded_token_never_proposes() -> None:
    # Its centre lies inside: the second of two rows, with the mask of the first column unbroken.
    _, valid = token_boxes(memory(((2, 2),), torch.tensor([[False, False, False, True]])))
    assert valid.tolist() == [[True, True, True, False]]


def test_tokens_close_to_the_edge_do_not_propose() -> None:
    # Centres at 1/160, 3/160, ...: only the first and the last lie within 0.01 of the edge.
    _, valid = token_boxes(memory(((1, 80),)))
    assert valid.tolist() == [[False, *[True] * 78, False]]
    _, valid = token_boxes(memory(((80, 1),)))
    assert valid.tolist() == [[False, *[True] * 78, False]]


def test_a_level_whose_boxes_are_larger_than_the_image_does_not_propose() -> None:
    # Sides 0.05, 0.1, 0.2, 0.4, 0.8, 1.6.
    boxes, valid = token_boxes(memory(((1, 1),) * 6))
    torch.testing.assert_close(boxes[0, :, 2], torch.tensor([0.05, 0.1, 0.2, 0.4, 0.8, 1.6]))
    assert valid.tolist() == [[True] * 5 + [False]]


def proposals() -> TokenProposals:
    """With box deltas that differ from zero."""
    module = TokenProposals(DIM, num_classes=3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module


PADDED = torch.tensor([[False, True, False, True]])


def test_proposals_start_at_their_boxes() -> None:
    given = memory(((2, 2),))
    logits, boxes, _ = TokenProposals(DIM, num_classes=3)(given)
    assert logits.shape == (1, 4, 3)
    # Logit and sigmoid in float32.
    torch.testing.assert_close(boxes, token_boxes(given)[0], atol=1e-6, rtol=0)


def test_deltas_are_applied_to_the_boxes_of_the_tokens() -> None:
    module, given = proposals(), memory(((2, 2),))
    logits, boxes, _ = module(given)
    tokens = module.norm(module.project(given.tokens))
    torch.testing.assert_close(logits, module.heads.classes[0](tokens))
    expected = apply_deltas(module.heads.boxes[0](tokens), token_boxes(given)[0], eps=1e-5)
    torch.testing.assert_close(boxes, expected)


def test_tokens_that_may_not_propose_get_the_whole_corner_and_the_logits_of_nothing() -> None:
    module, given = proposals(), memory(((2, 2),), PADDED)
    logits, boxes, valid = module(given)
    assert valid.tolist() == (~PADDED).tolist()
    assert boxes[0, 1].tolist() == boxes[0, 3].tolist() == [1, 1, 1, 1]
    assert (boxes[0, ::2] != 1).all()
    nothing = module.heads.classes[0](module.norm(module.project.bias))
    torch.testing.assert_close(logits[0, 1::2], nothing.expand(2, 3))


def test_tokens_that_may_not_propose_get_no_gradient() -> None:
    module, given = proposals(), memory(((2, 2),), PADDED)
    given.tokens.requires_grad_()
    logits, boxes, _ = module(given)
    (from_boxes,) = torch.autograd.grad(boxes[PADDED].sum(), module.heads.boxes[0].last.bias, retain_graph=True)
    assert (from_boxes == 0).all()
    (grad,) = torch.autograd.grad(logits.sum() + boxes.sum(), given.tokens)
    assert grad.isfinite().all()
    assert (grad[PADDED] == 0).all() and (grad[~PADDED].abs().sum(-1) > 0).all()


def test_best_tokens() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.7], [4.0, 3.0, 2.0, 1.0]])
    assert best_tokens(scores, 2).tolist() == [[1, 3], [0, 1]]
    assert best_tokens(scores, 9).tolist() == [[1, 3, 2, 0], [0, 1, 2, 3]]
