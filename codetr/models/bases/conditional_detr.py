"""Conditional DETR (Meng et al., arXiv 2108.06152): DETR whose queries look around a point of their own."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Tensor, nn

from codetr.config import Section
from codetr.models.backbones.contract import Backbone
from codetr.models.bases.contract import Base
from codetr.models.layers.mlp import MLP
from codetr.models.necks.contract import Neck
from codetr.models.parts.conditional_decoder import ConditionalDecoder
from codetr.models.parts.dense_encoder import DenseEncoder, DenseSize, check_width
from codetr.models.parts.prediction_heads import PredictionHeads
from codetr.structures import DecoderOutput, ImageBatch, Match, Memory, Proposal, QueryGroup, Targets


class ConditionalDETR(Base):
    """A query's point is read off its position and is never refined; width and height come from the content alone.

    `adopt` takes (content, pos) halves; a positive's point is the centre of its box.
    """

    query_width = 2
    query_source = ("query_embed",)

    class Config(Section):
        num_queries: int = Field(300, gt=0, description="queries of the matched group")
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
        self.decoder = ConditionalDecoder(size, num_layers=config.decoder_layers)
        self.heads = PredictionHeads(self.dim, num_classes, num_layers=self.num_layers, shared=True)
        self.query_embed = nn.Embedding(config.num_queries, self.dim)
        self.ref_point_head = MLP(self.dim, self.dim, 2, num_layers=2)
        self.ref_point_head.init_xavier()

    def encode(self, images: ImageBatch) -> Memory:
        return self.encoder(self.neck(self.backbone(images.pixels)), images, self.strides)

    def propose(self, memory: Memory, targets: Targets | None) -> Proposal:
        """Learned positions and their points; contents start at zero. Targets change nothing here."""
        pos = self.query_embed.weight.expand(len(memory.tokens), -1, -1)
        reference = self.ref_point_head(pos).float().sigmoid()
        return Proposal((QueryGroup("match", pos.new_zeros(pos.shape), pos, reference, Match()),))

    def adopt(self, embedding: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        content, pos = embedding.chunk(2, dim=-1)
        return content, pos, boxes[..., :2]

    def decode(self, memory: Memory, groups: Sequence[QueryGroup]) -> DecoderOutput:
        return self.decoder(memory, groups, self.heads)
