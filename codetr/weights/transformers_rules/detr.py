"""DETR: `DetrForObjectDetection`."""

from __future__ import annotations

from typing import Any

from codetr.weights.conversion import Rule
from codetr.weights.transformers_rules.family import Family, dense_model, dense_rules, fused_rules


def _model(config: Any) -> dict[str, Any]:
    return dense_model(config, base="detr", classification="softmax")


def _rules(config: Any) -> list[Rule]:
    return [
        *dense_rules(),
        *fused_rules("decoder", "self_attn", "self_attention"),
        *fused_rules("decoder", "encoder_attn", "cross_attention"),
    ]


DETR = Family(_model, _rules)
