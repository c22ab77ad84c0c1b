"""The decoder of the deformable family: any list of query groups in one pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from codetr.models.layers.attention import GroupedSelfAttention, Visibility
from codetr.models.layers.deformable import DeformableAttention, LayerSize
from codetr.models.layers.mlp import FeedForward
from codetr.models.parts.prediction_heads import PredictionHeads, apply_deltas
from codetr.models.parts.reference_position import ReferencePosition
from codetr.ops.reference import on_levels, valid_ratios
from codetr.structures import DecoderOutput, Memory, QueryGroup


class DeformableDecoderLayer(nn.Module):
    """Self-attention within groups, deformable cross-attention, feed-forward, each post-norm."""

    def __init__(self, size: LayerSize) -> None:
        super().__init__()
        self.self_attention = GroupedSelfAttention(size.dim, size.num_heads, dropout=size.dropout)
        self.cross_attention = DeformableAttention(size)
        self.ffn = FeedForward(size.dim, size.ffn_dim, dropout=size.dropout)

    def forward(
        self, content: Tensor, pos: Tensor, references: Sequence[Tensor], visibility: Visibility, memory: Memory
    ) -> Tensor:
        content = self.self_attention(content, pos, visibility)
        content = self.cross_attention(
            content, pos, references, tokens=memory.tokens, padding=memory.padding, shapes=memory.shapes
        )
        return self.ffn(content)


class DeformableDecoder(nn.Module):
    """N layers with optional box refinement.

    box_refine: each layer's box is the next layer's reference, detached for sampling.
    look_forward_twice: the reference that the next layer's prediction starts from keeps its graph (DINO, section 3.5).
    position: derives the queries' positions from their references; without it each group's `pos` stays as given.
    norm: predictions are made from the layer's output after a norm. The next layer's reference still comes from the
    output before it, by the same box head (DAB-DETR, DINO), so that it differs from the predicted box.
    eps: clamp of the inverse sigmoid.
    """

    def __init__(
        self,
        size: LayerSize,
        *,
        num_layers: int,
        box_refine: bool,
        look_forward_twice: bool,
        eps: float = 1e-5,
        position: ReferencePosition | None = None,
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.box_refine, self.look_forward_twice, self.eps = box_refine, look_forward_twice, eps
        self.layers = nn.ModuleList(DeformableDecoderLayer(size) for _ in range(num_layers))
        self.position = position
        self.norm = nn.LayerNorm(size.dim) if norm else None

    def forward(self, memory: Memory, groups: Sequence[QueryGroup], heads: PredictionHeads) -> DecoderOutput:
        """Groups may differ in reference width. All of them carry a `pos`, or none does where `position` gives it."""
        visibility = Visibility.of(groups)
        ratios = valid_ratios(memory.padding, memory.shapes)
        counts = [len(group) for group in groups]
        content = torch.cat([group.content for group in groups], dim=1)
        given = [group.pos for group in groups if group.pos is not None]
        sampling = [group.reference for group in groups]
        anchored = sampling
        logits, boxes = [], []
        for index, layer in enumerate(self.layers):
            references = [on_levels(reference, ratios) for reference in sampling]
            content = layer(content, self._pos(given, content, references, index), references, visibility, memory)
            scores, deltas = heads(content if self.norm is None else self.norm(content), index)
            logits.append(scores)
            boxes.append(torch.cat(self._boxes(deltas.split(counts, dim=1), anchored), dim=1))
            if self.box_refine and index + 1 < len(self.layers):
                moved = deltas if self.norm is None else heads.deltas(content, index)
                refined = self._boxes(moved.split(counts, dim=1), [r.detach() for r in anchored])
                sampling = [r.detach() for r in refined]
                anchored = refined if self.look_forward_twice else sampling
        return DecoderOutput(torch.stack(logits), torch.stack(boxes))

    def _pos(self, given: Sequence[Tensor], content: Tensor, references: Sequence[Tensor], layer: int) -> Tensor:
        """(B, N, C), the positions of all queries in a layer."""
        if self.position is None:
            return torch.cat(list(given), dim=1)
        pos: Tensor = self.position(content, references, layer=layer)
        return pos

    def _boxes(self, deltas: Sequence[Tensor], references: Sequence[Tensor]) -> list[Tensor]:
        return [apply_deltas(d, r, eps=self.eps) for d, r in zip(deltas, references, strict=True)]
