"""The encoder of Anchor DETR: row-column decoupled or dense self-attention over the cells of one map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from codetr.models.layers.attention import GroupedSelfAttention
from codetr.models.layers.dense import DenseAttention
from codetr.models.layers.mlp import FeedForward
from codetr.models.layers.row_column import Grid, RowColumnAttention
from codetr.models.parts.anchor_position import AnchorPosition, axis_coordinates
from codetr.models.parts.dense_encoder import DenseEncoderLayer, DenseSize
from codetr.ops.reference import level_padding
from codetr.structures import ImageBatch, Memory


def init_as_published(layer: nn.Module) -> None:
    """Linear layers as PyTorch makes them: the published code has no Xavier pass over its transformer.

    The joint input projections of attention stay Xavier-uniform, and attention's biases zero.
    """
    for module in layer.modules():
        if isinstance(module, FeedForward):
            module.linear1.reset_parameters()
            module.linear2.reset_parameters()
        elif isinstance(module, GroupedSelfAttention | DenseAttention | RowColumnAttention):
            module.out_proj.reset_parameters()
            nn.init.zeros_(module.out_proj.bias)


class AnchorEncoderLayer(nn.Module):
    """Self-attention by row and column, then the feed-forward block, post-norm."""

    def __init__(self, size: DenseSize) -> None:
        super().__init__()
        self.self_attention = RowColumnAttention(size.dim, size.num_heads, dropout=size.dropout)
        self.ffn = size.feed_forward()

    def forward(self, grid: Grid) -> Grid:
        """Every cell is a query at its own column and row."""
        attended = self.self_attention(grid.features, grid.x[:, None], grid.y[:, :, None], grid)
        return replace(grid, features=self.ffn(attended))


class AnchorEncoder(nn.Module):
    """N layers over the cells of one map. decoupled: row-column attention in place of dense."""

    def __init__(self, size: DenseSize, *, num_layers: int, decoupled: bool) -> None:
        super().__init__()
        self.decoupled = decoupled
        kind = AnchorEncoderLayer if decoupled else DenseEncoderLayer
        self.layers = nn.ModuleList(kind(size) for _ in range(num_layers))
        init_as_published(self)

    def forward(
        self, maps: Sequence[Tensor], images: ImageBatch, strides: tuple[int, ...], position: AnchorPosition
    ) -> Memory:
        """maps: one (B, C, H, W), the neck's output."""
        (features,) = maps
        shape = (features.shape[-2], features.shape[-1])
        (mask,) = level_padding(images.padding, (shape,))
        features, padding = features.permute(0, 2, 3, 1), mask.flatten(1)
        if self.decoupled:
            tokens, pos = self._decoupled(position.grid(features, mask))
        else:
            x, y = (c.expand(mask.shape) for c in _crossed(*axis_coordinates(mask)))
            tokens, pos = features.flatten(1, 2), position.of_places(torch.stack([x, y], dim=-1)).flatten(1, 2)
            for layer in self.layers:
                tokens = layer(tokens, pos, padding)
        return Memory(tokens, pos, padding, (shape,), strides, images.sizes)

    def _decoupled(self, grid: Grid) -> tuple[Tensor, Tensor]:
        """Tokens and their positions, (B, S, C) each; a position is the sum of those of its column and row."""
        x, y = _crossed(grid.x, grid.y)
        for layer in self.layers:
            grid = layer(grid)
        return grid.features.flatten(1, 2), (x + y).flatten(1, 2)


def _crossed(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Values of columns (B, W, ...) and rows (B, H, ...), each with an axis for the other's."""
    return x[:, None], y[:, :, None]
