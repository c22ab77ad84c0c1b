"""The encoder of the single-scale family: every token of the one map attends to every other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from codetr.errors import UserError
from codetr.models.layers.dense import DenseAttention
from codetr.models.layers.mlp import MLP, FeedForward
from codetr.ops.position import image_position
from codetr.ops.reference import level_padding
from codetr.structures import ImageBatch, Memory


@dataclass(frozen=True)
class DenseSize:
    """Widths of a layer. learned_slope: PReLU in the feed-forward blocks. dropout: rate, everywhere in the layer."""

    dim: int
    num_heads: int
    ffn_dim: int
    dropout: float
    learned_slope: bool = False

    def feed_forward(self) -> FeedForward:
        """A block of these widths."""
        return FeedForward(self.dim, self.ffn_dim, dropout=self.dropout, learned_slope=self.learned_slope)


def check_width(dim: int, num_heads: int) -> None:
    """Raises: UserError for a width that attention heads or position embeddings cannot share out."""
    if dim % num_heads:
        raise UserError(f"neck.dim is {dim}; it must be a multiple of base.num_heads ({num_heads})")
    if dim % 4:
        raise UserError(f"neck.dim is {dim}; it must be a multiple of 4 (sine and cosine of two coordinates)")


class DenseEncoderLayer(nn.Module):
    """Self-attention, then the feed-forward block, post-norm."""

    def __init__(self, size: DenseSize) -> None:
        super().__init__()
        self.self_attention = DenseAttention(size.dim, size.num_heads, dropout=size.dropout)
        self.ffn = size.feed_forward()

    def forward(self, tokens: Tensor, pos: Tensor, padding: Tensor) -> Tensor:
        return self.ffn(self.self_attention(tokens, pos, tokens, pos, padding))


class DenseEncoder(nn.Module):
    """N layers over the tokens of one map.

    temperature: of the sine position embedding, 10000 in DETR, 20 in DAB-DETR. scaled_position: each layer multiplies
    the positions by an MLP of the tokens, one MLP for all layers (DAB-DETR).
    """

    def __init__(
        self, size: DenseSize, *, num_layers: int, temperature: float = 10000.0, scaled_position: bool = False
    ) -> None:
        super().__init__()
        self.temperature, self.dim = temperature, size.dim
        self.layers = nn.ModuleList(DenseEncoderLayer(size) for _ in range(num_layers))
        self.query_scale = MLP(size.dim, size.dim, size.dim, num_layers=2) if scaled_position else None
        if self.query_scale is not None:
            self.query_scale.init_xavier()

    def forward(self, maps: Sequence[Tensor], images: ImageBatch, strides: tuple[int, ...]) -> Memory:
        """maps: one (B, C, H, W), the neck's output."""
        (features,) = maps
        shape = (features.shape[-2], features.shape[-1])
        (mask,) = level_padding(images.padding, (shape,))
        tokens, padding = features.flatten(2).transpose(1, 2), mask.flatten(1)
        pos = image_position(mask, self.dim // 2, temperature=self.temperature).flatten(1, 2)
        for layer in self.layers:
            scaled = pos if self.query_scale is None else pos * self.query_scale(tokens)
            tokens = layer(tokens, scaled, padding)
        return Memory(tokens, pos, padding, (shape,), strides, images.sizes)
