"""DETR (Carion et al., arXiv 2005.12872): one map, dense attention, 100 learned positions, softmax over classes."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Tensor, nn

from codetr.config import Section
from codetr.models.backbones.contract import Backbone
from codetr.models.bases.contract import Base
from codetr.models.necks.contract import Neck
from codetr.models.parts.dense_encoder import DenseEncoder, DenseSize, check_width
from codetr.models.parts.detr_decoder import DetrDecoder
from codetr.models.parts.prediction_heads import PredictionHeads
from codetr.structures import DecoderOutput, ImageBatch, Match, Memory, Proposal, QueryGroup, Targets


class DETR(Base):
    """Boxes are absolute: a query has no reference, so a positive's box enters through its embedding alone.

    `adopt` takes (content, pos) halves.
    """

    query_width = 2
    query_source = ("query_embed",)
    classification = "softmax"

    class Config(Section):
        num_queries: int = Field(100, gt=0, description="queries of the matched group")
        encoder_layers: int = Field(6, ge=1, description="encoder layers")
        decoder_layers: int = Field(6, ge=1, description="decoder layers, L in Eq. 6")
        num_heads: int = Field(8, gt=0, description="attention heads")
        ffn_dim: int = Field(2048, gt=0, description="hidden width of the feed-forward blocks")
        dropout: float = Field(0.1, ge=0, lt=1, description="dropout rate")

    def __init__(self, config: Config, *, backbone: Backbone, neck: Neck, num_classes: int) -> None:
        super().__init__()
        check_width(neck.dim, config.num_heads)
        self.dim, self.strides, self.num_classes = neck.dim, neck.strides, num_classes
        self.num_layers = config.decoder_layers
        self.backbone, self.neck = backbone, neck
        size = DenseSize(neck.dim, config.num_heads, config.ffn_dim, config.dropout)
        self.encoder = DenseEncoder(size, num_layers=config.encoder_layers)
        self.decoder = DetrDecoder(size, num_layers=config.decoder_layers)
        self.heads = PredictionHeads(self.dim, num_classes + 1, num_layers=self.num_layers, shared=True, plain=True)
        self.query_embed = nn.Embedding(config.num_queries, self.dim)

    def encode(self, images: ImageBatch) -> Memory:
        return self.encoder(self.neck(self.backbone(images.pixels)), images, self.strides)

    def propose(self, memory: Memory, targets: Targets | None) -> Proposal:
        """Learned positions; contents start at zero. Targets change nothing here."""
        pos = self.query_embed.weight.expand(len(memory.tokens), -1, -1)
        return Proposal((QueryGroup("match", pos.new_zeros(pos.shape), pos, pos[..., :0], Match()),))

    def adopt(self, embedding: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        content, pos = embedding.chunk(2, dim=-1)
        return content, pos, boxes[..., :0]

    def decode(self, memory: Memory, groups: Sequence[QueryGroup]) -> DecoderOutput:
        return self.decoder(memory, groups, self.heads)
