"""Deformable DETR (Zhu et al., arXiv 2010.04159) in all its published forms, by settings.

One-stage; with box refinement; with learned boxes that the positions of queries follow through the layers (the
deformable form of DAB-DETR); two-stage; and Deformable-DETR++ (two-stage with mixed query selection, look forward
twice, dropout 0, feed-forward width 2048), the base of Co-Deformable-DETR. Against DINO: proposals are ranked by the
first class channel and trained class-agnostically on all tokens, their positions stay as given, no norm after the
decoder.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, model_validator
from torch import Tensor, nn

from codetr.config import Section
from codetr.models.backbones.contract import Backbone
from codetr.models.bases.contract import Base
from codetr.models.layers.deformable import LayerSize
from codetr.models.necks.contract import Neck
from codetr.models.parts.deformable_decoder import DeformableDecoder
from codetr.models.parts.deformable_encoder import DeformableEncoder
from codetr.models.parts.prediction_heads import PredictionHeads
from codetr.models.parts.reference_position import ReferencePosition
from codetr.models.parts.two_stage import TokenProposals, best_tokens
from codetr.ops.gather import take
from codetr.ops.position import sine_embedding
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

_EPS, _ANCHORS_EPS = 1e-5, 1e-3


class DeformableDETR(Base):
    """Deformable DETR. `adopt` takes (content, pos) halves, contents alone with learned anchors, and in all forms 4-d
    references, as the published code."""

    query_width = 2
    any_object_first = True
    query_source = ("proposals", "anchor_embed", "query_embed")

    class Config(Section):
        num_queries: int = Field(300, gt=0, description="queries of the matched group")
        encoder_layers: int = Field(6, ge=1, description="encoder layers")
        decoder_layers: int = Field(6, ge=1, description="decoder layers, L in Eq. 6")
        num_heads: int = Field(8, gt=0, description="attention heads")
        num_points: int = Field(4, gt=0, description="sampling points per head and level")
        ffn_dim: int = Field(1024, gt=0, description="hidden width of the feed-forward blocks")
        dropout: float = Field(0.1, ge=0, lt=1, description="dropout rate")
        box_refine: bool = Field(False, description="each layer refines the boxes of the one before")
        two_stage: bool = Field(False, description="queries start from the encoder's proposals")
        mixed_selection: bool = Field(False, description="proposals give positions, contents are learned (DINO)")
        look_forward_twice: bool = Field(False, description="gradients reach the previous layer's box (DINO)")
        learned_anchors: bool = Field(False, description="queries start from learned boxes (DAB-DETR)")

        @model_validator(mode="after")
        def _settings_take_effect(self) -> DeformableDETR.Config:
            needs = {
                "two_stage": "box_refine",
                "look_forward_twice": "box_refine",
                "mixed_selection": "two_stage",
                "learned_anchors": "box_refine",
            }
            for setting, needed in needs.items():
                if getattr(self, setting) and not getattr(self, needed):
                    raise ValueError(f"{setting}: true needs {needed}: true")
            if self.learned_anchors and self.two_stage:
                raise ValueError("learned_anchors: true and two_stage: true both say where queries start; take one")
            return self

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
        self.encoder = DeformableEncoder(size, num_layers=config.encoder_layers, temperature=10000.0, offset=0.5)
        self.decoder = DeformableDecoder(
            size,
            num_layers=config.decoder_layers,
            box_refine=config.box_refine,
            look_forward_twice=config.look_forward_twice,
            eps=_ANCHORS_EPS if config.learned_anchors else _EPS,
            position=ReferencePosition(self.dim, scaled=True) if config.learned_anchors else None,
        )
        self.heads = PredictionHeads(
            self.dim,
            num_classes,
            num_layers=self.num_layers,
            shared=not config.box_refine,
            size_bias=0.0 if config.two_stage else -2.0,
        )
        if config.two_stage:
            self.proposals = TokenProposals(self.dim, num_classes)
            self.proposal_embed = nn.Linear(2 * self.dim, 2 * self.dim)
            self.proposal_norm = nn.LayerNorm(2 * self.dim)
            nn.init.xavier_uniform_(self.proposal_embed.weight)
        elif config.learned_anchors:
            self.query_width = 1
            self.anchor_embed = nn.Embedding(config.num_queries, 4)
        else:
            self.reference_points = nn.Linear(self.dim, 2)
            nn.init.xavier_uniform_(self.reference_points.weight)
            nn.init.zeros_(self.reference_points.bias)
        learned = 1 if config.two_stage or config.learned_anchors else 2
        if not config.two_stage or config.mixed_selection:
            self.query_embed = nn.Embedding(config.num_queries, learned * self.dim)

    def encode(self, images: ImageBatch) -> Memory:
        maps = self.neck(self.backbone(images.pixels))
        return self.encoder(maps, images, self.strides)

    def propose(self, memory: Memory, targets: Targets | None) -> Proposal:
        """Targets change nothing here: this variant has no training-only groups of its own."""
        if self.config.two_stage:
            return self._from_tokens(memory)
        learned = self.query_embed.weight.expand(len(memory.tokens), -1, -1)
        if self.config.learned_anchors:
            anchors = self.anchor_embed.weight.sigmoid().expand(len(learned), -1, -1)
            return Proposal((QueryGroup("match", learned, None, anchors, Match()),))
        content, pos = _halves(learned)
        return Proposal((QueryGroup("match", content, pos, self.reference_points(pos).float().sigmoid(), Match()),))

    def adopt(self, embedding: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        if self.config.learned_anchors:
            return embedding, None, boxes
        content, pos = _halves(embedding)
        return content, pos, boxes

    def decode(self, memory: Memory, groups: Sequence[QueryGroup]) -> DecoderOutput:
        return self.decoder(memory, groups, self.heads)

    def _from_tokens(self, memory: Memory) -> Proposal:
        logits, boxes, valid = self.proposals(memory)
        index = best_tokens(logits[..., 0].detach(), self.config.num_queries)
        reference = take(boxes.detach(), index)
        embedding = self.proposal_norm(self.proposal_embed(sine_embedding(reference, self.dim // 2)))
        content, pos = _halves(embedding)
        if self.config.mixed_selection:
            content = self.query_embed.weight[: content.shape[1]].expand_as(content)
        group = QueryGroup("match", content, pos, reference, Match())
        prediction = EncoderPrediction(DecoderOutput(logits[None], boxes[None]), class_agnostic=True, valid=valid[None])
        return Proposal((group,), prediction)


def _halves(embedding: Tensor) -> tuple[Tensor, Tensor]:
    """Content and position, each (B, N, C), of an embedding (B, N, 2C)."""
    content, pos = embedding.chunk(2, dim=-1)
    return content, pos
