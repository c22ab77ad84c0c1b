"""From a validated spec to a detector."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator
from torch import nn

from codetr.config import Section
from codetr.errors import UserError, suggestion
from codetr.losses.set_loss import CriterionConfig, SetCriterion
from codetr.models.collaborative import Collaborative, CollaborativeConfig
from codetr.models.parts.conv_tower import GROUPS
from codetr.models.parts.positive_sampler import PositiveSampler
from codetr.models.parts.postprocess import PostprocessConfig
from codetr.models.parts.pyramid import PyramidAdapter
from codetr.ops.draws import stream
from codetr.registry import BackboneSpec, BaseSpec, HeadSpec, NeckSpec, find


class ModelSpec(Section):
    """The part of a spec that makes the model."""

    base: BaseSpec
    backbone: BackboneSpec
    neck: NeckSpec
    criterion: CriterionConfig = Field(default_factory=CriterionConfig)
    heads: dict[str, HeadSpec] = Field(default_factory=dict)
    collaborative: CollaborativeConfig = Field(default_factory=CollaborativeConfig)
    postprocess: PostprocessConfig = Field(default_factory=PostprocessConfig)

    @field_validator("heads")
    @classmethod
    def _names_are_free(cls, heads: dict[str, HeadSpec]) -> dict[str, HeadSpec]:
        """A head's name is a module's, a branch's of `codetr eval`, and the prefix of its losses."""
        taken = {"detr", "match", "encoder", "pos", "training", *dir(nn.ModuleDict)}
        for name in heads:
            if not name.isidentifier() or name in taken:
                raise ValueError(
                    f"{name!r} cannot be the name of a head; use letters, digits and _, and none of detr, match, "
                    "encoder, pos (a second ATSS: {atss_2: {name: atss}})"
                )
        return heads

    @model_validator(mode="after")
    def _weights_have_a_head(self) -> ModelSpec:
        """Without heads (`heads={}`) there is nothing to weigh, and the weights stay for when there is."""
        for key in ("loss_weights", "query_weights"):
            for name in getattr(self.collaborative, key) if self.heads else ():
                if name not in self.heads:
                    raise ValueError(
                        f"collaborative.{key}: no head is called {name!r}; {suggestion(name, self.heads, kind='names')}"
                    )
        return self


def build(spec: ModelSpec, num_classes: int, *, pretrained: bool = True) -> Collaborative:
    """An untrained detector.

    num_classes: of the data set. pretrained: False leaves out published backbone weights (a checkpoint will be loaded).
    """
    if num_classes < 1:
        raise UserError(f"a detector needs at least one class, got {num_classes}")
    backbone = find("backbones", spec.backbone.name)(spec.backbone.settings, pretrained=pretrained)
    neck = find("necks", spec.neck.name)(spec.neck.settings, channels=backbone.channels, strides=backbone.strides)
    base = find("bases", spec.base.name)(spec.base.settings, backbone=backbone, neck=neck, num_classes=num_classes)
    wanted = "softmax" if base.classification == "softmax" else "focal"
    if spec.criterion.cost.kind != wanted:
        raise UserError(
            f"base {spec.base.name} classifies by {base.classification}: criterion.cost.kind must be {wanted}, "
            f"not {spec.criterion.cost.kind}"
        )
    if base.classification == "softmax" and spec.criterion.class_loss != "focal":
        raise UserError(f"base {spec.base.name} classifies by softmax: leave criterion.class_loss out")
    if base.classification == "softmax" and spec.criterion.federated:
        raise UserError(
            f"base {spec.base.name} classifies by softmax, whose probabilities depend on all classes: none can be left "
            "out, so leave criterion.federated out"
        )
    config = spec.collaborative
    heads = {}
    if spec.heads:
        if base.dim % GROUPS:
            raise UserError(f"neck.dim is {base.dim}; the group norms of the heads need a multiple of {GROUPS}")
        strides = PyramidAdapter.strides_for(base.strides)
        for name, head in spec.heads.items():
            sampler = PositiveSampler(limit=config.max_positives, fill=config.fill, stream=stream(name))
            heads[name] = find("heads", head.name)(
                head.settings, dim=base.dim, num_classes=num_classes, strides=strides, sampler=sampler
            )
    criterion = SetCriterion(spec.criterion, classification=base.classification)
    return Collaborative(base, heads, config=config, criterion=criterion, postprocess=spec.postprocess)
