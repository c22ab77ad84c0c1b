"""The decoder of the deformable family."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from codetr.models.layers.attention import Visibility
from codetr.models.layers.deformable import LayerSize
from codetr.models.parts.deformable_decoder import DeformableDecoder
from codetr.models.parts.prediction_heads import PredictionHeads, apply_deltas
from codetr.models.parts.reference_position import ReferencePosition
from codetr.ops.reference import on_levels, valid_ratios
from codetr.structures import Match, Memory, QueryGroup

SIZE = LayerSize(dim=8, num_heads=2, num_levels=2, num_points=2, ffn_dim=16, dropout=0.0)
SHAPES = ((3, 4), (2, 2))
LAYERS = 3
EPS = 1e-5

# Three layers of float32 on layer-normalised values of size 1, sums in another order.
SAME = 1e-5


def scattered(module: nn.Module) -> nn.Module:
    """The module with every parameter away from its initial value."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module


def decoder(*, box_refine: bool = False, look_forward_twice: bool = False) -> DeformableDecoder:
    module = DeformableDecoder(SIZE, num_layers=LAYERS, box_refine=box_refine, look_forward_twice=look_forward_twice)
    assert isinstance(scattered(module), DeformableDecoder)
    return module


def heads(*, shared: bool = False) -> PredictionHeads:
    module = PredictionHeads(8, 5, num_layers=LAYERS, shared=shared)
    scattered(module)
    return module


def constant_heads(delta: float) -> PredictionHeads:
    """Every layer moves every coordinate by the same delta in logit space."""
    module = PredictionHeads(8, 5, num_layers=LAYERS, shared=False)
    for mlp in module.boxes:
        nn.init.constant_(mlp.last.bias, delta)
    return module


def memory(padding: Tensor | None = None) -> Memory:
    tokens = torch.randn(2, 16, 8)
    padding = torch.zeros(2, 16, dtype=torch.bool) if padding is None else padding
    return Memory(tokens, torch.zeros_like(tokens), padding, SHAPES, (8, 16), torch.tensor([[24.0, 32.0]] * 2))


def group(name: str, size: int, width: int = 4) -> QueryGroup:
    reference = 0.2 + 0.6 * torch.rand(2, size, width)
    return QueryGroup(name, torch.randn(2, size, 8), torch.randn(2, size, 8), reference, Match())


def logit(x: Tensor) -> Tensor:
    return torch.log(x / (1 - x))


@pytest.mark.parametrize(("box_refine", "steps"), [(False, [1, 1, 1]), (True, [1, 2, 3])])
def test_boxes_start_at_the_reference_or_at_the_box_before(box_refine: bool, steps: list[int]) -> None:
    queries, delta = group("match", 4), math.log(2)
    output = decoder(box_refine=box_refine)(memory(), [queries], constant_heads(delta))
    assert output.logits.shape == (LAYERS, 2, 4, 5)
    expected = torch.stack([(logit(queries.reference) + step * delta).sigmoid() for step in steps])
    torch.testing.assert_close(output.boxes, expected)


def test_points_become_boxes_with_refinement() -> None:
    queries, delta = group("match", 4, width=2), math.log(2)
    output = decoder(box_refine=True)(memory(), [queries], constant_heads(delta))
    centres = torch.stack([(logit(queries.reference) + step * delta).sigmoid() for step in (1, 2, 3)])
    torch.testing.assert_close(output.boxes[..., :2], centres)
    # Sizes: sigmoid of log 2, log 4, log 8.
    sides = torch.tensor([2 / 3, 4 / 5, 8 / 9])[:, None, None, None].expand(LAYERS, 2, 4, 2)
    torch.testing.assert_close(output.boxes[..., 2:], sides)


@pytest.mark.parametrize("look_forward_twice", [False, True])
@pytest.mark.parametrize("box_refine", [False, True])
def test_layers_follow_each_other(box_refine: bool, look_forward_twice: bool) -> None:
    """Against the same layers called one by one; later layers sample around the boxes of earlier ones."""
    module, predict, queries = (
        decoder(box_refine=box_refine, look_forward_twice=look_forward_twice),
        heads(),
        group("match", 4),
    )
    padding = torch.zeros(2, 16, dtype=torch.bool)
    padding[1, 3:12:4] = padding[1, 13::2] = True  # the last column of both levels
    given = memory(padding)
    output = module(given, [queries], predict)
    content, reference = queries.content, queries.reference
    ratios, alone = valid_ratios(padding, SHAPES), Visibility.of([queries])
    for index, layer in enumerate(module.layers):
        content = layer(content, queries.pos, [on_levels(reference, ratios)], alone, given)
        logits, deltas = predict(content, index)
        box = apply_deltas(deltas, reference, eps=EPS)
        reference = box if box_refine else reference
        torch.testing.assert_close(output.logits[index], logits, atol=SAME, rtol=0)
        torch.testing.assert_close(output.boxes[index], box, atol=SAME, rtol=0)


