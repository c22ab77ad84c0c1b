"""Anchor DETR (Wang et al., arXiv 2109.07107): queries are anchor points, each with several patterns of content."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from codetr.config import Section
from codetr.models.backbones.contract import Backbone
from codetr.models.bases.contract import Base
from codetr.models.necks.contract import Neck
from codetr.models.parts.anchor_decoder import AnchorDecoder
from codetr.models.parts.anchor_encoder import AnchorEncoder
from codetr.models.parts.anchor_position import AnchorPosition
from codetr.models.parts.dense_encoder import DenseSize, check_width
from codetr.models.parts.prediction_heads import PredictionHeads
from codetr.structures import DecoderOutput, ImageBatch, Match, Memory, Proposal, QueryGroup, Targets


class AnchorDETR(Base):
    """A query's point is a learned coordinate that no layer moves; width and height come from the content alone.

    `adopt` takes contents; a positive's point is the centre of its box, and its position follows from the point.
    """

    query_width = 1
    query_source = ("points", "patterns")

    class Config(Section):
        num_positions: int = Field(300, gt=0, description="anchor points, each the place of several queries")
        num_patterns: int = Field(3, gt=0, description="queries of each anchor point, one for each pattern")
        encoder_layers: int = Field(6, ge=1, description="encoder layers")
        decoder_layers: int = Field(6, ge=1, description="decoder layers, L in Eq. 6")
        num_heads: int = Field(8, gt=0, description="attention heads")
        ffn_dim: int = Field(1024, gt=0, description="hidden width of the feed-forward blocks")
        dropout: float = Field(0.0, ge=0, lt=1, description="dropout rate")
        attention: Literal["rcda", "dense"] = Field(
            "rcda", description="to the map: by row and column, or cell by cell"
        )

    def __init__(self, config: Config, *, backbone: Backbone, neck: Neck, num_classes: int) -> None:
        super().__init__()
        check_width(neck.dim, config.num_heads)
        self.dim, self.strides, self.num_classes = neck.dim, neck.strides, num_classes
        self.num_layers = config.decoder_layers
        self.backbone, self.neck = backbone, neck
        size = DenseSize(neck.dim, config.num_heads, config.ffn_dim, config.dropout)
        decoupled = config.attention == "rcda"
        self.position = AnchorPosition(self.dim, decoupled=decoupled)
        self.encoder = AnchorEncoder(size, num_layers=config.encoder_layers, decoupled=decoupled)
        self.decoder = AnchorDecoder(size, num_layers=config.decoder_layers, decoupled=decoupled)
        self.heads = PredictionHeads(self.dim, num_classes, num_layers=self.num_layers, shared=True, size_bias=-2.0)
        self.points = nn.Embedding(config.num_positions, 2)
        self.patterns = nn.Embedding(config.num_patterns, self.dim)
        nn.init.uniform_(self.points.weight)

    def encode(self, images: ImageBatch) -> Memory:
        return self.encoder(self.neck(self.backbone(images.pixels)), images, self.strides, self.position)

    def propose(self, memory: Memory, targets: Targets | None) -> Proposal:
        """All points with the first pattern, then all with the next. Targets change nothing here."""
        points, patterns = self.points.weight, self.patterns.weight
        content = patterns.repeat_interleave(len(points), dim=0).expand(len(memory.tokens), -1, -1)
        reference = points.repeat(len(patterns), 1).expand(len(memory.tokens), -1, -1)
        return Proposal((QueryGroup("match", content, None, reference, Match()),))

    def adopt(self, embedding: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        return embedding, None, boxes[..., :2]

    def decode(self, memory: Memory, groups: Sequence[QueryGroup]) -> DecoderOutput:
        return self.decoder(memory, groups, self.heads, self.position)
