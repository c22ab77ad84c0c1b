"""DN-DETR (Li et al., arXiv 2203.01305): DAB-DETR that also learns to restore objects from noise, in both its forms.

Dense: one map, the base is DAB-DETR. Deformable: several levels, the base is the deformable form of DAB-DETR.

The last channel of a content is an indicator: 1 in denoising queries, 0 in all others. The rest is an embedding: of the
noisy label in denoising queries, in matched ones of the label "unknown" (dense) or learned for each query (deformable).
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import pad

from codetr.config import Section
from codetr.models.backbones.contract import Backbone
from codetr.models.bases.contract import Base
from codetr.models.layers.deformable import LayerSize
from codetr.models.necks.contract import Neck
from codetr.models.parts.dab_decoder import DabDecoder
from codetr.models.parts.deformable_decoder import DeformableDecoder
from codetr.models.parts.deformable_encoder import DeformableEncoder
from codetr.models.parts.denoising import PlainNoise, plain_noise
from codetr.models.parts.dense_encoder import DenseEncoder, DenseSize, check_width
from codetr.models.parts.prediction_heads import PredictionHeads
from codetr.models.parts.reference_position import ReferencePosition
from codetr.structures import DecoderOutput, ImageBatch, Match, Memory, Proposal, QueryGroup, Targets

_EPS = 1e-3


class DnDETR(Base):
    """`adopt` takes contents, whose last channel becomes the indicator of a query that is none of denoising."""

    query_width = 1
    query_source = ("anchor_embed", "query_embed", "pattern_embed")

    class Config(Section):
        deformable: bool = Field(False, description="deformable attention over several levels (DN-Deformable-DETR)")
        num_queries: int = Field(
            300, gt=0, description="learned anchors; queries of the matched group, for each pattern"
        )
        num_patterns: int = Field(0, ge=0, description="learned contents that share the anchors; dense form only")
        encoder_layers: int = Field(6, ge=1, description="encoder layers")
        decoder_layers: int = Field(6, ge=1, description="decoder layers, L in Eq. 6")
        num_heads: int = Field(8, gt=0, description="attention heads")
        num_points: int = Field(4, gt=0, description="sampling points per head and level; deformable form only")
        ffn_dim: int = Field(2048, gt=0, description="hidden width of the feed-forward blocks")
        dropout: float = Field(0.0, ge=0, lt=1, description="dropout rate")
        denoising: PlainNoise = Field(default_factory=PlainNoise, description="the noise, in training")

        @model_validator(mode="after")
        def _settings_take_effect(self) -> DnDETR.Config:
            if self.deformable and self.num_patterns:
                raise ValueError("num_patterns needs deformable: false")
            return self

    def __init__(self, config: Config, *, backbone: Backbone, neck: Neck, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.dim, self.strides, self.num_classes = neck.dim, neck.strides, num_classes
        self.num_layers = config.decoder_layers
        self.backbone, self.neck = backbone, neck
        if config.deformable:
            self._build_deformable(config)
        else:
            self._build_dense(config)
        self.anchor_embed = nn.Embedding(config.num_queries, 4)
        self.query_embed = nn.Embedding(config.num_queries, self.dim - 1) if config.deformable else None
        self.pattern_embed = nn.Embedding(config.num_patterns, self.dim) if config.num_patterns else None
        # The last row is the label "unknown"; nothing reads it in the deformable form.
        self.label_embed = nn.Embedding(num_classes + 1, self.dim - 1)

    def _build_dense(self, config: Config) -> None:
        check_width(self.dim, config.num_heads)
        size = DenseSize(self.dim, config.num_heads, config.ffn_dim, config.dropout, learned_slope=True)
        self.encoder: DenseEncoder | DeformableEncoder = DenseEncoder(
            size, num_layers=config.encoder_layers, temperature=20.0, scaled_position=True
        )
        self.decoder: DabDecoder | DeformableDecoder = DabDecoder(size, num_layers=self.num_layers, eps=_EPS)
        self.heads = PredictionHeads(self.dim, self.num_classes, num_layers=self.num_layers, shared=True)

    def _build_deformable(self, config: Config) -> None:
        size = LayerSize.of_spec(
            dim=self.dim,
            num_heads=config.num_heads,
            num_levels=len(self.strides),
            num_points=config.num_points,
            ffn_dim=config.ffn_dim,
            dropout=config.dropout,
        )
        self.encoder = DeformableEncoder(size, num_layers=config.encoder_layers, temperature=10000.0, offset=0.5)
        self.decoder = DeformableDecoder(
            size,
            num_layers=self.num_layers,
            box_refine=True,
            look_forward_twice=False,
            eps=_EPS,
            position=ReferencePosition(self.dim, scaled=True),
        )
        self.heads = PredictionHeads(
            self.dim, self.num_classes, num_layers=self.num_layers, shared=False, size_bias=-2.0
        )

    def encode(self, images: ImageBatch) -> Memory:
        return self.encoder(self.neck(self.backbone(images.pixels)), images, self.strides)

    def propose(self, memory: Memory, targets: Targets | None) -> Proposal:
        """With targets, a group of noisy objects follows, which sees the matched one and is not seen by it."""
        match = self._matched(len(memory.tokens))
        if targets is None:
            return Proposal((match,))
        noisy = plain_noise(targets, memory.sizes, self.config.denoising, num_classes=self.num_classes)
        content = _with_indicator(self.label_embed(noisy.labels), 1.0)
        return Proposal((match, noisy.group(content, eps=_EPS)))

    def adopt(self, embedding: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        return _with_indicator(embedding[..., :-1], 0.0), None, boxes

    def decode(self, memory: Memory, groups: Sequence[QueryGroup]) -> DecoderOutput:
        return self.decoder(memory, groups, self.heads)

    def _matched(self, batch: int) -> QueryGroup:
        """Learned anchors, all of them with the first pattern, then with the second."""
        anchors = self.anchor_embed.weight.float().sigmoid()
        unknown = self.label_embed.weight[-1].expand(len(anchors), -1)
        content = _with_indicator(unknown if self.query_embed is None else self.query_embed.weight, 0.0)
        if self.pattern_embed is not None:
            anchors = anchors.repeat(self.pattern_embed.num_embeddings, 1)
            content = (self.pattern_embed.weight[:, None] + content).flatten(0, 1)
        content, reference = (x.expand(batch, -1, -1) for x in (content, anchors))
        return QueryGroup("match", content, None, reference, Match())


def _with_indicator(embedding: Tensor, value: float) -> Tensor:
    """(..., C) of embeddings (..., C - 1)."""
    return pad(embedding, (0, 1), value=value)