def test_groups_of_mixed_references_equal_separate_calls() -> None:
    module, predict, given = decoder(box_refine=True), heads(), memory()
    groups = [group("match", 4, width=2), group("pos.a", 3, width=4), group("pos.b", 2, width=2)]
    joint = module(given, groups, predict).split(groups)
    for part, single in zip(joint, groups, strict=True):
        alone = module(given, [single], predict)
        torch.testing.assert_close(part.logits, alone.logits, atol=SAME, rtol=0)
        torch.testing.assert_close(part.boxes, alone.boxes, atol=SAME, rtol=0)


def test_references_are_on_the_image_without_padding() -> None:
    """A memory of which a part is padded gives what the part alone gives."""
    padding = torch.ones(2, 16, dtype=torch.bool)
    fine, coarse = padding[:, :12].view(2, 3, 4), padding[:, 12:].view(2, 2, 2)
    fine[:, :2, :2] = False
    coarse[:, :1, :1] = False
    whole = memory(padding)
    part = Memory(
        whole.tokens[~padding].view(2, 5, 8),
        whole.pos[~padding].view(2, 5, 8),
        torch.zeros(2, 5, dtype=torch.bool),
        ((2, 2), (1, 1)),
        whole.strides,
        whole.sizes,
    )
    module, predict, groups = decoder(box_refine=True), heads(), [group("match", 4)]
    found, expected = module(whole, groups, predict), module(part, groups, predict)
    torch.testing.assert_close(found.logits, expected.logits, atol=SAME, rtol=0)
    torch.testing.assert_close(found.boxes, expected.boxes, atol=SAME, rtol=0)


def gradient(output: Tensor, parameter: Tensor) -> float:
    (grad,) = torch.autograd.grad(output.sum(), parameter, retain_graph=True, allow_unused=True)
    return 0.0 if grad is None else grad.abs().sum().item()


@pytest.mark.parametrize(
    ("settings", "reached"),
    [
        ({}, [[True, False, False], [False, True, False], [False, False, True]]),
        ({"box_refine": True}, [[True, False, False], [False, True, False], [False, False, True]]),
        (
            {"box_refine": True, "look_forward_twice": True},
            [[True, False, False], [True, True, False], [False, True, True]],
        ),
    ],
    ids=["no refinement", "refinement", "look forward twice"],
)
def test_gradients_of_a_layers_boxes(settings: dict[str, bool], reached: list[list[bool]]) -> None:
    """Row: the layer of the boxes; column: the layer whose box head they reach. Sampling is always detached."""
    predict = heads()
    output = decoder(**settings)(memory(), [group("match", 4)], predict)
    biases = [mlp.last.bias for mlp in predict.boxes]
    assert [[gradient(boxes, bias) > 0 for bias in biases] for boxes in output.boxes] == reached
    # The content is not detached: late logits reach early layers, but never through a box.
    assert [gradient(output.logits[-1], bias) for bias in biases] == [0, 0, 0]


@pytest.mark.parametrize(("box_refine", "reached"), [(False, [True, True, True]), (True, [True, False, False])])
def test_gradients_of_the_first_reference(box_refine: bool, reached: list[bool]) -> None:
    queries = group("match", 4, width=2)
    queries.reference.requires_grad_()
    module = decoder(box_refine=box_refine)
    # Boxes by their reference alone: box heads that do not look at the content.
    output = module(memory(), [queries], constant_heads(0.1))
    assert [gradient(boxes, queries.reference) > 0 for boxes in output.boxes] == reached


def test_predictions_come_after_the_norm_and_references_from_before_it() -> None:
    """DINO: against the same layers called one by one, with positions from the references of each layer."""
    position = ReferencePosition(8, scaled=True)
    module = DeformableDecoder(
        SIZE, num_layers=LAYERS, box_refine=True, look_forward_twice=True, eps=1e-3, position=position, norm=True
    )
    scattered(module)
    predict, given = heads(), memory()
    queries = replace(group("match", 4), pos=None)
    output = module(given, [queries], predict)
    content, reference = queries.content, queries.reference
    ratios, alone = valid_ratios(given.padding, SHAPES), Visibility.of([queries])
    assert module.norm is not None
    for index, layer in enumerate(module.layers):
        levels = [on_levels(reference, ratios)]
        content = layer(content, position(content, levels, layer=index), levels, alone, given)
        logits, deltas = predict(module.norm(content), index)
        box = apply_deltas(deltas, reference, eps=1e-3)
        reference = apply_deltas(predict.boxes[index](content), reference, eps=1e-3)
        assert (box - reference).abs().max() > 1e-3
        torch.testing.assert_close(output.logits[index], logits, atol=SAME, rtol=0)
        torch.testing.assert_close(output.boxes[index], box, atol=SAME, rtol=0)


def test_gradients_of_boxes_after_a_norm() -> None:
    """Row: the layer of the boxes; column: the layer whose box head they reach, by its prediction or its update."""
    predict = heads()
    module = DeformableDecoder(SIZE, num_layers=LAYERS, box_refine=True, look_forward_twice=True, norm=True)
    scattered(module)
    output = module(memory(), [group("match", 4)], predict)
    reached = [[True, False, False], [True, True, False], [False, True, True]]
    biases = [mlp.last.bias for mlp in predict.boxes]
    assert [[gradient(boxes, bias) > 0 for bias in biases] for boxes in output.boxes] == reached
