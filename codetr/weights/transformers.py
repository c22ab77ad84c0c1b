"""Weights of Hugging Face transformers models into ours."""

from __future__ import annotations

from typing import Any

from torch import nn

from codetr.errors import UserError
from codetr.models.build import ModelSpec, build
from codetr.models.collaborative import Collaborative
from codetr.weights.conversion import check_against, convert_state
from codetr.weights.transformers_rules.conditional_detr import CONDITIONAL_DETR
from codetr.weights.transformers_rules.dab_detr import DAB_DETR
from codetr.weights.transformers_rules.deformable_detr import DEFORMABLE_DETR
from codetr.weights.transformers_rules.detr import DETR
from codetr.weights.transformers_rules.family import Family

# By the `model_type` of their configuration.
_FAMILIES: dict[str, Family] = {
    "conditional_detr": CONDITIONAL_DETR,
    "dab-detr": DAB_DETR,
    "deformable_detr": DEFORMABLE_DETR,
    "detr": DETR,
}


def from_transformers(model: nn.Module) -> Collaborative:
    """A detector of ours (no heads) with the configuration and a copy of the weights of a transformers model.

    model: `DetrForObjectDetection`, `ConditionalDetrForObjectDetection`, `DabDetrForObjectDetection`, or
    `DeformableDetrForObjectDetection` in any of its forms, with a timm ResNet backbone. Shared prediction heads come
    out shared where the architecture shares them. The result is in evaluation mode.

    Raises: UserError for another kind of model or backbone.
    """
    config: Any = model.config
    family = _FAMILIES.get(config.model_type)
    if family is None:
        raise UserError(f"from_transformers reads {', '.join(sorted(_FAMILIES))} models, got {config.model_type!r}")
    spec = ModelSpec.model_validate(family.model(config))
    detector = build(spec, num_classes=config.num_labels, pretrained=False)
    conversion = convert_state(model.state_dict(), family.rules(config))
    state = check_against(conversion, detector.state_dict()).state
    detector.load_state_dict(state)
    return detector.eval()
