"""Collaborative hybrid assignments training (paper, Eq. 2 to 6): a base detector and K one-to-many heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal, Protocol

from pydantic import Field
from torch import Tensor, nn

from codetr.config import Section
from codetr.errors import UserError
from codetr.losses.set_loss import SetCriterion
from codetr.models.bases.contract import Base
from codetr.models.heads.contract import Head
from codetr.models.parts.positive_queries import PositiveQueries
from codetr.models.parts.postprocess import PostprocessConfig, top_detections
from codetr.models.parts.pyramid import PyramidAdapter
from codetr.structures import Detections, ImageBatch, Memory, Positives, Pyramid, QueryGroup, Targets


class CollaborativeConfig(Section):
    """How the heads take part. Defaults: the paper's."""

    lambda_1: float = Field(1.0, ge=0, description="weight of the decoder losses of positive queries (Eq. 6)")
    lambda_2: float = Field(2.0, ge=0, description="weight of the heads' losses, once per decoder layer (Eq. 6)")
    loss_weights: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {}, description="factors on lambda_2 for single heads by name, such as {atss: 0.5}; 1 for the others"
    )
    query_weights: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {}, description="factors on lambda_1 for the positive queries of single heads; 1 for the others"
    )
    positive_queries: bool = Field(True, description="feed the heads' positives into the decoder (Eq. 4)")
    fill: Literal["mask", "negatives"] = Field("mask", description="short images: masked, or random negatives")
    max_positives: int = Field(300, gt=0, description="at most so many positives of a head and image, at random")
    use_features: bool = Field(True, description="feature term of Eq. 4 (off in the published Co-DINO recipes)")


class Observer(Protocol):
    """Looks on while a step's losses are computed.

    Every branch reads the encoder's output through tensors of its own, equal to those of the other branches, so that
    hooks on them see what this branch alone sends back.
    """

    def decoder_reads(self, memory: Memory) -> None:
        """The encoder's output as the decoder and its proposals read it."""

    def head_reads(self, name: str, pyramid: Pyramid, positives: Positives) -> None:
        """The pyramid as this head read it, and the positives that it found there."""


class Collaborative(nn.Module):
    """A base with K >= 0 heads; K = 0 is the plain base. Knows no variant and no head.

    `forward` is one training step's losses; `predict` is inference, where adapter, heads and positive queries take no
    part. observer: told of what `forward` does, or None.
    """

    observer: Observer | None = None

    def __init__(
        self,
        base: Base,
        heads: Mapping[str, Head],
        *,
        config: CollaborativeConfig,
        criterion: SetCriterion,
        postprocess: PostprocessConfig | None = None,
    ) -> None:
        super().__init__()
        self.config, self.criterion = config, criterion
        self.postprocess = PostprocessConfig() if postprocess is None else postprocess
        self.base = base
        self.adapter = PyramidAdapter(base.dim, base.strides) if heads else None
        self.heads = nn.ModuleDict(dict(heads))
        self.positive_queries = nn.ModuleDict(
            {
                name: PositiveQueries(base.dim, query_width=base.query_width, use_features=config.use_features)
                for name in (heads if config.positive_queries else ())
            }
        )

    @property
    def num_classes(self) -> int:
        return self.base.num_classes

    def forward(self, images: ImageBatch, targets: Targets) -> dict[str, Tensor]:
        """Weighted scalar losses by name; the step's loss is their sum (Eq. 6)."""
        encoded = self.base.encode(images)
        memory = replace(encoded, tokens=_alias(encoded.tokens))
        if self.observer is not None:
            self.observer.decoder_reads(memory)
        proposal = self.base.propose(memory, targets)
        groups = list(proposal.groups)
        losses: dict[str, Tensor] = {}
        if self.adapter is not None:
            pyramid = self.adapter(encoded)
            for name, head in self.heads.items():
                own = replace(pyramid, maps=tuple(_alias(feature) for feature in pyramid.maps))
                output = head(own, targets)
                if self.observer is not None:
                    self.observer.head_reads(name, own, output.positives)
                losses |= self._head_losses(name, output.losses)
                if name in self.positive_queries:
                    groups.append(self._positive_group(name, output.positives, images.sizes))
        parts = self.base.decode(memory, groups).split(groups)
        for group, part in zip(groups, parts, strict=True):
            losses |= self.criterion.group(group, part, targets, images.sizes)
        if proposal.encoder is not None:
            losses |= self.criterion.encoder(proposal.encoder, targets, images.sizes)
        return losses

    def predict(self, images: ImageBatch, *, branch: str = "detr", max_detections: int = 100) -> list[Detections]:
        """Detections of each image, in pixels of the images in the batch, highest score first.

        branch: `detr` for the decoder (no NMS unless `postprocess` has one), or the name of a head, evaluated on its
        own (paper Table 11).
        Raises: UserError for a branch that the model does not have.
        """
        memory = self.base.encode(images)
        if branch == "detr":
            output = self.base.decode(memory, self.base.propose(memory, None).groups)
            return top_detections(
                output,
                images.sizes,
                max_detections=max_detections,
                classification=self.base.classification,
                config=self.postprocess,
            )
        if self.adapter is None or branch not in self.heads:
            raise UserError(f"no branch {branch!r} in this model; it has {', '.join(['detr', *self.heads])}")
        head = self.heads[branch]
        assert isinstance(head, Head)
        return [d.first(max_detections) for d in head.predict(self.adapter(memory))]

    def _head_losses(self, name: str, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        factor = self.config.lambda_2 * self.config.loss_weights.get(name, 1.0) * self.base.num_layers
        return {f"{name}.{term}": factor * value for term, value in losses.items()}

    def _positive_group(self, name: str, positives: Positives, sizes: Tensor) -> QueryGroup:
        embedding, boxes, supervision = self.positive_queries[name](positives, sizes)
        content, pos, reference = self.base.adopt(embedding, boxes)
        weight = self.config.lambda_1 * self.config.query_weights.get(name, 1.0)
        return QueryGroup(f"pos.{name}", content, pos, reference, supervision, valid=positives.valid, weight=weight)


def _alias(tensor: Tensor) -> Tensor:
    """The same values as another tensor: its gradient is that of its own readers. Made in every step, looked on or
    not, so that gradients are always added in the same order."""
    return tensor.view_as(tensor)
