"""DAB-DETR (Liu et al., arXiv 2201.12329): DETR whose queries are boxes that every layer moves and looks around."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Tensor, nn

from codetr.config import Section
from codetr.models.backbones.contract import Backbone
from codetr.models.bases.contract import Base
from codetr.models.necks.contract import Neck
from codetr.models.parts.dab_decoder import DabDecoder
from codetr.models.parts.dense_encoder import DenseEncoder, DenseSize, check_width
from codetr.models.parts.prediction_heads import PredictionHeads
from codetr.structures import DecoderOutput, ImageBatch, Match, Memory, Proposal, QueryGroup, Targets


class DabDETR(Base):
    """Anchors are learned as logits; contents start at zero, or at a pattern, with each anchor once for every pattern.

    `adopt` takes contents; positions are derived from the 4-d references.
    """

    query_width = 1
    query_source = ("anchor_embed", "pattern_embed")

    class Config(Section):
        num_queries: int = Field(
            300, gt=0, description="learned anchors; queries of the matched group, for each pattern"
        )
        num_patterns: int = Field(0, ge=0, description="learned contents that share the anchors; 0: contents are zero")
        encoder_layers: int = Field(6, ge=1, description="encoder layers")
        decoder_layers: int = Field(6, ge=1, description="decoder layers, L in Eq. 6")
        num_heads: int = Field(8, gt=0, description="attention heads")
        ffn_dim: int = Field(2048, gt=0, description="hidden width of the feed-forward blocks")
        dropout: float = Field(0.0, ge=0, lt=1, description="dropout rate")
        temperature: float = Field(20.0, gt=0, description="temperature of the image's position embedding")
        eps: float = Field(1e-3, gt=0, lt=0.5, description="clamp of the inverse sigmoid (transformers: 1e-5)")

    def __init__(self, config: Config, *, backbone: Backbone, neck: Neck, num_classes: int) -> None:
        super().__init__()
        check_width(neck.dim, config.num_heads)
        self.dim, self.strides, self.num_classes = neck.dim, neck.strides, num_classes
        self.num_layers = config.decoder_layers
        self.backbone, self.neck = backbone, neck
        size = DenseSize(neck.dim, config.num_heads, config.ffn_dim, config.dropout, learned_slope=True)
        self.encoder = DenseEncoder(
            size, num_layers=config.encoder_layers, temperature=config.temperature, scaled_position=True
        )
        self.decoder = DabDecoder(size, num_layers=config.decoder_layers, eps=config.eps)
        self.heads = PredictionHeads(self.dim, num_classes, num_layers=self.num_layers, shared=True)
        self.anchor_embed = nn.Embedding(config.num_queries, 4)
        self.pattern_embed = nn.Embedding(config.num_patterns, self.dim) if config.num_patterns else None

    def encode(self, images: ImageBatch) -> Memory:
        return self.encoder(self.neck(self.backbone(images.pixels)), images, self.strides)

    def propose(self, memory: Memory, targets: Targets | None) -> Proposal:
        """Learned anchors, all of them with the first pattern, then with the second. Targets change nothing here."""
        anchors = self.anchor_embed.weight.float().sigmoid()
        if self.pattern_embed is None:
            content = memory.tokens.new_zeros(len(anchors), self.dim)
        else:
            content = self.pattern_embed.weight.repeat_interleave(len(anchors), dim=0)
            anchors = anchors.repeat(self.pattern_embed.num_embeddings, 1)
        content, reference = (x.expand(len(memory.tokens), -1, -1) for x in (content, anchors))
        return Proposal((QueryGroup("match", content, None, reference, Match()),))

    def adopt(self, embedding: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        return embedding, None, boxes

    def decode(self, memory: Memory, groups: Sequence[QueryGroup]) -> DecoderOutput:
        return self.decoder(memory, groups, self.heads)
