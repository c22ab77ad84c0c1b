"""Class and box heads of a decoder, and how their output becomes a box."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from codetr.models.layers.mlp import MLP
from codetr.ops.reference import inverse_sigmoid


class PredictionHeads(nn.Module):
    """A linear class head and a three-layer box head: one pair for each layer, or one pair for all (`shared`).

    Pairs start as copies of the first. The class bias starts at a probability of 0.01; box deltas start at 0, except
    that `size_bias` is the first delta of width and height of the first pair (-2 in one-stage Deformable DETR: boxes
    start at 0.12 of the image). plain: none of that, but PyTorch's own initial values (DETR).
    """

    def __init__(
        self, dim: int, num_classes: int, *, num_layers: int, shared: bool, size_bias: float = 0.0, plain: bool = False
    ) -> None:
        super().__init__()
        count = 1 if shared else num_layers
        classes = [nn.Linear(dim, num_classes) for _ in range(count)]
        boxes = [MLP(dim, dim, 4, num_layers=3) for _ in range(count)]
        if not plain:
            nn.init.constant_(classes[0].bias, -math.log(0.99 / 0.01))
            nn.init.zeros_(boxes[0].last.weight)
            nn.init.zeros_(boxes[0].last.bias)
        for linear, mlp in zip(classes[1:], boxes[1:], strict=True):
            linear.load_state_dict(classes[0].state_dict())
            mlp.load_state_dict(boxes[0].state_dict())
        if not plain:
            nn.init.constant_(boxes[0].last.bias[2:], size_bias)
        self.classes, self.boxes = nn.ModuleList(classes), nn.ModuleList(boxes)

    def forward(self, hidden: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Class logits (B, N, K) and box deltas (B, N, 4) of one layer."""
        return self.classes[min(layer, len(self.classes) - 1)](hidden), self.deltas(hidden, layer)

    def deltas(self, hidden: Tensor, layer: int) -> Tensor:
        """Box deltas (B, N, 4) of one layer alone."""
        deltas: Tensor = self.boxes[min(layer, len(self.boxes) - 1)](hidden)
        return deltas


def apply_deltas(deltas: Tensor, reference: Tensor, *, eps: float) -> Tensor:
    """Boxes (B, N, 4) cxcywh in (0, 1) from deltas in logit space around references (B, N, R), in float32.

    R = 4 boxes, 2 centres, 0 none: what a reference does not give, the deltas alone do.
    """
    width = reference.shape[-1]
    anchored = deltas[..., :width].float() + inverse_sigmoid(reference, eps)
    return torch.cat([anchored, deltas[..., width:].float()], dim=-1).sigmoid()
