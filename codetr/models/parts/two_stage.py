"""Two-stage proposals: every token of the memory offers a box, the best become queries."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from codetr.models.parts.prediction_heads import PredictionHeads, apply_deltas
from codetr.ops.reference import cell_centres, valid_ratios
from codetr.structures import Memory

_SMALLEST_SIDE = 0.05
_MARGIN = 0.01


def token_boxes(memory: Memory) -> tuple[Tensor, Tensor]:
    """The box that each token stands for, and whether it may propose.

    Returns (B, S, 4) cxcywh in units of the unpadded image: the cell's centre, sides 0.05 doubled from level to level;
    and (B, S) bool, False where padded or where a coordinate is not in (0.01, 0.99).
    Source: Zhu et al., arXiv 2010.04159, appendix A.4.
    """
    centres = cell_centres(memory.shapes, valid_ratios(memory.padding, memory.shapes))
    sides = [
        torch.full((height * width,), _SMALLEST_SIDE * 2.0**level, device=centres.device)
        for level, (height, width) in enumerate(memory.shapes)
    ]
    side = torch.cat(sides)[None, :, None].expand(len(centres), -1, 2)
    boxes = torch.cat([centres, side], dim=-1)
    inside = ((boxes > _MARGIN) & (boxes < 1 - _MARGIN)).all(-1)
    return boxes, inside & ~memory.padding


class TokenProposals(nn.Module):
    """Class logits and boxes of every token.

    Tokens that may not propose are zeroed before the projection and get the box (1, 1, 1, 1) without a gradient, which
    is what the published code's infinite logits come to.
    """

    def __init__(self, dim: int, num_classes: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.project = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        nn.init.xavier_uniform_(self.project.weight)
        self.heads = PredictionHeads(dim, num_classes, num_layers=1, shared=False)

    def forward(self, memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, S, K), boxes (B, S, 4) cxcywh, valid (B, S)."""
        boxes, valid = token_boxes(memory)
        tokens = self.norm(self.project(memory.tokens.masked_fill(~valid[..., None], 0.0)))
        logits, deltas = self.heads(tokens, 0)
        refined = apply_deltas(deltas, boxes, eps=self.eps)
        return logits, torch.where(valid[..., None], refined, 1.0), valid


def best_tokens(scores: Tensor, count: int) -> Tensor:
    """Indices (B, N) of the highest scores (B, S); N = min(count, S), so that a tiny image offers fewer queries."""
    return scores.topk(min(count, scores.shape[1]), dim=1).indices
