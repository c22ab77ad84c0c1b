"""DINO (Zhang et al., arXiv 2203.03605) with any number of levels, and the base of Co-DINO.

Against Deformable-DETR++: proposals are ranked by their best class and trained with real classes, but the chosen ones
only; positions follow the references through the layers; a norm precedes the prediction heads; contrastive denoising.
Co-DINO's published code has `shared_heads: false` and `query_init: normal`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from codetr.config import Section
from codetr.models.backbones.contract import Backbone
from codetr.models.bases.contract import Base
from codetr.models.layers.deformable import LayerSize
from codetr.models.necks.contract import Neck
from codetr.models.parts.deformable_decoder import DeformableDecoder
from codetr.models.parts.deformable_encoder import DeformableEncoder
from codetr.models.parts.denoising import ContrastiveNoise, contrastive_noise
from codetr.models.parts.prediction_heads import PredictionHeads
from codetr.models.parts.reference_position import ReferencePosition
from codetr.models.parts.two_stage import TokenProposals, best_tokens
from codetr.ops.gather import take
from codetr.structures import (
    DecoderOutput,
    EncoderPrediction,
    ImageBatch,
    Match,
    Memory,
    Proposal,
    QueryGroup,
    Targets,
)

_EPS = 1e-3


class DINO(Base):
    """`adopt` takes contents; positions are derived from the 4-d references."""

    query_width = 1
    query_source = ("proposals", "query_embed")

    class Config(Section):
        num_queries: int = Field(900, gt=0, description="queries of the matched group")
        encoder_layers: int = Field(6, ge=1, description="encoder layers")
        decoder_layers: int = Field(6, ge=1, description="decoder layers, L in Eq. 6")
        num_heads: int = Field(8, gt=0, description="attention heads")
        num_points: int = Field(4, gt=0, description="sampling points per head and level")
        ffn_dim: int = Field(2048, gt=0, description="hidden width of the feed-forward blocks")
        dropout: float = Field(0.0, ge=0, lt=1, description="dropout rate")
        shared_heads: bool = Field(True, description="the decoder layers share one pair of prediction heads")
        query_init: Literal["xavier", "normal"] = Field("xavier", description="initial contents of the queries")
        denoising: ContrastiveNoise | None = Field(
            default_factory=ContrastiveNoise, description="contrastive denoising; null: none"
        )

    def __init__(self, config: Config, *, backbone: Backbone, neck: Neck, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.dim, self.strides, self.num_classes = neck.dim, neck.strides, num_classes
        self.num_layers = config.decoder_layers
        self.backbone, self.neck = backbone, neck
        size = LayerSize.of_spec(
            dim=self.dim,
            num_heads=config.num_heads,
            num_levels=len(self.strides),
            num_points=config.num_points,
            ffn_dim=config.ffn_dim,
            dropout=config.dropout,
        )
        self.encoder = DeformableEncoder(size, num_layers=config.encoder_layers, temperature=20.0, offset=0.0)
        self.decoder = DeformableDecoder(
            size,
            num_layers=config.decoder_layers,
            box_refine=True,
            look_forward_twice=True,
            eps=_EPS,
            position=ReferencePosition(self.dim, scaled=False),
            norm=True,
        )
        self.heads = PredictionHeads(self.dim, num_classes, num_layers=self.num_layers, shared=config.shared_heads)
        self.proposals = TokenProposals(self.dim, num_classes)
        self.query_embed = nn.Embedding(config.num_queries, self.dim)
        if config.query_init == "xavier":
            nn.init.xavier_uniform_(self.query_embed.weight)
        # One row more than classes, which nothing reads, as in the published code.
        if config.denoising is not None:
            self.label_embed = nn.Embedding(num_classes + 1, self.dim)

    def encode(self, images: ImageBatch) -> Memory:
        return self.encoder(self.neck(self.backbone(images.pixels)), images, self.strides)

    def propose(self, memory: Memory, targets: Targets | None) -> Proposal:
        """With targets, a group of noisy objects follows."""
        logits, boxes, valid = self.proposals(memory)
        index = best_tokens(logits.detach().amax(-1), self.config.num_queries)
        logits, boxes = take(logits, index), take(boxes, index)
        chosen = EncoderPrediction(
            DecoderOutput(logits[None], boxes[None]), class_agnostic=False, valid=valid.gather(1, index)[None]
        )
        content = self.query_embed.weight[: index.shape[1]].expand(len(index), -1, -1)
        groups = [QueryGroup("match", content, None, boxes.detach(), Match())]
        if targets is not None and self.config.denoising is not None:
            noisy = contrastive_noise(targets, memory.sizes, self.config.denoising, num_classes=self.num_classes)
            groups.append(noisy.group(self.label_embed(noisy.labels), eps=_EPS))
        return Proposal(tuple(groups), chosen)

    def adopt(self, embedding: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        return embedding, None, boxes

    def decode(self, memory: Memory, groups: Sequence[QueryGroup]) -> DecoderOutput:
        return self.decoder(memory, groups, self.heads)
