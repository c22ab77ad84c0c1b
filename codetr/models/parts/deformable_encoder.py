"""The encoder of the deformable family: self-attention over the tokens of all levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from codetr.models.layers.deformable import DeformableAttention, LayerSize
from codetr.models.layers.mlp import FeedForward
from codetr.ops.position import image_position
from codetr.ops.reference import encoder_references, level_padding, valid_ratios
from codetr.structures import ImageBatch, Memory


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention, then the feed-forward block, post-norm."""

    def __init__(self, size: LayerSize) -> None:
        super().__init__()
        self.self_attention = DeformableAttention(size)
        self.ffn = FeedForward(size.dim, size.ffn_dim, dropout=size.dropout)

    def forward(
        self,
        tokens: Tensor,
        pos: Tensor,
        reference: Tensor,
        *,
        padding: Tensor,
        shapes: Sequence[tuple[int, int]],
    ) -> Tensor:
        attended = self.self_attention(tokens, pos, [reference], tokens=tokens, padding=padding, shapes=shapes)
        return self.ffn(attended)


class DeformableEncoder(nn.Module):
    """Position and level embedding, then N layers.

    temperature, offset: of the sine position embedding (10000 and 0.5 in Deformable DETR).
    """

    def __init__(self, size: LayerSize, *, num_layers: int, temperature: float, offset: float) -> None:
        super().__init__()
        self.temperature, self.offset = temperature, offset
        self.level_embed = nn.Parameter(torch.empty(size.num_levels, size.dim))
        self.layers = nn.ModuleList(DeformableEncoderLayer(size) for _ in range(num_layers))
        nn.init.normal_(self.level_embed)

    def forward(self, maps: Sequence[Tensor], images: ImageBatch, strides: tuple[int, ...]) -> Memory:
        """maps: L x (B, C, H_l, W_l), the neck's output."""
        shapes = tuple((m.shape[-2], m.shape[-1]) for m in maps)
        masks = level_padding(images.padding, shapes)
        tokens = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)
        pos = torch.cat([self._position(mask, level) for level, mask in enumerate(masks)], dim=1)
        padding = torch.cat([mask.flatten(1) for mask in masks], dim=1)
        reference = encoder_references(shapes, valid_ratios(padding, shapes))
        for layer in self.layers:
            tokens = layer(tokens, pos, reference, padding=padding, shapes=shapes)
        return Memory(tokens, pos, padding, shapes, strides, images.sizes)

    def _position(self, mask: Tensor, level: int) -> Tensor:
        embed = self.level_embed[level]
        half = embed.shape[0] // 2
        sine = image_position(mask, half, temperature=self.temperature, offset=self.offset)
        return sine.flatten(1, 2) + embed
