"""The decoder of DAB-DETR: conditional attention around boxes that each layer refines."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from codetr.models.layers.attention import Visibility
from codetr.models.layers.mlp import MLP
from codetr.models.parts.conditional_decoder import ConditionalDecoderLayer, SpatialQuery, reference_sine
from codetr.models.parts.dense_encoder import DenseSize
from codetr.models.parts.prediction_heads import PredictionHeads, apply_deltas
from codetr.structures import DecoderOutput, Memory, QueryGroup


class DabDecoder(nn.Module):
    """N layers; every group has 4-d references and no `pos`, which each layer derives from its current boxes.

    Predictions are made from each layer's normed output, the next layer's boxes from the same output without the norm
    (by the same box head), so the two differ. The next layer reads its boxes without their graph, its prediction starts
    from them with it (what DINO calls look forward twice). eps: clamp of the inverse sigmoid.
    """

    def __init__(self, size: DenseSize, *, num_layers: int, eps: float = 1e-3) -> None:
        super().__init__()
        self.dim, self.eps = size.dim, eps
        self.layers = nn.ModuleList(ConditionalDecoderLayer(size, first=index == 0) for index in range(num_layers))
        self.ref_point_head = MLP(2 * size.dim, size.dim, size.dim, num_layers=2)
        self.ref_point_head.init_xavier()
        self.spatial_query = SpatialQuery(size.dim, scaled=num_layers > 1, modulated=True)
        self.norm = nn.LayerNorm(size.dim)

    def forward(self, memory: Memory, groups: Sequence[QueryGroup], heads: PredictionHeads) -> DecoderOutput:
        visibility = Visibility.of(groups)
        content = torch.cat([group.content for group in groups], dim=1)
        reference = torch.cat([group.reference for group in groups], dim=1)
        anchored = reference
        logits, boxes = [], []
        for index, layer in enumerate(self.layers):
            content = self._layer(layer, content, reference, visibility, memory, first=index == 0)
            scores, deltas = heads(self.norm(content), index)
            logits.append(scores)
            boxes.append(apply_deltas(deltas, anchored, eps=self.eps))
            if index + 1 < len(self.layers):
                anchored = apply_deltas(heads.deltas(content, index), reference, eps=self.eps)
                reference = anchored.detach()
        return DecoderOutput(torch.stack(logits), torch.stack(boxes))

    def _layer(
        self,
        layer: nn.Module,
        content: Tensor,
        reference: Tensor,
        visibility: Visibility,
        memory: Memory,
        *,
        first: bool,
    ) -> Tensor:
        sine = reference_sine(reference, self.dim)
        spatial = self.spatial_query(content, sine[..., : self.dim], reference, first=first)
        moved: Tensor = layer(content, self.ref_point_head(sine), spatial, visibility, memory)
        return moved
