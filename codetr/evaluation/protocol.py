"""Which rules a data set is scored by."""

from __future__ import annotations

from collections.abc import Sequence

from codetr.evaluation.config import EvalConfig
from codetr.evaluation.evaluators import Protocol, Rules
from codetr.evaluation.results import IouType


def protocol_for(settings: EvalConfig, *, federated: bool) -> Protocol:
    """As set, or LVIS's rules where the annotations are federated and COCO's elsewhere."""
    if settings.protocol != "auto":
        return settings.protocol
    return "lvis" if federated else "coco"


def rules_for(
    settings: EvalConfig, kinds: Sequence[IouType], *, federated: bool, fixed: bool = False
) -> tuple[Rules, ...]:
    """Rules for boxes, masks or both. Raises: UserError for settings that exclude each other."""
    protocol = protocol_for(settings, federated=federated)
    return tuple(Rules(kind, max_detections=settings.max_detections, protocol=protocol, fixed=fixed) for kind in kinds)
