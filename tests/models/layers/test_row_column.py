"""Row-column decoupled attention: against a plain loop, and as the dense attention that it factorises."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from codetr.models.layers.row_column import Grid, RowColumnAttention, row_column_sum

DIM, HEADS = 8, 2
SHAPES = [(2, 5), (5, 2), (3, 3), (1, 4), (4, 1)]

# float64 throughout; the mean of keys is taken before the projection, not after.
SAME = 1e-12


def grid_of(height: int, width: int, *, batch: int = 2, columns: int | None = None, rows: int | None = None) -> Grid:
    """Random; in the last image only so many columns and rows are not padded."""
    padded_x, padded_y = torch.zeros(batch, width, dtype=torch.bool), torch.zeros(batch, height, dtype=torch.bool)
    padded_x[-1, width if columns is None else columns :] = True
    padded_y[-1, height if rows is None else rows :] = True
    features, x, y = (torch.randn(batch, *size, DIM).double() for size in ((height, width), (width,), (height,)))
    return Grid(features, x, y, padded_x, padded_y)


def layer(dropout: float = 0.0) -> RowColumnAttention:
    """In float64, with biases and a norm that show."""
    module = RowColumnAttention(DIM, HEADS, dropout=dropout).double()
    for vector in (module.in_proj.bias, module.out_proj.bias, module.norm.weight, module.norm.bias):
        nn.init.normal_(vector)
    return module


def queries(count: int, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    content, x, y = torch.randn(3, batch, count, DIM).double()
    return content, x, y


def softmax(logits: list[float]) -> list[float]:
    powers = [math.exp(value - max(logits)) for value in logits]
    return [power / sum(powers) for power in powers]


def looped(module: RowColumnAttention, content: Tensor, x: Tensor, y: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """The layer's output, and the weight of every cell (B, N, heads, H, W): projected keys, averaged."""
    weights, biases = module.in_proj.weight.chunk(5), module.in_proj.bias.chunk(5)
    inputs = (content + x, content + y, grid.features + grid.x[:, None], grid.features + grid.y[:, :, None])
    query_x, query_y, key_x, key_y, value = (
        i @ w.T + b for i, w, b in zip((*inputs, grid.features), weights, biases, strict=True)
    )
    batch, height, width, dim = grid.features.shape
    share = dim // HEADS
    cells = torch.zeros(batch, content.shape[1], HEADS, height, width, dtype=torch.float64)
    merged = torch.zeros_like(content)
    for b, n, head in torch.cartesian_prod(*(torch.arange(s) for s in cells.shape[:3])).tolist():
        part = slice(head * share, (head + 1) * share)
        column_keys = [sum(key_x[b, h, w, part] for h in range(height)) / height for w in range(width)]
        row_keys = [sum(key_y[b, h, w, part] for w in range(width)) / width for h in range(height)]
        logits = [
            [float(query[b, n, part] @ key) / math.sqrt(share) if not hidden else -math.inf for key, hidden in pairs]
            for query, pairs in (
                (query_x, list(zip(column_keys, grid.padded_x[b].tolist(), strict=True))),
                (query_y, list(zip(row_keys, grid.padded_y[b].tolist(), strict=True))),
            )
        ]
        along_x, along_y = softmax(logits[0]), softmax(logits[1])
        for h in range(height):
            for w in range(width):
                cells[b, n, head, h, w] = along_x[w] * along_y[h]
                merged[b, n, part] += along_x[w] * along_y[h] * value[b, h, w, part]
    return module.norm(content + merged @ module.out_proj.weight.T + module.out_proj.bias), cells


def test_sum_over_cells_literally() -> None:
    value = torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]).view(1, 2, 3, 1, 1)
    along_x = torch.tensor([[0.0, 0.0, 1.0], [0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]).view(1, 1, 3, 3)
    along_y = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.25, 0.75]]).view(1, 1, 3, 2)
    expected = torch.tensor([30.0, 0.5 + 0.5 + 0.75, 0.25 + 7.5]).view(1, 3, 1, 1)
    assert torch.equal(row_column_sum(along_x, along_y, value), expected)
    # The other order: rows and columns change places.
    assert torch.equal(row_column_sum(along_y, along_x, value.transpose(1, 2)), expected)


@pytest.mark.parametrize(("height", "width"), SHAPES)
@torch.no_grad()
def test_the_layer_equals_a_plain_loop(height: int, width: int) -> None:
    module, grid = layer(), grid_of(height, width, columns=max(1, width - 2), rows=max(1, height - 1))
    content, x, y = queries(4)
    expected, cells = looped(module, content, x, y, grid)
    torch.testing.assert_close(module(content, x, y, grid), expected, atol=SAME, rtol=0)
    hidden = grid.padded_y[:, :, None] | grid.padded_x[:, None]
    assert (cells.movedim(0, -1)[..., hidden.movedim(0, -1)] == 0).all()


@pytest.mark.parametrize(("height", "width"), SHAPES)
@torch.no_grad()
def test_it_is_dense_attention_whose_weights_are_an_outer_product(height: int, width: int) -> None:
    along_x, along_y = torch.rand(2, HEADS, 3, width).double(), torch.rand(2, HEADS, 3, height).double()
    value = torch.randn(2, height, width, HEADS, 4).double()
    dense = (along_y[..., None] * along_x[..., None, :]).flatten(-2)
    expected = (dense @ value.flatten(1, 2).transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(row_column_sum(along_x, along_y, value), expected, atol=SAME, rtol=0)


@torch.no_grad()
def test_every_cell_can_be_a_query_at_its_column_and_row() -> None:
    module, grid = layer(), grid_of(2, 3)
    found = module(grid.features, grid.x[:, None], grid.y[:, :, None], grid)
    x, y = (t.expand(2, 2, 3, DIM).flatten(1, 2) for t in (grid.x[:, None], grid.y[:, :, None]))
    expected = module(grid.features.flatten(1, 2), x, y, grid)
    assert found.shape == grid.features.shape
    torch.testing.assert_close(found.flatten(1, 2), expected, atol=SAME, rtol=0)


class Largest(TorchDispatchMode):
    """The most elements of any tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor):
            self.elements = max(self.elements, found.numel())
        return found


@pytest.mark.parametrize(("height", "width"), [(3, 40), (40, 3)])
@torch.no_grad()
def test_nothing_is_larger_than_queries_times_the_shorter_side(height: int, width: int) -> None:
    along_x, along_y = torch.rand(1, HEADS, 100, width), torch.rand(1, HEADS, 100, height)
    value = torch.randn(1, height, width, HEADS, 16)
    with Largest() as largest:
        row_column_sum(along_x, along_y, value)
    assert largest.elements == 100 * 3 * HEADS * 16


@torch.no_grad()
def test_padded_cells_have_no_weight_but_count_in_the_means() -> None:
    """As published. The value of a cell in a padded column and a padded row reaches nobody otherwise."""
    module, grid = layer(), grid_of(3, 4, columns=2, rows=2)
    content, x, y = queries(5)
    before = module(content, x, y, grid)
    grid.features[1, 2, 3] += 5.0  # Its column and its row are padded.
    torch.testing.assert_close(module(content, x, y, grid), before, atol=SAME, rtol=0)
    grid.features[1, 0, 3] += 5.0  # Its column is padded, its row is not.
    assert not torch.allclose(module(content, x, y, grid)[1], before[1], atol=1e-3)
    torch.testing.assert_close(module(content, x, y, grid)[0], before[0], atol=SAME, rtol=0)


@torch.no_grad()
def test_a_map_that_is_padded_throughout_leaves_no_hole() -> None:
    module, grid = layer(), grid_of(3, 4, columns=0, rows=0)
    content, x, y = queries(2)
    assert module(content, x, y, grid).isfinite().all()


class Softmaxes(TorchDispatchMode):
    """Types of what softmaxes are taken of."""

    def __init__(self) -> None:
        super().__init__()
        self.types: list[torch.dtype] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._softmax.default:
            self.types.append(args[0].dtype)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@torch.no_grad()
def test_the_softmax_is_at_least_float32(dtype: torch.dtype) -> None:
    module, grid = layer(), grid_of(2, 3, columns=2)
    content, x, y = queries(4)
    expected = module(content, x, y, grid)
    places = (t.to(dtype) for t in (grid.features, grid.x, grid.y))
    given = [t.to(dtype) for t in (content, x, y)]
    with Softmaxes() as softmaxes:
        found = module.to(dtype)(*given, Grid(*places, grid.padded_x, grid.padded_y))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert softmaxes.types == [wide, wide] and found.dtype == dtype
    # Some tens of roundings of values of size 1.
    torch.testing.assert_close(found.double(), expected, atol=30 * torch.finfo(dtype).eps, rtol=0)


def test_dropout_acts_in_training_alone() -> None:
    module, grid = layer(dropout=0.5), grid_of(3, 4)
    content, x, y = queries(4)
    assert not torch.equal(module(content, x, y, grid), module(content, x, y, grid))
    module.eval()
    assert torch.equal(module(content, x, y, grid), module(content, x, y, grid))


def test_gradients_reach_every_input() -> None:
    module, grid = layer(), grid_of(2, 3, columns=2)
    content, x, y = (t.requires_grad_() for t in queries(3))
    places = [t.requires_grad_() for t in (grid.features, grid.x, grid.y)]
    assert torch.autograd.gradcheck(
        lambda *t: module(*t[:3], Grid(*t[3:], grid.padded_x, grid.padded_y)), (content, x, y, *places), fast_mode=True
    )


def test_initial_values() -> None:
    """Xavier-uniform over the joint projection, of 5C outputs; PyTorch's own for the output, whose bias is 0."""
    module = RowColumnAttention(64, 8, dropout=0.0)
    bounds = {"in_proj": math.sqrt(6 / (6 * 64)), "out_proj": 1 / math.sqrt(64)}
    for name, bound in bounds.items():
        weight = getattr(module, name).weight
        assert 0.95 * bound < weight.abs().max().item() <= bound
        assert torch.equal(getattr(module, name).bias, torch.zeros(len(weight)))
